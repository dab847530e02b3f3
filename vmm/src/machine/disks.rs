//! Disks whose contents are a part of the machine.
//!
//! ```text
//!           request ──▶ host's queue ──▶ done, kept here ──▶ completion (input) ──▶ guest
//!   live    ─────────────────────────────────────────────────┘
//!   backup  ────────── executed here, on its own file, ───────▶ completion (from the log)
//! ```
//!
//! A side that is live has the host work on a request as soon as the guest makes it, and keeps what
//! came of it until the completion is an input. A side that replays does the work itself when the
//! log says that the request is complete. A completion in the log therefore says only how it ended;
//! what a read found each side has from its own file.
//!
//! The contents are pages behind the machine's memory and boot files, so that whatever is done with
//! pages is done with them: live clone, digest, divergence report, repair. A page counts as written
//! when the request that changes it completes. While one is under way, what the page holds is not
//! yet decided on the live side: such pages have one digest, whatever is in them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::LazyLock;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest, SECTOR_SIZE};
use devices::virtio::payload::Payload;
use ft::machine::{PAGE_SIZE, Page, ZERO_PAGE};

use self::written_digests::WrittenDigests;
use super::page_set::PageSet;

/// Most bytes of a disk that is a part of its machine: there are two bits for each of its pages.
pub const MOST_DISK_BYTES: u64 = 4 << 40;

/// Digest of a page of zeroes.
static ZERO_DIGEST: LazyLock<u64> = LazyLock::new(|| ft::digest::of_page(&ZERO_PAGE));
/// Digest of a page that a request under way may change.
const UNDECIDED: u64 = 0;

/// The contents of one disk, on this host.
pub trait DiskStore: Send {
    /// Bytes; a multiple of the sector size.
    fn size(&self) -> u64;

    /// Reads at `offset`, which lies inside.
    ///
    /// # Errors
    /// What the host says.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes at `offset`, which lies inside.
    ///
    /// # Errors
    /// What the host says.
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()>;

    /// Carries out a request: a read gives its bytes, all others none. What is asked to be durable
    /// will be, but is not waited for.
    ///
    /// # Errors
    /// What the guest would be told.
    fn execute(&self, request: &BlockRequest) -> Result<Payload, BlockIoError>;

    /// What was written will be durable soon; not waited for.
    fn settle(&self);

    /// Where there may be anything but zeroes, ascending.
    ///
    /// # Errors
    /// What the host says.
    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>>;
}

/// One disk and its place among the machine's pages.
struct Disk {
    store: Box<dyn DiskStore>,
    /// Bytes that the machine's disk has. Its image can have another size already.
    size: u64,
    /// Pages before its own, counted from the first disk's first.
    first: u64,
    written: PageSet,
    /// Whether pages were set, from outside of the machine, since its written pages were taken.
    set: bool,
    /// Pages that a completed request has made zero, until something else is written.
    zeroed: PageSet,
    digests: WrittenDigests,
    /// What the host's queue has done, until its completion is an input.
    done: BTreeMap<u64, Payload>,
}

impl Disk {
    fn page_count(&self) -> u64 {
        self.size.div_ceil(PAGE_SIZE as u64)
    }

    /// Offset and length of a page; the last one may be a part.
    fn span(&self, page: u64) -> (u64, usize) {
        let offset = page * PAGE_SIZE as u64;
        let len = (self.size - offset).min(PAGE_SIZE as u64);
        (offset, len as usize)
    }

    /// Takes over the size of the image. The page in which the shorter one ends is another now.
    fn resize(&mut self, size: u64) {
        self.digests = WrittenDigests::default();
        let end = self.size.min(size);
        self.size = size;
        let count = self.page_count();
        self.written.resize(count);
        self.zeroed.resize(count);
        if !end.is_multiple_of(PAGE_SIZE as u64) {
            self.written.insert(end / PAGE_SIZE as u64);
        }
        for page in end.div_ceil(PAGE_SIZE as u64)..count {
            self.written.insert(page);
        }
    }
}

/// Why a disk cannot have another size.
#[derive(Debug, thiserror::Error)]
#[error("the disk of device {device} cannot have {sectors} sectors: its image has {found} bytes")]
pub struct DiskResizeError {
    device: usize,
    sectors: u64,
    found: u64,
}

/// The disks of a machine whose contents are a part of it, by the index of the device.
#[derive(Default)]
pub struct Disks {
    disks: BTreeMap<usize, Disk>,
    /// What the host could not do on this side; the machine cannot go on then.
    failure: Option<String>,
    /// What could not be read of what counted as zeroes.
    unreadable: RefCell<Option<String>>,
}

