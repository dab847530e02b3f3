//! Live clone: the machine is copied while it runs, in the rounds of [`crate::precopy`], and lives
//! on.
//!
//! ```text
//!   round 0   of the pages that the backup holds already, only those that differ are sent
//!   round n   what was written meanwhile
//!   last      the guest stands still for few pages, its sections and CloneDone; then it runs on,
//!             recording, at epoch 0
//! ```
//!
//! So the pause is bounded. A guest that writes faster than can be sent even at its smallest share
//! is not protected: the start fails and says how fast it writes.

use crate::codec::FieldWriter;
use crate::link::Link;
use crate::log::EntryCoder;
use crate::machine::Machine;
use crate::precopy::{self, Goal, Precopy};
use crate::primary::Primary;
use crate::primary::compare::Comparison;
use crate::primary::delta::Closing;
use crate::primary::protection::{OutgoingLog, Phase};
use crate::protocol::{Base, Message};
use crate::runs::PageRuns;
use crate::snapshot::{MAX_BATCH_PAGES, write_pages};
use crate::status::CloneSummary;
use crate::throttle::SliceThrottle;
use crate::time::{Epoch, Generation, HostTime, LogPosition, NS_PER_MS, PageNumber};

/// Pages sent between two slices of the guest: about as long as a slice takes, so that the guest
/// keeps half of its speed.
const PAGES_PER_STEP: usize = 64;
/// Pages sent between two slices of a guest that is slowed, which has given up its speed anyway:
/// two mebibytes, a few milliseconds.
const MAX_PAGES_PER_STEP: usize = 512;
/// Bytes that may wait for the connection before more are added.
pub(super) const MAX_UNSENT: usize = 4 << 20;
/// The pause is for 4 MiB, ten milliseconds or so.
const GOAL: Goal = Goal {
    pause_pages: 1024,
    few_pages: 1024,
    patience: 4,
};

/// A live clone under way.
#[derive(Debug)]
pub(super) struct LiveClone {
    precopy: Precopy,
    comparison: Comparison,
}

/// What comes after a step.
enum Onward {
    /// More pages.
    More,
    /// More pages once the backup has answered.
    Answer,
    /// The pause.
    Pause,
    /// Nothing: the guest writes too fast, or the host cannot read what is to be sent.
    Hopeless(String),
}

impl LiveClone {
    /// Begins: what is dirty does not matter, for everything is going to be sent but what the
    /// backup holds and is equal.
    pub(super) fn begin(machine: &mut dyn Machine, held: &PageRuns, now: HostTime) -> Self {
        machine.take_dirty_pages();
        // What could not be read before is nothing that was sent.
        machine.take_unreadable();
        let touched = machine.touched_pages();
        let round_pages = touched.len();
        let (common, todo) = held.split(touched);
        Self {
            precopy: Precopy::begin(todo, round_pages, now),
            comparison: Comparison::new(common),
        }
    }

    /// The backup says which of the pages that were compared differ.
    ///
    /// # Errors
    /// If no backup would say that.
    pub(super) fn on_differ(&mut self, differing: Vec<PageNumber>) -> Result<(), String> {
        self.comparison.answer(differing)
    }

    /// Sends some pages.
    fn step(
        &mut self,
        machine: &mut dyn Machine,
        (link, throttle): (&mut Link, &mut SliceThrottle),
        generation: Generation,
        now: HostTime,
    ) -> Onward {
        if let Err(reason) = self.comparison.ask(machine, link, generation, now) {
            return Onward::Hopeless(reason);
        }
        let mut left = PAGES_PER_STEP.saturating_mul(throttle.divisor() as usize);
        left = left.min(MAX_PAGES_PER_STEP);
        while left > 0 {
            let batch = self.next_batch(left.min(MAX_BATCH_PAGES));
            if batch.is_empty() {
                break;
            }
            if let Err(reason) = send_pages(machine, &batch, link, generation, now) {
                return Onward::Hopeless(reason);
            }
            left -= batch.len();
        }
        if !self.precopy.is_round_over() || self.comparison.has_more() {
            return Onward::More;
        }
        if !self.comparison.is_done() {
            return Onward::Answer;
        }
        self.next_round(machine, throttle, now)
    }

