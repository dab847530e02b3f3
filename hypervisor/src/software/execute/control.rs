//! Control registers, descriptor-table registers, flags of the system, HLT. Spec: Intel SDM
//! vol. 2; vol. 3A §2.5, §5.1.2 for which control-register values are refused.

use super::operand::{M, Operand, Target};
use crate::arch::x86_64::control::{cr0, cr4, efer, rflags};
use crate::arch::x86_64::paging::PHYSICAL_BITS;
use crate::arch::x86_64::segment::{CS, FS, GS, access};
use crate::cpu_model;
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::width::Width;
use crate::state::DescriptorTable;

/// MOV from a control register, `op.third` its number.
pub extern "C" fn read_control(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let value = match op.third {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => u64::from(cpu.cr8),
        _ => return Err(cpu.undefined()),
    };
    if cpu.mode == Mode::Long {
        u64::set(cpu, op.dst, value);
    } else {
        u32::set(cpu, op.dst, value as u32);
    }
    Ok(())
}

/// MOV to a control register, `op.third` its number.
pub extern "C" fn write_control(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let value = if cpu.mode == Mode::Long {
        u64::get(cpu, op.src)
    } else {
        u64::from(u32::get(cpu, op.src))
    };
    match op.third {
        0 => write_cr0(cpu, value),
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => write_cr3(cpu, value),
        4 => write_cr4(cpu, value),
        8 => {
            if value > 15 {
                return Err(cpu.general_protection(0));
            }
            cpu.cr8 = value as u8;
            Err(Stop::TaskPriority)
        }
        _ => Err(cpu.undefined()),
    }
}

fn write_cr3(cpu: &mut Cpu, value: u64) -> Outcome {
    if cpu.mode == Mode::Long && value >> PHYSICAL_BITS != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.cr3 = value;
    cpu.mmu.set_cr3(value);
    cpu.attention = true;
    Ok(())
}

fn write_cr0(cpu: &mut Cpu, value: u64) -> Outcome {
    let value = (value & cr0::DEFINED) | cr0::ET;
    let has = |bit: u64| value & bit != 0;
    if (has(cr0::PG) && !has(cr0::PE)) || (has(cr0::NW) && !has(cr0::CD)) {
        return Err(cpu.general_protection(0));
    }
    let entering = has(cr0::PG) && cpu.cr0 & cr0::PG == 0;
    let leaving = !has(cr0::PG) && cpu.cr0 & cr0::PG != 0;
    if entering && cpu.msrs.efer & efer::LME != 0 {
        let long_code = cpu.segments[CS].access & access::LONG != 0;
        if cpu.cr4 & cr4::PAE == 0 || long_code {
            return Err(cpu.general_protection(0));
        }
        cpu.msrs.efer |= efer::LMA;
    }
    if leaving {
        if cpu.mode == Mode::Long {
            return Err(cpu.general_protection(0));
        }
        cpu.msrs.efer &= !efer::LMA;
    }
    cpu.cr0 = value;
    cpu.refresh_mode();
    cpu.refresh_paging();
    cpu.attention = true;
    Ok(())
}

fn write_cr4(cpu: &mut Cpu, value: u64) -> Outcome {
    let drops_pae = value & cr4::PAE == 0 && cpu.long_mode();
    if value & !cpu_model::CR4_OFFERED != 0 || drops_pae {
        return Err(cpu.general_protection(0));
    }
    cpu.cr4 = value;
    cpu.refresh_paging();
    cpu.attention = true;
    Ok(())
}

/// MOV from a debug register, `op.third` its number.
pub extern "C" fn read_debug(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let index = debug_index(cpu, op.third)?;
    let value = cpu.debug[index];
    if cpu.mode == Mode::Long {
        u64::set(cpu, op.dst, value);
    } else {
        u32::set(cpu, op.dst, value as u32);
    }
    Ok(())
}

/// MOV to a debug register, `op.third` its number.
pub extern "C" fn write_debug(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let index = debug_index(cpu, op.third)?;
    let value = u64::get(cpu, op.src);
    if cpu.mode == Mode::Long && index >= 4 && value >> 32 != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.debug[index] = match index {
        4 => (value & 0xe00f) | 0xffff_0ff0,
        5 => (value & 0xffff_2bff) | 0x400,
        _ => value,
    };
    cpu.attention = true;
    Ok(())
}

/// DR4 and DR5 are DR6 and DR7 unless CR4.DE forbids them.
fn debug_index(cpu: &mut Cpu, number: u8) -> Result<usize, Stop> {
    match number {
        0..=3 => Ok(usize::from(number)),
        4 | 5 if cpu.cr4 & cr4::DE == 0 => Ok(usize::from(number)),
        6 | 7 => Ok(usize::from(number) - 2),
        _ => Err(cpu.undefined()),
    }
}

