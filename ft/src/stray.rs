//! Pages that a machine held before it is given another one's state, and that may have to go.

use crate::machine::{Machine, ZERO_PAGE};
use crate::runs::PageRuns;
use crate::time::PageNumber;

/// The pages a machine had touched, each of them until it is known what it holds.
#[derive(Debug, Default)]
pub(crate) struct StrayPages {
    pages: Vec<PageNumber>,
    settled: Vec<bool>,
    cleared: usize,
}

impl StrayPages {
    /// All pages that `machine` has touched.
    pub(crate) fn of(machine: &dyn Machine) -> Self {
        let pages = machine.touched_pages();
        Self {
            settled: vec![false; pages.len()],
            pages,
            cleared: 0,
        }
    }

    /// The same pages, as runs.
    pub(crate) fn runs(&self) -> PageRuns {
        PageRuns::of(&self.pages)
    }

    /// The page holds what it should.
    pub(crate) fn settle(&mut self, page: PageNumber) {
        if let Ok(index) = self.pages.binary_search(&page) {
            self.settled[index] = true;
        }
    }

    /// Looks at the next `most` pages and fills those with zeroes that are not settled. Whether all
    /// of them were looked at; nothing is kept then.
    pub(crate) fn clear(&mut self, machine: &mut dyn Machine, most: usize) -> bool {
        let end = self.pages.len().min(self.cleared.saturating_add(most));
        for index in self.cleared..end {
            if !self.settled[index] {
                machine.write_page(self.pages[index], &ZERO_PAGE);
            }
        }
        self.cleared = end;
        let done = end == self.pages.len();
        if done {
            *self = Self::default();
        }
        done
    }
}
