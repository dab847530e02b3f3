//! The primary: executes the machine for real, alone or with a backup.
//!
//! ```text
//!               protect()            HelloAck          pages sent
//!   alone ──▶ claiming ──▶ greeting ──▶ cloning ──▶ protected ──▶ draining ──▶ handed over
//!     ▲  ▲        │           │           │           │   │  ▲        │              │
//!     │  └────────┴───────────┴───────────┘           │   │  └────────┴─── Declined ─┤
//!     │               start failed                    │   └─▶ stopping      TakenOver│
//!     │                                     suspicion │         │                    ▼
//!     ├──────────────────── won ────── fencing ◀──────┘         │                 backup
//!     ├───────────────────────────────────┼───────── StopAck ───┘
//!     └                                   └─ lost ──▶ ended
//! ```
//!
//! All of it happens in [`Primary::drive`], one bounded step at a time.

mod clone;
mod compare;
mod delta;
mod lag_control;
mod lateness;
mod messages;
mod protection;
mod recording;
mod repair;
mod report;
mod run;
mod takeover;
mod unreadable;

use crate::backup::Adoption;
use crate::clock::ClockFollower;
use crate::divergence::DivergenceReport;
use crate::event::Output;
use crate::failover::{FenceAttempt, Progress};
use crate::fence::{Fence, FenceError};
use crate::inbox::Inbox;
use crate::link::Link;
use crate::log::LogWriter;
use crate::machine::Machine;
use crate::mode::{ModeChoice, ModeError};
use crate::output::{OutputGate, OutputLedger, ReleasePermit};
use crate::parameters::{ParameterError, Parameters};
use crate::protocol::{Base, Hello, MachineFacts, Message, PROTOCOL_VERSION};
use crate::record::{Pace, Recorder};
use crate::status::{CloneSummary, End, FtEvent, History, Next};
use crate::throttle::SliceThrottle;
use crate::time::{Generation, HostTime, NS_PER_MS};
use delta::Closing;
use protection::{Phase, Protection};

pub use recording::{LogSink, RecordError};
pub use takeover::StateError;

/// Executes a machine, alone or with a backup.
pub struct Primary {
    owner: String,
    pace: Pace,
    recorder: Recorder,
    gate: OutputGate,
    generation: Generation,
    protection: Option<Box<Protection>>,
    parting: Option<Link>,
    sink: Option<(LogWriter<LogSink>, u32)>,
    pausing: Option<(HostTime, CloneSummary)>,
    permit_wanted: bool,
    /// Slows the guest while it is copied without being protected.
    throttle: SliceThrottle,
    paused: bool,
    powered_off: bool,
    end: Option<End>,
    events: Vec<FtEvent>,
    demotion: Option<Demotion>,
    history: History,
}

/// What a primary that becomes a backup hands on.
pub(crate) struct Demotion {
    pub(crate) link: Link,
    pub(crate) link_closed: bool,
    pub(crate) parameters: Parameters,
    pub(crate) fence: Box<dyn Fence>,
    pub(crate) generation: Generation,
    pub(crate) base: Base,
    /// How far the guest's clock should be ahead of this host's.
    pub(crate) clock_offset_ns: i128,
}

/// What a backup that becomes a primary hands on.
pub(crate) struct Promoted {
    pub(crate) owner: String,
    pub(crate) recorder: Recorder,
    pub(crate) gate: OutputGate,
    pub(crate) generation: Generation,
    pub(crate) history: History,
    pub(crate) events: Vec<FtEvent>,
}

/// Why protection cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is one already, or the machine cannot be protected as it is.
    #[error(transparent)]
    State(#[from] StateError),
    /// A setting is out of range.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The mode that was asked for is not possible.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// The fence cannot be asked.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The fence can be asked but not written.
    #[error("{0}")]
    Unavailable(String),
    /// Someone else has claimed the generation.
    #[error("generation {generation} was claimed by {owner} at the same moment")]
    Claimed {
        /// Which generation.
        generation: Generation,
        /// By whom.
        owner: String,
    },
}

