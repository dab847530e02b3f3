//! Whether KVM tells which pages a guest wrote: by bitmap, and by ring.

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;

use super::super::dirty_ring::{self, DirtyRing, DirtyTracking};
use super::super::ioctl;
use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, MEMORY_SIZE, Ring};
use super::program::{DATA, DONE, program};

const PAGE: u64 = 4096;
/// Entries of the ring; the kernel keeps some of them in reserve.
const ENTRIES: u32 = 1024;
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

/// Whether the ring has a written page, can be emptied, and has it again when it is written again.
pub(super) fn ring(host: &Host) -> Result<Answer, ProbeError> {
    let mut guest = Guest::with(host, |vm| {
        dirty_ring::enable(vm, ENTRIES).map_err(ProbeError::kvm("enable the dirty ring"))
    })?;
    guest.set_slot_flags(KVM_MEM_LOG_DIRTY_PAGES)?;
    let ring = DirtyRing::map(&guest.vcpu, ENTRIES).map_err(|source| ProbeError::Host {
        action: "map the dirty ring",
        source,
    })?;
    for _ in 0..2 {
        write_page(&mut guest)?;
        let mut pages = Vec::new();
        let taken = ring.harvest(|written| pages.push(written.page));
        let given = ioctl::reset_dirty_rings(&guest.vm).map_err(|source| ProbeError::Host {
            action: "empty the dirty ring",
            source,
        })?;
        if !pages.contains(&WRITTEN) || pages.contains(&UNTOUCHED) || given != taken {
            return Err(ProbeError::Unexpected(format!(
                "pages {pages:x?} instead of {WRITTEN:#x}; {given} entries given back"
            )));
        }
    }
    let detail = match DirtyTracking::offered(&host.kvm) {
        DirtyTracking::Ring(entries) => format!("each written page; {entries} entries are offered"),
        DirtyTracking::Log => "each written page, but it is not offered".into(),
    };
    Ok(Answer {
        works: true,
        detail,
        figure: None,
    })
}
