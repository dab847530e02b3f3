//! The processor's state to and from the backend-neutral form.

use super::cpu::Cpu;
use crate::arch::x86_64::control::cr0;
use crate::arch::x86_64::segment::{CS, SS, access};
use crate::state::{CpuState, FpuState, PendingEvents, StateError};

impl Cpu {
    /// State at this instruction boundary.
    ///
    /// # Panics
    /// When an instruction is under way: its accesses have no place in a saved state.
    pub fn save(&self) -> CpuState {
        assert!(
            !self.bus.in_progress() && self.bus.waiting().is_none(),
            "state is saved at instruction boundaries"
        );
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.regs[..16]);
        CpuState {
            logical_time: self.retired,
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            segments: self.segments,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: self.cr8,
            debug: self.debug,
            msrs: self.msrs.clone(),
            fpu: FpuState {
                fxsave: self.fpu.to_fxsave().to_vec(),
                xcr0: self.fpu.xcr0,
            },
            pending: PendingEvents {
                interrupt: self.pending_interrupt,
                nmi: self.pending_nmi,
                nmi_blocked: self.nmi_blocked,
                interrupt_shadow: self.interrupt_shadow,
                halted: self.halted,
                debug_trap: self.debug_trap,
            },
            tsc: self.tsc,
        }
    }

    /// Takes a state over; translations and decoded code are the caller's to drop.
    ///
    /// # Errors
    /// When a field holds what this model cannot have; nothing is changed then.
    pub fn restore(&mut self, state: &CpuState) -> Result<(), StateError> {
        state.check()?;
        let fxsave: &[u8; 512] =
            state
                .fpu
                .fxsave
                .as_slice()
                .try_into()
                .map_err(|_| StateError::Field {
                    field: "fpu.fxsave length",
                    value: state.fpu.fxsave.len() as u64,
                })?;
        self.fpu.restore_fxsave(fxsave)?;
        self.fpu.xcr0 = state.fpu.xcr0;
        self.retired = state.logical_time;
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.cr8 = state.cr8;
        self.debug = state.debug;
        self.msrs = state.msrs.clone();
        self.pending_interrupt = state.pending.interrupt;
        self.pending_nmi = state.pending.nmi;
        self.nmi_blocked = state.pending.nmi_blocked;
        self.interrupt_shadow = state.pending.interrupt_shadow;
        self.halted = state.pending.halted;
        self.debug_trap = state.pending.debug_trap;
        self.tsc = state.tsc;
        for (index, segment) in state.segments.iter().enumerate() {
            self.set_segment(index, *segment);
        }
        // The stack segment's privilege level is the current one, but for real mode and the
        // null stack of 64-bit mode, where the code segment's selector tells.
        self.cpl = privilege(state);
        self.fault = None;
        self.bus.abandon();
        self.refresh_mode();
        self.set_rflags(state.rflags);
        self.refresh_paging();
        Ok(())
    }
}

fn privilege(state: &CpuState) -> u8 {
    if state.cr0 & cr0::PE == 0 {
        return 0;
    }
    let stack = state.segments[SS];
    if stack.access & access::UNUSABLE == 0 {
        (stack.access >> access::DPL_SHIFT & 3) as u8
    } else {
        (state.segments[CS].selector & 3) as u8
    }
}
