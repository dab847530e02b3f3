//! Accepts clients, at most ten at a time, each on a thread of its own.
//!
//! Stopping waits for answers under way: the answer to the call that ends the monitor is one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::connection;
use super::response;
use super::{ApiSocket, Requests};

/// Most clients at a time.
const CONNECTION_LIMIT: usize = 10;
/// How long stopping waits for answers under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to receive an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, so that a lack of descriptors does not take a whole CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the API server")]
pub struct ServerError(#[from] io::Error);

/// The API server. Dropping it stops it.
pub struct ApiServer {
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<ApiSocket>>,
}

#[derive(Default)]
struct Shared {
    clients: Mutex<Clients>,
    busy: Busy,
}

#[derive(Default)]
struct Clients {
    streams: BTreeMap<u64, UnixStream>,
    next: u64,
    stopping: bool,
}

/// Counts the requests that are being answered.
#[derive(Default)]
pub(super) struct Busy {
    count: Mutex<usize>,
    idle: Condvar,
}

/// A request that is being answered.
pub(super) struct Working<'a>(&'a Busy);

impl Busy {
    pub(super) fn begin(&self) -> Working<'_> {
        *lock(&self.count) += 1;
        Working(self)
    }

    /// Waits until nothing is being answered; false when that takes too long.
    fn wait(&self, timeout: Duration) -> bool {
        let guard = lock(&self.count);
        let waited = self
            .idle
            .wait_timeout_while(guard, timeout, |count| *count > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.idle.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ApiServer {
    /// Serves `requests` on `socket`.
    ///
    /// # Errors
    /// The host has no thread or descriptor left.
    pub fn start(socket: ApiSocket, requests: Arc<dyn Requests>) -> Result<Self, ServerError> {
        socket.listener.set_nonblocking(true)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(io::Error::from)?);
        let shared = Arc::new(Shared::default());
        let (thread_wake, thread_shared) = (wake.clone(), shared.clone());
        let acceptor = thread::Builder::new()
            .name("http-server".to_owned())
            .spawn(move || {
                accept_all(&socket, &thread_wake, &thread_shared, &requests);
                socket
            })?;
        Ok(Self {
            wake,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// Takes no more clients, lets answers under way out, closes all connections and removes the
    /// socket. A request that takes longer than a few seconds is not waited for.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        lock(&self.shared.clients).stopping = true;
        if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            log::error!("cannot wake the API server: {error}");
            return;
        }
        match acceptor.join() {
            Ok(socket) => drop(socket),
            Err(_) => log::error!("the API server's thread panicked"),
        }
        if !self.shared.busy.wait(STOP_TIMEOUT) {
            log::warn!("an API request is still under way; its client gets no answer");
        }
        for stream in lock(&self.shared.clients).streams.values() {
            if let Err(error) = stream.shutdown(Shutdown::Both) {
                log::debug!("API: cannot close a connection: {error}");
            }
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop_now();
    }
}

fn accept_all(
    socket: &ApiSocket,
    wake: &OwnedFd,
    shared: &Arc<Shared>,
    requests: &Arc<dyn Requests>,
) {
    loop {
        let mut ready = [
            PollFd::new(&socket.listener, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return log::error!("API: cannot wait for clients: {error}"),
        }
        if lock(&shared.clients).stopping {
            return;
        }
        match socket.listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = take(stream, shared, requests) {
                    log::warn!("API: cannot serve a client: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log::warn!("API: cannot accept a client: {error}");
                thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

/// Serves a new client on a thread of its own, or tells it that there are too many.
fn take(
    mut stream: UnixStream,
    shared: &Arc<Shared>,
    requests: &Arc<dyn Requests>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let id = {
        let mut clients = lock(&shared.clients);
        if clients.streams.len() >= CONNECTION_LIMIT {
            drop(clients);
            return stream.write_all(&response::too_many_connections());
        }
        let id = clients.next;
        clients.next += 1;
        clients.streams.insert(id, stream.try_clone()?);
        id
    };
    let (thread_shared, requests) = (shared.clone(), requests.clone());
    let started = Instant::now();
    let served = thread::Builder::new()
        .name("http-client".to_owned())
        .spawn(move || {
            connection::serve(&stream, requests.as_ref(), &thread_shared.busy);
            lock(&thread_shared.clients).streams.remove(&id);
            // The entry's duplicate went first, so this is what closes the connection.
            drop(stream);
            log::trace!("API: a client stayed {:?}", started.elapsed());
        });
    if let Err(error) = served {
        lock(&shared.clients).streams.remove(&id);
        return Err(error);
    }
    Ok(())
}
