//! One connection between a port of the guest and a peer on the host: its stage and its credit.
//!
//! ```text
//!  guest asks ─▶ Connecting ─ peer is there ─▶ Open ◀─ guest accepts ─ Requested ◀─ peer asks
//!
//!  Open ─ guest has ended both ways, or resets ─▶ Detached ─ peer has all bytes ─▶ gone
//!  Open ─ peer has ended both ways ─▶ Closing ─ guest resets, or too late ─▶ gone
//! ```
//!
//! A detached connection does not exist for the guest any more, which may use its ports again.
//!
//! Credit: each side tells the size of its receive buffer and how many bytes left it so far. What
//! is under way may never be more than the buffer. Counts wrap at 2^32.
//!
//! Spec: virtio 1.2 §5.10.6.3.

use std::collections::VecDeque;

use super::packet::Header;

/// Bytes of the guest that wait for the peer at most: the buffer size that the guest is told.
pub const BUFFER_SIZE: u32 = 64 * 1024;
/// So many bytes have to leave the buffer before the guest is told without asking.
const UPDATE_STEP: u32 = BUFFER_SIZE / 4;

/// The ports of a connection, which name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The host's port.
    pub host: u32,
    /// The guest's port.
    pub guest: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The guest asked; nobody on the host answered yet.
    Connecting,
    /// A peer asked; the guest did not answer yet.
    Requested,
    /// Bytes pass.
    Open,
    /// The peer is gone; the guest did not confirm it yet.
    Closing,
    /// The guest is done; the peer is still to get bytes.
    Detached,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its ports.
    pub ports: Ports,
    /// How far it is.
    pub stage: Stage,
    /// Whether the guest may send more.
    pub guest_sends: bool,
    /// Whether the guest takes more.
    pub guest_receives: bool,
    /// Whether the peer may send more.
    pub peer_sends: bool,
    /// Whether the peer takes more.
    pub peer_receives: bool,
    /// Whether the guest was asked for credit since it last told of it.
    pub credit_requested: bool,
    /// Bytes for the peer.
    outbox: VecDeque<u8>,
    /// Bytes that left the outbox so far, and what the guest knows of that.
    forwarded: u32,
    told: u32,
    /// Bytes that were sent to the guest so far, and what it says of its buffer.
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
}

impl Connection {
    /// A connection about which nothing is known but what `stage` says.
    pub const fn new(ports: Ports, stage: Stage) -> Self {
        Self {
            ports,
            stage,
            guest_sends: true,
            guest_receives: true,
            peer_sends: true,
            peer_receives: true,
            credit_requested: false,
            outbox: VecDeque::new(),
            forwarded: 0,
            told: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
        }
    }

    /// Learns what a packet says of the guest's buffer.
    pub const fn learn(&mut self, header: &Header) {
        self.guest_buffer = header.buffer_size;
        self.guest_forwarded = header.forwarded;
        self.credit_requested = false;
    }

    /// Bytes that the guest has room for; none if what it says makes no sense.
    pub const fn credit(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_buffer.saturating_sub(under_way)
    }

    /// Bytes went to the guest.
    pub const fn count_sent(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// Takes bytes for the peer; `false` if the guest had no credit for them.
    pub fn receive(&mut self, bytes: &[u8]) -> bool {
        if self.outbox.len() + bytes.len() > BUFFER_SIZE as usize {
            return false;
        }
        self.outbox.extend(bytes);
        if !self.peer_receives {
            self.forward(bytes.len());
        }
        true
    }

    /// Bytes that wait for the peer.
    pub fn pending(&self) -> usize {
        self.outbox.len()
    }

    /// Copies the first bytes that wait for the peer.
    pub fn output(&self, limit: usize) -> Vec<u8> {
        let (first, second) = self.outbox.as_slices();
        let first = &first[..first.len().min(limit)];
        let second = &second[..second.len().min(limit - first.len())];
        [first, second].concat()
    }

    /// The peer took the first `count` bytes, or they are lost.
    pub fn forward(&mut self, count: usize) {
        let count = count.min(self.outbox.len());
        self.outbox.drain(..count);
        self.forwarded = self.forwarded.wrapping_add(count as u32);
    }

    /// Whether the guest should be told how much room there is.
    pub const fn update_is_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= UPDATE_STEP
    }

    /// Bytes that left the buffer so far, which the guest is about to be told.
    pub const fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.told
    }
}
