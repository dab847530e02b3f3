//! What is told of deltas.

use serde::Serialize;

use crate::histogram::LatencySummary;

/// Pages of deltas, by what was sent for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeltaPages {
    /// All pages that counted as written.
    pub written: u64,
    /// Of those, pages that are as the backup has them: nothing was sent.
    pub skipped: u64,
    /// Pages of zeroes: nothing but that was sent.
    pub zero: u64,
    /// Pages sent as the difference from what the backup has.
    pub xor: u64,
    /// Pages sent packed.
    pub lz4: u64,
    /// Pages sent as they are.
    pub raw: u64,
}

/// Bytes of pages that were not sent, by what made them unnecessary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeltaSavings {
    /// Skipping what is as the backup has it.
    pub skip: u64,
    /// Naming zeroes.
    pub zero: u64,
    /// Sending differences, packed.
    pub xor: u64,
    /// Packing.
    pub lz4: u64,
}

/// Deltas of a protection, as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CheckpointStatus {
    /// Deltas that were sent.
    pub deltas: u64,
    /// Of those, ones that were closed before their time because outputs waited.
    pub early: u64,
    /// How long the guest stood still at the end of an epoch.
    pub pause: LatencySummary,
    /// From the end of an epoch to the acknowledgement of its delta.
    pub commit: LatencySummary,
    /// Pages of all deltas.
    pub pages: DeltaPages,
    /// Bytes saved.
    pub saved_bytes: DeltaSavings,
    /// Bytes sent for all deltas.
    pub sent_bytes: u64,
    /// Pages of the last delta.
    pub last_pages: u64,
}
