//! The numbers that order everything: logical time, epochs, generations, log positions, host time.
//!
//! Each is a newtype so that none can be taken for another. None of them reads a clock: logical
//! time is what the machine says it has retired, host time is handed in by the caller.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

macro_rules! ordinal {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The value `count` steps later; stays at the largest value instead of wrapping.
            #[must_use]
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// How far this lies after `earlier`; zero when it does not.
            #[must_use]
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

ordinal! {
    /// Position in guest execution: instructions retired since the machine was first started.
    LogicalTime
}
ordinal! {
    /// Number of an epoch, counted from the clone point (or the start of an offline log).
    Epoch
}
ordinal! {
    /// Rises with each change of primary; a frame or a fence claim with a lower one is stale.
    Generation
}
ordinal! {
    /// Sequence number of a log entry, counted from the clone point; entry one is the first.
    LogPosition
}
ordinal! {
    /// Monotonic time of the host in nanoseconds, as the driver read it. Its zero means nothing.
    HostTime
}
ordinal! {
    /// Number of a guest-physical page of RAM, dense from zero as the machine counts them.
    PageNumber
}

impl HostTime {
    /// The time `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(NS_PER_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_an_earlier_time_is_the_distance_and_never_wraps() {
        assert_eq!(HostTime(7).since(HostTime(3)), 4);
        assert_eq!(HostTime(3).since(HostTime(7)), 0);
        assert_eq!(LogicalTime(u64::MAX).plus(1), LogicalTime(u64::MAX));
    }

    #[test]
    fn a_millisecond_is_a_million_nanoseconds() {
        assert_eq!(HostTime(5).plus_ms(2), HostTime(2_000_005));
    }
}
