//! The pages that were sent last, as the backup has them.
//!
//! What is written again is mostly a little different from what it was; against the previous
//! version that is a few bytes. Kept are at most [`CAPACITY`] pages; of a guest that writes more
//! than that in turn, the pages go without. Which page makes room is chosen by a hand that goes
//! round and passes over each page once that was used since it came by.

use std::collections::BTreeMap;

use crate::machine::{Page, ZERO_PAGE};
use crate::time::PageNumber;

/// Pages kept: 64 MiB.
pub(crate) const CAPACITY: usize = 16 << 10;
/// Buffers kept for the next copy: memory that the host has given already is copied into faster.
const MAX_SPARE: usize = 4 << 10;

/// A page that was sent.
#[derive(Debug)]
struct Slot {
    page: PageNumber,
    bytes: Box<Page>,
    used: bool,
}

/// Pages as they were sent, within a bound.
#[derive(Debug)]
pub(crate) struct SentPages {
    capacity: usize,
    slots: Vec<Slot>,
    places: BTreeMap<PageNumber, usize>,
    hand: usize,
    spare: Vec<Box<Page>>,
}

impl Default for SentPages {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl SentPages {
    /// Room for so many pages, at least one.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            slots: Vec::new(),
            places: BTreeMap::new(),
            hand: 0,
            spare: Vec::new(),
        }
    }

    /// What the backup has of a page, if that is known.
    pub(crate) fn get(&mut self, page: PageNumber) -> Option<&Page> {
        let slot = &mut self.slots[*self.places.get(&page)?];
        slot.used = true;
        Some(&slot.bytes)
    }

    /// A page was sent.
    pub(crate) fn put(&mut self, page: PageNumber, bytes: Box<Page>) {
        if let Some(place) = self.places.get(&page) {
            let old = std::mem::replace(&mut self.slots[*place].bytes, bytes);
            return self.keep_spare(old);
        }
        // Not yet used: pages that are written once make room for each other.
        let fresh = Slot {
            page,
            bytes,
            used: false,
        };
        if self.slots.len() < self.capacity {
            self.places.insert(page, self.slots.len());
            return self.slots.push(fresh);
        }
        while std::mem::take(&mut self.slots[self.hand].used) {
            self.hand = (self.hand + 1) % self.slots.len();
        }
        let old = std::mem::replace(&mut self.slots[self.hand], fresh);
        self.places.remove(&old.page);
        self.places.insert(page, self.hand);
        self.hand = (self.hand + 1) % self.slots.len();
        self.keep_spare(old.bytes);
    }

    /// A buffer to copy a page into.
    pub(crate) fn spare(&mut self) -> Box<Page> {
        self.spare.pop().unwrap_or_else(|| Box::new(ZERO_PAGE))
    }

    /// A buffer that is not used any more.
    pub(crate) fn keep_spare(&mut self, bytes: Box<Page>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(bytes);
        }
    }

    /// What the backup has is not known any more.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.places.clear();
        self.hand = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(byte: u8) -> Box<Page> {
        Box::new([byte; 4096])
    }

    #[test]
    fn a_page_is_found_as_it_was_sent_last() {
        let mut sent = SentPages::with_capacity(4);
        assert!(sent.get(PageNumber(7)).is_none());
        sent.put(PageNumber(7), boxed(1));
        sent.put(PageNumber(7), boxed(2));
        assert_eq!(sent.get(PageNumber(7)).map(|page| page[9]), Some(2));
        assert_eq!(sent.spare()[0], 1, "what was replaced is used again");
        sent.clear();
        assert!(sent.get(PageNumber(7)).is_none());
    }

    #[test]
    fn there_are_never_more_than_fit_and_what_is_used_stays() {
        let mut sent = SentPages::with_capacity(8);
        for page in 0..200 {
            assert!(page == 0 || sent.get(PageNumber(0)).is_some(), "{page}");
            sent.put(PageNumber(page), boxed(page as u8));
            assert!(sent.slots.len() <= 8);
            assert_eq!(sent.places.len(), sent.slots.len());
        }
        for (page, place) in sent.places.clone() {
            assert_eq!(sent.slots[place].page, page);
            assert_eq!(sent.slots[place].bytes[0], page.0 as u8);
        }
    }
}
