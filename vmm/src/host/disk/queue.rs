//! Carries out requests on threads of its own, so that the guest does not wait for the host.
//!
//! Requests that are here at the same time may be carried out in any order: the device has not
//! given out two of which the order would show. What concerns the image as a whole is done
//! *alone*: behind all that was handed in before, whose completions are told by then, and before
//! the rest.
//!
//! The image of a disk that both hosts of a pair share may be changed only by the host that acts
//! for the machine. A request was let go by its host, but can wait here for long, so that is asked
//! anew before it begins. The host that takes over carries out again all that was not completed;
//! what has begun here then can still come after it, as far as the kernel or the storage delay it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::{DiskImage, execute};
use crate::vm::{LOOK_AGAIN, Permit};

/// Requests carried out at the same time. Enough to keep a disk busy; a flush blocks one of them.
const THREADS: usize = 4;

/// Takes the number of a request and what came of it. Called on one of the queue's threads, once
/// for each request; must not wait for the queue.
pub type Done = Arc<dyn Fn(u64, Result<Payload, BlockIoError>) + Send + Sync>;

/// Something to be done.
enum Work {
    Request(BlockRequest),
    Alone(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Requests whose completion was not told yet, and that no longer wait.
    running: usize,
    /// Whether what runs must be the only one.
    alone: bool,
    closed: bool,
    /// Whether nothing may be changed any more.
    discarded: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Under which contents are changed.
    permit: Permit,
    /// There is something to do, or the end.
    offered: Condvar,
    /// There is nothing in flight.
    idle: Condvar,
}

impl State {
    /// The first in line, if it may begin now.
    fn take(&mut self) -> Option<Work> {
        let may_begin = match self.waiting.front()? {
            Work::Request(_) => !self.alone,
            Work::Alone(_) => self.running == 0,
        };
        if !may_begin {
            return None;
        }
        let work = self.waiting.pop_front()?;
        self.running += 1;
        self.alone = matches!(work, Work::Alone(_));
        Some(work)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done next; `None` when there will be nothing.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.take() {
                return Some(work);
            }
            if state.closed && state.waiting.is_empty() {
                return None;
            }
            state = wait(&self.offered, state);
        }
    }

    /// Whether a request may be carried out, as soon as that is known.
    fn may_begin(&self, request: &BlockRequest) -> bool {
        let harmless = request.operation == BlockOperation::Read;
        while !harmless && !self.permit.holds() {
            let state = self.lock();
            if state.closed || state.discarded {
                return false;
            }
            drop(state);
            self.permit.ask();
            std::thread::sleep(LOOK_AGAIN);
        }
        harmless || !self.lock().discarded
    }

    fn finish_one(&self) {
        let mut state = self.lock();
        state.running -= 1;
        state.alone = false;
        if state.running == 0 {
            // Something may have waited to be alone, or others for its end.
            self.offered.notify_all();
            if state.waiting.is_empty() {
                self.idle.notify_all();
            }
        }
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// The requests of one disk. Dropping it waits until all of them are completed, those that may not
/// be carried out any more by an error, and closes the image if nobody else has it.
pub struct DiskQueue {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskQueue {
    /// Starts the threads.
    ///
    /// # Errors
    /// The host has no thread for us.
    pub fn start(image: Arc<dyn DiskImage>, done: Done) -> io::Result<Self> {
        Self::start_under(image, done, Permit::unlimited())
    }

    /// Starts the threads; each change of the contents asks `permit` first, and waits for it.
    ///
    /// # Errors
    /// The host has no thread for us.
    pub fn start_under(image: Arc<dyn DiskImage>, done: Done, permit: Permit) -> io::Result<Self> {
        let shared = Shared {
            state: Mutex::default(),
            permit,
            offered: Condvar::new(),
            idle: Condvar::new(),
        };
        let mut queue = Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
        };
        for index in 0..THREADS {
            let (shared, image, done) = (queue.shared.clone(), image.clone(), done.clone());
            let thread = std::thread::Builder::new()
                .name(format!("disk{index}"))
                .spawn(move || serve(&shared, &*image, &*done))?;
            queue.threads.push(thread);
        }
        Ok(queue)
    }

    /// Hands in a request. Never waits for the host.
    pub fn submit(&self, request: BlockRequest) {
        self.push(Work::Request(request));
    }

    /// Does something on a thread of the queue while no request is carried out. Never waits.
    pub fn alone(&self, work: impl FnOnce() + Send + 'static) {
        self.push(Work::Alone(Box::new(work)));
    }

    /// Fails all requests that would change something and have not begun: another host may have the
    /// machine, and carries them out itself.
    pub fn discard(&self) {
        self.shared.lock().discarded = true;
    }

    fn push(&self, work: Work) {
        self.shared.lock().waiting.push_back(work);
        self.shared.offered.notify_one();
    }

    /// Waits until nothing is in flight and all completions were told. Not for completions
    /// themselves, which would wait for their own end.
    pub fn quiesce(&self) {
        let mut state = self.shared.lock();
        while state.running > 0 || !state.waiting.is_empty() {
            state = wait(&self.shared.idle, state);
        }
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.offered.notify_all();
        let current = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // A completion may hold the last reference to the queue: its thread ends by itself.
            if thread.thread().id() != current && thread.join().is_err() {
                log::error!("a thread of a disk ended by a panic");
            }
        }
    }
}

fn serve(
    shared: &Shared,
    image: &dyn DiskImage,
    done: &(dyn Fn(u64, Result<Payload, BlockIoError>) + Send + Sync),
) {
    while let Some(work) = shared.next() {
        match work {
            Work::Request(request) => {
                let result = match shared.may_begin(&request) {
                    true => execute(image, &request),
                    false => Err(BlockIoError::Io),
                };
                done(request.id, result);
            }
            Work::Alone(work) => work(),
        }
        shared.finish_one();
    }
}
