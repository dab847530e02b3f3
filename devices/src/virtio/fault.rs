//! What a driver can do wrong. Each leads to `NEEDS_RESET`, none to work without bound.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dma::RamError;

/// Why a device stopped until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Fault {
    /// A ring or a buffer is not in memory.
    #[error("no memory at {gpa:#x}, length {len:#x}")]
    NotMemory {
        /// First address.
        gpa: u64,
        /// Length.
        len: u64,
    },
    /// A queue size that is not a power of two up to the device's.
    #[error("queue {queue}: size {size}")]
    QueueSize {
        /// Which queue.
        queue: u16,
        /// What was written.
        size: u16,
    },
    /// A ring whose address is not aligned as it must be.
    #[error("ring at {gpa:#x} is not aligned")]
    MisalignedRing {
        /// Its address.
        gpa: u64,
    },
    /// Two rings of a queue, or a ring and a buffer to be written, share bytes.
    #[error("{gpa:#x} is in a ring and in something else")]
    OverlapsRing {
        /// Where the second one begins.
        gpa: u64,
    },
    /// The available index moved back or by more than the free part of the queue.
    #[error("available index {index} with {expected} expected next")]
    AvailableIndex {
        /// What the ring says.
        index: u16,
        /// The first one not consumed.
        expected: u16,
    },
    /// A descriptor number at or past the end of its table.
    #[error("descriptor {index} of {count}")]
    DescriptorIndex {
        /// The number.
        index: u16,
        /// Size of the table.
        count: u32,
    },
    /// A chain with more descriptors than the queue, which a loop has as well.
    #[error("chain at {head} is longer than the queue, or a loop")]
    ChainTooLong {
        /// First descriptor.
        head: u16,
    },
    /// A descriptor of no bytes.
    #[error("descriptor without bytes in the chain at {head}")]
    EmptyDescriptor {
        /// First descriptor.
        head: u16,
    },
    /// A chain of 4 GiB or more.
    #[error("chain at {head} has 4 GiB or more")]
    HugeChain {
        /// First descriptor.
        head: u16,
    },
    /// A descriptor to be read after one to be written.
    #[error("readable after writable descriptor in the chain at {head}")]
    ReadableAfterWritable {
        /// First descriptor.
        head: u16,
    },
    /// An indirect table that is not allowed here: not negotiated, nested, or chained further.
    #[error("misplaced indirect table in the chain at {head}")]
    MisplacedIndirect {
        /// First descriptor.
        head: u16,
    },
    /// An indirect table whose length is not that of whole descriptors.
    #[error("indirect table of {len} bytes")]
    IndirectLength {
        /// Its length.
        len: u32,
    },
    /// A chain without the parts that the device needs.
    #[error("chain at {head} lacks a part that its queue needs")]
    Malformed {
        /// First descriptor.
        head: u16,
    },
    /// `DRIVER_OK` before `FEATURES_OK`.
    #[error("DRIVER_OK without FEATURES_OK")]
    DriverOkTooEarly,
}

impl From<RamError> for Fault {
    fn from(RamError { gpa, len }: RamError) -> Self {
        Self::NotMemory { gpa, len }
    }
}
