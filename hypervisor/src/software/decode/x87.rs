//! Handlers of x87 instructions.

use iced_x86::{Instruction, MemorySize, Mnemonic, Register};

use super::Chosen;
use super::select::in_memory;
use crate::software::cpu::Mode;
use crate::software::execute::operand::M;
use crate::software::execute::x87::{self, OPCODE_SHIFT};
use crate::software::float::F80;
use crate::software::op::Handler;
use crate::software::x87::Comparison::{Ordered, Unordered};
use crate::software::x87::{CompareFlags, Constant, Operand, Operation, X87State};

/// The immediate of an x87 instruction: its opcode and where it lies. `None` for all others.
///
/// `bytes` start with the instruction.
pub fn immediate(bytes: &[u8], rip: u64, mode: Mode) -> Option<u64> {
    let is_prefix = |byte: u8| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        ) || (mode == Mode::Long && byte & 0xf0 == 0x40)
    };
    let at = bytes.iter().position(|&byte| !is_prefix(byte))?;
    let (escape, modrm) = (*bytes.get(at)?, *bytes.get(at + 1)?);
    if escape & 0xf8 != 0xd8 {
        return None;
    }
    let opcode = u64::from(escape & 7) << 8 | u64::from(modrm);
    Some(opcode << OPCODE_SHIFT | (rip & ((1 << OPCODE_SHIFT) - 1)))
}

/// An instruction on registers.
macro_rules! registers {
    (|$x87:ident, $index:pat_param| $body:expr) => {{
        struct Instruction;
        impl x87::OnRegisters for Instruction {
            #[inline(always)]
            fn apply($x87: &mut X87State, $index: u8) {
                $body
            }
        }
        x87::registers::<Instruction> as Handler
    }};
}

/// An instruction that reads memory.
macro_rules! load {
    ($type:ty, |$x87:ident, $value:ident| $body:expr) => {{
        struct Instruction;
        impl x87::Load<$type> for Instruction {
            #[inline(always)]
            fn apply($x87: &mut X87State, $value: $type) {
                $body
            }
        }
        x87::load::<$type, Instruction> as Handler
    }};
}

/// An instruction that writes memory.
macro_rules! store {
    ($type:ty, |$x87:ident| $body:expr) => {{
        struct Instruction;
        impl x87::Store<$type> for Instruction {
            #[inline(always)]
            fn apply($x87: &mut X87State) -> Option<$type> {
                $body
            }
        }
        x87::store::<$type, Instruction> as Handler
    }};
}

/// A comparison into the flags.
macro_rules! into_flags {
    ($kind:expr, $pop:literal) => {{
        struct Instruction;
        impl x87::IntoFlags for Instruction {
            #[inline(always)]
            fn apply(x87: &mut X87State, index: u8) -> CompareFlags {
                x87.fcomi($kind, index, $pop)
            }
        }
        x87::compare::<Instruction> as Handler
    }};
}

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction) -> Option<Chosen> {
    control(i)
        .or_else(|| environment(i))
        .or_else(|| arithmetic(i))
        .or_else(|| loads(i))
        .or_else(|| stores(i))
        .or_else(|| comparisons(i))
        .or_else(|| stack(i))
        .or_else(|| functions(i))
        .map(Chosen::next)
}

fn control(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Wait => x87::wait,
        N::Fnop => x87::no_operation,
        N::Fninit => x87::initialise,
        N::Fnclex => x87::clear_exceptions,
        N::Fldcw => x87::load_control,
        N::Fnstcw => x87::store_control,
        N::Fnstsw if in_memory(i, 0) => x87::store_status::<M>,
        N::Fnstsw => x87::store_status_in_ax,
        N::Fneni | N::Fndisi | N::Fnsetpm => x87::forgotten,
        _ => return None,
    })
}

fn environment(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    let wide = matches!(
        i.memory_size(),
        MemorySize::FpuEnv28 | MemorySize::FpuState108
    );
    Some(match (i.mnemonic(), wide) {
        (N::Fnstenv, false) => x87::store_environment::<false, false>,
        (N::Fnstenv, true) => x87::store_environment::<false, true>,
        (N::Fnsave, false) => x87::store_environment::<true, false>,
        (N::Fnsave, true) => x87::store_environment::<true, true>,
        (N::Fldenv, false) => x87::load_environment::<false, false>,
        (N::Fldenv, true) => x87::load_environment::<false, true>,
        (N::Frstor, false) => x87::load_environment::<true, false>,
        (N::Frstor, true) => x87::load_environment::<true, true>,
        _ => return None,
    })
}

