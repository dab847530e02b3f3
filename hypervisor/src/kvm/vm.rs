//! A VM of KVM's: the guest's memory in its slots, the registers that KVM may handle by itself, and
//! the pages that were written.
//!
//! These are logged as long as the VM lives: every page that a guest writes has to be in
//! [`GuestMemory`]'s record sooner or later, for a clone and for a reset. What this process writes
//! there itself, KVM does not see; the memory has it in its record at once.
//!
//! UNSAFETY: a memory slot is a pointer that the guest may write through.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, KVM_X86_DISABLE_EXITS_MWAIT,
    kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use super::dirty_ring::{self, DirtyRing, DirtyTracking, WrittenPage};
use super::{ioctl, wake};
use crate::arch::x86_64::msr;
use crate::memory::{GuestMemory, HIGH_START, PAGE_SIZE};

/// Where Intel's processors keep what they need for real mode: three pages and, below them, one
/// more, in the range of the firmware that this machine does not have.
const REAL_MODE_TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Pages that one word of the dirty log tells of.
const WORD_PAGES: u64 = 64;

/// How often KVM is asked to take entries of the dirty ring back: what else than a signal wants the
/// thread, as a freezer, stops it.
const MOST_RESETS: u32 = 1000;

/// Registers that KVM handles by itself: first, how many, and whether also writes.
const HANDLED: [(u32, u32, bool); 5] = [
    (msr::TSC, 1, false),
    (msr::SYSENTER_CS, 3, true),
    (msr::PAT, 1, true),
    (msr::EFER, 5, true),
    (msr::FS_BASE, 4, true),
];

/// A range of guest memory as KVM knows it.
#[derive(Debug)]
struct Slot {
    number: u32,
    gpa: u64,
    /// Number of its first page in the mapping.
    first_page: u64,
    pages: u64,
}

/// The VM, for as long as its vCPU lives.
#[derive(Debug)]
pub(super) struct KvmVm {
    // First, so that the guest is gone before its memory goes.
    fd: VmFd,
    memory: Arc<GuestMemory>,
    slots: Vec<Slot>,
    tracking: DirtyTracking,
    clears_by_hand: bool,
    /// Some pages that are in the memory's record may not be protected: see [`Self::make_room`] and
    /// [`Self::empty`].
    unprotected: AtomicBool,
}

impl KvmVm {
    /// A VM over `memory` without processors.
    pub fn new(kvm: &Kvm, memory: Arc<GuestMemory>, tracking: DirtyTracking) -> io::Result<Self> {
        let fd = kvm.create_vm()?;
        fd.set_tss_address(REAL_MODE_TSS)?;
        fd.set_identity_map_address(IDENTITY_MAP)?;
        let clears_by_hand = match tracking {
            DirtyTracking::Log => clear_by_hand(&fd),
            DirtyTracking::Ring(entries) => {
                dirty_ring::enable(&fd, entries)?;
                false
            }
        };
        let mut vm = Self {
            fd,
            memory,
            slots: Vec::new(),
            tracking,
            clears_by_hand,
            unprotected: AtomicBool::new(false),
        };
        vm.keep_off_the_timer();
        vm.answer_registers_here()?;
        let (low, size) = (vm.memory.low_end(), vm.memory.size());
        vm.add_slot(0, 0, low)?;
        if size > low {
            vm.add_slot(HIGH_START, low, size - low)?;
        }
        Ok(vm)
    }

    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The ring of a vCPU of this VM, if KVM tells by one which pages were written.
    pub fn ring_of(&self, vcpu: &VcpuFd) -> io::Result<Option<DirtyRing>> {
        match self.tracking {
            DirtyTracking::Log => Ok(None),
            DirtyTracking::Ring(entries) => DirtyRing::map(vcpu, entries).map(Some),
        }
    }

    fn add_slot(&mut self, gpa: u64, offset: u64, size: u64) -> io::Result<()> {
        let slot = Slot {
            number: self.slots.len() as u32,
            gpa,
            first_page: offset / PAGE_SIZE,
            pages: size / PAGE_SIZE,
        };
        self.set_slot(&slot, KVM_MEM_LOG_DIRTY_PAGES)?;
        self.slots.push(slot);
        Ok(())
    }

