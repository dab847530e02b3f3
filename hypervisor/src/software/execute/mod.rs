//! What instructions do: a file per family.
//!
//! A handler commits its effects at its end; when it stops early, registers and flags are as
//! before, and so is memory. Undefined flags are given fixed values: where the manual leaves a
//! flag undefined, the handler says what it does.

#![allow(
    improper_ctypes_definitions,
    reason = "handlers are called by translated code and by Rust of this crate; see `op::Handler`"
)]

pub mod alu;
pub mod bits;
pub mod branch;
pub mod control;
pub mod data;
pub mod decimal;
pub mod exchange;
pub mod far;
pub mod fpu_state;
pub mod io;
pub mod mmx;
pub mod multiply;
pub mod operand;
pub mod processor;
pub mod shift;
pub mod sse;
pub mod sse_move;
pub mod stack;
pub mod string;
pub mod syscall;
pub mod x87;
