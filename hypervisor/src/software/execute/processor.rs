//! What the processor tells about itself: CPUID, time-stamp counter, model-specific registers,
//! XCR0. Spec: Intel SDM vol. 2; vol. 4 for the registers.

use crate::arch::x86_64::control::{cr4, efer, xcr0};
use crate::arch::x86_64::msr;
use crate::arch::x86_64::segment::{FS, GS};
use crate::cpu_model;
use crate::software::cpu::Cpu;
use crate::software::op::{Op, Outcome, Stop, reg};

/// CPUID.
pub extern "C" fn cpuid(cpu: &mut Cpu, _: &Op) -> Outcome {
    let (leaf, subleaf) = (cpu.regs[reg::RAX] as u32, cpu.regs[reg::RCX] as u32);
    let answer = cpu_model::leaf(leaf, subleaf, cpu.tsc_khz, cpu.cr4 & cr4::OSXSAVE != 0);
    for (register, value) in [reg::RAX, reg::RBX, reg::RCX, reg::RDX]
        .into_iter()
        .zip(answer)
    {
        cpu.regs[register] = u64::from(value);
    }
    Ok(())
}

fn set_pair(cpu: &mut Cpu, value: u64) {
    cpu.regs[reg::RAX] = value & 0xffff_ffff;
    cpu.regs[reg::RDX] = value >> 32;
}

fn pair(cpu: &Cpu) -> u64 {
    cpu.regs[reg::RDX] << 32 | (cpu.regs[reg::RAX] & 0xffff_ffff)
}

/// RDTSC and RDTSCP (`WITH_AUX`): the counter is a function of logical time.
pub extern "C" fn read_time_stamp<const WITH_AUX: bool>(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl > 0 {
        return Err(cpu.general_protection(0));
    }
    let value = cpu.time_stamp();
    set_pair(cpu, value);
    if WITH_AUX {
        cpu.regs[reg::RCX] = cpu.msrs.tsc_aux & 0xffff_ffff;
    }
    Ok(())
}

/// RDPMC: there are no counters.
pub extern "C" fn read_counter(cpu: &mut Cpu, _: &Op) -> Outcome {
    Err(cpu.general_protection(0))
}

/// XGETBV.
pub extern "C" fn read_extended_control(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.undefined());
    }
    if cpu.regs[reg::RCX] as u32 != 0 {
        return Err(cpu.general_protection(0));
    }
    let value = cpu.fpu.xcr0;
    set_pair(cpu, value);
    Ok(())
}

/// XSETBV.
pub extern "C" fn write_extended_control(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.undefined());
    }
    cpu.require_ring_0()?;
    let value = pair(cpu);
    let known = xcr0::X87 | xcr0::SSE;
    if cpu.regs[reg::RCX] as u32 != 0 || value & xcr0::X87 == 0 || value & !known != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.fpu.xcr0 = value;
    Ok(())
}

/// RDMSR.
pub extern "C" fn read_msr(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let index = cpu.regs[reg::RCX] as u32;
    let value = if cpu_model::belongs_to_controller(index) {
        cpu.outer_msr_read(index)?
    } else {
        inner_read(cpu, index)?
    };
    set_pair(cpu, value);
    Ok(())
}

/// WRMSR.
pub extern "C" fn write_msr(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_ring_0()?;
    let index = cpu.regs[reg::RCX] as u32;
    let value = pair(cpu);
    if cpu_model::belongs_to_controller(index) {
        return cpu.outer_msr_write(index, value);
    }
    inner_write(cpu, index, value)
}

fn inner_read(cpu: &mut Cpu, index: u32) -> Result<u64, Stop> {
    let msrs = &cpu.msrs;
    Ok(match index {
        msr::TSC => cpu.time_stamp(),
        msr::EFER => msrs.efer,
        msr::STAR => msrs.star,
        msr::LSTAR => msrs.lstar,
        msr::CSTAR => msrs.cstar,
        msr::FMASK => msrs.fmask,
        msr::FS_BASE => cpu.segments[FS].base,
        msr::GS_BASE => cpu.segments[GS].base,
        msr::KERNEL_GS_BASE => msrs.kernel_gs_base,
        msr::TSC_AUX => msrs.tsc_aux,
        msr::SYSENTER_CS => msrs.sysenter_cs,
        msr::SYSENTER_ESP => msrs.sysenter_esp,
        msr::SYSENTER_EIP => msrs.sysenter_eip,
        msr::PAT => msrs.pat,
        _ => match cpu_model::read_register(msrs, index) {
            Some(value) => value,
            None => return Err(cpu.general_protection(0)),
        },
    })
}

fn canonical(cpu: &mut Cpu, value: u64) -> Result<u64, Stop> {
    if cpu.is_canonical(value) {
        Ok(value)
    } else {
        Err(cpu.general_protection(0))
    }
}

fn inner_write(cpu: &mut Cpu, index: u32, value: u64) -> Outcome {
    match index {
        // A write to the counter moves the adjustment by as much. SDM vol. 3B §18.17.3.
        msr::TSC => {
            let change = value.wrapping_sub(cpu.time_stamp());
            cpu.msrs.tsc_adjust = cpu.msrs.tsc_adjust.wrapping_add(change);
        }
        msr::EFER => return write_efer(cpu, value),
        msr::STAR => cpu.msrs.star = value,
        msr::LSTAR => cpu.msrs.lstar = canonical(cpu, value)?,
        msr::CSTAR => cpu.msrs.cstar = canonical(cpu, value)?,
        msr::FMASK => cpu.msrs.fmask = value & 0xffff_ffff,
        msr::FS_BASE => {
            let base = canonical(cpu, value)?;
            cpu.set_segment_base(FS, base);
        }
        msr::GS_BASE => {
            let base = canonical(cpu, value)?;
            cpu.set_segment_base(GS, base);
        }
        msr::KERNEL_GS_BASE => cpu.msrs.kernel_gs_base = canonical(cpu, value)?,
        msr::TSC_AUX if value >> 32 == 0 => cpu.msrs.tsc_aux = value,
        msr::SYSENTER_CS => cpu.msrs.sysenter_cs = value & 0xffff,
        msr::SYSENTER_ESP => cpu.msrs.sysenter_esp = canonical(cpu, value)?,
        msr::SYSENTER_EIP => cpu.msrs.sysenter_eip = canonical(cpu, value)?,
        msr::PAT if is_pat(value) => cpu.msrs.pat = value,
        _ if cpu_model::write_register(&mut cpu.msrs, index, value).is_some() => {}
        _ => return Err(cpu.general_protection(0)),
    }
    Ok(())
}

fn write_efer(cpu: &mut Cpu, value: u64) -> Outcome {
    let known = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    let changes_lme = (value ^ cpu.msrs.efer) & efer::LME != 0;
    let paging = cpu.cr0 & crate::arch::x86_64::control::cr0::PG != 0;
    if value & !known != 0 || (changes_lme && paging) {
        return Err(cpu.general_protection(0));
    }
    cpu.msrs.efer = (value & !efer::LMA) | (cpu.msrs.efer & efer::LMA);
    cpu.refresh_mode();
    cpu.refresh_paging();
    cpu.attention = true;
    Ok(())
}

/// Each byte of the table names one of the six memory types.
fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|&kind| matches!(kind, 0 | 1 | 4..=7))
}
