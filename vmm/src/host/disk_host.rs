//! The host side of a virtio disk: carries out its requests while its machine is live here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;

use super::disk::{DiskError, DiskImage, DiskQueue, DiskTarget, Done, SECTOR_SIZE, open};
use crate::machine::DiskMode;
use crate::vm::Port;

/// What a disk has done, for `vm.counters`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DiskCounters {
    /// Reads.
    pub reads: OperationCounters,
    /// Everything that changes contents.
    pub writes: OperationCounters,
}

/// One kind of operation; times in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OperationCounters {
    /// How many were completed.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sum of their times.
    pub total_us: u64,
    /// The shortest of their times; zero before the first.
    pub least_us: u64,
    /// The longest of their times.
    pub most_us: u64,
}

impl OperationCounters {
    fn add(&mut self, bytes: u64, us: u64) {
        self.least_us = if self.count == 0 {
            us
        } else {
            self.least_us.min(us)
        };
        self.most_us = self.most_us.max(us);
        self.count += 1;
        self.bytes += bytes;
        self.total_us += us;
    }
}

/// Requests under way and what was done.
#[derive(Default)]
struct Ledger {
    began: BTreeMap<u64, (Instant, BlockOperation, u64)>,
    counters: DiskCounters,
}

impl Ledger {
    fn begin(&mut self, request: &BlockRequest) {
        let entry = (Instant::now(), request.operation, request.len);
        self.began.insert(request.id, entry);
    }

    fn end(&mut self, id: u64) {
        let Some((began, operation, bytes)) = self.began.remove(&id) else {
            return;
        };
        let us = began.elapsed().as_micros() as u64;
        match operation {
            BlockOperation::Read => self.counters.reads.add(bytes, us),
            operation if operation.modifies() => self.counters.writes.add(bytes, us),
            _ => {}
        }
    }
}

type SharedLedger = Arc<Mutex<Ledger>>;

fn lock(ledger: &SharedLedger) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a disk cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DiskHostError {
    /// Its image cannot be had.
    #[error(transparent)]
    Image(#[from] DiskError),
    /// The host has no thread for it.
    #[error("cannot serve the disk")]
    Thread(#[from] std::io::Error),
    /// It is not open.
    #[error("the disk's image is not open")]
    Inactive,
}

/// The host side of a disk.
pub struct DiskHost {
    target: DiskTarget,
    mode: DiskMode,
    /// Open whenever the machine is here if its contents are the machine's; else while it is live.
    image: Option<Arc<dyn DiskImage>>,
    queue: Option<DiskQueue>,
    /// Requests that were given to the queue: one that leaves at a take-over may come twice.
    given: BTreeSet<u64>,
    ledger: SharedLedger,
}

impl DiskHost {
    /// A host side that does nothing yet. `image` is there for contents of the machine's own.
    pub fn new(target: DiskTarget, mode: DiskMode, image: Option<Arc<dyn DiskImage>>) -> Self {
        Self {
            target,
            mode,
            image,
            queue: None,
            given: BTreeSet::new(),
            ledger: SharedLedger::default(),
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> DiskCounters {
        lock(&self.ledger).counters
    }

    /// Serves requests from now on; completions go to `port`.
    ///
    /// # Errors
    /// When the image or a thread cannot be had.
    pub fn activate(&mut self, port: Port) -> Result<(), DiskHostError> {
        if self.queue.is_some() {
            return Ok(());
        }
        let image = match &self.image {
            Some(image) => image.clone(),
            None => self.image.insert(open(&self.target)?).clone(),
        };
        let (mode, ledger) = (self.mode, self.ledger.clone());
        let done: Done = Arc::new(move |id, result| {
            lock(&ledger).end(id);
            answer(&port, mode, id, result);
        });
        self.queue = Some(DiskQueue::start(image, done)?);
        Ok(())
    }

    /// Carries out a request.
    pub fn request(&mut self, request: BlockRequest, port: &Port) {
        if self.mode == DiskMode::Outside && !self.given.insert(request.id) {
            return;
        }
        // Ids rise, and so few are in flight that those long past need not be remembered.
        while self.given.len() > 4096 {
            self.given.pop_first();
        }
        match &self.queue {
            Some(queue) => {
                lock(&self.ledger).begin(&request);
                queue.submit(request);
            }
            None => answer(port, self.mode, request.id, Err(BlockIoError::Io)),
        }
    }

    /// Gives the image another size, behind the requests that were handed in; what came of it goes
    /// to `port`.
    ///
    /// # Errors
    /// When the disk is not served here.
    pub fn resize(&self, size: u64, port: Port) -> Result<(), DiskHostError> {
        let (Some(image), Some(queue)) = (self.image.clone(), &self.queue) else {
            return Err(DiskHostError::Inactive);
        };
        queue.alone(move || {
            let resized = image.resize(size);
            port.resized(resized.map(|()| size / SECTOR_SIZE));
        });
        Ok(())
    }

    /// The image, if it is open.
    pub fn into_image(self) -> Option<Arc<dyn DiskImage>> {
        self.image
    }

    /// Another host goes on: nothing is in flight when this returns.
    pub fn leave(&mut self) {
        self.queue = None;
        self.given.clear();
        if self.mode == DiskMode::Outside {
            self.image = None;
        }
    }
}

/// Says what came of a request.
fn answer(port: &Port, mode: DiskMode, id: u64, result: Result<Payload, BlockIoError>) {
    match mode {
        DiskMode::Replicated => port.disk_done(id, result),
        DiskMode::Outside => port.answer(VirtioInput::BlockCompletion { id, result }),
    }
}
