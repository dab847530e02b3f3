//! The macros and questions with which handlers are chosen.

use iced_x86::{Instruction, OpKind};

/// Bits of operand `index`.
pub fn operand_bits(instruction: &Instruction, index: u32) -> u32 {
    let bytes = match instruction.op_kind(index) {
        OpKind::Register => instruction.op_register(index).size(),
        _ => instruction.memory_size().size(),
    };
    bytes as u32 * 8
}

/// Whether operand `index` is in memory.
pub fn in_memory(instruction: &Instruction, index: u32) -> bool {
    instruction.op_kind(index) == OpKind::Memory
}

/// Whether operand `index` is a register.
pub fn in_register(instruction: &Instruction, index: u32) -> bool {
    instruction.op_kind(index) == OpKind::Register
}

/// The handler for `$bits`, with the other type arguments in brackets.
macro_rules! by_width {
    ($bits:expr, $($path:ident)::+) => {
        match $bits {
            8 => $($path)::+::<u8> as $crate::software::op::Handler,
            16 => $($path)::+::<u16>,
            32 => $($path)::+::<u32>,
            _ => $($path)::+::<u64>,
        }
    };
    ($bits:expr, $($path:ident)::+, [$($generic:tt)*]) => {
        match $bits {
            8 => $($path)::+::<u8, $($generic)*> as $crate::software::op::Handler,
            16 => $($path)::+::<u16, $($generic)*>,
            32 => $($path)::+::<u32, $($generic)*>,
            _ => $($path)::+::<u64, $($generic)*>,
        }
    };
}

/// As `by_width`, for instructions without an 8-bit form.
macro_rules! by_wide_width {
    ($bits:expr, $($path:ident)::+) => {
        match $bits {
            16 => $($path)::+::<u16> as $crate::software::op::Handler,
            32 => $($path)::+::<u32>,
            _ => $($path)::+::<u64>,
        }
    };
    ($bits:expr, $($path:ident)::+, [$($generic:tt)*]) => {
        match $bits {
            16 => $($path)::+::<u16, $($generic)*> as $crate::software::op::Handler,
            32 => $($path)::+::<u32, $($generic)*>,
            _ => $($path)::+::<u64, $($generic)*>,
        }
    };
}

/// The handler for a condition code as its last argument.
macro_rules! by_condition {
    ($code:expr, $($path:ident)::+, [$($generic:tt)*]) => {
        match $code {
            0 => $($path)::+::<$($generic)* 0> as $crate::software::op::Handler,
            1 => $($path)::+::<$($generic)* 1>,
            2 => $($path)::+::<$($generic)* 2>,
            3 => $($path)::+::<$($generic)* 3>,
            4 => $($path)::+::<$($generic)* 4>,
            5 => $($path)::+::<$($generic)* 5>,
            6 => $($path)::+::<$($generic)* 6>,
            7 => $($path)::+::<$($generic)* 7>,
            8 => $($path)::+::<$($generic)* 8>,
            9 => $($path)::+::<$($generic)* 9>,
            10 => $($path)::+::<$($generic)* 10>,
            11 => $($path)::+::<$($generic)* 11>,
            12 => $($path)::+::<$($generic)* 12>,
            13 => $($path)::+::<$($generic)* 13>,
            14 => $($path)::+::<$($generic)* 14>,
            _ => $($path)::+::<$($generic)* 15>,
        }
    };
}

pub(super) use {by_condition, by_wide_width, by_width};
