//! Whether accesses to model-specific registers come to us: those that KVM does not know, and those
//! that a filter names.

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_UNKNOWN,
    kvm_enable_cap,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, Ring, Stop};
use super::program::{DONE, program};

/// Of the range that KVM's paravirtual registers are in, and not one of them.
const UNKNOWN_MSR: u32 = 0x4b56_4dfe;
/// A register that KVM knows: IA32_TIME_STAMP_COUNTER.
const KNOWN_MSR: u32 = 0x10;
/// What the reads are answered with.
const ANSWER: u64 = 0x0123_4567_89ab_cdef;

/// Whether the access to an unknown register can be answered.
pub(super) fn user_space(host: &Host) -> Result<Answer, ProbeError> {
    let mut guest = Guest::with(host, enable)?;
    read_and_write(&mut guest, UNKNOWN_MSR)
}

/// Whether the access to a known register can be taken over.
pub(super) fn filter(host: &Host) -> Result<Answer, ProbeError> {
    let mut guest = Guest::with(host, |vm| {
        enable(vm)?;
        let range = MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: KNOWN_MSR,
            msr_count: 1,
            bitmap: &[0],
        };
        vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range])
            .map_err(ProbeError::kvm("set the MSR filter"))
    })?;
    read_and_write(&mut guest, KNOWN_MSR)
}

fn enable(vm: &VmFd) -> Result<(), ProbeError> {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..kvm_enable_cap::default()
    };
    cap.args[0] = u64::from(KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER);
    vm.enable_cap(&cap)
        .map_err(ProbeError::kvm("enable exits for MSRs"))
}

/// Reads a register, adds one, writes it back.
fn read_and_write(guest: &mut Guest, index: u32) -> Result<Answer, ProbeError> {
    let code = program!("mov ecx, edi", "rdmsr", "inc eax", "wrmsr", "shl rdx, 32",
        "or rax, rdx", "out {done}, al"; done = DONE);
    guest.load(code, Ring::Kernel, u64::from(index))?;
    guest.answer = ANSWER;
    let mut stops = Vec::new();
    for wanted in [
        Stop::MsrRead(index),
        Stop::MsrWrite(index, ANSWER + 1),
        Stop::Done,
    ] {
        let stop = guest.run()?;
        let as_wanted = stop == wanted;
        stops.push(stop);
        if !as_wanted {
            break;
        }
    }
    let value = guest.rax()?;
    let works = stops.last() == Some(&Stop::Done) && value == ANSWER + 1;
    let detail = match stops.last() {
        _ if works => "reads and writes are answered from outside".into(),
        Some(Stop::Fault(vector)) => format!("exception {vector} instead of an exit"),
        Some(stop) => format!("{stop}, and RAX is {value:#x}"),
        None => "no exit".into(),
    };
    Ok(Answer {
        works,
        detail,
        figure: None,
    })
}
