//! Deltas on the backup's side: kept until all of one is there, then set as a whole.
//!
//! What is wrong with the bytes of a delta shows when they come, before anything of it is set. A
//! delta that was acknowledged is set whatever becomes of the primary; one that is not complete
//! when this side turns to taking over is dropped.

use crate::backup::work_queue::Item;
use crate::backup::{Backup, MAX_AWAITING_BYTES, Phase, replay_base};
use crate::checkpoint::pages::{StagedPage, mix, read_batch};
use crate::checkpoint::sections::{replaced, unpack};
use crate::digest::{self, EpochDigest, PageDigest};
use crate::log::EntryCoder;
use crate::machine::{Machine, PAGE_SIZE, Section, ZERO_PAGE};
use crate::mode::Mode;
use crate::output::{NumberedOutput, ReleasePolicy};
use crate::protocol::Commit;
use crate::replay::{ReplayedEpoch, Replayer};
use crate::section_stage::SectionStage;
use crate::time::{HostTime, LogPosition, PageNumber};

/// Pages set between two heartbeats.
const PAGES_PER_STEP: usize = 1024;
/// Most bytes of the outputs of a delta, with what it takes to keep them.
const MAX_HELD_BYTES: usize = 64 << 20;

/// A delta of which not all has come.
#[derive(Debug, Default)]
pub(super) struct DeltaStage {
    pages: Vec<(PageNumber, StagedPage)>,
    outputs: Vec<NumberedOutput>,
    output_bytes: usize,
    sections: SectionStage,
}

impl DeltaStage {
    /// Keeps outputs.
    fn add_outputs(&mut self, outputs: Vec<NumberedOutput>) -> Result<(), String> {
        self.output_bytes += weight_of(&outputs);
        if self.output_bytes > MAX_HELD_BYTES {
            return Err(format!(
                "{} bytes of outputs in a delta; at most {MAX_HELD_BYTES} are possible",
                self.output_bytes
            ));
        }
        self.outputs.extend(outputs);
        Ok(())
    }
}

/// About how much memory outputs take; those without a byte take some, too.
fn weight_of(outputs: &[NumberedOutput]) -> usize {
    let payloads = outputs.iter().map(|held| held.output.payload.len());
    size_of_val(outputs) + payloads.sum::<usize>()
}

/// A delta that has come.
pub(super) struct Delta {
    commit: Commit,
    pages: Vec<(PageNumber, StagedPage)>,
    outputs: Vec<NumberedOutput>,
    sections: Vec<Section>,
    /// Digests of the pages that are set.
    set: Vec<PageDigest>,
}

impl Delta {
    /// About how much memory it takes.
    pub(super) fn weight(&self) -> usize {
        let sections = self.sections.iter().map(|section| section.bytes.len());
        let held = |(_, page): &&(PageNumber, StagedPage)| {
            matches!(page, StagedPage::Difference(_) | StagedPage::Whole(_))
        };
        let held = self.pages.iter().filter(held).count() * PAGE_SIZE;
        held + size_of_val(&self.pages[..]) + weight_of(&self.outputs) + sections.sum::<usize>()
    }
}

impl Backup {
    /// Whether this side is given deltas, and could be given one now.
    pub(super) fn follows_deltas(&self) -> bool {
        self.decoder.is_some() && self.parameters.mode == Mode::Checkpoint
    }

    /// A batch of pages of a delta.
    ///
    /// # Errors
    /// If no primary would send it.
    pub(super) fn stage_delta(&mut self, payload: &[u8]) -> Result<(), String> {
        let count = self.facts.as_ref().map_or(0, |facts| facts.page_count);
        read_batch(payload, count, &mut self.staged_delta.pages).map_err(|error| error.to_string())
    }

    /// Outputs of a delta.
    ///
    /// # Errors
    /// If they are more than a delta has.
    pub(super) fn stage_outputs(&mut self, outputs: Vec<NumberedOutput>) -> Result<(), String> {
        self.staged_delta.add_outputs(outputs)
    }

    /// Sections of a delta.
    ///
    /// # Errors
    /// If no primary would send them.
    pub(super) fn stage_sections(&mut self, payload: &[u8]) -> Result<(), String> {
        let plain = unpack(payload).map_err(|error| error.to_string())?;
        self.staged_delta.sections.add(&plain)
    }

