//! The page walk. Spec: Intel SDM vol. 3A §5.3 to §5.8.
//!
//! Modelled: 32-bit, PAE and 4-level paging, large pages, NX, accessed and dirty bits, WP, SMEP,
//! SMAP, reserved bits. Left out: protection keys, 5-level paging, memory types.
//! Deviates: PAE's four top entries are read from memory at each walk, not at the CR3 load.

use super::tlb::{CLEAN, CODE, Context, DEVICE, EMPTY, Entry, GLOBAL_MARK, LARGE_MARK};
use super::{Mmu, Paging};
use crate::arch::x86_64::exception;
use crate::arch::x86_64::paging::{
    ACCESSED, ADDRESS_MASK, DIRTY, GLOBAL, LARGE, NO_EXECUTE, PAGE_MASK, PHYSICAL_BITS, PRESENT,
    USER, WRITABLE,
};
use crate::memory::GuestAddress;

/// What an access wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Fetch instructions.
    Fetch,
}

/// Error code of a page fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault(pub u32);

/// A finished walk.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    /// Guest physical address of the 4 KiB page.
    gpa: u64,
    writable: bool,
    user: bool,
    no_execute: bool,
    dirty: bool,
    global: bool,
    /// Size of the page it is a piece of, as a power of two.
    shift: u32,
}

impl Leaf {
    /// The address with the marks that the translation caches keep.
    fn tagged_gpa(&self) -> u64 {
        let global = if self.global { GLOBAL_MARK } else { 0 };
        let large = if self.shift > 12 { LARGE_MARK } else { 0 };
        self.gpa | global | large
    }
}

/// The shape of one kind of paging.
struct Shape {
    levels: u32,
    entry_size: u64,
    index_bits: u32,
}

/// Bits 46 to 51: reserved, for this model has 46 physical address bits.
const RESERVED: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);
const PDPTE_PAE_RESERVED: u64 = RESERVED | 0x1e6 | NO_EXECUTE | (0x7ff << 52);

impl Mmu {
    /// Guest physical address of an instruction page, `linear` being its first byte, if its
    /// translation is cached.
    #[inline(always)]
    pub fn cached_fetch_page(&self, linear: u64, user: bool) -> Option<u64> {
        self.fetch[usize::from(user)].get(linear)
    }

    /// Guest physical address of an instruction page, `linear` being its first byte.
    ///
    /// # Errors
    /// The page fault's error code.
    pub fn fetch_page(&mut self, linear: u64, user: bool) -> Result<u64, PageFault> {
        let context = if user {
            Context::User
        } else {
            Context::Supervisor
        };
        let leaf = self.walk(linear, Access::Fetch, context)?;
        self.note_large(linear, &leaf);
        self.fetch[usize::from(user)].set(linear, leaf.tagged_gpa());
        Ok(leaf.gpa)
    }

    /// Fills the data translation of the page at `linear` for the current context and returns
    /// it.
    pub(super) fn fill(&mut self, linear: u64, write: bool) -> Result<Entry, PageFault> {
        let page = linear & !PAGE_MASK;
        let access = if write { Access::Write } else { Access::Read };
        let leaf = self.walk(linear, access, self.context)?;
        let mut entry = Entry {
            read: page,
            write: EMPTY,
            addend: 0,
            gpa: leaf.tagged_gpa(),
        };
        // A write through a page that is not yet dirty must come back here to set the bit.
        let writable = leaf.dirty && self.may_write(&leaf, self.context);
        if writable {
            entry.write = page | CLEAN;
        }
        match self.memory.offset_of(leaf.gpa) {
            Some(offset) => {
                entry.addend = (self.host_base + offset).wrapping_sub(page);
                if writable && self.code[(offset >> 12) as usize] != 0 {
                    entry.write |= CODE;
                }
            }
            None => {
                entry.read |= DEVICE;
                entry.write |= DEVICE;
            }
        }
        self.note_large(linear, &leaf);
        *self.tlb.entry_mut(linear) = entry;
        Ok(entry)
    }

