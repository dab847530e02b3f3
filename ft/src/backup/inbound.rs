//! What a backup makes of its primary's messages, before the machine sees any of it.

use crate::backup::delta::DeltaStage;
use crate::backup::work_queue::Item;
use crate::backup::{Backup, GREETING_TIMEOUT_MS, MAX_AWAITING_BYTES, Phase};
use crate::codec::FieldReader;
use crate::failover::Suspicion;
use crate::log::{EntryCoder, Event};
use crate::output::ReleasePolicy;
use crate::protocol::{Base, Hello, Message, StopReason};
use crate::snapshot::{MAX_BATCH_PAGES, MAX_REPAIR_BYTES, MAX_REPAIR_PAGES};
use crate::status::{End, FtEvent};
use crate::time::{Generation, HostTime};

/// Most batches of a repair.
const MAX_REPAIR_BATCHES: usize = MAX_REPAIR_PAGES / MAX_BATCH_PAGES;

impl Backup {
    /// Sorts what has come.
    pub(super) fn take_messages(&mut self, now: HostTime) {
        while let Some((generation, message)) = self.link.next_message() {
            if let Err(text) = self.on_message(generation, message, now) {
                return self.on_nonsense(text, now);
            }
        }
        if let Some(text) = self.link.broken().map(str::to_owned) {
            self.on_nonsense(text, now);
        }
    }

    /// Looks for reasons to suspect the primary.
    pub(super) fn watch(&mut self, now: HostTime) {
        if self.end.is_some() {
            return;
        }
        let silent = self.detector.is_silent(now);
        match self.phase {
            Phase::Promoting(_) => {}
            Phase::Listening if self.link_closed => {
                self.end = Some(End::Failed("the connection was closed".into()));
            }
            Phase::Listening if silent => {
                let reason =
                    format!("no primary has opened the connection in {GREETING_TIMEOUT_MS} ms");
                self.give_up(&reason, now);
            }
            Phase::Listening => {}
            _ if self.link_closed => self.suspect(Suspicion::LinkClosed, 0, now),
            Phase::Greeted => {}
            _ if silent => {
                let ms = now.since(self.detector.last_heard()) / crate::time::NS_PER_MS;
                self.suspect(Suspicion::Silent(ms), 0, now);
            }
            _ => {}
        }
    }

    /// The primary sends what no primary would. It is alive, so it is given precedence at the
    /// fence; should it die meanwhile, this side still takes over.
    fn on_nonsense(&mut self, text: String, now: HostTime) {
        if self.end.is_some() || matches!(self.phase, Phase::Promoting(_)) {
            return;
        }
        if self.decoder.is_none() {
            return self.give_up(&text, now);
        }
        self.link
            .send(&Message::Error(text.clone()), self.generation, now);
        let yield_ms = self.parameters.timeout_ms;
        self.suspect(Suspicion::Protocol(text), yield_ms, now);
    }

    /// One message from the primary.
    ///
    /// # Errors
    /// If no primary would send it.
    fn on_message(
        &mut self,
        generation: Generation,
        message: Message,
        now: HostTime,
    ) -> Result<(), String> {
        match (&self.phase, message) {
            (Phase::Listening, Message::Hello(hello)) => self.on_hello(hello, generation),
            (Phase::Listening | Phase::Greeted, Message::Error(text)) => {
                self.end = Some(End::Failed(text));
                Ok(())
            }
            (Phase::Listening | Phase::Greeted, _) => Err("a message before the greeting".into()),
            (_, _) if generation < self.generation => Ok(()),
            (_, _) if generation > self.generation => Err(format!(
                "a message of generation {generation}, not {}",
                self.generation
            )),
            (_, Message::Heartbeat) => Ok(()),
            (_, Message::Pages(bytes)) if self.decoder.is_none() => {
                self.queue.push(Item::Pages(bytes));
                Ok(())
            }
            (_, Message::Compare(pages)) if self.decoder.is_none() => {
                self.queue.push(Item::Compare(pages));
                Ok(())
            }
            (_, Message::Pages(bytes)) if self.awaits_repair() => self.stage(bytes),
            (_, Message::Sections(bytes)) if self.decoder.is_none() || self.awaits_repair() => {
                self.staged_sections.add(&bytes)
            }
            (_, Message::CloneDone(base)) if self.decoder.is_none() => {
                self.on_clone_done(base, now)
            }
            (_, Message::Log(bytes)) => self.on_log(&bytes, now),
            (_, Message::Delta(bytes)) if self.follows_deltas() => self.stage_delta(&bytes),
            (_, Message::Held(outputs)) if self.follows_deltas() => self.stage_outputs(outputs),
            (_, Message::DeltaSections(bytes)) if self.follows_deltas() => {
                self.stage_sections(&bytes)
            }
            (_, Message::Commit(commit)) if self.follows_deltas() => self.on_commit(*commit, now),
            (_, Message::Released(number)) => {
                self.released = self.released.max(number);
                self.gate.forget(number);
                Ok(())
            }
            (_, Message::RepairState(base)) if self.awaits_repair() => self.on_repair_state(base),
            (_, Message::Failover(position)) if self.decoder.is_some() => {
                self.queue.push(Item::Failover(position));
                Ok(())
            }
            (_, Message::Stop(reason)) => {
                self.on_stop(reason, now);
                Ok(())
            }
            (_, Message::Error(text)) => {
                let yield_ms = self.parameters.timeout_ms;
                self.suspect(Suspicion::PeerGaveUp(text), yield_ms, now);
                Ok(())
            }
            (_, message) => {
                let (kind, _) = message.encode();
                Err(format!(
                    "message of kind {kind} while the state is {}",
                    self.state_name()
                ))
            }
        }
    }

