//! The primary's side of a protected pair: the log on its way, acknowledgements, the lease.

use std::collections::VecDeque;

use crate::codec::FieldWriter;
use crate::divergence::DivergenceReport;
use crate::event::SyncPoint;
use crate::failover::{FenceAttempt, Suspicion};
use crate::fault_detector::{CLONE_PATIENCE, FaultDetector};
use crate::fence::Fence;
use crate::histogram::LatencyHistogram;
use crate::link::{Link, TrafficKind};
use crate::log::{Entry, EntryCoder, Event};
use crate::output::{Lease, OutputGate, ReleasePolicy};
use crate::parameters::Parameters;
use crate::primary::clone::LiveClone;
use crate::primary::delta::Closing;
use crate::primary::lag_control::LagControl;
use crate::primary::lateness::Lateness;
use crate::primary::repair::{Repair, Shipment};
use crate::protocol::{Ack, Divergence, MachineFacts, Message};
use crate::record::EndedEpoch;
use crate::section_stage::SectionStage;
use crate::status::{CloneSummary, FtEvent, Throttle};
use crate::throttle::SliceThrottle;
use crate::time::{Generation, HostTime, LogPosition, LogicalTime, NS_PER_MS};

/// Longest time that an entry waits to be sent when outputs wait for the backup to execute it, or
/// the guest sleeps; and least time between two messages that tell which outputs have left.
pub(super) const FLUSH_NS: u64 = NS_PER_MS;
/// Longest time that an entry waits to be sent otherwise. Nothing but the backup's distance depends
/// on it, and each message costs both sides the interruption of a busy guest.
const RELAXED_FLUSH_NS: u64 = 8 * NS_PER_MS;
/// Log bytes that are sent at once.
const MAX_FLUSH_BYTES: usize = 64 << 10;

/// How soon what was appended is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Now: outputs wait for it, or an epoch has ended.
    AtOnce,
    /// The guest sleeps, and may not bring the next marker for long. One that sleeps until its disk
    /// answers wakes a moment later all the same, and need not send a message for each answer.
    Resting,
    /// The guest executes.
    Executing,
}

/// Where a protection stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// The generation is being claimed.
    Claiming(FenceAttempt),
    /// The backup has been greeted and has not answered.
    Greeting(HostTime),
    /// The machine is being copied while it runs.
    Cloning(LiveClone),
    /// The log streams.
    Protected,
    /// The last epoch before a planned failover is being verified.
    Draining,
    /// The backup was told to take over.
    HandedOver,
    /// The backup was told that protection ends.
    Stopping,
    /// The backup is suspected; a claim settles who goes on.
    Fencing(FenceAttempt, Suspicion),
}

impl Phase {
    /// Whether the backup may have what it needs to take over.
    pub(super) fn is_replicated(&self) -> bool {
        !matches!(
            self,
            Self::Claiming(_) | Self::Greeting(_) | Self::Cloning(_)
        )
    }

    /// Whether what the guest does is logged: the backup follows, and has not been told otherwise.
    pub(super) fn is_logged(&self) -> bool {
        matches!(self, Self::Protected | Self::Draining)
    }

    /// In a word or two.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Claiming(_) => "claiming generation",
            Self::Greeting(_) => "handshake",
            Self::Cloning(_) => "cloning",
            Self::Protected => "protected",
            Self::Draining => "draining for failover",
            Self::HandedOver => "handing over",
            Self::Stopping => "stopping",
            Self::Fencing(..) => "fencing",
        }
    }
}

