//! Ends of a protection: a suspected backup, a planned failover, a stop.

use crate::failover::{FenceAttempt, Progress, Suspicion};
use crate::machine::Machine;
use crate::primary::protection::{Phase, Protection};
use crate::primary::{Demotion, Primary};
use crate::protocol::{Base, Message, StopReason};
use crate::status::{End, FtEvent};
use crate::time::{Generation, HostTime, NS_PER_MS};

/// Longest wait for the answer to a greeting, in which the peer builds a machine.
const GREETING_MS: u64 = 10_000;
/// How long a backup may keep the primary waiting before it is given up.
const STALL_MS: u64 = 5_000;

/// Why a request cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request} is not possible while the state is {state}")]
pub struct StateError {
    /// What was asked for.
    pub request: &'static str,
    /// The state that stands in the way.
    pub state: String,
}

impl Primary {
    /// Begins a planned failover: the backup becomes primary at the end of this epoch.
    ///
    /// # Errors
    /// If the machine is not protected.
    pub fn fail_over(&mut self) -> Result<(), StateError> {
        let state = self.state_name();
        match self.protection.as_deref_mut() {
            Some(protection) if matches!(protection.phase, Phase::Protected) => {
                protection.phase = Phase::Draining;
                self.recorder.meter_mut().force();
                Ok(())
            }
            _ => Err(StateError {
                request: "failover",
                state: state.into(),
            }),
        }
    }

    /// Ends protection; the backup ends, this side goes on alone.
    ///
    /// # Errors
    /// If the machine is not protected and not about to be.
    pub fn stop_protection(&mut self, now: HostTime) -> Result<(), StateError> {
        let refused = StateError {
            request: "stop",
            state: self.state_name().into(),
        };
        let Some(protection) = self.protection.as_deref_mut() else {
            return Err(refused);
        };
        match protection.phase {
            Phase::Claiming(_) | Phase::Greeting(_) | Phase::Cloning(_) => {
                self.abandon_start("protection was stopped before it was complete", now);
                Ok(())
            }
            Phase::Protected | Phase::Draining => {
                self.send_stop(StopReason::Requested, now);
                Ok(())
            }
            Phase::HandedOver | Phase::Stopping | Phase::Fencing(..) => Err(refused),
        }
    }

    /// Tells the backup that protection ends.
    pub(super) fn send_stop(&mut self, reason: StopReason, now: HostTime) {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        protection.tell_released_now(self.gate.released(), generation, now);
        protection
            .link
            .send(&Message::Stop(reason), generation, now);
        protection.phase = Phase::Stopping;
    }

    /// The backup has ended and will not take over: this side is alone.
    pub(super) fn on_stop_ack(&mut self) {
        self.part();
        self.gate.open();
        if !self.powered_off {
            self.events.push(FtEvent::Stopped);
        }
    }

    /// Looks for reasons to suspect the backup.
    pub(super) fn watch(&mut self, now: HostTime) {
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        if protection.deltas().is_some() {
            let link = &protection.link;
            let (carried, unsent) = (link.carried(), link.unsent());
            protection.lag_control.note_carried(carried, unsent, now);
        }
        let patience_ms = STALL_MS.max(protection.parameters.timeout_ms);
        let stalled = protection.lag_control.full_ns(now) >= patience_ms * NS_PER_MS
            && protection.shipment.is_none();
        let cause = if let Some(text) = protection.link.broken() {
            Suspicion::Protocol(text.to_owned())
        } else if protection.link_closed {
            Suspicion::LinkClosed
        } else if let Phase::Greeting(since) = protection.phase {
            match now.since(since) >= GREETING_MS * NS_PER_MS {
                true => Suspicion::Silent(GREETING_MS),
                false => return,
            }
        } else if matches!(protection.phase, Phase::Claiming(_)) {
            return;
        } else if protection.detector.is_silent(now) {
            let silent = now.since(protection.detector.last_heard());
            Suspicion::Silent(silent / NS_PER_MS)
        } else if stalled {
            Suspicion::Stalled
        } else {
            return;
        };
        self.suspect(cause, now);
    }

    /// Goes on without the backup, if the fence allows it. Nothing leaves until that is settled.
    pub(super) fn suspect(&mut self, cause: Suspicion, now: HostTime) {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        if !protection.phase.is_replicated() {
            return self.abandon_start(&cause.to_string(), now);
        }
        if matches!(protection.phase, Phase::Fencing(..)) {
            return;
        }
        if !matches!(cause, Suspicion::LinkClosed | Suspicion::Superseded(_)) {
            protection
                .link
                .send(&Message::Error(cause.to_string()), generation, now);
        }
        protection.link.close();
        let attempt = FenceAttempt::to_go_alone(generation, now);
        protection.phase = Phase::Fencing(attempt, cause.clone());
        self.events.push(FtEvent::Suspected { cause });
    }

