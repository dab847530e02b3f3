//! Whether the guest's time-stamp counter obeys: an offset of its own, a rate of its own.
// The rate is measured by the host's clock; nothing of this reaches a guest.
#![allow(clippy::disallowed_types)]

use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{Msrs, kvm_msr_entry};

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, Ring, Stop};
use super::program::{TICK, program};

/// IA32_TIME_STAMP_COUNTER.
const TSC_MSR: u32 = 0x10;
/// A value that no counter has by itself.
const FAR: u64 = 1 << 60;
/// Between two readings.
const WAIT: Duration = Duration::from_millis(10);

/// Loads a program that reads the counter once in each run.
fn load_reader(guest: &mut Guest) -> Result<(), ProbeError> {
    let code = program!("2:", "rdtsc", "shl rdx, 32", "or rax, rdx", "out {tick}, al", "jmp 2b";
        tick = TICK);
    guest.load(code, Ring::Kernel, 0)
}

fn read(guest: &mut Guest) -> Result<u64, ProbeError> {
    match guest.run()? {
        Stop::Port(port) if port == u16::from(TICK) => guest.rax(),
        other => Err(ProbeError::Stopped(other)),
    }
}

/// Whether the counter goes on from a value that it was set to.
pub(super) fn offset(host: &Host) -> Result<Answer, ProbeError> {
    host.with_guest(offset_of)
}

fn offset_of(guest: &mut Guest) -> Result<Answer, ProbeError> {
    load_reader(guest)?;
    let before = read(guest)?;
    let entry = kvm_msr_entry {
        index: TSC_MSR,
        data: FAR,
        ..kvm_msr_entry::default()
    };
    let msrs = Msrs::from_entries(&[entry])
        .map_err(|error| ProbeError::Unexpected(format!("a list of one MSR: {error:?}")))?;
    let set = guest
        .vcpu
        .set_msrs(&msrs)
        .map_err(ProbeError::kvm("set the time-stamp counter"))?;
    let after = read(guest)?;
    // Generously, a minute of the fastest counter.
    let works = set == 1 && (FAR..FAR + (1 << 40)).contains(&after);
    let detail = if works {
        "goes on from the value it was set to".into()
    } else {
        format!("set to {FAR:#x}, it reads {after:#x} (before: {before:#x})")
    };
    Ok(Answer {
        works,
        detail,
        figure: None,
    })
}

/// Whether the counter takes half its rate.
pub(super) fn scaling(host: &Host) -> Result<Answer, ProbeError> {
    // A guest of its own: its counter keeps the rate.
    let mut guest = Guest::new(host)?;
    load_reader(&mut guest)?;
    let khz = guest
        .vcpu
        .get_tsc_khz()
        .map_err(ProbeError::kvm("get the counter's rate"))?;
    guest
        .vcpu
        .set_tsc_khz(khz / 2)
        .map_err(ProbeError::kvm("set half the counter's rate"))?;
    let begun = Instant::now();
    let first = read(&mut guest)?;
    thread::sleep(WAIT);
    let ticks = read(&mut guest)?.wrapping_sub(first);
    let us = begun.elapsed().as_micros().max(1);
    let measured_khz = u128::from(ticks) * 1000 / us;
    // A third off either way: half the rate and the whole rate are told apart on a busy host too.
    let wanted = u128::from(khz / 2);
    let works = measured_khz * 3 > wanted * 2 && measured_khz * 3 < wanted * 4;
    Ok(Answer {
        works,
        detail: format!("set to {wanted} kHz, it runs at about {measured_khz} kHz"),
        figure: None,
    })
}
