//! What waits to be delivered, to and from KVM's structure. KVM API 4.31 and 4.32.

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_vcpu_events,
};

use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::exception;
use crate::state::{CpuState, PendingEvents};

/// DR6: a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// What waits in `state`.
pub(super) fn events(state: &CpuState) -> kvm_vcpu_events {
    let pending = &state.pending;
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    if let Some(vector) = pending.interrupt {
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
    }
    events.nmi.pending = u8::from(pending.nmi);
    events.nmi.masked = u8::from(pending.nmi_blocked);
    if pending.interrupt_shadow {
        // No processor is in the shadow of STI with interrupts off, nor can it be put there.
        let enabled = state.rflags & rflags::IF != 0;
        events.interrupt.shadow = if enabled {
            KVM_X86_SHADOW_INT_STI
        } else {
            KVM_X86_SHADOW_INT_MOV_SS
        } as u8;
    }
    if pending.debug_trap {
        events.exception.injected = 1;
        events.exception.nr = exception::DB;
    }
    events
}

/// The debug registers of `state`; a trap that waits is already told of in DR6.
pub(super) fn debug_registers(state: &CpuState) -> kvm_debugregs {
    let [db0, db1, db2, db3, dr6, dr7] = state.debug;
    let step = if state.pending.debug_trap {
        DR6_SINGLE_STEP
    } else {
        0
    };
    kvm_debugregs {
        db: [db0, db1, db2, db3],
        dr6: dr6 | step,
        dr7,
        ..kvm_debugregs::default()
    }
}

/// Whether an exception is on its way to the guest, which [`PendingEvents`] cannot say.
pub(super) fn in_delivery(events: &kvm_vcpu_events) -> bool {
    events.exception.injected != 0 || events.exception.pending != 0
}

/// What waits, as KVM tells; `halted` is not KVM's.
pub(super) fn read_events(events: &kvm_vcpu_events, halted: bool) -> PendingEvents {
    let interrupt = events.interrupt.injected != 0 && events.interrupt.soft == 0;
    // One that is being delivered blocks the next already; to the state it has not begun.
    let delivering = events.nmi.injected != 0;
    PendingEvents {
        interrupt: interrupt.then_some(events.interrupt.nr),
        nmi: delivering || events.nmi.pending != 0,
        nmi_blocked: events.nmi.masked != 0 && !delivering,
        interrupt_shadow: events.interrupt.shadow != 0,
        halted,
        debug_trap: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::reset_state;

    #[test]
    fn what_waits_comes_back() {
        for bits in 0..16 {
            let mut state = reset_state();
            state.rflags |= if bits & 8 != 0 { rflags::IF } else { 0 };
            state.pending = PendingEvents {
                interrupt: (bits & 1 != 0).then_some(0x41),
                nmi: bits & 2 != 0,
                nmi_blocked: bits & 4 != 0,
                interrupt_shadow: bits & 8 != 0,
                ..PendingEvents::default()
            };
            assert_eq!(read_events(&events(&state), false), state.pending);
        }
    }

    #[test]
    fn a_trap_that_waits_is_an_exception_in_delivery() {
        let mut state = reset_state();
        state.pending.debug_trap = true;
        assert!(in_delivery(&events(&state)));
        assert_eq!(debug_registers(&state).dr6, 0xffff_4ff0);
    }

    #[test]
    fn an_nmi_in_delivery_does_not_block_itself() {
        let mut kernel = kvm_vcpu_events::default();
        kernel.nmi.injected = 1;
        kernel.nmi.masked = 1;
        let pending = read_events(&kernel, false);
        assert!(pending.nmi && !pending.nmi_blocked);
    }
}