    /// A primary opens.
    fn on_hello(&mut self, hello: Box<Hello>, generation: Generation) -> Result<(), String> {
        if hello.generation != generation {
            let named = hello.generation;
            return Err(format!(
                "a greeting of generation {named} in a frame of {generation}"
            ));
        }
        self.generation = generation;
        self.hello = Some(hello);
        self.phase = Phase::Greeted;
        Ok(())
    }

    /// The clone is complete; the log follows.
    fn on_clone_done(&mut self, base: Box<Base>, now: HostTime) -> Result<(), String> {
        let Some(sections) = self.staged_sections.take() else {
            return Err("the clone has no sections".into());
        };
        let decoder = EntryCoder::new(base.at, base.point);
        self.offset.sample(&decoder, now);
        self.decoder = Some(decoder);
        self.ledger = base.ledger;
        self.detector.set_timeout(self.parameters.timeout_ms);
        self.queue.push(Item::Cloned(sections, base));
        Ok(())
    }

    /// Entries of the log.
    fn on_log(&mut self, bytes: &[u8], now: HostTime) -> Result<(), String> {
        let by_delta = self.follows_deltas();
        let Some(decoder) = &mut self.decoder else {
            return Err("log entries before the clone is complete".into());
        };
        let last = decoder.at();
        let mut reader = FieldReader::new(bytes);
        while reader.remaining() > 0 {
            let entry = decoder
                .decode(&mut reader)
                .map_err(|error| error.to_string())?;
            if by_delta && (entry.event != Event::Marker || entry.at != last) {
                return Err("a log entry that is no marker where deltas close epochs".into());
            }
            self.received = self.received.plus(1);
            let releases = self.parameters.release == ReleasePolicy::Received;
            self.ack_now |= releases && matches!(entry.event, Event::Outputs { .. });
            self.queue.push(Item::Entry(self.received, entry));
        }
        self.offset.sample(decoder, now);
        let waiting = self.queue.bytes();
        if self.awaits_repair() && waiting > MAX_AWAITING_BYTES {
            return Err(format!(
                "{waiting} bytes of log before the repair; at most {MAX_AWAITING_BYTES} may come"
            ));
        }
        Ok(())
    }

    /// Keeps pages of a repair until all of it is there.
    fn stage(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        let staged = self.staged_bytes + bytes.len();
        if staged > MAX_REPAIR_BYTES {
            return Err(format!(
                "a repair of {staged} bytes; at most {MAX_REPAIR_BYTES} are possible"
            ));
        }
        let batches = self.staged_pages.len() + 1;
        if batches > MAX_REPAIR_BATCHES {
            return Err(format!(
                "a repair of {batches} batches; at most {MAX_REPAIR_BATCHES} are possible"
            ));
        }
        self.staged_bytes = staged;
        self.staged_pages.push_back(bytes);
        Ok(())
    }

    /// A repair is complete; what came before it is void.
    fn on_repair_state(&mut self, base: Box<Base>) -> Result<(), String> {
        let Some(sections) = self.staged_sections.take() else {
            return Err("the repair has no sections".into());
        };
        if base.position != self.received {
            return Err(format!(
                "a repair at {}, not {}",
                base.position, self.received
            ));
        }
        if self.follows_deltas() {
            self.decoder = Some(EntryCoder::new(base.at, base.point));
            self.ledger = base.ledger;
        }
        let pages = std::mem::take(&mut self.staged_pages);
        self.staged_delta = DeltaStage::default();
        self.staged_bytes = 0;
        self.queue.clear();
        self.queue.push(Item::Repair(pages, sections, base));
        Ok(())
    }

    /// Protection ends: this side will not take over.
    fn on_stop(&mut self, reason: StopReason, now: HostTime) {
        self.link.send(&Message::StopAck, self.generation, now);
        self.link.close();
        self.events.push(FtEvent::Stopped);
        self.end = Some(match reason {
            StopReason::Requested => End::Stopped,
            StopReason::PoweredOff => End::PoweredOff,
        });
    }
}
