//! When x87, MMX and SSE instructions are refused, and what the state images hold.

use hypervisor::Exit;
use hypervisor::arch::x86_64::control::{cr0, cr4};
use hypervisor::state::CpuState;
use iced_x86::code_asm::{
    CodeAssembler, byte_ptr, dword_ptr, eax, edx, mm0, mm1, qword_ptr, rdx, xmm0, xmm1, xmm2,
    xmmword_ptr,
};

use crate::guest::{CODE, DATA, Guest};

type Assemble = fn(&mut CodeAssembler);

fn x87(a: &mut CodeAssembler) {
    a.fld1().unwrap();
}
fn wait(a: &mut CodeAssembler) {
    a.wait().unwrap();
}
fn mmx(a: &mut CodeAssembler) {
    a.paddb(mm0, mm1).unwrap();
}
fn sse(a: &mut CodeAssembler) {
    a.addps(xmm0, xmm1).unwrap();
}
fn fxsave(a: &mut CodeAssembler) {
    a.fxsave(qword_ptr(DATA)).unwrap();
}
fn xsave(a: &mut CodeAssembler) {
    a.xsave(qword_ptr(DATA)).unwrap();
}

/// The vector of the fault of one instruction, if it has one.
fn vector(assemble: Assemble, change: impl FnOnce(&mut CpuState)) -> Option<u8> {
    let mut guest = Guest::new(|a| {
        assemble(a);
        a.hlt().unwrap();
    });
    guest.set_state(change);
    assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Halted);
    let rip = guest.vcpu.save().rip;
    (rip < CODE).then(|| (rip - 1 - crate::guest::HANDLERS) as u8)
}

#[test]
fn control_bits_refuse_each_family_with_its_own_fault() {
    const UD: Option<u8> = Some(6);
    const NM: Option<u8> = Some(7);
    let cases: [(&str, Assemble, [Option<u8>; 5]); 6] = [
        // CR0.TS, CR0.TS without MP, CR0.EM, no CR4.OSFXSR, no CR4.OSXSAVE
        ("x87", x87, [NM, NM, NM, None, None]),
        ("wait", wait, [NM, None, None, None, None]),
        ("mmx", mmx, [NM, NM, UD, None, None]),
        ("sse", sse, [NM, NM, UD, UD, None]),
        ("fxsave", fxsave, [NM, NM, UD, None, None]),
        ("xsave", xsave, [NM, NM, None, None, UD]),
    ];
    for (name, assemble, expected) in cases {
        let found = [
            vector(assemble, |state| state.cr0 |= cr0::TS),
            vector(assemble, |state| {
                state.cr0 |= cr0::TS;
                state.cr0 &= !cr0::MP;
            }),
            vector(assemble, |state| state.cr0 |= cr0::EM),
            vector(assemble, |state| state.cr4 &= !cr4::OSFXSR),
            vector(assemble, |state| state.cr4 &= !cr4::OSXSAVE),
        ];
        assert_eq!(found, expected, "{name}");
        assert_eq!(vector(assemble, |_| ()), None, "{name}");
    }
}

#[test]
fn unmasked_simd_exception_is_xm_or_ud_and_leaves_the_destination() {
    let divide: Assemble = |a| a.divss(xmm0, xmm1).unwrap();
    let unmasked = |state: &mut CpuState| {
        // MXCSR with the zero-divide mask clear; XMM0 is 1.0, XMM1 zero.
        state.fpu.fxsave[24..28].copy_from_slice(&0x1d80u32.to_le_bytes());
        state.fpu.fxsave[160..164].copy_from_slice(&1f32.to_le_bytes());
    };
    assert_eq!(vector(divide, unmasked), Some(19));
    let without = |state: &mut CpuState| {
        unmasked(state);
        state.cr4 &= !cr4::OSXMMEXCPT;
    };
    assert_eq!(vector(divide, without), Some(6));
    let mut guest = Guest::new(|a| a.divss(xmm0, xmm1).unwrap());
    guest.set_state(unmasked);
    let state = guest.run_to_halt();
    assert_eq!(state.fpu.fxsave[160..164], 1f32.to_le_bytes());
    assert_eq!(state.fpu.fxsave[24] & 4, 4, "the flag is set");
}

