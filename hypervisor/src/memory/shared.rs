//! Memory that another process can map too: a file without a name, whose descriptor is handed over.
//!
//! Its size is sealed. Whoever has the descriptor can write what the guest sees, but cannot cut the
//! file, which would end this process with SIGBUS.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{GuestMemory, MemoryError, PAGE_SIZE};

const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

impl GuestMemory {
    /// Maps `size` bytes of zeroes that another process can map too. The host gives such memory no
    /// large pages unless it is set up to, so a guest may be slower in it.
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn shared(size: u64) -> Result<Self, MemoryError> {
        super::check_size(size)?;
        let failed = |source| MemoryError::Map { size, source };
        let file = create(size).map_err(failed)?;
        Self::over(file, size)
    }

    /// Maps memory that another process has made with [`GuestMemory::shared`]. Pages that it has
    /// written count as written here.
    ///
    /// # Errors
    /// When `file` is not such memory of `size` bytes.
    pub fn of_file(file: OwnedFd, size: u64) -> Result<Self, MemoryError> {
        super::check_size(size)?;
        let file = File::from(file);
        let failed = |source| MemoryError::Map { size, source };
        let found = file.metadata().map_err(failed)?.len();
        // SAFETY: our own descriptor; the call takes no argument.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(MemoryError::NotSealed);
        }
        if found != size {
            return Err(MemoryError::FileSize { found, size });
        }
        let extents = extents(&file, size).map_err(failed)?;
        let memory = Self::over(file, size)?;
        for (start, end) in extents {
            (start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)).for_each(|page| memory.touch(page));
        }
        Ok(memory)
    }

    /// The descriptor to hand over; none of memory that is this process's alone.
    ///
    /// # Errors
    /// When the host has no further descriptor.
    pub fn file(&self) -> io::Result<Option<OwnedFd>> {
        let file = self.file.as_ref().map(File::try_clone);
        Ok(file.transpose()?.map(OwnedFd::from))
    }

    fn over(file: File, size: u64) -> Result<Self, MemoryError> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let mapped = super::map(size, flags, file.as_raw_fd())?;
        Ok(Self::at(mapped, size, Some(file)))
    }
}

fn create(size: u64) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a constant name.
    let file = unsafe { libc::memfd_create(c"guest memory".as_ptr(), flags) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else has.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(size)?;
    // SAFETY: our own descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Where the file holds anything but zeroes that were never written: starts and ends, ascending.
fn extents(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut end = 0;
    while let Some(start) = seek(file, end, libc::SEEK_DATA)? {
        end = seek(file, start, libc::SEEK_HOLE)?.unwrap_or(size);
        extents.push((start, end));
    }
    Ok(extents)
}

/// The next place of a kind; none if there is none.
fn seek(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: our own descriptor, whose position nobody uses.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from.cast_signed(), whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GuestAddress;

    #[test]
    fn two_mappings_are_one_memory() {
        let size = 1 << 20;
        let first = GuestMemory::shared(size).unwrap();
        first.write(GuestAddress(3 * PAGE_SIZE), &[7; 16]).unwrap();
        let file = first.file().unwrap().unwrap();
        let second = GuestMemory::of_file(file, size).unwrap();
        assert_eq!(second.touched(), [3]);
        assert_eq!(second.dirty_count(), 0);
        second.write(GuestAddress(0), &[1, 2]).unwrap();
        drop(second);
        let mut seen = [0; 2];
        first.read(GuestAddress(0), &mut seen).unwrap();
        assert_eq!(seen, [1, 2]);
        assert!(GuestMemory::new(size).unwrap().file().unwrap().is_none());
    }

    #[test]
    fn what_is_no_such_memory_is_refused() {
        let first = GuestMemory::shared(1 << 20).unwrap();
        let file = || first.file().unwrap().unwrap();
        let error = GuestMemory::of_file(file(), 2 << 20).unwrap_err();
        assert!(matches!(error, MemoryError::FileSize { .. }), "{error}");
        assert!(GuestMemory::of_file(file(), 0).is_err());
        assert!(File::from(file()).set_len(4096).is_err(), "it can be cut");
        let other = File::open("/dev/null").unwrap();
        let error = GuestMemory::of_file(other.into(), 1 << 20).unwrap_err();
        assert!(matches!(error, MemoryError::NotSealed), "{error}");
    }
}
