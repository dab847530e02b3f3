//! Which instructions the oracle draws at random: every encoding that the processor model offers
//! and that behaves alike on all processors, in 64-bit mode, ring 3.

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind};

/// Features of the model that have ring-3 instructions.
const OFFERED: [CpuidFeature; 27] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::CLFSH,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CX8,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::LZCNT,
    CpuidFeature::MMX,
    CpuidFeature::MOVBE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::POPCNT,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
];

/// Encodings to draw from.
pub fn codes() -> Vec<Code> {
    Code::values().filter(|&code| is_drawn(code)).collect()
}

fn is_drawn(code: Code) -> bool {
    let info = code.op_code();
    let encodings = [EncodingKind::Legacy, EncodingKind::VEX];
    info.is_instruction()
        && info.mode64()
        && encodings.contains(&info.encoding())
        && code
            .cpuid_features()
            .iter()
            .all(|feature| OFFERED.contains(feature))
        && code.flow_control() == FlowControl::Next
        && !code.is_string_instruction()
        && !code.is_privileged()
        && info.op_kinds().iter().all(|&kind| is_buildable(kind))
        && !is_left_out(code)
}

fn is_buildable(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    !matches!(
        kind,
        K::seg_reg | K::cr_reg | K::dr_reg | K::tr_reg | K::seg_rDI | K::seg_rBX_al
    )
}

/// What is not drawn, and why.
fn is_left_out(code: Code) -> bool {
    use Mnemonic as N;
    match code.mnemonic() {
        // Templates draw these with operands that make sense.
        N::Popf | N::Popfd | N::Popfq | N::Fldcw | N::Ldmxcsr | N::Stmxcsr => true,
        N::Maskmovq | N::Maskmovdqu | N::Xlatb => true,
        N::Fxsave | N::Fxsave64 | N::Fxrstor | N::Fxrstor64 => true,
        N::Fnsave | N::Frstor | N::Fnstenv | N::Fldenv => true,
        // Written with a leading FWAIT: two instructions.
        N::Fsave | N::Fstenv | N::Fstcw | N::Fstsw | N::Fclex | N::Finit => true,
        N::Feni | N::Fdisi | N::Fsetpm => true,
        // The host's answers are its own.
        N::Cpuid | N::Rdtsc | N::Rdpmc | N::Smsw | N::Sgdt | N::Sidt | N::Sldt | N::Str => true,
        N::Lar | N::Lsl | N::Verr | N::Verw => true,
        // Loads of FS and GS would take the thread's storage away.
        N::Lss | N::Lfs | N::Lgs => true,
        N::Pop | N::Push => has_segment(code),
        // Approximations: processors differ within the bound that the manual gives.
        N::Rcpps | N::Rcpss | N::Rsqrtps | N::Rsqrtss => true,
        // Last-place differences; `software::x87` has its own oracle for their values.
        N::F2xm1 | N::Fyl2x | N::Fyl2xp1 | N::Fpatan | N::Fsin | N::Fcos | N::Fsincos => true,
        N::Fptan => true,
        // AMD processors take these for other instructions or refuse them.
        N::Ud0 | N::Ud1 | N::Fstpnce | N::Prefetchwt1 | N::Fstdw | N::Fstsg => true,
        N::Reservednop => is_reserved_prefetch(code),
        // The result is undefined; for SHLD and SHRD when the count exceeds 16.
        N::Bswap => code == Code::Bswap_r16,
        N::Shld | N::Shrd => matches!(
            code,
            Code::Shld_rm16_r16_CL
                | Code::Shrd_rm16_r16_CL
                | Code::Shld_rm16_r16_imm8
                | Code::Shrd_rm16_r16_imm8
        ),
        _ => false,
    }
}

/// 0F 0D with a register: nothing on Intel processors, #UD on AMD's.
fn is_reserved_prefetch(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

fn has_segment(code: Code) -> bool {
    use OpCodeOperandKind as K;
    let is_segment = |kind: &K| matches!(kind, K::es | K::cs | K::ss | K::ds | K::fs | K::gs);
    code.op_code().op_kinds().iter().any(is_segment)
}
