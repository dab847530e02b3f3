//! The host side of a virtio disk: carries out its requests while its machine is live here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;

use super::disk::{DiskError, DiskImage, DiskQueue, DiskTarget, Done, SECTOR_SIZE, open};
use super::disk_quiet::Quiet;
use crate::machine::DiskMode;
use crate::vm::{Permit, Port};

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

/// The image of a disk of the machine's own.
#[derive(Clone)]
pub struct OwnImage {
    /// The image.
    pub image: Arc<dyn DiskImage>,
    /// Whether somebody who has left still works on it.
    pub quiet: Quiet,
}

/// The host side of a disk.
pub struct DiskHost {
    target: DiskTarget,
    mode: DiskMode,
    /// Open whenever the machine is here if its contents are the machine's; else while it is live.
    image: Option<Arc<dyn DiskImage>>,
    /// Who works on the image of the machine's own.
    quiet: Quiet,
    queue: Option<DiskQueue>,
    /// Requests that were given to the queue: one that leaves at a take-over may come twice.
    given: BTreeSet<u64>,
    /// Requests that came before the image could be opened; none when it never will be.
    waiting: Option<Vec<BlockRequest>>,
    permit: Permit,
    ledger: SharedLedger,
}

impl DiskHost {
    /// A host side that does nothing yet. `image` is there for contents of the machine's own.
    /// What changes contents that are not the machine's own asks `permit`.
    pub fn new(
        target: DiskTarget,
        mode: DiskMode,
        image: Option<OwnImage>,
        permit: Permit,
    ) -> Self {
        let (image, quiet) = image.map(|own| (own.image, own.quiet)).unzip();
        let permit = match mode {
            // Nobody else has the image.
            DiskMode::Replicated => Permit::unlimited(),
            DiskMode::Outside => permit,
        };
        Self {
            target,
            mode,
            image,
            quiet: quiet.unwrap_or_default(),
            queue: None,
            given: BTreeSet::new(),
            waiting: Some(Vec::new()),
            permit,
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
        self.quiet.wait();
        let queue = DiskQueue::start_under(image, done, self.permit.clone())?;
        for request in self
            .waiting
            .iter_mut()
            .flat_map(|waiting| waiting.drain(..))
        {
            lock(&self.ledger).begin(&request);
            queue.submit(request);
        }
        self.queue = Some(queue);
        Ok(())
    }

    /// The image will not be opened: requests fail.
    pub fn give_up(&mut self, port: &Port) {
        if self.queue.is_none() {
            for request in self.waiting.take().into_iter().flatten() {
                answer(port, self.mode, request.id, Err(BlockIoError::Io));
            }
        }
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
        match (&self.queue, &mut self.waiting) {
            (Some(queue), _) => {
                lock(&self.ledger).begin(&request);
                queue.submit(request);
            }
            (None, Some(waiting)) => waiting.push(request),
            (None, None) => answer(port, self.mode, request.id, Err(BlockIoError::Io)),
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

    /// Another host may have the machine: what it shares with this one is not changed any more.
    pub fn discard(&self) {
        if let (Some(queue), DiskMode::Outside) = (&self.queue, self.mode) {
            queue.discard();
        }
    }

    /// Another host goes on, and carries out anew what waits here. Gives the image of the machine's
    /// own; who works on it next waits until what has begun is done. An image that is shared is
    /// closed when this returns, unless the machine may come back (`keeps_shared`).
    pub fn leave(mut self, keeps_shared: bool) -> Option<OwnImage> {
        let queue = self.queue.take();
        queue.iter().for_each(DiskQueue::discard);
        match self.mode {
            DiskMode::Outside if !keeps_shared => None,
            DiskMode::Outside | DiskMode::Replicated => {
                let image = self.image.take()?;
                if let Some(queue) = queue {
                    self.quiet.end(queue);
                }
                let quiet = self.quiet.clone();
                Some(OwnImage { image, quiet })
            }
        }
    }
}

/// Disks between two hosts.
impl DiskHost {
    /// The image, if it is open.
    pub fn image(&self) -> Option<Arc<dyn DiskImage>> {
        self.image.clone()
    }

    /// Gives back the image's locks when all that was begun is done and durable: another host is
    /// about to open it. To be called when the disk is not served.
    ///
    /// # Errors
    /// When the host fails; the image is then as it was.
    pub fn release(&mut self) -> std::io::Result<()> {
        self.quiet.wait();
        let Some(image) = &self.image else {
            return Ok(());
        };
        image.flush()?;
        image.unlock()
    }

    /// Takes back what [`DiskHost::release`] has given away.
    ///
    /// # Errors
    /// When another host has opened the image.
    pub fn retake(&mut self) -> Result<(), DiskHostError> {
        let Some(image) = &self.image else {
            return Ok(());
        };
        image.lock_again().map_err(|source| {
            let path = self.target.path.clone();
            match source.kind() {
                std::io::ErrorKind::WouldBlock => DiskError::InUse { path }.into(),
                _ => DiskError::Lock { path, source }.into(),
            }
        })
    }
}

/// Says what came of a request.
fn answer(port: &Port, mode: DiskMode, id: u64, result: Result<Payload, BlockIoError>) {
    match mode {
        DiskMode::Replicated => port.disk_done(id, result),
        DiskMode::Outside => port.answer(VirtioInput::BlockCompletion { id, result }),
    }
}
