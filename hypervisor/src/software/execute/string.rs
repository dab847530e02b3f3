//! String instructions. Spec: Intel SDM vol. 2, MOVS CMPS STOS LODS SCAS and REP.
//!
//! A repeated instruction retires once, when it ends. Each iteration is committed by itself, so a
//! fault in the middle leaves registers that go on where it stopped; no interrupt is taken
//! between iterations.

use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::segment::ES;
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{FLAT, LEGACY_16, Op, Outcome, REP_EQUAL, REP_NONE, Stop, reg};
use crate::software::width::Width;

use super::alu::{Alu, Cmp};

/// The bits of RSI, RDI and RCX that the address size makes count.
fn address_mask(op: &Op) -> u64 {
    match op.addressing {
        FLAT => u64::MAX,
        LEGACY_16 => 0xffff,
        _ => 0xffff_ffff,
    }
}

fn set_address(cpu: &mut Cpu, register: usize, value: u64, mask: u64) {
    let slot = &mut cpu.regs[register];
    *slot = if mask == 0xffff {
        (*slot & !mask) | (value & mask)
    } else {
        value & mask
    };
}

fn step<W: Width>(cpu: &Cpu) -> u64 {
    if cpu.system_flags & rflags::DF != 0 {
        W::BYTES.wrapping_neg()
    } else {
        W::BYTES
    }
}

fn source<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<u64, Stop> {
    let offset = cpu.regs[reg::RSI] & address_mask(op);
    if cpu.mode == Mode::Long {
        Ok(offset.wrapping_add(cpu.regs[usize::from(op.segment_base & 31)]))
    } else {
        cpu.legacy_linear(op.segment, offset, W::BYTES, false)
    }
}

fn target<W: Width>(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Stop> {
    let offset = cpu.regs[reg::RDI] & address_mask(op);
    if cpu.mode == Mode::Long {
        Ok(offset)
    } else {
        cpu.legacy_linear(ES as u8, offset, W::BYTES, write)
    }
}

fn advance<W: Width>(cpu: &mut Cpu, op: &Op, register: usize) {
    let value = cpu.regs[register].wrapping_add(step::<W>(cpu));
    set_address(cpu, register, value, address_mask(op));
}

/// Runs `once` as often as the prefix says; `once` says whether to go on.
fn repeated(
    cpu: &mut Cpu,
    op: &Op,
    mut once: impl FnMut(&mut Cpu) -> Result<bool, Stop>,
) -> Outcome {
    if op.rep == REP_NONE {
        return once(cpu).map(|_| ());
    }
    let mask = address_mask(op);
    while cpu.regs[reg::RCX] & mask != 0 {
        let go_on = once(cpu)?;
        let left = cpu.regs[reg::RCX].wrapping_sub(1);
        set_address(cpu, reg::RCX, left, mask);
        // The iteration is done: its device accesses must not be found by the next one.
        cpu.bus.clear();
        if !go_on {
            break;
        }
    }
    Ok(())
}

/// Whether whole stretches may go at once: forwards, flat, repeated, not in mid-access.
fn may_go_at_once(cpu: &Cpu, op: &Op) -> bool {
    op.rep != REP_NONE
        && op.addressing == FLAT
        && cpu.system_flags & rflags::DF == 0
        && !cpu.bus.in_progress()
}

/// MOVS.
pub extern "C" fn movs<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let at_once = may_go_at_once(cpu, op);
    repeated(cpu, op, |cpu| {
        if at_once {
            move_stretch::<W>(cpu, op);
            if cpu.regs[reg::RCX] == 0 {
                // The loop takes one off for the last element, which is done already.
                cpu.regs[reg::RCX] = 1;
                return Ok(true);
            }
        }
        let from = source::<W>(cpu, op)?;
        let to = target::<W>(cpu, op, true)?;
        let value: W = cpu.load(from)?;
        cpu.store(to, value)?;
        advance::<W>(cpu, op, reg::RSI);
        advance::<W>(cpu, op, reg::RDI);
        Ok(true)
    })
}

