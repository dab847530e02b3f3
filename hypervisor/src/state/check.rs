//! Which states no processor of the model can have, on whichever backend.

use super::{CpuState, StateError};
use crate::arch::x86_64::control::{cr0, efer, rflags, xcr0};
use crate::cpu_model;

impl CpuState {
    /// Refuses a state that no processor of the model can have.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), StateError> {
        let refuse = |field, value| Err(StateError::Field { field, value });
        if self.cr0 & !cr0::DEFINED != 0 {
            return refuse("cr0", self.cr0);
        }
        if self.cr4 & !cpu_model::CR4_OFFERED != 0 {
            return refuse("cr4", self.cr4);
        }
        if self.msrs.efer & !(efer::SCE | efer::LME | efer::LMA | efer::NXE) != 0 {
            return refuse("efer", self.msrs.efer);
        }
        if self.rflags & rflags::VM != 0 {
            return refuse("rflags", self.rflags);
        }
        if self.cr8 > 15 {
            return refuse("cr8", u64::from(self.cr8));
        }
        if self.fpu.xcr0 & xcr0::X87 == 0 || self.fpu.xcr0 & !(xcr0::X87 | xcr0::SSE) != 0 {
            return refuse("fpu.xcr0", self.fpu.xcr0);
        }
        Ok(())
    }
}