/// The pages that a request touches.
fn pages_of(request: &BlockRequest) -> Range<u64> {
    let start = request.sector * SECTOR_SIZE;
    let end = start + request.len;
    start / PAGE_SIZE as u64..end.div_ceil(PAGE_SIZE as u64)
}

impl Disks {
    /// Disks over these stores.
    pub fn new(stores: BTreeMap<usize, Box<dyn DiskStore>>) -> Self {
        let disks = stores.into_iter().map(|(device, store)| {
            let size = store.size();
            let count = size.div_ceil(PAGE_SIZE as u64);
            let disk = Disk {
                store,
                size,
                first: 0,
                written: PageSet::new(count),
                set: false,
                zeroed: PageSet::new(count),
                digests: WrittenDigests::default(),
                done: BTreeMap::new(),
            };
            (device, disk)
        });
        let mut disks = Self {
            disks: disks.collect(),
            failure: None,
            unreadable: RefCell::default(),
        };
        disks.number();
        disks
    }

    /// Gives the disks their places, one behind another.
    fn number(&mut self) {
        let mut first = 0;
        for disk in self.disks.values_mut() {
            disk.first = first;
            first += disk.page_count();
        }
    }

    /// A disk has another size; its image has it already. Nobody may have page numbers of before:
    /// only a machine without a backup resizes its own disks. Those of others are passed over.
    ///
    /// # Errors
    /// The image here has not that size.
    pub fn resize(&mut self, device: usize, sectors: u64) -> Result<(), DiskResizeError> {
        let Some(disk) = self.disks.get_mut(&device) else {
            return Ok(());
        };
        let found = disk.store.size();
        if sectors.checked_mul(SECTOR_SIZE) != Some(found) || found > MOST_DISK_BYTES {
            return Err(DiskResizeError {
                device,
                sectors,
                found,
            });
        }
        disk.resize(found);
        self.number();
        Ok(())
    }

    /// Pages of all disks.
    pub fn page_count(&self) -> u64 {
        self.disks.values().map(Disk::page_count).sum()
    }

    /// Whether the contents of this device's disk are the machine's.
    pub fn has(&self, device: usize) -> bool {
        self.disks.contains_key(&device)
    }

    /// Takes what could not be read for [`Self::read_page`] or [`Self::page_digest`].
    pub fn take_unreadable(&mut self) -> Option<String> {
        self.unreadable.get_mut().take()
    }

    /// The first page of each disk.
    pub fn first_pages(&self) -> impl Iterator<Item = u64> {
        self.disks.values().map(|disk| disk.first)
    }

    /// Pages written since [`Self::take_written`], at most.
    pub fn written_hint(&self) -> u64 {
        self.disks.values().map(|disk| disk.written.len()).sum()
    }

    /// What this host could not do, if the machine cannot go on.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Keeps what the host's queue found, until its completion is an input.
    pub fn keep(&mut self, device: usize, id: u64, data: Payload) {
        if let Some(disk) = self.disks.get_mut(&device) {
            disk.done.insert(id, data);
        }
    }

    /// Forgets what was kept: the host's queue is no longer this machine's.
    pub fn forget_done(&mut self) {
        for disk in self.disks.values_mut() {
            disk.done.clear();
        }
    }

    /// A request is complete, as `result` says. Gives what the guest shall have: what was kept of
    /// it, or else what this side finds by doing it now.
    pub fn complete(
        &mut self,
        device: usize,
        request: &BlockRequest,
        result: Result<(), BlockIoError>,
    ) -> Result<Payload, BlockIoError> {
        let Some(disk) = self.disks.get_mut(&device) else {
            return Err(BlockIoError::Unsupported);
        };
        let kept = disk.done.remove(&request.id);
        if request.operation.modifies() {
            let zeroes = result.is_ok() && request.operation != BlockOperation::Write;
            for page in pages_of(request) {
                disk.written.insert(page);
                let whole = zeroes && covers(request, page);
                disk.zeroed.set(page, whole);
            }
            disk.digests.note(request, result.is_ok());
        }
        result?;
        if let Some(data) = kept {
            return Ok(data);
        }
        disk.store.execute(request).or_else(|error| {
            // The other host could, this one cannot: it is no longer what the log tells of.
            let what = request.operation;
            self.failure.get_or_insert_with(|| {
                format!(
                    "disk of device {device}: {what:?} of {} bytes at sector {} failed here: \
                     {error:?}",
                    request.len, request.sector
                )
            });
            Ok(Payload::from(vec![0; answer_len(request)]))
        })
    }

    fn find(&self, page: u64) -> Option<(usize, &Disk, u64)> {
        let found = self.disks.iter().rev().find(|(_, disk)| disk.first <= page);
        found.map(|(device, disk)| (*device, disk, page - disk.first))
    }

