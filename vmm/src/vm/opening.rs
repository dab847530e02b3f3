//! The host sides of a machine that has just gone live here, as long as some are not open.
//!
//! A primary that was stopped and not killed still has its sockets, taps and locks; on the same
//! host they can be had as soon as somebody kills it. So what cannot be opened at once is tried
//! again for a while before the machine goes on without it.

use std::time::{Duration, Instant};

/// Time between two tries.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long it is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries that are still to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    next: Instant,
    end: Instant,
}

impl Opening {
    /// After the first try, at `now`.
    pub(super) fn after_failure(now: Instant) -> Self {
        Self {
            next: now + INTERVAL,
            end: now + PATIENCE,
        }
    }

    /// When to try again.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// What follows when a try at `now` has failed; `None` if there is none.
    pub(super) fn failed_again(self, now: Instant) -> Option<Self> {
        let next = now + INTERVAL;
        (next <= self.end).then_some(Self { next, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_go_on_for_a_while_and_then_end() {
        let start = Instant::now();
        let mut opening = Some(Opening::after_failure(start));
        let mut tries = 0;
        let mut last = start;
        while let Some(tried) = opening {
            assert_eq!(tried.next(), last + INTERVAL);
            last = tried.next();
            opening = tried.failed_again(last);
            tries += 1;
        }
        assert_eq!(tries, 50);
        assert_eq!(last, start + PATIENCE);
    }
}
