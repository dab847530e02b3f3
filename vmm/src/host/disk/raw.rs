//! Images that are the contents of the disk, byte for byte.

use std::fs::File;
use std::io::{self, ErrorKind, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;

use super::direct::DirectAccess;
use super::execute::FailureLog;
use super::file::{FileLock, ImageFile};
use super::{
    DiskError, DiskImage, DiskTarget, SECTOR_SIZE, check_new_size, check_range, check_writable,
    push_range,
};

/// Zeroes written at a time where the host cannot make holes.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// A file or block device that is a disk.
pub(super) struct RawImage {
    file: File,
    is_device: bool,
    read_only: bool,
    sparse: bool,
    io_uring: bool,
    direct: Option<DirectAccess>,
    /// Held by everything that works inside of the size, so that nothing writes behind the end
    /// while that moves, which would make the file longer again.
    size: RwLock<u64>,
    failures: FailureLog,
    /// The last, so that the file is closed before.
    lock: Option<FileLock>,
}

impl RawImage {
    /// Takes a file that is open in the way that `target` says.
    ///
    /// # Errors
    /// Its size is not one of a disk, or it cannot be accessed directly.
    pub fn open(image: ImageFile, target: &DiskTarget) -> Result<Self, DiskError> {
        let ImageFile {
            file,
            path,
            len,
            is_device,
            lock,
        } = image;
        let direct = if target.direct {
            let access = DirectAccess::new(&file).map_err(|source| DiskError::Open {
                path: path.clone(),
                source,
            })?;
            Some(access)
        } else {
            None
        };
        if len == 0 {
            return Err(DiskError::Empty { path });
        }
        let rules = [
            (SECTOR_SIZE, ""),
            (
                direct.as_ref().map_or(1, DirectAccess::alignment),
                " as direct I/O needs it",
            ),
        ];
        for (multiple, why) in rules {
            if !len.is_multiple_of(multiple) {
                return Err(DiskError::Size {
                    path,
                    size: len,
                    multiple,
                    why,
                });
            }
        }
        Ok(Self {
            file,
            is_device,
            read_only: target.read_only,
            sparse: target.sparse,
            io_uring: target.io_uring,
            direct,
            size: RwLock::new(len),
            failures: FailureLog::new(path),
            lock: Some(lock),
        })
    }

    fn current_size(&self) -> RwLockReadGuard<'_, u64> {
        self.size.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_inside(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.write(&self.file, offset, from),
            None => self.file.write_all_at(from, offset),
        }
    }

    fn zero_inside(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        if len == 0 || self.zero_by_host(offset, len, may_unmap)? {
            return Ok(());
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let count = (end - at).min(ZEROES.len() as u64);
            self.write_inside(at, &ZEROES[..count as usize])?;
            at += count;
        }
        Ok(())
    }

    /// Lets the host make zeroes. `Ok(false)`: it cannot.
    fn zero_by_host(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<bool> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let ways: &[_] = if may_unmap { &[punch, zero] } else { &[zero] };
        for way in ways {
            let try_once =
                || rustix::io::retry_on_intr(|| fallocate(&self.file, *way, offset, len));
            let result = match &self.direct {
                Some(direct) => direct.exclusively(try_once),
                None => try_once(),
            };
            match result {
                Ok(()) => return Ok(true),
                // Devices say that a range is not made of their blocks by EINVAL.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(false)
    }
}

impl DiskImage for RawImage {
    fn size(&self) -> u64 {
        *self.current_size()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_sparse(&self) -> bool {
        self.sparse
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let size = self.current_size();
        check_range(*size, offset, into.len() as u64)?;
        match &self.direct {
            Some(direct) => direct.read(&self.file, offset, into),
            None => self.file.read_exact_at(into, offset),
        }
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        check_writable(self.read_only)?;
        let size = self.current_size();
        check_range(*size, offset, from.len() as u64)?;
        self.write_inside(offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        check_writable(self.read_only)?;
        let size = self.current_size();
        check_range(*size, offset, len)?;
        self.zero_inside(offset, len, may_unmap)
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let size = *self.current_size();
        let len = self.file.metadata()?.len();
        if !self.is_device && len < size {
            // What is missing is no hole.
            let text = format!("the file has {len} bytes, the disk {size}: it is truncated");
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                // Nothing but a hole up to the end.
                Err(Errno::NXIO) => break,
                // The host does not know holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(errno) => return Err(errno.into()),
            };
            let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
                Ok(end) => end,
                // The file became shorter in this moment; reading will tell.
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
                Err(errno) => return Err(errno.into()),
            };
            push_range(&mut ranges, start.min(size)..end.min(size));
            at = end.max(start + 1);
        }
        Ok(ranges)
    }

    fn resize(&self, new_size: u64) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_new_size(new_size)?;
        let invalid = |reason: String| Err(io::Error::new(ErrorKind::InvalidInput, reason));
        if let Some(direct) = &self.direct
            && !new_size.is_multiple_of(direct.alignment())
        {
            let alignment = direct.alignment();
            return invalid(format!(
                "{new_size} bytes are not a multiple of {alignment}, as direct I/O needs it"
            ));
        }
        let mut size = self.size.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_device {
            let len = (&self.file).seek(io::SeekFrom::End(0))?;
            if new_size > len {
                return invalid(format!("the block device has only {len} bytes"));
            }
            self.zero_inside(*size, new_size.saturating_sub(*size), true)?;
        } else {
            self.file.set_len(new_size)?;
        }
        *size = new_size;
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        self.lock.iter().try_for_each(FileLock::give_back)
    }

    fn lock_again(&self) -> io::Result<()> {
        self.lock.iter().try_for_each(FileLock::take_again)
    }

    fn ring_file(&self) -> Option<io::Result<File>> {
        // Direct access has rules about buffers that the guest does not know.
        (self.io_uring && self.direct.is_none()).then(|| self.file.try_clone())
    }

    fn failures(&self) -> &FailureLog {
        &self.failures
    }
}

impl RawImage {
    #[cfg(test)]
    pub(super) fn over(file: File, size: u64) -> Self {
        Self {
            file,
            is_device: false,
            read_only: false,
            sparse: true,
            io_uring: true,
            direct: None,
            size: RwLock::new(size),
            failures: FailureLog::new("test".into()),
            lock: None,
        }
    }
}
