//! A primary's slice: whether the guest may execute, what follows from it, when to come again.

use crate::inbox::Inbox;
use crate::log::Entry;
use crate::machine::Machine;
use crate::output::{ReleasePolicy, UNSEALED};
use crate::primary::Primary;
use crate::primary::delta::DeltaSender;
use crate::primary::lag_control::{Admission, Gap};
use crate::primary::protection::{FLUSH_NS, Haste, Phase, Protection};
use crate::protocol::StopReason;
use crate::record::{Outcome, Pace, Slice};
use crate::status::{End, FtEvent, Next};
use crate::time::{HostTime, LogPosition, NS_PER_MS};

impl Primary {
    /// Executes a slice, if the guest may; none if it may not.
    pub(super) fn execute(
        &mut self,
        machine: &mut dyn Machine,
        inbox: &mut Inbox,
        now: HostTime,
    ) -> Option<Outcome> {
        let admitted = match self.paused || self.powered_off || !self.keeps_up(now) {
            true => None,
            false => self.slice_pace(now),
        };
        let Some(pace) = admitted else {
            self.recorder.hold_back();
            return None;
        };
        let from = machine.now();
        let Slice {
            outcome,
            entries,
            outputs,
            refused,
        } = self.recorder.run(machine, inbox, now, pace);
        let (position, bytes) = match self.closes_by_delta() {
            true => {
                if !entries.is_empty() || machine.now() != from {
                    self.recorder.meter_mut().progressed();
                }
                let sizes = outputs
                    .iter()
                    .map(|output| output.output.payload.len() as u64);
                (UNSEALED, sizes.sum())
            }
            false => self.log_entries(&entries),
        };
        if bytes > 0 {
            self.recorder.meter_mut().logged(bytes);
        }
        let haste = match outcome {
            _ if !outputs.is_empty() => Haste::AtOnce,
            Outcome::Idle(_) => Haste::Resting,
            _ => Haste::Executing,
        };
        for output in outputs {
            self.gate.queue(output, position, now);
        }
        for reason in refused {
            self.events.push(FtEvent::InputRefused { reason });
        }
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.flush(machine.now(), haste, self.generation, now);
        }
        match &outcome {
            Outcome::Failed(text) => self.end = Some(End::Failed(text.clone())),
            Outcome::PoweredOff => self.powered_off = true,
            Outcome::Busy | Outcome::Idle(_) => {}
        }
        Some(outcome)
    }

    /// Does what is due after a slice: ends the epoch, sends, says goodbye.
    pub(super) fn conclude(
        &mut self,
        machine: &mut dyn Machine,
        outcome: Option<&Outcome>,
        now: HostTime,
    ) {
        let at_rest = matches!(outcome, Some(Outcome::Idle(_) | Outcome::PoweredOff));
        let logged = self
            .protection
            .as_deref()
            .is_some_and(|p| p.phase.is_logged());
        let waits_for_epoch = self.protection.as_deref().is_some_and(|protection| {
            protection.parameters.release == ReleasePolicy::Verified && !self.gate.is_empty()
        });
        if at_rest && waits_for_epoch {
            self.recorder.meter_mut().force();
        }
        // An epoch that is closed by a delta is closed before a slice.
        let logging = (logged && !self.closes_by_delta()) || self.sink.is_some();
        let draining = self.is_draining() && !self.has_closed_for_failover();
        if logging && (self.recorder.meter().is_due(now) || draining) {
            self.close_epoch(machine, now);
        }
        if self.end.is_some() {
            return;
        }
        if self.powered_off {
            self.conclude_power_off(machine, now);
        }
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let haste = match outcome {
            Some(Outcome::Busy) => Haste::Executing,
            _ => Haste::Resting,
        };
        protection.flush(machine.now(), haste, generation, now);
        let holds = protection.lease.holds(now);
        self.permit_wanted &= !holds;
        let stale = (self.gate.is_ready() || self.permit_wanted) && !holds;
        if stale
            && protection
                .log
                .as_ref()
                .is_some_and(|log| renewal_due(log.last_flush, protection, now))
        {
            protection.renew_lease(generation, now);
        }
        protection.tell_released(self.gate.released(), generation, now);
        protection.beat(generation, now);
        protection.link.traffic_mut().update_rates(now);
    }

    /// Whether the backup follows by deltas.
    pub(super) fn closes_by_delta(&self) -> bool {
        self.protection
            .as_deref()
            .is_some_and(|protection| protection.phase.is_logged() && protection.deltas().is_some())
    }

    /// Ends the epoch that is under way and logs its digest, unless the host cannot read all that
    /// is digested: a backup would be told to become what this side has made of it.
    pub(super) fn close_epoch(&mut self, machine: &mut dyn Machine, now: HostTime) {
        let scrub_pages = match (self.protection.as_deref(), &self.sink) {
            (Some(protection), _) => protection.parameters.scrub_pages,
            (None, Some((_, scrub_pages))) => *scrub_pages,
            (None, None) => return,
        };
        let ended = self.recorder.end_epoch(machine, scrub_pages, now);
        if let Some(text) = machine.take_unreadable() {
            return self.on_unreadable(text, now);
        }
        // Its own entry is nothing that has happened in the next epoch.
        let (position, _) = self.log_entries(&[ended.entry(self.sink.is_some())]);
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.unverified.push_back((position, ended));
            protection.flush(machine.now(), Haste::AtOnce, self.generation, now);
        }
    }

    /// Appends entries to the log, wherever it goes; returns the position of the last, and bytes.
    fn log_entries(&mut self, entries: &[Entry]) -> (LogPosition, u64) {
        let nothing = (LogPosition(0), 0);
        if let Some(protection) = self.protection.as_deref_mut() {
            return match protection.phase.is_logged() {
                true => protection.append(entries),
                false => nothing,
            };
        }
        let Some((writer, _)) = &mut self.sink else {
            return nothing;
        };
        let mut added = 0;
        for entry in entries {
            match writer.append(entry) {
                Ok(bytes) => added += bytes,
                Err(error) => {
                    let reason = error.to_string();
                    self.events.push(FtEvent::RecordingFailed { reason });
                    self.sink = None;
                    break;
                }
            }
        }
        (LogPosition(0), added)
    }

    /// How much the guest may execute; none if it has to wait for its slice in a clone.
    fn slice_pace(&mut self, now: HostTime) -> Option<Pace> {
        let throttle = match self.protection.as_deref_mut() {
            Some(protection) if matches!(protection.phase, Phase::Cloning(_)) => {
                &mut protection.clone_throttle
            }
            Some(_) if self.gate.is_empty() => return Some(self.pace),
            Some(_) => return Some(self.pace.attentive()),
            None => &mut self.throttle,
        };
        if throttle.divisor() > 1 {
            // The time between two slices says nothing of the guest's speed.
            self.recorder.hold_back();
        }
        throttle.admit(self.pace, now)
    }

    /// Whether the guest may execute as far as the backup is concerned.
    fn keeps_up(&mut self, now: HostTime) -> bool {
        let Some(protection) = self.protection.as_deref_mut() else {
            return true;
        };
        match protection.phase {
            Phase::Claiming(_) | Phase::Greeting(_) | Phase::Cloning(_) => return true,
            Phase::Protected => {}
            Phase::Draining | Phase::HandedOver | Phase::Stopping | Phase::Fencing(..) => {
                return false;
            }
        }
        if protection.shipment.is_some() {
            protection.lag_control.excuse(now);
            return false;
        }
        let gap = Gap {
            epochs: protection.unverified.len() as u64,
            most_epochs: protection.parameters.max_lag_epochs,
            age_ns: protection.lag_ns(now),
            unsent: protection.link.unsent(),
            overdue: protection.deltas().is_some_and(DeltaSender::is_sending)
                && self.recorder.meter().is_overdue(),
        };
        match protection.lag_control.admit(gap, now) {
            Admission::Go => true,
            Admission::Rest => false,
            Admission::Full => {
                self.events.push(FtEvent::Throttled {
                    lag_epochs: gap.epochs,
                });
                false
            }
        }
    }

    /// Whether a planned failover waits for the backup.
    fn is_draining(&self) -> bool {
        self.protection
            .as_deref()
            .is_some_and(|p| matches!(p.phase, Phase::Draining))
    }

    /// Whether the log ends with an epoch, as a planned failover needs it.
    fn has_closed_for_failover(&self) -> bool {
        self.protection.as_deref().is_some_and(|protection| {
            let last = protection.unverified.back().map(|(position, _)| *position);
            last.unwrap_or(protection.ack.verified) == protection.position()
        })
    }

    /// Ends in order once the guest is off and everything has left.
    fn conclude_power_off(&mut self, machine: &mut dyn Machine, now: HostTime) {
        let Some(protection) = self.protection.as_deref_mut() else {
            if self.gate.is_empty() {
                if let Err(error) = self.finish_recording(machine, now) {
                    let reason = error.to_string();
                    self.events.push(FtEvent::RecordingFailed { reason });
                }
                self.end = Some(End::PoweredOff);
            }
            return;
        };
        match protection.phase {
            Phase::Claiming(_) | Phase::Greeting(_) | Phase::Cloning(_) => {
                self.abandon_start("the guest has switched itself off", now);
            }
            Phase::Protected | Phase::Draining if self.gate.is_empty() => {
                self.send_stop(StopReason::PoweredOff, now);
            }
            _ => {}
        }
    }

    /// When to come again.
    pub(super) fn next(
        &mut self,
        outcome: Option<Outcome>,
        more_to_clone: bool,
        now: HostTime,
    ) -> Next {
        if let Some(end) = &self.end {
            return Next::Ended(end.clone());
        }
        if more_to_clone || outcome == Some(Outcome::Busy) {
            return Next::Run;
        }
        let mut wake = match outcome {
            Some(Outcome::Idle(wake)) => wake,
            _ => None,
        };
        let mut at = |time: HostTime| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        if self.sink.is_some()
            && let Some(end) = self.recorder.meter().latest_end()
        {
            at(end);
        }
        match self.protection.as_deref() {
            Some(protection) => self.protection_deadlines(protection, now, &mut at),
            None => self.throttle.next_slice().into_iter().for_each(&mut at),
        }
        Next::Wait(wake)
    }

    /// The times at which the backup wants to be looked after.
    fn protection_deadlines(
        &self,
        protection: &Protection,
        now: HostTime,
        at: &mut impl FnMut(HostTime),
    ) {
        match &protection.phase {
            Phase::Claiming(attempt) | Phase::Fencing(attempt, _) => return at(attempt.next_try()),
            Phase::Greeting(_) => return at(now.plus_ms(100)),
            Phase::Cloning(_) => {
                at(now.plus(FLUSH_NS));
                if let Some(next) = protection.clone_throttle.next_slice() {
                    at(next);
                }
            }
            _ if protection.shipment.is_some() => at(now.plus(FLUSH_NS)),
            _ => {}
        }
        at(protection.next_beat());
        at(protection.detector.deadline());
        if let Some(log) = &protection.log {
            protection
                .flush_due(Haste::Resting)
                .into_iter()
                .for_each(&mut *at);
            let wanted = self.gate.is_ready() || self.permit_wanted;
            if wanted && !protection.lease.holds(now) {
                at(log.last_flush.plus(renewal_ns(protection)));
            }
        }
        if let Some(early) = self.delta_situation(now).and_then(|s| s.early()) {
            at(early);
        }
        if protection.deltas().is_some_and(DeltaSender::is_sending) {
            at(now.plus(FLUSH_NS));
        }
        if self.gate.released() > protection.released_told {
            at(protection.released_at.plus(FLUSH_NS));
        }
        if let Some(end) = self.recorder.meter().latest_end() {
            at(end.max(now.plus(FLUSH_NS)));
        }
        if let Some(until) = protection.lag_control.rest_until() {
            at(until);
        }
    }
}

/// Time after which a marker is sent to renew the lease.
fn renewal_ns(protection: &Protection) -> u64 {
    protection.parameters.lease_ms * NS_PER_MS / 2
}

/// Whether a marker is to be sent to renew the lease.
fn renewal_due(last_flush: HostTime, protection: &Protection, now: HostTime) -> bool {
    now.since(last_flush) >= renewal_ns(protection)
}
