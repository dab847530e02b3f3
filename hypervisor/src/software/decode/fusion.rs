//! A comparison and the conditional jump behind it as one op: a third of all blocks end so, and
//! a dispatch costs more than the comparison. Only in 64-bit mode.
//!
//! A fused op has the comparison's operands and place, so that a fault in it is the comparison's.
//! Both halves of `imm` are used: the comparison's immediate below, and above it the distance
//! from the end of the block to the jump's target.

use super::select::by_condition;
use crate::software::execute::alu::{Cmp, Test};
use crate::software::execute::branch::compare_and_jump;
use crate::software::execute::operand::{LowI, M, R0, R1};
use crate::software::op::{Handler, Kind, Op, Places, Work};

/// One op for `first` and `jump`, which ends at `end`; `None` when there is none.
pub fn fuse(first: &Op, jump: &Op, end: u64) -> Option<Op> {
    let (Kind::Binary { work, bits }, Kind::JumpIf(code)) = (first.kind, jump.kind) else {
        return None;
    };
    let distance = i32::try_from(jump.imm.wrapping_sub(end) as i64).ok()?;
    Some(Op {
        run: handler(work, first.places, bits, code)?,
        kind: Kind::CompareJump { work, bits, code },
        imm: u64::from(first.imm as u32) | u64::from(distance as u32) << 32,
        ..*first
    })
}

fn handler(work: Work, places: Places, bits: u8, code: u8) -> Option<Handler> {
    // Overflow and parity alone are asked for too rarely.
    if matches!(code, 0 | 1 | 10 | 11) {
        return None;
    }
    macro_rules! by_place {
        ($width:ty) => {
            match (work, places) {
                (Work::Compare, Places::Registers) => {
                    by_condition!(code, compare_and_jump, [$width, Cmp, R0, R1,])
                }
                (Work::Compare, Places::RegisterImmediate) => {
                    by_condition!(code, compare_and_jump, [$width, Cmp, R0, LowI,])
                }
                (Work::Compare, Places::RegisterMemory) => {
                    by_condition!(code, compare_and_jump, [$width, Cmp, R0, M,])
                }
                (Work::Compare, Places::MemoryRegister) => {
                    by_condition!(code, compare_and_jump, [$width, Cmp, M, R1,])
                }
                (Work::Compare, Places::MemoryImmediate) => {
                    by_condition!(code, compare_and_jump, [$width, Cmp, M, LowI,])
                }
                (Work::Test, Places::Registers) => {
                    by_condition!(code, compare_and_jump, [$width, Test, R0, R1,])
                }
                (Work::Test, Places::RegisterImmediate) => {
                    by_condition!(code, compare_and_jump, [$width, Test, R0, LowI,])
                }
                (Work::Test, Places::MemoryRegister) => {
                    by_condition!(code, compare_and_jump, [$width, Test, M, R1,])
                }
                (Work::Test, Places::MemoryImmediate) => {
                    by_condition!(code, compare_and_jump, [$width, Test, M, LowI,])
                }
                _ => return None,
            }
        };
    }
    Some(match bits {
        8 => by_place!(u8),
        32 => by_place!(u32),
        _ => by_place!(u64),
    })
}
