//! Images in QEMU's format, by the crate `imago`.
//!
//! The crate caches tables of the image. Every change is followed by writing them to the host's
//! kernel, so that a completed write survives the death of this process, as it does with a raw
//! image; a flush makes all of it durable. The kernel may write tables and reference counts in any
//! order: when the *host* loses power between two flushes, `qemu-img check` is to be run.
//!
//! Spec: qcow2. Backing files are opened for reading only, and locked like the image.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as ImagoFile;
use imago::format::PreallocateMode;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions};

use super::execute::FailureLog;
use super::file::{FileLock, ImageFile};
use super::{
    DiskError, DiskImage, DiskTarget, ImageFormat, check_new_size, check_range, check_writable,
    push_range, qcow2_check, qcow2_header,
};

/// Images that may be behind one another. More are a circle, or somebody's mistake.
const BACKING_FILES_MAX: usize = 16;
/// Bytes of zeroes written at a time where the format has no mark for them.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

type Access = FormatAccess<ImagoFile>;

/// An image in QEMU's format.
pub(super) struct Qcow2Image {
    /// Exclusive for what moves or frees clusters while others could be using them.
    access: RwLock<Access>,
    cluster_size: u64,
    read_only: bool,
    sparse: bool,
    failures: FailureLog,
    /// Of the image and its backing files. The last, so that all are closed before.
    locks: Arc<Mutex<Vec<FileLock>>>,
}

impl Qcow2Image {
    /// Takes a file that is open in the way that `target` says.
    ///
    /// # Errors
    /// It is damaged, truncated, or needs what we do not have or may not open.
    pub fn open(image: ImageFile, target: &DiskTarget) -> Result<Self, DiskError> {
        let layout = qcow2_header::check(&image, target.backing_files)?;
        let ImageFile {
            file, path, lock, ..
        } = image;
        let locks = Arc::new(Mutex::new(vec![lock]));
        let wrong = |error: io::Error| DiskError::qcow2(&path, error);
        let backing = StorageOpenOptions::new().direct(target.direct);
        let options = backing.clone().filename(&path).write(!target.read_only);
        let file = ImagoFile::from_open_file(file, options).map_err(wrong)?;
        qcow2_check::check(&file, layout).map_err(wrong)?;
        let qcow2 = Qcow2::<ImagoFile>::builder(file)
            .write(!target.read_only)
            .storage_open_options(backing)
            .open(BackingGate {
                left: BACKING_FILES_MAX,
                locks: locks.clone(),
            })
            .map_err(wrong)?;
        Ok(Self {
            access: RwLock::new(Access::new(qcow2)),
            cluster_size: layout.cluster_size(),
            read_only: target.read_only,
            sparse: target.sparse,
            failures: FailureLog::new(path),
            locks,
        })
    }

    fn shared(&self) -> RwLockReadGuard<'_, Access> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Access> {
        self.access.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn each_lock(&self, change: impl Fn(&FileLock) -> io::Result<()>) -> io::Result<()> {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.iter().try_for_each(change)
    }

    /// The clusters that lie in a range as a whole; the last one ends with the disk. The crate is
    /// not given the others to make zeroes of, because it reckons wrongly where a disk ends within
    /// a cluster (imago 0.2.6).
    fn whole_clusters(&self, size: u64, offset: u64, len: u64) -> io::Result<Range<u64>> {
        check_range(size, offset, len)?;
        let end = offset + len;
        let stop = if end == size {
            end
        } else {
            end - end % self.cluster_size
        };
        let start = offset
            .checked_next_multiple_of(self.cluster_size)
            .filter(|start| *start < stop);
        Ok(start.map_or(end..end, |start| start..stop))
    }
}

impl DiskImage for Qcow2Image {
    fn size(&self) -> u64 {
        self.shared().size()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_sparse(&self) -> bool {
        self.sparse
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let access = self.shared();
        let len = into.len() as u64;
        check_range(access.size(), offset, len)?;
        // The crate reads zeroes behind the end of the file.
        walk(&access, offset..offset + len, |piece, mapping| {
            check_present(&piece, mapping)?;
            Ok(true)
        })?;
        access.read(into, offset)
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        check_writable(self.read_only)?;
        let access = self.shared();
        check_range(access.size(), offset, from.len() as u64)?;
        access.write(from, offset)?;
        access.flush()
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let access = self.shared();
        access.flush()?;
        access.sync()
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        check_writable(self.read_only)?;
        if may_unmap {
            let mut access = self.exclusive();
            let clusters = self.whole_clusters(access.size(), offset, len)?;
            let result = match clusters.end - clusters.start {
                0 => Ok(()),
                count => access.discard_to_zero(clusters.start, count),
            };
            finish_zeroes(&access, result, offset..offset + len, clusters)
        } else {
            let access = self.shared();
            let clusters = self.whole_clusters(access.size(), offset, len)?;
            mark_zeroes(&access, offset..offset + len, clusters)
        }
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let access = self.shared();
        data_in(&access, 0..access.size())
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_new_size(size)?;
        let mut access = self.exclusive();
        let old_size = access.size();
        access.resize(size, PreallocateMode::None)?;
        // Behind the old end can be the rest of its cluster, or what a backing file has there.
        for Range { start, end } in data_in(&access, old_size..size)? {
            let clusters = self.whole_clusters(size, start, end - start)?;
            mark_zeroes(&access, start..end, clusters)?;
        }
        access.flush()
    }

    fn unlock(&self) -> io::Result<()> {
        // What the crate has cached is as the file has it: each change was followed by a flush.
        self.each_lock(FileLock::give_back)
    }

    fn lock_again(&self) -> io::Result<()> {
        self.each_lock(FileLock::take_again)
    }

    fn failures(&self) -> &FailureLog {
        &self.failures
    }
}

impl Drop for Qcow2Image {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            self.failures.note("closing", &error);
        }
    }
}

