//! Disks of a machine over stores in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

/// A store in memory, which fails when it is told to.
#[derive(Clone)]
pub struct MemoryStore {
    bytes: Arc<Mutex<Vec<u8>>>,
    broken: Arc<Mutex<bool>>,
    /// How often it was to be made durable.
    settled: Arc<AtomicU32>,
}

impl MemoryStore {
    fn new(size: usize) -> Self {
        Self {
            bytes: Arc::new(Mutex::new(vec![0; size])),
            broken: Arc::default(),
            settled: Arc::default(),
        }
    }

    fn check(&self) -> io::Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::other("broken"));
        }
        Ok(())
    }
}

impl DiskStore for MemoryStore {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check()?;
        let at = offset as usize;
        into.copy_from_slice(&self.bytes.lock().unwrap()[at..at + into.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.check()?;
        let at = offset as usize;
        self.bytes.lock().unwrap()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn execute(&self, request: &BlockRequest) -> Result<Payload, BlockIoError> {
        let offset = request.sector * SECTOR_SIZE;
        let mut answer = vec![0; answer_len(request)];
        match request.operation {
            BlockOperation::Read => self.read(offset, &mut answer),
            BlockOperation::Write => self.write(offset, &request.data),
            BlockOperation::Flush => self.check(),
            BlockOperation::Discard | BlockOperation::WriteZeroes { .. } => {
                self.write(offset, &vec![0; request.len as usize])
            }
        }
        .map_err(|_| BlockIoError::Io)?;
        Ok(Payload::from(answer))
    }

    fn settle(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        self.check()?;
        let bytes = self.bytes.lock().unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0);
        Ok(used.map(|last| 0..last as u64 + 1).into_iter().collect())
    }
}

fn request(id: u64, operation: BlockOperation, sector: u64, len: u64, byte: u8) -> BlockRequest {
    let data = match operation {
        BlockOperation::Write => vec![byte; len as usize],
        _ => Vec::new(),
    };
    BlockRequest {
        id,
        operation,
        sector,
        len,
        durable: false,
        data: Payload::from(data),
    }
}

/// Device 1 has five pages and a sector more, device 3 has two pages.
fn disks() -> (Disks, MemoryStore) {
    let first = MemoryStore::new(5 * PAGE_SIZE + 512);
    let second = MemoryStore::new(2 * PAGE_SIZE);
    let mut stores: BTreeMap<usize, Box<dyn DiskStore>> = BTreeMap::new();
    stores.insert(1, Box::new(first.clone()));
    stores.insert(3, Box::new(second));
    (Disks::new(stores), first)
}

fn digest(disks: &Disks, page: u64) -> u64 {
    disks.page_digest(page, |_| std::iter::empty())
}

#[test]
fn a_replayed_write_is_done_at_its_completion_and_counts_as_written_then() {
    let (mut disks, store) = disks();
    assert_eq!(disks.page_count(), 8);
    let write = request(1, BlockOperation::Write, 7, 1024, 9);
    assert_eq!(disks.complete(1, &write, Ok(())), Ok(Payload::default()));
    assert_eq!(store.bytes.lock().unwrap()[7 * 512..9 * 512], [9; 1024]);
    assert_eq!(disks.take_written(), [0, 1]);
    assert!(disks.take_written().is_empty());
    let read = request(2, BlockOperation::Read, 8, 512, 0);
    assert_eq!(
        disks.complete(1, &read, Ok(())),
        Ok(Payload::from(vec![9; 512]))
    );
    assert_eq!(disks.touched(), [0, 1]);
}

#[test]
fn pages_that_are_set_become_durable_when_all_of_them_are() {
    let (mut disks, store) = disks();
    let settled = || store.settled.load(Ordering::Relaxed);
    let write = request(1, BlockOperation::Write, 0, 512, 9);
    assert!(disks.complete(1, &write, Ok(())).is_ok());
    disks.take_written();
    assert_eq!(settled(), 0, "the guest flushes what it writes");
    disks.write_page(2, &[7; PAGE_SIZE]);
    disks.write_page(3, &[7; PAGE_SIZE]);
    assert_eq!(settled(), 0);
    assert_eq!(disks.take_written(), [2, 3]);
    assert_eq!(settled(), 1);
    assert!(disks.take_written().is_empty());
    assert_eq!(settled(), 1);
}

#[test]
fn what_the_queue_did_is_taken_and_not_done_again() {
    let (mut disks, store) = disks();
    disks.keep(1, 5, Payload::from(vec![7; 512]));
    let read = request(5, BlockOperation::Read, 0, 512, 0);
    assert_eq!(
        disks.complete(1, &read, Ok(())),
        Ok(Payload::from(vec![7; 512]))
    );
    disks.keep(1, 6, Payload::default());
    let write = request(6, BlockOperation::Write, 0, 512, 1);
    assert_eq!(disks.complete(1, &write, Ok(())), Ok(Payload::default()));
    assert_eq!(store.bytes.lock().unwrap()[0], 0, "the queue had done it");
    assert_eq!(disks.take_written(), [0]);
}

#[test]
fn a_request_that_failed_there_is_not_done_here_and_its_pages_are_compared() {
    let (mut disks, store) = disks();
    let write = request(1, BlockOperation::Write, 0, 512, 1);
    let failed = disks.complete(1, &write, Err(BlockIoError::Io));
    assert_eq!(failed, Err(BlockIoError::Io));
    assert_eq!(store.bytes.lock().unwrap()[0], 0);
    assert_eq!(disks.take_written(), [0]);
    assert!(disks.failure().is_none());
}

#[test]
fn a_host_that_cannot_do_what_the_other_could_cannot_go_on() {
    let (mut disks, store) = disks();
    *store.broken.lock().unwrap() = true;
    let read = request(1, BlockOperation::Read, 0, 512, 0);
    assert_eq!(
        disks.complete(1, &read, Ok(())),
        Ok(Payload::from(vec![0; 512]))
    );
    assert!(disks.failure().unwrap().contains("device 1"));
}

#[test]
fn zeroes_for_what_cannot_be_read_are_told_of_once() {
    let (mut disks, store) = disks();
    assert_eq!(disks.take_unreadable(), None);
    *store.broken.lock().unwrap() = true;
    assert_eq!(digest(&disks, 1), ft::digest::of_page(&ZERO_PAGE));
    assert!(disks.take_unreadable().unwrap().contains("device 1"));
    assert_eq!(disks.take_unreadable(), None);
    assert!(disks.failure().is_none());
}

#[test]
fn pages_under_a_request_have_one_digest_and_zeroed_ones_that_of_zeroes() {
    let (mut disks, _) = disks();
    let zero = ft::digest::of_page(&ZERO_PAGE);
    let write = request(1, BlockOperation::Write, 8, 4096, 3);
    let under_way = |device: usize| (device == 1).then_some(&write).into_iter();
    assert_eq!(disks.page_digest(1, under_way), UNDECIDED);
    assert_eq!(disks.page_digest(2, under_way), zero);
    assert_eq!(disks.page_digest(7, under_way), zero);
    assert_eq!(disks.undecided(under_way), [1]);
    disks.complete(1, &write, Ok(())).unwrap();
    assert_ne!(digest(&disks, 1), zero);
    let discard = request(2, BlockOperation::Discard, 8, 4096, 0);
    disks.complete(1, &discard, Ok(())).unwrap();
    assert_eq!(digest(&disks, 1), zero);
}

#[test]
fn pages_of_all_disks_lie_behind_each_other_and_the_last_may_be_a_part() {
    let (mut disks, store) = disks();
    let page = [5; PAGE_SIZE];
    for number in [5, 7] {
        disks.write_page(number, &page);
    }
    assert_eq!(store.bytes.lock().unwrap()[5 * PAGE_SIZE..], [5; 512]);
    let mut back = ZERO_PAGE;
    disks.read_page(7, &mut back);
    assert_eq!(back, page);
    disks.read_page(5, &mut back);
    assert!(back[..512] == [5; 512] && back[512..].iter().all(|byte| *byte == 0));
    assert_eq!(disks.take_written(), [5, 7]);
    assert!(disks.failure().is_none());
}

#[test]
fn a_disk_that_is_resized_moves_the_pages_of_those_behind_it() {
    let (mut disks, store) = disks();
    disks.write_page(7, &[5; PAGE_SIZE]);
    disks.take_written();
    let refusal = disks.resize(1, 4).unwrap_err().to_string();
    assert!(refusal.contains("20992 bytes"), "{refusal}");

    // From five pages and a sector to seven pages and a sector.
    store.bytes.lock().unwrap().resize(7 * PAGE_SIZE + 512, 0);
    assert_eq!(disks.page_count(), 8);
    disks.resize(1, 57).unwrap();
    assert_eq!(disks.page_count(), 10);
    assert_eq!(disks.take_written(), [5, 6, 7]);
    let mut back = ZERO_PAGE;
    disks.read_page(9, &mut back);
    assert_eq!(back, [5; PAGE_SIZE]);
    disks.write_page(7, &[6; PAGE_SIZE]);
    assert_eq!(store.bytes.lock().unwrap()[7 * PAGE_SIZE..], [6; 512]);

    // To one page and a sector.
    disks.take_written();
    store.bytes.lock().unwrap().truncate(PAGE_SIZE + 512);
    disks.resize(1, 9).unwrap();
    assert_eq!(disks.page_count(), 4);
    assert_eq!(disks.take_written(), [1]);
    disks.read_page(3, &mut back);
    assert_eq!(back, [5; PAGE_SIZE]);
    assert_eq!(disks.touched(), [2, 3]);
    // A device that is no disk of the machine's own.
    disks.resize(2, 100).unwrap();
    assert!(disks.failure().is_none());
}

#[test]
fn a_request_past_the_end_of_a_shrunk_disk_changes_no_page() {
    let (mut disks, store) = disks();
    let write = request(1, BlockOperation::Write, 40, 512, 1);
    store.bytes.lock().unwrap().truncate(PAGE_SIZE);
    disks.resize(1, 8).unwrap();
    disks.take_written();
    let failed = disks.complete(1, &write, Err(BlockIoError::Io));
    assert_eq!(failed, Err(BlockIoError::Io));
    assert!(disks.take_written().is_empty());
}

/// In order: the page is not read back, a partial write of it is, and damage shows with the next
/// epoch.
#[test]
fn what_was_written_whole_is_digested_without_being_read_back() {
    let (mut disks, store) = disks();
    let write = request(1, BlockOperation::Write, 4, 8192, 9);
    disks.complete(1, &write, Ok(())).unwrap();
    assert_eq!(disks.take_written(), [0, 1, 2]);
    let whole = ft::digest::of_page(&[9; PAGE_SIZE]);
    store.bytes.lock().unwrap()[PAGE_SIZE] = 1;
    assert_eq!(digest(&disks, 1), whole);
    assert_ne!(digest(&disks, 0), whole, "half of it was written");
    assert!(disks.take_written().is_empty());
    assert_ne!(digest(&disks, 1), whole, "the damage is found");
    let part = request(2, BlockOperation::Write, 8, 512, 9);
    disks.complete(1, &write, Ok(())).unwrap();
    disks.complete(1, &part, Ok(())).unwrap();
    store.bytes.lock().unwrap()[PAGE_SIZE + 600] = 1;
    assert_ne!(digest(&disks, 1), whole, "a part was written after it");
    disks.complete(1, &write, Ok(())).unwrap();
    disks.write_page(1, &[5; PAGE_SIZE]);
    assert_eq!(digest(&disks, 1), ft::digest::of_page(&[5; PAGE_SIZE]));
}
