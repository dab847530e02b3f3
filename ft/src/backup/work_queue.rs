//! What has come from the primary and waits for the machine, with its weight in bytes.

use std::collections::VecDeque;

use crate::backup::delta::Delta;
use crate::digest::PageDigest;
use crate::log::Entry;
use crate::machine::Section;
use crate::protocol::Base;
use crate::time::LogPosition;

/// Weight of an entry or of a page to be compared, beside its payload.
const ENTRY_BYTES: usize = 64;

/// What has come, in the order in which it came.
pub(super) enum Item {
    /// A batch of pages of the clone.
    Pages(Vec<u8>),
    /// Pages of the clone that this side may have already.
    Compare(Vec<PageDigest>),
    /// The clone is complete.
    Cloned(Vec<Section>, Box<Base>),
    /// An entry of the log, with its position.
    Entry(LogPosition, Entry),
    /// The end of an epoch, with all that has changed in it.
    Delta(Box<Delta>),
    /// What differs from the primary: batches of pages, and sections.
    Repair(VecDeque<Vec<u8>>, Vec<Section>, Box<Base>),
    /// The primary wants this side to take over.
    Failover(LogPosition),
}

impl Item {
    /// About how much memory it takes.
    fn weight(&self) -> usize {
        match self {
            Self::Pages(bytes) => bytes.len(),
            Self::Compare(pages) => pages.len() * size_of::<PageDigest>(),
            Self::Entry(_, entry) => ENTRY_BYTES + entry.payload_bytes(),
            Self::Delta(delta) => ENTRY_BYTES + delta.weight(),
            Self::Repair(batches, ..) => batches.iter().map(Vec::len).sum(),
            Self::Cloned(..) | Self::Failover(_) => ENTRY_BYTES,
        }
    }
}

/// Items that wait.
#[derive(Default)]
pub(super) struct WorkQueue {
    items: VecDeque<(usize, Item)>,
    bytes: usize,
}

impl WorkQueue {
    /// Adds an item.
    pub(super) fn push(&mut self, item: Item) {
        let weight = item.weight();
        self.bytes += weight;
        self.items.push_back((weight, item));
    }

    /// Takes the first item.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let (weight, item) = self.items.pop_front()?;
        self.bytes -= weight;
        Some(item)
    }

    /// Puts the first item back, or what is left of it.
    pub(super) fn put_back(&mut self, item: Item) {
        let weight = item.weight();
        self.bytes += weight;
        self.items.push_front((weight, item));
    }

    /// The first item.
    pub(super) fn first(&self) -> Option<&Item> {
        self.items.front().map(|(_, item)| item)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        (self.items, self.bytes) = (VecDeque::new(), 0);
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// About how much memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same without a delta at the front. That has a bound of its own, and may be far larger
    /// than all that should wait: while it is set, the primary has to be heard.
    pub(super) fn bytes_behind_delta(&self) -> usize {
        match self.items.front() {
            Some((weight, Item::Delta(_))) => self.bytes - weight,
            _ => self.bytes,
        }
    }
}
