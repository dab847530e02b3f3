//! Whether a host side that has left a disk still works on its image.
//!
//! When a machine is handed over, requests that its disks' queues have begun go on for as long as
//! the host takes, and the machine's thread must not wait for that: its peer would miss it. So the
//! queue ends on a thread of its own, and whoever works on the image next waits until it has.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Shared by the two users of an image, of whom one follows the other.
#[derive(Debug, Clone, Default)]
pub struct Quiet(Arc<(Mutex<bool>, Condvar)>);

impl Quiet {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends `user` on another thread; until it has ended, [`Quiet::wait`] waits.
    pub fn end<T: Send + 'static>(&self, user: T) {
        *self.lock() = true;
        let quiet = self.clone();
        let ended = std::thread::Builder::new()
            .name("disk-end".to_owned())
            .spawn(move || {
                drop(user);
                *quiet.lock() = false;
                quiet.0.1.notify_all();
            });
        if let Err(error) = ended {
            // The closure was dropped here, and the user with it.
            log::warn!("a disk's queue was waited for: {error}");
            *self.lock() = false;
        }
    }

    /// Waits until nobody else works on the image.
    pub fn wait(&self) {
        let mut busy = self.lock();
        while *busy {
            busy = self.0.1.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Slow(mpsc::Receiver<()>, Arc<Mutex<bool>>);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.recv().unwrap();
            *self.1.lock().unwrap() = true;
        }
    }

    #[test]
    fn whoever_comes_next_waits_and_whoever_leaves_does_not() {
        let (go_on, wait) = mpsc::channel();
        let ended = Arc::new(Mutex::new(false));
        let quiet = Quiet::default();
        quiet.wait();
        quiet.end(Slow(wait, ended.clone()));
        assert!(!*ended.lock().unwrap());
        go_on.send(()).unwrap();
        quiet.wait();
        assert!(*ended.lock().unwrap());
    }
}