    /// Copies a page out; zeroes where the host cannot read, which is kept to be told.
    pub fn read_page(&self, page: u64, bytes: &mut Page) {
        *bytes = ZERO_PAGE;
        let Some((device, disk, page)) = self.find(page) else {
            return;
        };
        let (offset, len) = disk.span(page);
        if let Err(error) = disk.store.read(offset, &mut bytes[..len]) {
            *bytes = ZERO_PAGE;
            self.unreadable.borrow_mut().get_or_insert_with(|| {
                format!("disk of device {device}: offset {offset:#x} cannot be read: {error}")
            });
        }
    }

    /// Sets a page.
    pub fn write_page(&mut self, page: u64, bytes: &Page) {
        let Some((device, disk, page)) = self.find(page) else {
            return;
        };
        let (offset, len) = disk.span(page);
        let written = disk.store.write(offset, &bytes[..len]);
        if let Err(error) = written {
            let text = format!("disk of device {device}: offset {offset:#x}: {error}");
            self.failure.get_or_insert(text);
        }
        if let Some(disk) = self.disks.get_mut(&device) {
            disk.written.insert(page);
            disk.set = true;
            disk.zeroed.set(page, false);
            disk.digests.forget(page);
        }
    }

    /// Digest of a page. `under_way` are the requests of the page's device that are not complete.
    pub fn page_digest<'a, I: Iterator<Item = &'a BlockRequest>>(
        &self,
        page: u64,
        under_way: impl FnOnce(usize) -> I,
    ) -> u64 {
        let Some((device, disk, index)) = self.find(page) else {
            return UNDECIDED;
        };
        let mut changing = under_way(device).filter(|request| request.operation.modifies());
        if changing.any(|request| pages_of(request).contains(&index)) {
            return UNDECIDED;
        }
        if disk.zeroed.contains(index) {
            return *ZERO_DIGEST;
        }
        if let Some(digest) = disk.digests.of(index) {
            return digest;
        }
        let mut bytes = ZERO_PAGE;
        self.read_page(page, &mut bytes);
        ft::digest::of_page(&bytes)
    }

    /// The pages that requests under way may change, ascending, each once. `under_way` are those of
    /// a device that are not complete.
    pub fn undecided<'a, I: Iterator<Item = &'a BlockRequest>>(
        &self,
        under_way: impl Fn(usize) -> I,
    ) -> Vec<u64> {
        let mut pages = BTreeSet::new();
        for (device, disk) in &self.disks {
            let changing = under_way(*device).filter(|request| request.operation.modifies());
            for request in changing {
                let touched = pages_of(request);
                let end = touched.end.min(disk.page_count());
                pages.extend((touched.start..end).map(|page| disk.first + page));
            }
        }
        pages.into_iter().collect()
    }

    /// Takes the pages written since the last call, ascending. Those that were set are a clone's, a
    /// delta's or a repair's: in the guest's eyes they may be durable, and no flush of its own will
    /// come for them here.
    pub fn take_written(&mut self) -> Vec<u64> {
        let mut pages = Vec::new();
        for disk in self.disks.values_mut() {
            if std::mem::take(&mut disk.set) {
                disk.store.settle();
            }
            let first = disk.first;
            pages.extend(disk.written.take().map(|page| first + page));
            disk.digests.turn();
        }
        pages
    }

    /// Pages that may hold anything but zeroes, ascending.
    pub fn touched(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for (device, disk) in &self.disks {
            let ranges = disk.store.data_ranges().unwrap_or_else(|error| {
                log::warn!("disk of device {device}: all of it counts as used: {error}");
                std::iter::once(0..disk.size).collect()
            });
            let mut next = 0;
            for range in ranges {
                let end = range.end.div_ceil(PAGE_SIZE as u64).min(disk.page_count());
                let start = (range.start / PAGE_SIZE as u64).max(next);
                pages.extend((start..end).map(|page| disk.first + page));
                next = next.max(end);
            }
        }
        pages
    }
}

/// Whether a request covers all of a page.
fn covers(request: &BlockRequest, page: u64) -> bool {
    let start = request.sector * SECTOR_SIZE;
    let page_start = page * PAGE_SIZE as u64;
    start <= page_start && page_start + PAGE_SIZE as u64 <= start + request.len
}

/// Bytes that the guest gets from a request.
fn answer_len(request: &BlockRequest) -> usize {
    match request.operation {
        // A request has less than 2 MiB.
        BlockOperation::Read => request.len as usize,
        _ => 0,
    }
}

mod written_digests;

#[cfg(test)]
mod tests;