impl Primary {
    /// A primary of a machine that starts now. `owner` names this side at fences; no two sides may
    /// have the same.
    #[must_use]
    pub fn new(owner: String, pace: Pace, machine: &dyn Machine, now: HostTime) -> Self {
        let clock = ClockFollower::new(now, machine.virtual_ns());
        let recorder = Recorder::new(clock, OutputLedger::default(), now);
        let promoted = Promoted {
            owner,
            recorder,
            gate: OutputGate::new(0),
            generation: Generation(0),
            history: History::default(),
            events: Vec::new(),
        };
        Self::promoted(promoted, pace)
    }

    /// A primary that was a backup.
    pub(crate) fn promoted(promoted: Promoted, pace: Pace) -> Self {
        let Promoted {
            owner,
            recorder,
            gate,
            generation,
            history,
            events,
        } = promoted;
        Self {
            owner,
            pace,
            recorder,
            gate,
            generation,
            protection: None,
            parting: None,
            sink: None,
            pausing: None,
            permit_wanted: false,
            throttle: SliceThrottle::default(),
            paused: false,
            powered_off: false,
            end: None,
            events,
            demotion: None,
            history,
        }
    }

    /// Sets how long the machine executes at a time.
    pub(crate) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Begins to protect the machine with the backup at the other end of a fresh connection.
    /// `config` is handed to it as it is.
    ///
    /// # Errors
    /// If it cannot be begun; the machine goes on as it was.
    pub fn protect(
        &mut self,
        machine: &dyn Machine,
        mut parameters: Parameters,
        mut fence: Box<dyn Fence>,
        config: Vec<u8>,
        now: HostTime,
    ) -> Result<(), StartError> {
        let state = self.state_name();
        if self.protection.is_some() || self.sink.is_some() || state != "unprotected" {
            let state = if self.sink.is_some() {
                "recording"
            } else {
                state
            };
            return Err(StateError {
                request: "start",
                state: state.into(),
            }
            .into());
        }
        parameters.validate()?;
        let ModeChoice { mode, reason } = parameters.mode.choose(machine)?;
        parameters.mode = mode;
        let claim = fence.current()?;
        let latest = claim
            .as_ref()
            .map_or(Generation(0), |claim| claim.generation);
        let ours =
            claim.is_some_and(|claim| claim.owner == self.owner) && latest == self.generation;
        let mut attempt = FenceAttempt::to_begin(latest.max(self.generation), now);
        let progress = match ours {
            true => Progress::Won(self.generation),
            false => attempt.poll(fence.as_mut(), &self.owner, now),
        };
        if !fence.is_shared() {
            self.events.push(FtEvent::Unfenced);
        }
        let facts = MachineFacts::of(machine);
        let phase = Phase::Claiming(attempt);
        let mut protection = Protection::new(parameters, fence, facts, config, phase, now);
        protection.mode_reason = reason;
        self.parting = None;
        match progress {
            Progress::Won(generation) => {
                self.generation = generation;
                self.protection = Some(Box::new(protection));
                self.greet(now);
            }
            Progress::Waiting(_) => self.protection = Some(Box::new(protection)),
            Progress::Unavailable(error) => return Err(StartError::Unavailable(error)),
            Progress::Lost(claim) => {
                let (generation, owner) = (claim.generation, claim.owner);
                return Err(StartError::Claimed { generation, owner });
            }
        }
        Ok(())
    }

    /// Stops executing, or goes on. Guest time stands still in between.
    pub fn set_paused(&mut self, machine: &dyn Machine, paused: bool, now: HostTime) {
        if self.paused && !paused {
            self.recorder.resume_clock(machine, now);
        }
        self.paused = paused;
    }

    /// Halves the guest's share of time, for a copy that cannot keep up; false if it is as small as
    /// it gets. A live clone looks after that by itself.
    pub fn slow_down(&mut self) -> bool {
        self.throttle.raise()
    }

    /// Ends what [`Self::slow_down`] has begun.
    pub fn speed_up(&mut self) {
        self.throttle = SliceThrottle::default();
    }

