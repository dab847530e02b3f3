//! What leaves a virtio device: outputs, and requests to the host side.

use serde::{Deserialize, Serialize};

use super::block::BlockRequest;
use super::fault::Fault;
use super::payload::Payload;

/// Something that left a virtio device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtioEvent {
    /// The driver is ready and negotiated these features. A tap's offloads follow from them.
    DriverReady {
        /// All negotiated features, the transport's included.
        features: u64,
    },
    /// The driver, or a reset of the machine by it, gave the device up.
    DeviceReset,
    /// The driver broke the protocol; the device waits for its reset. For a rate-limited log.
    Fault(Fault),
    /// A disk is to carry out a request; its completion is an input.
    Block(BlockRequest),
    /// A frame was sent: 12 bytes of `virtio_net_hdr_v1`, then the frame.
    NetTransmit(Payload),
    /// The driver changed the device's address.
    NetMacAddress([u8; 6]),
    /// Bytes were written to the console.
    ConsoleOutput(Payload),
    /// The guest wants random bytes; the answer is an input.
    EntropyRequest {
        /// Names the request in the answer.
        id: u64,
        /// At most this many bytes are of use.
        len: u32,
    },
    /// A packet was sent: the 44-byte header, then its payload.
    VsockTransmit(Payload),
}
