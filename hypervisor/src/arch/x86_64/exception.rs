//! Exception vectors and page-fault error bits. Spec: Intel SDM vol. 3A §7.15.

/// Divide error (fault).
pub const DE: u8 = 0;
/// Debug (fault or trap).
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Breakpoint (trap).
pub const BP: u8 = 3;
/// Overflow (trap).
pub const OF: u8 = 4;
/// BOUND range exceeded (fault).
pub const BR: u8 = 5;
/// Invalid opcode (fault).
pub const UD: u8 = 6;
/// Device not available (fault).
pub const NM: u8 = 7;
/// Double fault (abort).
pub const DF: u8 = 8;
/// Invalid TSS (fault).
pub const TS: u8 = 10;
/// Segment not present (fault).
pub const NP: u8 = 11;
/// Stack segment (fault).
pub const SS: u8 = 12;
/// General protection (fault).
pub const GP: u8 = 13;
/// Page fault (fault).
pub const PF: u8 = 14;
/// x87 floating-point error (fault).
pub const MF: u8 = 16;
/// Alignment check (fault).
pub const AC: u8 = 17;
/// SIMD floating-point error (fault).
pub const XM: u8 = 19;

/// Page-fault error code: the page was present.
pub const PF_PRESENT: u32 = 1 << 0;
/// Page-fault error code: a write.
pub const PF_WRITE: u32 = 1 << 1;
/// Page-fault error code: made in user mode.
pub const PF_USER: u32 = 1 << 2;
/// Page-fault error code: a reserved bit was set in a paging entry.
pub const PF_RESERVED: u32 = 1 << 3;
/// Page-fault error code: an instruction fetch.
pub const PF_FETCH: u32 = 1 << 4;