    /// Takes bytes that came from the backup. Read the clock after taking them off the connection.
    pub fn on_bytes(&mut self, bytes: &[u8], now: HostTime) {
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.link.receive(bytes);
            protection.detector.heard(now);
        }
    }

    /// The connection to the backup was closed by the other side or failed.
    pub fn on_link_closed(&mut self) {
        self.parting = None;
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.link_closed = true;
        }
    }

    /// Takes at most `max` bytes to be sent to the backup.
    pub fn poll_transmit(&mut self, max: usize) -> Option<Vec<u8>> {
        if let Some(bytes) = self.parting.as_mut().and_then(|link| link.take_wire(max)) {
            return Some(bytes);
        }
        self.protection
            .as_deref_mut()
            .and_then(|protection| protection.link.take_wire(max))
    }

    /// Whether nothing is under way that decides whether this side goes on.
    #[must_use]
    pub fn is_undisputed(&self) -> bool {
        let phase = self.protection.as_deref().map(|p| &p.phase);
        self.end.is_none() && !matches!(phase, Some(Phase::Fencing(..) | Phase::HandedOver))
    }

    /// Whether the connection is still of use. If not, close it once there is nothing to transmit.
    #[must_use]
    pub fn wants_link(&self) -> bool {
        self.protection
            .as_deref()
            .is_some_and(|protection| !protection.link.is_closed())
    }

    /// Takes outputs that may leave at `now`, which has to be read just before they do.
    pub fn take_released(&mut self, now: HostTime) -> Vec<Output> {
        if self.end.is_some() {
            return Vec::new();
        }
        let permit = match self.protection.as_deref() {
            None => Some(ReleasePermit::alone(now)),
            Some(protection) => match protection.phase {
                Phase::Claiming(_) | Phase::Greeting(_) | Phase::Cloning(_) => {
                    Some(ReleasePermit::alone(now))
                }
                Phase::Protected | Phase::Draining => protection.lease.permit(now),
                Phase::HandedOver | Phase::Stopping | Phase::Fencing(..) => None,
            },
        };
        let Some(permit) = permit else {
            return Vec::new();
        };
        let released = self.gate.release(permit);
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.tell_released(self.gate.released(), self.generation, now);
        }
        released
            .into_iter()
            .map(|numbered| numbered.output)
            .collect()
    }

    /// Until when what was released may still be on its way: a host side that has to wait for
    /// something may go on before this time, read anew just before it does, and not after it. It
    /// moves on with [`Self::drive`]; it goes back only when this side can do no harm.
    #[must_use]
    pub fn permitted_until(&self) -> HostTime {
        let (always, never) = (HostTime(u64::MAX), HostTime(0));
        if matches!(self.end, Some(End::Fenced(_))) {
            return never;
        }
        let Some(protection) = self.protection.as_deref() else {
            return always;
        };
        match protection.phase {
            Phase::Claiming(_) | Phase::Greeting(_) | Phase::Cloning(_) => always,
            Phase::Protected | Phase::Draining => protection.lease.until(),
            Phase::HandedOver | Phase::Stopping | Phase::Fencing(..) => never,
        }
    }

    /// Has the lease renewed, once, for something released that has not left. It is renewed for
    /// outputs that wait by itself.
    pub fn want_permit(&mut self) {
        self.permit_wanted = true;
    }

    /// Whether outputs wait that could leave if the clock were read anew.
    #[must_use]
    pub fn has_ready_outputs(&self) -> bool {
        self.gate.is_ready()
    }

    /// One bounded step: looks after the backup, executes a slice, sends what has to be sent.
    /// Afterwards take what [`Self::poll_transmit`] and [`Self::take_released`] have.
    pub fn drive(&mut self, machine: &mut dyn Machine, inbox: &mut Inbox, now: HostTime) -> Next {
        if let Some(end) = &self.end {
            return Next::Ended(end.clone());
        }
        self.note_pause(now);
        let more_to_clone = self.attend(machine, now);
        if self.end.is_none() && self.demotion.is_none() {
            if self.close_by_delta(machine, now) {
                self.conclude(machine, None, now);
                return self.next(None, true, now);
            }
            let outcome = self.execute(machine, inbox, now);
            self.conclude(machine, outcome.as_ref(), now);
            return self.next(outcome, more_to_clone, now);
        }
        match &self.end {
            Some(end) => Next::Ended(end.clone()),
            None => Next::Run,
        }
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Why it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Takes what has happened since the last call.
    pub fn take_events(&mut self) -> Vec<FtEvent> {
        std::mem::take(&mut self.events)
    }

    /// The last divergence of a backup.
    #[must_use]
    pub fn last_divergence(&self) -> Option<&DivergenceReport> {
        self.history.last_divergence.as_ref()
    }

    /// What becomes of a primary whose backup has taken over as planned.
    pub(crate) fn take_demotion(&mut self) -> Option<(Demotion, History, Vec<FtEvent>)> {
        let demotion = self.demotion.take()?;
        Some((
            demotion,
            self.history.clone(),
            std::mem::take(&mut self.events),
        ))
    }

    /// Adopts a backup that has the same state already.
    pub(crate) fn adopt(&mut self, machine: &dyn Machine, adoption: Adoption, now: HostTime) {
        let Adoption {
            link,
            link_closed,
            parameters,
            fence,
        } = adoption;
        let facts = MachineFacts::of(machine);
        let mut protection =
            Protection::new(parameters, fence, facts, Vec::new(), Phase::Protected, now);
        (protection.link, protection.link_closed) = (link, link_closed);
        let base = Base {
            epoch: crate::time::Epoch(0),
            at: machine.now(),
            position: crate::time::LogPosition(0),
            point: self.recorder.point(),
            ledger: self.recorder.ledger(),
            held: Vec::new(),
        };
        let coder = crate::log::EntryCoder::new(base.at, base.point);
        protection.log = Some(protection::OutgoingLog::new(coder, base.at, now));
        let mode = protection.parameters.mode;
        protection.mode_reason = ModeChoice::agreed(mode).reason;
        protection.closing = Closing::of(mode, machine.sections(), base.ledger.count, now);
        protection.released_told = self.gate.released();
        self.recorder
            .restart_epochs(protection.parameters.epoch_ms, now);
        let taken_over = Message::TakenOver(Box::new(base));
        protection.link.send(&taken_over, self.generation, now);
        self.protection = Some(Box::new(protection));
    }

    /// Opens the conversation with the backup.
    fn greet(&mut self, now: HostTime) {
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let hello = Hello {
            version: PROTOCOL_VERSION,
            facts: protection.facts.clone(),
            generation: self.generation,
            parameters: protection.parameters.clone(),
            config: std::mem::take(&mut protection.config),
        };
        protection
            .link
            .send(&Message::Hello(Box::new(hello)), self.generation, now);
        protection.phase = Phase::Greeting(now);
    }

    /// Lets the backup go; what was queued for it may still be taken.
    fn part(&mut self) {
        if let Some(protection) = self.protection.take() {
            let mut link = protection.link;
            link.close();
            self.parting = (!protection.link_closed).then_some(link);
        }
    }

    /// Measures how long the guest stood still for a clone.
    fn note_pause(&mut self, now: HostTime) {
        if let Some((since, mut clone)) = self.pausing.take() {
            clone.pause_ms = now.since(since) as f64 / NS_PER_MS as f64;
            clone.total_ms += clone.pause_ms;
            self.history.last_clone = Some(clone);
            if let Some(protection) = self.protection.as_deref_mut() {
                protection.unconfirmed = Some(clone);
            }
        }
        let protection = self.protection.as_deref_mut();
        if let Some(sender) = protection.and_then(Protection::deltas_mut) {
            sender.note_resumed(now);
        }
    }

    /// The backup has acknowledged something, so it has the whole clone: from here on it can take
    /// over, and protection is told of.
    fn confirm_clone(&mut self) {
        let protection = self.protection.as_deref_mut();
        if let Some(clone) = protection.and_then(|protection| protection.unconfirmed.take()) {
            self.events.push(FtEvent::Protected {
                generation: self.generation,
                clone,
            });
        }
    }

    /// What this side is doing, in a word or two.
    pub(crate) fn state_name(&self) -> &'static str {
        match (&self.end, self.protection.as_deref()) {
            (Some(End::PoweredOff), _) => "powered off",
            (Some(End::Fenced(_)), _) => "fenced",
            (Some(End::Stopped), _) => "stopped",
            (Some(End::Failed(_)), _) => "failed",
            (None, Some(protection)) => protection.state_name(),
            (None, None) => "unprotected",
        }
    }
}