/// What a primary has while it has, or is getting, a backup.
pub(super) struct Protection {
    pub(super) link: Link,
    pub(super) link_closed: bool,
    pub(super) parameters: Parameters,
    pub(super) fence: Box<dyn Fence>,
    pub(super) facts: MachineFacts,
    pub(super) config: Vec<u8>,
    /// Why epochs are closed as they are.
    pub(super) mode_reason: String,
    pub(super) closing: Closing,
    pub(super) phase: Phase,
    pub(super) detector: FaultDetector,
    pub(super) lease: Lease,
    lateness: Lateness,
    /// How the clone went, until the backup is known to have all of it.
    pub(super) unconfirmed: Option<CloneSummary>,
    pub(super) log: Option<OutgoingLog>,
    pub(super) ack: Ack,
    pub(super) unverified: VecDeque<(LogPosition, EndedEpoch)>,
    pub(super) epochs_verified: u64,
    /// The sections of a backup that is about to report a divergence.
    pub(super) reported: SectionStage,
    pub(super) divergence: Option<(Divergence, DivergenceReport)>,
    pub(super) shipment: Option<Shipment>,
    pub(super) repair_at: Option<Repair>,
    pub(super) released_told: u64,
    pub(super) released_at: HostTime,
    pub(super) lag: LatencyHistogram,
    pub(super) lag_control: LagControl,
    pub(super) clone_throttle: SliceThrottle,
}

impl Protection {
    /// A protection about to begin.
    pub(super) fn new(
        parameters: Parameters,
        fence: Box<dyn Fence>,
        facts: MachineFacts,
        config: Vec<u8>,
        phase: Phase,
        now: HostTime,
    ) -> Self {
        let timeout_ms = match phase {
            Phase::Protected => parameters.timeout_ms,
            _ => parameters.timeout_ms.saturating_mul(CLONE_PATIENCE),
        };
        Self {
            link: Link::new(now),
            link_closed: false,
            detector: FaultDetector::new(timeout_ms, now),
            lease: Lease::new(parameters.lease_ms),
            lateness: Lateness::default(),
            parameters,
            fence,
            facts,
            config,
            mode_reason: String::new(),
            closing: Closing::Log,
            phase,
            unconfirmed: None,
            log: None,
            ack: Ack::default(),
            unverified: VecDeque::new(),
            epochs_verified: 0,
            reported: SectionStage::default(),
            divergence: None,
            shipment: None,
            repair_at: None,
            released_told: 0,
            released_at: now,
            lag: LatencyHistogram::default(),
            lag_control: LagControl::default(),
            clone_throttle: SliceThrottle::default(),
        }
    }

