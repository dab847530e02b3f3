//! Translation look-aside buffers: linear page to host page, one table per kind of access right.
//!
//! A tag is the linear page address, with reasons in its low bits why an access must take the
//! slow path. The fast path compares whole tags, so any reason makes it miss. Fills and
//! evictions depend on executed instructions only; see [`super`] on determinism.

use crate::arch::x86_64::paging::PAGE_MASK;

/// Tag of an empty entry.
pub const EMPTY: u64 = 1;
/// Slow because the page is not memory.
pub const DEVICE: u64 = 2;
/// Slow because the page is not yet recorded as dirty.
pub const CLEAN: u64 = 4;
/// Slow because the page holds decoded code.
pub const CODE: u64 = 8;
/// Slow because a debugger watches the page.
pub const WATCHED: u64 = 16;

/// Entries in each table; a power of two.
pub const ENTRIES: usize = 1024;
/// Tables, one per [`Context`]; rounded up to a power of two so that an index needs no check.
const TABLES: usize = 4;

/// Which rights an access has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Ring 0 to 2, kept off user pages by SMAP.
    SupervisorOnly = 0,
    /// Ring 0 to 2.
    Supervisor = 1,
    /// Ring 3.
    User = 2,
}

/// One translation. Translated code reads it too.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Tag for reads.
    pub read: u64,
    /// Tag for writes.
    pub write: u64,
    /// Added to a linear address (wrapping) gives the host address.
    pub addend: u64,
    /// Guest physical page address; bit 0 says that the translation is global.
    pub gpa: u64,
}

impl Entry {
    const NONE: Self = Self {
        read: EMPTY,
        write: EMPTY,
        addend: 0,
        gpa: 0,
    };
}

/// Translations for data, a table per [`Context`].
#[derive(Debug)]
pub struct Tlb {
    entries: Box<[Entry; ENTRIES * TABLES]>,
    table: usize,
    /// Host address of the chosen table, for translated code.
    pub table_address: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

impl Tlb {
    /// Empty tables.
    pub fn new() -> Self {
        let entries = Box::new([Entry::NONE; ENTRIES * TABLES]);
        Self {
            table_address: entries.as_ptr() as u64,
            entries,
            table: 0,
        }
    }

    /// Chooses the table that [`Tlb::entry`] looks into.
    pub fn select(&mut self, context: Context) {
        self.table = context as usize * ENTRIES;
        self.table_address = std::ptr::from_ref(&self.entries[self.table]) as u64;
    }

    #[inline(always)]
    fn slot(&self, linear: u64) -> usize {
        (self.table | ((linear >> 12) as usize % ENTRIES)) % (ENTRIES * TABLES)
    }

    /// The entry that serves `linear` in the chosen table, whether or not it matches.
    #[inline(always)]
    pub fn entry(&self, linear: u64) -> &Entry {
        &self.entries[self.slot(linear)]
    }

    /// As [`Tlb::entry`], to be changed.
    #[inline(always)]
    pub fn entry_mut(&mut self, linear: u64) -> &mut Entry {
        let slot = self.slot(linear);
        &mut self.entries[slot]
    }

    /// Empties the table; with `keep_global`, global translations stay.
    pub fn flush(&mut self, keep_global: bool) {
        for entry in self.entries.iter_mut() {
            if !keep_global || entry.gpa & 1 == 0 {
                *entry = Entry::NONE;
            }
        }
    }

    /// Drops the translations of the page at `linear`.
    pub fn flush_page(&mut self, linear: u64) {
        let page = linear & !PAGE_MASK;
        for table in 0..TABLES {
            let slot = table * ENTRIES + (linear >> 12) as usize % ENTRIES;
            let entry = &mut self.entries[slot];
            if entry.read & !PAGE_MASK == page || entry.write & !PAGE_MASK == page {
                *entry = Entry::NONE;
            }
        }
    }

    /// Makes the next write to every page slow for `reason`.
    pub fn slow_writes(&mut self, reason: u64) {
        for entry in self.entries.iter_mut() {
            if entry.write & EMPTY == 0 && entry.write & DEVICE == 0 {
                entry.write |= reason;
            }
        }
    }

    /// Makes writes to guest physical page `gpa` slow for `reason`.
    pub fn slow_writes_to(&mut self, gpa: u64, reason: u64) {
        for entry in self.entries.iter_mut() {
            if entry.gpa & !1 == gpa && entry.write & (EMPTY | DEVICE) == 0 {
                entry.write |= reason;
            }
        }
    }
}

/// Translations for instruction fetch: linear page to guest physical page.
#[derive(Debug)]
pub struct FetchTlb {
    entries: Box<[FetchEntry; FETCH_ENTRIES]>,
}

/// One translation for instruction fetch. Translated code reads it too.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct FetchEntry {
    /// Linear page, or [`EMPTY`].
    pub tag: u64,
    /// Guest physical page; bit 0 says that the translation is global.
    pub gpa: u64,
}

impl FetchEntry {
    const NONE: Self = Self { tag: EMPTY, gpa: 0 };
}

/// Entries for instruction fetch; a power of two.
pub const FETCH_ENTRIES: usize = 256;

impl Default for FetchTlb {
    fn default() -> Self {
        Self::new()
    }
}

impl FetchTlb {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            entries: Box::new([FetchEntry::NONE; FETCH_ENTRIES]),
        }
    }

    /// Host address of the table, for translated code.
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Guest physical page of the linear page `page`, if known.
    #[inline(always)]
    pub fn get(&self, page: u64) -> Option<u64> {
        let entry = &self.entries[(page >> 12) as usize % FETCH_ENTRIES];
        (entry.tag == page).then_some(entry.gpa & !1)
    }

    /// Notes a translation; bit 0 of `gpa` says that it is global.
    pub fn set(&mut self, page: u64, gpa: u64) {
        self.entries[(page >> 12) as usize % FETCH_ENTRIES] = FetchEntry { tag: page, gpa };
    }

    /// Empties the table; with `keep_global`, global translations stay.
    pub fn flush(&mut self, keep_global: bool) {
        for entry in self.entries.iter_mut() {
            if !keep_global || entry.gpa & 1 == 0 {
                *entry = FetchEntry::NONE;
            }
        }
    }

    /// Drops the translation of the page at `linear`.
    pub fn flush_page(&mut self, linear: u64) {
        let page = linear & !PAGE_MASK;
        let entry = &mut self.entries[(page >> 12) as usize % FETCH_ENTRIES];
        if entry.tag == page {
            *entry = FetchEntry::NONE;
        }
    }
}
