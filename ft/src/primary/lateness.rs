//! Acknowledgements that come when the lease that they give is over already.
//!
//! One is an accident. If all of them do, the way to the backup and back takes longer than a lease:
//! nothing ever leaves, though both sides are well. Only the operator can help that, so he is told.

use crate::output::Lease;
use crate::time::{HostTime, NS_PER_MS};

/// So many in a row are no accident.
const MANY: u32 = 10;

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    in_a_row: u32,
}

impl Lateness {
    /// Takes note of an acknowledgement that has just renewed `lease`, with outputs that are ready
    /// to leave or without. Says, once, how many milliseconds it has taken when they are the rule.
    pub(super) fn note(&mut self, lease: &Lease, ready: bool, now: HostTime) -> Option<u64> {
        let told = self.in_a_row >= MANY;
        if told || !ready {
            return None;
        }
        if lease.holds(now) {
            self.in_a_row = 0;
            return None;
        }
        self.in_a_row += 1;
        (self.in_a_row == MANY).then(|| lease.age_ns(now) / NS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acknowledgements of what is sent every 10 ms, each after `took_ms`, with a lease of 20 ms.
    fn told(took_ms: &[u64], ready: bool) -> Vec<u64> {
        let (mut lease, mut lateness) = (Lease::new(20), Lateness::default());
        let times = took_ms.iter().enumerate();
        times
            .filter_map(|(index, took_ms)| {
                let sent = HostTime(0).plus_ms(index as u64 * 10);
                lease.renew(sent);
                lateness.note(&lease, ready, sent.plus_ms(*took_ms))
            })
            .collect()
    }

    #[test]
    fn a_way_that_always_takes_longer_than_a_lease_is_told_of_once() {
        assert_eq!(told(&[30; 40], true), [30]);
        assert_eq!(told(&[20; 10], true), [20]);
    }

    #[test]
    fn single_late_ones_and_those_that_nothing_waits_for_are_not_told_of() {
        let mut mixed = [30; 40];
        mixed.iter_mut().step_by(5).for_each(|took| *took = 19);
        assert!(told(&mixed, true).is_empty());
        assert!(told(&[19; 40], true).is_empty());
        assert!(told(&[30; 9], true).is_empty());
        assert!(told(&[30; 40], false).is_empty());
    }
}