/// The forms of one operation: memory of two formats, ST(0) by ST(i), ST(i) by ST(0).
macro_rules! operation {
    ($i:expr, $operation:expr) => {
        if in_memory($i, 0) {
            match $i.memory_size() {
                MemorySize::Float32 => load!(u32, |x87, value| {
                    x87.arithmetic_memory($operation, Operand::Single(value))
                }),
                _ => load!(u64, |x87, value| {
                    x87.arithmetic_memory($operation, Operand::Double(value))
                }),
            }
        } else if $i.op0_register() == Register::ST0 {
            registers!(|x87, i| x87.arithmetic_register($operation, 0, i, false))
        } else {
            registers!(|x87, i| x87.arithmetic_register($operation, i, 0, false))
        }
    };
}

/// The pop form of an operation.
macro_rules! popping {
    ($operation:expr) => {
        registers!(|x87, i| x87.arithmetic_register($operation, i, 0, true))
    };
}

/// The form of an operation with an integer in memory.
macro_rules! by_integer {
    ($i:expr, $operation:expr) => {
        match $i.memory_size() {
            MemorySize::Int16 => load!(i16, |x87, value| {
                x87.arithmetic_memory($operation, Operand::Word(value))
            }),
            _ => load!(i32, |x87, value| {
                x87.arithmetic_memory($operation, Operand::Doubleword(value))
            }),
        }
    };
}

fn arithmetic(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    use Operation::{Add, Divide, DivideReversed, Multiply, Subtract, SubtractReversed};
    Some(match i.mnemonic() {
        N::Fadd => operation!(i, Add),
        N::Fmul => operation!(i, Multiply),
        N::Fsub => operation!(i, Subtract),
        N::Fsubr => operation!(i, SubtractReversed),
        N::Fdiv => operation!(i, Divide),
        N::Fdivr => operation!(i, DivideReversed),
        N::Faddp => popping!(Add),
        N::Fmulp => popping!(Multiply),
        N::Fsubp => popping!(Subtract),
        N::Fsubrp => popping!(SubtractReversed),
        N::Fdivp => popping!(Divide),
        N::Fdivrp => popping!(DivideReversed),
        N::Fiadd => by_integer!(i, Add),
        N::Fimul => by_integer!(i, Multiply),
        N::Fisub => by_integer!(i, Subtract),
        N::Fisubr => by_integer!(i, SubtractReversed),
        N::Fidiv => by_integer!(i, Divide),
        N::Fidivr => by_integer!(i, DivideReversed),
        _ => return None,
    })
}

fn loads(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    macro_rules! constant {
        ($constant:expr) => {
            registers!(|x87, _| x87.fld_constant($constant))
        };
    }
    Some(match (i.mnemonic(), i.memory_size()) {
        (N::Fld, MemorySize::Float32) => load!(u32, |x87, value| x87.fld_f32(value)),
        (N::Fld, MemorySize::Float64) => load!(u64, |x87, value| x87.fld_f64(value)),
        (N::Fld, MemorySize::Float80) => load!(F80, |x87, value| x87.fld_f80(value)),
        (N::Fld, _) => registers!(|x87, i| x87.fld_register(i)),
        (N::Fild, MemorySize::Int16) => load!(i16, |x87, value| x87.fild(i64::from(value))),
        (N::Fild, MemorySize::Int32) => load!(i32, |x87, value| x87.fild(i64::from(value))),
        (N::Fild, _) => load!(i64, |x87, value| x87.fild(value)),
        (N::Fbld, _) => load!([u8; 10], |x87, value| x87.fbld(value)),
        (N::Fld1, _) => constant!(Constant::One),
        (N::Fldl2t, _) => constant!(Constant::Log2Of10),
        (N::Fldl2e, _) => constant!(Constant::Log2OfE),
        (N::Fldpi, _) => constant!(Constant::Pi),
        (N::Fldlg2, _) => constant!(Constant::Log10Of2),
        (N::Fldln2, _) => constant!(Constant::LnOf2),
        (N::Fldz, _) => constant!(Constant::Zero),
        _ => return None,
    })
}

fn stores(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match (i.mnemonic(), i.memory_size()) {
        (N::Fst, MemorySize::Float32) => store!(u32, |x87| x87.fst_f32(false)),
        (N::Fst, MemorySize::Float64) => store!(u64, |x87| x87.fst_f64(false)),
        (N::Fst, _) => registers!(|x87, i| x87.fst_register(i, false)),
        (N::Fstp, MemorySize::Float32) => store!(u32, |x87| x87.fst_f32(true)),
        (N::Fstp, MemorySize::Float64) => store!(u64, |x87| x87.fst_f64(true)),
        (N::Fstp, MemorySize::Float80) => store!(F80, |x87| x87.fstp_f80()),
        (N::Fstp | N::Fstpnce, _) => registers!(|x87, i| x87.fst_register(i, true)),
        (N::Fist, MemorySize::Int16) => store!(i16, |x87| x87.fist_i16(false)),
        (N::Fist, _) => store!(i32, |x87| x87.fist_i32(false)),
        (N::Fistp, MemorySize::Int16) => store!(i16, |x87| x87.fist_i16(true)),
        (N::Fistp, MemorySize::Int32) => store!(i32, |x87| x87.fist_i32(true)),
        (N::Fistp, _) => store!(i64, |x87| x87.fistp_i64()),
        (N::Fisttp, MemorySize::Int16) => store!(i16, |x87| x87.fisttp_i16()),
        (N::Fisttp, MemorySize::Int32) => store!(i32, |x87| x87.fisttp_i32()),
        (N::Fisttp, _) => store!(i64, |x87| x87.fisttp_i64()),
        (N::Fbstp, _) => store!([u8; 10], |x87| x87.fbstp()),
        _ => return None,
    })
}

