//! x87, MMX and SSE registers, and who may use them when.
//!
//! The selectors of the last x87 instruction and operand are always zero, as on processors that
//! report them as deprecated (CPUID leaf 7, EBX bit 13); so the FXSAVE image with REX.W holds the
//! whole state. In real mode the pointers are linear addresses.
//!
//! Deviates: with CR0.NE clear a pending x87 exception is ignored, as if IGNNE# were asserted:
//! there is no FERR# wire. Spec: Intel SDM vol. 1 chapters 8 to 13; vol. 3A chapter 14.

use super::cpu::Cpu;
use super::exception::Fault;
use super::op::{Outcome, Stop};
use super::simd::Mxcsr;
use super::x87::{FXSAVE_SIZE, FxrstorError, FxsaveFormat, X87State};
use crate::arch::x86_64::control::{cr0, cr4, xcr0};
use crate::arch::x86_64::exception;
use crate::state::StateError;

/// x87, MMX and SSE registers.
#[derive(Debug, Clone)]
pub struct Fpu {
    /// The x87, whose registers hold the MMX registers.
    pub x87: X87State,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// Control and status of the SSE instructions.
    pub mxcsr: Mxcsr,
    /// Enabled state components.
    pub xcr0: u64,
}

impl Default for Fpu {
    fn default() -> Self {
        Self {
            x87: X87State::power_up(),
            xmm: [0; 16],
            mxcsr: Mxcsr::default(),
            xcr0: xcr0::X87,
        }
    }
}

impl Fpu {
    /// The FXSAVE image with REX.W; equal states give equal bytes.
    pub fn to_fxsave(&self) -> [u8; FXSAVE_SIZE] {
        let mut image = [0; FXSAVE_SIZE];
        self.x87
            .fxsave(FxsaveFormat::Long64, self.mxcsr, &self.xmm, &mut image);
        image
    }

    /// From an FXSAVE image with REX.W.
    ///
    /// # Errors
    /// When MXCSR has reserved bits set; nothing is changed then.
    pub fn restore_fxsave(&mut self, image: &[u8; FXSAVE_SIZE]) -> Result<(), StateError> {
        self.mxcsr = self
            .x87
            .fxrstor(FxsaveFormat::Long64, image, &mut self.xmm)
            .map_err(|error| {
                let FxrstorError::ReservedMxcsr(bits) = error;
                StateError::Field {
                    field: "fpu.fxsave mxcsr",
                    value: u64::from(bits),
                }
            })?;
        Ok(())
    }

    /// State components that are not in their initial configuration. MXCSR does not count.
    pub fn in_use(&self) -> u64 {
        let x87 = if self.x87 == X87State::default() {
            0
        } else {
            xcr0::X87
        };
        let sse = if self.xmm == [0; 16] { 0 } else { xcr0::SSE };
        x87 | sse
    }
}

impl Cpu {
    /// #NM when the x87 is emulated or belongs to another task.
    #[inline(always)]
    pub fn require_x87(&mut self) -> Outcome {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 {
            Ok(())
        } else {
            Err(self.not_available())
        }
    }

    /// As [`Cpu::require_x87`], and #MF when an unmasked exception waits.
    #[inline(always)]
    pub fn require_waiting_x87(&mut self) -> Outcome {
        self.require_x87()?;
        self.require_no_pending()
    }

    /// #MF when an unmasked x87 exception waits.
    #[inline(always)]
    pub fn require_no_pending(&mut self) -> Outcome {
        match self.fpu.x87.check_pending() {
            Ok(()) => Ok(()),
            Err(_) => self.pending_exception(),
        }
    }

    #[cold]
    fn pending_exception(&mut self) -> Outcome {
        if self.cr0 & cr0::NE == 0 {
            return Ok(());
        }
        Err(self.raise(Fault::plain(exception::MF)))
    }

    /// #UD, #NM or #MF when an MMX instruction cannot run now.
    #[inline(always)]
    pub fn require_mmx(&mut self) -> Outcome {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.vector_refused());
        }
        self.require_no_pending()
    }

    /// #UD or #NM when an SSE instruction cannot run now.
    #[inline(always)]
    pub fn require_sse(&mut self) -> Outcome {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 && self.cr4 & cr4::OSFXSR != 0 {
            return Ok(());
        }
        Err(self.sse_refused())
    }

    #[cold]
    fn sse_refused(&mut self) -> Stop {
        if self.cr4 & cr4::OSFXSR == 0 {
            return self.undefined();
        }
        self.vector_refused()
    }

    #[cold]
    fn vector_refused(&mut self) -> Stop {
        if self.cr0 & cr0::EM != 0 {
            self.undefined()
        } else {
            self.not_available()
        }
    }

    /// #NM.
    #[cold]
    pub fn not_available(&mut self) -> Stop {
        self.raise(Fault::plain(exception::NM))
    }

    /// #XM for an unmasked SIMD exception, or #UD where the system does not handle that.
    #[cold]
    pub fn simd_exception(&mut self) -> Stop {
        if self.cr4 & cr4::OSXMMEXCPT == 0 {
            return self.undefined();
        }
        self.raise(Fault::plain(exception::XM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_states_give_equal_images_and_survive_the_trip() {
        let mut fpu = Fpu::default();
        fpu.x87.fninit();
        fpu.x87.fild(-7);
        fpu.x87.record_instruction(0x1c9, 0, 0xffff_8000_0000_1234);
        fpu.xmm[3] = 0x0123_4567_89ab_cdef;
        let image = fpu.to_fxsave();
        let mut other = Fpu::default();
        other.restore_fxsave(&image).unwrap();
        assert_eq!(other.x87, fpu.x87);
        assert_eq!(other.xmm, fpu.xmm);
        assert_eq!(other.to_fxsave(), image);
    }

    #[test]
    fn image_with_reserved_mxcsr_bits_is_refused_and_changes_nothing() {
        let mut fpu = Fpu::default();
        let mut image = fpu.to_fxsave();
        image[26] = 1;
        image[160] = 9;
        assert_eq!(
            fpu.restore_fxsave(&image),
            Err(StateError::Field {
                field: "fpu.fxsave mxcsr",
                value: 0x1_1f80
            })
        );
        assert_eq!(fpu.xmm[0], 0);
    }
}
