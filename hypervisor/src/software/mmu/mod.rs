//! Linear addresses to guest memory: paging, translation caches, and the record of which pages
//! hold decoded code.
//!
//! # Determinism
//! A cached translation can be observed: the walk that it spares would have set an accessed or
//! dirty bit. So what the caches hold must be a function of the instructions executed since the
//! last [`Mmu::flush_all`], which both sides of a pair do at the same logical time. Nothing that
//! the host does in between (kicks, slices, reading the dirty pages) drops or adds a translation;
//! it only changes the reasons in the low bits of a tag.

pub mod fast;
pub mod tlb;

mod access;
mod bulk;
mod walk;

use std::sync::Arc;

use self::tlb::{CLEAN, CODE, Context, FetchTlb, LargePages, Tlb};
use crate::arch::x86_64::control::{cr0, cr4, efer, rflags};
use crate::arch::x86_64::paging::PAGE_SIZE;
use crate::memory::{GuestAddress, GuestMemory};

/// How linear addresses are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    /// Linear is physical.
    Off,
    /// Two levels of 4-byte entries.
    Bits32,
    /// Three levels of 8-byte entries.
    Pae,
    /// Four levels.
    Long,
}

/// The control-register bits that the MMU obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Kind of paging.
    pub paging: Paging,
    /// Root of the paging structures.
    pub cr3: u64,
    /// Supervisor writes obey read-only pages.
    pub write_protect: bool,
    /// The NX bit counts.
    pub no_execute: bool,
    /// Supervisor may not execute user pages.
    pub smep: bool,
    /// Supervisor may not touch user pages.
    pub smap: bool,
    /// 4 MiB pages in 32-bit paging.
    pub page_size: bool,
    /// Global pages.
    pub global: bool,
}

impl Control {
    /// From the registers.
    pub fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Self {
        let paging = if cr0 & cr0::PG == 0 {
            Paging::Off
        } else if efer & efer::LMA != 0 {
            Paging::Long
        } else if cr4 & cr4::PAE != 0 {
            Paging::Pae
        } else {
            Paging::Bits32
        };
        Self {
            paging,
            cr3,
            write_protect: cr0 & cr0::WP != 0,
            no_execute: efer & efer::NXE != 0,
            smep: cr4 & cr4::SMEP != 0,
            smap: cr4 & cr4::SMAP != 0,
            page_size: cr4 & cr4::PSE != 0,
            global: cr4 & cr4::PGE != 0,
        }
    }
}

/// A page where blocks of decoded code must be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodePage(pub u64);

/// Memory management of one vCPU.
#[derive(Debug)]
pub struct Mmu {
    memory: Arc<GuestMemory>,
    host_base: u64,
    control: Control,
    context: Context,
    /// Translations for data; translated code looks into them.
    pub(super) tlb: Tlb,
    fetch: [FetchTlb; 2],
    large: LargePages,
    /// Per page of memory: which 64-byte chunks hold decoded code.
    code: Vec<u64>,
    /// Pages whose decoded code was overwritten or is about to be.
    stale: Vec<CodePage>,
    dirty_generation: u64,
}

