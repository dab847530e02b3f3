//! The machine: CPU, memory and the guest-visible half of every device, as one deterministic
//! state machine.
//!
//! ```text
//!   inject(input) ──▶ ┌──────────────────────┐
//!                     │ advance(until) ─▶ Stop │ ──▶ take_outputs()
//!                     └──────────────────────┘
//!   sections() + pages  ◀── all of its state ──▶  restore() + write_page()
//! ```
//!
//! State changes only with an input or with an instruction that retires. What is due at a logical
//! time (an interrupt, a timer) happens as part of the *next* instruction, so that the state at a
//! logical time does not depend on whether the machine was asked to go on from there.
//!
//! The contract on which everything else rests: two machines with equal sections, equal pages and
//! a `synchronise` behind them, given equal inputs at equal logical times, have equal sections,
//! equal pages and equal outputs at every later logical time, however `advance` was sliced.

use std::fmt;

use serde::Serialize;

use crate::digest;
use crate::event::{Input, Output};
use crate::time::{LogicalTime, PageNumber};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// One page of guest memory.
pub type Page = [u8; PAGE_SIZE];

/// A page of zeroes.
pub const ZERO_PAGE: Page = [0; PAGE_SIZE];

/// Why [`Machine::advance`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `now()` is `until`.
    Reached,
    /// The guest is halted before `until`; only an input makes it go on.
    Idle {
        /// Virtual time of the next timer, if one is armed. A clock input at or past it wakes.
        wake_ns: Option<u64>,
    },
    /// At an instruction boundary, [`Machine::take_outputs`] has something.
    Output,
    /// The host asked for control; no effect on state, `now()` may be before `until`.
    Kicked,
    /// The guest has switched itself off; it says so again each time it is asked.
    PoweredOff,
    /// The machine cannot go on. Nothing it did since the last return may be trusted.
    Failed(String),
}

/// What a machine's logical time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Retired instructions: how long one takes is to be measured.
    Instructions,
    /// Nanoseconds in which the guest executed: the speed is known, and is the guest's own.
    Nanoseconds,
}

/// One component's state, in canonical form: equal states have equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Which component.
    pub name: String,
    /// Version of the byte form.
    pub version: u16,
    /// The state.
    pub bytes: Vec<u8>,
}

/// One field that differs between two states of a section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// The field's name, as an engineer would look for it.
    pub field: String,
    /// Its value in the first state.
    pub first: String,
    /// Its value in the second state.
    pub second: String,
}

/// A deterministic machine.
///
/// Order of use: (`restore`, `write_page`)? then `synchronise`, then `advance` and `inject` in
/// turn. It is owned by one thread; nothing here is called from another.
pub trait Machine {
    /// What must be equal on both hosts for replay to be exact: CPU model, device set, versions.
    fn fingerprint(&self) -> String;

    /// Whether another machine can repeat what this one does: its logical time is exact and nothing
    /// enters it but inputs. The rest of the contract holds for any machine.
    ///
    /// # Errors
    /// Why it cannot, in a sentence.
    fn replayable(&self) -> Result<(), String> {
        Ok(())
    }

    /// Its logical time.
    fn now(&self) -> LogicalTime;

    /// What logical time counts.
    fn time_unit(&self) -> TimeUnit {
        TimeUnit::Instructions
    }

    /// Virtual time at [`Self::now`], in nanoseconds: the last clock input carried forward.
    fn virtual_ns(&self) -> u64;

    /// Executes until `now()` is `until` or something else stops it first. With `until` not after
    /// `now()` it returns [`Stop::Reached`] and does nothing.
    fn advance(&mut self, until: LogicalTime) -> Stop;

    /// Gives the machine an input at [`Self::now`].
    ///
    /// # Errors
    /// If the machine has no such device or cannot make sense of the bytes; its state is then as
    /// it was, and the refusal is the same on every machine in that state.
    fn inject(&mut self, input: &Input) -> Result<(), MachineError>;

    /// Takes what the machine has put out since the last call, oldest first.
    fn take_outputs(&mut self) -> Vec<Output>;

    /// All state that is not memory, in a fixed order of sections.
    fn sections(&self) -> Vec<Section>;

    /// Sets all state that is not memory.
    ///
    /// # Errors
    /// If a section is missing, unknown, of another version or malformed.
    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError>;

    /// Names the fields in which two states of a section differ. An empty answer for differing
    /// bytes is allowed; the report then gives the first differing byte.
    fn describe_difference(&self, name: &str, first: &[u8], second: &[u8]) -> Vec<FieldDifference>;

    /// How many pages of memory there are.
    fn page_count(&self) -> u64;

    /// The first page of each part whose pages are scrubbed by themselves, ascending from zero:
    /// with a large disk behind it, a small memory would have its turn seldom. Equal on both sides,
    /// as the number of pages is; each part costs one more window in each epoch.
    fn scrub_parts(&self) -> Vec<u64> {
        vec![0]
    }

    /// Copies a page out. `page` is below [`Self::page_count`].
    fn read_page(&self, page: PageNumber, bytes: &mut Page);

    /// Takes what could not be read for [`Self::read_page`] or [`Self::page_digest`] since the last
    /// call, if anything; those pages counted as zeroes.
    fn take_unreadable(&mut self) -> Option<String> {
        None
    }

    /// What the host could not do, if the machine cannot go on because of it: what was set is not
    /// all there.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Sets a page and counts it as dirty. `page` is below [`Self::page_count`].
    fn write_page(&mut self, page: PageNumber, bytes: &Page);

    /// Digest of a page. Override to avoid the copy; it must equal [`digest::of_page`].
    fn page_digest(&self, page: PageNumber) -> u64 {
        let mut bytes = ZERO_PAGE;
        self.read_page(page, &mut bytes);
        digest::of_page(&bytes)
    }

    /// Pages of whose contents [`Self::page_digest`] says nothing at the moment, as those of a disk
    /// that are being written: a repair ships them, whatever their digests.
    fn undecided_pages(&self) -> Vec<PageNumber> {
        Vec::new()
    }

    /// Takes the pages written since the last call, ascending, each once. The set is as
    /// deterministic as the rest of the state.
    fn take_dirty_pages(&mut self) -> Vec<PageNumber>;

    /// About how many pages were written since [`Self::take_dirty_pages`] was last called; cheap,
    /// and never more than there are. An epoch ends when there are many.
    fn dirty_pages_hint(&self) -> u64 {
        0
    }

    /// All pages that may hold something else than zeroes, ascending, each once.
    fn touched_pages(&self) -> Vec<PageNumber>;

    /// Drops every cache whose contents could show in later execution (a TLB, for one), so that a
    /// machine that was restored and one that was not go on alike.
    fn synchronise(&mut self);
}

/// A machine refused what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineError {
    /// What and why, in one line.
    pub reason: String,
}

impl MachineError {
    /// An error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for MachineError {}
