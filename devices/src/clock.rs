//! Virtual time and the fixed clocks derived from it.
//!
//! Every guest-visible clock is a pure function of [`VirtualTime`], which the caller passes to each
//! access. Nothing in this crate reads a host clock. Conversions are exact rational arithmetic, so
//! the tick a device shows at a given time never depends on how often it was asked before.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A point in guest time: nanoseconds since the machine was created.
///
/// It never decreases between two calls to the same device; a call with an earlier time than the
/// one before is treated as happening at that earlier time only for what it reads.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct VirtualTime(pub u64);

impl VirtualTime {
    /// The moment of machine creation.
    pub const ZERO: Self = Self(0);

    /// This time plus `nanos`, or `None` past the end of representable time (584 years).
    #[must_use]
    pub const fn checked_add(self, nanos: u64) -> Option<Self> {
        match self.0.checked_add(nanos) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Nanoseconds since `earlier`, zero if `earlier` is later than this time.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since machine creation.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / NANOS_PER_SECOND
    }
}

impl fmt::Display for VirtualTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.seconds(), self.0 % NANOS_PER_SECOND)
    }
}

/// The earlier of two optional times; `None` means never.
#[must_use]
pub fn earliest(a: Option<VirtualTime>, b: Option<VirtualTime>) -> Option<VirtualTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A free-running clock of `ticks / nanos` ticks per nanosecond, with tick 0 at time zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickRate {
    ticks: u64,
    nanos: u64,
}

impl TickRate {
    /// The PIT input: 105/88 MHz, a twelfth of the 14.318 MHz crystal.
    pub const PIT: Self = Self {
        ticks: 21,
        nanos: 17_600,
    };
    /// The ACPI PM timer: 315/88 MHz, a quarter of the same crystal.
    pub const ACPI_PM: Self = Self {
        ticks: 63,
        nanos: 17_600,
    };
    /// The RTC crystal: 32768 Hz.
    pub const RTC: Self = Self {
        ticks: 64,
        nanos: 1_953_125,
    };

    /// Number of the last tick at or before `now`.
    #[must_use]
    pub const fn tick(self, now: VirtualTime) -> u64 {
        // Both rates are below one tick per nanosecond, so neither term can overflow.
        (now.0 / self.nanos) * self.ticks + (now.0 % self.nanos) * self.ticks / self.nanos
    }

    /// Earliest time at which [`Self::tick`] reaches `tick`, `None` if past representable time.
    #[must_use]
    pub fn time_of(self, tick: u64) -> Option<VirtualTime> {
        let rest = (tick % self.ticks) * self.nanos;
        (tick / self.ticks)
            .checked_mul(self.nanos)?
            .checked_add(rest.div_ceil(self.ticks))
            .map(VirtualTime)
    }
}

/// The clock of a time-stamp counter: as many ticks in a millisecond as its frequency in kHz says,
/// which may be more than one in a nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscRate {
    khz: u32,
}

impl TscRate {
    /// Nanoseconds in a millisecond.
    const NANOS: u128 = 1_000_000;

    /// A counter of `khz`, which is not zero.
    #[must_use]
    pub const fn new(khz: u32) -> Self {
        Self { khz }
    }

    /// Number of the last tick at or before `now`.
    #[must_use]
    pub const fn tick(self, now: VirtualTime) -> u128 {
        now.0 as u128 * self.khz as u128 / Self::NANOS
    }

    /// Earliest time at which [`Self::tick`] reaches `tick`, `None` if past representable time.
    #[must_use]
    pub fn time_of(self, tick: u128) -> Option<VirtualTime> {
        let nanos = tick
            .checked_mul(Self::NANOS)?
            .div_ceil(u128::from(self.khz));
        u64::try_from(nanos).ok().map(VirtualTime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_is_the_first_nanosecond_of_a_tick() {
        for rate in [TickRate::PIT, TickRate::ACPI_PM, TickRate::RTC] {
            for tick in [1, 2, 20, 21, 22, 1_193_182, 4_294_967_296, 77_777_777_777] {
                let time = rate.time_of(tick).unwrap();
                assert_eq!(rate.tick(time), tick, "{rate:?}");
                assert_eq!(rate.tick(VirtualTime(time.0 - 1)), tick - 1, "{rate:?}");
            }
        }
    }

    #[test]
    fn a_counter_reaches_each_tick_first_at_its_time() {
        for khz in [1000, 1_000_000, 2_399_998, 5_000_001] {
            let rate = TscRate::new(khz);
            for tick in [1, 2, 39, 40, 41, 1_000_000_007, 1 << 43] {
                let time = rate.time_of(tick).unwrap();
                assert!(rate.tick(time) >= tick, "{khz} kHz, tick {tick}");
                assert!(
                    rate.tick(VirtualTime(time.0 - 1)) < tick,
                    "{khz} kHz, tick {tick}"
                );
            }
            assert_eq!(rate.time_of(u128::MAX), None);
        }
        assert_eq!(TscRate::new(1_000_000).tick(VirtualTime(77)), 77);
    }

    #[test]
    fn one_second_has_the_datasheet_number_of_ticks() {
        let second = VirtualTime(NANOS_PER_SECOND);
        assert_eq!(TickRate::PIT.tick(second), 1_193_181);
        assert_eq!(TickRate::ACPI_PM.tick(second), 3_579_545);
        assert_eq!(TickRate::RTC.tick(second), 32_768);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        for rate in [TickRate::PIT, TickRate::ACPI_PM, TickRate::RTC] {
            assert!(rate.tick(VirtualTime(u64::MAX)) > 1 << 40);
            assert_eq!(rate.time_of(u64::MAX), None);
        }
        assert_eq!(VirtualTime(u64::MAX).checked_add(1), None);
        assert_eq!(VirtualTime(1).since(VirtualTime(2)), 0);
    }
}
