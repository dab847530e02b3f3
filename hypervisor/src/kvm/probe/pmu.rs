//! Whether the host can count a guest's branches, exactly, and how late it stops a guest after a
//! given count: the skid.
//!
//! Which event is exact is found by counting a known number of branches, not by the processor's
//! name: events of another maker count something else.
//!
//! UNSAFETY: opens a performance event by its system call, with a description of the first version,
//! and asks for a signal when it overflows.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::capabilities::Figure;

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, Ring, Stop};
use super::program::{DONE, program};
use super::watch;

/// `PERF_TYPE_HARDWARE`, `PERF_TYPE_RAW`. Spec: perf_event_open(2), and below.
const HARDWARE: u32 = 0;
const RAW: u32 = 4;
/// Bits of the flags: disabled, pinned, exclude_host.
const DISABLED: u64 = 1 << 0;
const PINNED: u64 = 1 << 2;
const EXCLUDE_HOST: u64 = 1 << 19;
const ENABLE: libc::c_ulong = 0x2400;
const CLOSE_ON_EXEC: libc::c_ulong = 8;
/// Branch events: name, type, configuration.
const EVENTS: [(&str, u32, u64); 3] = [
    ("AMD's conditional branches", RAW, 0xd1),
    ("Intel's conditional branches", RAW, 0x1c4),
    ("branch instructions", HARDWARE, 4),
];
const FEW_TURNS: u64 = 10_000;
const MANY_TURNS: u64 = 50_000;
/// Overflows that are looked at.
const OVERFLOWS: u64 = 20;

/// The first version of `struct perf_event_attr`, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Description {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config_1: u64,
}

/// A counter of this thread's guests.
struct Counter(OwnedFd);

impl Counter {
    fn open(kind: u32, config: u64, period: u64) -> io::Result<Self> {
        let description = Description {
            kind,
            size: size_of::<Description>() as u32,
            config,
            sample_period: period,
            flags: DISABLED | PINNED | EXCLUDE_HOST,
            wakeup_events: u32::from(period != 0),
            ..Description::default()
        };
        // SAFETY: a valid description; this thread on any processor, no group.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const description,
                0,
                -1,
                -1,
                CLOSE_ON_EXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    fn enable(&self) -> io::Result<()> {
        // SAFETY: our own descriptor; the request takes no memory.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), ENABLE as _, 0) })
    }

    /// Has this thread signalled at each overflow.
    fn signal_overflows(&self) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: takes no arguments.
        let thread = unsafe { libc::gettid() };
        // `struct f_owner_ex`: F_OWNER_TID and the thread.
        let owner = [0, thread];
        // SAFETY: our own descriptor; the structure is valid during the call.
        check(unsafe { libc::fcntl(fd, F_SETOWN_EX, owner.as_ptr()) })?;
        // SAFETY: as above, with plain numbers.
        check(unsafe { libc::fcntl(fd, F_SETSIG, watch::signal()) })?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) })
    }

    fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        // SAFETY: our own descriptor and buffer.
        let got = unsafe { libc::read(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), 8) };
        match got {
            8 => Ok(u64::from_ne_bytes(bytes)),
            // A pinned event that cannot be scheduled ends at once.
            0 => Err(io::Error::other("no counter is free")),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Spec: fcntl(2); the libc crate has no names for these.
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn code() -> &'static [u8] {
    program!("2:", "dec rdi", "jnz 2b", "out {done}, al"; done = DONE)
}

/// Whether a counter tells the turns of a loop apart, to the branch; and its skid.
pub(super) fn branches(host: &Host) -> Result<Answer, ProbeError> {
    let mut refusals = Vec::new();
    for (name, kind, config) in EVENTS {
        match host.with_guest(|guest| count_difference(guest, kind, config)) {
            Ok(Ok(counted)) if counted == MANY_TURNS - FEW_TURNS => {
                return host.with_guest(|guest| with_skid(guest, name, kind, config));
            }
            Ok(Ok(counted)) => {
                let wanted = MANY_TURNS - FEW_TURNS;
                refusals.push((name, format!("{counted} counted instead of {wanted}")));
            }
            Ok(Err(error)) => refusals.push((name, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    Ok(Answer {
        works: false,
        detail: Answer::grouped(&refusals),
        figure: None,
    })
}

/// Branches of a long run less those of a short one: what entry and exit add is gone. The inner
/// error is what the host's counters refuse.
fn count_difference(
    guest: &mut Guest,
    kind: u32,
    config: u64,
) -> Result<io::Result<u64>, ProbeError> {
    let mut counts = Vec::new();
    for turns in [FEW_TURNS, MANY_TURNS] {
        let counter = match Counter::open(kind, config, 0) {
            Ok(counter) => counter,
            Err(error) => return Ok(Err(error)),
        };
        guest.load(code(), Ring::Kernel, turns)?;
        if let Err(error) = counter.enable() {
            return Ok(Err(error));
        }
        guest.run_to_end()?;
        match counter.read() {
            Ok(count) => counts.push(count),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(counts[1].wrapping_sub(counts[0])))
}

/// The largest of some skids.
fn with_skid(
    guest: &mut Guest,
    name: &'static str,
    kind: u32,
    config: u64,
) -> Result<Answer, ProbeError> {
    let mut largest = 0;
    for round in 0..OVERFLOWS {
        // Periods of different lengths, so that overflows fall on different places of the loop.
        let period = 5_000 + round * 97;
        let refused = |source| ProbeError::Host {
            action: "count with an overflow",
            source,
        };
        let counter = Counter::open(kind, config, period).map_err(refused)?;
        counter.signal_overflows().map_err(refused)?;
        guest.load(code(), Ring::Kernel, MANY_TURNS)?;
        counter.enable().map_err(refused)?;
        match guest.run()? {
            Stop::Interrupted => {}
            Stop::Done => {
                return Ok(Answer {
                    works: false,
                    detail: format!("{name} are exact, but an overflow does not stop the guest"),
                    figure: None,
                });
            }
            other => return Err(ProbeError::Stopped(other)),
        }
        let count = counter.read().map_err(refused)?;
        largest = largest.max(count.saturating_sub(period));
    }
    Ok(Answer {
        works: true,
        detail: format!("{name} are exact; the largest skid of {OVERFLOWS} is {largest} branches"),
        figure: Some(Figure {
            value: largest,
            unit: "branches",
        }),
    })
}
