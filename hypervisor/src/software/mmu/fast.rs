//! The fast path of guest memory accesses: one tag comparison, then host memory.
//!
//! UNSAFETY: reads and writes guest memory through addresses that the TLB vouches for. The safe
//! way (a bounds-checked copy per access) costs a third of the interpreter's speed on the
//! SHA-256 guest of `scripts/bench cpu`.
#![allow(unsafe_code)]

use crate::arch::x86_64::paging::PAGE_MASK;
use crate::software::cpu::Cpu;
use crate::software::op::Stop;

/// A value that is read and written whole.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
#[expect(
    unsafe_code,
    reason = "the promise above is what makes raw loads sound"
)]
pub unsafe trait Scalar: Copy {
    /// Bytes, at most 16.
    const SIZE: u64 = size_of::<Self>() as u64;
    /// From little-endian bytes; the first `SIZE` count.
    fn from_bytes(bytes: [u8; 16]) -> Self;
    /// To little-endian bytes; the rest is zero.
    fn to_bytes(self) -> [u8; 16];
}

macro_rules! scalar {
    ($($type:ty),*) => {$(
        // SAFETY: an unsigned integer has no padding and no invalid patterns.
        unsafe impl Scalar for $type {
            #[inline]
            fn from_bytes(bytes: [u8; 16]) -> Self {
                u128::from_le_bytes(bytes) as $type
            }
            #[inline]
            fn to_bytes(self) -> [u8; 16] {
                u128::from(self).to_le_bytes()
            }
        }
    )*};
}
scalar!(u8, u16, u32, u64, u128);

impl Cpu {
    /// Reads at a linear address with the current privilege.
    ///
    /// # Errors
    /// A fault, or a device access that waits for its answer.
    #[inline(always)]
    pub fn load<T: Scalar>(&mut self, linear: u64) -> Result<T, Stop> {
        let entry = self.mmu.data().entry(linear);
        if entry.read == linear.wrapping_add(T::SIZE - 1) & !PAGE_MASK {
            // SAFETY: `Mmu::fill` sets a read tag without reasons only for pages that lie inside
            // the guest's mapping, which the MMU keeps alive; the comparison covers the first and
            // the last byte, so the access stays inside that page.
            return Ok(unsafe { (linear.wrapping_add(entry.addend) as *const T).read_unaligned() });
        }
        self.load_slow(linear)
    }

    /// Writes at a linear address with the current privilege.
    ///
    /// # Errors
    /// A fault, a device access, or a hit on decoded code; nothing is written then.
    #[inline(always)]
    pub fn store<T: Scalar>(&mut self, linear: u64, value: T) -> Result<(), Stop> {
        let entry = self.mmu.data().entry(linear);
        if entry.write == linear.wrapping_add(T::SIZE - 1) & !PAGE_MASK {
            // SAFETY: as in `load`, with the write tag; a tag without reasons is set only for
            // pages that are recorded as dirty and hold no decoded code.
            unsafe { (linear.wrapping_add(entry.addend) as *mut T).write_unaligned(value) };
            return Ok(());
        }
        self.store_slow(linear, value)
    }

    /// Reads at a linear address that the same instruction is going to write.
    ///
    /// # Errors
    /// As [`Cpu::store`]: a fault that the write would raise is raised here.
    #[inline(always)]
    pub fn load_to_modify<T: Scalar>(&mut self, linear: u64) -> Result<T, Stop> {
        let entry = self.mmu.data().entry(linear);
        if entry.write == linear.wrapping_add(T::SIZE - 1) & !PAGE_MASK {
            // SAFETY: as in `store`.
            return Ok(unsafe { (linear.wrapping_add(entry.addend) as *const T).read_unaligned() });
        }
        self.load_to_modify_slow(linear)
    }
}

/// Copies `len` bytes inside guest memory, forwards, as REP MOVSB does: an overlap repeats bytes.
///
/// # Safety
/// Both ranges lie inside the guest's mapping, which must be alive.
pub(super) unsafe fn copy_forward(from: u64, to: u64, len: u64) {
    let (from_ptr, to_ptr) = (from as *const u8, to as *mut u8);
    if to > from && to - from < len {
        for at in 0..len as usize {
            // SAFETY: inside the ranges that the caller vouches for.
            unsafe { to_ptr.add(at).write(from_ptr.add(at).read()) };
        }
    } else {
        // SAFETY: as above; `copy` allows the remaining kind of overlap.
        unsafe { std::ptr::copy(from_ptr, to_ptr, len as usize) };
    }
}

/// Fills `len` bytes of guest memory.
///
/// # Safety
/// As [`copy_forward`].
pub(super) unsafe fn fill(to: u64, value: u8, len: u64) {
    // SAFETY: inside the range that the caller vouches for.
    unsafe { std::ptr::write_bytes(to as *mut u8, value, len as usize) };
}
