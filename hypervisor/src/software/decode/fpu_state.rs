//! Handlers of the instructions that save and restore floating-point state.

use iced_x86::{Instruction, Mnemonic};

use super::Chosen;
use crate::software::execute::fpu_state;

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    Some(Chosen::next(match i.mnemonic() {
        N::Fxsave => fpu_state::fxsave::<false>,
        N::Fxsave64 => fpu_state::fxsave::<true>,
        N::Fxrstor => fpu_state::fxrstor::<false>,
        N::Fxrstor64 => fpu_state::fxrstor::<true>,
        N::Xsave => fpu_state::xsave::<false, false>,
        N::Xsave64 => fpu_state::xsave::<true, false>,
        N::Xsaveopt => fpu_state::xsave::<false, true>,
        N::Xsaveopt64 => fpu_state::xsave::<true, true>,
        N::Xrstor => fpu_state::xrstor::<false>,
        N::Xrstor64 => fpu_state::xrstor::<true>,
        N::Ldmxcsr => fpu_state::ldmxcsr,
        N::Stmxcsr => fpu_state::stmxcsr,
        _ => return None,
    }))
}
