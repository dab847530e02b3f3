//! Floating-point state: the FXSAVE image of [`crate::state::FpuState`] as the head of an XSAVE
//! area, and back in the form in which both backends have it.
//!
//! The area is in the standard format: 512 bytes as FXSAVE writes them, then a header whose
//! first eight bytes say which components are not in their initial state. Spec: Intel SDM vol. 1
//! §13.4; KVM API 4.42.

use kvm_bindings::{kvm_xcr, kvm_xcrs, kvm_xsave};

use crate::arch::x86_64::control::xcr0;
use crate::state::{FpuState, StateError};

const IMAGE: usize = 512;
/// The bits of MXCSR that the model has; a host's processor may have one more.
const MXCSR_MASK: u32 = 0xffff;
const MXCSR_MASK_AT: usize = 28;
/// The x87 registers: ten bytes used of each sixteen.
const X87_AT: usize = 32;
const X87_BYTES: usize = 10;
const SLOT: usize = 16;
/// Behind the last XMM register there is nothing of the processor's.
const UNUSED_AT: usize = 416;

/// The XSAVE area of `state`.
///
/// # Errors
/// When the image has another length.
pub(super) fn area(state: &FpuState) -> Result<kvm_xsave, StateError> {
    let length = StateError::Field {
        field: "fpu.fxsave length",
        value: state.fxsave.len() as u64,
    };
    let image: &[u8; IMAGE] = state.fxsave.as_slice().try_into().map_err(|_| length)?;
    let mut area = kvm_xsave::default();
    let words = image.chunks_exact(4).map(word);
    for (to, from) in area.region.iter_mut().zip(words) {
        *to = from;
    }
    area.region[IMAGE / 4] = (xcr0::X87 | xcr0::SSE) as u32;
    Ok(area)
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// The image in `area`, which KVM gives in full whatever the header says.
pub(super) fn read_area(area: &kvm_xsave, xcr0: u64) -> FpuState {
    let words = area.region[..IMAGE / 4].iter();
    let mut fxsave: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
    fxsave[MXCSR_MASK_AT..X87_AT].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    for register in fxsave[X87_AT..X87_AT + 8 * SLOT].chunks_exact_mut(SLOT) {
        register[X87_BYTES..].fill(0);
    }
    fxsave[UNUSED_AT..].fill(0);
    FpuState { fxsave, xcr0 }
}

/// XCR0 in KVM's form. KVM API 4.43.
pub(super) fn control(xcr0: u64) -> kvm_xcrs {
    let mut control = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    control.xcrs[0] = kvm_xcr {
        xcr: 0,
        reserved: 0,
        value: xcr0,
    };
    control
}

/// XCR0 of what KVM gave.
pub(super) fn read_control(control: &kvm_xcrs) -> u64 {
    let given = &control.xcrs[..(control.nr_xcrs as usize).min(control.xcrs.len())];
    let found = given.iter().find(|register| register.xcr == 0);
    found.map_or(xcr0::X87, |register| register.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::reset_state;

    #[test]
    fn an_image_comes_back_in_the_models_form() {
        let mut state = reset_state().fpu;
        for (index, byte) in state.fxsave[X87_AT..UNUSED_AT].iter_mut().enumerate() {
            let reserved = index < 8 * SLOT && index % SLOT >= X87_BYTES;
            *byte = if reserved { 0 } else { index as u8 };
        }
        state.xcr0 = 3;
        let mut area = area(&state).unwrap();
        // A host's processor has a bit more, and leaves something behind the registers.
        area.region[MXCSR_MASK_AT / 4] = 0x2_ffff;
        area.region[UNUSED_AT / 4] = 7;
        assert_eq!(read_area(&area, read_control(&control(3))), state);
    }

    #[test]
    fn an_image_of_another_length_is_refused() {
        let mut state = reset_state().fpu;
        state.fxsave.pop();
        assert!(area(&state).is_err());
    }
}
