//! How KVM tells which pages a guest wrote, and the ring in which it names them one by one.
//!
//! An entry of the ring goes round:
//!
//! ```text
//!   unused ──(the guest writes a page: KVM)──▶ dirty ──(we read it)──▶ harvested ──┐
//!     ▲                                                                            │
//!     └──────────(KVM_RESET_DIRTY_RINGS: KVM, and protects the page again)─────────┘
//! ```
//!
//! Finding the pages costs what was written; by the bitmap of the dirty log it also costs what
//! memory there is: 0.3 ms for 2 GiB in the KVM bench, where the ring takes 0.015. The ring is full
//! some entries before its end, and then the guest does not go on: see [`DirtyRing::drop_all`].
//!
//! What a processor still has in a buffer of its own (Intel's page-modification log) is in the ring
//! when its vCPU has stopped. The ring is read by who has the vCPU, so it is complete then.
//!
//! Spec: KVM API 8.29, `KVM_CAP_DIRTY_LOG_RING`.
//!
//! UNSAFETY: a mapping that the kernel writes, too.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::memory::PAGE_SIZE;

/// The most entries that KVM takes.
const MOST_ENTRIES: u32 = 1 << 16;
/// The least: it keeps 64 in reserve, and the 512 of a processor's own buffer.
const LEAST_ENTRIES: u32 = 1 << 10;
/// Of an entry's flags: KVM has filled it; we have read it.
const DIRTY: u32 = 1;
const HARVESTED: u32 = 2;
/// A memory slot that cannot be.
const NO_SLOT: u32 = u32::MAX;

/// How KVM tells which pages a guest wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyTracking {
    /// By a bit for each page of memory.
    Log,
    /// By a ring of this many entries for each vCPU; a power of two.
    Ring(u32),
}

impl DirtyTracking {
    /// The largest ring that `kvm` has, or the log if it has none.
    pub(super) fn offered(kvm: &Kvm) -> Self {
        let bytes = kvm.check_extension_int(Cap::DirtyLogRing);
        let bytes = u32::try_from(bytes).unwrap_or(0);
        Self::of_size(bytes)
    }

    /// A ring that takes no more than `bytes`.
    fn of_size(bytes: u32) -> Self {
        match (bytes / size_of::<kvm_dirty_gfn>() as u32).checked_ilog2() {
            Some(log) if 1 << log >= LEAST_ENTRIES => Self::Ring((1 << log).min(MOST_ENTRIES)),
            _ => Self::Log,
        }
    }
}

/// Has the vCPUs of a VM, which has none yet, get a ring of `entries` each.
///
/// # Errors
/// When KVM has no rings of this size.
pub(super) fn enable(vm: &VmFd, entries: u32) -> Result<(), kvm_ioctls::Error> {
    let mut wanted = kvm_enable_cap {
        cap: KVM_CAP_DIRTY_LOG_RING,
        ..kvm_enable_cap::default()
    };
    wanted.args[0] = u64::from(entries) * size_of::<kvm_dirty_gfn>() as u64;
    vm.enable_cap(&wanted)
}

/// A page that a guest wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrittenPage {
    /// The memory slot it is in.
    pub slot: u32,
    /// Its number in that slot.
    pub page: u64,
}

/// The ring of one vCPU.
#[derive(Debug)]
pub(super) struct DirtyRing {
    entries: NonNull<kvm_dirty_gfn>,
    count: u32,
    /// The entry that is filled next, as the count of all that were taken so far.
    next: Cell<u32>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and goes with its owner.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// The ring of `vcpu`, which has `count` entries.
    ///
    /// # Errors
    /// When it cannot be mapped: its VM was made without.
    pub fn map(vcpu: &VcpuFd, count: u32) -> io::Result<Self> {
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE;
        // SAFETY: a fresh mapping of the vCPU's file that replaces none.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::size(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(start.cast());
        Ok(Self {
            entries: entries.expect("no mapping is at address zero"),
            count,
            next: Cell::new(0),
        })
    }

    fn size(count: u32) -> usize {
        count as usize * size_of::<kvm_dirty_gfn>()
    }

    /// Takes the entries that are filled, and tells how many: `with` gets their pages. KVM has
    /// them, and does not protect the pages again, until they are given back.
    pub fn harvest(&self, with: impl FnMut(WrittenPage)) -> u32 {
        self.take(false, with)
    }

    /// Like [`Self::harvest`], but KVM will not protect the pages again when it gets the entries
    /// back: what the guest writes there afterwards is not told. That spares a guest whose pages
    /// nobody asks for a fault for each of them, over and over.
    ///
    /// KVM leaves out entries of slots that are gone by then, as a slot may go at any time; so the
    /// entries are made ones of no slot.
    pub fn drop_all(&self, with: impl FnMut(WrittenPage)) -> u32 {
        self.take(true, with)
    }

