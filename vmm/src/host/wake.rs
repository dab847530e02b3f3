//! Wakes a thread that waits for descriptors, or tells it to end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::poll;

/// A descriptor that can be read once somebody called, until it is cleared.
#[derive(Debug)]
pub struct Wake {
    event: OwnedFd,
    stopped: AtomicBool,
}

impl Wake {
    /// One that nobody called.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            event: eventfd(0, flags)?,
            stopped: AtomicBool::new(false),
        })
    }

    /// Wakes the thread.
    pub fn call(&self) {
        match rustix::io::write(&self.event, &1_u64.to_ne_bytes()) {
            // The counter is full: the thread has been called often enough.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => log::error!("a thread of the host side cannot be woken: {error}"),
        }
    }

    /// Wakes the thread for good: it shall end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.call();
    }

    /// Whether the thread shall end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Forgets calls. What they were about has to be looked for after this.
    ///
    /// # Errors
    /// What the host says.
    pub fn clear(&self) -> std::io::Result<()> {
        match rustix::io::read(&self.event, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for `timeout`, or until told to stop. Other calls do not end the wait early.
    ///
    /// # Errors
    /// What the host says.
    pub fn wait(&self, timeout: Duration) -> std::io::Result<()> {
        if poll::wait_readable(self.as_fd(), timeout)? && !self.is_stopped() {
            // Not cleared, because the thread still has to see it; so time has to pass otherwise.
            std::thread::sleep(timeout);
        }
        Ok(())
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