    /// A delta is complete.
    ///
    /// # Errors
    /// If it does not follow the log before it, or does not have its outputs.
    pub(super) fn on_commit(&mut self, commit: Commit, now: HostTime) -> Result<(), String> {
        let DeltaStage {
            pages,
            outputs,
            mut sections,
            ..
        } = std::mem::take(&mut self.staged_delta);
        let base = &commit.base;
        let expected = self.received.plus(1);
        let earliest = self
            .decoder
            .as_ref()
            .map(EntryCoder::at)
            .unwrap_or_default();
        if base.position != expected || base.at < earliest || commit.ended().is_none() {
            return Err(format!(
                "a delta for position {} at logical time {} before epoch {}, expected position \
                 {expected} at {earliest} or later",
                base.position, base.at, base.epoch
            ));
        }
        // Of an output that is missing here the world would never hear if this side went live.
        if self.ledger.behind(&outputs) != Some(base.ledger) {
            return Err(format!(
                "{} outputs in a delta that goes from output {} to {}",
                outputs.len(),
                self.ledger.count,
                base.ledger.count
            ));
        }
        self.ledger = base.ledger;
        let decoder = EntryCoder::new(base.at, base.point);
        self.offset.sample(&decoder, now);
        self.decoder = Some(decoder);
        self.received = expected;
        self.ack_now = true;
        self.queue.push(Item::Delta(Box::new(Delta {
            set: Vec::with_capacity(pages.len()),
            commit,
            pages,
            outputs,
            sections: sections.take().unwrap_or_default(),
        })));
        let waiting = self.queue.bytes();
        if self.awaits_repair() && waiting > MAX_AWAITING_BYTES {
            return Err(format!(
                "{waiting} bytes of deltas before the repair; at most {MAX_AWAITING_BYTES} may come"
            ));
        }
        Ok(())
    }

    /// Sets a delta, or some of its pages; gives it back if there is more to set.
    pub(super) fn set_delta(
        &mut self,
        machine: &mut dyn Machine,
        mut delta: Box<Delta>,
        now: HostTime,
    ) -> Option<Box<Delta>> {
        let done = delta.set.len();
        let end = delta.pages.len().min(done + PAGES_PER_STEP);
        for (page, staged) in &delta.pages[done..end] {
            let digest = set_page(machine, *page, staged);
            delta.set.push(PageDigest {
                page: *page,
                digest,
            });
        }
        if end < delta.pages.len() {
            return Some(delta);
        }
        self.complete_delta(machine, *delta, now);
        None
    }

    /// The pages of a delta are set: the machine is what the primary was at the end of the epoch.
    fn complete_delta(&mut self, machine: &mut dyn Machine, delta: Delta, now: HostTime) {
        let Delta {
            commit,
            pages,
            outputs,
            sections,
            set,
        } = delta;
        let sections = replaced(std::mem::take(&mut self.sections), &sections);
        if let Err(error) = machine.restore(&sections) {
            return self.give_up(&format!("the machine refuses the delta: {error}"), now);
        }
        if let Some(text) = machine.failure() {
            return self.give_up(&format!("the machine does not take the delta: {text}"), now);
        }
        self.sections = sections;
        let epoch = commit.ended().unwrap_or_default();
        let scrub_pages = self.parameters.scrub_pages;
        let written: Vec<PageNumber> = pages.into_iter().map(|(page, _)| page).collect();
        let scrubbed = digest::scrub(machine, epoch, scrub_pages, &written);
        let ledger = commit.base.ledger;
        let digest = EpochDigest::of_delta(machine.sections(), set, scrubbed, ledger);
        // The zeroes that stand for what cannot be read differ, and are repaired.
        machine.take_unreadable();
        machine.take_dirty_pages();
        self.replayer = Some(Replayer::new(replay_base(&commit.base), scrub_pages));
        let released = self.released;
        for output in outputs.into_iter().filter(|held| held.number > released) {
            self.gate.queue(output, LogPosition(0), now);
        }
        let ended = ReplayedEpoch {
            epoch,
            at: commit.base.at,
            digest,
            recorded: commit.root,
        };
        let equal = ended.is_equal();
        self.on_epoch(commit.base.position, ended, now);
        if equal || matches!(self.phase, Phase::Promoting(_)) {
            self.replayed = commit.base.position;
            self.ack_now |= self.releases_on(ReleasePolicy::Replayed);
        }
    }
}

/// Sets a page; the digest of what it holds then.
fn set_page(machine: &mut dyn Machine, page: PageNumber, staged: &StagedPage) -> u64 {
    let mut bytes = ZERO_PAGE;
    match staged {
        StagedPage::Same => {
            machine.read_page(page, &mut bytes);
            return digest::of_page(&bytes);
        }
        StagedPage::Zero => {}
        StagedPage::Difference(difference) => {
            machine.read_page(page, &mut bytes);
            mix(&mut bytes, difference);
        }
        StagedPage::Whole(whole) => bytes.copy_from_slice(whole.as_slice()),
    }
    machine.write_page(page, &bytes);
    digest::of_page(&bytes)
}
