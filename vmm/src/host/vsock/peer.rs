//! A peer on the host: the socket at the other end of a connection.
//!
//! Moves bytes between the socket and the connection, as many as both take, without waiting and
//! without holding the lock during calls of the host.

use std::io::Error;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::PollFlags;

use super::caller::is_transient;
use super::connection::Stage;
use super::connections::ConnectionId;
use super::service::{CLOSE_TIMEOUT, Shared};
use crate::host::poll;

/// Bytes that are moved at a time.
const CHUNK_SIZE: usize = 64 * 1024;

/// A peer.
#[derive(Debug)]
pub struct Peer {
    id: ConnectionId,
    /// None once it is gone and the guest has to confirm it.
    stream: Option<UnixStream>,
    /// Bytes that came right behind the request for the connection.
    early: Vec<u8>,
    /// What to say once the guest has accepted.
    greeting: Option<String>,
    /// Until when the guest has to answer.
    deadline: Option<Instant>,
    /// Whether the socket gives no more bytes, and whether it takes no more.
    read_over: bool,
    write_over: bool,
}

impl Peer {
    /// The peer that the guest asked for.
    pub const fn called(id: ConnectionId, stream: UnixStream) -> Self {
        Self {
            id,
            stream: Some(stream),
            early: Vec::new(),
            greeting: None,
            deadline: None,
            read_over: false,
            write_over: false,
        }
    }

    /// A peer that asked for the guest, which has until `deadline` to answer.
    pub fn caller(
        id: ConnectionId,
        stream: UnixStream,
        port: u32,
        early: Vec<u8>,
        deadline: Instant,
    ) -> Self {
        Self {
            early,
            greeting: Some(format!("OK {port}\n")),
            deadline: Some(deadline),
            ..Self::called(id, stream)
        }
    }

    /// Its connection.
    pub const fn id(&self) -> ConnectionId {
        self.id
    }

    /// Its socket.
    pub const fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// When it has to be looked after again, whatever happens.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What the socket is waited for; `None` for nothing at all. A socket whose peer has gone is
    /// ready in any case, so one must not wait for it before something can be done about it.
    pub fn interest(&self, shared: &Shared) -> Option<PollFlags> {
        self.stream.as_ref()?;
        let mut connections = shared.lock();
        let pending = connections.get(self.id)?.pending() > 0;
        let mut flags = PollFlags::empty();
        if pending && !self.write_over {
            flags |= PollFlags::OUT;
        }
        if !self.read_over && connections.room(self.id) > 0 {
            flags |= PollFlags::IN;
        }
        let stage = connections.get(self.id)?.stage;
        let hang_up_is_news = self.read_over || stage == Stage::Requested;
        (!flags.is_empty() || hang_up_is_news).then_some(flags)
    }

    /// Does what the connection's stage asks for. Says whether there is more to do at once.
    pub fn follow(&mut self, shared: &Shared, now: Instant) -> bool {
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        let Some((stage, hears_end, is_refused)) = shared.lock().get(self.id).map(|connection| {
            let all_taken = !connection.guest_sends && connection.pending() == 0;
            let refused = !connection.guest_receives;
            (connection.stage, all_taken, refused)
        }) else {
            return false;
        };
        if late && matches!(stage, Stage::Requested | Stage::Closing) {
            shared.lock().abort(self.id);
            return false;
        }
        if stage != Stage::Open {
            return false;
        }
        if let Some(greeting) = self.greeting.take() {
            self.deadline = None;
            let sent = self
                .stream
                .as_ref()
                .map(|to| poll::send_now(to, greeting.as_bytes()));
            // Nothing was sent before, so there is room for all of it, or nobody there.
            if !matches!(sent, Some(Ok(count)) if count == greeting.len()) {
                shared.lock().abort(self.id);
                return false;
            }
        }
        if is_refused && !self.read_over {
            self.early.clear();
            self.shut_down(Shutdown::Read);
            self.end_reading(shared);
        }
        if hears_end && !self.write_over {
            self.shut_down(Shutdown::Write);
            self.write_over = true;
        }
        self.finish(shared, now);
        self.send_early(shared)
    }

    /// The socket is ready for `flags`. `buffer` is for passing use.
    pub fn serve(&mut self, shared: &Shared, flags: PollFlags, buffer: &mut [u8], now: Instant) {
        let hung_up = flags.intersects(PollFlags::HUP | PollFlags::ERR);
        if hung_up && self.greeting.is_some() {
            // It did not wait for the guest to accept.
            shared.lock().abort(self.id);
            return;
        }
        if flags.contains(PollFlags::OUT) && !self.write_over {
            self.write(shared);
        }
        if !self.read_over {
            self.read(shared, buffer);
        } else if hung_up {
            self.write_over = true;
        }
        self.finish(shared, now);
    }

    fn read(&mut self, shared: &Shared, buffer: &mut [u8]) {
        let room = if self.early.is_empty() {
            shared.lock().room(self.id)
        } else {
            0
        };
        let limit = room.min(buffer.len());
        let Some(stream) = self.stream.as_ref().filter(|_| limit > 0) else {
            return;
        };
        match poll::receive_now(stream, &mut buffer[..limit]) {
            Ok(0) => self.end_reading(shared),
            Ok(count) => shared.lock().send(self.id, &buffer[..count]),
            Err(error) if is_transient(&error) => {}
            Err(_) => {
                self.write_over = true;
                self.end_reading(shared);
            }
        }
    }

    fn write(&mut self, shared: &Shared) {
        let bytes = shared
            .lock()
            .get(self.id)
            .map(|connection| connection.output(CHUNK_SIZE))
            .unwrap_or_default();
        let Some(stream) = self.stream.as_ref().filter(|_| !bytes.is_empty()) else {
            return;
        };
        match poll::send_now(stream, &bytes) {
            Ok(count) => shared.lock().forward(self.id, count),
            Err(error) if is_transient(&error) => {}
            // What the peer sent before it went can still be read.
            Err(_) => {
                self.write_over = true;
                shared.lock().peer_is_deaf(self.id);
            }
        }
    }

    /// Sends what came behind the request. Says whether more of it can be sent at once.
    fn send_early(&mut self, shared: &Shared) -> bool {
        if self.early.is_empty() {
            return false;
        }
        let mut connections = shared.lock();
        let room = connections.room(self.id).min(self.early.len());
        let bytes: Vec<u8> = self.early.drain(..room).collect();
        connections.send(self.id, &bytes);
        room > 0
    }

    fn end_reading(&mut self, shared: &Shared) {
        self.read_over = true;
        shared.lock().peer_ends(self.id);
    }

    fn shut_down(&self, how: Shutdown) {
        let done = self.stream.as_ref().map_or(Ok(()), |to| to.shutdown(how));
        if let Err(error) = done {
            note("a peer has gone", &error);
        }
    }

    /// Closes the socket once it is over both ways.
    fn finish(&mut self, shared: &Shared, now: Instant) {
        if self.read_over && self.write_over && self.stream.take().is_some() {
            shared.lock().peer_is_gone(self.id);
            self.deadline = Some(now + CLOSE_TIMEOUT);
        }
    }
}

/// Says that a thing of the host failed for a peer, without making much of it: a guest, or anybody
/// who may connect, decides how often.
pub fn note(what: &str, error: &Error) {
    log::debug!("vsock: {what}: {error}");
}