/// Moves as many whole elements as lie in cached pages.
fn move_stretch<W: Width>(cpu: &mut Cpu, op: &Op) {
    let base = cpu.regs[usize::from(op.segment_base & 31)];
    loop {
        let (from, to) = (cpu.regs[reg::RSI].wrapping_add(base), cpu.regs[reg::RDI]);
        let room = |linear: u64| (4096 - (linear & 4095)) / W::BYTES;
        let count = cpu.regs[reg::RCX].min(room(from)).min(room(to));
        // Wider elements that overlap by less than one would see each other's bytes.
        let overlaps = to > from && to - from < W::BYTES;
        if count == 0 || overlaps || cpu.bulk_move(from, to, count * W::BYTES) == 0 {
            return;
        }
        cpu.regs[reg::RSI] = cpu.regs[reg::RSI].wrapping_add(count * W::BYTES);
        cpu.regs[reg::RDI] = to.wrapping_add(count * W::BYTES);
        cpu.regs[reg::RCX] -= count;
    }
}

/// STOS.
pub extern "C" fn stos<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = W::get(cpu, reg::RAX as u8);
    let bytes = value.to_bytes();
    let uniform = bytes[..W::BYTES as usize]
        .iter()
        .all(|&byte| byte == bytes[0]);
    let at_once = may_go_at_once(cpu, op) && uniform;
    repeated(cpu, op, |cpu| {
        if at_once {
            fill_stretch::<W>(cpu, bytes[0]);
            if cpu.regs[reg::RCX] == 0 {
                cpu.regs[reg::RCX] = 1;
                return Ok(true);
            }
        }
        let to = target::<W>(cpu, op, true)?;
        cpu.store(to, value)?;
        advance::<W>(cpu, op, reg::RDI);
        Ok(true)
    })
}

fn fill_stretch<W: Width>(cpu: &mut Cpu, byte: u8) {
    loop {
        let to = cpu.regs[reg::RDI];
        let count = cpu.regs[reg::RCX].min((4096 - (to & 4095)) / W::BYTES);
        if count == 0 || cpu.bulk_fill(to, byte, count * W::BYTES) == 0 {
            return;
        }
        cpu.regs[reg::RDI] = to.wrapping_add(count * W::BYTES);
        cpu.regs[reg::RCX] -= count;
    }
}

/// LODS.
pub extern "C" fn lods<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    repeated(cpu, op, |cpu| {
        let from = source::<W>(cpu, op)?;
        let value: W = cpu.load(from)?;
        W::set(cpu, reg::RAX as u8, value);
        advance::<W>(cpu, op, reg::RSI);
        Ok(true)
    })
}

/// Whether a comparing loop goes on with ZF as it is.
fn goes_on(cpu: &Cpu, op: &Op) -> bool {
    cpu.flags.zero() == (op.rep == REP_EQUAL)
}

/// SCAS.
pub extern "C" fn scas<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    repeated(cpu, op, |cpu| {
        let at = target::<W>(cpu, op, false)?;
        let value: W = cpu.load(at)?;
        let wanted = W::get(cpu, reg::RAX as u8);
        Cmp::apply(&mut cpu.flags, wanted, value);
        advance::<W>(cpu, op, reg::RDI);
        Ok(goes_on(cpu, op))
    })
}

/// CMPS.
pub extern "C" fn cmps<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    repeated(cpu, op, |cpu| {
        let (from, at) = (source::<W>(cpu, op)?, target::<W>(cpu, op, false)?);
        let a: W = cpu.load(from)?;
        let b: W = cpu.load(at)?;
        Cmp::apply(&mut cpu.flags, a, b);
        advance::<W>(cpu, op, reg::RSI);
        advance::<W>(cpu, op, reg::RDI);
        Ok(goes_on(cpu, op))
    })
}

/// INS: port DX to memory.
pub extern "C" fn ins<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    repeated(cpu, op, |cpu| {
        let port = cpu.regs[reg::RDX] as u16;
        cpu.check_port(port, W::BYTES as u16)?;
        let to = target::<W>(cpu, op, true)?;
        cpu.load_to_modify::<W>(to)?;
        let value = cpu.port_read(port, W::BYTES as u8)?;
        cpu.store(to, W::from_u64(u64::from(value)))?;
        advance::<W>(cpu, op, reg::RDI);
        Ok(true)
    })
}

/// OUTS: memory to port DX.
pub extern "C" fn outs<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    repeated(cpu, op, |cpu| {
        let port = cpu.regs[reg::RDX] as u16;
        cpu.check_port(port, W::BYTES as u16)?;
        let from = source::<W>(cpu, op)?;
        let value: W = cpu.load(from)?;
        cpu.port_write(port, W::BYTES as u8, value.zero_extend() as u32)?;
        advance::<W>(cpu, op, reg::RSI);
        Ok(true)
    })
}
