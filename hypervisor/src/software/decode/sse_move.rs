//! Handlers of SSE and MMX moves.

use iced_x86::{Instruction, Mnemonic};

use super::select::{in_memory, operand_bits};
use crate::software::execute::operand::{M, R1};
use crate::software::execute::sse::{self, Aligned, Register, Unaligned};
use crate::software::execute::sse_move::{self, LowPart};
use crate::software::execute::{mmx, sse_move as moves};
use crate::software::op::Handler;
use crate::software::simd::shuffle;

/// Implements [`sse::Compute`] for an instruction, and picks the form for its operand.
macro_rules! compute {
    ($i:expr, $type:ty, |$a:pat_param, $b:pat_param, $immediate:pat_param| $body:expr) => {{
        struct Operation;
        impl sse::Compute<$type> for Operation {
            #[inline(always)]
            fn apply($a: u128, $b: $type, $immediate: u8) -> u128 {
                $body
            }
        }
        if in_memory($i, 1) {
            sse::compute::<$type, Operation, <$type as sse::Lane>::Memory> as Handler
        } else {
            sse::compute::<$type, Operation, sse::Register>
        }
    }};
}
pub(super) use compute;

/// Whether operand `index` is an MMX register.
pub(super) fn is_mmx(i: &Instruction, index: u32) -> bool {
    i.op_count() > index && i.op_register(index).is_mm()
}

fn is_xmm(i: &Instruction, index: u32) -> bool {
    i.op_count() > index && i.op_register(index).is_xmm()
}

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    if i.is_string_instruction() {
        return None;
    }
    let to_memory = i.op_count() > 0 && in_memory(i, 0);
    Some(match i.mnemonic() {
        N::Movaps | N::Movapd | N::Movdqa if to_memory => moves::store_aligned,
        N::Movaps | N::Movapd | N::Movdqa => whole::<Aligned>(i),
        N::Movups | N::Movupd | N::Movdqu if to_memory => moves::store::<u128>,
        N::Movups | N::Movupd | N::Movdqu | N::Lddqu => whole::<Unaligned>(i),
        N::Movntps | N::Movntpd | N::Movntdq => moves::store_aligned,
        N::Movntdqa => whole::<Aligned>(i),
        N::Movss if to_memory => moves::store::<u32>,
        N::Movss if in_memory(i, 1) => compute!(i, u32, |_, b, _| u128::from(b)),
        N::Movss => compute!(i, u32, |a, b, _| shuffle::with_low32(a, b)),
        N::Movsd if to_memory => moves::store::<u64>,
        N::Movsd if in_memory(i, 1) => compute!(i, u64, |_, b, _| u128::from(b)),
        N::Movsd => compute!(i, u64, |a, b, _| shuffle::with_low64(a, b)),
        N::Movlps | N::Movlpd if to_memory => moves::store::<u64>,
        N::Movlps | N::Movlpd => compute!(i, u64, |a, b, _| shuffle::with_low64(a, b)),
        N::Movhps | N::Movhpd if to_memory => moves::store_high,
        N::Movhps | N::Movhpd => compute!(i, u64, |a, b, _| shuffle::with_high64(a, b)),
        N::Movhlps => compute!(i, u128, |a, b, _| shuffle::movhlps(a, b)),
        N::Movlhps => compute!(i, u128, |a, b, _| shuffle::punpcklqdq(a, b)),
        N::Movddup => compute!(i, u64, |_, b, _| shuffle::movddup(b)),
        N::Movsldup => compute!(i, u128, |_, b, _| shuffle::movsldup(b)),
        N::Movshdup => compute!(i, u128, |_, b, _| shuffle::movshdup(b)),
        N::Movq2dq => mmx::to_xmm,
        N::Movdq2q => mmx::from_xmm,
        N::Maskmovdqu => sse_move::store_masked,
        N::Maskmovq => mmx::store_masked,
        N::Movntq => mmx::store::<u64>,
        N::Movd | N::Movq => partial(i, to_memory)?,
        _ => return None,
    })
}

fn whole<S: sse::Source<u128>>(i: &Instruction) -> Handler {
    if in_memory(i, 1) {
        moves::load::<S>
    } else {
        moves::load::<Register>
    }
}

/// MOVD and MOVQ: 32 or 64 bits between MMX, XMM, general registers and memory.
fn partial(i: &Instruction, to_memory: bool) -> Option<Handler> {
    let wide = i.mnemonic() == Mnemonic::Movq;
    if to_memory {
        return Some(match (is_mmx(i, 1), wide) {
            (true, false) => mmx::store::<u32>,
            (true, true) => mmx::store::<u64>,
            (false, false) => moves::store::<u32>,
            (false, true) => moves::store::<u64>,
        });
    }
    let from_memory = in_memory(i, 1);
    if is_xmm(i, 0) {
        return Some(match (from_memory, is_xmm(i, 1), operand_bits(i, 1)) {
            (true, _, 32) => moves::from_general::<u32, M>,
            (true, _, _) => moves::from_general::<u64, M>,
            (_, true, _) => compute!(i, u64, |_, b, _| u128::from(b)),
            (_, _, 32) => moves::from_general::<u32, R1>,
            _ => moves::from_general::<u64, R1>,
        });
    }
    if is_mmx(i, 0) {
        return Some(match (from_memory, is_mmx(i, 1), operand_bits(i, 1)) {
            (true, _, 32) => mmx::from_general::<u32, M>,
            (true, _, _) => mmx::from_general::<u64, M>,
            (_, true, _) => mmx::compute::<u64, Copy, mmx::Register>,
            (_, _, 32) => mmx::from_general::<u32, R1>,
            _ => mmx::from_general::<u64, R1>,
        });
    }
    Some(match (is_mmx(i, 1), is_xmm(i, 1), operand_bits(i, 0)) {
        (true, _, 32) => mmx::to_general::<u32>,
        (true, _, _) => mmx::to_general::<u64>,
        (_, true, 32) => sse::extract::<u32, LowPart>,
        (_, true, _) => sse::extract::<u64, LowPart>,
        _ => return None,
    })
}

/// MOVQ between MMX registers.
struct Copy;
impl mmx::Compute<u64> for Copy {
    #[inline(always)]
    fn apply(_: u64, b: u64, _: u8) -> u64 {
        b
    }
}
