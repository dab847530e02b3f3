//! The ways on which memory leaves: the main connection alone, or several beside it.
//!
//! ```text
//!                    ┌─ lane ─▶ connection      pack, send, take answers
//!   batches ─▶ round ┼─ lane ─▶ connection
//!     robin          └─ lane ─▶ connection      settle: all that was sent is answered
//! ```
//!
//! A receiver answers each request. Waiting for each answer would leave the connection idle for a
//! round trip; so some bytes may be unanswered.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::Instant;

use ft::snapshot::Packing;

use super::channel::{Channel, ChannelError};
use super::layout::Layout;
use super::pages::{Batch, Carrier, Packer};
use super::progress::Progress;
use super::wire::Command;

/// Bytes that may be unanswered on a connection.
const WINDOW_BYTES: u64 = 8 << 20;
/// Batches that wait for a connection.
const WAITING_BATCHES: usize = 4;

/// One connection that carries memory.
pub struct Lane {
    channel: Channel,
    layout: Layout,
    /// None for a peer that knows only plain memory.
    packer: Option<Packer>,
    unanswered: VecDeque<(Command, u64)>,
    unanswered_bytes: u64,
    progress: Progress,
}

impl Lane {
    /// A lane over a connection.
    pub fn new(channel: Channel, layout: Layout, packs: bool, progress: Progress) -> Self {
        Self {
            channel,
            layout,
            packer: packs.then(Packer::default),
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            progress,
        }
    }

    /// The connection; nothing on it may be unanswered when something else is asked.
    pub const fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// When it cannot be sent, or an earlier one was refused.
    pub fn send(&mut self, batch: Batch) -> Result<(), ChannelError> {
        let pages = batch.pages.len();
        let carrier = self.load(batch);
        let (command, bytes) = (carrier.request.command, carrier.wire_bytes());
        let begun = Instant::now();
        self.channel
            .send(&carrier.request, &[&carrier.payload, &carrier.data])?;
        self.unanswered.push_back((command, bytes));
        self.unanswered_bytes += bytes;
        while self.unanswered_bytes > WINDOW_BYTES {
            self.take_answer()?;
        }
        if let Some(packer) = &mut self.packer {
            packer.sent(bytes, begun.elapsed());
        }
        self.progress.sent(pages, bytes);
        Ok(())
    }

    fn load(&mut self, batch: Batch) -> Carrier {
        let Some(packer) = &mut self.packer else {
            return Carrier::plain(batch, &self.layout);
        };
        let packing = packer.choose();
        let (before, begun) = (batch.data.len() as u64, Instant::now());
        let carrier = Carrier::packed(batch, packing);
        if packing == Packing::Lz4 {
            packer.packed(before, carrier.wire_bytes(), begun.elapsed());
        }
        carrier
    }

    fn take_answer(&mut self) -> Result<(), ChannelError> {
        if let Some((command, bytes)) = self.unanswered.pop_front() {
            self.channel.answer(command)?;
            self.unanswered_bytes -= bytes;
        }
        Ok(())
    }

    /// Waits until all that was sent is answered.
    ///
    /// # Errors
    /// When something was refused, or no answer comes.
    pub fn settle(&mut self) -> Result<(), ChannelError> {
        while !self.unanswered.is_empty() {
            self.take_answer()?;
        }
        Ok(())
    }
}

enum Job {
    Send(Batch),
    Settle(Sender<()>),
}

/// A lane with a thread of its own.
struct Worker {
    jobs: SyncSender<Job>,
    thread: JoinHandle<Result<(), ChannelError>>,
}

impl Worker {
    fn start(mut lane: Lane) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel(WAITING_BATCHES);
        let thread = std::thread::Builder::new()
            .name("migration-lane".to_owned())
            .spawn(move || {
                while let Ok(job) = waiting.recv() {
                    match job {
                        Job::Send(batch) => lane.send(batch)?,
                        Job::Settle(done) => {
                            lane.settle()?;
                            // Whoever asked has given up if nobody takes it.
                            let _ = done.send(());
                        }
                    }
                }
                Ok(())
            })?;
        Ok(Self { jobs, thread })
    }
}

/// All ways on which memory leaves.
pub struct Outlet {
    main: Lane,
    workers: Vec<Worker>,
    next: usize,
}

impl Outlet {
    /// The main connection and those beside it; memory goes on it only if there are none.
    ///
    /// # Errors
    /// When the host has not the threads.
    pub fn new(main: Lane, beside: Vec<Lane>) -> std::io::Result<Self> {
        let workers = beside.into_iter().map(Worker::start);
        Ok(Self {
            main,
            workers: workers.collect::<Result<_, _>>()?,
            next: 0,
        })
    }

    /// The main connection; nothing on it may be unanswered when something else is asked.
    pub const fn main(&mut self) -> &mut Channel {
        self.main.channel()
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// When a connection is of no use any more.
    pub fn send(&mut self, batch: Batch) -> Result<(), ChannelError> {
        if self.workers.is_empty() {
            return self.main.send(batch);
        }
        self.next = (self.next + 1) % self.workers.len();
        self.hand(self.next, Job::Send(batch))
    }

    fn hand(&mut self, index: usize, job: Job) -> Result<(), ChannelError> {
        if self.workers[index].jobs.send(job).is_ok() {
            return Ok(());
        }
        Err(self.failure(index))
    }

    /// Why a worker has ended.
    fn failure(&mut self, index: usize) -> ChannelError {
        let Worker { jobs, thread } = self.workers.swap_remove(index);
        drop(jobs);
        match thread.join() {
            Ok(Err(error)) => error,
            _ => ChannelError::Closed,
        }
    }

    /// Waits until all that was sent is answered.
    ///
    /// # Errors
    /// When a connection is of no use any more.
    pub fn settle(&mut self) -> Result<(), ChannelError> {
        self.main.settle()?;
        let mut settling = Vec::new();
        for index in 0..self.workers.len() {
            let (done, told) = mpsc::channel();
            self.hand(index, Job::Settle(done))?;
            settling.push(told);
        }
        for (index, told) in settling.into_iter().enumerate() {
            if told.recv().is_err() {
                return Err(self.failure(index));
            }
        }
        Ok(())
    }
}

/// What further lanes have in common with the first.
#[derive(Clone)]
pub struct LaneKind {
    /// Where the machine's pages are.
    pub layout: Layout,
    /// Whether the peer takes packed batches.
    pub packs: bool,
    /// Where it is told how far it is.
    pub progress: Progress,
}

impl LaneKind {
    /// A lane of this kind.
    pub fn lane(&self, channel: Channel) -> Lane {
        Lane::new(channel, self.layout, self.packs, self.progress.clone())
    }
}
