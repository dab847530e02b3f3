//! Requests of a disk by the kernel's `io_uring`: one thread, which waits for none of them.
//!
//! ```text
//!   push ─▶ waiting ─▶ [ring thread] ─┬─ read, write, fdatasync ─▶ kernel ─▶ completion ─┐
//!                         ▲           └─ discard, zeroes ─▶ Threads ─▶ completion ───────┤
//!                         └────────── wake ◀─────────────────────────────────────────────┘
//! ```
//!
//! A read or write that ends early goes on where it ended; a write that is to be durable is
//! followed by a flush. Making zeroes has several ways to be tried one after another, so the plain
//! threads do it. Nothing but the completion tells that the kernel is done with a buffer: buffers
//! stay where they are until then, whatever else fails.
//!
//! UNSAFETY: the kernel is given addresses of buffers that outlive the call, and of a set of cores.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;

use super::DiskImage;
use super::execute::{check, failed};
use super::queue::{Done, Work};
use super::threads::Threads;
use crate::host::wake::Wake;
use crate::vm::{LOOK_AGAIN, Permit};

/// Entries of the ring. A disk has at most 256 requests in flight; more wait for a place.
const ENTRIES: u32 = 256;
/// Threads for what the ring does not do.
const ZERO_THREADS: usize = 1;
/// Names the wait for a wake among the completions.
const WAKE: u64 = u64::MAX;
/// Pause when the kernel takes nothing.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    closed: bool,
    discarded: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
    /// Requests that the threads have.
    elsewhere: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ring of one disk. Dropping it waits until all requests are completed.
pub(super) struct Ring {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Ring {
    /// Starts its thread. `file` holds the contents of `image`.
    ///
    /// # Errors
    /// The host has no `io_uring`, or no thread for us.
    pub fn start(
        file: File,
        image: Arc<dyn DiskImage>,
        done: Done,
        permit: Permit,
    ) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(ErrorKind::Unsupported.into());
        }
        keep_to_own_cores(&ring);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Wake::new()?,
            elsewhere: AtomicUsize::new(0),
        });
        let server = Server {
            ring,
            file,
            flights: BTreeMap::new(),
            next_token: 0,
            held: VecDeque::new(),
            is_waking: false,
            zeroes: zero_threads(&shared, &image, &done)?,
            image,
            done,
            permit,
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("disk-ring".to_owned())
            .spawn(move || server.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands in work. Never waits for the host.
    pub fn push(&self, work: Work) {
        self.shared.lock().waiting.push_back(work);
        self.shared.wake.call();
    }

    /// Fails all requests that would change something and have not begun.
    pub fn discard(&self) {
        self.shared.lock().discarded = true;
        self.shared.wake.call();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.call();
        let current = std::thread::current().id();
        // A completion may hold the last reference to the ring: its thread ends by itself.
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != current)
            && thread.join().is_err()
        {
            log::error!("the thread of a disk's ring ended by a panic");
        }
    }
}

/// The kernel's workers run where this thread may: they are threads of the machine too, and whoever
/// gives it some cores of the host means all of it. By themselves they run anywhere.
fn keep_to_own_cores(ring: &IoUring) {
    // SAFETY: the set is a plain array of bits, which the call fills as far as its size says.
    let cores = unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut cores) {
            0 => Ok(cores),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let kept = cores.and_then(|cores| ring.submitter().register_iowq_aff(&cores));
    if let Err(error) = kept {
        // Kernels before 5.14, and hosts of more cores than the set has bits.
        log::debug!("the workers of a disk run on any core: {error}");
    }
}

/// The threads that make zeroes. They are given what has its permit already.
fn zero_threads(
    shared: &Arc<Shared>,
    image: &Arc<dyn DiskImage>,
    done: &Done,
) -> io::Result<Threads> {
    let (shared, done) = (shared.clone(), done.clone());
    let and_wake: Done = Arc::new(move |id, result| {
        done(id, result);
        shared.elsewhere.fetch_sub(1, Ordering::AcqRel);
        shared.wake.call();
    });
    Threads::start(ZERO_THREADS, image.clone(), and_wake, Permit::unlimited())
}

