//! Integer addition, subtraction and logic. Spec: Intel SDM vol. 2, ADD ADC SUB SBB CMP AND OR
//! XOR TEST INC DEC NEG NOT. AF after logic (undefined in the manual) is clear.

use super::operand::{Operand, Target};
use crate::software::cpu::Cpu;
use crate::software::flags::Flags;
use crate::software::op::{Op, Outcome};
use crate::software::width::Width;

/// A two-operand operation on values and flags.
pub trait Alu {
    /// Whether the result is kept.
    const KEEPS: bool = true;
    /// The operation.
    fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W;
}

#[inline(always)]
fn add_with<W: Width>(flags: &mut Flags, a: W, b: W, carry: bool) -> W {
    let sum = u128::from(a.zero_extend()) + u128::from(b.zero_extend()) + u128::from(carry);
    let result = W::from_u64(sum as u64);
    flags.set_arithmetic(a, b, result, sum >> W::BITS != 0);
    result
}

#[inline(always)]
fn subtract_with<W: Width>(flags: &mut Flags, a: W, b: W, borrow: bool) -> W {
    let (a64, b64) = (a.zero_extend(), b.zero_extend());
    let result = W::from_u64(a64.wrapping_sub(b64).wrapping_sub(u64::from(borrow)));
    flags.set_arithmetic(a, b, result, a64 < b64 || (borrow && a64 == b64));
    result
}

/// ADD.
pub struct Add;
impl Alu for Add {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W {
        let result = W::from_u64(a.zero_extend().wrapping_add(b.zero_extend()));
        flags.set_arithmetic(a, b, result, result.zero_extend() < a.zero_extend());
        result
    }
}

/// ADC.
pub struct Adc;
impl Alu for Adc {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W {
        let carry = flags.carry();
        add_with(flags, a, b, carry)
    }
}

/// SUB.
pub struct Sub;
impl Alu for Sub {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W {
        subtract_with(flags, a, b, false)
    }
}

/// SBB.
pub struct Sbb;
impl Alu for Sbb {
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W {
        let borrow = flags.carry();
        subtract_with(flags, a, b, borrow)
    }
}

/// CMP.
pub struct Cmp;
impl Alu for Cmp {
    const KEEPS: bool = false;
    #[inline(always)]
    fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W {
        subtract_with(flags, a, b, false)
    }
}

macro_rules! logic {
    ($name:ident, $keeps:literal, $operator:tt, $doc:literal) => {
        #[doc = $doc]
        pub struct $name;
        impl Alu for $name {
            const KEEPS: bool = $keeps;
            #[inline(always)]
            fn apply<W: Width>(flags: &mut Flags, a: W, b: W) -> W {
                let result = W::from_u64(a.zero_extend() $operator b.zero_extend());
                flags.set_logic(result);
                result
            }
        }
    };
}
logic!(And, true, &, "AND.");
logic!(Or, true, |, "OR.");
logic!(Xor, true, ^, "XOR.");
logic!(Test, false, &, "TEST.");

/// A two-operand instruction.
#[inline]
pub extern "C" fn binary<W: Width, A: Alu, D: Target, S: Operand>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let b = S::get::<W>(cpu, op)?;
    let mut flags = cpu.flags;
    if A::KEEPS {
        let a = D::get_to_modify::<W>(cpu, op)?;
        let result = A::apply(&mut flags, a, b);
        D::put(cpu, op, result)?;
    } else {
        let a = D::get::<W>(cpu, op)?;
        A::apply(&mut flags, a, b);
    }
    cpu.flags = flags;
    Ok(())
}

/// INC.
pub extern "C" fn increment<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let a = D::get_to_modify::<W>(cpu, op)?;
    let result = W::from_u64(a.zero_extend().wrapping_add(1));
    D::put(cpu, op, result)?;
    cpu.flags
        .set_step(a, result, result.zero_extend() == W::SIGN);
    Ok(())
}

/// DEC.
pub extern "C" fn decrement<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let a = D::get_to_modify::<W>(cpu, op)?;
    let result = W::from_u64(a.zero_extend().wrapping_sub(1));
    D::put(cpu, op, result)?;
    cpu.flags.set_step(a, result, a.zero_extend() == W::SIGN);
    Ok(())
}

/// NEG.
pub extern "C" fn negate<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let b = D::get_to_modify::<W>(cpu, op)?;
    let mut flags = cpu.flags;
    let result = subtract_with(&mut flags, W::from_u64(0), b, false);
    D::put(cpu, op, result)?;
    cpu.flags = flags;
    Ok(())
}

/// NOT: no flags.
pub extern "C" fn complement<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let a = D::get_to_modify::<W>(cpu, op)?;
    D::put(cpu, op, W::from_u64(!a.zero_extend()))
}
