//! The backup: replays what the primary records, and takes its place when it must.
//!
//! ```text
//!   listening ─Hello─▶ greeted ─accept()─▶ cloning ─CloneDone─▶ replaying ◀─repair─ diverged
//!                                                                │  │  └──────────────▲
//!                                             Failover, verified │  │ suspicion        
//!                                                                ▼  ▼
//!                                          fence ─▶ drain ─▶ lease has run out ─▶ primary
//!                                            └─ lost ─▶ ended
//! ```
//!
//! It acknowledges nothing once it has turned to taking over, and goes live only when the lease
//! that its last acknowledgement gave the primary has run out: so even a primary that is alive,
//! but cut off or stopped, lets nothing go any more.

mod delta;
mod inbound;
mod promote;
mod replay_queue;
mod work_queue;

use std::collections::VecDeque;

use crate::failover::{Promotion, Suspicion};
use crate::fault_detector::{CLONE_PATIENCE, FaultDetector};
use crate::fence::{Fence, FenceError};
use crate::link::Link;
use crate::log::EntryCoder;
use crate::machine::{Machine, Section};
use crate::mode::{Mode, ModeError};
use crate::output::{OutputGate, OutputLedger, ReleasePolicy};
use crate::parameters::{ParameterError, Parameters};
use crate::primary::{Demotion, Promoted};
use crate::protocol::hello::refuse_unless_equal;
use crate::protocol::{
    Ack, Base, Hello, HelloAck, MachineFacts, Message, PROTOCOL_VERSION, Refusal,
};
use crate::replay::{ReplayBase, Replayer};
use crate::section_stage::SectionStage;
use crate::status::{
    End, FtEvent, FtStatus, History, Lag, LogTraffic, Next, OutputStatus, Positions, Role, Throttle,
};
use crate::stray::StrayPages;
use crate::time::{Generation, HostTime, LogPosition, NS_PER_MS};
use delta::DeltaStage;
use promote::ClockOffset;
use work_queue::WorkQueue;

/// Timeout before the handshake has set one.
const GREETING_TIMEOUT_MS: u64 = 10_000;
/// Longest time that an acknowledgement waits when nothing depends on it.
const ACK_NS: u64 = 4 * NS_PER_MS;

/// Bytes that may wait for the machine before no more are read.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// Bytes of log that may come before a repair does: more than a primary has under way.
const MAX_AWAITING_BYTES: usize = 128 << 20;
/// Items that may wait for the machine before no more are read: far more than a primary's window.
const MAX_QUEUED_ITEMS: usize = 1 << 20;

/// Where a backup stands.
#[derive(Debug)]
enum Phase {
    /// No primary has opened yet.
    Listening,
    /// A primary has opened; the machine is being built.
    Greeted,
    /// The machine is being copied.
    Cloning,
    /// The log is being replayed.
    Replaying,
    /// The state is not the primary's; a repair is on its way.
    Diverged,
    /// This side is about to take over.
    Promoting(Box<Promotion>),
}

/// Replays a primary's log.
pub struct Backup {
    owner: String,
    link: Link,
    link_closed: bool,
    phase: Phase,
    hello: Option<Box<Hello>>,
    parameters: Parameters,
    facts: Option<MachineFacts>,
    fence: Option<Box<dyn Fence>>,
    generation: Generation,
    detector: FaultDetector,
    queue: WorkQueue,
    staged_pages: VecDeque<Vec<u8>>,
    staged_bytes: usize,
    staged_sections: SectionStage,
    staged_delta: DeltaStage,
    /// The sections as they are, where a delta brings those that have changed.
    sections: Vec<Section>,
    /// Outputs up to the last end of an epoch that has come, where a delta brings the next ones.
    ledger: OutputLedger,
    decoder: Option<EntryCoder>,
    replayer: Option<Replayer>,
    /// The sections that were reported to the primary; a repair brings those that differ.
    reported: Vec<Section>,
    gate: OutputGate,
    released: u64,
    received: LogPosition,
    replayed: LogPosition,
    verified: LogPosition,
    epochs_verified: u64,
    told: Ack,
    told_at: Option<HostTime>,
    ack_now: bool,
    offset: ClockOffset,
    strays: StrayPages,
    end: Option<End>,
    events: Vec<FtEvent>,
    history: History,
}

