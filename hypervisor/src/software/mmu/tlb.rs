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

/// In `gpa`: the translation is global.
pub const GLOBAL_MARK: u64 = 1;
/// In `gpa`: the translation is a piece of a larger page.
pub const LARGE_MARK: u64 = 2;

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
    /// Guest physical page address; [`GLOBAL_MARK`] and [`LARGE_MARK`] in its low bits.
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
            if !keep_global || entry.gpa & GLOBAL_MARK == 0 {
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

    /// Drops the pieces of large pages in the 1 GiB around `linear`.
    pub fn flush_large(&mut self, linear: u64) {
        for entry in self.entries.iter_mut() {
            let tag = if entry.read & EMPTY == 0 {
                entry.read
            } else {
                entry.write
            };
            if entry.gpa & LARGE_MARK != 0 && tag >> 30 == linear >> 30 {
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
            if entry.gpa & !PAGE_MASK == gpa && entry.write & (EMPTY | DEVICE) == 0 {
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
    /// Guest physical page; [`GLOBAL_MARK`] and [`LARGE_MARK`] in its low bits.
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
        (entry.tag == page).then_some(entry.gpa & !PAGE_MASK)
    }

    /// Notes a translation; `gpa` as in [`FetchEntry`].
    pub fn set(&mut self, page: u64, gpa: u64) {
        self.entries[(page >> 12) as usize % FETCH_ENTRIES] = FetchEntry { tag: page, gpa };
    }

    /// Empties the table; with `keep_global`, global translations stay.
    pub fn flush(&mut self, keep_global: bool) {
        for entry in self.entries.iter_mut() {
            if !keep_global || entry.gpa & GLOBAL_MARK == 0 {
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

    /// Drops the pieces of large pages in the 1 GiB around `linear`.
    pub fn flush_large(&mut self, linear: u64) {
        for entry in self.entries.iter_mut() {
            if entry.gpa & LARGE_MARK != 0 && entry.tag >> 30 == linear >> 30 {
                *entry = FetchEntry::NONE;
            }
        }
    }
}

/// Which large pages may have pieces in the tables, so that dropping a page seldom has to look
/// for others. A filter: it may name too many, never too few.
#[derive(Debug)]
pub struct LargePages {
    words: Box<[u64; LARGE_WORDS]>,
}

const LARGE_WORDS: usize = 64;
/// The sizes of large pages, as powers of two.
const LARGE_SHIFTS: [u32; 3] = [21, 22, 30];

impl Default for LargePages {
    fn default() -> Self {
        Self {
            words: Box::new([0; LARGE_WORDS]),
        }
    }
}

impl LargePages {
    fn place(linear: u64, shift: u32) -> (usize, u64) {
        let mixed =
            ((linear >> shift) ^ u64::from(shift) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 58) as usize, 1 << (mixed >> 52 & 63))
    }

    /// Pieces of the page of 2 to the power of `shift` bytes at `linear` may be in the tables.
    pub fn note(&mut self, linear: u64, shift: u32) {
        let (word, bit) = Self::place(linear, shift);
        self.words[word] |= bit;
    }

    /// Whether `linear` may lie in such a page.
    pub fn may_hold(&self, linear: u64) -> bool {
        LARGE_SHIFTS.into_iter().any(|shift| {
            let (word, bit) = Self::place(linear, shift);
            self.words[word] & bit != 0
        })
    }

    /// The tables are empty.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }
}
