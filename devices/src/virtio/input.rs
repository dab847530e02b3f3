//! What enters a virtio device at a logical time.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dma::RamError;

use super::block::BlockIoError;
use super::fault::Fault;
use super::payload::Payload;

/// An input to a virtio device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtioInput {
    /// A request of a disk is done: the bytes that a read found, or nothing, or an error.
    BlockCompletion {
        /// The request.
        id: u64,
        /// How it ended.
        result: Result<Payload, BlockIoError>,
    },
    /// A disk has another size.
    BlockResize {
        /// In units of 512 bytes.
        sectors: u64,
    },
    /// A frame arrived: 12 bytes of `virtio_net_hdr_v1`, then the frame.
    NetReceive(Payload),
    /// The link came up or went down.
    NetLink {
        /// Whether it is up.
        up: bool,
    },
    /// The guest shall announce itself on the network.
    NetAnnounce,
    /// Bytes arrived at the console.
    ConsoleInput(Payload),
    /// The terminal has another size.
    ConsoleResize {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Random bytes for a request.
    Entropy {
        /// The request.
        id: u64,
        /// At least one byte; those beyond what was asked for are not used.
        bytes: Payload,
    },
    /// A packet arrived: the 44-byte header, then its payload.
    VsockReceive(Payload),
    /// The machine moved: all connections are gone, and the guest may have another address.
    VsockTransportReset {
        /// The guest's context id from now on.
        guest_cid: u64,
    },
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub enum InputOutcome {
    /// The guest can see it.
    Taken,
    /// The device holds it until the guest has room for it.
    Waiting,
    /// The device threw it away, as hardware does with what nobody receives.
    Dropped,
    /// The device has no room; the host side keeps it or drops it.
    Refused,
    /// It belongs to a request that a reset ended.
    Stale,
    /// The device met a fault of the driver over it.
    Faulted,
}

/// Why an input cannot be given to a device. The host side is wrong, not the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InputError {
    /// No device has this index.
    #[error("there is no virtio device {index}")]
    NoSuchDevice {
        /// The index.
        index: usize,
    },
    /// A device of another type.
    #[error("a {device} device does not take this input")]
    WrongDevice {
        /// What it is.
        device: &'static str,
    },
    /// No request with this number is under way.
    #[error("no request {id} is under way")]
    UnknownRequest {
        /// The number.
        id: u64,
    },
    /// Bytes of a wrong length.
    #[error("{found} bytes where {expected} are expected")]
    Length {
        /// How many there should be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
}

/// Why a device did not take an input: one side or the other is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InputFailure {
    /// The driver's fault.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The host side's.
    #[error(transparent)]
    Error(#[from] InputError),
}

impl From<RamError> for InputFailure {
    fn from(error: RamError) -> Self {
        Self::Fault(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_survive_a_log() {
        let bytes = || Payload::from((0..200).collect::<Vec<u8>>());
        let (id, sectors, guest_cid) = (7, 1 << 40, 9);
        let completion = |result| VirtioInput::BlockCompletion { id, result };
        let inputs = [
            completion(Ok(bytes())),
            completion(Err(BlockIoError::Unsupported)),
            VirtioInput::BlockResize { sectors },
            VirtioInput::NetReceive(bytes()),
            VirtioInput::NetLink { up: true },
            VirtioInput::NetAnnounce,
            VirtioInput::ConsoleInput(bytes()),
            VirtioInput::ConsoleResize {
                columns: 80,
                rows: 25,
            },
            VirtioInput::Entropy { id, bytes: bytes() },
            VirtioInput::VsockReceive(bytes()),
            VirtioInput::VsockTransportReset { guest_cid },
        ];
        let encoded = postcard::to_allocvec(&inputs).unwrap();
        let decoded: [VirtioInput; 11] = postcard::from_bytes(&encoded).unwrap();
        assert_eq!(decoded, inputs);
        // One byte for the kind, two for the length: the log holds little else than the bytes.
        let frame = postcard::to_allocvec(&VirtioInput::NetReceive(bytes())).unwrap();
        assert_eq!(frame.len(), 203);
    }
}
