//! The thread that serves the sockets of a guest's connections.
//!
//! ```text
//! listening socket ─▶ caller ─ CONNECT port ─▶ peer ◀─ socket PATH_PORT ◀─ request of the guest
//! ```
//!
//! It follows what [`Connections`] says, offers the packets that are queued there, and waits for
//! sockets only as far as bytes can go somewhere. It never waits for anything else: the machine's
//! thread shares the lock.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::caller::{CALL_TIMEOUT, Call, Caller, is_transient};
use super::connection::Stage;
use super::connections::{ConnectionId, Connections};
use super::peer::{Peer, note};
use crate::host::offer::{Offer, RETRY_INTERVAL};
use crate::host::poll;
use crate::host::wake::Wake;

/// How long the guest may take to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the guest may take to confirm that a connection is closed.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the thread waits for something before it looks around, which it need not.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to leave the listening socket alone when no descriptor was to be had.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(100);
/// Clients that are still to say what they want at most.
const CALLERS_MAX: usize = 64;
/// Bytes that are read at a time at most.
const BUFFER_SIZE: usize = 64 * 1024;

/// What the thread shares with the host side, and so with the machine's thread.
#[derive(Debug)]
pub struct Shared {
    connections: Mutex<Connections>,
    /// Called when there is something to do.
    pub wake: Wake,
}

impl Shared {
    /// No connections.
    pub const fn new(guest_cid: u64, wake: Wake) -> Self {
        Self {
            connections: Mutex::new(Connections::new(guest_cid)),
            wake,
        }
    }

    /// The connections. Nobody keeps them during a call of the host.
    pub fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread waited for.
#[derive(Clone, Copy, Debug)]
enum Waited {
    Wake,
    Listener,
    Caller(usize),
    Peer(ConnectionId),
}

/// What the thread works with.
pub struct Service {
    shared: Arc<Shared>,
    listener: UnixListener,
    /// The listening socket's path; those of the guest's targets begin with it.
    path: PathBuf,
    offer: Offer,
    callers: Vec<Caller>,
    peers: BTreeMap<ConnectionId, Peer>,
    /// A packet that the machine did not take yet.
    held: Option<VirtioInput>,
    accept_after: Instant,
    buffer: Vec<u8>,
}

impl Service {
    /// A thread's work that has not begun. `listener` must not wait.
    pub fn new(shared: Arc<Shared>, listener: UnixListener, path: PathBuf, offer: Offer) -> Self {
        Self {
            shared,
            listener,
            path,
            offer,
            callers: Vec::new(),
            peers: BTreeMap::new(),
            held: None,
            accept_after: Instant::now(),
            buffer: vec![0; BUFFER_SIZE],
        }
    }

    /// Serves until told to stop. All sockets are closed at the end.
    pub fn run(mut self) {
        while !self.shared.wake.is_stopped() {
            if let Err(error) = self.turn() {
                log::error!(
                    "vsock {} is not served any more: {error}",
                    self.path.display()
                );
                self.shared.lock().clear();
                return;
            }
        }
    }