/// Why a primary's opening cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No primary has opened, or it was accepted already.
    #[error("there is no primary to accept while the state is {0}")]
    State(&'static str),
    /// The machines or the fences do not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A setting is out of range.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// This side cannot follow as the primary wants it to.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// The fence cannot be asked.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

impl Backup {
    /// A backup that waits for a primary to open. `owner` names this side at fences; no two sides
    /// may have the same.
    #[must_use]
    pub fn new(owner: String, now: HostTime) -> Self {
        Self {
            owner,
            link: Link::new(now),
            link_closed: false,
            phase: Phase::Listening,
            hello: None,
            parameters: Parameters::default(),
            facts: None,
            fence: None,
            generation: Generation(0),
            detector: FaultDetector::new(GREETING_TIMEOUT_MS, now),
            queue: WorkQueue::default(),
            staged_pages: VecDeque::new(),
            staged_bytes: 0,
            staged_sections: SectionStage::default(),
            staged_delta: DeltaStage::default(),
            sections: Vec::new(),
            ledger: OutputLedger::default(),
            decoder: None,
            replayer: None,
            reported: Vec::new(),
            gate: OutputGate::new(0),
            released: 0,
            received: LogPosition(0),
            replayed: LogPosition(0),
            verified: LogPosition(0),
            epochs_verified: 0,
            told: Ack::default(),
            told_at: None,
            ack_now: false,
            offset: ClockOffset::default(),
            strays: StrayPages::default(),
            end: None,
            events: Vec::new(),
            history: History::default(),
        }
    }

    /// A backup that was the primary until a planned failover.
    pub(crate) fn demoted(
        owner: String,
        machine: &dyn Machine,
        demotion: Demotion,
        history: History,
        events: Vec<FtEvent>,
        now: HostTime,
    ) -> Self {
        let Demotion {
            link,
            link_closed,
            parameters,
            fence,
            generation,
            base,
            clock_offset_ns,
        } = demotion;
        let mut detector = FaultDetector::new(parameters.timeout_ms, now);
        detector.heard(now);
        let scrub_pages = parameters.scrub_pages;
        let mut backup = Self {
            link,
            link_closed,
            phase: Phase::Replaying,
            facts: Some(MachineFacts::of(machine)),
            fence: Some(fence),
            generation,
            detector,
            decoder: Some(EntryCoder::new(base.at, base.point)),
            sections: machine.sections(),
            ledger: base.ledger,
            gate: OutputGate::new(base.ledger.count),
            released: base.ledger.count,
            replayer: Some(Replayer::new(replay_base(&base), scrub_pages)),
            offset: ClockOffset::known(clock_offset_ns, now),
            parameters,
            history,
            events,
            ..Self::new(owner, now)
        };
        // What has come behind the primary's word that it has taken over.
        backup.take_messages(now);
        backup
    }

    /// What the primary has opened with, until it is accepted or refused.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        match self.phase {
            Phase::Greeted => self.hello.as_deref(),
            _ => None,
        }
    }

    /// Accepts the primary with a machine that was built as it asked, its memory all zeroes, and
    /// the fence that it named.
    ///
    /// # Errors
    /// If they do not fit. The primary is told, and this side has ended.
    pub fn accept(
        &mut self,
        machine: &dyn Machine,
        fence: Box<dyn Fence>,
        now: HostTime,
    ) -> Result<(), AcceptError> {
        let Some(hello) = self
            .hello
            .take()
            .filter(|_| matches!(self.phase, Phase::Greeted))
        else {
            return Err(AcceptError::State(self.state_name()));
        };
        let facts = MachineFacts::of(machine);
        match check(&hello, machine, &facts, fence) {
            Ok(fence) => {
                self.generation = hello.generation;
                self.parameters = hello.parameters;
                let timeout_ms = self.parameters.timeout_ms.saturating_mul(CLONE_PATIENCE);
                self.detector = FaultDetector::new(timeout_ms, now);
                self.fence = Some(fence);
                self.strays = StrayPages::of(machine);
                let ack = HelloAck {
                    version: PROTOCOL_VERSION,
                    facts: facts.clone(),
                    held: self.strays.runs(),
                };
                self.facts = Some(facts);
                self.link
                    .send(&Message::HelloAck(ack), self.generation, now);
                self.phase = Phase::Cloning;
                Ok(())
            }
            Err(error) => {
                self.give_up(&error.to_string(), now);
                Err(error)
            }
        }
    }

    /// Refuses the primary for a reason of the caller's.
    pub fn refuse(&mut self, reason: &str, now: HostTime) {
        self.give_up(reason, now);
    }

    /// Takes bytes that came from the primary. Read the clock after taking them off the
    /// connection.
    pub fn on_bytes(&mut self, bytes: &[u8], now: HostTime) {
        self.link.receive(bytes);
        if self.end.is_some() || matches!(self.phase, Phase::Promoting(_)) {
            return;
        }
        self.detector.heard(now);
        self.take_messages(now);
        self.acknowledge(now);
    }

    /// The connection to the primary was closed by the other side or failed.
    pub fn on_link_closed(&mut self) {
        self.link_closed = true;
    }

    /// Takes at most `max` bytes to be sent to the primary.
    pub fn poll_transmit(&mut self, max: usize) -> Option<Vec<u8>> {
        self.link.take_wire(max)
    }

    /// Whether the connection is still of use. If not, close it once there is nothing to transmit.
    #[must_use]
    pub fn wants_link(&self) -> bool {
        self.end.is_none() && !self.link.is_closed()
    }

    /// Whether more bytes should be read from the connection. A clone that comes faster than it can
    /// be set is to wait there.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        let waiting = self.queue.bytes_behind_delta();
        let room = waiting < MAX_QUEUED_BYTES && self.queue.len() < MAX_QUEUED_ITEMS;
        room || self.awaits_repair()
    }

    /// What to do without a machine, while there is none: keeps an eye on the primary.
    pub fn tick(&mut self, now: HostTime) -> Next {
        self.detector.looped(now);
        self.watch(now);
        match &self.end {
            Some(end) => Next::Ended(end.clone()),
            None => Next::Wait(Some(now.plus_ms(self.parameters.heartbeat_ms))),
        }
    }

    /// One bounded step: replays about `slice_ns` of the guest's time, acknowledges, watches the
    /// primary. Afterwards take what [`Self::poll_transmit`] has.
    pub fn drive(&mut self, machine: &mut dyn Machine, slice_ns: u64, now: HostTime) -> Next {
        if let Some(end) = &self.end {
            return Next::Ended(end.clone());
        }
        self.detector.looped(now);
        self.watch(now);
        self.poll_fence(now);
        // What has come is said to be here before it is replayed: an output waits for that.
        if self.ack_now && self.acknowledge(now) {
            return Next::Run;
        }
        let more = self.work(machine, slice_ns, now);
        if more && !self.wants_bytes() {
            self.detector.excuse(now);
        }
        self.acknowledge(now);
        self.beat(now);
        self.link.traffic_mut().update_rates(now);
        match &self.end {
            Some(end) => Next::Ended(end.clone()),
            None if more => Next::Run,
            None => Next::Wait(Some(self.deadline(now))),
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

    /// Replication, as it stands.
    #[must_use]
    pub fn status(&self, machine: Option<&dyn Machine>) -> FtStatus {
        FtStatus {
            role: if self.end.is_some() {
                Role::Ended
            } else {
                Role::Backup
            },
            state: self.state_name().into(),
            generation: self.generation,
            mode: self.parameters.mode.name(),
            mode_reason: "the primary has chosen it".into(),
            parameters: self.facts.as_ref().map(|_| self.parameters.clone()),
            epoch: self
                .replayer
                .as_ref()
                .map(Replayer::epoch)
                .unwrap_or_default(),
            logical_time: machine.map(Machine::now).unwrap_or_default(),
            positions: Positions {
                recorded: self.received,
                received: self.received,
                replayed: self.replayed,
                verified: self.verified,
                epochs_verified: self.epochs_verified,
            },
            lag: Lag::default(),
            log: LogTraffic::of(self.link.traffic()),
            checkpoint: None,
            outputs: OutputStatus {
                waiting: self.gate.len() as u64,
                released: self.released,
                ..OutputStatus::default()
            },
            clock: crate::clock::ClockStats::default(),
            divergences: self.history.divergences,
            repairs: self.history.repairs,
            last_divergence: self.history.last_divergence.clone(),
            last_clone: None,
            last_failover: self.history.last_failover.clone(),
            throttled: Throttle::default(),
            error: self.error(),
        }
    }

    /// What a backup that is to be primary hands on; none if it is not, or not yet.
    pub(crate) fn take_promotion(
        &mut self,
        machine: &dyn Machine,
        now: HostTime,
    ) -> Option<(Promoted, Option<Adoption>)> {
        self.promoted(machine, now)
    }

    /// Sends a heartbeat if nothing was sent for long.
    fn beat(&mut self, now: HostTime) {
        let quiet = now.since(self.link.last_sent());
        let greeted = self.facts.is_some() && !matches!(self.phase, Phase::Promoting(_));
        if greeted && quiet >= self.parameters.heartbeat_ms.saturating_mul(NS_PER_MS) {
            self.link.send(&Message::Heartbeat, self.generation, now);
        }
    }

    /// Says how far this side is, if it is time to and this side stands by what it says; whether it
    /// did.
    fn acknowledge(&mut self, now: HostTime) -> bool {
        if !matches!(self.phase, Phase::Replaying) {
            return false;
        }
        let ack = Ack {
            received: self.received,
            replayed: self.replayed,
            verified: self.verified,
        };
        let rested = self.told_at.is_none_or(|told| now.since(told) >= ACK_NS);
        if ack == self.told || !(self.ack_now || rested) {
            return false;
        }
        self.link.send(&Message::Ack(ack), self.generation, now);
        (self.told, self.told_at, self.ack_now) = (ack, Some(now), false);
        true
    }

    /// Whether an acknowledgement of this kind lets outputs go.
    fn releases_on(&self, policy: ReleasePolicy) -> bool {
        self.parameters.release == policy
    }

    /// Gives up for a reason that the primary is told.
    fn give_up(&mut self, reason: &str, now: HostTime) {
        self.link
            .send(&Message::Error(reason.to_owned()), self.generation, now);
        self.link.close();
        self.end = Some(End::Failed(reason.to_owned()));
    }

    /// When this side wants to be called again if nothing comes.
    fn deadline(&self, now: HostTime) -> HostTime {
        let beat = self.link.last_sent().plus_ms(self.parameters.heartbeat_ms);
        match &self.phase {
            Phase::Promoting(promotion) => self.promotion_deadline(promotion, now),
            Phase::Listening | Phase::Greeted => now.plus_ms(100),
            _ => {
                let wake = beat.min(self.detector.deadline());
                let told = Ack {
                    received: self.received,
                    replayed: self.replayed,
                    verified: self.verified,
                };
                match self.told_at {
                    Some(at) if told != self.told => wake.min(at.plus(ACK_NS)),
                    _ => wake,
                }
            }
        }
    }

    /// What this side is doing, in a word or two.
    pub(crate) fn state_name(&self) -> &'static str {
        match (&self.end, &self.phase) {
            (Some(End::PoweredOff), _) => "powered off",
            (Some(End::Fenced(_)), _) => "fenced",
            (Some(End::Stopped), _) => "stopped",
            (Some(End::Failed(_)), _) => "failed",
            (None, Phase::Listening) => "listening",
            (None, Phase::Greeted) => "handshake",
            (None, Phase::Cloning) => "cloning",
            (None, Phase::Replaying) => match self.parameters.mode {
                Mode::Checkpoint => "following",
                Mode::Auto | Mode::Replay => "replaying",
            },
            (None, Phase::Diverged) => "diverged",
            (None, Phase::Promoting(promotion)) => match (promotion.won, promotion.drained) {
                (None, _) => "fencing",
                (Some(_), None) => "draining",
                (Some(_), Some(_)) => "going live",
            },
        }
    }

    /// What keeps this side from going on, or why it ended.
    fn error(&self) -> Option<String> {
        match (&self.end, &self.phase) {
            (Some(End::Fenced(text) | End::Failed(text)), _) => Some(text.clone()),
            (None, Phase::Promoting(promotion)) => promotion.attempt.error().map(str::to_owned),
            _ => None,
        }
    }

    /// The primary cannot be relied on any more.
    fn suspect(&mut self, cause: Suspicion, yield_ms: u64, now: HostTime) {
        if self.decoder.is_none() {
            let reason = format!("the clone is not complete, and {cause}");
            return self.give_up(&reason, now);
        }
        self.turn(Some(cause), yield_ms, now);
    }
}

/// A backup of a primary that was promoted as planned.
pub(crate) struct Adoption {
    pub(crate) link: Link,
    pub(crate) link_closed: bool,
    pub(crate) parameters: Parameters,
    pub(crate) fence: Box<dyn Fence>,
}

/// Where replay begins.
fn replay_base(base: &Base) -> ReplayBase {
    ReplayBase {
        epoch: base.epoch,
        point: base.point,
        ledger: base.ledger,
    }
}

/// Checks a primary's opening against this side's machine and fence.
fn check(
    hello: &Hello,
    machine: &dyn Machine,
    facts: &MachineFacts,
    mut fence: Box<dyn Fence>,
) -> Result<Box<dyn Fence>, AcceptError> {
    facts.agree(&hello.facts)?;
    hello.parameters.validate()?;
    let mode = hello.parameters.mode;
    let agreed = mode.choose(machine)?.mode;
    refuse_unless_equal("mode", mode.name(), agreed.name())?;
    if fence.is_shared() {
        let claim = fence.current()?;
        let ours = claim.map_or("none".into(), |claim| claim.generation.to_string());
        let theirs = hello.generation.to_string();
        refuse_unless_equal("latest generation at the fence", &theirs, &ours)?;
    }
    Ok(fence)
}
