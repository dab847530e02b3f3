//! Fast system calls. Spec: Intel SDM vol. 2, SYSCALL SYSRET SYSENTER SYSEXIT SWAPGS; AMD APM
//! vol. 3 for SYSCALL from compatibility mode, which this model, like Intel's, refuses.

use crate::arch::x86_64::control::{efer, rflags};
use crate::arch::x86_64::segment::{CS, GS, SS, access};
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, reg};
use crate::state::Segment;

/// SYSCALL.
pub extern "C" fn syscall(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.msrs.efer & efer::SCE == 0 || cpu.mode != Mode::Long {
        return Err(cpu.undefined());
    }
    cpu.regs[reg::RCX] = cpu.rip;
    let flags = cpu.rflags();
    cpu.regs[11] = flags & !rflags::RF;
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.cpl = 0;
    cpu.set_segment(CS, Segment::flat(selector, access::CODE | access::LONG, 0));
    cpu.set_segment(SS, Segment::flat(selector + 8, access::DEFAULT_32, 0));
    cpu.rip = cpu.msrs.lstar;
    cpu.set_rflags(flags & !cpu.msrs.fmask & !rflags::RF);
    Ok(())
}

/// SYSRET; `WIDE` returns to 64-bit mode.
pub extern "C" fn sysret<const WIDE: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.msrs.efer & efer::SCE == 0 || cpu.mode != Mode::Long {
        return Err(cpu.undefined());
    }
    cpu.require_ring_0()?;
    let target = cpu.regs[reg::RCX];
    if WIDE && !cpu.is_canonical(target) {
        return Err(cpu.general_protection(0));
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let (selector, kind) = if WIDE {
        (base.wrapping_add(16), access::CODE | access::LONG)
    } else {
        (base, access::CODE | access::DEFAULT_32)
    };
    cpu.cpl = 3;
    cpu.set_segment(CS, Segment::flat(selector | 3, kind, 3));
    cpu.set_segment(
        SS,
        Segment::flat(base.wrapping_add(8) | 3, access::DEFAULT_32, 3),
    );
    cpu.rip = if WIDE { target } else { target & 0xffff_ffff };
    let flags = cpu.regs[11] & rflags::WRITABLE & !rflags::RF;
    cpu.set_rflags(flags);
    Ok(())
}

/// SYSENTER.
pub extern "C" fn sysenter(cpu: &mut Cpu, _: &Op) -> Outcome {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if cpu.mode == Mode::Real || selector == 0 {
        return Err(cpu.general_protection(0));
    }
    let long = cpu.long_mode();
    let kind = if long {
        access::LONG
    } else {
        access::DEFAULT_32
    };
    cpu.cpl = 0;
    cpu.set_segment(CS, Segment::flat(selector, access::CODE | kind, 0));
    cpu.set_segment(SS, Segment::flat(selector + 8, access::DEFAULT_32, 0));
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.regs[reg::RSP] = cpu.msrs.sysenter_esp & mask;
    cpu.rip = cpu.msrs.sysenter_eip & mask;
    cpu.set_rflags(cpu.rflags() & !(rflags::IF | rflags::RF | rflags::VM));
    Ok(())
}

/// SYSEXIT; `WIDE` returns to 64-bit mode.
pub extern "C" fn sysexit<const WIDE: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let base = cpu.msrs.sysenter_cs as u16 & !3;
    if cpu.mode == Mode::Real || base == 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.require_ring_0()?;
    let (target, stack) = (cpu.regs[reg::RDX], cpu.regs[reg::RCX]);
    if WIDE && !(cpu.is_canonical(target) && cpu.is_canonical(stack)) {
        return Err(cpu.general_protection(0));
    }
    let (code, data, kind) = if WIDE {
        (32, 40, access::LONG)
    } else {
        (16, 24, access::DEFAULT_32)
    };
    cpu.cpl = 3;
    cpu.set_segment(CS, Segment::flat((base + code) | 3, access::CODE | kind, 3));
    cpu.set_segment(SS, Segment::flat((base + data) | 3, access::DEFAULT_32, 3));
    let mask = if WIDE { u64::MAX } else { 0xffff_ffff };
    cpu.rip = target & mask;
    cpu.regs[reg::RSP] = stack & mask;
    cpu.attention = true;
    Ok(())
}

/// SWAPGS.
pub extern "C" fn swap_gs(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.mode != Mode::Long {
        return Err(cpu.undefined());
    }
    cpu.require_ring_0()?;
    let base = cpu.segments[GS].base;
    let other = std::mem::replace(&mut cpu.msrs.kernel_gs_base, base);
    cpu.set_segment_base(GS, other);
    Ok(())
}
