//! The common processor model: what a guest sees of its processor, on every host and backend.
//!
//! It calls itself an in-order Intel processor (family 6, model 28), which is what an
//! interpreter is: it never executes speculatively, so a guest needs none of the mitigations for
//! processors that do. Leaf 15H gives the frequency of the time-stamp counter, so a guest need
//! not measure it. RDRAND and RDSEED are not offered: they could not be replayed.
//!
//! One thing is chosen for each machine, the counter's frequency: a processor that cannot scale
//! its counter has just one. Backends that run the guest on a real processor set [`table()`] as it
//! is, after [`missing`] has found nothing.

mod features;
mod leaves;
mod registers;
mod table;

pub use features::missing;
pub use leaves::{CR4_OFFERED, CRYSTAL_KHZ, SIGNATURE, XSAVE_SIZE, leaf};
pub use registers::{belongs_to_controller, read_register, write_register};
pub use table::{CpuidLeaf, table};

/// Frequency of the time-stamp counter where nothing else is asked for, in kHz: one tick is one
/// virtual nanosecond.
pub const DEFAULT_TSC_KHZ: u32 = 1_000_000;
/// Least frequency of a time-stamp counter, in kHz.
pub const LEAST_TSC_KHZ: u32 = 1_000;
/// Highest frequency of a time-stamp counter, in kHz.
pub const MOST_TSC_KHZ: u32 = 100_000_000;
/// Virtual nanoseconds in a millisecond, in which a counter makes as many ticks as its frequency
/// in kHz says.
const NS_PER_MS: u64 = 1_000_000;

/// What a counter of `tsc_khz` shows at virtual time `ns`, rounded down, modulo 2^64.
#[inline]
pub const fn ticks_at(ns: u64, tsc_khz: u32) -> u64 {
    if tsc_khz == DEFAULT_TSC_KHZ {
        return ns;
    }
    (ns as u128 * tsc_khz as u128 / NS_PER_MS as u128) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_of_one_gigahertz_counts_nanoseconds() {
        for ns in [0, 1, 999_999, u64::MAX] {
            assert_eq!(ticks_at(ns, DEFAULT_TSC_KHZ), ns);
        }
        assert_eq!(ticks_at(1_000_000_000, 2_400_001), 2_400_001_000);
        assert_eq!(ticks_at(1, 2_999_999), 2);
        // Past 2^64 it wraps, as the register does.
        let most = u128::from(u64::MAX) * 3;
        assert_eq!(ticks_at(u64::MAX, 3_000_000), most as u64);
    }
}