    /// Asks the fence, if a claim is under way.
    pub(super) fn poll_claim(&mut self, now: HostTime) {
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let Protection { phase, fence, .. } = protection;
        match phase {
            Phase::Claiming(attempt) => match attempt.poll(fence.as_mut(), &self.owner, now) {
                Progress::Won(generation) => {
                    self.generation = generation;
                    self.greet(now);
                }
                Progress::Lost(claim) => {
                    let reason = format!(
                        "generation {} is claimed by {}",
                        claim.generation, claim.owner
                    );
                    self.abandon_start(&reason, now);
                }
                Progress::Unavailable(error) => self.abandon_start(&error, now),
                Progress::Waiting(_) => {}
            },
            Phase::Fencing(attempt, cause) => {
                match attempt.poll(fence.as_mut(), &self.owner, now) {
                    Progress::Won(generation) => {
                        let cause = cause.clone();
                        self.go_on_alone(generation, cause);
                    }
                    Progress::Lost(claim) => {
                        self.gate.discard();
                        let text = format!(
                            "generation {} was claimed by {}",
                            claim.generation, claim.owner
                        );
                        self.events.push(FtEvent::fenced(&claim));
                        self.part();
                        self.end = Some(End::Fenced(text));
                    }
                    Progress::Unavailable(error) => {
                        self.events.push(FtEvent::FenceUnavailable { error });
                    }
                    Progress::Waiting(_) => {}
                }
            }
            _ => {}
        }
    }

    /// The fence is won: this side is the only one.
    fn go_on_alone(&mut self, generation: Generation, cause: Suspicion) {
        self.generation = generation;
        self.part();
        self.gate.open();
        self.events
            .push(FtEvent::ProtectionLost { cause, generation });
    }

    /// Protection could not be started: there is nobody who could take over, so nothing changes.
    pub(super) fn abandon_start(&mut self, reason: &str, now: HostTime) {
        let generation = self.generation;
        if let Some(protection) = self.protection.as_deref_mut() {
            protection
                .link
                .send(&Message::Error(reason.to_owned()), generation, now);
        }
        self.part();
        self.gate.open();
        self.events.push(FtEvent::StartFailed {
            reason: reason.to_owned(),
        });
    }

    /// Tells the backup to take over, once it has verified everything and everything has left.
    pub(super) fn hand_over(&mut self, now: HostTime) {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let position = protection.position();
        let open = protection
            .deltas()
            .is_some_and(|sender| sender.is_sending() || self.recorder.meter().has_progressed());
        let settled = protection.ack.verified == position
            && !open
            && !protection.is_repairing()
            && self.gate.is_empty();
        if !matches!(protection.phase, Phase::Draining) || !settled {
            return;
        }
        protection.tell_released_now(self.gate.released(), generation, now);
        protection
            .link
            .send(&Message::Failover(position), generation, now);
        protection.phase = Phase::HandedOver;
    }

    /// The backup will not take over; everything is as before.
    pub(super) fn on_declined(&mut self, reason: String) {
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.phase = Phase::Protected;
        }
        self.events.push(FtEvent::FailoverDeclined { reason });
    }

    /// The backup has taken over: this side becomes its backup, from the state both have.
    ///
    /// # Errors
    /// If the states are not the same after all.
    pub(super) fn on_taken_over(
        &mut self,
        machine: &mut dyn Machine,
        generation: Generation,
        base: Base,
    ) -> Result<(), String> {
        if base.at != machine.now() || base.ledger != self.recorder.ledger() {
            return Err(format!(
                "took over at logical time {}, not {}",
                base.at,
                machine.now()
            ));
        }
        let Some(protection) = self.protection.take() else {
            return Ok(());
        };
        machine.synchronise();
        machine.take_dirty_pages();
        self.events.push(FtEvent::Demoted { generation });
        self.demotion = Some(Demotion {
            link: protection.link,
            link_closed: protection.link_closed,
            parameters: protection.parameters,
            fence: protection.fence,
            generation,
            base,
            clock_offset_ns: self.recorder.clock_offset_ns(),
        });
        Ok(())
    }
}
