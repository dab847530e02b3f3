//! The host side of a virtio socket device: connections between ports of the guest and Unix
//! sockets of the host.
//!
//! ```text
//! host to guest: connect to PATH, say `CONNECT 52\n`; the answer is `OK 1073741824\n`
//! guest to host: port 52 of context id 2 is whoever listens on PATH_52
//! ```
//!
//! `connections` is what the guest sees, without a call of the host; `service` is a thread that
//! moves bytes between it and the sockets. The convention is Firecracker's and Cloud Hypervisor's.
//!
//! When the machine moves, its connections are gone: peers see theirs closed when the host side is
//! dropped, the guest is told by a transport reset.
//!
//! Left out: sequential packets, datagrams.

mod caller;
mod connection;
mod connections;
mod packet;
mod peer;
mod service;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::offer::Offer;
use super::socket::{ListenError, ListeningSocket};
use super::wake::Wake;

use service::{Service, Shared};

pub use connections::VsockCounters;

/// Why the socket device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The listening socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No thread or descriptor is to be had.
    #[error("cannot serve vsock {path}", path = .path.display())]
    Thread {
        /// The listening socket.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
}

struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Closed last, when no client can come any more.
    _socket: ListeningSocket,
}

/// The host side of a virtio socket device.
pub struct VsockHost {
    cid: u64,
    path: PathBuf,
    offer: Offer,
    running: Option<Running>,
}

impl VsockHost {
    /// A host side that is not open yet, for the guest with this context id.
    pub fn new(cid: u64, path: PathBuf, offer: Offer) -> Self {
        Self {
            cid,
            path,
            offer,
            running: None,
        }
    }

    /// A host side like this one that is not open yet, without its connections.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self::new(self.cid, self.path.clone(), self.offer.clone())
    }

    /// Listens on the socket; a second call does nothing.
    ///
    /// # Errors
    /// When the socket cannot be had.
    pub fn activate(&mut self) -> Result<(), VsockError> {
        if self.running.is_some() {
            return Ok(());
        }
        let failed = |source| VsockError::Thread {
            path: self.path.clone(),
            source,
        };
        let socket = ListeningSocket::bind(&self.path)?;
        let listener = socket.listener().try_clone().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let shared = Arc::new(Shared::new(self.cid, Wake::new().map_err(failed)?));
        let offer = self.offer.clone();
        let service = Service::new(shared.clone(), listener, self.path.clone(), offer);
        let thread = std::thread::Builder::new()
            .name("vsock".to_owned())
            .spawn(move || service.run())
            .map_err(failed)?;
        self.running = Some(Running {
            shared,
            thread: Some(thread),
            _socket: socket,
        });
        Ok(())
    }

    /// A packet of the guest: the header of 44 bytes, then its payload. Never waits. Does nothing
    /// while the socket is not open.
    pub fn packet(&self, bytes: &[u8]) {
        if let Some(Running { shared, .. }) = &self.running {
            shared.lock().packet(bytes);
            shared.wake.call();
        }
    }

    /// The driver gave the device up, and with it all connections.
    pub fn reset(&self) {
        if let Some(Running { shared, .. }) = &self.running {
            shared.lock().clear();
            shared.wake.call();
        }
    }

    /// What happened since the socket was opened.
    pub fn counters(&self) -> VsockCounters {
        let running = self.running.as_ref();
        running.map_or_else(VsockCounters::default, |running| {
            running.shared.lock().counters()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.wake.stop();
        // Never waits for long: the thread waits for nothing but calls and sockets.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of vsock panicked");
        }
    }
}