/// CLTS.
pub extern "C" fn clear_task_switched(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_ring_0()?;
    cpu.cr0 &= !cr0::TS;
    Ok(())
}

/// LMSW: sets PE but never clears it.
pub extern "C" fn load_status_word<S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let value = u64::from(S::get::<u16>(cpu, op)?);
    let changeable = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let new = (cpu.cr0 & !changeable) | (value & changeable) | (cpu.cr0 & cr0::PE);
    write_cr0(cpu, new)
}

fn check_umip(cpu: &mut Cpu) -> Outcome {
    if cpu.cr4 & cr4::UMIP != 0 && cpu.cpl > 0 {
        return Err(cpu.general_protection(0));
    }
    Ok(())
}

/// SMSW.
pub extern "C" fn store_status_word<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    check_umip(cpu)?;
    let value = W::from_u64(cpu.cr0);
    D::put(cpu, op, value)
}

fn load_table(cpu: &mut Cpu, op: &Op) -> Result<DescriptorTable, Stop> {
    cpu.require_ring_0()?;
    let long = cpu.mode == Mode::Long;
    let linear = cpu.linear(op, if long { 10 } else { 6 }, false)?;
    let limit: u16 = cpu.load(linear)?;
    let base = if long {
        cpu.load::<u64>(linear.wrapping_add(2))?
    } else {
        let base = u64::from(cpu.load::<u32>(linear.wrapping_add(2))?);
        // A 16-bit operand size keeps only 24 bits of the base.
        if op.imm == 16 { base & 0xff_ffff } else { base }
    };
    if long && !cpu.is_canonical(base) {
        return Err(cpu.general_protection(0));
    }
    Ok(DescriptorTable { base, limit })
}

fn store_table(cpu: &mut Cpu, op: &Op, table: DescriptorTable) -> Outcome {
    check_umip(cpu)?;
    let size = if cpu.mode == Mode::Long { 10 } else { 6 };
    let linear = cpu.linear(op, size, true)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    cpu.write_bytes(linear, &bytes[..size as usize])
}

/// LGDT.
pub extern "C" fn load_gdt(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.gdtr = load_table(cpu, op)?;
    Ok(())
}

/// LIDT.
pub extern "C" fn load_idt(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.idtr = load_table(cpu, op)?;
    Ok(())
}

/// SGDT.
pub extern "C" fn store_gdt(cpu: &mut Cpu, op: &Op) -> Outcome {
    let table = cpu.gdtr;
    store_table(cpu, op, table)
}

/// SIDT.
pub extern "C" fn store_idt(cpu: &mut Cpu, op: &Op) -> Outcome {
    let table = cpu.idtr;
    store_table(cpu, op, table)
}

/// LLDT.
pub extern "C" fn load_ldt<S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let selector = S::get::<u16>(cpu, op)?;
    cpu.load_ldt(selector)
}

/// LTR.
pub extern "C" fn load_task<S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let selector = S::get::<u16>(cpu, op)?;
    cpu.load_task(selector)
}

/// SLDT.
pub extern "C" fn store_ldt<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    check_umip(cpu)?;
    let value = W::from_u64(u64::from(cpu.ldtr.selector));
    D::put(cpu, op, value)
}

/// STR.
pub extern "C" fn store_task<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    check_umip(cpu)?;
    let value = W::from_u64(u64::from(cpu.tr.selector));
    D::put(cpu, op, value)
}

/// LAR and LSL by `LIMIT`.
pub extern "C" fn load_rights<W: Width, S: Operand, const LIMIT: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let selector = S::get::<u16>(cpu, op)?;
    let descriptor = cpu.visible_descriptor(selector)?;
    let long = cpu.long_mode();
    let value = descriptor.and_then(|descriptor| {
        let known = match descriptor.system_type() {
            None => true,
            Some(1 | 3) => !long,
            Some(2 | 9 | 11) => true,
            Some(4 | 5) => !LIMIT && !long,
            Some(12) => !LIMIT,
            Some(_) => false,
        };
        known.then(|| {
            if LIMIT {
                u64::from(descriptor.segment(0).limit)
            } else {
                descriptor.0 >> 32 & 0x00f0_ff00
            }
        })
    });
    if let Some(value) = value {
        W::set(cpu, op.dst, W::from_u64(value));
    }
    cpu.flags.set_zero(value.is_some());
    Ok(())
}

/// VERR and VERW by `WRITE`.
pub extern "C" fn verify<S: Operand, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let selector = S::get::<u16>(cpu, op)?;
    let descriptor = cpu.visible_descriptor(selector)?;
    let allowed = descriptor.is_some_and(|descriptor| {
        if WRITE {
            descriptor.is_writable_data()
        } else {
            descriptor.is_readable()
        }
    });
    cpu.flags.set_zero(allowed);
    Ok(())
}

