//! The x87 floating-point unit and the MMX registers it shares, at the level of values.
//!
//! [`X87State`] is the architectural state; each instruction is a method on it. Memory operands
//! come and go as the bits they occupy: a load takes them, a store returns them or `None` when an
//! unmasked exception keeps it from happening. Decoding, addresses, `#NM` checks and the recording
//! of instruction and data pointers ([`X87State::record_instruction`]) are the caller's.
//!
//! Exceptions: a masked one gives its masked response; an unmasked one sets ES and B in the status
//! word and is reported by [`X87State::check_pending`], which the caller asks before every waiting
//! instruction (`#MF`, or FERR# when CR0.NE is clear). Spec: Intel SDM vol. 1, chapter 8.

mod arithmetic;
mod comparison;
mod control;
mod environment;
mod fxsave;
mod load;
mod mmx;
mod stack;
mod state;
mod store;
mod transcendental;

pub use arithmetic::{Operand, Operation};
pub use comparison::{CompareFlags, Comparison};
pub use environment::EnvironmentFormat;
pub use fxsave::{FXSAVE_SIZE, FxrstorError, FxsaveFormat, FxsaveImage};
pub use load::Constant;
pub use state::{X87Fault, X87State};

#[cfg(test)]
mod image_test;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod oracle;
