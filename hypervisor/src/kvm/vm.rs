//! A VM of KVM's: the guest's memory in its slots, the registers that KVM may handle by itself, and
//! the dirty log.
//!
//! The dirty log is on as long as the VM lives: every page that a guest writes has to be in
//! [`GuestMemory`]'s record sooner or later, for a clone and for a reset.
//!
//! UNSAFETY: a memory slot is a pointer that the guest may write through.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::ioctl;
use crate::arch::x86_64::msr;
use crate::memory::{GuestMemory, HIGH_START, PAGE_SIZE};

/// Where Intel's processors keep what they need for real mode: three pages and, below them, one
/// more, in the range of the firmware that this machine does not have.
const REAL_MODE_TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Pages that one word of the dirty log tells of.
const WORD_PAGES: u64 = 64;

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
    clears_by_hand: bool,
}

impl KvmVm {
    /// A VM over `memory` without processors.
    pub fn new(kvm: &Kvm, memory: Arc<GuestMemory>) -> io::Result<Self> {
        let fd = kvm.create_vm()?;
        fd.set_tss_address(REAL_MODE_TSS)?;
        fd.set_identity_map_address(IDENTITY_MAP)?;
        let by_hand = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            args: [u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        let mut vm = Self {
            clears_by_hand: fd.enable_cap(&by_hand).is_ok(),
            fd,
            memory,
            slots: Vec::new(),
        };
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

    fn add_slot(&mut self, gpa: u64, offset: u64, size: u64) -> io::Result<()> {
        let number = self.slots.len() as u32;
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: self.memory.host_base() as u64 + offset,
        };
        // SAFETY: the range lies inside the mapping of `memory`, which outlives the VM, as the
        // order of the fields says; slots do not overlap.
        unsafe { self.fd.set_user_memory_region(region) }?;
        self.slots.push(Slot {
            number,
            first_page: offset / PAGE_SIZE,
            pages: size / PAGE_SIZE,
        });
        Ok(())
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

    /// Puts the pages that the guest has written since the last call into the memory's record.
    pub fn collect_written(&self) -> io::Result<()> {
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
