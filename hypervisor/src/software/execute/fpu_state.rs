//! Saving and restoring floating-point state: FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XRSTOR, LDMXCSR,
//! STMXCSR. Spec: Intel SDM vol. 2 under each mnemonic; vol. 1 §10.5, §13.4 to §13.9.
//!
//! ```text
//! XSAVE area, standard format
//!   0  x87      24 MXCSR, mask     32 x87      160 XMM      (416 unused)
//! 512  XSTATE_BV (component 0 x87, component 1 SSE)    520 XCOMP_BV, zero    528 zero
//! ```
//! XSAVEOPT leaves out components in their initial configuration and tracks no modifications, so
//! what it writes is a function of the registers alone.

use crate::arch::x86_64::control::{cr0, cr4, xcr0};
use crate::cpu_model::XSAVE_SIZE;
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::simd::Mxcsr;
use crate::software::x87::{FXSAVE_SIZE, FxsaveFormat, FxsaveImage, X87State};

/// Bytes of the area that XSAVE may write: the legacy region and XSTATE_BV.
const WRITTEN: usize = FXSAVE_SIZE + 8;
/// Bytes of the legacy region and the header.
const AREA: usize = XSAVE_SIZE as usize;

fn format(cpu: &Cpu, wide: bool) -> FxsaveFormat {
    match (cpu.mode, wide) {
        (Mode::Long, true) => FxsaveFormat::Long64,
        (Mode::Long, false) => FxsaveFormat::Long32,
        _ => FxsaveFormat::Legacy,
    }
}

/// #NM or #UD when FXSAVE or FXRSTOR cannot run now.
fn require_fxsave(cpu: &mut Cpu) -> Outcome {
    if cpu.cr0 & cr0::EM != 0 {
        return Err(cpu.undefined());
    }
    if cpu.cr0 & cr0::TS != 0 {
        return Err(cpu.not_available());
    }
    Ok(())
}

fn require_xsave(cpu: &mut Cpu) -> Outcome {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.undefined());
    }
    if cpu.cr0 & cr0::TS != 0 {
        return Err(cpu.not_available());
    }
    Ok(())
}

/// Linear address of an operand that must be aligned to a power of two.
fn aligned(cpu: &mut Cpu, op: &Op, size: usize, alignment: u64, write: bool) -> Result<u64, Stop> {
    let linear = cpu.linear(op, size as u64, write)?;
    if linear & (alignment - 1) != 0 {
        return Err(cpu.general_protection(0));
    }
    Ok(linear)
}

/// Registers of the x87 and SSE as they are to be after a restore.
struct Restored {
    x87: X87State,
    xmm: [u128; 16],
    mxcsr: Mxcsr,
}

/// What an image holds; `None` when its MXCSR has reserved bits set.
fn read_image(cpu: &Cpu, format: FxsaveFormat, image: &FxsaveImage) -> Option<Restored> {
    let mut x87 = cpu.fpu.x87.clone();
    let mut xmm = cpu.fpu.xmm;
    let mxcsr = x87.fxrstor(format, image, &mut xmm).ok()?;
    // Selectors do not exist in this model; see `software::fpu`.
    (x87.instruction_selector, x87.data_selector) = (0, 0);
    Some(Restored { x87, xmm, mxcsr })
}

/// FXSAVE; `WIDE` with REX.W.
pub extern "C" fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Outcome {
    require_fxsave(cpu)?;
    let linear = aligned(cpu, op, FXSAVE_SIZE, 16, true)?;
    let format = format(cpu, WIDE);
    let mut image = [0; FXSAVE_SIZE];
    cpu.fpu
        .x87
        .fxsave(format, cpu.fpu.mxcsr, &cpu.fpu.xmm, &mut image);
    cpu.write_bytes(linear, &image[..format.written_size()])
}

/// FXRSTOR; `WIDE` with REX.W.
pub extern "C" fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Outcome {
    require_fxsave(cpu)?;
    let linear = aligned(cpu, op, FXSAVE_SIZE, 16, false)?;
    let mut image = [0; FXSAVE_SIZE];
    cpu.read_bytes(linear, &mut image)?;
    let Some(restored) = read_image(cpu, format(cpu, WIDE), &image) else {
        return Err(cpu.general_protection(0));
    };
    cpu.fpu.x87 = restored.x87;
    cpu.fpu.xmm = restored.xmm;
    cpu.fpu.mxcsr = restored.mxcsr;
    Ok(())
}

