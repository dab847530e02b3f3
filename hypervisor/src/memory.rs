//! Guest memory: one mapping, seen at two guest physical ranges, with the record of
//! which pages changed.
//!
//! ```text
//! guest physical   0 ......... low_end        4 GiB ......... high_end
//! mapping          0 ......... low_end,low_end .............. size
//! ```
//!
//! Memory below [`HIGH_START`] ends at [`LOW_LIMIT`] at the latest; the rest is seen from 4 GiB
//! on. Two bitmaps tell which pages were written since the last [`GuestMemory::take_dirty`], and
//! which were ever written. Everyone who writes through this type is recorded here; a backend
//! that writes by itself (the software CPU, KVM) reports with [`GuestMemory::mark_dirty`].
//!
//! One thread owns a machine and touches its memory; the bitmaps are atomic so that the type can
//! be shared, not so that writers may race.
//!
//! UNSAFETY: maps and copies host memory that the guest also sees.
#![allow(unsafe_code)]

mod shared;

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a page of guest memory.
pub const PAGE_SIZE: u64 = 4096;
/// Memory below 4 GiB ends here at the latest; devices live above.
pub const LOW_LIMIT: u64 = 0xc000_0000;
/// Memory that did not fit below [`LOW_LIMIT`] starts here.
pub const HIGH_START: u64 = 0x1_0000_0000;

/// A guest physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(pub u64);

/// Why guest memory could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Size of zero or not a whole number of pages.
    #[error("memory size {size} is not a positive multiple of {PAGE_SIZE} bytes")]
    Size {
        /// The size asked for.
        size: u64,
    },
    /// The host refused the mapping.
    #[error("the host cannot map {size} bytes of guest memory")]
    Map {
        /// The size asked for.
        size: u64,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A descriptor of something else, or of memory that could be cut.
    #[error("the descriptor is not one of guest memory: its size is not sealed")]
    NotSealed,
    /// A descriptor of other memory.
    #[error("the descriptor is of {found} bytes of memory, the guest has {size}")]
    FileSize {
        /// Bytes that it has.
        found: u64,
        /// Bytes that the guest has.
        size: u64,
    },
    /// An access reaches outside memory.
    #[error("guest physical range {address:#x}+{len:#x} is not all memory")]
    Range {
        /// First address.
        address: u64,
        /// Bytes.
        len: u64,
    },
}

/// Whose a guest's memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryKind {
    /// This process's alone.
    #[default]
    Private,
    /// Another process can map it too, if it is given the descriptor.
    Shared,
}

fn check_size(size: u64) -> Result<(), MemoryError> {
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > 1 << 44 {
        return Err(MemoryError::Size { size });
    }
    Ok(())
}

fn map(size: u64, flags: libc::c_int, file: libc::c_int) -> Result<*mut u8, MemoryError> {
    // SAFETY: a fresh mapping at an address of the host's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            file,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        let source = std::io::Error::last_os_error();
        return Err(MemoryError::Map { size, source });
    }
    Ok(base.cast())
}

/// The memory of one guest.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut u8,
    size: u64,
    low_end: u64,
    dirty: Vec<AtomicU64>,
    touched: Vec<AtomicU64>,
    generation: AtomicU64,
    /// Bits set in `dirty`.
    dirty_count: AtomicU64,
    /// What is mapped, if another process can map it too.
    file: Option<File>,
}

