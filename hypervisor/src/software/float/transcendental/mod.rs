//! The elementary functions of the x87: F2XM1, FYL2X, FYL2XP1, FSIN, FCOS, FPTAN, FPATAN.
//!
//! Computed in integers only, with 128-bit significands and series long enough for a relative
//! error below `2^-110` before the one rounding to 64 bits: results are within 0.51 ulp of the true
//! value in every rounding mode's sense of "adjacent", and the same on every host. Real processors
//! promise 1 ulp and differ from each other in the last bit; so does this. The argument of the
//! trigonometric functions is reduced with a pi of more than 256 bits, where old processors used
//! 66: for large arguments the result here is the mathematical one.
//!
//! Results that are not exact always raise PE. Precision control does not apply. Spec: Intel SDM
//! vol. 1, section 8.3.

mod arctangent;
mod logarithm;
mod power;
mod trigonometric;

pub use arctangent::arctangent;
pub use logarithm::{log2_plus_one_times, log2_times};
pub use power::power_minus_one;
pub use trigonometric::{SineCosine, cosine, sine, sine_cosine, tangent};

use super::wide::Wide;

/// The natural logarithm of 2.
const LN_2: Wide = Wide::constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
/// Twice the binary logarithm of e.
const TWO_OVER_LN_2: Wide = Wide::constant(1, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
/// Pi.
const PI: Wide = Wide::constant(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// Half of pi.
const HALF_PI: Wide = Wide::constant(0, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// A quarter of pi.
const QUARTER_PI: Wide = Wide::constant(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// Three quarters of pi.
const THREE_QUARTER_PI: Wide = Wide::constant(1, 0x96cb_e3f9_990e_91a7_9394_c9e8_a0a5_159d);

#[cfg(test)]
mod vectors_test;
