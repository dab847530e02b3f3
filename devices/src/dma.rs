//! Guest memory as a device sees it: read and written by guest-physical address.
//!
//! A device holds no reference to memory; each access that may lead to a transfer is given one. The
//! owner of the memory implements [`GuestRam`] and does there what a write by a device entails
//! (dirty pages, decoded code). [`VecRam`] is the implementation that tests use, [`NoRam`] stands
//! for a machine whose devices do not transfer.

use thiserror::Error;

/// A transfer that touched an address where no memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no memory at {gpa:#x}, length {len:#x}")]
pub struct RamError {
    /// First address of the transfer.
    pub gpa: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// The guest's memory, for one access.
pub trait GuestRam {
    /// Copies guest memory at `gpa` into `into`.
    ///
    /// # Errors
    /// If any byte is not memory; what `into` holds is then undefined.
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), RamError>;

    /// Appends `len` bytes of guest memory at `gpa` to `into`.
    ///
    /// # Errors
    /// If any byte is not memory; what was appended is then undefined.
    fn append(&self, gpa: u64, len: usize, into: &mut Vec<u8>) -> Result<(), RamError> {
        if !self.is_ram(gpa, len as u64) {
            let len = len as u64;
            return Err(RamError { gpa, len });
        }
        let start = into.len();
        into.resize(start + len, 0);
        self.read(gpa, &mut into[start..])
    }

    /// Copies `from` into guest memory at `gpa`.
    ///
    /// # Errors
    /// If any byte is not memory; nothing was written then.
    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamError>;

    /// Whether all `len` bytes at `gpa` are memory. True for no bytes at all.
    fn is_ram(&self, gpa: u64, len: u64) -> bool;
}

/// Reads a little-endian 16-bit number.
///
/// # Errors
/// If it is not in memory.
pub fn read_u16(ram: &dyn GuestRam, gpa: u64) -> Result<u16, RamError> {
    let mut bytes = [0; 2];
    ram.read(gpa, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

/// Memory from a base address up, held in a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VecRam {
    base: u64,
    bytes: Vec<u8>,
}

impl VecRam {
    /// `size` zero bytes at `base`.
    #[must_use]
    pub fn new(base: u64, size: usize) -> Self {
        Self {
            base,
            bytes: vec![0; size],
        }
    }

    /// All of the memory, in order of address.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    fn range(&self, gpa: u64, len: u64) -> Result<std::ops::Range<usize>, RamError> {
        let refused = RamError { gpa, len };
        if len == 0 {
            return Ok(0..0);
        }
        let start = gpa.checked_sub(self.base).ok_or(refused)?;
        let end = start.checked_add(len).ok_or(refused)?;
        if end > self.bytes.len() as u64 {
            return Err(refused);
        }
        Ok(start as usize..end as usize)
    }
}

impl GuestRam for VecRam {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), RamError> {
        let range = self.range(gpa, into.len() as u64)?;
        into.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamError> {
        let range = self.range(gpa, from.len() as u64)?;
        self.bytes[range].copy_from_slice(from);
        Ok(())
    }

    fn is_ram(&self, gpa: u64, len: u64) -> bool {
        self.range(gpa, len).is_ok()
    }
}

/// No memory at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRam;

impl GuestRam for NoRam {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), RamError> {
        refuse(gpa, into.len() as u64)
    }

    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamError> {
        refuse(gpa, from.len() as u64)
    }

    fn is_ram(&self, _gpa: u64, len: u64) -> bool {
        len == 0
    }
}

const fn refuse(gpa: u64, len: u64) -> Result<(), RamError> {
    if len == 0 {
        Ok(())
    } else {
        Err(RamError { gpa, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_stay_inside_the_memory() {
        let mut ram = VecRam::new(0x1000, 16);
        ram.write(0x100e, &[1, 2]).unwrap();
        assert_eq!(read_u16(&ram, 0x100e).unwrap(), 0x0201);
        let before = ram.clone();
        for (gpa, len) in [(0xfff, 2), (0x100f, 2), (0x1010, 1), (u64::MAX, 2), (0, 1)] {
            let error = RamError { gpa, len };
            assert_eq!(ram.write(gpa, &vec![9; len as usize]), Err(error));
            assert_eq!(ram.read(gpa, &mut vec![0; len as usize]), Err(error));
            assert!(!ram.is_ram(gpa, len));
        }
        assert_eq!(ram, before);
        assert!(ram.is_ram(0x1000, 16) && ram.is_ram(5, 0));
        assert!(!ram.is_ram(0x1000, u64::MAX));
    }

    #[test]
    fn no_ram_refuses_every_byte() {
        assert!(NoRam.read(0, &mut [0]).is_err() && NoRam.write(0, &[0]).is_err());
        assert!(NoRam.write(0, &[]).is_ok() && !NoRam.is_ram(0, 1));
    }
}
