//! General, segment, control and model-specific registers, to and from KVM's structures.
//!
//! KVM keeps those model-specific registers that the processor acts upon; [`PASSED`] has their
//! numbers. The others are kept by the vCPU itself. Spec: KVM API 4.11 to 4.20.

use kvm_bindings::{kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

use crate::arch::x86_64::control::cr0;
use crate::arch::x86_64::msr;
use crate::arch::x86_64::segment::{CS, DS, ES, FS, GS, SS, access};
use crate::state::{CpuState, DescriptorTable, Msrs, Segment};

/// The local APIC's base as KVM has it: it decides whether CPUID shows an APIC, and no more.
/// Bootstrap processor, enabled, at the usual address.
const APIC_BASE: u64 = 0xfee0_0900;

pub(super) fn general(state: &CpuState) -> kvm_regs {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = state.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

pub(super) fn read_general(regs: &kvm_regs, state: &mut CpuState) {
    state.gpr = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    state.rip = regs.rip;
    state.rflags = regs.rflags;
}

fn bit(access: u32, mask: u32) -> u8 {
    u8::from(access & mask != 0)
}

fn segment(from: &Segment) -> kvm_segment {
    let unusable = bit(from.access, access::UNUSABLE);
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: (from.access & access::TYPE) as u8,
        present: bit(from.access, access::PRESENT) & !unusable,
        dpl: (from.access >> access::DPL_SHIFT & 3) as u8,
        db: bit(from.access, access::DEFAULT_32),
        s: bit(from.access, access::NOT_SYSTEM),
        l: bit(from.access, access::LONG),
        g: bit(from.access, access::GRANULAR),
        avl: bit(from.access, access::AVAILABLE),
        unusable,
        padding: 0,
    }
}

fn read_segment(from: &kvm_segment) -> Segment {
    if from.unusable != 0 || from.present == 0 {
        // What else a processor keeps for a register that nothing can be reached by is its affair;
        // all have the base and, where it counts, the privilege level.
        let level = u32::from(from.dpl) << access::DPL_SHIFT;
        return Segment {
            selector: from.selector,
            base: from.base,
            limit: from.limit,
            access: access::UNUSABLE | level,
        };
    }
    let flag = |set: u8, mask: u32| if set != 0 { mask } else { 0 };
    Segment {
        selector: from.selector,
        base: from.base,
        limit: from.limit,
        access: u32::from(from.type_) & access::TYPE
            | flag(from.s, access::NOT_SYSTEM)
            | u32::from(from.dpl & 3) << access::DPL_SHIFT
            | access::PRESENT
            | flag(from.avl, access::AVAILABLE)
            | flag(from.l, access::LONG)
            | flag(from.db, access::DEFAULT_32)
            | flag(from.g, access::GRANULAR),
    }
}

fn table(from: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: from.base,
        limit: from.limit,
        padding: [0; 3],
    }
}

fn read_table(from: &kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: from.base,
        limit: from.limit,
    }
}

/// The system registers. No interrupt is among them; `events` has that.
pub(super) fn system(state: &CpuState) -> kvm_sregs {
    let segments = &state.segments;
    let mut stack = segment(&segments[SS]);
    if stack.unusable != 0 && state.cr0 & cr0::PE != 0 {
        // KVM takes the current privilege level from here, even where there is no stack segment.
        stack.dpl = (segments[CS].selector & 3) as u8;
    }
    kvm_sregs {
        cs: segment(&segments[CS]),
        ds: segment(&segments[DS]),
        es: segment(&segments[ES]),
        fs: segment(&segments[FS]),
        gs: segment(&segments[GS]),
        ss: stack,
        tr: segment(&state.tr),
        ldt: segment(&state.ldtr),
        gdt: table(state.gdtr),
        idt: table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: u64::from(state.cr8),
        efer: state.msrs.efer,
        apic_base: APIC_BASE,
        interrupt_bitmap: [0; 4],
    }
}

