//! Whether KVM tells which pages a guest wrote: by bitmap, and by ring.
//!
//! UNSAFETY: maps a vCPU's dirty ring, whose entries the kernel writes, and makes an ioctl that the
//! bindings have no name for. The ring is read while the vCPU is stopped.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::ptr;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_LOG_PAGE_OFFSET,
    KVM_MEM_LOG_DIRTY_PAGES, kvm_dirty_gfn, kvm_enable_cap,
};

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, MEMORY_SIZE, Ring};
use super::program::{DATA, DONE, program};

const PAGE: u64 = 4096;
/// Entries of the ring; the kernel keeps some of them in reserve.
const ENTRIES: usize = 1024;
const RING_SIZE: usize = ENTRIES * size_of::<kvm_dirty_gfn>();
/// `KVM_RESET_DIRTY_RINGS`: `_IO(0xae, 0xc7)`. Spec: KVM API.
const RESET_DIRTY_RINGS: libc::c_ulong = 0xaec7;
/// Of an entry's flags: the kernel has filled it; we have taken it.
const DIRTY: u32 = 1;
const HARVESTED: u32 = 2;
/// The page that the program writes, and one that it does not.
const WRITTEN: u64 = DATA / PAGE + 3;
const UNTOUCHED: u64 = DATA / PAGE + 5;

fn code() -> &'static [u8] {
    program!("inc dword ptr [rdi]", "out {done}, al"; done = super::program::DONE)
}

fn write_page(guest: &mut Guest) -> Result<(), ProbeError> {
    guest.load(code(), Ring::Kernel, WRITTEN * PAGE)?;
    guest.run_to_end()
}

/// Whether the bitmap has a written page once, and again when it is written again.
pub(super) fn bitmap(host: &Host) -> Result<Answer, ProbeError> {
    host.with_guest(|guest| {
        guest.set_slot_flags(KVM_MEM_LOG_DIRTY_PAGES)?;
        let answer = bitmap_of(guest)?;
        guest.set_slot_flags(0)?;
        Ok(answer)
    })
}

fn bitmap_of(guest: &mut Guest) -> Result<Answer, ProbeError> {
    let idle = program!("out {done}, al"; done = DONE);
    let mut seen = Vec::new();
    for writes in [true, false, true] {
        if writes {
            write_page(guest)?;
        } else {
            guest.load(idle, Ring::Kernel, 0)?;
            guest.run_to_end()?;
        }
        let log = guest
            .vm
            .get_dirty_log(0, MEMORY_SIZE)
            .map_err(ProbeError::kvm("get the dirty log"))?;
        let has = |page: u64| log[(page / 64) as usize] >> (page % 64) & 1 == 1;
        seen.push((has(WRITTEN), has(UNTOUCHED)));
    }
    let works = seen == [(true, false), (false, false), (true, false)];
    Ok(Answer {
        works,
        detail: if works {
            "each written page, once".into()
        } else {
            format!("written and untouched page after a write, none, a write: {seen:?}")
        },
        figure: None,
    })
}

/// The ring of one vCPU, unmapped when dropped.
struct DirtyRing(*mut kvm_dirty_gfn);

impl DirtyRing {
    fn map(guest: &Guest) -> Result<Self, ProbeError> {
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE as i64;
        // SAFETY: a fresh mapping of the vCPU's file that replaces none.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                RING_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                guest.vcpu.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(ProbeError::host("map the dirty ring"));
        }
        Ok(Self(start.cast()))
    }

    /// Takes the entries that are filled, from the first one on: their pages.
    fn harvest(&mut self) -> Vec<u64> {
        let mut pages = Vec::new();
        for index in 0..ENTRIES {
            // SAFETY: inside the mapping; the kernel writes entries only while the vCPU runs.
            let entry = unsafe { &mut *self.0.add(index) };
            if entry.flags & DIRTY == 0 {
                break;
            }
            pages.push(entry.offset);
            entry.flags = HARVESTED;
        }
        pages
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.0.cast(), RING_SIZE) };
    }
}

/// Whether the ring has a written page, and can be emptied.
pub(super) fn ring(host: &Host) -> Result<Answer, ProbeError> {
    let mut guest = Guest::with(host, |vm| {
        let tried = [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL].map(|cap| {
            let mut cap = kvm_enable_cap {
                cap,
                ..kvm_enable_cap::default()
            };
            cap.args[0] = RING_SIZE as u64;
            vm.enable_cap(&cap)
        });
        match tried {
            [Err(_), Err(error)] => Err(ProbeError::kvm("enable the dirty ring")(error)),
            _ => Ok(()),
        }
    })?;
    guest.set_slot_flags(KVM_MEM_LOG_DIRTY_PAGES)?;
    let mut ring = DirtyRing::map(&guest)?;
    write_page(&mut guest)?;
    let pages = ring.harvest();
    // SAFETY: an ioctl without arguments on the VM's own file.
    let reset = unsafe { libc::ioctl(guest.vm.as_raw_fd(), RESET_DIRTY_RINGS as _, 0) };
    let works = pages.contains(&WRITTEN) && !pages.contains(&UNTOUCHED);
    let works = works && usize::try_from(reset) == Ok(pages.len());
    Ok(Answer {
        works,
        detail: if works {
            "each written page".into()
        } else {
            format!("pages {pages:x?} instead of {WRITTEN:#x}; {reset} entries given back")
        },
        figure: None,
    })
}