    fn note_large(&mut self, linear: u64, leaf: &Leaf) {
        if leaf.shift > 12 {
            self.large.note(linear, leaf.shift);
        }
    }

    fn may_write(&self, leaf: &Leaf, context: Context) -> bool {
        leaf.writable || (context != Context::User && !self.control.write_protect)
    }

    fn shape(&self) -> Shape {
        match self.control.paging {
            Paging::Long | Paging::Off => Shape {
                levels: 4,
                entry_size: 8,
                index_bits: 9,
            },
            Paging::Pae => Shape {
                levels: 3,
                entry_size: 8,
                index_bits: 9,
            },
            Paging::Bits32 => Shape {
                levels: 2,
                entry_size: 4,
                index_bits: 10,
            },
        }
    }

    /// Walks the paging structures and sets accessed and dirty bits.
    fn walk(&mut self, linear: u64, access: Access, context: Context) -> Result<Leaf, PageFault> {
        if self.control.paging == Paging::Off {
            return Ok(Leaf {
                gpa: linear & !PAGE_MASK,
                writable: true,
                user: true,
                no_execute: false,
                dirty: true,
                global: false,
                shift: 12,
            });
        }
        let shape = self.shape();
        let mut leaf = Leaf {
            gpa: 0,
            writable: true,
            user: true,
            no_execute: false,
            dirty: false,
            global: false,
            shift: 12,
        };
        // (address, value) of each entry used, to set the accessed bits when all is well.
        let mut used = [(0u64, 0u64); 4];
        let mut count = 0;
        let mut table = self.root();
        for level in (1..=shape.levels).rev() {
            let shift = 12 + (level - 1) * shape.index_bits;
            let index = (linear >> shift) & ((1 << shape.index_bits) - 1);
            let address = table + index * shape.entry_size;
            let entry = self.read_entry(address, shape.entry_size);
            if entry & PRESENT == 0 {
                return Err(fault(0, access, context));
            }
            let large = self.is_large(entry, level);
            if self.is_reserved(entry, level, large, shift) {
                return Err(fault(
                    exception::PF_PRESENT | exception::PF_RESERVED,
                    access,
                    context,
                ));
            }
            if !(self.control.paging == Paging::Pae && level == 3) {
                leaf.writable &= entry & WRITABLE != 0;
                leaf.user &= entry & USER != 0;
                leaf.no_execute |= entry & NO_EXECUTE != 0 && self.control.no_execute;
                used[count] = (address, entry);
                count += 1;
            }
            if level == 1 || large {
                leaf.gpa = page_of(entry, linear, shift, shape.entry_size);
                leaf.dirty = entry & DIRTY != 0;
                leaf.global = entry & GLOBAL != 0 && self.control.global;
                leaf.shift = shift;
                break;
            }
            table = entry & ADDRESS_MASK;
        }
        self.check(&leaf, access, context)?;
        self.set_used(&used[..count], access, shape.entry_size);
        leaf.dirty |= access == Access::Write;
        Ok(leaf)
    }

    /// Guest physical page of the page at `linear`; checks no rights and sets no bits.
    pub(super) fn look_up(&self, linear: u64) -> Option<u64> {
        if self.control.paging == Paging::Off {
            return Some(linear & !PAGE_MASK);
        }
        let shape = self.shape();
        let mut table = self.root();
        for level in (1..=shape.levels).rev() {
            let shift = 12 + (level - 1) * shape.index_bits;
            let index = (linear >> shift) & ((1 << shape.index_bits) - 1);
            let entry = self.read_entry(table + index * shape.entry_size, shape.entry_size);
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 || self.is_large(entry, level) {
                return Some(page_of(entry, linear, shift, shape.entry_size));
            }
            table = entry & ADDRESS_MASK;
        }
        None
    }

    /// Address of the topmost paging structure.
    fn root(&self) -> u64 {
        match self.control.paging {
            Paging::Pae => self.control.cr3 & 0xffff_ffe0,
            _ => self.control.cr3 & ADDRESS_MASK,
        }
    }