    /// What it is doing, in a word or two.
    pub(super) fn state_name(&self) -> &'static str {
        let repairing = self.is_repairing();
        match self.phase {
            Phase::Protected if self.unconfirmed.is_some() => "cloning",
            Phase::Protected if repairing => "repairing",
            _ => self.phase.name(),
        }
    }

    /// Whether the backup has diverged and has not confirmed a repair.
    pub(super) fn is_repairing(&self) -> bool {
        self.divergence.is_some() || self.shipment.is_some() || self.repair_at.is_some()
    }

    /// How often and how long the guest was kept for the backup's sake.
    pub(super) fn throttle(&self, now: HostTime) -> Throttle {
        let (halvings, held_ns) = self.clone_throttle.held();
        let Throttle { count, total_ms } = self.lag_control.throttle(now);
        Throttle {
            count: count + halvings,
            total_ms: total_ms + held_ns / NS_PER_MS,
        }
    }

    /// Appends entries to the log; returns the position of the last entry and the bytes added.
    pub(super) fn append(&mut self, entries: &[Entry]) -> (LogPosition, u64) {
        let Some(log) = &mut self.log else {
            return (LogPosition(0), 0);
        };
        let before = log.bytes.len();
        for entry in entries {
            let from = log.bytes.len();
            log.coder.encode(entry, &mut log.bytes);
            log.position = log.position.plus(1);
            log.last_at = entry.at;
            let size = (log.bytes.len() - from) as u64;
            self.link
                .traffic_mut()
                .add(TrafficKind::from(entry.event.kind()), size);
        }
        (log.position, (log.bytes.len() - before) as u64)
    }

    /// Sends what was appended, if there is anything and its time has come. A guest that has
    /// executed up to `at` since the last entry gets a marker first.
    pub(super) fn flush(
        &mut self,
        at: LogicalTime,
        haste: Haste,
        generation: Generation,
        now: HostTime,
    ) {
        let Some(log) = &mut self.log else { return };
        log.executed_to = at;
        if self.flush_due(haste).is_none_or(|due| now < due) {
            return;
        }
        if self.log.as_ref().is_some_and(|log| log.last_at < at) {
            self.append(&[Entry {
                at,
                event: Event::Marker,
            }]);
        }
        self.send_log(generation, now);
    }

    /// When the log is to be sent; never if the backup knows all that there is.
    pub(super) fn flush_due(&self, haste: Haste) -> Option<HostTime> {
        if self.deltas().is_some() {
            // The end of the epoch tells of all that was executed in it.
            return None;
        }
        let log = self.log.as_ref()?;
        if log.bytes.is_empty() && log.last_at >= log.executed_to {
            return None;
        }
        let most_ns = match (haste, self.parameters.release) {
            _ if log.bytes.len() >= MAX_FLUSH_BYTES => 0,
            (Haste::AtOnce, _) => 0,
            (Haste::Executing, ReleasePolicy::Received) => RELAXED_FLUSH_NS,
            (Haste::Resting | Haste::Executing, _) => FLUSH_NS,
        };
        Some(log.last_flush.plus(most_ns))
    }

    /// Sends a marker even though the guest has not executed, so that its acknowledgement renews
    /// the lease.
    pub(super) fn renew_lease(&mut self, generation: Generation, now: HostTime) {
        let Some(log) = &self.log else { return };
        let at = log.last_at;
        self.append(&[Entry {
            at,
            event: Event::Marker,
        }]);
        self.send_log(generation, now);
    }

    /// Sends what was appended.
    fn send_log(&mut self, generation: Generation, now: HostTime) {
        let Some(log) = &mut self.log else { return };
        if log.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut log.bytes).finish();
        self.link.send(&Message::Log(bytes), generation, now);
        log.last_flush = now;
        log.unreceived.push_back((log.position, now));
        log.unreplayed.push_back((log.position, now));
    }

    /// Counts the end of an epoch that is closed by a delta as an entry of the log, which is about
    /// to be sent; its position, if there is a log.
    pub(super) fn count_commit(
        &mut self,
        at: LogicalTime,
        point: SyncPoint,
        now: HostTime,
    ) -> Option<LogPosition> {
        self.rebase_log(at, point);
        let log = self.log.as_mut()?;
        log.position = log.position.plus(1);
        log.last_flush = now;
        log.unreceived.push_back((log.position, now));
        log.unreplayed.push_back((log.position, now));
        Some(log.position)
    }

    /// The backup's machine is set to this time, without a log up to there: later entries count
    /// from it, on both sides.
    pub(super) fn rebase_log(&mut self, at: LogicalTime, point: SyncPoint) {
        if let Some(log) = &mut self.log {
            log.coder = EntryCoder::new(at, point);
            (log.last_at, log.executed_to) = (at, at);
        }
    }

    /// Takes an acknowledgement.
    ///
    /// # Errors
    /// If it goes back or acknowledges what was not sent.
    pub(super) fn acknowledge(
        &mut self,
        ack: Ack,
        gate: &mut OutputGate,
        now: HostTime,
    ) -> Result<(), String> {
        let Some(log) = &mut self.log else {
            return Err("an acknowledgement before the clone was complete".into());
        };
        let old = self.ack;
        let back = ack.received < old.received
            || ack.replayed < old.replayed
            || ack.verified < old.verified;
        if back || ack.received > log.position {
            return Err(format!(
                "acknowledgement of {} behind {}",
                ack.received, log.position
            ));
        }
        self.ack = ack;
        while log
            .unreceived
            .front()
            .is_some_and(|(position, _)| *position <= ack.received)
        {
            if let Some((_, sent)) = log.unreceived.pop_front() {
                self.lease.renew(sent);
            }
        }
        while log
            .unreplayed
            .front()
            .is_some_and(|(position, _)| *position <= ack.replayed)
        {
            if let Some((_, sent)) = log.unreplayed.pop_front() {
                self.lag.add(now.since(sent));
            }
        }
        while self
            .unverified
            .front()
            .is_some_and(|(position, _)| *position <= ack.verified)
        {
            self.unverified.pop_front();
            self.epochs_verified += 1;
        }
        if let Some(sender) = self.deltas_mut() {
            sender.note_acknowledged(ack.received, now);
        }
        gate.acknowledge(match self.parameters.release {
            ReleasePolicy::Received => ack.received,
            ReleasePolicy::Replayed => ack.replayed,
            ReleasePolicy::Verified => ack.verified,
        });
        Ok(())
    }

    /// Looks at an acknowledgement that has just been taken: what there is to tell of leases that
    /// are too short.
    pub(super) fn note_timeliness(&mut self, gate: &OutputGate, now: HostTime) -> Option<FtEvent> {
        let took_ms = self.lateness.note(&self.lease, gate.is_ready(), now)?;
        let lease_ms = self.parameters.lease_ms;
        Some(FtEvent::LeaseTooShort { lease_ms, took_ms })
    }

    /// Last entry that was written.
    pub(super) fn position(&self) -> LogPosition {
        self.log.as_ref().map_or(LogPosition(0), |log| log.position)
    }

    /// Age of the oldest entry that is not replayed.
    pub(super) fn lag_ns(&self, now: HostTime) -> u64 {
        let oldest = self.log.as_ref().and_then(|log| log.unreplayed.front());
        oldest.map_or(0, |(_, sent)| now.since(*sent))
    }

    /// Tells the backup which outputs have left, at most every millisecond.
    pub(super) fn tell_released(&mut self, released: u64, generation: Generation, now: HostTime) {
        if released <= self.released_told || !self.phase.is_replicated() {
            return;
        }
        if now.since(self.released_at) >= FLUSH_NS {
            self.tell_released_now(released, generation, now);
        }
    }

    /// Tells the backup which outputs have left.
    pub(super) fn tell_released_now(
        &mut self,
        released: u64,
        generation: Generation,
        now: HostTime,
    ) {
        self.link
            .send(&Message::Released(released), generation, now);
        (self.released_told, self.released_at) = (released, now);
    }

    /// Says something if nothing was said for long.
    pub(super) fn beat(&mut self, generation: Generation, now: HostTime) {
        let quiet = now.since(self.link.last_sent());
        let greeted = !matches!(self.phase, Phase::Claiming(_) | Phase::Greeting(_));
        if greeted && quiet >= self.parameters.heartbeat_ms.saturating_mul(NS_PER_MS) {
            self.link.send(&Message::Heartbeat, generation, now);
        }
    }

    /// When the next heartbeat is due.
    pub(super) fn next_beat(&self) -> HostTime {
        self.link.last_sent().plus_ms(self.parameters.heartbeat_ms)
    }
}

/// The log on its way to the backup.
#[derive(Debug)]
pub(super) struct OutgoingLog {
    pub(super) coder: EntryCoder,
    pub(super) bytes: FieldWriter,
    pub(super) position: LogPosition,
    pub(super) last_at: LogicalTime,
    /// How far the guest has executed, as far as the log was told.
    executed_to: LogicalTime,
    pub(super) last_flush: HostTime,
    unreceived: VecDeque<(LogPosition, HostTime)>,
    unreplayed: VecDeque<(LogPosition, HostTime)>,
}

impl OutgoingLog {
    /// An empty log that begins at `at`.
    pub(super) fn new(coder: EntryCoder, at: LogicalTime, now: HostTime) -> Self {
        Self {
            coder,
            bytes: FieldWriter::new(),
            position: LogPosition(0),
            last_at: at,
            executed_to: at,
            last_flush: now,
            unreceived: VecDeque::new(),
            unreplayed: VecDeque::new(),
        }
    }
}
