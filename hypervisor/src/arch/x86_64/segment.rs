//! Segment selectors and descriptors. Spec: Intel SDM vol. 3A §3.4, §3.5, §8.2.

/// Index of ES in segment arrays; the order is that of the instruction encoding.
pub const ES: usize = 0;
/// Index of CS.
pub const CS: usize = 1;
/// Index of SS.
pub const SS: usize = 2;
/// Index of DS.
pub const DS: usize = 3;
/// Index of FS.
pub const FS: usize = 4;
/// Index of GS.
pub const GS: usize = 5;

/// Access-rights bits as in bits 8 to 23 of a descriptor's high word, limit bits left out.
pub mod access {
    /// Type field, four bits.
    pub const TYPE: u32 = 0xf;
    /// Data: writable; code: readable.
    pub const WRITABLE: u32 = 1 << 1;
    /// Data: grows down; code: conforming.
    pub const CONFORMING: u32 = 1 << 2;
    /// Code segment.
    pub const CODE: u32 = 1 << 3;
    /// Accessed.
    pub const ACCESSED: u32 = 1;
    /// Code or data, not system.
    pub const NOT_SYSTEM: u32 = 1 << 4;
    /// Shift of the privilege level.
    pub const DPL_SHIFT: u32 = 5;
    /// Present.
    pub const PRESENT: u32 = 1 << 7;
    /// For software to use; no processor looks at it.
    pub const AVAILABLE: u32 = 1 << 12;
    /// 64-bit code.
    pub const LONG: u32 = 1 << 13;
    /// 32-bit default size.
    pub const DEFAULT_32: u32 = 1 << 14;
    /// Limit counts 4 KiB units.
    pub const GRANULAR: u32 = 1 << 15;
    /// Not usable (a null selector was loaded).
    pub const UNUSABLE: u32 = 1 << 16;
}