/// What the kernel is doing for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Write,
    Flush,
}

/// A request that the kernel has.
struct Flight {
    request: BlockRequest,
    /// What a read has found.
    found: Vec<u8>,
    offset: u64,
    /// Bytes read or written.
    progress: usize,
    step: Step,
}

impl Flight {
    /// The next thing to be done for it.
    fn entry(&mut self, fd: Fd) -> squeue::Entry {
        let at = self.offset + self.progress as u64;
        match self.step {
            Step::Read => {
                let rest = &mut self.found[self.progress..];
                opcode::Read::new(fd, rest.as_mut_ptr(), rest.len() as u32)
                    .offset(at)
                    .build()
            }
            Step::Write => {
                let rest = &self.request.data[self.progress..];
                opcode::Write::new(fd, rest.as_ptr(), rest.len() as u32)
                    .offset(at)
                    .build()
            }
            Step::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// Takes what the kernel says of a step: whether the request is done.
    fn advance(&mut self, result: i32) -> io::Result<bool> {
        let count = match usize::try_from(result) {
            Ok(count) => count,
            Err(_) => {
                let errno = Errno::from_raw_os_error(-result);
                // Not done, and to be tried again.
                return match errno {
                    Errno::INTR | Errno::AGAIN => Ok(false),
                    errno => Err(errno.into()),
                };
            }
        };
        if self.step == Step::Flush {
            return Ok(true);
        }
        if count == 0 {
            return Err(match self.step {
                Step::Read => ErrorKind::UnexpectedEof.into(),
                _ => ErrorKind::WriteZero.into(),
            });
        }
        self.progress += count;
        if (self.progress as u64) < self.request.len {
            return Ok(false);
        }
        let must_flush = self.step == Step::Write && self.request.durable;
        self.step = Step::Flush;
        Ok(!must_flush)
    }
}

/// The thread's own.
struct Server {
    ring: IoUring,
    file: File,
    /// By the number under which the kernel has them.
    flights: BTreeMap<u64, Flight>,
    next_token: u64,
    /// Requests that wait for the permit.
    held: VecDeque<BlockRequest>,
    /// Whether the ring waits for a wake.
    is_waking: bool,
    zeroes: Threads,
    image: Arc<dyn DiskImage>,
    done: Done,
    permit: Permit,
    shared: Arc<Shared>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.flights.is_empty() {
            // The kernel would go on with memory that is somebody else's then.
            log::error!("the thread of a disk's ring ended with requests under way");
            std::process::abort();
        }
    }
}

impl Server {
    fn run(mut self) {
        loop {
            self.await_wake();
            self.begin_held();
            let is_last = self.begin_waiting();
            if is_last && self.is_idle() {
                return;
            }
            self.wait();
            self.reap();
        }
    }

    fn is_idle(&self) -> bool {
        let elsewhere = self.shared.elsewhere.load(Ordering::Acquire);
        self.flights.is_empty() && self.held.is_empty() && elsewhere == 0
    }

    /// Begins what is handed in; whether there is no more and will not be.
    fn begin_waiting(&mut self) -> bool {
        loop {
            let is_idle = self.is_idle();
            let mut state = self.shared.lock();
            let Some(next) = state.waiting.front() else {
                return state.closed;
            };
            if matches!(next, Work::Alone(_)) && !is_idle {
                return false;
            }
            let work = state.waiting.pop_front();
            drop(state);
            match work {
                Some(Work::Request(request)) => self.begin(request),
                Some(Work::Alone(work)) => work(),
                None => {}
            }
        }
    }

    /// Begins a request as soon as it may be.
    fn begin(&mut self, request: BlockRequest) {
        if request.operation == BlockOperation::Read {
            return self.carry_out(request);
        }
        let (closed, discarded) = {
            let state = self.shared.lock();
            (state.closed, state.discarded)
        };
        if discarded || (closed && !self.permit.holds()) {
            (self.done)(request.id, Err(BlockIoError::Io));
        } else if self.held.is_empty() && self.permit.holds() {
            self.carry_out(request);
        } else {
            self.held.push_back(request);
        }
    }

