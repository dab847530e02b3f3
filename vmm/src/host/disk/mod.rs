//! The host side of disks: image files in formats raw and qcow2, and block devices.
//!
//! ```text
//! BlockRequest ─▶ DiskQueue ─┬─ Threads ─▶ execute ─▶ DiskImage ─┬─ RawImage ─▶ file
//!                            │                                   └─ Qcow2Image ─▶ imago ─▶ files
//!   completion ◀─────────────┴─ Ring ─▶ file of a raw image, by io_uring
//! ```
//!
//! Both sides of a replicated pair carry out the same requests on images of their own, and must end
//! with the same contents. So nothing here leaves contents open: what is discarded, and what is
//! added by growing, reads as zeroes on every host and in every format, and a file that ends
//! before the disk does is an error instead of zeroes.
//!
//! An image is locked while it is open, because two writers would destroy it. A write that was
//! completed is with the host's kernel: it survives the death of this process, and a flush makes
//! it survive the host's.
//!
//! Left out: other formats, qcow2 with encryption, external data files or zstd, and the asking for
//! the host's queue limits.
//!
//! Spec: virtio 1.2 §5.2; the qcow2 specification, versions 2 and 3.

mod direct;
mod error;
mod execute;
mod file;
mod qcow2;
mod qcow2_check;
mod qcow2_header;
mod queue;
mod raw;
mod ring;
mod threads;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::error::DiskError;
pub use self::execute::{FailureLog, execute};
pub use self::queue::{DiskQueue, Done};

use self::file::ImageFile;
use self::qcow2::Qcow2Image;
use self::raw::RawImage;

/// Bytes in a sector; the size of every image is a multiple of it.
pub const SECTOR_SIZE: u64 = devices::virtio::block::SECTOR_SIZE;

/// Contents of a disk. Requests may come from several threads at the same time; those that
/// overlap, one of them changing something, must not.
pub trait DiskImage: Send + Sync {
    /// Bytes that the guest sees; a multiple of [`SECTOR_SIZE`].
    fn size(&self) -> u64;

    /// Whether everything that changes contents is refused.
    fn is_read_only(&self) -> bool;

    /// Whether space that is not needed any more is given back to the host.
    fn is_sparse(&self) -> bool;

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// The range is not inside of the image, the file ends before it, or the host failed.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `from` to `offset`.
    ///
    /// # Errors
    /// The range is not inside of the image, the image is read-only, or the host failed. What is in
    /// the range is then unknown.
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()>;

    /// Makes everything that was completed durable.
    ///
    /// # Errors
    /// The host failed; nothing is known to be durable then.
    fn flush(&self) -> io::Result<()>;

    /// Lets a range read as zeroes. With `may_unmap` its space is given back, without it stays
    /// allocated, each where that is possible.
    ///
    /// # Errors
    /// As for [`DiskImage::write`].
    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()>;

    /// Where there may be anything but zeroes: ascending, neither empty nor touching each other.
    ///
    /// # Errors
    /// The host failed, or the image is damaged.
    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>>;

    /// Grows or shrinks to `size` bytes. What is added reads as zeroes, also where there was data
    /// before an earlier shrinking. Waits for requests that are being carried out.
    ///
    /// # Errors
    /// `size` is zero or no multiple of a sector, the image cannot have it, it is read-only, or the
    /// host failed.
    fn resize(&self, size: u64) -> io::Result<()>;

    /// Gives the image's locks back, so that another host can open it; nobody works on it then
    /// until [`DiskImage::lock_again`].
    ///
    /// # Errors
    /// The host failed.
    fn unlock(&self) -> io::Result<()>;

    /// Takes the locks again. Nobody else may have changed the image in between.
    ///
    /// # Errors
    /// Somebody else has the image open now, or the host failed.
    fn lock_again(&self) -> io::Result<()>;

    /// A descriptor by which the kernel can do reads, writes and flushes inside of the size, in
    /// place of the methods here; `None` if the contents do not lie in a file byte for byte, or are
    /// not to be had so. Nothing of it may be under way while the image is resized.
    fn ring_file(&self) -> Option<io::Result<File>> {
        None
    }

    /// Where failures of requests are reported.
    fn failures(&self) -> &FailureLog;
}

/// How the contents of a disk are kept in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

/// Which image is to be opened, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTarget {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Its format; found by the first bytes when it is not given. A guest that can write to a raw
    /// image decides what is found there at the next opening.
    pub format: Option<ImageFormat>,
    /// Whether nothing is to be changed. Several may have an image open in this way.
    pub read_only: bool,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// Whether space that is not needed any more is given back.
    pub sparse: bool,
    /// Whether an image may name others, of which it holds the differences.
    pub backing_files: bool,
    /// Whether the kernel's `io_uring` may be used.
    pub io_uring: bool,
}

impl DiskTarget {
    /// A writable, sparse image without backing files, in the format that its first bytes tell.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            read_only: false,
            direct: false,
            sparse: true,
            backing_files: false,
            io_uring: true,
        }
    }
}

/// Opens and locks an image.
///
/// # Errors
/// The file cannot be opened or is in use, or what is in it is not an image that can be served.
pub fn open(target: &DiskTarget) -> Result<Arc<dyn DiskImage>, DiskError> {
    let file = ImageFile::open(&target.path, target.read_only, target.direct)?;
    let format = match target.format {
        Some(format) => format,
        None => file.detect_format()?,
    };
    Ok(match format {
        ImageFormat::Raw => Arc::new(RawImage::open(file, target)?),
        ImageFormat::Qcow2 => Arc::new(Qcow2Image::open(file, target)?),
    })
}

/// Refuses a range that is not inside of `size` bytes.
fn check_range(size: u64, offset: u64, len: u64) -> io::Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{len} bytes at {offset} are not inside of the {size} bytes of the disk"),
    ))
}

/// Refuses changes of an image that is read-only.
fn check_writable(read_only: bool) -> io::Result<()> {
    if read_only {
        return Err(io::Error::new(
            io::ErrorKind::ReadOnlyFilesystem,
            "the image is read-only",
        ));
    }
    Ok(())
}

/// Refuses sizes that no image can have.
fn check_new_size(size: u64) -> io::Result<()> {
    if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{size} bytes are not a positive multiple of {SECTOR_SIZE}"),
        ));
    }
    Ok(())
}

/// Adds a range behind all others; one that touches the last makes it longer.
fn push_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    match ranges.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}
