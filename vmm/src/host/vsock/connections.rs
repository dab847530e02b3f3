//! The connections of a guest's sockets: answers packets, makes packets, and knows nothing of
//! sockets of the host, threads and time.
//!
//! ```text
//!  packet ─▶ │             │ ◀─▶ connect, accepted, abort           (a thread with the peers:
//!            │ Connections │ ◀── send, peer_ends, peer_is_deaf       `service`)
//!  first,  ◀─│             │ ──▶ output, forward
//! ```
//!
//! What a guest sends is never trusted: a packet that is not whole or not for the host is ignored
//! and counted; one that does not fit its connection resets it. Everything is bounded: the number
//! of connections, what waits for each peer, and what waits for the guest.
//!
//! Spec: virtio 1.2 §5.10.6.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use super::connection::{BUFFER_SIZE, Connection, Ports, Stage};
use super::packet::{Header, KIND_STREAM, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// The host's context id.
pub const HOST_CID: u64 = 2;
/// Connections at most; a process may usually have 1024 descriptors.
pub const CONNECTIONS_MAX: usize = 512;
/// The host's ports for connections that peers ask for: out of the way of those that services use.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;
/// Bytes in a packet for the guest at most.
const DATA_MAX: usize = 32 * 1024;
/// Packets and bytes that wait for the guest; beyond, nothing more is read from peers.
const QUEUE_PACKETS: usize = 256;
const QUEUE_BYTES: usize = 256 * 1024;
/// Packets that wait for the guest at the very most: a guest that provokes answers and takes none
/// gets no more. An honest one has a few for each connection.
const QUEUE_LIMIT: usize = 8 * CONNECTIONS_MAX;
const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Names a connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VsockCounters {
    /// Packets of the guest that were ignored.
    pub malformed: u64,
    /// Packets for the guest that were dropped, because it provoked too many.
    pub dropped: u64,
    /// Connections that there are now.
    pub connections: usize,
}

/// The connections of one guest.
#[derive(Debug)]
pub struct Connections {
    guest_cid: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Those that exist for the guest.
    ids: BTreeMap<Ports, ConnectionId>,
    next_id: u64,
    next_port: u32,
    /// Packets for the guest.
    queue: VecDeque<Vec<u8>>,
    queue_bytes: usize,
    malformed: u64,
    dropped: u64,
}

impl Connections {
    /// No connections.
    pub const fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            connections: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            next_port: FIRST_PORT,
            queue: VecDeque::new(),
            queue_bytes: 0,
            malformed: 0,
            dropped: 0,
        }
    }

    /// Forgets all connections and packets, as the guest did.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.ids.clear();
        self.queue.clear();
        self.queue_bytes = 0;
    }

    /// What happened so far.
    pub fn counters(&self) -> VsockCounters {
        VsockCounters {
            malformed: self.malformed,
            dropped: self.dropped,
            connections: self.connections.len(),
        }
    }

    /// The connections there are.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.connections
            .iter()
            .map(|(id, connection)| (*id, connection))
    }

    /// A connection; `None` when it is gone.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// A packet of the guest.
    pub fn packet(&mut self, bytes: &[u8]) {
        let Some((header, payload)) = Header::parse(bytes) else {
            self.malformed += 1;
            return;
        };
        let ours = header.source_cid == self.guest_cid && header.target_cid == HOST_CID;
        let (true, Some(operation)) = (ours, Operation::from_number(header.operation)) else {
            self.malformed += 1;
            return;
        };
        let ports = Ports {
            host: header.target_port,
            guest: header.source_port,
        };
        if header.kind != KIND_STREAM {
            if operation != Operation::Reset {
                self.reset(ports, header.kind);
            }
            return;
        }
        match (self.ids.get(&ports).copied(), operation) {
            (None, Operation::Request) => self.asked(ports, &header),
            (None, Operation::Reset) => {}
            (None, _) => self.reset(ports, KIND_STREAM),
            (Some(id), _) => self.known(id, operation, &header, payload),
        }
    }

    /// The guest asks for a connection.
    fn asked(&mut self, ports: Ports, header: &Header) {
        if self.connections.len() >= CONNECTIONS_MAX {
            self.reset(ports, KIND_STREAM);
            return;
        }
        let mut connection = Connection::new(ports, Stage::Connecting);
        connection.learn(header);
        self.insert(connection);
    }

    /// A packet of a connection that there is.
    fn known(&mut self, id: ConnectionId, operation: Operation, header: &Header, payload: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.learn(header);
        let discards = connection.stage == Stage::Closing;
        match (connection.stage, operation) {
            (_, Operation::Reset) => self.detach(id),
            (Stage::Requested, Operation::Response) => connection.stage = Stage::Open,
            (Stage::Open | Stage::Closing, Operation::Data) => {
                let fits = connection.guest_sends && connection.receive(payload);
                if !fits {
                    self.abort(id);
                } else if !connection.peer_receives {
                    self.update(id);
                }
            }
            (Stage::Open | Stage::Closing, Operation::Shutdown) => {
                connection.guest_receives &= header.flags & SHUTDOWN_RECEIVE == 0;
                connection.guest_sends &= header.flags & SHUTDOWN_SEND == 0;
                let done = !connection.guest_receives && !connection.guest_sends;
                if done || discards && !connection.guest_sends {
                    let ports = connection.ports;
                    self.reset(ports, KIND_STREAM);
                    self.detach(id);
                }
            }
            (Stage::Open | Stage::Closing, Operation::CreditUpdate) => {}
            (Stage::Open | Stage::Closing, Operation::CreditRequest) => {
                self.tell(id, Operation::CreditUpdate, 0, &[]);
            }
            // Out of turn.
            _ => self.abort(id),
        }
    }

    /// A peer asks for a connection to the guest's port; `None` when there are too many. The
    /// host's port is the connection's.
    pub fn connect(&mut self, guest_port: u32) -> Option<ConnectionId> {
        let full = self.connections.len() >= CONNECTIONS_MAX || self.queue.len() >= QUEUE_LIMIT;
        if full {
            return None;
        }
        let ports = self.free_ports(guest_port);
        let id = self.insert(Connection::new(ports, Stage::Requested));
        self.tell(id, Operation::Request, 0, &[]);
        Some(id)
    }

    /// There is a peer for the connection that the guest asked for.
    pub fn accepted(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.stage == Stage::Connecting
        {
            connection.stage = Stage::Open;
            self.tell(id, Operation::Response, 0, &[]);
        }
    }

    /// Ends a connection at once; bytes that wait for the peer are lost.
    pub fn abort(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id)
            && connection.stage != Stage::Detached
        {
            self.ids.remove(&connection.ports);
            self.reset(connection.ports, KIND_STREAM);
        }
    }

    /// How many bytes of the peer can go to the guest now. Asks the guest for credit if it has
    /// given none.
    pub fn room(&mut self, id: ConnectionId) -> usize {
        let Some(connection) = self.connections.get_mut(&id) else {
            return 0;
        };
        let takes =
            connection.stage == Stage::Open && connection.guest_receives && connection.peer_sends;
        if !takes || self.queue.len() >= QUEUE_PACKETS || self.queue_bytes >= QUEUE_BYTES {
            return 0;
        }
        let credit = connection.credit() as usize;
        if credit == 0 && !connection.credit_requested {
            connection.credit_requested = true;
            self.tell(id, Operation::CreditRequest, 0, &[]);
        }
        credit.min(DATA_MAX)
    }

    /// Sends bytes of the peer to the guest.
    ///
    /// # Panics
    /// If there is no room for so many.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.stage != Stage::Open || bytes.is_empty() {
            return;
        }
        // The guest may have taken credit back since the bytes were read; they are still sent, as
        // what it has said before holds.
        assert!(bytes.len() <= DATA_MAX, "{} bytes", bytes.len());
        connection.count_sent(bytes.len() as u32);
        self.tell(id, Operation::Data, 0, bytes);
    }

    /// The peer sends no more.
    pub fn peer_ends(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && std::mem::replace(&mut connection.peer_sends, false)
            && connection.stage == Stage::Open
        {
            self.tell(id, Operation::Shutdown, SHUTDOWN_SEND, &[]);
        }
    }

    /// The peer takes no more; what waits for it is lost.
    pub fn peer_is_deaf(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && std::mem::replace(&mut connection.peer_receives, false)
        {
            connection.forward(connection.pending());
            if connection.stage == Stage::Open {
                self.tell(id, Operation::Shutdown, SHUTDOWN_RECEIVE, &[]);
            }
            self.remove_if_done(id);
        }
    }

    /// The peer is gone, both ways; the guest has to confirm it.
    pub fn peer_is_gone(&mut self, id: ConnectionId) {
        match self.connections.get_mut(&id) {
            Some(connection) if connection.stage == Stage::Open => {
                connection.stage = Stage::Closing;
                connection.peer_sends = false;
                connection.peer_receives = false;
                connection.forward(connection.pending());
                self.tell(id, Operation::Shutdown, SHUTDOWN_BOTH, &[]);
            }
            Some(connection) if connection.stage != Stage::Closing => self.abort(id),
            _ => {}
        }
    }

    /// The peer took `count` bytes.
    pub fn forward(&mut self, id: ConnectionId, count: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.forward(count);
            self.update(id);
            self.remove_if_done(id);
        }
    }

    /// Whether packets wait for the guest.
    pub fn has_packets(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The packet that is next for the guest.
    pub fn next_packet(&mut self) -> Option<Vec<u8>> {
        let packet = self.queue.pop_front()?;
        self.queue_bytes -= packet.len();
        Some(packet)
    }

    fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.ids.insert(connection.ports, id);
        self.connections.insert(id, connection);
        id
    }

    /// Ports that no connection has. There are more of them than connections.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let host = self.next_port;
            self.next_port = if host == LAST_PORT {
                FIRST_PORT
            } else {
                host + 1
            };
            let ports = Ports { host, guest };
            if !self.ids.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// The connection does not exist for the guest any more.
    fn detach(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Detached;
            let ports = connection.ports;
            self.ids.remove(&ports);
            self.remove_if_done(id);
        }
    }

    fn remove_if_done(&mut self, id: ConnectionId) {
        let done = |found: &Connection| found.stage == Stage::Detached && found.pending() == 0;
        if self.connections.get(&id).is_some_and(done) {
            self.connections.remove(&id);
        }
    }

    /// Tells the guest how much room there is, if that is due.
    fn update(&mut self, id: ConnectionId) {
        let due = |found: &Connection| found.stage != Stage::Detached && found.update_is_due();
        if self.connections.get(&id).is_some_and(due) {
            self.tell(id, Operation::CreditUpdate, 0, &[]);
        }
    }

    /// Queues a packet of a connection.
    fn tell(&mut self, id: ConnectionId, operation: Operation, flags: u32, payload: &[u8]) {
        let full = self.queue.len() >= QUEUE_LIMIT;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if full {
            self.dropped += 1;
            return;
        }
        let header = Header {
            source_cid: HOST_CID,
            target_cid: self.guest_cid,
            source_port: connection.ports.host,
            target_port: connection.ports.guest,
            len: 0,
            kind: KIND_STREAM,
            operation: operation.number(),
            flags,
            buffer_size: BUFFER_SIZE,
            forwarded: connection.tell(),
        };
        self.push(header.packet(payload));
    }

    /// Queues a reset, which needs no connection.
    fn reset(&mut self, ports: Ports, kind: u16) {
        if self.queue.len() >= QUEUE_LIMIT {
            self.dropped += 1;
            return;
        }
        let header = Header {
            source_cid: HOST_CID,
            target_cid: self.guest_cid,
            source_port: ports.host,
            target_port: ports.guest,
            kind,
            operation: Operation::Reset.number(),
            ..Header::default()
        };
        self.push(header.packet(&[]));
    }

    fn push(&mut self, packet: Vec<u8>) {
        self.queue_bytes += packet.len();
        self.queue.push_back(packet);
    }
}
