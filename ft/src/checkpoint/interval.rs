//! When an epoch is closed by a delta.
//!
//! * When it is due anyway: `epoch_ms` of execution, ten times that of host time, many pages
//!   written, a control operation. That is the upper bound.
//! * Before that, when outputs of it wait: they leave no sooner than its delta is acknowledged. It
//!   is closed as soon as the delta before is acknowledged, but not sooner than a time after the
//!   last end that grows with the pages of the last delta. So a guest that writes little has its
//!   outputs after about the way there and back, and one that writes much is not stopped, copied
//!   and encoded all the time.
//! * Never while the delta before is being encoded. A guest that has executed twice its epoch's
//!   length meanwhile rests.

use crate::time::{HostTime, NS_PER_MS};

/// Time that the pages of a delta let the next epoch last at least, for each page. Copying,
/// digesting and packing one take about 10 µs; with twice that the guest keeps half of its time.
const NS_PER_PAGE: u64 = 20_000;

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// The epoch's time has come.
    pub(crate) due: bool,
    /// Outputs of this epoch wait.
    pub(crate) outputs_wait: bool,
    /// The backup has acknowledged every delta that was sent.
    pub(crate) acknowledged: bool,
    /// When the last epoch was closed.
    pub(crate) last_end: HostTime,
    /// Pages of its delta.
    pub(crate) last_pages: u64,
    /// The longest that an epoch may be kept short of its outputs.
    pub(crate) epoch_ms: u64,
}

/// Why an epoch is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its time has come.
    Due,
    /// Outputs wait.
    Outputs,
}

impl Situation {
    /// Whether the epoch is to be closed at `now`, and why.
    pub(crate) fn reason(&self, now: HostTime) -> Option<Reason> {
        if self.due {
            return Some(Reason::Due);
        }
        let early = self.early().is_some_and(|at| now >= at);
        early.then_some(Reason::Outputs)
    }

    /// From when on it may be closed for outputs that wait, as things stand.
    pub(crate) fn early(&self) -> Option<HostTime> {
        if !self.outputs_wait || !self.acknowledged {
            return None;
        }
        let longest_ns = self.epoch_ms.saturating_mul(NS_PER_MS);
        let least_ns = self.last_pages.saturating_mul(NS_PER_PAGE).min(longest_ns);
        Some(self.last_end.plus(least_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(last_pages: u64) -> Situation {
        Situation {
            due: false,
            outputs_wait: true,
            acknowledged: true,
            last_end: HostTime(0),
            last_pages,
            epoch_ms: 10,
        }
    }

    #[test]
    fn an_epoch_whose_outputs_wait_is_closed_at_once_if_little_is_written() {
        assert_eq!(waiting(0).reason(HostTime(0)), Some(Reason::Outputs));
        assert_eq!(waiting(50).reason(HostTime(900_000)), None);
        assert_eq!(
            waiting(50).reason(HostTime(1_000_000)),
            Some(Reason::Outputs)
        );
    }

    #[test]
    fn outputs_never_wait_longer_for_the_end_of_an_epoch_than_its_length() {
        let end = HostTime(0).plus_ms(10);
        assert_eq!(waiting(1 << 40).early(), Some(end));
    }

    #[test]
    fn without_outputs_or_before_the_last_delta_is_there_only_the_time_counts() {
        let late = HostTime(0).plus_ms(1_000);
        for quiet in [
            Situation {
                outputs_wait: false,
                ..waiting(0)
            },
            Situation {
                acknowledged: false,
                ..waiting(0)
            },
        ] {
            assert_eq!(quiet.reason(late), None);
            let due = Situation { due: true, ..quiet };
            assert_eq!(due.reason(late), Some(Reason::Due));
        }
    }
}
