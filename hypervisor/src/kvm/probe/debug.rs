//! Whether the host can stop a guest at an instruction: hardware breakpoints and single steps.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
    kvm_guest_debug_arch,
};

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, Ring, Stop};
use super::program::{CODE, DONE, program};

/// The debug exception.
const DEBUG_VECTOR: u8 = 1;
/// In DR7: place 0 is on, for execution; bit 10 is always one.
const BREAKPOINT_ON: u64 = 0x402;

/// Three one-byte instructions, then the end.
fn code() -> &'static [u8] {
    program!("nop", "nop", "nop", "out {done}, al"; done = DONE)
}

/// Whether a hardware breakpoint stops the guest before its third instruction.
pub(super) fn breakpoint(host: &Host, ring: Ring) -> Result<Answer, ProbeError> {
    let place = CODE + 2;
    let mut arch = kvm_guest_debug_arch::default();
    arch.debugreg[0] = place;
    arch.debugreg[7] = BREAKPOINT_ON;
    let stop = stop_with(host, ring, KVM_GUESTDBG_USE_HW_BP, arch)?;
    Ok(answer(&stop, place))
}

/// Whether a single step stops the guest before its second instruction.
pub(super) fn step(host: &Host, ring: Ring) -> Result<Answer, ProbeError> {
    let arch = kvm_guest_debug_arch::default();
    let stop = stop_with(host, ring, KVM_GUESTDBG_SINGLESTEP, arch)?;
    Ok(answer(&stop, CODE + 1))
}

fn stop_with(
    host: &Host,
    ring: Ring,
    control: u32,
    arch: kvm_guest_debug_arch,
) -> Result<Stop, ProbeError> {
    host.with_guest(|guest| {
        guest.load(code(), ring, 0)?;
        set_debug(guest, KVM_GUESTDBG_ENABLE | control, arch)?;
        let stop = guest.run();
        set_debug(guest, 0, kvm_guest_debug_arch::default())?;
        stop
    })
}

fn set_debug(guest: &Guest, control: u32, arch: kvm_guest_debug_arch) -> Result<(), ProbeError> {
    let debug = kvm_guest_debug {
        control,
        pad: 0,
        arch,
    };
    guest
        .vcpu
        .set_guest_debug(&debug)
        .map_err(ProbeError::kvm("set guest debug"))
}

fn answer(stop: &Stop, wanted: u64) -> Answer {
    let detail = match stop {
        Stop::Debug(place) if *place == wanted => "stops at the instruction".into(),
        Stop::Debug(place) => format!("stops at {place:#x} instead of {wanted:#x}"),
        Stop::Fault(DEBUG_VECTOR) => "the exception goes to the guest".into(),
        Stop::Done => "does not stop the guest".into(),
        other => other.to_string(),
    };
    Answer {
        works: *stop == Stop::Debug(wanted),
        detail,
        figure: None,
    }
}
