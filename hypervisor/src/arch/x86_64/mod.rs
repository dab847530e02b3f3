//! x86-64 facts: control bits, MSR numbers, exception vectors, paging bits, descriptors.
//!
//! Numbers and names are those of the Intel SDM (volumes 2 to 4, edition of December 2024) and,
//! for SYSCALL and long mode, of the AMD APM volume 2 (revision 3.42). Nothing here computes.

pub mod control;
pub mod cpuid;
pub mod exception;
pub mod msr;
pub mod paging;
pub mod segment;
