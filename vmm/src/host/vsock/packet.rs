//! Packets of virtio sockets: the header of 44 bytes, little-endian, and what follows it.
//!
//! ```text
//!  0 source cid (8) | 8 target cid (8) | 16 source port (4) | 20 target port (4) | 24 len (4)
//! 28 kind (2) | 30 operation (2) | 32 flags (4) | 36 buffer size (4) | 40 forwarded (4)
//! ```
//!
//! Spec: virtio 1.2 §5.10.6.

use devices::virtio::vsock::{VSOCK_HEADER_SIZE, VSOCK_PACKET_MAX};

/// The kind of a packet that belongs to a stream.
pub const KIND_STREAM: u16 = 1;
/// Flag of a shutdown: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of a shutdown: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks for a connection.
    Request,
    /// Accepts one.
    Response,
    /// Refuses or ends one.
    Reset,
    /// Says that no more is received or sent.
    Shutdown,
    /// Carries bytes.
    Data,
    /// Tells how much room there is.
    CreditUpdate,
    /// Asks how much room there is.
    CreditRequest,
}

impl Operation {
    const ALL: [(u16, Self); 7] = [
        (1, Self::Request),
        (2, Self::Response),
        (3, Self::Reset),
        (4, Self::Shutdown),
        (5, Self::Data),
        (6, Self::CreditUpdate),
        (7, Self::CreditRequest),
    ];

    /// The operation with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == number);
        found.map(|(_, operation)| *operation)
    }

    /// Its number.
    pub fn number(self) -> u16 {
        let found = Self::ALL.iter().find(|(_, known)| *known == self);
        found.map_or(0, |(number, _)| *number)
    }
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The context id of the sender.
    pub source_cid: u64,
    /// The context id of the receiver.
    pub target_cid: u64,
    /// The sender's port.
    pub source_port: u32,
    /// The receiver's port.
    pub target_port: u32,
    /// Bytes that follow the header.
    pub len: u32,
    /// Stream or other.
    pub kind: u16,
    /// The number of the operation.
    pub operation: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// The size of the sender's receive buffer.
    pub buffer_size: u32,
    /// How many bytes left that buffer so far, modulo 2^32.
    pub forwarded: u32,
}

impl Header {
    /// Takes a packet apart; `None` if it is not exactly a header and the bytes that it tells of.
    pub fn parse(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = packet.split_at_checked(VSOCK_HEADER_SIZE)?;
        let header = Self {
            source_cid: u64::from_le_bytes(field(head, 0)),
            target_cid: u64::from_le_bytes(field(head, 8)),
            source_port: u32::from_le_bytes(field(head, 16)),
            target_port: u32::from_le_bytes(field(head, 20)),
            len: u32::from_le_bytes(field(head, 24)),
            kind: u16::from_le_bytes(field(head, 28)),
            operation: u16::from_le_bytes(field(head, 30)),
            flags: u32::from_le_bytes(field(head, 32)),
            buffer_size: u32::from_le_bytes(field(head, 36)),
            forwarded: u32::from_le_bytes(field(head, 40)),
        };
        let whole = packet.len() <= VSOCK_PACKET_MAX && payload.len() == header.len as usize;
        whole.then_some((header, payload))
    }

    /// The packet with this header and `payload`, whose length replaces the header's.
    ///
    /// # Panics
    /// If there are more bytes than a packet can have.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() <= VSOCK_PACKET_MAX - VSOCK_HEADER_SIZE);
        let mut packet = Vec::with_capacity(VSOCK_HEADER_SIZE + payload.len());
        packet.extend(self.source_cid.to_le_bytes());
        packet.extend(self.target_cid.to_le_bytes());
        packet.extend(self.source_port.to_le_bytes());
        packet.extend(self.target_port.to_le_bytes());
        packet.extend((payload.len() as u32).to_le_bytes());
        packet.extend(self.kind.to_le_bytes());
        packet.extend(self.operation.to_le_bytes());
        packet.extend(self.flags.to_le_bytes());
        packet.extend(self.buffer_size.to_le_bytes());
        packet.extend(self.forwarded.to_le_bytes());
        packet.extend(payload);
        packet
    }
}

/// The bytes of `head` from `offset` on, which the offsets above make sure are there.
fn field<const SIZE: usize>(head: &[u8], offset: usize) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes.copy_from_slice(&head[offset..offset + SIZE]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_and_wrong_lengths_are_refused() {
        let header = Header {
            source_cid: 3,
            target_cid: 2,
            source_port: 1024,
            target_port: 0x8000_0001,
            len: 5,
            kind: KIND_STREAM,
            operation: Operation::Data.number(),
            flags: 7,
            buffer_size: 1 << 18,
            forwarded: u32::MAX,
        };
        let packet = header.packet(b"hello");
        // The offset of the operation, and the number of `VIRTIO_VSOCK_OP_RW`.
        assert_eq!(packet[30..32], [5, 0]);
        assert_eq!(Header::parse(&packet), Some((header, &b"hello"[..])));
        for wrong in [
            &packet[..43],
            &packet[..48],
            &[&packet[..], &[0]].concat(),
            &[],
        ] {
            assert_eq!(Header::parse(wrong), None);
        }
        for (number, operation) in Operation::ALL {
            assert_eq!(Operation::from_number(number), Some(operation));
            assert_eq!(operation.number(), number);
        }
        assert_eq!(
            (Operation::from_number(0), Operation::from_number(8)),
            (None, None)
        );
    }
}
