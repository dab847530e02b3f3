//! Paging-structure bits. Spec: Intel SDM vol. 3A §5.3 to §5.5.

/// Entry is present.
pub const PRESENT: u64 = 1 << 0;
/// Writes allowed.
pub const WRITABLE: u64 = 1 << 1;
/// User access allowed.
pub const USER: u64 = 1 << 2;
/// The processor used this entry.
pub const ACCESSED: u64 = 1 << 5;
/// The processor wrote through this entry.
pub const DIRTY: u64 = 1 << 6;
/// The entry maps a large page (levels 2 and 3).
pub const LARGE: u64 = 1 << 7;
/// The translation survives a CR3 load.
pub const GLOBAL: u64 = 1 << 8;
/// No instruction fetch.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;
/// Low bits of an address inside a small page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;
/// Bits of a physical address this model has.
pub const PHYSICAL_BITS: u32 = 46;
/// Physical page address bits in an entry.
pub const ADDRESS_MASK: u64 = ((1 << PHYSICAL_BITS) - 1) & !PAGE_MASK;