#[test]
fn pending_x87_exception_is_mf_at_the_next_waiting_instruction() {
    let pending: Assemble = |a| {
        a.fldcw(byte_ptr(DATA)).unwrap();
        a.fld1().unwrap();
        a.fldz().unwrap();
        a.fdivp(iced_x86::code_asm::st1, iced_x86::code_asm::st0)
            .unwrap();
        // Not waiting: runs.
        a.fnstsw(iced_x86::code_asm::ax).unwrap();
        a.fld1().unwrap();
    };
    for (numeric_errors, expected) in [(true, Some(16)), (false, None)] {
        let mut guest = Guest::new(|a| {
            pending(a);
            a.hlt().unwrap();
        });
        // Everything masked but the zero divide.
        guest.put(DATA, 0x37b);
        guest.set_state(|state| {
            state.fpu.fxsave[4] = 0;
            if !numeric_errors {
                state.cr0 &= !cr0::NE;
            }
        });
        let state = guest.run_to_halt();
        let found = (state.rip < CODE).then(|| (state.rip - 1 - crate::guest::HANDLERS) as u8);
        assert_eq!(found, expected);
        assert_eq!(state.gpr[0] & 0x84, 0x84, "ES and ZE were seen by FNSTSW");
    }
}

#[test]
fn misaligned_operands_of_aligned_forms_are_refused() {
    let aligned: [Assemble; 4] = [
        |a| a.movaps(xmm0, xmmword_ptr(DATA + 8)).unwrap(),
        |a| a.paddb(xmm0, xmmword_ptr(DATA + 1)).unwrap(),
        |a| a.fxsave(qword_ptr(DATA + 8)).unwrap(),
        |a| a.xsave(qword_ptr(DATA + 32)).unwrap(),
    ];
    for assemble in aligned {
        assert_eq!(vector(assemble, |_| ()), Some(13));
    }
    let anywhere: [Assemble; 3] = [
        |a| a.movups(xmm0, xmmword_ptr(DATA + 1)).unwrap(),
        |a| a.lddqu(xmm0, xmmword_ptr(DATA + 3)).unwrap(),
        |a| a.pcmpistri(xmm0, xmmword_ptr(DATA + 5), 0).unwrap(),
    ];
    for assemble in anywhere {
        assert_eq!(vector(assemble, |_| ()), None);
    }
}

#[test]
fn instructions_that_are_not_offered_are_undefined() {
    let codes: [&[u8]; 5] = [
        &[0xc5, 0xf8, 0x58, 0xc1],       // vaddps xmm0, xmm0, xmm1
        &[0x66, 0x0f, 0x38, 0xdc, 0xc1], // aesenc xmm0, xmm1
        &[0x0f, 0xc7, 0xf0],             // rdrand eax
        &[0x0f, 0xc7, 0x27],             // xsavec [rdi]
        &[0x0f, 0xa6, 0xc8],             // xcrypt, and nothing here
    ];
    for bytes in codes {
        let mut guest = Guest::new(|a| a.db(bytes).unwrap());
        assert_eq!(guest.run_to_fault().vector, 6, "{bytes:02x?}");
    }
}

#[test]
fn xsaveopt_leaves_out_what_is_in_its_initial_state_and_xrstor_brings_it_back() {
    let mut guest = Guest::new(|a| {
        a.mov(eax, 3).unwrap();
        a.xor(edx, edx).unwrap();
        a.fninit().unwrap();
        a.xorps(xmm0, xmm0).unwrap();
        a.xsaveopt(qword_ptr(DATA)).unwrap();
        a.pcmpeqd(xmm2, xmm2).unwrap();
        a.xsaveopt(qword_ptr(DATA + 0x400)).unwrap();
        a.fld1().unwrap();
        a.xrstor(qword_ptr(DATA)).unwrap();
        a.hlt().unwrap();
    });
    let area = DATA + 0x200;
    guest.put(DATA + 160, 0x5555);
    let state = guest.run_to_halt();
    assert_eq!(guest.get(area), 0, "nothing is in use");
    assert_eq!(guest.get(DATA + 160), 0x5555, "so nothing is written");
    assert_eq!(guest.get(DATA + 24) as u32, 0x1f80, "but MXCSR is");
    assert_eq!(guest.get(area + 0x400), 2, "XMM2 is in use");
    assert_eq!(guest.get(DATA + 0x400 + 160 + 32), u64::MAX);
    assert!(
        state.fpu.fxsave[160..416].iter().all(|&byte| byte == 0),
        "initial again"
    );
    assert_eq!(state.fpu.fxsave[4], 0, "all x87 registers are empty again");
}