/// FCOM or FCOMP: memory of two formats, or a register.
macro_rules! compare {
    ($i:expr, $pop:literal) => {
        match $i.memory_size() {
            MemorySize::Float32 => {
                load!(u32, |x87, value| x87
                    .fcom_memory(Operand::Single(value), $pop))
            }
            MemorySize::Float64 => {
                load!(u64, |x87, value| x87
                    .fcom_memory(Operand::Double(value), $pop))
            }
            _ => registers!(|x87, i| x87.fcom_register(Ordered, i, u8::from($pop))),
        }
    };
}

/// FICOM or FICOMP.
macro_rules! compare_integer {
    ($i:expr, $pop:literal) => {
        match $i.memory_size() {
            MemorySize::Int16 => {
                load!(i16, |x87, value| x87
                    .fcom_memory(Operand::Word(value), $pop))
            }
            _ => load!(i32, |x87, value| x87
                .fcom_memory(Operand::Doubleword(value), $pop)),
        }
    };
}

fn comparisons(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Fcom => compare!(i, false),
        N::Fcomp => compare!(i, true),
        N::Ficom => compare_integer!(i, false),
        N::Ficomp => compare_integer!(i, true),
        N::Fcompp => registers!(|x87, _| x87.fcom_register(Ordered, 1, 2)),
        N::Fucom => registers!(|x87, i| x87.fcom_register(Unordered, i, 0)),
        N::Fucomp => registers!(|x87, i| x87.fcom_register(Unordered, i, 1)),
        N::Fucompp => registers!(|x87, _| x87.fcom_register(Unordered, 1, 2)),
        N::Fcomi => into_flags!(Ordered, false),
        N::Fcomip => into_flags!(Ordered, true),
        N::Fucomi => into_flags!(Unordered, false),
        N::Fucomip => into_flags!(Unordered, true),
        N::Ftst => registers!(|x87, _| x87.ftst()),
        N::Fxam => registers!(|x87, _| x87.fxam()),
        _ => return None,
    })
}

fn stack(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Fxch => registers!(|x87, i| x87.fxch(i)),
        N::Ffree => registers!(|x87, i| x87.ffree(i, false)),
        N::Ffreep => registers!(|x87, i| x87.ffree(i, true)),
        N::Fincstp => registers!(|x87, _| x87.fincstp()),
        N::Fdecstp => registers!(|x87, _| x87.fdecstp()),
        // Condition codes as those of Jcc: below, equal, below or equal, parity; and not.
        N::Fcmovb => x87::conditional_move::<2>,
        N::Fcmovnb => x87::conditional_move::<3>,
        N::Fcmove => x87::conditional_move::<4>,
        N::Fcmovne => x87::conditional_move::<5>,
        N::Fcmovbe => x87::conditional_move::<6>,
        N::Fcmovnbe => x87::conditional_move::<7>,
        N::Fcmovu => x87::conditional_move::<10>,
        N::Fcmovnu => x87::conditional_move::<11>,
        _ => return None,
    })
}

fn functions(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Fchs => registers!(|x87, _| x87.fchs()),
        N::Fabs => registers!(|x87, _| x87.fabs()),
        N::Fsqrt => registers!(|x87, _| x87.fsqrt()),
        N::Frndint => registers!(|x87, _| x87.frndint()),
        N::Fscale => registers!(|x87, _| x87.fscale()),
        N::Fxtract => registers!(|x87, _| x87.fxtract()),
        N::Fprem => registers!(|x87, _| x87.fprem()),
        N::Fprem1 => registers!(|x87, _| x87.fprem1()),
        N::F2xm1 => registers!(|x87, _| x87.f2xm1()),
        N::Fyl2x => registers!(|x87, _| x87.fyl2x()),
        N::Fyl2xp1 => registers!(|x87, _| x87.fyl2xp1()),
        N::Fpatan => registers!(|x87, _| x87.fpatan()),
        N::Fsin => registers!(|x87, _| x87.fsin()),
        N::Fcos => registers!(|x87, _| x87.fcos()),
        N::Fsincos => registers!(|x87, _| x87.fsincos()),
        N::Fptan => registers!(|x87, _| x87.fptan()),
        _ => return None,
    })
}