// SAFETY: `base` points to a mapping of our own that lives as long as `self`. Access goes through
// `&self` copies that never hand out references; the owner of the machine is its only user at a
// time, which the run loop upholds.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Maps `size` bytes of zeroes, for this process alone.
    ///
    /// # Errors
    /// When `size` is not a positive number of pages, or the host has not the memory.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        check_size(size)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Ok(Self::at(map(size, flags, -1)?, size, None))
    }

    /// Maps `size` bytes of zeroes.
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn of_kind(kind: MemoryKind, size: u64) -> Result<Self, MemoryError> {
        match kind {
            MemoryKind::Private => Self::new(size),
            MemoryKind::Shared => Self::shared(size),
        }
    }

    /// Memory at a mapping of its own, nothing of it written yet.
    fn at(base: *mut u8, size: u64, file: Option<File>) -> Self {
        let words = (size / PAGE_SIZE).div_ceil(64) as usize;
        let bitmap = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self {
            base,
            size,
            low_end: size.min(LOW_LIMIT),
            dirty: bitmap(),
            touched: bitmap(),
            generation: AtomicU64::new(0),
            dirty_count: AtomicU64::new(0),
            file,
        }
    }

    /// Bytes of memory.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages of memory.
    pub fn page_count(&self) -> u64 {
        self.size / PAGE_SIZE
    }

    /// First guest physical address after the low range.
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// First guest physical address after the high range; [`HIGH_START`] when there is none.
    pub fn high_end(&self) -> u64 {
        HIGH_START + (self.size - self.low_end)
    }

    /// Offset in the mapping of a guest physical address, if that is memory.
    #[inline]
    pub fn offset_of(&self, gpa: u64) -> Option<u64> {
        if gpa < self.low_end {
            Some(gpa)
        } else if gpa >= HIGH_START && gpa < self.high_end() {
            Some(gpa - HIGH_START + self.low_end)
        } else {
            None
        }
    }

    /// Guest physical address of page number `page` of the mapping.
    pub fn page_address(&self, page: u64) -> GuestAddress {
        let offset = page * PAGE_SIZE;
        if offset < self.low_end {
            GuestAddress(offset)
        } else {
            GuestAddress(offset - self.low_end + HIGH_START)
        }
    }

    /// Start of the mapping, for backends that map it into a guest.
    pub fn host_base(&self) -> *mut u8 {
        self.base
    }

    fn span(&self, gpa: GuestAddress, len: usize) -> Result<u64, MemoryError> {
        let range = MemoryError::Range {
            address: gpa.0,
            len: len as u64,
        };
        let Some(offset) = self.offset_of(gpa.0) else {
            return Err(range);
        };
        let end = if gpa.0 < self.low_end {
            self.low_end
        } else {
            self.size
        };
        if (len as u64) > end - offset {
            Err(range)
        } else {
            Ok(offset)
        }
    }

    /// Whether `len` bytes at `gpa` are memory, in one piece. True for no bytes at all.
    pub fn is_memory(&self, gpa: GuestAddress, len: u64) -> bool {
        let len = usize::try_from(len);
        len.is_ok_and(|len| len == 0 || self.span(gpa, len).is_ok())
    }

    /// Copies memory at `gpa` into `into`.
    ///
    /// # Errors
    /// When the range is not all memory; nothing is copied then.
    pub fn read(&self, gpa: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        let offset = self.span(gpa, into.len())?;
        // SAFETY: `span` checked that the range lies inside the mapping; `into` is ours alone.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.add(offset as usize),
                into.as_mut_ptr(),
                into.len(),
            );
        }
        Ok(())
    }

    /// Appends `len` bytes of memory at `gpa` to `into`: what [`Self::read`] does, for a buffer
    /// that need not be cleared first.
    ///
    /// # Errors
    /// When the range is not all memory; nothing is appended then.
    pub fn append(
        &self,
        gpa: GuestAddress,
        len: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), MemoryError> {
        let offset = self.span(gpa, len)?;
        into.reserve(len);
        // SAFETY: `span` checked that the range lies inside the mapping; the `len` bytes behind the
        // end of `into` were just reserved, are ours alone, and are set when the length is.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.add(offset as usize),
                into.as_mut_ptr().add(into.len()),
                len,
            );
            into.set_len(into.len() + len);
        }
        Ok(())
    }

    /// Copies `from` into memory at `gpa`, and records the pages as written.
    ///
    /// # Errors
    /// When the range is not all memory; nothing is copied then.
    pub fn write(&self, gpa: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        let offset = self.span(gpa, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: `span` checked that the range lies inside the mapping; `from` does not overlap
        // it because no reference into it is ever handed out.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.as_ptr(),
                self.base.add(offset as usize),
                from.len(),
            );
        }
        for page in offset / PAGE_SIZE..=(offset + from.len() as u64 - 1) / PAGE_SIZE {
            self.mark_dirty(page);
        }
        Ok(())
    }

    /// Calls `with` on the bytes of page number `page` of the mapping, without copying them.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn with_page<R>(&self, page: u64, with: impl FnOnce(&[u8; PAGE_SIZE as usize]) -> R) -> R {
        assert!(
            page < self.page_count(),
            "page {page} of {}",
            self.page_count()
        );
        // SAFETY: the page lies inside the mapping. The machine's owner calls this between two
        // slices of guest execution, so nobody writes while the reference lives.
        with(unsafe { &*self.base.add((page * PAGE_SIZE) as usize).cast() })
    }

    /// Records page number `page` of the mapping as written.
    #[inline]
    pub fn mark_dirty(&self, page: u64) {
        let (word, bit) = ((page / 64) as usize, 1u64 << (page % 64));
        if self.dirty[word].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            self.dirty_count.fetch_add(1, Ordering::Relaxed);
        }
        self.touched[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Records page number `page` as written at some time, by somebody else.
    fn touch(&self, page: u64) {
        let (word, bit) = ((page / 64) as usize, 1u64 << (page % 64));
        self.touched[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Pages written since the last call, in rising order; starts the record anew.
    pub fn take_dirty(&self) -> Vec<u64> {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.dirty_count.store(0, Ordering::Relaxed);
        let mut pages = Vec::new();
        for (index, word) in self.dirty.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                push_bits(&mut pages, index, word.swap(0, Ordering::Relaxed));
            }
        }
        pages
    }

    /// How many pages [`GuestMemory::take_dirty`] would give.
    #[inline]
    pub fn dirty_count(&self) -> u64 {
        self.dirty_count.load(Ordering::Relaxed)
    }

    /// Pages that were ever written, in rising order. All others hold zeroes.
    pub fn touched(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for (index, word) in self.touched.iter().enumerate() {
            push_bits(&mut pages, index, word.load(Ordering::Relaxed));
        }
        pages
    }

    /// Whether page number `page` of the mapping was ever written; if not, it holds zeroes.
    pub fn is_touched(&self, page: u64) -> bool {
        let word = self.touched.get((page / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (page % 64) != 0)
    }

    /// Counts the calls of [`GuestMemory::take_dirty`]: a backend that keeps its own note of
    /// which pages are already recorded must forget it when this changes.
    #[inline]
    pub fn dirty_generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `map` mapped; nobody can hold a pointer past `self`.
        unsafe {
            libc::munmap(self.base.cast(), self.size as usize);
        }
    }
}