    fn is_large(&self, entry: u64, level: u32) -> bool {
        entry & LARGE != 0
            && match self.control.paging {
                Paging::Long => level == 2 || level == 3,
                Paging::Pae => level == 2,
                Paging::Bits32 => level == 2 && self.control.page_size,
                Paging::Off => false,
            }
    }

    fn is_reserved(&self, entry: u64, level: u32, large: bool, shift: u32) -> bool {
        match self.control.paging {
            Paging::Bits32 | Paging::Off => false,
            Paging::Pae if level == 3 => entry & PDPTE_PAE_RESERVED != 0,
            _ => {
                let below = if large {
                    ((1 << shift) - 1) & !0x1fff
                } else {
                    0
                };
                entry & (RESERVED | below) != 0
                    || (entry & NO_EXECUTE != 0 && !self.control.no_execute)
                    || (level == 4 && entry & LARGE != 0)
            }
        }
    }

    fn check(&self, leaf: &Leaf, access: Access, context: Context) -> Result<(), PageFault> {
        let allowed = match (access, context) {
            (Access::Fetch, Context::User) => leaf.user && !leaf.no_execute,
            (Access::Fetch, _) => !(leaf.no_execute || leaf.user && self.control.smep),
            (_, Context::User) => leaf.user && (access == Access::Read || leaf.writable),
            (_, _) => {
                !(leaf.user && context == Context::SupervisorOnly)
                    && (access == Access::Read || self.may_write(leaf, context))
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(self.denied(access, context))
        }
    }

    fn denied(&self, access: Access, context: Context) -> PageFault {
        let mut error = fault(exception::PF_PRESENT, access, context);
        // The fetch bit is reported only where fetches are told apart.
        if !(self.control.no_execute || self.control.smep) {
            error.0 &= !exception::PF_FETCH;
        }
        error
    }

    fn set_used(&mut self, used: &[(u64, u64)], access: Access, entry_size: u64) {
        for (index, &(address, entry)) in used.iter().enumerate() {
            let last = index + 1 == used.len();
            let dirty = if last && access == Access::Write {
                DIRTY
            } else {
                0
            };
            let wanted = entry | ACCESSED | dirty;
            if wanted != entry {
                self.write_entry(address, wanted, entry_size);
            }
        }
    }

    /// A paging entry; zero (not present) where there is no memory.
    fn read_entry(&self, address: u64, size: u64) -> u64 {
        let mut bytes = [0; 8];
        match self
            .memory
            .read(GuestAddress(address), &mut bytes[..size as usize])
        {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    fn write_entry(&mut self, address: u64, value: u64, size: u64) {
        let bytes = value.to_le_bytes();
        if let Some(offset) = self.memory.offset_of(address) {
            // Code decoded from a paging structure is stale now; the run loop drops it.
            self.hits_code(offset, size);
        }
        let written = self
            .memory
            .write(GuestAddress(address), &bytes[..size as usize]);
        assert!(written.is_ok(), "an entry that was read can be written");
    }
}

fn fault(bits: u32, access: Access, context: Context) -> PageFault {
    let write = if access == Access::Write {
        exception::PF_WRITE
    } else {
        0
    };
    let fetch = if access == Access::Fetch {
        exception::PF_FETCH
    } else {
        0
    };
    let user = if context == Context::User {
        exception::PF_USER
    } else {
        0
    };
    PageFault(bits | write | fetch | user)
}

/// The 4 KiB page that `linear` has inside the (large) page of `entry`.
fn page_of(entry: u64, linear: u64, shift: u32, entry_size: u64) -> u64 {
    let inside = ((1u64 << shift) - 1) & !PAGE_MASK;
    let mut base = entry & ADDRESS_MASK & !((1u64 << shift) - 1);
    if entry_size == 4 {
        base &= 0xffff_ffff;
        if shift == 22 {
            // PSE-36: bits 13 to 20 of the entry are address bits 32 to 39.
            base |= (entry >> 13 & 0xff) << 32;
        }
    }
    base | (linear & inside)
}
