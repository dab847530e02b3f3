//! What a primary makes of its backup's messages.

use crate::failover::Suspicion;
use crate::machine::Machine;
use crate::primary::Primary;
use crate::primary::clone::LiveClone;
use crate::primary::protection::Phase;
use crate::protocol::{Ack, Divergence, HelloAck, Message};
use crate::time::{Generation, HostTime};

impl Primary {
    /// Looks after the backup before the guest goes on. Whether a clone or a repair has more
    /// to send at once.
    pub(super) fn attend(&mut self, machine: &mut dyn Machine, now: HostTime) -> bool {
        if let Some(protection) = self.protection.as_deref_mut() {
            protection.detector.looped(now);
        }
        while let Some((generation, message)) = self
            .protection
            .as_deref_mut()
            .and_then(|protection| protection.link.next_message())
        {
            if let Err(text) = self.on_message(machine, generation, message, now) {
                self.suspect(Suspicion::Protocol(text), now);
            }
        }
        if self.end.is_some() {
            return false;
        }
        self.watch(now);
        self.poll_claim(now);
        let more_to_repair = self.repair(machine, now);
        if self.end.is_some() {
            return false;
        }
        self.hand_over(now);
        let more_to_send = self.delta_step(now);
        self.clone_step(machine, now) || more_to_repair || more_to_send
    }

    /// One message from the backup.
    ///
    /// # Errors
    /// If no backup would send it.
    fn on_message(
        &mut self,
        machine: &mut dyn Machine,
        generation: Generation,
        message: Message,
        now: HostTime,
    ) -> Result<(), String> {
        let Some(protection) = self.protection.as_deref_mut() else {
            return Ok(());
        };
        if let (Phase::HandedOver, Message::TakenOver(base)) = (&protection.phase, &message) {
            let base = base.as_ref().clone();
            return match generation == self.generation.plus(1) {
                true => self.on_taken_over(machine, generation, base),
                false => Err(format!("took over with generation {generation}")),
            };
        }
        if generation > self.generation {
            self.suspect(Suspicion::Superseded(generation), now);
            return Ok(());
        }
        if generation < self.generation {
            return Ok(());
        }
        let replicated = protection.phase.is_replicated();
        match (message, &protection.phase) {
            (Message::Heartbeat, _) => Ok(()),
            (Message::Error(text), _) => {
                self.suspect(Suspicion::PeerGaveUp(text), now);
                Ok(())
            }
            (Message::HelloAck(ack), Phase::Greeting(_)) => {
                self.on_hello_ack(machine, &ack, now);
                Ok(())
            }
            (Message::Differ(pages), Phase::Cloning(_)) => match &mut protection.phase {
                Phase::Cloning(clone) => clone.on_differ(pages),
                _ => Ok(()),
            },
            (Message::Ack(ack), _) if replicated => self.on_ack(ack, now),
            (Message::Sections(bytes), Phase::Protected | Phase::Draining) => {
                protection.reported.add(&bytes)
            }
            (Message::Divergence(found), Phase::Protected | Phase::Draining) => {
                self.on_reported(machine, *found, now)
            }
            // Protection is ending anyway.
            (Message::Sections(_) | Message::Divergence(_), Phase::Stopping) => Ok(()),
            (Message::Declined(text), Phase::HandedOver) => {
                self.on_declined(text);
                Ok(())
            }
            (Message::StopAck, Phase::Stopping) => {
                self.on_stop_ack();
                Ok(())
            }
            (message, phase) => {
                let (kind, _) = message.encode();
                Err(format!(
                    "message of kind {kind} while the state is {}",
                    phase.name()
                ))
            }
        }
    }

    /// The backup has received, replayed or verified more.
    ///
    /// # Errors
    /// If that cannot be.
    fn on_ack(&mut self, ack: Ack, now: HostTime) -> Result<(), String> {
        let Some(protection) = self.protection.as_deref_mut() else {
            return Ok(());
        };
        protection.acknowledge(ack, &mut self.gate, now)?;
        self.events
            .extend(protection.note_timeliness(&self.gate, now));
        self.confirm_clone();
        self.confirm_repair();
        Ok(())
    }

    /// The backup has diverged; the sections of its state came before.
    fn on_reported(
        &mut self,
        machine: &mut dyn Machine,
        mut found: Divergence,
        now: HostTime,
    ) -> Result<(), String> {
        let protection = self.protection.as_deref_mut();
        let sections = protection.and_then(|protection| protection.reported.take());
        found.state.sections = sections.ok_or("the divergence has no sections")?;
        self.on_divergence(machine, found, now)
    }

    /// The backup agrees, if its machine is like this one.
    fn on_hello_ack(&mut self, machine: &mut dyn Machine, ack: &HelloAck, now: HostTime) {
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        if let Err(refusal) = protection.facts.agree(&ack.facts) {
            return self.abandon_start(&refusal.to_string(), now);
        }
        protection.phase = Phase::Cloning(LiveClone::begin(machine, &ack.held, now));
    }
}
