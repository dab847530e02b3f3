//! Output of the guest on its way out: what goes at once, and what is queued.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{LOOK_INTERVAL, QUEUE_LIMIT, SLOW_PIECE};
use crate::host::poll;
use crate::vm::{LOOK_AGAIN, Permit};

/// Bytes that are written at a time at most.
const CHUNK_SIZE: usize = 64 << 10;

/// Where output goes.
#[derive(Clone, Debug)]
pub enum Sink {
    /// A regular file, which never makes a writer wait.
    Regular(Arc<File>),
    /// A terminal or pipe, which may.
    Slow(Arc<File>),
    /// A client.
    Client(Arc<UnixStream>),
    /// A pseudoterminal; writes to it do not wait.
    Pty(Arc<OwnedFd>),
}

impl Sink {
    /// A sink for a file of whatever kind.
    ///
    /// # Errors
    /// When the host does not tell what it is.
    pub fn file(file: File) -> Result<Self> {
        let regular = file.metadata()?.is_file();
        let file = Arc::new(file);
        Ok(if regular {
            Self::Regular(file)
        } else {
            Self::Slow(file)
        })
    }

    /// Whether it is this client.
    pub fn is_client(&self, client: &Arc<UnixStream>) -> bool {
        matches!(self, Self::Client(current) if Arc::ptr_eq(current, client))
    }

    /// The descriptor, if one can wait for it to take more.
    fn waitable(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Client(client) => Some(client.as_fd()),
            Self::Pty(pty) => Some(pty.as_fd()),
            Self::Slow(file) => Some(file.as_fd()),
            Self::Regular(_) => None,
        }
    }

    /// Most bytes to be written at a time.
    const fn piece(&self) -> usize {
        match self {
            Self::Slow(_) => SLOW_PIECE,
            _ => CHUNK_SIZE,
        }
    }

    /// Whether it would take something now, or fail at once.
    fn has_room(&self) -> bool {
        self.waitable().is_none_or(|fd| {
            let mut entries = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            poll::wait(&mut entries, Duration::ZERO).is_err() || !entries[0].revents().is_empty()
        })
    }

    /// Writes what goes without waiting.
    fn write_now(&self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Regular(file) => file.as_ref().write(bytes),
            Self::Slow(_) => Ok(0),
            Self::Client(client) => poll::send_now(&**client, bytes),
            Self::Pty(pty) => rustix::io::write(&**pty, bytes).map_err(Error::from),
        }
    }
}

/// By what right queued output leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// By the permit, while it holds.
    #[default]
    Live,
    /// By itself: the machine was handed over behind this output.
    Handed,
    /// By none: another host may have the machine.
    Fenced,
}

/// What the port's threads share with the machine's.
#[derive(Default)]
pub struct State {
    /// Where output goes now.
    pub sink: Option<Sink>,
    /// Bytes that were lost.
    pub lost: u64,
    /// Set when the port is closed: until when queued output may still be written.
    pub closed: Option<Instant>,
    /// Whether there is a thread that writes what is queued.
    pub draining: bool,
    /// What could not be written yet.
    pub queue: VecDeque<u8>,
    /// By what right it leaves.
    pub standing: Standing,
    /// Whether the last write failed, which is said once.
    failing: bool,
}

/// The state under its lock.
pub struct Shared {
    state: Mutex<State>,
    permit: Permit,
    /// Something is queued, the sink is another, or the port is closed.
    pub changed: Condvar,
}

impl Shared {
    /// A port that is not open; its output leaves under `permit`.
    pub fn new(permit: Permit) -> Self {
        Self {
            state: Mutex::default(),
            permit,
            changed: Condvar::new(),
        }
    }

    /// Whether output may leave now.
    pub fn may_write(&self, state: &State) -> bool {
        match state.standing {
            Standing::Live => self.permit.holds(),
            Standing::Handed => true,
            Standing::Fenced => false,
        }
    }

    /// The state. Nobody keeps it during a call of the host that may wait.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the port is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }
}

impl State {
    /// Writes `bytes` behind what is queued: now if they may leave, or as soon as they go.
    pub fn write(&mut self, bytes: &[u8], may_leave: bool) {
        if self.standing == Standing::Fenced {
            self.lost += bytes.len() as u64;
            return;
        }
        let done = if self.queue.is_empty() && may_leave {
            self.write_now(bytes)
        } else {
            0
        };
        self.queue.extend(&bytes[done..]);
        let excess = self.queue.len().saturating_sub(QUEUE_LIMIT);
        self.queue.drain(..excess);
        self.lost += excess as u64;
    }

    /// Loses what is queued and all that still comes.
    pub fn discard(&mut self) {
        self.standing = Standing::Fenced;
        self.lost += self.queue.len() as u64;
        self.queue.clear();
    }

    fn write_now(&mut self, bytes: &[u8]) -> usize {
        let Some(sink) = &self.sink else {
            return 0;
        };
        match sink.write_now(bytes) {
            Ok(count) => {
                self.failing &= count == 0;
                count
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
            Err(error) => {
                if matches!(sink, Sink::Client(_)) {
                    log::debug!("the client of a serial port or console is gone: {error}");
                    self.sink = None;
                } else {
                    self.note(&error);
                }
                0
            }
        }
    }

    /// Says that output cannot be written, once until it can again.
    fn note(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.failing, true) {
            log::warn!("output of a serial port or console cannot be written: {error}");
        }
    }
}

/// The thread: writes what is queued as the other end takes it; after closing, as long as it is
/// taken.
pub fn drain(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let over = state
            .closed
            .is_some_and(|deadline| Instant::now() >= deadline);
        let sink = state.sink.clone().filter(|_| !state.queue.is_empty());
        let Some(sink) = sink.filter(|_| !over) else {
            if state.closed.is_some() {
                break;
            }
            let waited = shared.changed.wait_timeout(state, LOOK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        };
        if !sink.has_room() {
            drop(state);
            wait_for_room(&sink);
            state = shared.lock();
            continue;
        }
        if !shared.may_write(&state) {
            // Asked for only when something would go, so that a client that takes nothing does not
            // keep a pair busy.
            shared.permit.ask();
            let waited = shared.changed.wait_timeout(state, LOOK_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let piece = state.queue.iter().copied().take(sink.piece());
        let bytes: Vec<u8> = piece.collect();
        if let Sink::Slow(file) = &sink {
            state.queue.drain(..bytes.len());
            drop(state);
            let written = file.as_ref().write_all(&bytes);
            state = shared.lock();
            match written {
                Ok(()) => state.failing = false,
                Err(error) => {
                    state.note(&error);
                    state.lost += bytes.len() as u64;
                }
            }
            continue;
        }
        let done = state.write_now(&bytes);
        state.queue.drain(..done);
        if done == 0 {
            drop(state);
            wait_for_room(&sink);
            state = shared.lock();
        }
    }
    state.draining = false;
    drop(state);
    shared.changed.notify_all();
}

/// Waits for a while until a sink takes more.
fn wait_for_room(sink: &Sink) {
    let ready = sink.waitable().map(|fd| {
        let mut entries = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        poll::wait(&mut entries, LOOK_INTERVAL).map(|_| entries[0].revents())
    });
    // What is ready but took nothing is broken, and would be ready at once again.
    if !matches!(ready, Some(Ok(flags)) if !flags.intersects(PollFlags::ERR | PollFlags::HUP)) {
        std::thread::sleep(Duration::from_millis(2));
    }
}
