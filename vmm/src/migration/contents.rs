//! The pages of a machine that arrives, before there is a machine.
//!
//! Several connections may set pages at the same time, each others; what is in a page that two of
//! them set is open, as it is for two writes of one processor.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use ft::codec::{CodecError, FieldReader};
use ft::machine::{PAGE_SIZE, Page, ZERO_PAGE};
use ft::snapshot::read_pages;
use ft::time::PageNumber;
use hypervisor::{GuestAddress, GuestMemory, MemoryError, MemoryKind};

use super::layout::Layout;
use crate::machine::{BootImage, MachineConfig};

/// Why pages cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// No such memory.
    #[error("{length} bytes at {address:#x} are not all of the machine's memory")]
    Range {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// A packed batch that is malformed.
    #[error("a batch of pages is malformed")]
    Batch(#[from] CodecError),
    /// There is no memory to be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Memory and boot files, to be filled.
#[derive(Debug)]
pub struct Contents {
    layout: Layout,
    memory: Arc<GuestMemory>,
    boot: Mutex<BootImage>,
}

impl Contents {
    /// Zeroes, of the sizes of a machine that was checked.
    ///
    /// # Errors
    /// When the host has not the memory.
    pub fn new(config: &MachineConfig, memory: MemoryKind) -> Result<Self, ContentsError> {
        let memory = GuestMemory::of_kind(memory, config.memory_size)?;
        Ok(Self::with(config, memory))
    }

    /// Memory that another process has handed over, and boot files of zeroes.
    ///
    /// # Errors
    /// When `file` is not the memory of such a machine.
    pub fn over(config: &MachineConfig, file: OwnedFd) -> Result<Self, ContentsError> {
        let memory = GuestMemory::of_file(file, config.memory_size)?;
        Ok(Self::with(config, memory))
    }

    fn with(config: &MachineConfig, memory: GuestMemory) -> Self {
        Self {
            layout: Layout::of(config),
            memory: Arc::new(memory),
            boot: Mutex::new(BootImage::blank(config.boot_pages)),
        }
    }

    /// Where its pages are.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Refuses a range that is not all there.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, address: u64, length: u64) -> Result<(), ContentsError> {
        let found = self.layout.find(address);
        match found.filter(|(_, left)| length <= *left) {
            Some(_) => Ok(()),
            None => Err(ContentsError::Range { address, length }),
        }
    }

    /// Sets the bytes at an address.
    ///
    /// # Errors
    /// When they are not all memory or boot files.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), ContentsError> {
        let length = bytes.len() as u64;
        self.check(address, length)?;
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (at % PAGE_SIZE as u64) as usize;
            let (piece, behind) = rest.split_at(rest.len().min(PAGE_SIZE - offset));
            let Some((page, _)) = self.layout.find(at) else {
                return Err(ContentsError::Range { address, length });
            };
            self.write_in_page(page, offset, piece)?;
            at += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn write_in_page(
        &self,
        page: PageNumber,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), ContentsError> {
        if let Some(index) = page.0.checked_sub(self.layout.memory_pages()) {
            let mut boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner);
            boot.page_mut(index)[offset..offset + bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        // Zeroes that are there already take no memory of the host.
        if !self.memory.is_touched(page.0) && *bytes == ZERO_PAGE[..bytes.len()] {
            return Ok(());
        }
        let GuestAddress(start) = self.memory.page_address(page.0);
        Ok(self
            .memory
            .write(GuestAddress(start + offset as u64), bytes)?)
    }

    /// Sets the pages of a packed batch.
    ///
    /// # Errors
    /// When it is malformed; some pages may have been set then.
    pub fn unpack(&self, batch: &[u8]) -> Result<usize, ContentsError> {
        let mut failure = None;
        let mut reader = FieldReader::new(batch);
        let count = read_pages(
            &mut reader,
            self.layout.page_count(),
            |page, bytes: &Page| {
                if let Err(error) = self.write_in_page(page, 0, bytes) {
                    failure.get_or_insert(error);
                }
            },
        )?;
        failure.map_or(Ok(count), Err)
    }

    /// What a machine is made over. Nothing is left to be filled.
    pub fn take(&self) -> (Arc<GuestMemory>, BootImage) {
        let mut boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::replace(&mut *boot, BootImage::blank(0));
        (self.memory.clone(), taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::layout::BOOT_FILES_AT;

    fn contents() -> Contents {
        let config = MachineConfig {
            memory_size: 4 * PAGE_SIZE as u64,
            serial: false,
            start_seconds: 0,
            boot_pages: 2,
            tsc_khz: 1_000_000,
            virtio: Vec::new(),
        };
        Contents::new(&config, MemoryKind::Private).unwrap()
    }

    #[test]
    fn bytes_go_to_memory_and_boot_files_wherever_they_begin() {
        let contents = contents();
        let bytes: Vec<u8> = (0..6000_u32).map(|n| n as u8).collect();
        contents.write(100, &bytes).unwrap();
        contents.write(BOOT_FILES_AT + 50, &bytes).unwrap();
        let (memory, boot) = contents.take();
        let mut read = vec![0; 6000];
        memory.read(GuestAddress(100), &mut read).unwrap();
        assert_eq!(read, bytes);
        assert_eq!(boot.page(0)[50..], bytes[..PAGE_SIZE - 50]);
        assert_eq!(
            boot.page(1)[..6000 + 50 - PAGE_SIZE],
            bytes[PAGE_SIZE - 50..]
        );
    }

    #[test]
    fn zeroes_touch_nothing_but_replace_what_is_there() {
        let contents = contents();
        contents.write(0, &[0; 2 * PAGE_SIZE]).unwrap();
        contents.write(PAGE_SIZE as u64, &[7; 8]).unwrap();
        contents.write(PAGE_SIZE as u64, &[0; 4]).unwrap();
        let (memory, _) = contents.take();
        assert_eq!(memory.touched(), [1]);
        let mut read = [9; 8];
        memory
            .read(GuestAddress(PAGE_SIZE as u64), &mut read)
            .unwrap();
        assert_eq!(read, [0, 0, 0, 0, 7, 7, 7, 7]);
    }

    #[test]
    fn ranges_that_are_not_all_there_are_named() {
        let contents = contents();
        let end = 4 * PAGE_SIZE as u64;
        for (address, length) in [
            (end, 1),
            (end - 1, 2),
            (u64::MAX, 1),
            (0, u64::MAX),
            (BOOT_FILES_AT + 2 * PAGE_SIZE as u64 - 1, 2),
            (BOOT_FILES_AT - 1, 1),
        ] {
            let error = contents.check(address, length).unwrap_err().to_string();
            assert!(error.contains(&format!("{address:#x}")), "{error}");
        }
        assert!(contents.write(end - 1, &[1, 2]).is_err());
        assert!(contents.unpack(&[1, 2, 3]).is_err());
    }
}