impl Mmu {
    /// Over `memory`, paging off.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        let pages = memory.page_count() as usize;
        Self {
            host_base: memory.host_base() as u64,
            dirty_generation: memory.dirty_generation(),
            memory,
            control: Control::new(0, 0, 0, 0),
            context: Context::Supervisor,
            tlb: Tlb::new(),
            fetch: [FetchTlb::new(), FetchTlb::new()],
            large: LargePages::default(),
            code: vec![0; pages],
            stale: Vec::new(),
        }
    }

    /// Host address of the fetch translations of user or supervisor code, for translated code.
    pub fn fetch_table(&self, user: bool) -> u64 {
        self.fetch[usize::from(user)].address()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The data translations of the current context.
    #[inline(always)]
    pub(super) fn data(&self) -> &Tlb {
        &self.tlb
    }

    /// The control bits in force.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Takes new control bits over; translations made under others are dropped.
    pub fn set_control(&mut self, control: Control) {
        self.control = control;
        self.flush_translations(false);
    }

    /// Loads CR3: drops translations that are not global.
    pub fn set_cr3(&mut self, cr3: u64) {
        self.control.cr3 = cr3;
        self.flush_translations(self.control.global);
    }

    /// Sets the rights of data accesses from the privilege level and the flags.
    pub fn set_privilege(&mut self, cpl: u8, flags: u64) {
        let context = if cpl == 3 {
            Context::User
        } else if self.control.smap && flags & rflags::AC == 0 {
            Context::SupervisorOnly
        } else {
            Context::Supervisor
        };
        self.select(context);
    }

    /// The rights in force.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Sets the rights of data accesses.
    pub fn select(&mut self, context: Context) {
        self.context = context;
        self.tlb.select(context);
    }

    /// The rights of accesses that the processor makes by itself (descriptor tables, TSS).
    pub fn implicit_context(&self) -> Context {
        if self.control.smap {
            Context::SupervisorOnly
        } else {
            Context::Supervisor
        }
    }

    /// Drops translations; with `keep_global`, global ones stay.
    pub fn flush_translations(&mut self, keep_global: bool) {
        self.tlb.flush(keep_global);
        for fetch in &mut self.fetch {
            fetch.flush(keep_global);
        }
        if !keep_global {
            self.large.clear();
        }
    }

    /// Drops the translations of the page at `linear`, whatever its size, global ones included
    /// (INVLPG).
    pub fn flush_page(&mut self, linear: u64) {
        let in_large = self.large.may_hold(linear);
        self.tlb.flush_page(linear);
        if in_large {
            self.tlb.flush_large(linear);
        }
        for fetch in &mut self.fetch {
            fetch.flush_page(linear);
            if in_large {
                fetch.flush_large(linear);
            }
        }
    }

    /// Drops translations and the record of decoded code.
    pub fn flush_all(&mut self) {
        self.flush_translations(false);
        self.code.fill(0);
        self.stale.clear();
    }

    /// Makes first writes slow again when the dirty pages have been taken.
    #[inline]
    pub fn follow_dirty_record(&mut self) {
        let generation = self.memory.dirty_generation();
        if generation != self.dirty_generation {
            self.dirty_generation = generation;
            self.tlb.slow_writes(CLEAN);
        }
    }

    /// Records that `len` bytes of decoded code start at `gpa`, inside one page of memory.
    pub fn note_code(&mut self, gpa: u64, len: u64) {
        let Some(offset) = self.memory.offset_of(gpa) else {
            return;
        };
        let page = (offset / PAGE_SIZE) as usize;
        if self.code[page] == 0 {
            self.tlb.slow_writes_to(gpa & !(PAGE_SIZE - 1), CODE);
        }
        self.code[page] |= chunks(gpa, len);
    }

    /// Forgets that page `page` of the mapping holds decoded code.
    pub fn forget_code(&mut self, page: CodePage) {
        self.code[page.0 as usize] = 0;
    }

    /// Takes the pages whose decoded code is stale.
    pub fn take_stale(&mut self) -> Vec<CodePage> {
        std::mem::take(&mut self.stale)
    }

    /// Whether decoded code is stale somewhere.
    #[inline(always)]
    pub fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Reads `len` bytes at `linear`, whatever the rights, leaving no trace; for debuggers.
    /// `None` when a byte is not memory.
    pub fn peek(&self, linear: u64, len: usize) -> Option<[u8; 8]> {
        let mut bytes = [0; 8];
        for (index, byte) in bytes.iter_mut().take(len).enumerate() {
            let at = linear.wrapping_add(index as u64);
            let gpa = self.look_up(at)? | (at & (PAGE_SIZE - 1));
            self.memory
                .read(GuestAddress(gpa), std::slice::from_mut(byte))
                .ok()?;
        }
        Some(bytes)
    }

    /// Notes the pages whose decoded code a device has overwritten; the run loop drops it.
    pub fn note_foreign_write(&mut self, gpa: u64, len: u64) {
        let end = gpa.saturating_add(len);
        let mut at = gpa;
        while at < end {
            let next = ((at | (PAGE_SIZE - 1)) + 1).min(end);
            if let Some(offset) = self.memory.offset_of(at) {
                self.hits_code(offset, next - at);
            }
            at = next;
        }
    }

    /// Whether `len` bytes at `offset` of the mapping hold decoded code; notes the page if so.
    fn hits_code(&mut self, offset: u64, len: u64) -> bool {
        let page = offset / PAGE_SIZE;
        let hit = self.code[page as usize] & chunks(offset, len) != 0;
        if hit {
            self.stale.push(CodePage(page));
        }
        hit
    }
}

/// The 64-byte chunks of its page that `len` bytes at `address` touch.
fn chunks(address: u64, len: u64) -> u64 {
    let first = (address % PAGE_SIZE) / 64;
    let last = ((address % PAGE_SIZE) + len.max(1) - 1).min(PAGE_SIZE - 1) / 64;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

#[cfg(test)]
mod tests {
    use super::chunks;

    #[test]
    fn chunks_cover_exactly_the_bytes() {
        assert_eq!(chunks(0, 1), 1);
        assert_eq!(chunks(63, 2), 3);
        assert_eq!(chunks(4095, 1), 1 << 63);
        assert_eq!(chunks(4095, 100), 1 << 63);
        assert_eq!(chunks(0, 4096), u64::MAX);
        assert_eq!(chunks(0x1234_5040, 0), 2);
    }
}
