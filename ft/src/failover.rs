//! What a failover consists of: a suspicion, a claim at the fence, phases with their durations.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fence::{Claim, ClaimKind, Fence, Verdict};
use crate::time::{Generation, HostTime, NS_PER_MS};

/// Time between two tries at a fence that cannot be asked.
const RETRY_NS: u64 = 20 * NS_PER_MS;

/// Why a peer is suspected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Suspicion {
    /// The connection was closed.
    LinkClosed,
    /// Nothing was heard for this many milliseconds.
    Silent(u64),
    /// It sent what no peer would.
    Protocol(String),
    /// It said that it gives up.
    PeerGaveUp(String),
    /// It is alive but makes no progress.
    Stalled,
    /// It has diverged in more pages than a repair may have.
    Unrepairable(u64),
    /// An epoch has written more pages than a delta may have.
    DeltaTooLarge(u64),
    /// This side cannot read a part of its machine, and the peer may not have all of it.
    Unreadable(String),
    /// Its frames carry a later generation than this side's.
    Superseded(Generation),
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkClosed => write!(f, "the connection was closed"),
            Self::Silent(ms) => write!(f, "nothing was heard for {ms} ms"),
            Self::Protocol(text) => write!(f, "protocol error: {text}"),
            Self::PeerGaveUp(text) => write!(f, "the peer gave up: {text}"),
            Self::Stalled => write!(f, "the peer makes no progress"),
            Self::Unrepairable(pages) => write!(f, "a repair would take {pages} pages"),
            Self::DeltaTooLarge(pages) => write!(f, "a delta would take {pages} pages"),
            Self::Unreadable(text) => write!(f, "a part of the machine cannot be read: {text}"),
            Self::Superseded(generation) => write!(f, "the peer is at generation {generation}"),
        }
    }
}

/// A claim at a fence, repeated until it is settled.
#[derive(Clone, Debug)]
pub struct FenceAttempt {
    from: Generation,
    kind: ClaimKind,
    over_relief: bool,
    next_try: HostTime,
    error: Option<String>,
}

/// How a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Won: the generation is this side's.
    Won(Generation),
    /// Lost to someone else.
    Lost(Claim),
    /// Not settled; to be asked again at this time.
    Waiting(HostTime),
    /// The fence cannot be asked, for the first time.
    Unavailable(String),
}

impl FenceAttempt {
    /// Claims the generation after `latest` for a primary that is to get a backup.
    #[must_use]
    pub fn to_begin(latest: Generation, now: HostTime) -> Self {
        Self {
            from: latest,
            kind: ClaimKind::Live,
            over_relief: false,
            next_try: now,
            error: None,
        }
    }

    /// Claims the generation after the pair's for a backup that its primary wants to relieve it.
    #[must_use]
    pub fn to_relieve(pair: Generation, now: HostTime) -> Self {
        Self {
            kind: ClaimKind::Relief,
            ..Self::to_begin(pair, now)
        }
    }

    /// Claims the generation after the pair's for whichever side goes on without the other.
    ///
    /// If that is a relief, be it the other's or one of this side's own that came to nothing, the
    /// one after it is claimed. Whoever holds the relief has to claim that too before it acts
    /// without this side, which has acknowledged nothing of the relief's generation.
    #[must_use]
    pub fn to_go_alone(pair: Generation, now: HostTime) -> Self {
        Self {
            over_relief: true,
            ..Self::to_begin(pair, now)
        }
    }

    /// Asks the fence, if it is time to.
    pub fn poll(&mut self, fence: &mut dyn Fence, owner: &str, now: HostTime) -> Progress {
        if now < self.next_try {
            return Progress::Waiting(self.next_try);
        }
        self.next_try = now.plus(RETRY_NS);
        let claim = Claim {
            generation: self.from.plus(1),
            owner: owner.to_owned(),
            kind: self.kind,
        };
        match fence.claim(self.from, &claim) {
            Ok(Verdict::Won) => Progress::Won(claim.generation),
            Ok(Verdict::Lost(other)) if self.goes_over(&other) => {
                (self.from, self.over_relief) = (other.generation, false);
                self.next_try = now;
                self.poll(fence, owner, now)
            }
            Ok(Verdict::Lost(other)) => Progress::Lost(other),
            Ok(Verdict::Pending) => {
                self.next_try = now.plus(NS_PER_MS);
                Progress::Waiting(self.next_try)
            }
            Err(error) => {
                let first = self.error.is_none();
                let text = error.to_string();
                self.error = Some(text.clone());
                if first {
                    Progress::Unavailable(text)
                } else {
                    Progress::Waiting(self.next_try)
                }
            }
        }
    }

    /// Whether a claim that stands in the way does so only for now.
    fn goes_over(&self, other: &Claim) -> bool {
        self.over_relief && other.kind == ClaimKind::Relief && other.generation == self.from.plus(1)
    }

    /// Why the fence could not be asked when it was last tried.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// When the fence will be asked next.
    #[must_use]
    pub fn next_try(&self) -> HostTime {
        self.next_try
    }
}

/// A failover that took place, with the duration of each phase in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverPhases {
    /// Whether an operator asked for it.
    pub planned: bool,
    /// What made the peer suspect.
    pub cause: String,
    /// From the last sign of life to the suspicion.
    pub detect_ms: f64,
    /// From the suspicion to the won fence.
    pub fence_ms: f64,
    /// From there to the end of the log.
    pub drain_ms: f64,
    /// From there to the first moment at which outputs may leave.
    pub live_ms: f64,
    /// All of it.
    pub total_ms: f64,
    /// Whether the backup had diverged and could not be repaired any more.
    pub degraded: bool,
}

/// The moments of a failover, while it is under way.
#[derive(Clone, Debug)]
pub struct Promotion {
    /// What made the peer suspect; none if an operator asked for it.
    pub cause: Option<Suspicion>,
    /// Last sign of life.
    pub last_heard: HostTime,
    /// When the suspicion arose.
    pub suspected: HostTime,
    /// Until when the peer is given precedence at the fence.
    pub yield_until: HostTime,
    /// The peer may let outputs go until then.
    pub lease_until: HostTime,
    /// The claim.
    pub attempt: FenceAttempt,
    /// When the fence was won.
    pub won: Option<HostTime>,
    /// When the log was replayed to its end.
    pub drained: Option<HostTime>,
    /// Whether the log could not be followed to its end.
    pub degraded: bool,
}

impl Promotion {
    /// The phases, once the machine is live at `now`.
    #[must_use]
    pub fn phases(&self, now: HostTime) -> FailoverPhases {
        let won = self.won.unwrap_or(now);
        let drained = self.drained.unwrap_or(now);
        FailoverPhases {
            planned: self.cause.is_none(),
            cause: match &self.cause {
                Some(cause) => cause.to_string(),
                None => "planned".into(),
            },
            detect_ms: ms(self.last_heard, self.suspected),
            fence_ms: ms(self.suspected, won),
            drain_ms: ms(won, drained),
            live_ms: ms(drained, now),
            total_ms: ms(self.last_heard, now),
            degraded: self.degraded,
        }
    }
}

/// Milliseconds between two moments.
fn ms(from: HostTime, to: HostTime) -> f64 {
    to.since(from) as f64 / NS_PER_MS as f64
}
