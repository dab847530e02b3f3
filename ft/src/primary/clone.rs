//! Live clone: the machine is copied while it runs, in rounds of dirty pages.
//!
//! ```text
//!   round 0   every page that was ever touched, in batches between slices of the guest
//!   round n   the pages that were written during round n − 1
//!   last      few are left, or the rounds do not get shorter: the guest stands still for the
//!             rest, its sections and CloneDone; then it runs on, recording, at epoch 0
//! ```

use crate::codec::FieldWriter;
use crate::link::Link;
use crate::log::EntryCoder;
use crate::machine::{Machine, Section};
use crate::primary::Primary;
use crate::primary::protection::{OutgoingLog, Phase};
use crate::protocol::{Base, Message};
use crate::snapshot::{MAX_BATCH_PAGES, write_pages, write_sections};
use crate::status::CloneSummary;
use crate::time::{Epoch, Generation, HostTime, LogPosition, NS_PER_MS, PageNumber};

/// Batches sent between two slices of the guest: half a mebibyte of memory, under a millisecond.
const BATCHES_PER_STEP: usize = 2;
/// Bytes that may wait for the connection before more are added.
const MAX_UNSENT: usize = 4 << 20;
/// Pages that may be left for the pause: 4 MiB, ten milliseconds or so.
const PAUSE_PAGES: usize = 1024;
/// Rounds after which the rest is sent in the pause, however much it is.
const MAX_ROUNDS: u64 = 30;
/// Rounds without getting shorter after which the rest is sent in the pause.
const MAX_FUTILE_ROUNDS: u64 = 4;

/// A live clone under way.
#[derive(Debug)]
pub(super) struct LiveClone {
    todo: Vec<PageNumber>,
    done: usize,
    round: u64,
    futile: u64,
    pages: u64,
    started: HostTime,
}

impl LiveClone {
    /// Begins: what is dirty does not matter, for everything is going to be sent.
    pub(super) fn begin(machine: &mut dyn Machine, now: HostTime) -> Self {
        machine.take_dirty_pages();
        let todo = machine.touched_pages();
        Self {
            todo,
            done: 0,
            round: 0,
            futile: 0,
            pages: 0,
            started: now,
        }
    }

    /// Sends some pages; whether the guest should now stand still for the rest.
    fn step(
        &mut self,
        machine: &mut dyn Machine,
        link: &mut Link,
        generation: Generation,
        now: HostTime,
    ) -> bool {
        for _ in 0..BATCHES_PER_STEP {
            if self.done == self.todo.len() {
                return self.next_round(machine);
            }
            let end = self.todo.len().min(self.done + MAX_BATCH_PAGES);
            send_pages(machine, &self.todo[self.done..end], link, generation, now);
            self.pages += (end - self.done) as u64;
            self.done = end;
        }
        false
    }

    /// Begins the next round; whether it should be the last.
    fn next_round(&mut self, machine: &mut dyn Machine) -> bool {
        let dirty = machine.take_dirty_pages();
        self.futile += u64::from(dirty.len() >= self.todo.len());
        self.round += 1;
        (self.todo, self.done) = (dirty, 0);
        self.todo.len() <= PAUSE_PAGES
            || self.round >= MAX_ROUNDS
            || self.futile >= MAX_FUTILE_ROUNDS
    }
}

impl Primary {
    /// Goes on with a live clone, if one is under way. Whether there is more to send at once.
    pub(super) fn clone_step(&mut self, machine: &mut dyn Machine, now: HostTime) -> bool {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return false;
        };
        let Phase::Cloning(clone) = &mut protection.phase else {
            return false;
        };
        if protection.link.unsent() > MAX_UNSENT {
            return false;
        }
        if !clone.step(machine, &mut protection.link, generation, now) {
            return true;
        }
        let rest = clone.todo.clone();
        machine.synchronise();
        for batch in rest.chunks(MAX_BATCH_PAGES) {
            send_pages(machine, batch, &mut protection.link, generation, now);
        }
        send_sections(&machine.sections(), &mut protection.link, generation, now);
        let base = Base {
            epoch: Epoch(0),
            at: machine.now(),
            position: LogPosition(0),
            point: self.recorder.point(),
            ledger: self.recorder.ledger(),
            held: self.gate.waiting().cloned().collect(),
        };
        let coder = EntryCoder::new(base.at, base.point);
        protection.log = Some(OutgoingLog::new(coder, base.at, now));
        protection.released_told = self.gate.released();
        let released = Message::Released(protection.released_told);
        protection.link.send(&released, generation, now);
        protection
            .link
            .send(&Message::CloneDone(Box::new(base)), generation, now);
        let summary = CloneSummary {
            rounds: clone.round + 1,
            pages: clone.pages + rest.len() as u64,
            total_ms: now.since(clone.started) as f64 / NS_PER_MS as f64,
            pause_ms: 0.0,
        };
        self.pausing = Some((now, summary));
        protection.unconfirmed = Some(summary);
        protection.phase = Phase::Protected;
        self.recorder
            .restart_epochs(protection.parameters.epoch_ms, now);
        self.gate.rebase();
        self.gate.reset_latency();
        false
    }
}

/// Sends a batch of pages as they are now.
pub(super) fn send_pages(
    machine: &dyn Machine,
    pages: &[PageNumber],
    link: &mut Link,
    generation: Generation,
    now: HostTime,
) {
    let mut payload = FieldWriter::new();
    write_pages(&mut payload, machine, pages);
    link.send(&Message::Pages(payload.finish()), generation, now);
}

/// Sends sections.
pub(super) fn send_sections(
    sections: &[Section],
    link: &mut Link,
    generation: Generation,
    now: HostTime,
) {
    let mut payload = FieldWriter::new();
    write_sections(&mut payload, sections);
    link.send(&Message::Sections(payload.finish()), generation, now);
}
