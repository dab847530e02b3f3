//! The order in which a machine that goes on is copied to another host: rounds of dirty pages.
//!
//! ```text
//!   round 0   every page that may hold anything, in batches between slices of the guest
//!   round n   the pages that were written during round n − 1; a round that is not much shorter
//!             than the one before halves the guest's share of time
//!   last      few are left: the guest stands still for them
//! ```
//!
//! Only the decisions are here: which pages come next, when the guest is to be slowed, when it is
//! to be paused, and when the copy is hopeless. Whoever copies reads the pages and sends them. The
//! live clone of a protected machine and a migration are both copied in this order.

use crate::time::{HostTime, PageNumber};

/// A round that is longer than this share of the one before, in quarters, is futile.
const FUTILE_QUARTERS: usize = 3;
/// Rounds after which each further one counts as futile.
const MAX_ROUNDS: u64 = 30;

/// When the rounds end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Pages that may be left for the pause.
    pub pause_pages: usize,
    /// So few that fewer are not worth another round. Between the two, rounds go on while each is
    /// less than half of the one before.
    pub few_pages: usize,
    /// Futile rounds of a guest that cannot be slowed further, after which the copy is hopeless.
    pub patience: u64,
}

/// What comes after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Another round.
    Round,
    /// The pause, in which [`Precopy::rest`] is sent.
    Pause,
    /// Nothing: the guest writes faster than can be sent.
    Hopeless {
        /// Pages that the guest writes in a second.
        written_per_second: u64,
        /// Pages that can be sent in a second.
        sent_per_second: u64,
    },
}

/// The rounds of one copy.
#[derive(Clone, Debug)]
pub struct Precopy {
    todo: Vec<PageNumber>,
    done: usize,
    /// Pages of this round, whether sent or not worth it.
    round_pages: usize,
    round_started: HostTime,
    round: u64,
    futile: u64,
    pages: u64,
    started: HostTime,
}

impl Precopy {
    /// Begins with the pages of `todo`, which ascend. The round counts as one of `round_pages`,
    /// which are more if the other host has some already.
    #[must_use]
    pub fn begin(todo: Vec<PageNumber>, round_pages: usize, now: HostTime) -> Self {
        Self {
            todo,
            done: 0,
            round_pages,
            round_started: now,
            round: 0,
            futile: 0,
            pages: 0,
            started: now,
        }
    }

    /// Takes the next pages of this round, at most so many, ascending; none when the round is over.
    pub fn next_batch(&mut self, most: usize) -> Vec<PageNumber> {
        let end = self.todo.len().min(self.done + most);
        let batch = self.todo[self.done..end].to_vec();
        self.done = end;
        self.count(batch.len());
        batch
    }

    /// Counts pages that were sent besides.
    pub fn count(&mut self, pages: usize) {
        self.pages += pages as u64;
    }

    /// Whether all pages of this round were taken.
    #[must_use]
    pub fn is_round_over(&self) -> bool {
        self.done == self.todo.len()
    }

    /// Pages of this round that were not taken yet; after [`Onward::Pause`], those that are left.
    #[must_use]
    pub fn rest(&self) -> &[PageNumber] {
        &self.todo[self.done..]
    }

    /// Adds pages that were written since, ascending, to those that are left.
    pub fn add(&mut self, written: &[PageNumber]) {
        if written.is_empty() {
            return;
        }
        self.todo.drain(..self.done);
        self.done = 0;
        self.todo.extend_from_slice(written);
        self.todo.sort_unstable();
        self.todo.dedup();
    }

