//! The vCPU contract that every backend keeps.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capabilities::LogicalClock;
use crate::exit::Exit;
use crate::state::{CpuState, StateError};

/// A host-side failure of a vCPU. What the guest does wrong is never one.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// An instruction this backend does not have.
    #[error("cannot run instruction {bytes} at {rip:#x} in {mode}: {reason}")]
    Emulation {
        /// The instruction's bytes in hexadecimal.
        bytes: String,
        /// Its address.
        rip: u64,
        /// The processor mode.
        mode: &'static str,
        /// What is missing.
        reason: &'static str,
    },
    /// `complete_read` without a read that waits.
    #[error("no read waits for its completion")]
    NothingToComplete,
    /// The host does not run the guest any further.
    #[error("{exit}; instruction {bytes}; {state}")]
    Stopped {
        /// Why, as the host tells.
        exit: String,
        /// The bytes at the guest's next instruction in hexadecimal, as far as they can be read.
        bytes: String,
        /// The guest's registers.
        state: String,
    },
    /// A request to the host failed.
    #[error("the host refuses to {request}")]
    Host {
        /// What was asked for.
        request: &'static str,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A debugger's stopping place that this backend cannot have.
    #[error(
        "cannot stop at {count} places of the kinds asked for; this backend has {most}, each for \
         an instruction or 1, 2, 4 or 8 aligned bytes"
    )]
    DebugPoints {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// State handed in is not one this vCPU can have.
    #[error("the vCPU refuses this state")]
    State(#[from] StateError),
}

/// What the time-stamp counter follows, virtual time as a function of logical time:
/// `ns = base_ns + (t - base_time) * rate / 2^32`. The counter is
/// [`crate::cpu_model::ticks_at`] of it.
///
/// The product is taken in 128 bits and rounded down, so it is the same on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TscClock {
    /// Logical time of the last re-basing.
    pub base_time: u64,
    /// Virtual time at that time, in nanoseconds.
    pub base_ns: u64,
    /// Virtual nanoseconds per 2^32 units of logical time.
    pub rate: u64,
}

impl TscClock {
    /// Virtual time at logical time `time`, which must not lie before `base_time`.
    pub fn ns_at(&self, time: u64) -> u64 {
        let passed = u128::from(time.saturating_sub(self.base_time)) * u128::from(self.rate);
        self.base_ns.wrapping_add((passed >> 32) as u64)
    }
}

/// How a backend whose processor does not look at a kick by itself is made to.
pub(crate) trait WakeVcpu: fmt::Debug + Send + Sync {
    /// Makes the vCPU look soon, if it is running.
    fn wake(&self);
}

/// Makes a running vCPU come back from [`Vcpu::run`]. Can be sent to any thread.
#[derive(Debug, Clone, Default)]
pub struct Kicker {
    asked: Arc<AtomicBool>,
    wake: Option<Arc<dyn WakeVcpu>>,
}

impl Kicker {
    /// One whose kicks are followed by `wake`.
    pub(crate) fn waking(wake: Arc<dyn WakeVcpu>) -> Self {
        Self {
            asked: Arc::default(),
            wake: Some(wake),
        }
    }

    /// Asks the vCPU to return [`Exit::Kicked`] soon; stays asked until it has.
    pub fn kick(&self) {
        self.asked.store(true, Ordering::SeqCst);
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// Whether a kick waits.
    #[inline(always)]
    pub fn is_kicked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Address of the byte that a kick sets to one; valid as long as this handle.
    pub(crate) fn address(&self) -> u64 {
        self.asked.as_ptr() as u64
    }

    /// Takes the kick back; says whether there was one.
    pub fn take(&self) -> bool {
        self.asked.swap(false, Ordering::SeqCst)
    }
}

/// A place where a debugger wants the vCPU to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugPoint {
    /// Before the instruction at this linear address.
    Execute(u64),
    /// After an instruction that changed any of `len` bytes at this linear address.
    Write {
        /// First linear address.
        address: u64,
        /// Bytes, 1 to 8.
        len: u8,
    },
}

