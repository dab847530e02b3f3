//! Decimal adjustment, legacy modes only. Spec: Intel SDM vol. 2, DAA DAS AAA AAS AAM AAD.
//! Undefined flags: OF is clear; those of AAA and AAS but CF and AF follow AL.

use crate::arch::x86_64::control::rflags::{AF, CF};
use crate::arch::x86_64::exception;
use crate::software::cpu::Cpu;
use crate::software::exception::Fault;
use crate::software::op::{Op, Outcome, reg};
use crate::software::width::Width;

const AL: u8 = reg::RAX as u8;

fn finish(cpu: &mut Cpu, al: u8, adjusted: bool, carry: bool) {
    u8::set(cpu, AL, al);
    cpu.flags.set_logic(al);
    let bits = if adjusted { AF } else { 0 } | if carry { CF } else { 0 };
    let all = cpu.flags.to_bits();
    cpu.flags.set_bits(all | bits);
}

/// DAA (`SUBTRACT` false) and DAS.
pub extern "C" fn adjust_packed<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let old = u8::get(cpu, AL);
    let old_carry = cpu.flags.carry();
    let change = |value: u8, by: u8| {
        if SUBTRACT {
            value.wrapping_sub(by)
        } else {
            value.wrapping_add(by)
        }
    };
    let (mut al, mut carry) = (old, false);
    let adjusted = old & 0xf > 9 || cpu.flags.adjust();
    if adjusted {
        carry = old_carry || if SUBTRACT { old < 6 } else { old > 0xf9 };
        al = change(al, 6);
    }
    if old > 0x99 || old_carry {
        al = change(al, 0x60);
        carry = true;
    } else if !SUBTRACT {
        carry = false;
    }
    finish(cpu, al, adjusted, carry);
    Ok(())
}

/// AAA (`SUBTRACT` false) and AAS.
pub extern "C" fn adjust_unpacked<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let adjusted = u8::get(cpu, AL) & 0xf > 9 || cpu.flags.adjust();
    let ax = u16::get(cpu, AL);
    let ax = match (adjusted, SUBTRACT) {
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
        (false, _) => ax,
    };
    u16::set(cpu, AL, ax & 0xff0f);
    finish(cpu, ax as u8 & 0xf, adjusted, adjusted);
    Ok(())
}

/// AAM: #DE when the base is zero.
pub extern "C" fn split_digits(cpu: &mut Cpu, op: &Op) -> Outcome {
    let (al, base) = (u8::get(cpu, AL), op.imm as u8);
    if base == 0 {
        return Err(cpu.raise(Fault::plain(exception::DE)));
    }
    u16::set(cpu, AL, u16::from(al / base) << 8 | u16::from(al % base));
    cpu.flags.set_logic(al % base);
    Ok(())
}

/// AAD.
pub extern "C" fn join_digits(cpu: &mut Cpu, op: &Op) -> Outcome {
    let ax = u16::get(cpu, AL);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    u16::set(cpu, AL, u16::from(al));
    cpu.flags.set_logic(al);
    Ok(())
}
