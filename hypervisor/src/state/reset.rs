//! State after power-on. Spec: Intel SDM vol. 3A §11.1.1, table 11-1.

use super::{CpuState, DescriptorTable, FpuState, Msrs, PendingEvents, Segment};
use crate::arch::x86_64::control::{cr0, xcr0};
use crate::arch::x86_64::segment::{CS, access};

/// The page-attribute table after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// MXCSR after reset: every exception masked.
const MXCSR_RESET: u32 = 0x1f80;
/// x87 control word after reset (not after FNINIT).
const FCW_RESET: u16 = 0x0040;
/// Fast strings enabled.
const MISC_ENABLE_RESET: u64 = 1;

/// State after power-on.
pub fn reset_state() -> CpuState {
    let data = Segment {
        limit: 0xffff,
        access: access::PRESENT | access::NOT_SYSTEM | access::WRITABLE | access::ACCESSED,
        ..Segment::default()
    };
    let mut segments = [data; 6];
    segments[CS] = Segment {
        selector: 0xf000,
        base: 0xffff_0000,
        access: data.access | access::CODE,
        ..data
    };
    let system = |kind| Segment {
        limit: 0xffff,
        access: access::PRESENT | kind,
        ..data
    };
    let mut gpr = [0; 16];
    // EDX holds the processor's signature.
    gpr[2] = u64::from(crate::cpu_model::SIGNATURE);
    CpuState {
        logical_time: 0,
        gpr,
        rip: 0xfff0,
        rflags: 2,
        segments,
        ldtr: system(2),
        tr: system(0xb),
        gdtr: DescriptorTable {
            base: 0,
            limit: 0xffff,
        },
        idtr: DescriptorTable {
            base: 0,
            limit: 0xffff,
        },
        cr0: cr0::CD | cr0::NW | cr0::ET,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        cr8: 0,
        debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
        msrs: Msrs {
            pat: PAT_RESET,
            misc_enable: MISC_ENABLE_RESET,
            ..Msrs::default()
        },
        fpu: FpuState {
            fxsave: fxsave_reset(),
            xcr0: xcr0::X87,
        },
        pending: PendingEvents::default(),
        tsc: crate::vcpu::TscClock::default(),
    }
}

fn fxsave_reset() -> Vec<u8> {
    let mut image = vec![0; 512];
    image[0..2].copy_from_slice(&FCW_RESET.to_le_bytes());
    // The abridged tag byte: zero is "all empty"; power-on marks every register as valid zero.
    image[4] = 0xff;
    image[24..28].copy_from_slice(&MXCSR_RESET.to_le_bytes());
    image[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    image
}
