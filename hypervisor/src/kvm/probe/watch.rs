//! Deadlines: a thread that probes, and its caller who sees to it that no run of a guest hangs.
//!
//! The caller wakes every few milliseconds. If a run is over its time it sends the thread a signal,
//! which ends `KVM_RUN`; again at the next waking if the signal came just before the run. A thread
//! that does not come back even so is left behind, with what it has found so far.
//!
//! UNSAFETY: installs a handler that does nothing, and signals a thread.
#![allow(unsafe_code)]
// Deadlines are the host's business: nothing of this reaches a guest.
#![allow(clippy::disallowed_types)]

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::ProbeError;

/// How often the caller looks.
const LOOK: Duration = Duration::from_millis(5);
/// What one run of a guest may take. The longest ones are made to take a tenth of it.
const RUN_LIMIT: Duration = Duration::from_millis(250);
/// How long after its time a thread may still come back.
const GRACE: Duration = Duration::from_millis(150);
/// No run is under way.
const IDLE: u64 = 0;

/// The time that is left, seen by both threads.
#[derive(Debug)]
pub(super) struct Watch {
    begun: Instant,
    limit: Duration,
    /// When the run under way is over its time, in microseconds since `begun`; or [`IDLE`].
    run_until_us: AtomicU64,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Self {
            begun: Instant::now(),
            limit,
            run_until_us: AtomicU64::new(IDLE),
        }
    }

    /// Whether all the time is used up.
    pub(super) fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.limit
    }

    /// Notes that a run begins.
    ///
    /// # Errors
    /// When all the time is used up.
    pub(super) fn begin_run(&self) -> Result<(), ProbeError> {
        let now = self.begun.elapsed();
        if now >= self.limit {
            return Err(ProbeError::OutOfTime);
        }
        let until = (now + RUN_LIMIT).min(self.limit);
        self.run_until_us
            .store(until.as_micros() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// Notes that the run has ended.
    pub(super) fn end_run(&self) {
        self.run_until_us.store(IDLE, Ordering::SeqCst);
    }

    fn run_is_late(&self) -> bool {
        let until = self.run_until_us.load(Ordering::SeqCst);
        until != IDLE && self.begun.elapsed().as_micros() as u64 >= until
    }

    /// Since the probing began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// The signal that ends a run: of the real-time ones, which nothing else in this process waits for.
pub(super) fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

extern "C" fn nothing(_: i32) {}

/// Makes the signal interrupt system calls instead of ending the process.
fn take_signal() -> Result<(), ProbeError> {
    // SAFETY: zero is a valid `sigaction`: no flags, so that calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
    // SAFETY: a valid signal and action; the handler touches nothing.
    if unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(ProbeError::host("take a signal"));
    }
    Ok(())
}

/// Runs `job` on a thread of its own, for at most `limit` and a little.
///
/// # Errors
/// When the thread cannot be made, or has not come back in time.
pub(super) fn run_within(
    limit: Duration,
    job: impl FnOnce(&Arc<Watch>) + Send + 'static,
) -> Result<(), ProbeError> {
    take_signal()?;
    let watch = Arc::new(Watch::new(limit));
    let (done, is_done) = mpsc::channel();
    let watched = watch.clone();
    let thread = thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            job(&watched);
            // The caller may have given up.
            let _ = done.send(());
        })
        .map_err(|source| ProbeError::Host {
            action: "start a thread",
            source,
        })?;
    loop {
        match is_done.recv_timeout(LOOK) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                return thread.join().map_err(|_| ProbeError::OutOfTime);
            }
        }
        if watch.run_is_late() {
            // SAFETY: the thread has not been joined, so its id is valid.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), signal()) };
        }
        if watch.elapsed() > limit + GRACE {
            return Err(ProbeError::OutOfTime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_interrupted_at_its_deadline() {
        let begun = Instant::now();
        run_within(Duration::from_millis(50), |watch| {
            watch.begin_run().unwrap();
            // Waits for any signal: stands for a guest that never comes back.
            // SAFETY: takes no arguments and touches no memory.
            unsafe { libc::pause() };
            watch.end_run();
            assert!(matches!(watch.begin_run(), Err(ProbeError::OutOfTime)));
        })
        .unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(50), "{took:?}");
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_left_behind() {
        let (_held, release) = mpsc::channel::<()>();
        let result = run_within(Duration::from_millis(10), move |_| {
            // Comes back when the test ends.
            let _ = release.recv();
        });
        assert!(matches!(result, Err(ProbeError::OutOfTime)), "{result:?}");
    }
}
