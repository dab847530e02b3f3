//! What enters a machine and what leaves it.
//!
//! An [`Input`] is the only way the outside can change a machine; it takes effect at a logical
//! time. An [`Output`] is a pure function of the inputs before it. Their byte form in a log is in
//! [`crate::log::entry`].

use serde::{Deserialize, Serialize};

use crate::time::LogicalTime;

/// Largest payload of one input or output, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Bits behind the binary point of a [`ClockRate`].
const RATE_SHIFT: u32 = 16;

/// A guest-visible device, numbered by the machine that has it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DeviceId(pub u16);

/// Speed of virtual time: nanoseconds per 65,536 instructions.
///
/// A rate of `65_536` is one nanosecond an instruction. The coarsest step, at three instructions a
/// nanosecond, is still finer than 0.01 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockRate(pub u32);

impl ClockRate {
    /// One nanosecond an instruction: what a guest has before its speed was measured. Rather too
    /// low than too high, for a clock that runs ahead takes longer to bring back.
    pub const INITIAL: Self = Self(1 << RATE_SHIFT);

    /// Nanoseconds that `instructions` take, rounded down; saturates at the largest value.
    #[must_use]
    pub fn elapsed_ns(self, instructions: u64) -> u64 {
        let ns = (u128::from(instructions) * u128::from(self.0)) >> RATE_SHIFT;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The fewest instructions that take at least `ns` nanoseconds; saturates.
    ///
    /// A machine uses it to find the logical time at which a timer fires.
    #[must_use]
    pub fn instructions_for(self, ns: u64) -> u64 {
        let scaled = u128::from(ns) << RATE_SHIFT;
        let count = scaled.div_ceil(u128::from(self.0.max(1)));
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// The rate at which `instructions` take `ns`, rounded to nearest and kept in range.
    #[must_use]
    pub fn measured(ns: u64, instructions: u64) -> Self {
        let count = u128::from(instructions.max(1));
        let rate = ((u128::from(ns) << RATE_SHIFT) + count / 2) / count;
        Self(u32::try_from(rate).unwrap_or(u32::MAX).max(1))
    }
}

/// Sets the guest's clocks: from here on `ns = virtual_ns + (t - t0) * rate`.
///
/// Never earlier than what the guest could have read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSync {
    /// Virtual time at the logical time of the input, in nanoseconds.
    pub virtual_ns: u64,
    /// Speed from there on.
    pub rate: ClockRate,
}

/// A [`ClockSync`] with the logical time at which it took effect: the whole state of a virtual
/// clock, for machines to embed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPoint {
    /// When it took effect.
    pub at: LogicalTime,
    /// What it said.
    pub sync: ClockSync,
}

impl SyncPoint {
    /// A clock that stands at zero and runs at the initial rate.
    #[must_use]
    pub const fn start() -> Self {
        let sync = ClockSync {
            virtual_ns: 0,
            rate: ClockRate::INITIAL,
        };
        Self {
            at: LogicalTime(0),
            sync,
        }
    }

    /// Virtual nanoseconds at `now`, which is not before the point.
    #[must_use]
    pub fn virtual_ns(&self, now: LogicalTime) -> u64 {
        let elapsed = self.sync.rate.elapsed_ns(now.since(self.at));
        self.sync.virtual_ns.saturating_add(elapsed)
    }

    /// The first logical time at which virtual time is at least `virtual_ns`.
    #[must_use]
    pub fn reaches(&self, virtual_ns: u64) -> LogicalTime {
        let left = virtual_ns.saturating_sub(self.sync.virtual_ns);
        self.at.plus(self.sync.rate.instructions_for(left))
    }
}

/// An operation on the machine from its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlOp {
    /// The ACPI power button is pressed.
    PowerButton,
    /// The machine is reset, as by a reset button.
    Reset,
    /// A non-maskable interrupt is raised.
    Nmi,
}

/// What enters a machine at a logical time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The virtual clock is set.
    Clock(ClockSync),
    /// Bytes arrive at a device; what they mean is the device's affair.
    Device {
        /// The device.
        device: DeviceId,
        /// Its bytes, at most [`MAX_PAYLOAD`].
        payload: Vec<u8>,
    },
    /// The operator does something.
    Control(ControlOp),
}

/// What leaves a machine at a logical time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The device it leaves by.
    pub device: DeviceId,
    /// Its bytes, at most [`MAX_PAYLOAD`].
    pub payload: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_nanoseconds_is_reached_at_its_instruction_and_not_before() {
        for rate in [1, 7_000, 65_536, 655_360, 655_361, u32::MAX] {
            let sync = ClockSync {
                virtual_ns: 1_000,
                rate: ClockRate(rate),
            };
            let point = SyncPoint {
                at: LogicalTime(50),
                sync,
            };
            for deadline in [1_001, 1_010, 5_000, 10_000_000] {
                let at = point.reaches(deadline);
                assert!(
                    point.virtual_ns(at) >= deadline,
                    "rate {rate} deadline {deadline}"
                );
                let before = LogicalTime(at.0 - 1);
                assert!(
                    point.virtual_ns(before) < deadline,
                    "rate {rate} deadline {deadline}"
                );
            }
        }
    }

    #[test]
    fn a_measured_rate_gives_the_measured_time_back() {
        let rate = ClockRate::measured(1_000_000, 1_000_000);
        assert_eq!(rate, ClockRate::INITIAL);
        assert_eq!(rate.elapsed_ns(1_000_000), 1_000_000);
    }

    #[test]
    fn extreme_rates_stay_in_range() {
        assert_eq!(ClockRate::measured(u64::MAX, 1), ClockRate(u32::MAX));
        assert_eq!(ClockRate::measured(0, u64::MAX), ClockRate(1));
        assert_eq!(ClockRate(u32::MAX).elapsed_ns(u64::MAX), u64::MAX);
        assert_eq!(ClockRate(0).instructions_for(1), 65_536);
    }
}
