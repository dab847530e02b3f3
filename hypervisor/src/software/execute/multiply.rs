//! Multiplication and division. Spec: Intel SDM vol. 2, MUL IMUL DIV IDIV.
//!
//! Undefined in the manual, fixed here: SF, ZF, PF after multiplication follow the low half of
//! the result and AF is clear; division leaves all flags as they were.

use super::operand::{I, Operand};
use crate::arch::x86_64::exception;
use crate::software::cpu::Cpu;
use crate::software::exception::Fault;
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::width::{HIGH_BYTE, Width};

const AL: u8 = reg::RAX as u8;
const AH: u8 = reg::RAX as u8 | HIGH_BYTE;
const DX: u8 = reg::RDX as u8;

/// Puts a double-width value into DX:AX, EDX:EAX, RDX:RAX, or AX.
fn set_pair<W: Width>(cpu: &mut Cpu, value: u128) {
    let (low, high) = (
        W::from_u64(value as u64),
        W::from_u64((value >> W::BITS) as u64),
    );
    W::set(cpu, AL, low);
    W::set(cpu, if W::BITS == 8 { AH } else { DX }, high);
}

fn pair<W: Width>(cpu: &Cpu) -> u128 {
    let high = W::get(cpu, if W::BITS == 8 { AH } else { DX });
    u128::from(high.zero_extend()) << W::BITS | u128::from(W::get(cpu, AL).zero_extend())
}

/// MUL.
pub extern "C" fn multiply<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let b = S::get::<W>(cpu, op)?;
    let product = u128::from(W::get(cpu, AL).zero_extend()) * u128::from(b.zero_extend());
    set_pair::<W>(cpu, product);
    let large = product >> W::BITS != 0;
    cpu.flags
        .set_shift(W::from_u64(product as u64), large, large);
    Ok(())
}

#[inline(always)]
fn signed_product<W: Width>(a: W, b: W) -> (i128, bool) {
    let product = i128::from(a.sign_extend() as i64) * i128::from(b.sign_extend() as i64);
    let kept = W::from_u64(product as u64);
    (product, i128::from(kept.sign_extend() as i64) != product)
}

/// IMUL with one operand.
pub extern "C" fn multiply_signed<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let b = S::get::<W>(cpu, op)?;
    let (product, large) = signed_product(W::get(cpu, AL), b);
    set_pair::<W>(cpu, product as u128);
    cpu.flags
        .set_shift(W::from_u64(product as u64), large, large);
    Ok(())
}

/// IMUL with two operands.
pub extern "C" fn multiply_into<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let b = S::get::<W>(cpu, op)?;
    let (product, large) = signed_product(W::get(cpu, op.dst), b);
    let result = W::from_u64(product as u64);
    W::set(cpu, op.dst, result);
    cpu.flags.set_shift(result, large, large);
    Ok(())
}

/// IMUL with an immediate.
pub extern "C" fn multiply_by_immediate<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let a = S::get::<W>(cpu, op)?;
    let b = I::get::<W>(cpu, op)?;
    let (product, large) = signed_product(a, b);
    let result = W::from_u64(product as u64);
    W::set(cpu, op.dst, result);
    cpu.flags.set_shift(result, large, large);
    Ok(())
}

#[cold]
fn divide_error(cpu: &mut Cpu) -> Stop {
    cpu.raise(Fault::plain(exception::DE))
}

fn set_quotient<W: Width>(cpu: &mut Cpu, quotient: u64, remainder: u64) {
    W::set(cpu, AL, W::from_u64(quotient));
    W::set(
        cpu,
        if W::BITS == 8 { AH } else { DX },
        W::from_u64(remainder),
    );
}

/// DIV: #DE when the divisor is zero or the quotient too large.
pub extern "C" fn divide<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let divisor = u128::from(S::get::<W>(cpu, op)?.zero_extend());
    let dividend = pair::<W>(cpu);
    if divisor == 0 || dividend >> W::BITS >= divisor {
        return Err(divide_error(cpu));
    }
    let (quotient, remainder) = match (u64::try_from(dividend), divisor as u64) {
        (Ok(dividend), divisor) => (dividend / divisor, dividend % divisor),
        _ => ((dividend / divisor) as u64, (dividend % divisor) as u64),
    };
    set_quotient::<W>(cpu, quotient, remainder);
    Ok(())
}

/// IDIV: #DE when the divisor is zero or the quotient too large.
pub extern "C" fn divide_signed<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let divisor = i128::from(S::get::<W>(cpu, op)?.sign_extend() as i64);
    // Sign-extends the pair from twice the width.
    let unused = 128 - 2 * W::BITS;
    let dividend = (pair::<W>(cpu) << unused) as i128 >> unused;
    if divisor == 0 {
        return Err(divide_error(cpu));
    }
    let (Some(quotient), Some(remainder)) =
        (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(divide_error(cpu));
    };
    if i128::from(W::from_u64(quotient as u64).sign_extend() as i64) != quotient {
        return Err(divide_error(cpu));
    }
    set_quotient::<W>(cpu, quotient as u64, remainder as u64);
    Ok(())
}