    /// Ends a round in which the pages of `dirty` were written, ascending. `slow` halves the
    /// guest's share of time, if that can be.
    pub fn next_round(
        &mut self,
        dirty: Vec<PageNumber>,
        goal: Goal,
        slow: impl FnOnce() -> bool,
        now: HostTime,
    ) -> Onward {
        let (written, sent) = (dirty.len(), self.round_pages);
        let took_ns = now.since(self.round_started).max(1);
        self.round += 1;
        (self.round_pages, self.round_started) = (written, now);
        (self.todo, self.done) = (dirty, 0);
        let halved = written * 2 < sent && self.round < MAX_ROUNDS;
        if written <= goal.few_pages || (written <= goal.pause_pages && !halved) {
            return Onward::Pause;
        }
        let futile = written * 4 > sent * FUTILE_QUARTERS || self.round >= MAX_ROUNDS;
        if !futile || slow() {
            return Onward::Round;
        }
        self.futile += 1;
        if self.futile < goal.patience {
            return Onward::Round;
        }
        let per_second = |pages: usize| {
            let rate = pages as u128 * 1_000_000_000 / u128::from(took_ns);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        Onward::Hopeless {
            written_per_second: per_second(written),
            sent_per_second: per_second(sent),
        }
    }

    /// The number of the round under way, from zero.
    #[must_use]
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Pages taken so far; those that were written again count again.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// When it began.
    #[must_use]
    pub fn started(&self) -> HostTime {
        self.started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        pause_pages: 10,
        few_pages: 10,
        patience: 2,
    };

    fn pages(range: std::ops::Range<u64>) -> Vec<PageNumber> {
        range.map(PageNumber).collect()
    }

    fn copy(count: u64) -> Precopy {
        Precopy::begin(pages(0..count), count as usize, HostTime(0))
    }

    #[test]
    fn batches_are_the_pages_in_order_and_the_round_ends_with_the_last() {
        let mut precopy = copy(10);
        assert_eq!(precopy.next_batch(6), pages(0..6));
        assert!(!precopy.is_round_over());
        assert_eq!(precopy.next_batch(6), pages(6..10));
        assert!(precopy.is_round_over() && precopy.next_batch(6).is_empty());
        assert_eq!(precopy.pages(), 10);
    }

    #[test]
    fn few_pages_end_the_rounds_and_what_is_written_until_the_pause_joins_them() {
        let mut precopy = copy(1000);
        precopy.next_batch(1000);
        let onward = precopy.next_round(pages(5..15), GOAL, || panic!("no need"), HostTime(9));
        assert_eq!((onward, precopy.round()), (Onward::Pause, 1));
        precopy.add(&pages(12..17));
        assert_eq!(precopy.rest(), pages(5..17));
    }

    #[test]
    fn rounds_that_halve_go_on_until_few_pages_are_left() {
        let goal = Goal {
            pause_pages: 600,
            ..GOAL
        };
        let onward = |written| {
            let mut precopy = copy(1000);
            precopy.next_batch(1000);
            precopy.next_round(pages(0..written), goal, || true, HostTime(1))
        };
        for (written, expected) in [
            (601, Onward::Round),
            (600, Onward::Pause),
            (500, Onward::Pause),
            (499, Onward::Round),
            (11, Onward::Round),
            (10, Onward::Pause),
        ] {
            assert_eq!(onward(written), expected, "{written}");
        }
    }

    #[test]
    fn a_round_that_is_not_much_shorter_slows_the_guest_and_one_that_is_does_not() {
        for (written, slowed) in [(75, false), (76, true), (500, true)] {
            let (mut precopy, mut asked) = (copy(100), false);
            precopy.next_batch(100);
            let slow = || {
                asked = true;
                true
            };
            let onward = precopy.next_round(pages(0..written), GOAL, slow, HostTime(1));
            assert_eq!((onward, asked), (Onward::Round, slowed), "{written}");
        }
    }

    #[test]
    fn a_guest_that_cannot_be_slowed_is_hopeless_after_the_patience_is_over() {
        let mut precopy = copy(100);
        let second = |n: u64| HostTime(0).plus_ms(1000 * n);
        let first = precopy.next_round(pages(0..200), GOAL, || false, second(1));
        assert_eq!(first, Onward::Round);
        let hopeless = Onward::Hopeless {
            written_per_second: 400,
            sent_per_second: 200,
        };
        let last = precopy.next_round(pages(0..400), GOAL, || false, second(2));
        assert_eq!(last, hopeless);
    }
}
