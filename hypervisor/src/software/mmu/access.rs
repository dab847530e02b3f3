//! The slow path of guest memory accesses: translation misses, page crossings, devices, first
//! writes to clean pages, and pages with decoded code.

use super::fast::Scalar;
use super::tlb::{CLEAN, CODE, DEVICE, EMPTY, Entry};
use crate::arch::x86_64::paging::{PAGE_MASK, PAGE_SIZE};
use crate::memory::GuestAddress;
use crate::software::cpu::Cpu;
use crate::software::exception::Fault;
use crate::software::op::Stop;

/// The part of an access that lies in one page.
#[derive(Debug, Clone, Copy)]
struct Piece {
    gpa: u64,
    len: usize,
    device: bool,
}

impl Cpu {
    #[cold]
    #[inline(never)]
    pub(super) fn load_slow<T: Scalar>(&mut self, linear: u64) -> Result<T, Stop> {
        let mut bytes = [0; 16];
        self.read_bytes(linear, &mut bytes[..T::SIZE as usize])?;
        Ok(T::from_bytes(bytes))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn store_slow<T: Scalar>(&mut self, linear: u64, value: T) -> Result<(), Stop> {
        let bytes = value.to_bytes();
        self.write_bytes(linear, &bytes[..T::SIZE as usize])
    }

    #[cold]
    #[inline(never)]
    pub(super) fn load_to_modify_slow<T: Scalar>(&mut self, linear: u64) -> Result<T, Stop> {
        self.probe_write(linear, T::SIZE as usize)?;
        self.load_slow(linear)
    }

    /// Raises the fault that writing `len` bytes, at most a page, would raise.
    ///
    /// # Errors
    /// That fault.
    pub fn probe_write(&mut self, linear: u64, len: usize) -> Result<(), Stop> {
        for (at, _) in pieces(linear, len).into_iter().flatten() {
            self.locate(at, true)?;
        }
        Ok(())
    }

    /// Reads bytes at a linear address with the current privilege.
    ///
    /// # Errors
    /// A fault, or a device access that waits for its answer.
    pub fn read_bytes(&mut self, linear: u64, into: &mut [u8]) -> Result<(), Stop> {
        let mut done = 0;
        for (at, len) in pieces(linear, into.len()).into_iter().flatten() {
            let piece = self.piece(at, len, false)?;
            let target = &mut into[done..done + len];
            if piece.device {
                for (index, part) in target.chunks_mut(8).enumerate() {
                    let gpa = piece.gpa + index as u64 * 8;
                    let value = self.bus_read(gpa, part.len() as u8)?;
                    part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
                }
            } else {
                let read = self.mmu.memory().read(GuestAddress(piece.gpa), target);
                assert!(read.is_ok(), "a translated page is memory");
            }
            done += len;
        }
        Ok(())
    }

    /// Writes bytes at a linear address with the current privilege.
    ///
    /// # Errors
    /// A fault, a device access that waits, or a hit on decoded code.
    pub fn write_bytes(&mut self, linear: u64, from: &[u8]) -> Result<(), Stop> {
        let mut located = [None; 2];
        let parts = pieces(linear, from.len());
        // Translate everything first, so that a fault leaves all of memory as it was.
        for (slot, (at, len)) in located.iter_mut().zip(parts.into_iter().flatten()) {
            let piece = self.piece(at, len, true)?;
            if !piece.device {
                self.check_code(piece)?;
            }
            *slot = Some(piece);
        }
        let mut done = 0;
        for piece in located.into_iter().flatten() {
            let source = &from[done..done + piece.len];
            if piece.device {
                for (index, part) in source.chunks(8).enumerate() {
                    let mut bytes = [0; 8];
                    bytes[..part.len()].copy_from_slice(part);
                    let gpa = piece.gpa + index as u64 * 8;
                    self.bus_write(gpa, part.len() as u8, u64::from_le_bytes(bytes))?;
                }
            } else {
                let written = self.mmu.memory().write(GuestAddress(piece.gpa), source);
                assert!(written.is_ok(), "a translated page is memory");
            }
            done += piece.len;
        }
        Ok(())
    }

    fn piece(&mut self, linear: u64, len: usize, write: bool) -> Result<Piece, Stop> {
        let entry = self.locate(linear, write)?;
        let tag = if write { entry.write } else { entry.read };
        Ok(Piece {
            gpa: (entry.gpa & !PAGE_MASK) | (linear & PAGE_MASK),
            len,
            device: tag & DEVICE != 0,
        })
    }

    /// Stops the instruction when it is about to overwrite decoded code; otherwise takes away
    /// the reasons for which this page was slow.
    fn check_code(&mut self, piece: Piece) -> Result<(), Stop> {
        let offset = self
            .mmu
            .memory
            .offset_of(piece.gpa)
            .expect("a translated page is memory");
        if self.mmu.hits_code(offset, piece.len as u64) {
            return Err(Stop::CodeModified);
        }
        Ok(())
    }

    /// The translation of the page at `linear`, from the cache or a walk.
    ///
    /// # Errors
    /// #PF, or #GP for an address that is not canonical.
    pub(super) fn locate(&mut self, linear: u64, write: bool) -> Result<Entry, Stop> {
        if !self.is_canonical(linear) {
            return Err(self.raise(Fault::non_canonical()));
        }
        let entry = *self.mmu.tlb.entry(linear);
        let tag = if write { entry.write } else { entry.read };
        let entry = if tag & EMPTY == 0 && tag & !PAGE_MASK == linear & !PAGE_MASK {
            entry
        } else {
            let filled = self.mmu.fill(linear, write);
            self.attention |= self.mmu.has_stale();
            match filled {
                Ok(entry) => entry,
                Err(error) => return Err(self.raise(Fault::page(error.0, linear))),
            }
        };
        if write {
            self.mmu.settle(linear, entry);
        }
        Ok(entry)
    }

    /// Whether `linear` is an address that the current mode can have.
    #[inline]
    pub fn is_canonical(&self, linear: u64) -> bool {
        ((linear as i64) << 16 >> 16) as u64 == linear
    }
}

impl super::Mmu {
    /// Records the page as dirty and takes the reasons away that no longer hold.
    fn settle(&mut self, linear: u64, entry: Entry) {
        if entry.write & DEVICE != 0 || entry.write & (CLEAN | CODE) == 0 {
            return;
        }
        let Some(offset) = self.memory.offset_of(entry.gpa & !PAGE_MASK) else {
            return;
        };
        let page = offset / PAGE_SIZE;
        self.memory.mark_dirty(page);
        let slot = self.tlb.entry_mut(linear);
        slot.write &= !CLEAN;
        if self.code[page as usize] == 0 {
            slot.write &= !CODE;
        }
    }
}

/// Splits an access of up to two pages at the page boundary.
fn pieces(linear: u64, len: usize) -> [Option<(u64, usize)>; 2] {
    let room = (PAGE_SIZE - (linear & PAGE_MASK)) as usize;
    if len <= room {
        [Some((linear, len)), None]
    } else {
        [
            Some((linear, room)),
            Some((linear.wrapping_add(room as u64), len - room)),
        ]
    }
}