/// Components that EDX:EAX asks for and XCR0 enables.
fn requested(cpu: &Cpu) -> u64 {
    let mask = cpu.regs[reg::RDX] << 32 | (cpu.regs[reg::RAX] & 0xffff_ffff);
    mask & cpu.fpu.xcr0
}

/// XSAVE and XSAVEOPT (`OPTIMISED`); `WIDE` with REX.W.
pub extern "C" fn xsave<const WIDE: bool, const OPTIMISED: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    require_xsave(cpu)?;
    let linear = aligned(cpu, op, AREA, 64, true)?;
    let format = format(cpu, WIDE);
    let requested = requested(cpu);
    let in_use = cpu.fpu.in_use();
    let saved = if OPTIMISED {
        requested & in_use
    } else {
        requested
    };
    let mut image = [0; FXSAVE_SIZE];
    cpu.fpu
        .x87
        .fxsave(format, cpu.fpu.mxcsr, &cpu.fpu.xmm, &mut image);

    // The bytes that are not saved are written back as they were.
    cpu.probe_write(linear, WRITTEN)?;
    let mut area = [0; WRITTEN];
    cpu.read_bytes(linear, &mut area)?;
    if saved & xcr0::X87 != 0 {
        area[..24].copy_from_slice(&image[..24]);
        area[32..160].copy_from_slice(&image[32..160]);
    }
    if requested & xcr0::SSE != 0 {
        area[24..32].copy_from_slice(&image[24..32]);
    }
    if saved & xcr0::SSE != 0 {
        let end = format.written_size();
        area[160..end].copy_from_slice(&image[160..end]);
    }
    let before = quadword(&area, FXSAVE_SIZE);
    let present = (before & !requested) | (in_use & requested);
    area[FXSAVE_SIZE..].copy_from_slice(&present.to_le_bytes());
    cpu.write_bytes(linear, &area)
}

fn quadword(area: &[u8], at: usize) -> u64 {
    area[at..at + 8]
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// XRSTOR; `WIDE` with REX.W.
pub extern "C" fn xrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Outcome {
    require_xsave(cpu)?;
    let linear = aligned(cpu, op, AREA, 64, false)?;
    let format = format(cpu, WIDE);
    let requested = requested(cpu);
    let mut area = [0; AREA];
    cpu.read_bytes(linear, &mut area)?;
    let present = quadword(&area, FXSAVE_SIZE);
    let compaction = quadword(&area, FXSAVE_SIZE + 8) | quadword(&area, FXSAVE_SIZE + 16);
    if present & !cpu.fpu.xcr0 != 0 || compaction != 0 {
        return Err(cpu.general_protection(0));
    }
    let mut image = [0; FXSAVE_SIZE];
    image.copy_from_slice(&area[..FXSAVE_SIZE]);
    if requested & xcr0::SSE == 0 {
        image[24..28].copy_from_slice(&cpu.fpu.mxcsr.bits().to_le_bytes());
    }
    let Some(restored) = read_image(cpu, format, &image) else {
        return Err(cpu.general_protection(0));
    };
    if requested & xcr0::X87 != 0 {
        let saved = present & xcr0::X87 != 0;
        cpu.fpu.x87 = if saved {
            restored.x87
        } else {
            X87State::default()
        };
    }
    if requested & xcr0::SSE != 0 {
        // MXCSR comes from the area whether or not the registers do.
        cpu.fpu.mxcsr = restored.mxcsr;
        if present & xcr0::SSE != 0 {
            cpu.fpu.xmm = restored.xmm;
        } else {
            let count = if format == FxsaveFormat::Legacy {
                8
            } else {
                16
            };
            cpu.fpu.xmm[..count].fill(0);
        }
    }
    Ok(())
}

/// LDMXCSR: #GP for reserved bits.
pub extern "C" fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let bits: u32 = cpu.load_operand(op)?;
    match Mxcsr::from_bits(bits) {
        Some(mxcsr) => cpu.fpu.mxcsr = mxcsr,
        None => return Err(cpu.general_protection(0)),
    }
    Ok(())
}

/// STMXCSR.
pub extern "C" fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let bits = cpu.fpu.mxcsr.bits();
    cpu.store_operand(op, bits)
}