/// INVLPG.
pub extern "C" fn invalidate_page(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let linear = op
        .sum(cpu)
        .wrapping_add(cpu.regs[usize::from(op.segment_base & 31)]);
    cpu.mmu.flush_page(linear);
    cpu.attention = true;
    Ok(())
}

/// INVD and WBINVD: there are no caches that a guest could see.
pub extern "C" fn invalidate_caches(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_ring_0()
}

fn require_io_privilege(cpu: &mut Cpu) -> Outcome {
    if cpu.mode != Mode::Real && cpu.cpl > cpu.iopl() {
        return Err(cpu.general_protection(0));
    }
    Ok(())
}

/// CLI.
pub extern "C" fn clear_interrupts(cpu: &mut Cpu, _: &Op) -> Outcome {
    require_io_privilege(cpu)?;
    cpu.system_flags &= !rflags::IF;
    Ok(())
}

/// STI: interrupts wait for one more instruction when they were off.
pub extern "C" fn set_interrupts(cpu: &mut Cpu, _: &Op) -> Outcome {
    require_io_privilege(cpu)?;
    if cpu.system_flags & rflags::IF == 0 {
        cpu.system_flags |= rflags::IF;
        cpu.interrupt_shadow = true;
    }
    cpu.attention = true;
    Ok(())
}

/// CLD and STD.
pub extern "C" fn set_direction<const DOWN: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    if DOWN {
        cpu.system_flags |= rflags::DF;
    } else {
        cpu.system_flags &= !rflags::DF;
    }
    Ok(())
}

/// CLC, STC, CMC by `KIND` 0, 1, 2.
pub extern "C" fn change_carry<const KIND: u8>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let carry = match KIND {
        0 => false,
        1 => true,
        _ => !cpu.flags.carry(),
    };
    cpu.flags.set_carry(carry);
    Ok(())
}

/// LAHF.
pub extern "C" fn load_flags(cpu: &mut Cpu, _: &Op) -> Outcome {
    let value = cpu.rflags() as u8;
    u8::set(
        cpu,
        reg::RAX as u8 | crate::software::width::HIGH_BYTE,
        value,
    );
    Ok(())
}

/// SAHF: OF stays.
pub extern "C" fn store_flags(cpu: &mut Cpu, _: &Op) -> Outcome {
    let value = u64::from(u8::get(
        cpu,
        reg::RAX as u8 | crate::software::width::HIGH_BYTE,
    ));
    let kept = cpu.flags.to_bits() & rflags::OF;
    cpu.flags.set_bits((value & !rflags::OF) | kept);
    Ok(())
}

/// CLAC and STAC.
pub extern "C" fn set_access_override<const ON: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.cpl > 0 {
        return Err(cpu.undefined());
    }
    if ON {
        cpu.system_flags |= rflags::AC;
    } else {
        cpu.system_flags &= !rflags::AC;
    }
    cpu.refresh_privilege();
    Ok(())
}

/// RDFSBASE, RDGSBASE; `FIRST` is FS.
pub extern "C" fn read_base<W: Width, const FIRST: bool>(cpu: &mut Cpu, op: &Op) -> Outcome {
    check_base_instructions(cpu)?;
    let base = cpu.segments[if FIRST { FS } else { GS }].base;
    W::set(cpu, op.dst, W::from_u64(base));
    Ok(())
}

/// WRFSBASE, WRGSBASE; `FIRST` is FS.
pub extern "C" fn write_base<W: Width, const FIRST: bool>(cpu: &mut Cpu, op: &Op) -> Outcome {
    check_base_instructions(cpu)?;
    let base = W::get(cpu, op.dst).zero_extend();
    if !cpu.is_canonical(base) {
        return Err(cpu.general_protection(0));
    }
    cpu.set_segment_base(if FIRST { FS } else { GS }, base);
    Ok(())
}

fn check_base_instructions(cpu: &mut Cpu) -> Outcome {
    if cpu.mode != Mode::Long || cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.undefined());
    }
    Ok(())
}

/// HLT.
pub extern "C" fn halt(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_ring_0()?;
    cpu.halted = true;
    Err(Stop::Halted)
}

/// ARPL, legacy protected modes only.
pub extern "C" fn adjust_privilege<D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let selector = D::get_to_modify::<u16>(cpu, op)?;
    let wanted = u16::get(cpu, op.src) & 3;
    let lower = selector & 3 < wanted;
    if lower {
        D::put(cpu, op, selector & !3 | wanted)?;
    }
    cpu.flags.set_zero(lower);
    Ok(())
}

/// INVLPG's operand is only an address; this reads nothing. CLFLUSH faults like a load.
pub extern "C" fn flush_line(cpu: &mut Cpu, op: &Op) -> Outcome {
    M::get::<u8>(cpu, op).map(|_| ())
}
