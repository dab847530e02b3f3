//! Debug ports: the POST code at 0x80, and two byte sinks for early messages.
//!
//! Port 0xe9 is the console that Bochs introduced, 0x402 the one firmware logs to; each reads as
//! 0xe9 so that software can find it. Port 0x80 keeps the last code, and is also what Linux writes
//! for a short delay.

use serde::{Deserialize, Serialize};

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::saved::{RestoreError, SavedState};

/// Port of the POST code.
pub const POST_PORT: u16 = 0x80;
/// Port of the debug console.
pub const DEBUG_CONSOLE_PORT: u16 = 0xe9;
/// Port of firmware's log.
pub const FIRMWARE_DEBUG_PORT: u16 = 0x402;
/// What the byte sinks read as.
pub const DEBUG_PORT_PRESENT: u8 = 0xe9;

/// The state behind the debug ports. Bytes written to the sinks are outputs and leave no trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugPort {
    post_code: u8,
}

impl DebugPort {
    /// No code written yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { post_code: 0 }
    }

    /// The last POST code.
    #[must_use]
    pub const fn post_code(&self) -> u8 {
        self.post_code
    }

    /// Writes port 0x80.
    pub const fn set_post_code(&mut self, code: u8) {
        self.post_code = code;
    }
}

impl Device for DebugPort {
    type Saved = DebugPortStateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> DebugPortStateV1 {
        let Self { post_code } = self;
        DebugPortStateV1 {
            post_code: *post_code,
        }
    }

    fn restore(saved: DebugPortStateV1) -> Result<Self, RestoreError> {
        let DebugPortStateV1 { post_code } = saved;
        Ok(Self { post_code })
    }
}

/// Saved state of the debug ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugPortStateV1 {
    post_code: u8,
}

impl SavedState for DebugPortStateV1 {
    const KIND: &'static str = "debug_port";
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Subject};

    impl Subject for DebugPort {
        fn addresses() -> Vec<u64> {
            vec![0]
        }

        fn guest_read(&mut self, _address: u64, _size: u8, _now: VirtualTime) -> u64 {
            u64::from(self.post_code())
        }

        fn guest_write(&mut self, _address: u64, _size: u8, value: u64, _now: VirtualTime) {
            self.set_post_code(value as u8);
        }
    }

    #[test]
    fn conforms() {
        conformance::run(DebugPort::new, 10);
    }
}
