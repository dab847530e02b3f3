//! Reads and writes that bypass the host's page cache.
//!
//! They need positions, lengths and memory that are multiples of the device's block size, which the
//! guest's need not be: it thinks in sectors of 512 bytes. So all go through aligned buffers. A
//! write that does not cover its first or last block reads them before, which must not happen while
//! somebody else writes another sector of the same block; the device orders sectors, not blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

use rustix::fs::{AtFlags, StatxFlags, statx};

/// Bytes moved at a time.
const CHUNK_SIZE: u64 = 1 << 20;
/// What every file system can do.
const SAFE_ALIGNMENT: u32 = 4096;

/// Memory at a multiple of 4096.
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    const ALIGNMENT: usize = 4096;

    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + Self::ALIGNMENT];
        let address = bytes.as_ptr().addr();
        Self {
            start: address.next_multiple_of(Self::ALIGNMENT) - address,
            bytes,
            len,
        }
    }

    /// All bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// How a file that is open for direct I/O is read and written.
#[derive(Debug)]
pub(super) struct DirectAccess {
    alignment: u64,
    /// Shared by writes of whole blocks, exclusive for the others.
    blocks: RwLock<()>,
}

impl DirectAccess {
    /// Asks for what positions must be multiples of.
    ///
    /// # Errors
    /// The file cannot be accessed directly.
    pub fn new(file: &File) -> io::Result<Self> {
        let mut alignment = SAFE_ALIGNMENT;
        // A kernel or file system that does not say gets what works everywhere.
        if let Ok(said) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
            && said.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        {
            alignment = said.stx_dio_offset_align;
            let memory = said.stx_dio_mem_align as usize;
            if !alignment.is_power_of_two() || memory > AlignedBuffer::ALIGNMENT {
                return Err(io::Error::other("its file system has no direct I/O"));
            }
        }
        Ok(Self {
            alignment: u64::from(alignment.max(512)),
            blocks: RwLock::new(()),
        })
    }

    /// What the size of the file must be a multiple of.
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// The file ends before, or the host failed.
    pub fn read(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
        for window in self.windows(offset, into.len()) {
            let mut buffer = AlignedBuffer::new(window.len);
            file.read_exact_at(buffer.bytes(), window.start)?;
            into[window.outside.clone()].copy_from_slice(&buffer.bytes()[window.inside()]);
        }
        Ok(())
    }

    /// Writes `from` to `offset`.
    ///
    /// # Errors
    /// The host failed.
    pub fn write(&self, file: &File, offset: u64, from: &[u8]) -> io::Result<()> {
        for window in self.windows(offset, from.len()) {
            let mut buffer = AlignedBuffer::new(window.len);
            let put = |buffer: &mut AlignedBuffer| {
                buffer.bytes()[window.inside()].copy_from_slice(&from[window.outside.clone()]);
            };
            if window.inside().len() == window.len {
                let _shared = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
                put(&mut buffer);
                file.write_all_at(buffer.bytes(), window.start)?;
            } else {
                let _exclusive = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
                file.read_exact_at(buffer.bytes(), window.start)?;
                put(&mut buffer);
                file.write_all_at(buffer.bytes(), window.start)?;
            }
        }
        Ok(())
    }

    /// Does something that changes parts of blocks, while nobody writes.
    pub fn exclusively<T>(&self, change: impl FnOnce() -> T) -> T {
        let _exclusive = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        change()
    }

    /// Cuts a range into pieces, each with the blocks that it lies in.
    fn windows(&self, offset: u64, len: usize) -> impl Iterator<Item = Window> {
        let end = offset + len as u64;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let start = at - at % self.alignment;
            let stop = end.min(start + CHUNK_SIZE);
            let window = Window {
                start,
                len: (stop.next_multiple_of(self.alignment) - start) as usize,
                skip: (at - start) as usize,
                outside: (at - offset) as usize..(stop - offset) as usize,
            };
            at = stop;
            Some(window)
        })
    }
}

/// Whole blocks, and which part of a request is in them.
struct Window {
    /// Where the blocks are in the file.
    start: u64,
    /// Their bytes.
    len: usize,
    /// How many of them are before the request's.
    skip: usize,
    /// The part of the request.
    outside: std::ops::Range<usize>,
}

impl Window {
    /// Where the part of the request is in the blocks.
    fn inside(&self) -> std::ops::Range<usize> {
        self.skip..self.skip + self.outside.len()
    }
}
