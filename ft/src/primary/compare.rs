//! What of the first round a backup has already: only pages that differ are sent.
//!
//! A backup says which pages it holds. Of those, the digests are sent, some runs of them ahead of
//! the answers, and each answer names the pages that differ. A page that is written meanwhile is
//! sent in the next round, as any other.

use std::collections::VecDeque;

use crate::digest::PageDigest;
use crate::link::Link;
use crate::machine::Machine;
use crate::protocol::{MAX_COMPARED_PAGES, Message};
use crate::time::{Generation, HostTime, PageNumber};

/// Questions that may be open: enough for 30 ms on the way at a gigabyte a second.
const MAX_OPEN: usize = 8;

/// A comparison of pages that both sides hold.
#[derive(Debug)]
pub(super) struct Comparison {
    pages: Vec<PageNumber>,
    asked: usize,
    open: VecDeque<Vec<PageNumber>>,
    differing: VecDeque<PageNumber>,
}

impl Comparison {
    /// A comparison of these pages, ascending.
    pub(super) fn new(pages: Vec<PageNumber>) -> Self {
        Self {
            pages,
            asked: 0,
            open: VecDeque::new(),
            differing: VecDeque::new(),
        }
    }

    /// Asks about some more pages, if that may be.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub(super) fn ask(
        &mut self,
        machine: &mut dyn Machine,
        link: &mut Link,
        generation: Generation,
        now: HostTime,
    ) -> Result<(), String> {
        let end = self.pages.len().min(self.asked + MAX_COMPARED_PAGES);
        if self.open.len() >= MAX_OPEN || end == self.asked {
            return Ok(());
        }
        let asked = self.pages[self.asked..end].to_vec();
        let digests = asked.iter().map(|page| PageDigest {
            page: *page,
            digest: machine.page_digest(*page),
        });
        let question = Message::Compare(digests.collect());
        if let Some(text) = machine.take_unreadable() {
            return Err(text);
        }
        link.send(&question, generation, now);
        self.open.push_back(asked);
        self.asked = end;
        Ok(())
    }

    /// Takes the answer to the oldest open question.
    ///
    /// # Errors
    /// If there is none, or other pages are named.
    pub(super) fn answer(&mut self, differing: Vec<PageNumber>) -> Result<(), String> {
        let Some(asked) = self.open.pop_front() else {
            return Err("differing pages that nobody asked for".into());
        };
        let stranger = differing
            .iter()
            .find(|page| asked.binary_search(page).is_err());
        if let Some(page) = stranger {
            return Err(format!("page {page} differs, which was not compared"));
        }
        self.differing.extend(differing);
        Ok(())
    }

    /// Takes at most `most` pages that differ, ascending.
    pub(super) fn take(&mut self, most: usize) -> Vec<PageNumber> {
        // The answers ascend, as the questions do.
        let count = self.differing.len().min(most);
        self.differing.drain(..count).collect()
    }

    /// Whether something more can be done before the next answer.
    pub(super) fn has_more(&self) -> bool {
        let can_ask = self.asked < self.pages.len() && self.open.len() < MAX_OPEN;
        can_ask || !self.differing.is_empty()
    }

    /// Whether everything is compared and what differs was taken.
    pub(super) fn is_done(&self) -> bool {
        self.asked == self.pages.len() && self.open.is_empty() && self.differing.is_empty()
    }
}
