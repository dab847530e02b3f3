//! The local APIC timer: one-shot, periodic and TSC-deadline.
//!
//! The input clock is a 25 MHz crystal, 40 ns a tick, divided by the divide configuration register.
//! The time-stamp counter follows virtual time at a frequency of the machine's, plus an offset that
//! the guest chooses by writing it. Nobody but this timer asks for its value here.
//!
//! State is a base time and the count at that time; the current count is computed. The base of a
//! periodic timer moves to the last expiry, however many passed in one step.
//!
//! Spec: Intel SDM vol. 3A, ch. 11 "APIC", section "APIC Timer".

use serde::{Deserialize, Serialize};

use crate::clock::{TscRate, VirtualTime};
use crate::saved::{RestoreError, check};

/// Nanoseconds per tick of the undivided timer clock, 25 MHz.
pub const TIMER_TICK_NS: u64 = 40;

/// What the mode bits of the timer's local vector table entry select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl TimerMode {
    pub(super) const fn from_lvt(lvt: u32) -> Self {
        match (lvt >> 17) & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

/// Timer registers and the state behind them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    initial_count: u32,
    divide: u32,
    /// Count at `base`; zero means stopped.
    base_count: u32,
    base: VirtualTime,
    /// IA32_TSC_DEADLINE; zero means disarmed.
    tsc_deadline: u64,
    /// When `tsc_deadline` is reached; `None` if it is disarmed or beyond representable time.
    deadline_at: Option<VirtualTime>,
    /// Guest TSC minus the ticks of virtual time, modulo 2^64.
    tsc_offset: u64,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self {
            initial_count: 0,
            divide: 0,
            base_count: 0,
            base: VirtualTime::ZERO,
            tsc_deadline: 0,
            deadline_at: None,
            tsc_offset: 0,
        }
    }

    /// Stops the timer and clears its registers. The TSC is no part of the APIC and goes on.
    pub(super) const fn reset(&mut self) {
        *self = Self {
            tsc_offset: self.tsc_offset,
            ..Self::new()
        };
    }

    pub(super) const fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    pub(super) fn current_count(&self, now: VirtualTime) -> u32 {
        let elapsed = now.since(self.base) / self.tick_ns();
        u32::try_from(u64::from(self.base_count).saturating_sub(elapsed)).unwrap_or(0)
    }

    pub(super) fn write_initial_count(&mut self, mode: TimerMode, value: u32, now: VirtualTime) {
        if mode != TimerMode::TscDeadline {
            self.initial_count = value;
            self.start(value, now);
        }
    }

    /// A new divisor takes effect on what is left of the count.
    pub(super) fn write_divide(&mut self, value: u32, now: VirtualTime) {
        let left = self.current_count(now);
        self.divide = value & 0b1011;
        self.start(left, now);
    }

    pub(super) fn write_tsc_deadline(&mut self, value: u64, rate: TscRate, now: VirtualTime) {
        self.tsc_deadline = value;
        self.locate_deadline(rate, now);
    }

    pub(super) fn set_tsc_offset(&mut self, offset: u64, rate: TscRate, now: VirtualTime) {
        self.tsc_offset = offset;
        self.locate_deadline(rate, now);
    }

    /// Switching to or from TSC-deadline mode disarms; one-shot and periodic share the count.
    pub(super) fn change_mode(&mut self, old: TimerMode, new: TimerMode) {
        if old != new && (old == TimerMode::TscDeadline || new == TimerMode::TscDeadline) {
            self.start(0, VirtualTime::ZERO);
            self.tsc_deadline = 0;
            self.deadline_at = None;
        }
    }

    /// Whether the timer expired at or before `now`, since the last call.
    pub(super) fn advance(&mut self, mode: TimerMode, now: VirtualTime) -> bool {
        let Some(expiry) = self.expiry(mode).filter(|expiry| *expiry <= now) else {
            return false;
        };
        match mode {
            TimerMode::TscDeadline => {
                self.tsc_deadline = 0;
                self.deadline_at = None;
            }
            TimerMode::Periodic if self.initial_count != 0 => {
                let period = u64::from(self.initial_count) * self.tick_ns();
                let late = now.since(expiry) % period;
                self.start(self.initial_count, VirtualTime(now.0 - late));
            }
            TimerMode::OneShot | TimerMode::Periodic => self.start(0, VirtualTime::ZERO),
        }
        true
    }

    /// When the timer expires next.
    pub(super) fn expiry(&self, mode: TimerMode) -> Option<VirtualTime> {
        match mode {
            TimerMode::TscDeadline => self.deadline_at,
            TimerMode::OneShot | TimerMode::Periodic if self.base_count == 0 => None,
            TimerMode::OneShot | TimerMode::Periodic => self
                .base
                .checked_add(u64::from(self.base_count) * self.tick_ns()),
        }
    }

    pub(super) fn check(&self, kind: &'static str) -> Result<(), RestoreError> {
        check(
            self.divide & !0b1011 == 0,
            kind,
            "timer.divide",
            self.divide,
        )?;
        let armed = self.tsc_deadline != 0 || self.deadline_at.is_none();
        check(armed, kind, "timer.deadline_at", self.deadline_at)
    }

    fn start(&mut self, count: u32, now: VirtualTime) {
        self.base_count = count;
        // A stopped timer has one representation only, so that equal states compare equal.
        self.base = if count == 0 { VirtualTime::ZERO } else { now };
    }

    fn locate_deadline(&mut self, rate: TscRate, now: VirtualTime) {
        self.deadline_at = if self.tsc_deadline == 0 {
            None
        } else {
            let tick = rate.tick(now);
            // The register holds the low 64 bits.
            let tsc = (tick as u64).wrapping_add(self.tsc_offset);
            match self.tsc_deadline.saturating_sub(tsc) {
                0 => Some(now),
                left => rate.time_of(tick + u128::from(left)),
            }
        };
    }

    const fn tick_ns(&self) -> u64 {
        // Bits 3, 1 and 0 encode 2, 4, 8, 16, 32, 64, 128, 1.
        let code = (self.divide & 3) | ((self.divide >> 1) & 4);
        TIMER_TICK_NS << ((code + 1) & 7)
    }
}