    fn turn(&mut self) -> Result<(), Error> {
        self.shared.wake.clear()?;
        let now = Instant::now();
        self.callers.retain(|caller| caller.deadline > now);
        let more = self.follow(now);
        let refused = !self.offer_packets();
        let ready = self.wait(now, more, refused)?;
        let now = Instant::now();
        let mut calls = Vec::new();
        for (waited, flags) in ready {
            match waited {
                Waited::Wake => {}
                Waited::Listener => self.accept(now),
                Waited::Caller(index) => calls.push(index),
                Waited::Peer(id) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.serve(&self.shared, flags, &mut self.buffer, now);
                    }
                }
            }
        }
        // From the last, because those that are done leave the list.
        for index in calls.into_iter().rev() {
            self.hear(index, now);
        }
        Ok(())
    }

    /// Does what the connections' stages ask for. Says whether there is more to do at once.
    fn follow(&mut self, now: Instant) -> bool {
        let wanted: Vec<(ConnectionId, u32)> = self
            .shared
            .lock()
            .iter()
            .filter(|(_, connection)| connection.stage == Stage::Connecting)
            .map(|(id, connection)| (id, connection.ports.host))
            .collect();
        for (id, port) in wanted {
            match reach(&self.path, port) {
                Ok(stream) => {
                    self.shared.lock().accepted(id);
                    self.peers.insert(id, Peer::called(id, stream));
                }
                Err(error) => {
                    note("nobody takes a connection of the guest", &error);
                    self.shared.lock().abort(id);
                }
            }
        }
        let mut more = false;
        for peer in self.peers.values_mut() {
            more |= peer.follow(&self.shared, now);
        }
        let connections = self.shared.lock();
        self.peers.retain(|id, _| connections.get(*id).is_some());
        more
    }

    /// Offers what is queued for the guest; `false` if the machine does not take all of it.
    fn offer_packets(&mut self) -> bool {
        loop {
            if self.held.is_none() {
                let packet = self.shared.lock().next_packet();
                self.held = packet.map(|packet| VirtioInput::VsockReceive(Payload::from(packet)));
            }
            let Some(held) = &self.held else {
                return true;
            };
            if !(self.offer)(held.clone()) {
                return false;
            }
            self.held = None;
        }
    }

    /// Waits until there is something to do. Says what is ready.
    fn wait(
        &self,
        now: Instant,
        more: bool,
        refused: bool,
    ) -> Result<Vec<(Waited, PollFlags)>, Error> {
        let mut waited = vec![Waited::Wake];
        let mut entries = vec![entry(self.shared.wake.as_fd(), PollFlags::IN)];
        if now >= self.accept_after {
            waited.push(Waited::Listener);
            entries.push(entry(self.listener.as_fd(), PollFlags::IN));
        }
        for (index, caller) in self.callers.iter().enumerate() {
            waited.push(Waited::Caller(index));
            entries.push(entry(caller.stream.as_fd(), PollFlags::IN));
        }
        for peer in self.peers.values() {
            if let (Some(stream), Some(flags)) = (peer.stream(), peer.interest(&self.shared)) {
                waited.push(Waited::Peer(peer.id()));
                entries.push(entry(stream.as_fd(), flags));
            }
        }
        let timeout = self.timeout(now, more, refused);
        poll::wait(&mut entries, timeout)?;
        let ready = waited
            .into_iter()
            .zip(entries)
            .map(|(waited, entry)| (waited, entry.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect();
        Ok(ready)
    }

    fn timeout(&self, now: Instant, more: bool, refused: bool) -> Duration {
        if refused {
            return RETRY_INTERVAL;
        }
        // What is asked of the guest while interests are gathered is queued now.
        if more || self.shared.lock().has_packets() {
            return Duration::ZERO;
        }
        let callers = self.callers.iter().map(|caller| caller.deadline);
        let peers = self.peers.values().filter_map(Peer::deadline);
        let accept = (now < self.accept_after).then_some(self.accept_after);
        callers
            .chain(peers)
            .chain(accept)
            .map(|deadline| deadline.saturating_duration_since(now))
            .fold(POLL_TIMEOUT, Duration::min)
    }

    fn accept(&mut self, now: Instant) {
        match self.listener.accept() {
            // Dropping it tells the client that there are too many.
            Ok(_) if self.callers.len() >= CALLERS_MAX => {}
            Ok((stream, _)) => self.callers.push(Caller::new(stream, now + CALL_TIMEOUT)),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                note("cannot accept a client", &error);
                self.accept_after = now + ACCEPT_INTERVAL;
            }
        }
    }

    /// A client that has not named its port has sent something.
    fn hear(&mut self, index: usize, now: Instant) {
        let call = self.callers[index].listen();
        if call == Call::Incomplete {
            return;
        }
        let caller = self.callers.swap_remove(index);
        let Call::Port(port, early) = call else {
            return;
        };
        let mut connections = self.shared.lock();
        let Some(id) = connections.connect(port) else {
            return;
        };
        let host_port = connections.get(id).map_or(0, |made| made.ports.host);
        drop(connections);
        let deadline = now + ANSWER_TIMEOUT;
        let peer = Peer::caller(id, caller.stream, host_port, early, deadline);
        self.peers.insert(id, peer);
    }
}

fn entry(fd: BorrowedFd<'_>, flags: PollFlags) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, flags)
}

/// Connects to the socket that takes the guest's connections to `port`, without waiting.
fn reach(path: &Path, port: u32) -> Result<UnixStream, Error> {
    let mut path = OsString::from(path);
    path.push(format!("_{port}"));
    let address = SocketAddrUnix::new(&*path)?;
    // Not waiting, because a service that accepts nobody must not hold up the others.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address).map_err(|error| {
        let error = Error::from(error);
        if error.kind() == ErrorKind::WouldBlock {
            Error::new(ErrorKind::WouldBlock, "the service accepts nobody")
        } else {
            error
        }
    })?;
    Ok(UnixStream::from(socket))
}
