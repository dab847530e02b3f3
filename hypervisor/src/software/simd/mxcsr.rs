//! MXCSR: control and status of the SSE floating-point instructions.
//!
//! ```text
//!  15  14 13  12 11 10  9  8  7   6   5  4  3  2  1  0
//! FTZ  RC    PM UM OM ZM DM IM  DAZ  PE UE OE ZE DE IE
//! ```
//! Spec: Intel SDM vol. 1, section 10.2.3.

use crate::software::float::{Exceptions, FloatEnv, Precision, RoundingMode};

/// An unmasked floating-point exception: the destination is unchanged and #XM is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdFault;

/// The MXCSR register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mxcsr(u32);

impl Default for Mxcsr {
    fn default() -> Self {
        Self(Self::RESET)
    }
}

/// How the fast path may be used under the current control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FastPath {
    /// Not at all.
    Closed,
    /// The inexact flag must be found out.
    Tracked,
    /// PE is set already: only the value matters.
    Untracked,
}

impl Mxcsr {
    /// Value after reset: everything masked, round to nearest.
    pub const RESET: u32 = 0x1f80;
    /// The bits that exist (MXCSR_MASK in the FXSAVE image); setting others is #GP.
    pub const MASK: u32 = 0xffff;

    const PRECISION_FLAG: u32 = 0x20;
    const DAZ: u32 = 0x40;
    const PRECISION_MASK: u32 = 0x1000;
    const ROUNDING: u32 = 0x6000;
    const FTZ: u32 = 0x8000;

    /// The register with these bits; `None` if a reserved bit is set (LDMXCSR, FXRSTOR: #GP).
    #[inline]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::MASK != 0 {
            None
        } else {
            Some(Self(bits))
        }
    }

    /// The bits.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The rounding mode.
    #[inline]
    pub const fn rounding(self) -> RoundingMode {
        RoundingMode::from_field((self.0 >> 13) as u8)
    }

    /// The environment of one instruction, without flags.
    #[inline]
    pub(super) fn env(self) -> FloatEnv {
        FloatEnv {
            rounding: self.rounding(),
            precision: Precision::Extended,
            masks: self.masks(),
            denormals_are_zero: self.0 & Self::DAZ != 0,
            flush_to_zero: self.0 & Self::FTZ != 0,
            flags: Exceptions::NONE,
            rounded_up: false,
        }
    }

    #[inline]
    fn masks(self) -> Exceptions {
        Exceptions::from_bits((self.0 >> 7) as u8)
    }

    /// Whether the fast path is open: nearest rounding, precision exception masked.
    #[inline(always)]
    pub(super) fn fast_path(self) -> FastPath {
        let control = Self::ROUNDING | Self::PRECISION_MASK | Self::PRECISION_FLAG;
        match self.0 & control {
            0x1020 => FastPath::Untracked,
            0x1000 => FastPath::Tracked,
            _ => FastPath::Closed,
        }
    }

    /// Sets the flags of an instruction; fails if one of them is unmasked.
    ///
    /// An unmasked exception found before computing keeps those found after from being reported.
    pub(super) fn commit(&mut self, flags: Exceptions) -> Result<(), SimdFault> {
        let mut flags = flags;
        let unmasked = flags & !self.masks();
        if unmasked.intersects(Exceptions::BEFORE) {
            flags = flags & Exceptions::BEFORE;
        }
        self.0 |= u32::from(flags.bits());
        if unmasked.is_empty() {
            Ok(())
        } else {
            Err(SimdFault)
        }
    }

    /// Records a masked inexact result of the fast path.
    #[inline(always)]
    pub(super) fn note_inexact(&mut self, inexact: bool) {
        self.0 |= u32::from(inexact) * Self::PRECISION_FLAG;
    }
}
