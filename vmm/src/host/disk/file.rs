//! Opening and locking the file of an image.
//!
//! The lock is one of the open file description, over the whole file: shared for readers, exclusive
//! for writers. It conflicts with every other opening, also one of this process and also QEMU's,
//! and goes with the last descriptor of the description, however the process ends. It is given back
//! by name all the same: a child that is just being started has all descriptors for a moment.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::direct::AlignedBuffer;
use super::{DiskError, ImageFormat};

/// What a qcow2 image begins with.
const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";

/// A file that is open and locked.
#[derive(Debug)]
pub(super) struct ImageFile {
    /// The file.
    pub file: File,
    /// Where it was found.
    pub path: PathBuf,
    /// Bytes in it.
    pub len: u64,
    /// Whether it is a block device.
    pub is_device: bool,
    /// What keeps others out; to be dropped last.
    pub lock: FileLock,
}

/// A lock on a file, given back when this is dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    kind: libc::c_int,
}

impl FileLock {
    fn take(file: &File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let path = path.to_owned();
        let kind = if read_only {
            libc::F_RDLCK
        } else {
            libc::F_WRLCK
        };
        let taken = set_lock(file, kind).map_err(io::Error::from);
        match taken.and_then(|()| file.try_clone()) {
            Ok(file) => Ok(Self { file, kind }),
            Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                Err(DiskError::InUse { path })
            }
            Err(source) => Err(DiskError::Lock { path, source }),
        }
    }

    /// Gives it back; the file stays open.
    pub fn give_back(&self) -> io::Result<()> {
        set_lock(&self.file, libc::F_UNLCK).map_err(Into::into)
    }

    /// Takes it again.
    pub fn take_again(&self) -> io::Result<()> {
        set_lock(&self.file, self.kind).map_err(Into::into)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if let Err(errno) = set_lock(&self.file, libc::F_UNLCK) {
            log::warn!("cannot give back the lock of a disk's file: {errno}");
        }
    }
}

fn set_lock(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        // To the end, wherever that will be.
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        // Both are how a host may say it.
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        other => other.map(|_| ()),
    }
}

impl ImageFile {
    /// Opens and locks a file.
    ///
    /// # Errors
    /// It cannot be opened, is of the wrong kind, or is in use.
    pub fn open(path: &Path, read_only: bool, direct: bool) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe must not wait for its other end.
        let mut flags = OFlag::O_NONBLOCK;
        if direct {
            flags |= OFlag::O_DIRECT;
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(flags.bits())
            .open(path);
        let mut file = match opened {
            Ok(file) => file,
            // Said better than by the host, which complains about writing.
            Err(_) if path.is_dir() => return Err(wrong_kind(path, "directory")),
            Err(error) if direct && error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                return Err(failed(io::Error::other(
                    "its file system has no direct I/O",
                )));
            }
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(wrong_kind(path, name_of(metadata.file_type())));
        }
        // It was for the opening alone; by io_uring, some kernels would not wait for the disk.
        let flags = fcntl_getfl(&file).map_err(|errno| failed(errno.into()))?;
        fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let lock = FileLock::take(&file, path, read_only)?;
        // A device's metadata has no length. The position is not used for anything else.
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            is_device,
            lock,
        })
    }

    /// Tells the format from the first bytes: qcow2 by its magic number, everything else is raw.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn detect_format(&self) -> Result<ImageFormat, DiskError> {
        Ok(if self.front(QCOW2_MAGIC.len())? == QCOW2_MAGIC {
            ImageFormat::Qcow2
        } else {
            ImageFormat::Raw
        })
    }

    /// The first `len` bytes, or as many as there are.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn front(&self, len: usize) -> Result<Vec<u8>, DiskError> {
        // Aligned, for files that are open for direct I/O.
        let mut buffer = AlignedBuffer::new(len.next_multiple_of(4096));
        let found = self
            .file
            .read_at(buffer.bytes(), 0)
            .map_err(|source| DiskError::Open {
                path: self.path.clone(),
                source,
            })?;
        Ok(buffer.bytes()[..found.min(len)].to_vec())
    }
}

fn wrong_kind(path: &Path, kind: &'static str) -> DiskError {
    DiskError::Kind {
        path: path.to_owned(),
        kind,
    }
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "directory"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_fifo() {
        "pipe"
    } else {
        "special file"
    }
}
