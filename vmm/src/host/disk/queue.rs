//! Carries out requests beside the machine, so that the guest does not wait for the host: by the
//! kernel's `io_uring` where image and host have it, or else on threads.
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

use std::io;
use std::sync::Arc;

use devices::virtio::block::{BlockIoError, BlockRequest};
use devices::virtio::payload::Payload;

use super::DiskImage;
use super::ring::Ring;
use super::threads::Threads;
use crate::vm::Permit;

/// Requests carried out at the same time without a ring. Enough to keep a disk busy; a flush blocks
/// one of them.
const THREADS: usize = 4;

/// Takes the number of a request and what came of it. Called on one of the queue's threads, once
/// for each request; must not wait for the queue.
pub type Done = Arc<dyn Fn(u64, Result<Payload, BlockIoError>) + Send + Sync>;

/// Something to be done.
pub(super) enum Work {
    /// A request.
    Request(BlockRequest),
    /// What no request may run beside.
    Alone(Box<dyn FnOnce() + Send>),
}

/// How it is done.
enum Engine {
    Threads(Threads),
    Ring(Ring),
}

/// The requests of one disk. Dropping it waits until all of them are completed, those that may not
/// be carried out any more by an error, and closes the image if nobody else has it.
pub struct DiskQueue {
    engine: Engine,
}

impl DiskQueue {
    /// A queue for an image that nobody else has.
    ///
    /// # Errors
    /// The host has no thread for us.
    pub fn start(image: Arc<dyn DiskImage>, done: Done) -> io::Result<Self> {
        Self::start_under(image, done, Permit::unlimited())
    }

    /// A queue; each change of the contents asks `permit` first, and waits for it.
    ///
    /// # Errors
    /// The host has no thread for us.
    pub fn start_under(image: Arc<dyn DiskImage>, done: Done, permit: Permit) -> io::Result<Self> {
        let ring = image.ring_file().map(|file| {
            let (image, done, permit) = (image.clone(), done.clone(), permit.clone());
            Ring::start(file?, image, done, permit)
        });
        let engine = match ring {
            Some(Ok(ring)) => Engine::Ring(ring),
            None => Engine::Threads(Threads::start(THREADS, image, done, permit)?),
            Some(Err(error)) => {
                // Old or careful hosts have none.
                let path = image.failures().path().display();
                log::info!("disk {path} is served by threads: no io_uring: {error}");
                Engine::Threads(Threads::start(THREADS, image, done, permit)?)
            }
        };
        Ok(Self { engine })
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
        match &self.engine {
            Engine::Threads(threads) => threads.discard(),
            Engine::Ring(ring) => ring.discard(),
        }
    }

    fn push(&self, work: Work) {
        match &self.engine {
            Engine::Threads(threads) => threads.push(work),
            Engine::Ring(ring) => ring.push(work),
        }
    }

    /// Whether the kernel carries out what it can by itself.
    #[cfg(test)]
    pub(super) fn is_ring(&self) -> bool {
        matches!(self.engine, Engine::Ring(_))
    }
}