    /// Begins what has waited for the permit.
    fn begin_held(&mut self) {
        for request in std::mem::take(&mut self.held) {
            self.begin(request);
        }
        if !self.held.is_empty() {
            self.permit.ask();
        }
    }

    fn carry_out(&mut self, request: BlockRequest) {
        let offset = match check(&*self.image, &request) {
            Ok(offset) => offset,
            Err(error) => return self.finish(&request, Err(error)),
        };
        let (step, len) = match request.operation {
            BlockOperation::Read => (Step::Read, request.len),
            BlockOperation::Write => (Step::Write, 0),
            BlockOperation::Flush => (Step::Flush, 0),
            BlockOperation::Discard | BlockOperation::WriteZeroes { .. } => {
                self.shared.elsewhere.fetch_add(1, Ordering::AcqRel);
                return self.zeroes.push(Work::Request(request));
            }
        };
        let nothing = match step {
            Step::Read | Step::Write => request.len == 0,
            // Nothing was changed, and some hosts refuse.
            Step::Flush => self.image.is_read_only(),
        };
        if nothing {
            return self.finish(&request, Ok(Vec::new()));
        }
        let token = self.next_token;
        self.next_token += 1;
        let flight = Flight {
            request,
            found: vec![0; len as usize],
            offset,
            progress: 0,
            step,
        };
        self.flights.insert(token, flight);
        self.submit(token);
    }

    /// Gives the kernel the next step of a request.
    fn submit(&mut self, token: u64) {
        let fd = Fd(self.file.as_raw_fd());
        if let Some(flight) = self.flights.get_mut(&token) {
            let entry = flight.entry(fd).user_data(token);
            self.push(&entry);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the buffer belongs to an entry of `flights`, which neither moves nor changes
            // it before its completion was reaped, and the server is never dropped before that: its
            // thread ends only when `flights` is empty. The descriptors live as long as the ring.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The ring is full of what the kernel has not seen yet.
            if let Err(error) = self.ring.submit() {
                log::debug!("the ring of a disk is full: {error}");
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Lets the ring wait for the next wake.
    fn await_wake(&mut self) {
        if self.is_waking {
            return;
        }
        let fd = Fd(self.shared.wake.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
        self.push(&entry.user_data(WAKE));
        self.is_waking = true;
    }

    /// Waits for a completion; not for long while something is held, or the host has trouble.
    fn wait(&mut self) {
        let until = Timespec::from(LOOK_AGAIN);
        let waited = match self.held.is_empty() {
            true => self.ring.submit_and_wait(1),
            false => {
                let most = SubmitArgs::new().timespec(&until);
                self.ring.submitter().submit_with_args(1, &most)
            }
        };
        let error = match waited {
            Ok(_) => return,
            Err(error) => error,
        };
        let quiet = [Errno::INTR, Errno::TIME, Errno::BUSY, Errno::AGAIN];
        if !quiet
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&error.raw_os_error())
        {
            self.image
                .failures()
                .note("waiting for completions", &error);
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes completions.
    fn reap(&mut self) {
        let completions: Vec<(u64, i32)> = self
            .ring
            .completion()
            .map(|entry| (entry.user_data(), entry.result()))
            .collect();
        for (token, result) in completions {
            if token == WAKE {
                self.is_waking = false;
                if let Err(error) = self.shared.wake.clear() {
                    log::error!("the ring of a disk cannot see who wakes it: {error}");
                }
                continue;
            }
            let Some(flight) = self.flights.get_mut(&token) else {
                continue;
            };
            match flight.advance(result) {
                Ok(false) => self.submit(token),
                Ok(true) => self.land(token, Ok(())),
                Err(error) => self.land(token, Err(error)),
            }
        }
    }

    /// The kernel is done with a request.
    fn land(&mut self, token: u64, result: io::Result<()>) {
        if let Some(Flight { request, found, .. }) = self.flights.remove(&token) {
            self.finish(&request, result.map(|()| found));
        }
    }

    fn finish(&self, request: &BlockRequest, result: io::Result<Vec<u8>>) {
        let result = result.map_err(|error| failed(&*self.image, request, &error));
        (self.done)(request.id, result.map(Payload::from));
    }
}
