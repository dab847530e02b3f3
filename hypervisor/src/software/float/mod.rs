//! IEEE 754 arithmetic as the x86 does it, bit for bit, on any host.
//!
//! Three formats: binary32 (`u32` bits), binary64 (`u64` bits) and the x87's 80-bit extended
//! format ([`F80`]). Operands are taken apart into [`Unpacked`], computed exactly in integers, and
//! rounded once (`round.rs`). Rounding mode, precision control, exception masks and flags are in
//! [`FloatEnv`]; nothing here reads or writes the host's floating-point environment.
//!
//! Modelled: the four rounding modes, the three precisions of the x87, all six exceptions with
//! their masked responses, tininess detected after rounding, denormals-are-zero and flush-to-zero,
//! and the different NaN rules of SSE and x87. An unmasked overflow or underflow gives the x87's
//! result with the wrapped exponent; whether a result is delivered at all is the caller's
//! decision. Spec: Intel SDM vol. 1, chapters 4, 8 and 11; IEEE 754-2008.
//!
//! [`fast`] is the same arithmetic through the host's own instructions where that is provably
//! equal; [`transcendental`] has the x87's elementary functions.

pub mod arithmetic;
pub mod bcd;
pub mod compare;
pub mod convert;
mod environment;
pub mod fast;
mod format;
pub mod remainder;
mod round;
pub mod scale;
pub mod transcendental;
mod unpacked;
mod wide;

pub use environment::{Exceptions, FloatEnv, Precision, RoundingMode};
pub use format::{F80, Format};
pub use unpacked::{Class, Unpacked};

#[cfg(test)]
mod arithmetic_test;