fn push_bits(pages: &mut Vec<u64>, word_index: usize, mut word: u64) {
    while word != 0 {
        pages.push(word_index as u64 * 64 + u64::from(word.trailing_zeros()));
        word &= word - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_that_is_no_page_count_is_refused() {
        for size in [0, 1, 4095, 4097] {
            assert!(
                matches!(GuestMemory::new(size), Err(MemoryError::Size { .. })),
                "{size}"
            );
        }
    }

    #[test]
    fn write_is_read_back_and_recorded_once() {
        let memory = GuestMemory::new(1 << 20).unwrap();
        memory.write(GuestAddress(4094), &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        memory.read(GuestAddress(4094), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        let mut more = vec![0];
        memory.append(GuestAddress(4095), 2, &mut more).unwrap();
        assert_eq!(more, [0, 2, 3]);
        assert_eq!(memory.dirty_count(), 2);
        assert_eq!(memory.take_dirty(), [0, 1]);
        assert_eq!(memory.dirty_count(), 0);
        assert!(memory.take_dirty().is_empty());
        assert_eq!(memory.touched(), [0, 1]);
        let touched = [0, 1, 2, u64::MAX].map(|page| memory.is_touched(page));
        assert_eq!(touched, [true, true, false, false]);
    }

    #[test]
    fn ranges_that_leave_memory_are_refused() {
        let memory = GuestMemory::new(1 << 20).unwrap();
        for (address, len) in [
            ((1 << 20) - 1, 2),
            (1 << 20, 1),
            (HIGH_START, 1),
            (u64::MAX, 8),
        ] {
            assert!(
                memory.write(GuestAddress(address), &vec![0; len]).is_err(),
                "{address:#x}"
            );
            let mut nothing = Vec::new();
            let appended = memory.append(GuestAddress(address), len, &mut nothing);
            assert!(appended.is_err() && nothing.is_empty(), "{address:#x}");
        }
    }

    #[test]
    fn memory_past_the_device_hole_is_seen_from_4_gib() {
        let memory = GuestMemory::new(LOW_LIMIT + (1 << 20)).unwrap();
        memory.write(GuestAddress(HIGH_START), &[7]).unwrap();
        assert_eq!(memory.take_dirty(), [LOW_LIMIT / PAGE_SIZE]);
        assert_eq!(
            memory.page_address(LOW_LIMIT / PAGE_SIZE),
            GuestAddress(HIGH_START)
        );
        assert!(memory.write(GuestAddress(LOW_LIMIT), &[7]).is_err());
        assert!(memory.write(GuestAddress(LOW_LIMIT - 1), &[7, 8]).is_err());
    }
}