#[test]
fn xrstor_refuses_a_bad_header() {
    // (offset in the header, value)
    for (offset, value) in [(0, 4), (8, 1), (8, 1 << 63), (16, 1)] {
        let mut guest = Guest::new(|a| {
            a.mov(eax, 3).unwrap();
            a.xor(edx, edx).unwrap();
            a.mov(dword_ptr(DATA + 24), 0x1f80).unwrap();
            a.xrstor(qword_ptr(DATA)).unwrap();
        });
        guest.put(DATA + 512 + offset, value);
        let fault = guest.run_to_fault();
        assert_eq!(
            (fault.vector, fault.code),
            (13, Some(0)),
            "{offset} {value:#x}"
        );
    }
}

#[test]
fn rdx_selects_no_component_beyond_the_enabled_ones() {
    let mut guest = Guest::new(|a| {
        a.mov(eax, -1).unwrap();
        a.mov(rdx, -1i64 as u64).unwrap();
        a.xsave(qword_ptr(DATA)).unwrap();
        a.hlt().unwrap();
    });
    guest.set_state(|state| state.fpu.xcr0 = 1);
    guest.put(DATA + 160, 0x77);
    guest.run_to_halt();
    assert_eq!(guest.get(DATA + 0x200) & !1, 0);
    assert_eq!(guest.get(DATA + 160), 0x77, "SSE is not enabled in XCR0");
}

#[test]
fn instructions_that_the_oracle_does_not_draw_are_there_too() {
    // What processors answer differently within the manual's bounds; here only that they run.
    let codes: [&[u8]; 23] = [
        &[0xd9, 0xf0],                   // f2xm1
        &[0xd9, 0xf1],                   // fyl2x
        &[0xd9, 0xf9],                   // fyl2xp1
        &[0xd9, 0xf2],                   // fptan
        &[0xd9, 0xf3],                   // fpatan
        &[0xd9, 0xfb],                   // fsincos
        &[0xd9, 0xfe],                   // fsin
        &[0xd9, 0xff],                   // fcos
        &[0xdb, 0xe0],                   // fneni
        &[0xdb, 0xe4],                   // fnsetpm
        &[0xd9, 0xd9],                   // fstp st(1), by its other opcode
        &[0x0f, 0x53, 0xc1],             // rcpps
        &[0xf3, 0x0f, 0x53, 0xc1],       // rcpss
        &[0x0f, 0x52, 0xc1],             // rsqrtps
        &[0xf3, 0x0f, 0x52, 0xc1],       // rsqrtss
        &[0xf3, 0x48, 0x0f, 0x1e, 0xc8], // rdsspq, a hint without shadow stacks
        &[0xf3, 0x0f, 0x1e, 0xfa],       // endbr64
        &[0x0f, 0x0d, 0x08],             // prefetchw
        &[0x0f, 0x1c, 0x00],             // cldemote, a hint
        &[0x0f, 0x18, 0x38],             // a reserved hint
        &[0xf3, 0x0f, 0x09],             // wbnoinvd, as wbinvd
        &[0x0f, 0xa2],                   // cpuid
        &[0x0f, 0x31],                   // rdtsc
    ];
    for bytes in codes {
        let mut guest = Guest::new(|a| {
            a.fninit().unwrap();
            a.fld1().unwrap();
            a.fld1().unwrap();
            a.db(bytes).unwrap();
            a.hlt().unwrap();
        });
        let state = guest.run_to_halt();
        assert!(state.rip > CODE, "{bytes:02x?} faulted: {:#x}", state.rip);
    }
}