    fn take(&self, unprotected: bool, mut with: impl FnMut(WrittenPage)) -> u32 {
        let mut taken = 0;
        while taken < self.count {
            let index = self.next.get() % self.count;
            // SAFETY: an entry inside the mapping. Its flags are accessed by atomics only, and the
            // rest only while they say that KVM has filled it and is done with it.
            let entry = unsafe { self.entries.add(index as usize).as_ptr() };
            // SAFETY: as above; the field is aligned.
            let flags = unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) };
            // Before the rest is read, as KVM sets them after it.
            if flags.load(Ordering::Acquire) & DIRTY == 0 {
                break;
            }
            // SAFETY: as above.
            let (slot, page) = unsafe { ((*entry).slot, (*entry).offset) };
            with(WrittenPage { slot, page });
            if unprotected {
                // SAFETY: as above.
                unsafe { (*entry).slot = NO_SLOT };
            }
            flags.store(HARVESTED, Ordering::Release);
            self.next.set(self.next.get().wrapping_add(1));
            taken += 1;
        }
        taken
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: what `map` mapped, and nobody has a pointer into.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), Self::size(self.count)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring that no kernel fills.
    fn ring(count: u32) -> DirtyRing {
        // SAFETY: a fresh mapping of zeroes.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                DirtyRing::size(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        DirtyRing {
            entries: NonNull::new(start.cast()).unwrap(),
            count,
            next: Cell::new(0),
        }
    }

    fn place(ring: &DirtyRing, index: u32) -> *mut kvm_dirty_gfn {
        assert!(index < ring.count);
        // SAFETY: inside the mapping.
        unsafe { ring.entries.add(index as usize).as_ptr() }
    }

    /// The flags and the slot of an entry.
    fn entry(ring: &DirtyRing, index: u32) -> (u32, u32) {
        // SAFETY: an entry, which nobody else touches now.
        let entry = unsafe { place(ring, index).read() };
        (entry.flags, entry.slot)
    }

    fn fill(ring: &DirtyRing, index: u32, page: u64) {
        let entry = kvm_dirty_gfn {
            flags: DIRTY,
            slot: 1,
            offset: page,
        };
        // SAFETY: as above.
        unsafe { place(ring, index).write(entry) };
    }

    fn pages(ring: &DirtyRing) -> Vec<u64> {
        let mut pages = Vec::new();
        let taken = ring.harvest(|written| {
            assert_eq!(written.slot, 1);
            pages.push(written.page);
        });
        assert_eq!(taken as usize, pages.len());
        pages
    }

    #[test]
    fn entries_are_taken_once_in_their_order_and_round_the_end() {
        let ring = ring(256);
        assert!(pages(&ring).is_empty());
        for index in 0..200 {
            fill(&ring, index, u64::from(index) + 1000);
        }
        assert_eq!(pages(&ring), (1000..1200).collect::<Vec<u64>>());
        assert!(pages(&ring).is_empty(), "harvested ones are not dirty");
        assert_eq!(entry(&ring, 199), (HARVESTED, 1));
        assert_eq!(entry(&ring, 200), (0, 0));
        for count in 200..300 {
            fill(&ring, count % 256, u64::from(count));
        }
        assert_eq!(pages(&ring), (200..300).collect::<Vec<u64>>());
    }

    #[test]
    fn a_ring_that_is_all_dirty_is_taken_once() {
        let ring = ring(256);
        for index in 0..256 {
            fill(&ring, index, u64::from(index));
        }
        assert_eq!(pages(&ring).len(), 256);
    }

    #[test]
    fn entries_whose_pages_stay_writable_are_of_no_slot() {
        let ring = ring(256);
        fill(&ring, 0, 7);
        let mut seen = Vec::new();
        let (slot, page) = (1, 7);
        assert_eq!(ring.drop_all(|written| seen.push(written)), 1);
        assert_eq!(seen, [WrittenPage { slot, page }]);
        assert_eq!(entry(&ring, 0), (HARVESTED, NO_SLOT));
    }

    #[test]
    fn the_largest_power_of_two_is_taken_that_is_offered() {
        for (bytes, expected) in [
            (0, DirtyTracking::Log),
            (15, DirtyTracking::Log),
            (16 * 1023, DirtyTracking::Log),
            (16 * 1024, DirtyTracking::Ring(1024)),
            (16 * 5000, DirtyTracking::Ring(4096)),
            (16 * 65536, DirtyTracking::Ring(65536)),
            (u32::MAX, DirtyTracking::Ring(65536)),
        ] {
            assert_eq!(DirtyTracking::of_size(bytes), expected, "{bytes}");
        }
    }
}
