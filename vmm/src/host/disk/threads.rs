//! Requests of a disk on some threads, each of which waits for the host.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::queue::{Done, Work};
use super::{DiskImage, execute};
use crate::vm::{LOOK_AGAIN, Permit};

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
        }
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// The threads of one disk. Dropping it waits until all requests are completed.
pub(super) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// The host has no thread for us.
    pub fn start(
        count: usize,
        image: Arc<dyn DiskImage>,
        done: Done,
        permit: Permit,
    ) -> io::Result<Self> {
        let shared = Shared {
            state: Mutex::default(),
            permit,
            offered: Condvar::new(),
        };
        let mut queue = Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
        };
        for index in 0..count {
            let (shared, image, done) = (queue.shared.clone(), image.clone(), done.clone());
            let thread = std::thread::Builder::new()
                .name(format!("disk{index}"))
                .spawn(move || serve(&shared, &*image, &*done))?;
            queue.threads.push(thread);
        }
        Ok(queue)
    }

    /// Hands in work. Never waits for the host.
    pub fn push(&self, work: Work) {
        self.shared.lock().waiting.push_back(work);
        self.shared.offered.notify_one();
    }

    /// Fails all requests that would change something and have not begun.
    pub fn discard(&self) {
        self.shared.lock().discarded = true;
    }
}

impl Drop for Threads {
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
