//! How fast guest code runs, next to the same code on the host, and what an exit costs.
//!
//! Speeds are told by the processor time of this thread, in which its guest's is: on a busy host a
//! loop takes any time by the clock on the wall, and a host with a protected guest is busy when a
//! backup comes to it.
//!
//! UNSAFETY: runs a counting loop on the host, and asks it for a thread's time.
#![allow(unsafe_code)]
// Speeds are measured by the host's clock; nothing of this reaches a guest.
#![allow(clippy::disallowed_types)]

use std::time::{Duration, Instant};

use crate::capabilities::Figure;

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Host, Ring, Stop};
use super::program::{DONE, TICK, program};

/// A loop is made longer until it takes this long, so that entry and exit do not count.
const LONG_ENOUGH: Duration = Duration::from_millis(4);
/// Turns that no processor does in less than that.
const MOST_TURNS: u64 = 1 << 25;
/// A guest is at speed if it does this part of the host's turns. Hardware does about all of them,
/// and still a third if the host is busy with other things; an emulator that interprets single
/// instructions does less than a hundredth.
const SLOWEST_PART: u64 = 10;
/// Exits that are timed.
const EXITS: u64 = 100;

/// Whether code in `ring` runs at the host's speed.
pub(super) fn turns(host: &Host, ring: Ring) -> Result<Answer, ProbeError> {
    let code = program!("2:", "dec rdi", "jnz 2b", "out {done}, al"; done = DONE);
    let guest_rate = host.with_guest(|guest| {
        turns_per_second(|turns| {
            guest.load(code, ring, turns)?;
            let begun = thread_time()?;
            guest.run_to_end()?;
            Ok(thread_time()?.saturating_sub(begun))
        })
    })?;
    let host_rate = turns_per_second(|turns| {
        let begun = thread_time()?;
        // SAFETY: counts its register down to zero, and changes nothing else but flags.
        unsafe {
            core::arch::asm!(
                "2:", "dec {0}", "jnz 2b",
                inout(reg) turns => _,
                options(nomem, nostack),
            );
        }
        Ok(thread_time()?.saturating_sub(begun))
    })?;
    let percent = guest_rate.saturating_mul(100) / host_rate.max(1);
    let works = guest_rate.saturating_mul(SLOWEST_PART) >= host_rate;
    let detail = if works {
        format!("a loop runs at {percent} % of the host's speed")
    } else {
        format!(
            "emulated: a loop runs at {percent} % of the host's speed, about {} ns an instruction",
            500_000_000 / guest_rate.max(1)
        )
    };
    Ok(Answer {
        works,
        detail,
        figure: Some(Figure {
            value: guest_rate,
            unit: "turns/s",
        }),
    })
}

/// Processor time that this thread has used so far, that of guests in it included.
fn thread_time() -> Result<Duration, ProbeError> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure outlives the call, which writes nothing else.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if told != 0 {
        return Err(ProbeError::host("tell a thread's time"));
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Turns of a loop per second: what a long run takes beyond one of a single turn, so that entry,
/// exit and what happens only once do not count. Of two equal runs the faster one counts, for the
/// host may do something else meanwhile.
fn turns_per_second(
    mut run: impl FnMut(u64) -> Result<Duration, ProbeError>,
) -> Result<u64, ProbeError> {
    let mut faster = |turns| Ok(run(turns)?.min(run(turns)?));
    let alone = faster(1)?;
    let mut turns = 2000;
    loop {
        let took = faster(turns)?.saturating_sub(alone);
        if took >= LONG_ENOUGH || turns >= MOST_TURNS {
            let ns = took.as_nanos().max(1);
            let rate = u128::from(turns) * 1_000_000_000 / ns;
            return Ok(u64::try_from(rate).unwrap_or(u64::MAX));
        }
        turns *= 8;
    }
}

/// What an exit for a port costs, there and back.
pub(super) fn exits(host: &Host, ring: Ring) -> Result<Answer, ProbeError> {
    let code = program!("2:", "out {tick}, al", "dec rdi", "jnz 2b", "out {done}, al";
        tick = TICK, done = DONE);
    let took = host.with_guest(|guest| {
        guest.load(code, ring, EXITS)?;
        let begun = Instant::now();
        for _ in 0..EXITS {
            match guest.run()? {
                Stop::Port(port) if port == u16::from(TICK) => {}
                other => return Err(ProbeError::Stopped(other)),
            }
        }
        let took = begun.elapsed();
        guest.run_to_end()?;
        Ok(took)
    })?;
    let ns = took.as_nanos() as u64 / EXITS;
    Ok(Answer {
        works: true,
        detail: format!("{}.{} us there and back", ns / 1000, ns / 100 % 10),
        figure: Some(Figure {
            value: ns,
            unit: "ns",
        }),
    })
}
