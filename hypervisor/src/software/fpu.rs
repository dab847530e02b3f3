//! x87, MMX and SSE registers.

use crate::arch::x86_64::control::xcr0;

/// x87, MMX and SSE registers.
#[derive(Debug, Clone)]
pub struct Fpu {
    /// Enabled state components.
    pub xcr0: u64,
}

impl Default for Fpu {
    fn default() -> Self {
        Self { xcr0: xcr0::X87 }
    }
}

impl Fpu {
    /// The FXSAVE image.
    pub fn to_fxsave(&self) -> [u8; 512] {
        [0; 512]
    }
    /// From an FXSAVE image.
    pub fn restore_fxsave(&mut self, _: &[u8; 512]) {}
}
