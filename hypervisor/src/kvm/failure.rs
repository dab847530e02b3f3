//! What is told of a VM that KVM cannot go on with: the exit, the instruction and the state.
//!
//! UNSAFETY: fields of a union that the reason of the exit chooses.
#![allow(unsafe_code)]

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

use crate::state::CpuState;

/// The exit in words.
pub(super) fn describe_exit(run: &kvm_run) -> String {
    match run.exit_reason {
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the reason says that this field of the union is the one in use.
            let entry = unsafe { run.__bindgen_anon_1.fail_entry };
            format!(
                "the processor refuses to enter the guest, reason {:#x}",
                entry.hardware_entry_failure_reason
            )
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: as above.
            let internal = unsafe { run.__bindgen_anon_1.internal };
            let what = match internal.suberror {
                KVM_INTERNAL_ERROR_EMULATION => "KVM does not emulate the instruction",
                KVM_INTERNAL_ERROR_SIMUL_EX => "KVM met an exception inside another",
                KVM_INTERNAL_ERROR_DELIVERY_EV => "KVM could not deliver an event",
                KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "the processor left unexpectedly",
                _ => "KVM has an internal error",
            };
            let count = (internal.ndata as usize).min(internal.data.len());
            let data: Vec<String> = internal.data[..count]
                .iter()
                .map(|word| format!("{word:#x}"))
                .collect();
            format!("{what} (error {}: {})", internal.suberror, data.join(" "))
        }
        reason => format!("KVM leaves the guest for reason {reason}, which has no answer here"),
    }
}

/// Bytes in hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    words.join(" ")
}

/// The registers that tell most, in one line.
pub(super) fn describe_state(state: &CpuState) -> String {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi] = [0, 1, 2, 3, 4, 5, 6, 7].map(|at| state.gpr[at]);
    let code = &state.segments[crate::arch::x86_64::segment::CS];
    format!(
        "rip {:#x} rflags {:#x} rax {rax:#x} rbx {rbx:#x} rcx {rcx:#x} rdx {rdx:#x} rsi {rsi:#x} \
         rdi {rdi:#x} rsp {rsp:#x} rbp {rbp:#x} cs {:#x} base {:#x} cr0 {:#x} cr2 {:#x} cr3 {:#x} \
         cr4 {:#x} efer {:#x}",
        state.rip,
        state.rflags,
        code.selector,
        code.base,
        state.cr0,
        state.cr2,
        state.cr3,
        state.cr4,
        state.msrs.efer
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::reset_state;

    #[test]
    fn exits_are_told_with_their_numbers() {
        let mut run = kvm_run {
            exit_reason: KVM_EXIT_FAIL_ENTRY,
            ..kvm_run::default()
        };
        run.__bindgen_anon_1
            .fail_entry
            .hardware_entry_failure_reason = 0x8000_0021;
        assert!(describe_exit(&run).contains("0x80000021"));
        run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
        run.__bindgen_anon_1.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
        run.__bindgen_anon_1.internal.ndata = u32::MAX;
        assert!(describe_exit(&run).contains("does not emulate"));
        run.exit_reason = 99;
        assert!(describe_exit(&run).contains("99"));
        assert!(describe_state(&reset_state()).contains("rip 0xfff0"));
        assert_eq!(hexadecimal(&[0xf, 0xc7]), "0f c7");
    }
}
