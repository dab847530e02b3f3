//! Slows a guest that writes its memory faster than a copy of it can follow.
//!
//! Each time it has to, the guest's share of time is halved: it gets ever smaller slices at the
//! same intervals, so that fewer pages are written per page sent, whatever the connection takes.
//! Slices that are as short as is worth their while come at ever longer intervals instead.

use crate::record::Pace;
use crate::time::HostTime;

/// Most halvings: a thousandth of its time lets a guest that writes a page with every other
/// instruction write fewer than a connection of a gigabit a second takes.
const MAX_LEVEL: u32 = 10;

/// Slows a guest while it is copied to another host.
#[derive(Clone, Debug, Default)]
pub struct SliceThrottle {
    level: u32,
    last_slice: Option<HostTime>,
    interval_ns: u64,
    held_ns: u64,
}

impl SliceThrottle {
    /// Halves the guest's share; false if it is as small as it gets.
    pub fn raise(&mut self) -> bool {
        let raised = self.level < MAX_LEVEL;
        self.level += u32::from(raised);
        raised
    }

    /// The guest has one part in so many of its time.
    #[must_use]
    pub fn divisor(&self) -> u64 {
        1 << self.level
    }

    /// The guest's slice at `now`, as part of what it has at full speed; none if it is to wait.
    pub fn admit(&mut self, pace: Pace, now: HostTime) -> Option<Pace> {
        if self.level == 0 {
            return Some(pace);
        }
        let slice_ns = (pace.slice_ns / self.divisor()).max(pace.least_ns);
        self.interval_ns = pace.slice_ns.max(slice_ns * self.divisor());
        if self.next_slice().is_some_and(|next| now < next) {
            return None;
        }
        if let Some(last) = self.last_slice.replace(now) {
            self.held_ns += now.since(last).saturating_sub(slice_ns);
        }
        Some(Pace {
            slice_ns,
            linger_ns: pace.linger_ns.min(slice_ns),
            max_instructions: (pace.max_instructions / self.divisor()).max(pace.least_ns.max(1)),
            ..pace
        })
    }

    /// When the guest has its next slice, if it has to wait for it.
    #[must_use]
    pub fn next_slice(&self) -> Option<HostTime> {
        self.last_slice.map(|last| last.plus(self.interval_ns))
    }

    /// How often it was slowed further, and for how long it was kept.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        (u64::from(self.level), self.held_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time that a guest executes in a second after so many halvings, in microseconds, and kept.
    fn executing(halvings: u32) -> (u64, u64) {
        executing_at(Pace::default(), halvings)
    }

    fn executing_at(pace: Pace, halvings: u32) -> (u64, u64) {
        let mut throttle = SliceThrottle::default();
        (0..halvings).for_each(|_| assert!(throttle.raise()));
        let (mut now, mut executed) = (HostTime(0), 0);
        while now < HostTime(0).plus_ms(1000) {
            if let Some(pace) = throttle.admit(pace, now) {
                executed += pace.slice_ns;
                now = now.plus(pace.slice_ns);
            } else {
                now = now.plus(1_000);
            }
        }
        (executed / 1000, throttle.held().1 / 1000)
    }

    #[test]
    fn each_halving_halves_what_the_guest_executes_and_the_rest_is_counted() {
        assert_eq!(executing(0), (1_000_000, 0));
        for (halvings, share_us) in [(1, 500_000), (3, 125_000), (10, 976)] {
            let (executed, held) = executing(halvings);
            assert!(
                (share_us * 9 / 10..=share_us).contains(&executed),
                "{executed}"
            );
            let all = executed + held;
            assert!((990_000..=1_001_000).contains(&all), "{all}");
        }
    }

    #[test]
    fn slices_that_cannot_be_shorter_come_more_seldom() {
        let pace = Pace {
            least_ns: 100_000,
            ..Pace::default()
        };
        for (halvings, share_us) in [(0, 1_000_000), (1, 500_000), (2, 250_000), (5, 31_250)] {
            let (executed, _) = executing_at(pace, halvings);
            assert!(executed.abs_diff(share_us) <= share_us / 10, "{executed}");
        }
        let mut throttle = SliceThrottle::default();
        assert!(throttle.raise() && throttle.raise());
        let slowed = throttle.admit(pace, HostTime(0)).unwrap();
        assert_eq!(slowed.slice_ns, pace.least_ns);
    }

    #[test]
    fn a_share_is_not_halved_for_ever() {
        let mut throttle = SliceThrottle::default();
        assert_eq!((0..100).filter(|_| throttle.raise()).count(), 10);
        assert_eq!(throttle.divisor(), 1024);
    }
}