pub(super) fn read_system(sregs: &kvm_sregs, state: &mut CpuState) {
    let segments = &mut state.segments;
    for (index, from) in [
        (ES, &sregs.es),
        (CS, &sregs.cs),
        (SS, &sregs.ss),
        (DS, &sregs.ds),
        (FS, &sregs.fs),
        (GS, &sregs.gs),
    ] {
        segments[index] = read_segment(from);
    }
    state.tr = read_segment(&sregs.tr);
    state.ldtr = read_segment(&sregs.ldt);
    state.gdtr = read_table(&sregs.gdt);
    state.idtr = read_table(&sregs.idt);
    state.cr0 = sregs.cr0;
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = sregs.cr4;
    state.msrs.efer = sregs.efer;
}

/// A model-specific register that KVM keeps.
pub(super) struct Passed {
    /// Its number.
    index: u32,
    /// Its name, for errors.
    name: &'static str,
    /// Where its value is in the state.
    place: fn(&mut Msrs) -> &mut u64,
}

/// An entry of [`PASSED`]: the register's number, and the field that has its value.
macro_rules! passed {
    ($index:ident, $field:ident) => {
        Passed {
            index: msr::$index,
            name: concat!("msrs.", stringify!($field)),
            place: |msrs| &mut msrs.$field,
        }
    };
}

/// Model-specific registers that KVM keeps.
pub(super) const PASSED: [Passed; 10] = [
    passed!(STAR, star),
    passed!(LSTAR, lstar),
    passed!(CSTAR, cstar),
    passed!(FMASK, fmask),
    passed!(KERNEL_GS_BASE, kernel_gs_base),
    passed!(TSC_AUX, tsc_aux),
    passed!(SYSENTER_CS, sysenter_cs),
    passed!(SYSENTER_ESP, sysenter_esp),
    passed!(SYSENTER_EIP, sysenter_eip),
    passed!(PAT, pat),
];

/// [`PASSED`] with the values of `msrs`.
pub(super) fn passed(msrs: &Msrs) -> Vec<kvm_msr_entry> {
    let mut msrs = msrs.clone();
    let entry = |passed: &Passed| kvm_msr_entry {
        index: passed.index,
        data: *(passed.place)(&mut msrs),
        ..kvm_msr_entry::default()
    };
    PASSED.iter().map(entry).collect()
}

/// Takes the values over that [`passed()`] gives the other way.
pub(super) fn read_passed(entries: &[kvm_msr_entry], msrs: &mut Msrs) {
    for entry in entries {
        if let Some(passed) = PASSED.iter().find(|passed| passed.index == entry.index) {
            *(passed.place)(msrs) = entry.data;
        }
    }
}

/// The name of one of [`PASSED`], for errors.
pub(super) fn name(index: u32) -> &'static str {
    let passed = PASSED.iter().find(|passed| passed.index == index);
    passed.map_or("msrs", |passed| passed.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::reset_state;

    /// A state in which every register differs from every other.
    fn state() -> CpuState {
        let mut state = reset_state();
        for (index, register) in state.gpr.iter_mut().enumerate() {
            *register = 0x1000 + index as u64;
        }
        for (index, segment) in state.segments.iter_mut().enumerate() {
            segment.selector = 8 * index as u16;
            segment.base = 0x10_0000 * index as u64;
        }
        state.segments[CS].access |= access::LONG | access::GRANULAR;
        state.segments[DS].access |= access::DEFAULT_32 | access::AVAILABLE;
        state.segments[FS].access = access::UNUSABLE;
        state.ldtr.base = 0x77;
        state.tr.base = 0x78;
        (state.cr2, state.cr3) = (2, 0x3000);
        for (number, passed) in PASSED.iter().enumerate() {
            *(passed.place)(&mut state.msrs) = 0x40 + number as u64;
        }
        state
    }

    #[test]
    fn every_register_comes_back_from_where_it_went() {
        let before = state();
        let mut after = reset_state();
        read_general(&general(&before), &mut after);
        read_system(&system(&before), &mut after);
        read_passed(&passed(&before.msrs), &mut after.msrs);
        assert_eq!(after, before);
    }

    #[test]
    fn a_null_stack_segment_has_the_privilege_level_of_the_code() {
        let mut state = state();
        state.cr0 |= cr0::PE;
        state.segments[SS].access = access::UNUSABLE;
        state.segments[CS].selector = 0x33;
        assert_eq!(system(&state).ss.dpl, 3);
        state.segments[CS].selector = 0x10;
        assert_eq!(system(&state).ss.dpl, 0);
    }
}
