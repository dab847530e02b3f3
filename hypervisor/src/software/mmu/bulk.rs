//! Whole-page stretches of string instructions: REP MOVS and REP STOS on plain memory.
//!
//! Each call moves at most what lies in one source page and one target page, and only when both
//! are plain memory that is already cached and recorded; otherwise it moves nothing and the
//! caller goes element by element, which is what fills the caches.
//!
//! UNSAFETY: copies inside guest memory at addresses that the TLB vouches for.
#![allow(unsafe_code)]

use super::fast::{copy_forward, fill};
use crate::arch::x86_64::paging::{PAGE_MASK, PAGE_SIZE};
use crate::software::cpu::Cpu;

impl Cpu {
    /// Moves up to `len` bytes forwards; returns how many.
    pub fn bulk_move(&mut self, from: u64, to: u64, len: u64) -> u64 {
        let room = |linear: u64| PAGE_SIZE - (linear & PAGE_MASK);
        let len = len.min(room(from)).min(room(to));
        let (source, target) = (self.mmu.tlb.entry(from), self.mmu.tlb.entry(to));
        if source.read != from & !PAGE_MASK || target.write != to & !PAGE_MASK {
            return 0;
        }
        let (from, to) = (
            from.wrapping_add(source.addend),
            to.wrapping_add(target.addend),
        );
        // SAFETY: tags without reasons vouch for both pages, as in `fast`; `len` was cut so that
        // neither range leaves its page.
        unsafe { copy_forward(from, to, len) };
        len
    }

    /// Writes up to `len` bytes of `value` forwards; returns how many.
    pub fn bulk_fill(&mut self, to: u64, value: u8, len: u64) -> u64 {
        let len = len.min(PAGE_SIZE - (to & PAGE_MASK));
        let target = self.mmu.tlb.entry(to);
        if target.write != to & !PAGE_MASK {
            return 0;
        }
        // SAFETY: as in `bulk_move`.
        unsafe { fill(to.wrapping_add(target.addend), value, len) };
        len
    }
}