/// One virtual processor.
///
/// Order of use: `run` → [`Exit`] → completion → `run`. State is saved and restored only at an
/// instruction boundary, which is where `run` stops with [`Exit::Reached`], [`Exit::Kicked`],
/// [`Exit::Halted`] or [`Exit::InterruptWindow`].
pub trait Vcpu: Send {
    /// Position in the guest's execution since the machine was made, in units that
    /// [`Vcpu::logical_clock`] tells of. It changes only across [`Vcpu::run`].
    fn logical_time(&self) -> u64;

    /// What logical time counts.
    fn logical_clock(&self) -> LogicalClock {
        LogicalClock::Instructions
    }

    /// What it costs to leave the guest and enter it again, in nanoseconds, as measured on this
    /// host; zero where that is not more than any instruction costs.
    fn switch_ns(&self) -> u64 {
        0
    }

    /// Runs until logical time `until`, or something else that [`Exit`] names.
    ///
    /// # Errors
    /// Only for what the host or the backend cannot do.
    fn run(&mut self, until: u64) -> Result<Exit, VcpuError>;

    /// Answers a `PioRead`, `MmioRead` or `MsrRead` exit.
    ///
    /// # Errors
    /// When no read waits.
    fn complete_read(&mut self, value: u64) -> Result<(), VcpuError>;

    /// Answers an `MsrRead` or `MsrWrite` exit with #GP(0).
    ///
    /// # Errors
    /// When no such exit waits.
    fn refuse_msr(&mut self) -> Result<(), VcpuError>;

    /// Whether the instruction that made the last access has not retired yet. State is saved only
    /// after it has; a run to the next logical time brings that about.
    fn is_inside_instruction(&self) -> bool;

    /// Whether an interrupt can be taken at this instruction boundary.
    fn can_take_interrupt(&self) -> bool;

    /// Hands the vCPU an interrupt, delivered before its next instruction. Ends a HLT.
    ///
    /// # Panics
    /// When [`Vcpu::can_take_interrupt`] is false: an interrupt would be lost.
    fn inject_interrupt(&mut self, vector: u8);

    /// Hands the vCPU a non-maskable interrupt, delivered before the next instruction that may
    /// take it. One waits at most. Ends a HLT.
    fn inject_nmi(&mut self);

    /// Asks for [`Exit::InterruptWindow`] as soon as an interrupt can be taken.
    fn request_interrupt_window(&mut self, wanted: bool);

    /// Whether the vCPU is halted by HLT.
    fn is_halted(&self) -> bool;

    /// Task priority, 0 to 15.
    fn cr8(&self) -> u8;

    /// Sets the task priority, 0 to 15.
    fn set_cr8(&mut self, priority: u8);

    /// Tells how the time-stamp counter follows logical time from now on.
    fn set_tsc_clock(&mut self, clock: TscClock);

    /// What the guest's time-stamp counter is ahead of virtual time's ticks, modulo 2^64.
    fn tsc_offset(&self) -> u64;

    /// Says that `len` bytes of guest memory at `gpa` were written by somebody else than this
    /// vCPU: a device, at this logical time. Instructions there are decoded anew.
    fn memory_written(&mut self, gpa: u64, len: u64);

    /// Puts the pages that the guest has written since the last call into its memory's record.
    /// Backends that record each write as it is made have nothing to do.
    ///
    /// # Panics
    /// When the host does not tell: a page that is missed is a state that is lost.
    fn collect_written(&self) {}

    /// Forgets every translation and decoded instruction, so that two vCPUs that execute the
    /// same instructions from here on also fill their caches alike.
    fn synchronise(&mut self);

    /// State at this instruction boundary.
    fn save(&self) -> CpuState;

    /// Takes `state` over, and does what [`Vcpu::synchronise`] does.
    ///
    /// # Errors
    /// When the state is not one this vCPU can have; the vCPU is then unchanged.
    fn restore(&mut self, state: &CpuState) -> Result<(), VcpuError>;

    /// Replaces the debugger's stopping places.
    ///
    /// # Errors
    /// When there are more than the backend can have, or places of a kind that it cannot have;
    /// those before are then kept.
    fn set_debug_points(&mut self, points: &[DebugPoint]) -> Result<(), VcpuError>;

    /// A handle that makes `run` return early.
    fn kicker(&self) -> Kicker;
}