    fn set_slot(&self, slot: &Slot, flags: u32) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot: slot.number,
            flags,
            guest_phys_addr: slot.gpa,
            memory_size: slot.pages * PAGE_SIZE,
            userspace_addr: self.memory.host_base() as u64 + slot.first_page * PAGE_SIZE,
        };
        // SAFETY: the range lies inside the mapping of `memory`, which outlives the VM, as the
        // order of the fields says; slots do not overlap.
        unsafe { self.fd.set_user_memory_region(region) }?;
        Ok(())
    }

    /// Keeps KVM from taking the guest's writes of its timer's deadline for itself: on Intel's
    /// processors it looks at them before it looks at the filter, and without a timer of its own
    /// they are lost. It does not where guests may use MWAIT, which the model does not offer.
    /// Where this does not help, the probe at the start tells.
    fn keep_off_the_timer(&self) {
        let offered = self
            .fd
            .check_extension_raw(u64::from(KVM_CAP_X86_DISABLE_EXITS));
        if offered & KVM_X86_DISABLE_EXITS_MWAIT as i32 == 0 {
            return;
        }
        let wanted = kvm_enable_cap {
            cap: KVM_CAP_X86_DISABLE_EXITS,
            args: [u64::from(KVM_X86_DISABLE_EXITS_MWAIT), 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        if let Err(error) = self.fd.enable_cap(&wanted) {
            log::debug!("KVM does not leave MWAIT to its guests: {error}");
        }
    }

    /// Has every access of a register that is not [`HANDLED`], or that KVM refuses, come here.
    fn answer_registers_here(&self) -> io::Result<()> {
        let reasons =
            KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
        self.fd.enable_cap(&kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            args: [u64::from(reasons), 0, 0, 0],
            ..kvm_enable_cap::default()
        })?;
        let all = [u8::MAX];
        let ranges: Vec<MsrFilterRange<'_>> = HANDLED
            .iter()
            .map(|&(base, msr_count, writes)| MsrFilterRange {
                flags: if writes {
                    MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE
                } else {
                    MsrFilterRangeFlags::READ
                },
                base,
                msr_count,
                bitmap: &all,
            })
            .collect();
        self.fd
            .set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)?;
        Ok(())
    }

    /// Puts the pages that the guest has written since the last call into the memory's record; from
    /// now on KVM tells of them again. `ring` is that of the VM's vCPU, which has stopped.
    pub fn collect_written(&self, ring: Option<&DirtyRing>) -> io::Result<()> {
        let Some(ring) = ring else {
            return self.read_log();
        };
        self.empty(|with| ring.harvest(with))?;
        if self.unprotected.swap(false, Ordering::Relaxed) {
            // To begin to log a slot is to protect all of it.
            for slot in &self.slots {
                self.set_slot(slot, 0)?;
                self.set_slot(slot, KVM_MEM_LOG_DIRTY_PAGES)?;
            }
        }
        Ok(())
    }

    /// Makes room in a ring that is full. Its pages come into the memory's record, and stay
    /// writable until the next [`Self::collect_written`]: they are recorded whatever happens to
    /// them, so a guest whose record nobody takes does not fault on them again and again.
    pub fn make_room(&self, ring: &DirtyRing) -> io::Result<()> {
        self.unprotected.store(true, Ordering::Relaxed);
        self.empty(|with| ring.drop_all(with))
    }

    /// Records the pages that `take` takes out of a ring, and gives their entries back.
    fn empty(&self, take: impl FnOnce(&mut dyn FnMut(WrittenPage)) -> u32) -> io::Result<()> {
        let mut strange = None;
        let taken = take(&mut |written| match self.page_of(written) {
            Some(page) => self.memory.mark_dirty(page),
            None => strange = Some(written),
        });
        if let Some(WrittenPage { slot, page }) = strange {
            return Err(io::Error::other(format!(
                "its dirty ring names page {page:#x} of slot {slot}, which is no memory"
            )));
        }
        let _undisturbed = wake::Undisturbed::begin()?;
        let mut left = taken;
        for _ in 0..MOST_RESETS {
            if left == 0 {
                return Ok(());
            }
            left = match ioctl::reset_dirty_rings(&self.fd) {
                Ok(given) => left.saturating_sub(given),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => left,
                Err(error) => return Err(error),
            };
            if left > 0 {
                // It stopped early, and may have left some of them unprotected.
                self.unprotected.store(true, Ordering::Relaxed);
            }
        }
        Err(io::Error::other(format!(
            "it does not take {left} of {taken} entries of its dirty ring back"
        )))
    }

    /// Its number in the mapping, if it is memory.
    fn page_of(&self, written: WrittenPage) -> Option<u64> {
        let mut slots = self.slots.iter();
        let slot = slots.find(|slot| slot.number == written.slot)?;
        (written.page < slot.pages).then(|| slot.first_page + written.page)
    }

    fn read_log(&self) -> io::Result<()> {
        for slot in &self.slots {
            let size = (slot.pages * PAGE_SIZE) as usize;
            let mut log = self.fd.get_dirty_log(slot.number, size)?;
            let Some((first, last)) = used_words(&log) else {
                continue;
            };
            if self.clears_by_hand {
                let first_page = first as u64 * WORD_PAGES;
                let end_page = ((last as u64 + 1) * WORD_PAGES).min(slot.pages);
                let pages = (end_page - first_page) as u32;
                let words = &mut log[first..=last];
                ioctl::clear_dirty_log(&self.fd, slot.number, first_page, pages, words)?;
            }
            for page in pages_of(&log[first..=last]) {
                let page = slot.first_page + first as u64 * WORD_PAGES + page;
                self.memory.mark_dirty(page);
            }
        }
        Ok(())
    }
}

/// Whether the dirty log can be cleared, and its pages protected, part by part.
fn clear_by_hand(vm: &VmFd) -> bool {
    let wanted = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&wanted).is_ok()
}

/// The first and the last word that is not zero.
fn used_words(log: &[u64]) -> Option<(usize, usize)> {
    let first = log.iter().position(|word| *word != 0)?;
    let last = log.iter().rposition(|word| *word != 0)?;
    Some((first, last))
}

/// The numbers of the bits that are set.
fn pages_of(log: &[u64]) -> impl Iterator<Item = u64> {
    log.iter().enumerate().flat_map(|(index, &word)| {
        let bits = (0..WORD_PAGES).filter(move |bit| word & 1 << bit != 0);
        bits.map(move |bit| index as u64 * WORD_PAGES + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_bit_by_bit_between_its_used_words() {
        let log = [0, 1 << 63 | 1, 0, 2, 0];
        assert_eq!(used_words(&log), Some((1, 3)));
        let pages: Vec<u64> = pages_of(&log).collect();
        assert_eq!(pages, [64, 127, 193]);
        assert_eq!(used_words(&[0, 0]), None);
    }
}
