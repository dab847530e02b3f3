//! Flushes behind a replay's back, few of them.
//!
//! A guest that waits for its flush waits for the live host's. The copy is needed from the moment
//! at which the other host is gone, so what was written to it may become durable a little later,
//! and many flushes of the guest by one of ours: a copy that was flushed each time would halve what
//! a storage that both hosts use can do.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Least time from the end of one flush to the beginning of the next.
pub const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    asked: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a flush is asked for, and takes that; false at the end.
    fn next(&self) -> bool {
        let is_quiet = |state: &mut State| !state.asked && !state.closed;
        let waited = self.changed.wait_while(self.lock(), is_quiet);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.asked)
    }

    /// Waits for `pause`, or for the end.
    fn rest(&self, pause: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), pause, |state| !state.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Does flushes on a thread of its own. Dropping it does the one that was asked for last.
pub struct LazyFlush {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LazyFlush {
    /// Starts the thread; between two calls of `flush` it rests for `pause`.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(pause: Duration, flush: impl Fn() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let asks = shared.clone();
        let thread = std::thread::Builder::new()
            .name("disk-flush".to_owned())
            .spawn(move || {
                while asks.next() {
                    flush();
                    asks.rest(pause);
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// All that was written until now is to be durable soon. One flush that has not begun does for
    /// all who ask.
    pub fn ask(&self) {
        let mut state = self.shared.lock();
        if !std::mem::replace(&mut state.asked, true) {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for LazyFlush {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread for flushes has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn many_who_ask_within_a_pause_get_one_flush_and_the_end_does_not_wait() {
        let (flushed, flushes) = channel();
        let flush = LazyFlush::start(LONG, move || flushed.send(()).unwrap()).unwrap();
        flush.ask();
        flushes.recv().unwrap();
        for _ in 0..100 {
            flush.ask();
        }
        let soon = flushes.recv_timeout(Duration::from_millis(20));
        assert_eq!(soon, Err(RecvTimeoutError::Timeout));
        drop(flush);
        assert_eq!(flushes.iter().count(), 1);
    }

    #[test]
    fn the_next_flush_comes_after_the_pause_without_being_asked_again() {
        let (flushed, flushes) = channel();
        let pause = Duration::from_millis(1);
        let flush = LazyFlush::start(pause, move || flushed.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            flush.ask();
            flushes.recv().unwrap();
        }
        drop(flush);
        assert_eq!(flushes.iter().count(), 0);
    }
}
