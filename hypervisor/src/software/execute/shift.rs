//! Shifts and rotates. Spec: Intel SDM vol. 2, SAL SHL SAR SHR ROL ROR RCL RCR SHLD SHRD.
//!
//! Undefined in the manual, fixed here as AMD and Intel processors are seen to do: OF for counts
//! other than one is computed by the one-bit rule on the final step; AF after shifts is clear.

use super::operand::{Operand, Target};
use crate::software::cpu::Cpu;
use crate::software::flags::Flags;
use crate::software::op::{Op, Outcome, reg};
use crate::software::width::Width;

/// A shift by a masked count that is not zero.
pub trait Shift {
    /// The shifted value; flags follow.
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W;
}

/// SHL and SAL.
pub struct Left;
impl Shift for Left {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let wide = u128::from(value.zero_extend()) << count;
        let result = W::from_u64(wide as u64);
        let carry = wide >> W::BITS & 1 != 0;
        flags.set_shift(
            result,
            carry,
            (result.zero_extend() & W::SIGN != 0) != carry,
        );
        result
    }
}

/// SHR.
pub struct Right;
impl Shift for Right {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let before = value.zero_extend();
        let wide = u128::from(before) << 1 >> count;
        let result = W::from_u64((wide >> 1) as u64);
        // The bit that the last step brought under the sign decides about overflow.
        let top = (result.zero_extend() ^ result.zero_extend() << 1) & W::SIGN != 0;
        flags.set_shift(result, wide & 1 != 0, top);
        result
    }
}

/// SAR.
pub struct Arithmetic;
impl Shift for Arithmetic {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let wide = (i128::from(value.sign_extend() as i64) << 1) >> count;
        let result = W::from_u64((wide >> 1) as u64);
        flags.set_shift(result, wide & 1 != 0, false);
        result
    }
}

/// ROL.
pub struct RotateLeft;
impl Shift for RotateLeft {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let result = rotate_left(value, count % W::BITS);
        let low = result.zero_extend() & 1 != 0;
        let high = result.zero_extend() & W::SIGN != 0;
        flags.set_carry_overflow(low, high != low);
        result
    }
}

/// ROR.
pub struct RotateRight;
impl Shift for RotateRight {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let result = rotate_left(value, (W::BITS - count % W::BITS) % W::BITS);
        let high = result.zero_extend() & W::SIGN != 0;
        let next = result.zero_extend() & (W::SIGN >> 1) != 0;
        flags.set_carry_overflow(high, high != next);
        result
    }
}

/// RCL: rotates through the carry.
pub struct RotateCarryLeft;
impl Shift for RotateCarryLeft {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let ring = u128::from(value.zero_extend()) | u128::from(flags.carry()) << W::BITS;
        let turned = turn(ring, count % (W::BITS + 1), W::BITS + 1);
        let (result, carry) = (W::from_u64(turned as u64), turned >> W::BITS & 1 != 0);
        flags.set_carry_overflow(carry, (result.zero_extend() & W::SIGN != 0) != carry);
        result
    }
}

/// RCR: rotates through the carry.
pub struct RotateCarryRight;
impl Shift for RotateCarryRight {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, value: W, count: u32) -> W {
        let bits = W::BITS + 1;
        let ring = u128::from(value.zero_extend()) | u128::from(flags.carry()) << W::BITS;
        let turned = turn(ring, (bits - count % bits) % bits, bits);
        let (result, carry) = (W::from_u64(turned as u64), turned >> W::BITS & 1 != 0);
        let high = result.zero_extend() & W::SIGN != 0;
        let next = result.zero_extend() & (W::SIGN >> 1) != 0;
        flags.set_carry_overflow(carry, high != next);
        result
    }
}

#[inline(always)]
fn rotate_left<W: Width>(value: W, count: u32) -> W {
    let wide = u128::from(value.zero_extend()) << count;
    W::from_u64((wide | wide >> W::BITS) as u64)
}

#[inline(always)]
fn turn(ring: u128, count: u32, bits: u32) -> u128 {
    ((ring << count) | (ring >> (bits - count))) & ((1 << bits) - 1)
}

#[inline(always)]
fn masked<W: Width>(count: u8) -> u32 {
    u32::from(count) & if W::BITS == 64 { 63 } else { 31 }
}

/// A shift whose count is operand 1 (CL or an immediate).
pub extern "C" fn shift<W: Width, H: Shift, D: Target, S: Operand>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let count = masked::<W>(S::get::<u8>(cpu, op)?);
    let value = D::get_to_modify::<W>(cpu, op)?;
    if count == 0 {
        // The destination is still written: a 32-bit register loses its upper half.
        return D::put(cpu, op, value);
    }
    let mut flags = cpu.flags;
    let result = H::apply(&mut flags, value, count);
    D::put(cpu, op, result)?;
    cpu.flags = flags;
    Ok(())
}

/// Count of SHLD and SHRD: CL, or the immediate.
#[inline(always)]
fn double_count<W: Width, const BY_CL: bool>(cpu: &Cpu, op: &Op) -> u32 {
    masked::<W>(if BY_CL {
        cpu.regs[reg::RCX] as u8
    } else {
        op.imm as u8
    })
}

/// SHLD. Counts above 16 on 16-bit operands (undefined) go on with the bits of the pair.
pub extern "C" fn double_left<W: Width, D: Target, const BY_CL: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let count = double_count::<W, BY_CL>(cpu, op);
    let high = D::get_to_modify::<W>(cpu, op)?;
    if count == 0 {
        return D::put(cpu, op, high);
    }
    let low = u128::from(W::get(cpu, op.src).zero_extend());
    let high_bits = u128::from(high.zero_extend());
    let (ring, bits) = if W::BITS == 16 {
        (high_bits << 32 | low << 16 | high_bits, 48)
    } else {
        (high_bits << W::BITS | low, 2 * W::BITS)
    };
    let carry = ring >> (bits - count) & 1 != 0;
    let result = W::from_u64((ring << count >> (bits - W::BITS)) as u64);
    D::put(cpu, op, result)?;
    let overflow = (high.zero_extend() ^ result.zero_extend()) & W::SIGN != 0;
    cpu.flags.set_shift(result, carry, overflow);
    Ok(())
}

/// SHRD. Counts above 16 on 16-bit operands (undefined) go on with the bits of the pair.
pub extern "C" fn double_right<W: Width, D: Target, const BY_CL: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let count = double_count::<W, BY_CL>(cpu, op);
    let low = D::get_to_modify::<W>(cpu, op)?;
    if count == 0 {
        return D::put(cpu, op, low);
    }
    let low_bits = u128::from(low.zero_extend());
    let high = u128::from(W::get(cpu, op.src).zero_extend());
    let pair = if W::BITS == 16 {
        low_bits << 32 | high << 16 | low_bits
    } else {
        high << W::BITS | low_bits
    };
    let result = W::from_u64((pair >> count) as u64);
    let carry = pair >> (count - 1) & 1 != 0;
    D::put(cpu, op, result)?;
    let overflow = (low.zero_extend() ^ result.zero_extend()) & W::SIGN != 0;
    cpu.flags.set_shift(result, carry, overflow);
    Ok(())
}
