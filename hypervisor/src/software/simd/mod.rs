//! What the SIMD instructions compute: MMX and SSE to SSE4.2, as functions on register values.
//!
//! No register file, no memory, no decoding: `u64` is an MMX register, `u128` an XMM register, and
//! the result is the new value of the destination. Integer instructions cannot fail. The
//! floating-point ones take the [`Mxcsr`], set its flags, and answer [`SimdFault`] when an
//! exception is unmasked; the caller then leaves the destination alone and raises #XM.
//!
//! Plain moves (MOVDQA, MOVNTI, LDDQU, MOVQ2DQ and the like) have no function here: their value is
//! the operand itself.

pub mod approximate;
pub mod compare;
pub mod convert;
pub mod float;
pub mod float_compare;
pub mod integer;
pub mod logic;
mod mxcsr;
pub mod shift;
pub mod shuffle;
pub mod string;
mod swar;
mod vector;

pub use mxcsr::{Mxcsr, SimdFault};
pub use vector::Vector;

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod float_oracle;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod integer_oracle;