    /// The next pages to be sent, at most so many, ascending; none if there are none at the moment.
    fn next_batch(&mut self, most: usize) -> Vec<PageNumber> {
        if !self.precopy.is_round_over() {
            return self.precopy.next_batch(most);
        }
        let batch = self.comparison.take(most);
        self.precopy.count(batch.len());
        batch
    }

    /// Begins the next round, or ends them.
    fn next_round(
        &mut self,
        machine: &mut dyn Machine,
        throttle: &mut SliceThrottle,
        now: HostTime,
    ) -> Onward {
        let dirty = machine.take_dirty_pages();
        let onward = self
            .precopy
            .next_round(dirty, GOAL, || throttle.raise(), now);
        match onward {
            precopy::Onward::Round => Onward::More,
            precopy::Onward::Pause => Onward::Pause,
            precopy::Onward::Hopeless {
                written_per_second,
                sent_per_second,
            } => Onward::Hopeless(format!(
                "the guest writes {written_per_second} pages a second with one part in {} of its \
                 time, and {sent_per_second} a second can be sent",
                throttle.divisor(),
            )),
        }
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
        // What this takes says nothing of the guest's speed.
        self.recorder.hold_back();
        let outlets = (&mut protection.link, &mut protection.clone_throttle);
        match clone.step(machine, outlets, generation, now) {
            Onward::More => return true,
            Onward::Answer => return false,
            Onward::Pause => {}
            Onward::Hopeless(reason) => {
                self.abandon_start(&reason, now);
                return false;
            }
        }
        self.complete_clone(machine, now);
        false
    }

    /// Sends what is left while the guest stands still; the log begins.
    fn complete_clone(&mut self, machine: &mut dyn Machine, now: HostTime) {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let Phase::Cloning(clone) = &protection.phase else {
            return;
        };
        machine.synchronise();
        let rest = clone.precopy.rest();
        let mut batches = rest.chunks(MAX_BATCH_PAGES);
        let link = &mut protection.link;
        let sent = batches.try_for_each(|batch| send_pages(machine, batch, link, generation, now));
        if let Err(reason) = sent {
            return self.abandon_start(&reason, now);
        }
        let summary = CloneSummary {
            rounds: clone.precopy.round() + 1,
            pages: clone.precopy.pages() + rest.len() as u64,
            total_ms: now.since(clone.precopy.started()) as f64 / NS_PER_MS as f64,
            pause_ms: 0.0,
        };
        let sections = machine.sections();
        protection.link.send_sections(&sections, generation, now);
        let (mode, outputs) = (protection.parameters.mode, self.recorder.ledger().count);
        protection.closing = Closing::of(mode, sections, outputs, now);
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
        self.pausing = Some((now, summary));
        protection.unconfirmed = Some(summary);
        protection.phase = Phase::Protected;
        let timeout_ms = protection.parameters.timeout_ms;
        protection.detector.set_timeout(timeout_ms);
        self.recorder
            .restart_epochs(protection.parameters.epoch_ms, now);
        self.gate.rebase();
        self.gate.reset_latency();
    }
}

/// Sends a batch of pages as they are now.
///
/// # Errors
/// If one of them cannot be read; none is sent then.
pub(super) fn send_pages(
    machine: &mut dyn Machine,
    pages: &[PageNumber],
    link: &mut Link,
    generation: Generation,
    now: HostTime,
) -> Result<(), String> {
    let mut payload = FieldWriter::new();
    write_pages(&mut payload, machine, pages);
    if let Some(text) = machine.take_unreadable() {
        return Err(text);
    }
    link.send(&Message::Pages(payload.finish()), generation, now);
    Ok(())
}
