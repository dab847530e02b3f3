//! An x86-64 processor in Rust: precise, deterministic, counting every instruction.
//!
//! ```text
//! vcpu (run loop) ── code_cache ── decode (iced-x86 → Op)
//!        │                             │
//!        └── execute/* handlers ◀──────┘   one per form of an instruction
//!               │
//!             cpu (registers) ── mmu (TLB, walks, dirty and code pages) ── guest memory
//! ```
//!
//! Modelled: real mode, 16- and 32-bit protected mode, compatibility and 64-bit mode; the
//! general, system, BMI, x87, MMX and SSE to SSE4.2 instructions. Left out: virtual-8086 mode,
//! task switches, call gates, AVX, virtualisation. Guest-visible results depend on executed
//! instructions and inputs alone: see `mmu` on what caches may do.
//!
//! Spec: Intel SDM, edition of December 2024.

pub mod bus;
mod code_cache;
pub mod cpu;
mod decode;
pub mod exception;
mod execute;
mod fetch;
pub mod flags;
pub mod float;
pub mod fpu;
pub mod mmu;
pub mod op;
mod save;
pub mod segment;
pub mod simd;
mod translate;
pub mod vcpu;
mod vm;
pub mod width;
pub mod x87;

pub(crate) use vm::require_one_processor;
pub use vm::{InterpretingHypervisor, SoftwareHypervisor};
