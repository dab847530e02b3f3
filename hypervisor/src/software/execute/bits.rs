//! Bit tests, scans, counts, and BMI. Spec: Intel SDM vol. 2, BT BTS BTR BTC BSF BSR POPCNT LZCNT
//! TZCNT ANDN BEXTR BLSI BLSMSK BLSR BZHI MULX PDEP PEXT RORX SARX SHLX SHRX CRC32.
//!
//! Undefined in the manual, fixed here: BT leaves all flags but CF; BSF and BSR of zero leave the
//! destination and set only ZF; the other flags of scans and counts follow the result.

use super::operand::{M, Operand, Target};
use crate::software::cpu::Cpu;
use crate::software::op::{FLAT, LEGACY_16, Op, Outcome, Stop, reg};
use crate::software::simd::string;
use crate::software::width::Width;

/// What happens to the tested bit.
pub trait BitChange {
    /// Whether the operand is written.
    const WRITES: bool = true;
    /// The operand with the bit changed.
    fn change(value: u64, bit: u64) -> u64;
}

/// BT.
pub struct Keep;
impl BitChange for Keep {
    const WRITES: bool = false;
    fn change(value: u64, _: u64) -> u64 {
        value
    }
}
/// BTS.
pub struct Set;
impl BitChange for Set {
    fn change(value: u64, bit: u64) -> u64 {
        value | bit
    }
}
/// BTR.
pub struct Reset;
impl BitChange for Reset {
    fn change(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}
/// BTC.
pub struct Complement;
impl BitChange for Complement {
    fn change(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

/// BT and relatives on a register, or on memory with an immediate.
pub extern "C" fn bit_test<W: Width, C: BitChange, D: Target, S: Operand>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let index = S::get::<W>(cpu, op)?.zero_extend() % u64::from(W::BITS);
    let value = if C::WRITES {
        D::get_to_modify::<W>(cpu, op)?
    } else {
        D::get::<W>(cpu, op)?
    };
    if C::WRITES {
        D::put(
            cpu,
            op,
            W::from_u64(C::change(value.zero_extend(), 1 << index)),
        )?;
    }
    cpu.flags.set_carry(value.zero_extend() >> index & 1 != 0);
    Ok(())
}

/// BT and relatives on a bit string in memory: the register reaches beyond the operand.
pub extern "C" fn bit_test_string<W: Width, C: BitChange>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let index = W::get(cpu, op.src).sign_extend() as i64;
    let words = index >> W::BITS.trailing_zeros();
    let mut moved = *op;
    moved.disp = op.disp.wrapping_add((words * W::BYTES as i64) as u64);
    if op.addressing != FLAT {
        let mask = if op.addressing == LEGACY_16 {
            0xffff
        } else {
            0xffff_ffff
        };
        moved.disp &= mask;
    }
    let bit = index as u64 % u64::from(W::BITS);
    let value = if C::WRITES {
        M::get_to_modify::<W>(cpu, &moved)?
    } else {
        M::get::<W>(cpu, &moved)?
    };
    if C::WRITES {
        M::put(
            cpu,
            &moved,
            W::from_u64(C::change(value.zero_extend(), 1 << bit)),
        )?;
    }
    cpu.flags.set_carry(value.zero_extend() >> bit & 1 != 0);
    Ok(())
}

/// BSF.
pub extern "C" fn scan_forward<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    if value != 0 {
        W::set(cpu, op.dst, W::from_u64(u64::from(value.trailing_zeros())));
    }
    cpu.flags.set_zero(value == 0);
    Ok(())
}

/// BSR.
pub extern "C" fn scan_reverse<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    if value != 0 {
        W::set(
            cpu,
            op.dst,
            W::from_u64(u64::from(63 - value.leading_zeros())),
        );
    }
    cpu.flags.set_zero(value == 0);
    Ok(())
}

/// POPCNT: all flags clear but ZF.
pub extern "C" fn count_ones<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    W::set(cpu, op.dst, W::from_u64(u64::from(value.count_ones())));
    cpu.flags.set_bits(if value == 0 {
        crate::arch::x86_64::control::rflags::ZF
    } else {
        0
    });
    Ok(())
}

/// LZCNT.
pub extern "C" fn leading_zeros<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    let result = W::from_u64(u64::from(value.leading_zeros() - (64 - W::BITS)));
    W::set(cpu, op.dst, result);
    cpu.flags.set_shift(result, value == 0, false);
    Ok(())
}

/// TZCNT.
pub extern "C" fn trailing_zeros<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    let result = W::from_u64(u64::from(value.trailing_zeros().min(W::BITS)));
    W::set(cpu, op.dst, result);
    cpu.flags.set_shift(result, value == 0, false);
    Ok(())
}

