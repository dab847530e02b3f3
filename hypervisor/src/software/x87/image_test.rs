//! Images in memory: what is saved comes back, and bad images are refused.

use super::{EnvironmentFormat, FXSAVE_SIZE, FxrstorError, FxsaveFormat, X87State};
use crate::software::simd::Mxcsr;

/// Three registers in use, flags, a rounding mode, pointers that fit every format.
fn sample() -> X87State {
    let mut state = X87State::default();
    state.set_control(0x0b7f);
    state.fld_f64(1.5f64.to_bits());
    state.fild(-77);
    state.fld_f32(0x0000_0001);
    state.fdecstp();
    state.record_instruction(0x5d9, 0, 0xc_1234);
    state.record_operand(0, 0xd_5678);
    state
}

#[test]
fn fxrstor_restores_what_fxsave_wrote() {
    let xmm: [u128; 16] = std::array::from_fn(|i| (i as u128 + 1) << 100 | 7);
    let mxcsr = Mxcsr::from_bits(0xbfa5).unwrap();
    for format in [
        FxsaveFormat::Legacy,
        FxsaveFormat::Long32,
        FxsaveFormat::Long64,
    ] {
        let mut state = sample();
        if format == FxsaveFormat::Long64 {
            state.record_instruction(0x7ff, 0, 0xffff_8000_1234_5678);
        } else {
            state.record_operand(0x2b, 0x8765_4321);
        }
        let mut image = [0xee; FXSAVE_SIZE];
        state.fxsave(format, mxcsr, &xmm, &mut image);
        assert!(
            image[format.written_size()..]
                .iter()
                .all(|&byte| byte == 0xee)
        );
        assert_eq!(image[28..32], Mxcsr::MASK.to_le_bytes());
        let (mut other, mut registers) = (X87State::power_up(), [9u128; 16]);
        assert_eq!(other.fxrstor(format, &image, &mut registers), Ok(mxcsr));
        assert_eq!(other, state, "{format:?}");
        let count = if format == FxsaveFormat::Legacy {
            8
        } else {
            16
        };
        assert_eq!(registers[..count], xmm[..count]);
        assert!(registers[count..].iter().all(|&value| value == 9));
    }
}

#[test]
fn fxrstor_refuses_reserved_mxcsr_bits_and_changes_nothing() {
    let mut image = [0; FXSAVE_SIZE];
    sample().fxsave(FxsaveFormat::Long64, Mxcsr::default(), &[1; 16], &mut image);
    image[26] = 1;
    let (mut state, mut xmm) = (X87State::default(), [5; 16]);
    let refused = state.fxrstor(FxsaveFormat::Long64, &image, &mut xmm);
    assert_eq!(refused, Err(FxrstorError::ReservedMxcsr(0x1_1f80)));
    assert_eq!((state, xmm), (X87State::default(), [5; 16]));
}

#[test]
fn environments_and_saved_states_come_back() {
    for format in [
        EnvironmentFormat::Protected32,
        EnvironmentFormat::Protected16,
        EnvironmentFormat::Real32,
        EnvironmentFormat::Real16,
    ] {
        let mut before = sample();
        if format == EnvironmentFormat::Protected16 {
            // This format has no opcode and sixteen bits of each offset.
            before.record_instruction(0, 0x33, 0x1234);
            before.record_operand(0x2b, 0x5678);
        }
        let mut saved = before.clone();
        let image = saved.fnsave(format);
        assert_eq!(saved.control, 0x037f);
        assert_eq!(saved.occupied, 0);
        let mut restored = X87State::power_up();
        restored.frstor(format, &image);
        assert_eq!(restored, before, "{format:?}");
        let mut stored = before.clone();
        let image = stored.fnstenv(format);
        assert_eq!(stored.control, before.control | 0x3f);
        let mut loaded = X87State {
            registers: before.registers,
            ..X87State::power_up()
        };
        loaded.fldenv(format, &image);
        assert_eq!(loaded, before, "{format:?}");
    }
}

#[test]
fn an_exception_that_becomes_unmasked_is_pending() {
    let mut state = X87State::default();
    state.fld_f64(0f64.to_bits());
    state.fld_f64(1f64.to_bits());
    state.arithmetic_register(super::Operation::Divide, 0, 1, false);
    assert_eq!(state.check_pending(), Ok(()));
    state.fldcw(0x037b);
    assert_eq!(state.check_pending(), Err(super::X87Fault));
    assert_eq!(state.fnstsw() & 0x80ff, 0x8084);
    state.fnclex();
    assert_eq!(state.check_pending(), Ok(()));
}
