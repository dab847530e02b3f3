//! SSE moves that are not computed like others: stores, moves from and to general registers,
//! masked stores. Spec: Intel SDM vol. 2, MOVAPS to MOVUPS, MOVNTxx, MOVD, MOVQ, MASKMOVDQU.
//!
//! Non-temporal hints change nothing: this processor has no caches that show.

use super::operand::Operand;
use super::sse::{Extract, Lane, Source, require_aligned, source, target};
use crate::software::cpu::Cpu;
use crate::software::op::{Op, Outcome, reg};
use crate::software::simd::logic::maskmov_bytes;
use crate::software::width::Width;

/// MOVAPS and relatives, load or between registers.
pub extern "C" fn load<S: Source<u128>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    *target(cpu, op) = S::get(cpu, op)?;
    Ok(())
}

/// MOVUPS, MOVSS, MOVSD, MOVLPS, MOVQ: the low part to memory.
pub extern "C" fn store<T: Lane>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let value = T::low(source(cpu, op));
    cpu.store_operand(op, value)
}

/// MOVAPS, MOVNTDQ and relatives: the whole register to aligned memory.
pub extern "C" fn store_aligned(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let linear = cpu.linear(op, 16, true)?;
    require_aligned::<u128>(cpu, linear)?;
    let value = source(cpu, op);
    cpu.store(linear, value)
}

/// MOVHPS, MOVHPD: the high half to memory.
pub extern "C" fn store_high(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let value = (source(cpu, op) >> 64) as u64;
    cpu.store_operand(op, value)
}

/// MOVD, MOVQ from a general register or memory: the rest is cleared.
pub extern "C" fn from_general<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let value = S::get::<W>(cpu, op)?.zero_extend();
    *target(cpu, op) = u128::from(value);
    Ok(())
}

/// MOVD, MOVQ to a general register.
pub struct LowPart;
impl<W: Lane> Extract<W> for LowPart {
    #[inline(always)]
    fn apply(b: u128, _: u8) -> W {
        W::low(b)
    }
}

/// MASKMOVDQU: the bytes of operand 0 whose mask byte in operand 1 is negative, to DS:RDI.
/// Without such a byte memory is not touched.
pub extern "C" fn store_masked(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let value = cpu.fpu.xmm[usize::from(op.src & 15)];
    let chosen = maskmov_bytes(cpu.fpu.xmm[usize::from(op.third & 15)]);
    store_bytes(cpu, op, &value.to_le_bytes(), chosen)
}

/// Stores the bytes of `value` that `chosen` has bits for at the address in RDI.
///
/// # Errors
/// As [`Cpu::store`].
pub fn store_bytes(cpu: &mut Cpu, op: &Op, value: &[u8], chosen: u32) -> Outcome {
    if chosen == 0 {
        return Ok(());
    }
    let at = Op {
        base: reg::RDI as u8,
        ..*op
    };
    let linear = cpu.linear(&at, value.len() as u64, true)?;
    cpu.probe_write(linear, value.len())?;
    let mut bytes = [0; 16];
    let bytes = &mut bytes[..value.len()];
    cpu.read_bytes(linear, bytes)?;
    for (index, (byte, new)) in bytes.iter_mut().zip(value).enumerate() {
        if chosen >> index & 1 != 0 {
            *byte = *new;
        }
    }
    cpu.write_bytes(linear, bytes)
}
