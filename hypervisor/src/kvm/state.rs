//! The whole state of a processor, to and from KVM.
//!
//! UNSAFETY: an XSAVE area whose size is the kernel's affair.
#![allow(unsafe_code)]

use kvm_bindings::Msrs;

use super::counter::host_counter;
use super::vcpu::{KvmVcpu, failed};
use super::{events, fpu, registers};
use crate::arch::x86_64::control::rflags;
use crate::state::{CpuState, Msrs as StateMsrs, reset_state};
use crate::vcpu::VcpuError;

fn entries(msrs: &StateMsrs) -> Result<Msrs, VcpuError> {
    Msrs::from_entries(&registers::passed(msrs))
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
        .map_err(failed("hold the model-specific registers"))
}

impl KvmVcpu {
    /// The state as KVM and this side have it.
    pub(super) fn read_state(&self) -> Result<CpuState, VcpuError> {
        let fd = &self.fd;
        let mut state = reset_state();
        let general = fd.get_regs().map_err(failed("tell the registers"))?;
        registers::read_general(&general, &mut state);
        let system = fd.get_sregs();
        let system = system.map_err(failed("tell the system registers"))?;
        state.msrs = self.msrs.clone();
        registers::read_system(&system, &mut state);
        let mut passed = entries(&state.msrs)?;
        let count = fd.get_msrs(&mut passed);
        let count = count.map_err(failed("tell the model-specific registers"))?;
        registers::read_passed(&passed.as_slice()[..count], &mut state.msrs);
        state.msrs.tsc_adjust = self.clock.adjustment();
        let area = fd.get_xsave().map_err(failed("tell the FPU's state"))?;
        let control = fd.get_xcrs().map_err(failed("tell XCR0"))?;
        state.fpu = fpu::read_area(&area, fpu::read_control(&control));
        state.pending = events::read_events(&self.waiting()?, self.halted);
        if self.injecting.is_some() {
            state.pending.interrupt = self.injecting;
        }
        state.pending.nmi |= self.nmi_wanted;
        let debug = fd.get_debug_regs();
        let debug = debug.map_err(failed("tell the debug registers"))?;
        let [db0, db1, db2, db3] = debug.db;
        state.debug = [db0, db1, db2, db3, debug.dr6, debug.dr7];
        state.cr8 = self.cr8;
        state.logical_time = self.clock.time();
        state.tsc = self.clock.clock();
        Ok(state)
    }

    /// Sets the state, if it is one that a processor of the model can have.
    pub(super) fn write_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        state.check()?;
        let area = fpu::area(&state.fpu)?;
        self.drain()?;
        self.shown = false;
        let fd = &self.fd;
        fd.set_sregs(&registers::system(state))
            .map_err(failed("take the system registers"))?;
        fd.set_regs(&registers::general(state))
            .map_err(failed("take the registers"))?;
        // SAFETY: the area has the standard format with x87 and SSE state, which lie in its first
        // kilobyte; KVM reads four of them unless a process has asked for larger components, which
        // this one never does.
        unsafe { fd.set_xsave(&area) }.map_err(failed("take the FPU's state"))?;
        fd.set_xcrs(&fpu::control(state.fpu.xcr0))
            .map_err(failed("take XCR0"))?;
        let wanted = entries(&state.msrs)?;
        let count = fd.set_msrs(&wanted);
        let count = count.map_err(failed("take the model-specific registers"))?;
        if let Some(refused) = wanted.as_slice().get(count) {
            return Err(VcpuError::State(crate::state::StateError::Field {
                field: registers::name(refused.index),
                value: refused.data,
            }));
        }
        fd.set_debug_regs(&events::debug_registers(state))
            .map_err(failed("take the debug registers"))?;
        fd.set_vcpu_events(&events::events(state))
            .map_err(failed("take what waits"))?;
        self.msrs = state.msrs.clone();
        self.cr8 = state.cr8;
        self.halted = state.pending.halted;
        self.injecting = None;
        self.nmi_wanted = false;
        let pending = &state.pending;
        self.is_open = state.rflags & rflags::IF != 0
            && !pending.interrupt_shadow
            && pending.interrupt.is_none()
            && !pending.debug_trap;
        self.clock.restore(
            state.logical_time,
            state.tsc,
            state.msrs.tsc_adjust,
            host_counter(),
        );
        Ok(())
    }
}
