//! What passed through a tap.

use std::sync::atomic::{AtomicU64, Ordering};

/// What passed through a tap, seen from the guest. Bytes are those of Ethernet frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// Frames that were offered to the guest and taken.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that came and were not taken: too many, of a wrong length, or no driver.
    pub rx_dropped: u64,
    /// Frames of the guest that the tap took.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames of the guest that the tap did not take.
    pub tx_dropped: u64,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Direction {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Direction {
    /// A frame of `len` bytes passed.
    pub fn count(&self, len: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// A frame went nowhere.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Frames, bytes, and frames that went nowhere.
    pub fn read(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.frames), read(&self.bytes), read(&self.dropped))
    }
}