/// ANDN: operand 1 inverted, and operand 2.
pub extern "C" fn and_not<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let b = S::get::<W>(cpu, op)?.zero_extend();
    let result = W::from_u64(!W::get(cpu, op.src).zero_extend() & b);
    W::set(cpu, op.dst, result);
    cpu.flags.set_logic(result);
    Ok(())
}

/// BEXTR: bits of operand 1; start and length in operand 2.
pub extern "C" fn extract_field<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    let control = W::get(cpu, op.third).zero_extend();
    let (start, len) = (control as u8, (control >> 8) as u8);
    let shifted = value.checked_shr(u32::from(start)).unwrap_or(0);
    let mask = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    let result = W::from_u64(shifted & mask);
    W::set(cpu, op.dst, result);
    cpu.flags.set_logic(result);
    Ok(())
}

/// BLSI, BLSMSK, BLSR chosen by `KIND` 0, 1, 2; destination is `op.dst`.
pub extern "C" fn lowest_bit<W: Width, S: Operand, const KIND: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    let (result, carry) = match KIND {
        0 => (value & value.wrapping_neg(), value != 0),
        1 => (value ^ value.wrapping_sub(1), value == 0),
        _ => (value & value.wrapping_sub(1), value == 0),
    };
    let result = W::from_u64(result);
    W::set(cpu, op.dst, result);
    cpu.flags.set_shift(result, carry, false);
    Ok(())
}

/// BZHI: clears the bits of operand 1 from the index in operand 2 on.
pub extern "C" fn zero_high<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?.zero_extend();
    let index = W::get(cpu, op.third).zero_extend() as u8;
    let beyond = u32::from(index) >= W::BITS;
    let result = W::from_u64(if beyond {
        value
    } else {
        value & ((1 << index) - 1)
    });
    W::set(cpu, op.dst, result);
    cpu.flags.set_shift(result, beyond, false);
    Ok(())
}

/// MULX: RDX times operand 2; high half to operand 0, low half to operand 1.
pub extern "C" fn multiply_plain<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let b = S::get::<W>(cpu, op)?.zero_extend();
    let a = W::get(cpu, reg::RDX as u8).zero_extend();
    let product = u128::from(a) * u128::from(b);
    W::set(cpu, op.src, W::from_u64(product as u64));
    W::set(cpu, op.dst, W::from_u64((product >> W::BITS) as u64));
    Ok(())
}

/// PDEP: low bits of operand 1 to the places that operand 2 marks.
pub extern "C" fn deposit<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let mut mask = S::get::<W>(cpu, op)?.zero_extend();
    let mut source = W::get(cpu, op.src).zero_extend();
    let mut result = 0;
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        if source & 1 != 0 {
            result |= bit;
        }
        source >>= 1;
        mask ^= bit;
    }
    W::set(cpu, op.dst, W::from_u64(result));
    Ok(())
}

/// PEXT: the bits of operand 1 that operand 2 marks, packed.
pub extern "C" fn extract<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let mut mask = S::get::<W>(cpu, op)?.zero_extend();
    let source = W::get(cpu, op.src).zero_extend();
    let (mut result, mut place) = (0, 1);
    while mask != 0 {
        let bit = mask & mask.wrapping_neg();
        if source & bit != 0 {
            result |= place;
        }
        place <<= 1;
        mask ^= bit;
    }
    W::set(cpu, op.dst, W::from_u64(result));
    Ok(())
}

/// RORX.
pub extern "C" fn rotate_plain<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = u128::from(S::get::<W>(cpu, op)?.zero_extend());
    let count = op.imm as u32 % W::BITS;
    let result = (value | value << W::BITS) >> count;
    W::set(cpu, op.dst, W::from_u64(result as u64));
    Ok(())
}

/// SARX, SHLX, SHRX chosen by `KIND` 0, 1, 2: operand 1 shifted by operand 2.
pub extern "C" fn shift_plain<W: Width, S: Operand, const KIND: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let value = S::get::<W>(cpu, op)?;
    let count = W::get(cpu, op.third).zero_extend() as u32 % W::BITS;
    let result = match KIND {
        0 => ((value.sign_extend() as i64) >> count) as u64,
        1 => value.zero_extend() << count,
        _ => value.zero_extend() >> count,
    };
    W::set(cpu, op.dst, W::from_u64(result));
    Ok(())
}

/// CRC32 (polynomial 0x11EDC6F41), `W` wide, into a register that op.dst names.
pub extern "C" fn crc32<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Stop> {
    let bytes = S::get::<W>(cpu, op)?.zero_extend().to_le_bytes();
    let crc = string::crc32(u32::get(cpu, op.dst), &bytes[..W::BYTES as usize]);
    u32::set(cpu, op.dst, crc);
    Ok(())
}