/// Makes a range zero that has whole `clusters` in it, without giving them back.
fn mark_zeroes(access: &Access, all: Range<u64>, clusters: Range<u64>) -> io::Result<()> {
    let result = match clusters.end - clusters.start {
        0 => Ok(()),
        count => access.write_zeroes(clusters.start, count),
    };
    finish_zeroes(access, result, all, clusters)
}

/// Completes zeroes after the crate has made `clusters` of them zero, or has said that the version
/// of the format has no mark for that: writes those that are missing.
fn finish_zeroes(
    access: &Access,
    result: io::Result<()>,
    all: Range<u64>,
    clusters: Range<u64>,
) -> io::Result<()> {
    let missing = match result {
        Ok(()) => [all.start..clusters.start, clusters.end..all.end],
        Err(error) if error.kind() == ErrorKind::Unsupported => [all, 0..0],
        Err(error) => return Err(error),
    };
    for range in missing {
        for Range { start, end } in data_in(access, range)? {
            for at in (start..end).step_by(ZEROES.len()) {
                let count = (end - at).min(ZEROES.len() as u64);
                access.write(&ZEROES[..count as usize], at)?;
            }
        }
    }
    access.flush()
}

/// The parts of a range that are not known to be zeroes.
fn data_in(access: &Access, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    walk(access, range, |piece, mapping| {
        if !matches!(mapping, Mapping::Zero { .. }) {
            push_range(&mut ranges, piece);
        }
        Ok(true)
    })?;
    Ok(ranges)
}

/// Goes through a range in pieces that are kept in the same way, as long as `look` says so.
fn walk(
    access: &Access,
    range: Range<u64>,
    mut look: impl FnMut(Range<u64>, &Mapping<'_, ImagoFile>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let (mapping, len) = access.get_mapping(at, range.end - at)?;
        if len == 0 {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("the disk ends at byte {at}"),
            ));
        }
        let piece = at..at + len;
        at = piece.end;
        if !look(piece, &mapping)? {
            break;
        }
    }
    Ok(())
}

/// Refuses a piece that would be behind the end of the file.
fn check_present(piece: &Range<u64>, mapping: &Mapping<'_, ImagoFile>) -> io::Result<()> {
    let Mapping::Raw {
        storage, offset, ..
    } = mapping
    else {
        return Ok(());
    };
    let len = storage.size()?;
    let end = offset.checked_add(piece.end - piece.start);
    if end.is_none_or(|end| end > len) {
        return Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            format!(
                "the disk's byte {} is at byte {offset} of a file of {len} bytes: it is truncated",
                piece.start
            ),
        ));
    }
    Ok(())
}

/// Opens backing files, with the same care as the image itself.
struct BackingGate {
    left: usize,
    locks: Arc<Mutex<Vec<FileLock>>>,
}

impl ImplicitOpenGate<ImagoFile> for BackingGate {
    fn open_format<F: FormatDriverBuilder<ImagoFile>>(&mut self, builder: F) -> io::Result<Access> {
        let Some(left) = self.left.checked_sub(1) else {
            return Err(io::Error::other(format!(
                "there are more than {BACKING_FILES_MAX} backing files behind one another"
            )));
        };
        Ok(Access::new(builder.open(Self {
            left,
            locks: self.locks.clone(),
        })?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImagoFile> {
        let path = options
            .get_filename()
            .filter(|_| !options.get_writable())
            .ok_or(ErrorKind::Unsupported)?;
        let image = ImageFile::open(path, true, options.get_direct()).map_err(into_io)?;
        let layout = match image.detect_format().map_err(into_io)? {
            ImageFormat::Raw => None,
            ImageFormat::Qcow2 => Some(qcow2_header::check(&image, true).map_err(into_io)?),
        };
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.push(image.lock);
        let file = ImagoFile::from_open_file(image.file, options)?;
        if let Some(layout) = layout {
            qcow2_check::check(&file, layout)?;
        }
        Ok(file)
    }
}

/// What the host said belongs into the one text that gets through the crate.
fn into_io(error: DiskError) -> io::Error {
    match std::error::Error::source(&error) {
        Some(source) => io::Error::other(format!("{error}: {source}")),
        None => io::Error::other(error),
    }
}
