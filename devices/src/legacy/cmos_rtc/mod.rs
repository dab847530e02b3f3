//! The real-time clock and its CMOS memory (MC146818A).
//!
//! ```text
//! wall clock = base (host seconds at machine creation, a recorded input) + virtual time
//!              └─ moved when the guest sets the time
//! ```
//!
//! Modelled: BCD and binary, 12 and 24 hours, SET, update-in-progress, alarm with "don't care"
//! values, periodic and update-ended interrupts on IRQ 8, century, memory sizes, and the shutdown
//! code that resets the machine. Left out: square wave output, daylight saving, and the divider
//! reset's half-second phase; seconds always turn at whole seconds of virtual time.
//!
//! The interrupt flags of register C are not stored but computed from what was due since it was
//! last
//! read, so they need no work while nobody looks.
//!
//! Spec: Motorola MC146818A; CMOS layout as of the IBM AT.

mod calendar;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::clock::{NANOS_PER_SECOND, TickRate, VirtualTime, earliest};
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

use super::acpi_pm::PowerRequest;
use calendar::DateTime;

const KIND: &str = "rtc";

/// Index port; the data port follows.
pub const RTC_PORT: u16 = 0x70;
/// ISA interrupt of the clock.
pub const RTC_IRQ: u8 = 8;

const CMOS_SIZE: usize = 128;
/// Latest base: the last second of year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
/// No sequence of guest writes moves the clock further than this from 1970.
const SECONDS_BOUND: i64 = 1_000_000_000_000;

const REG_SECONDS_ALARM: u8 = 0x01;
const REG_MINUTES_ALARM: u8 = 0x03;
const REG_HOURS_ALARM: u8 = 0x05;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
/// Time registers in the order of [`CmosRtc::fields`].
const TIME_REGISTERS: [u8; 8] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32];
/// The index that software writes to set the shutdown code, NMI disabled.
const SHUTDOWN_INDEX: u8 = 0x8f;

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
/// 32768 Hz time base, 1024 Hz periodic rate.
const A_POWER_ON: u8 = 0x26;
const B_SET: u8 = 0x80;
const B_UPDATE_INTERRUPT: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const D_VALID: u8 = 0x80;

/// Flags of register C and the enables of register B, which have the same bits.
const FLAG_PERIODIC: u8 = 0x40;
const FLAG_ALARM: u8 = 0x20;
const FLAG_UPDATE: u8 = 0x10;
const FLAGS: u8 = FLAG_PERIODIC | FLAG_ALARM | FLAG_UPDATE;
const C_INTERRUPT: u8 = 0x80;

const HOUR_PM: u8 = 0x80;
/// Alarm values from here on match everything.
const ALARM_ANY: u8 = 0xc0;
/// How long update-in-progress shows before the second turns.
const UPDATE_WARNING_NS: u64 = 244_000;

/// What the clock and its memory hold at machine creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcConfig {
    /// Seconds since 1970 at virtual time zero, UTC.
    pub base_seconds: u64,
    /// Guest memory below 4 GiB, in bytes.
    pub ram_below_4g: u64,
    /// Guest memory above 4 GiB, in bytes.
    pub ram_above_4g: u64,
}

/// The real-time clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CmosRtc {
    /// Wall clock at virtual time zero.
    seconds_at_zero: i64,
    /// Time registers while SET stops the clock.
    stopped: Option<[u8; 8]>,
    index: u8,
    alarm: [u8; 3],
    register_a: u8,
    register_b: u8,
    /// Flags that were due before `flags_since`.
    flags: u8,
    flags_since: VirtualTime,
    line: bool,
    memory: [u8; CMOS_SIZE],
}

impl CmosRtc {
    /// A clock that runs from `config.base_seconds`, capped to year 9999.
    #[must_use]
    pub fn new(config: RtcConfig) -> Self {
        Self {
            seconds_at_zero: config.base_seconds.min(LAST_SECOND) as i64,
            stopped: None,
            index: 0,
            alarm: [0; 3],
            register_a: A_POWER_ON,
            register_b: B_24_HOURS,
            flags: 0,
            flags_since: VirtualTime::ZERO,
            line: false,
            memory: memory_sizes(&config),
        }
    }

    /// Writes the index port.
    pub const fn select(&mut self, index: u8) {
        self.index = index;
    }

    /// Reads the data port.
    pub fn read(&mut self, now: VirtualTime) -> u8 {
        let register = self.index & 0x7f;
        match register {
            REG_SECONDS_ALARM | REG_MINUTES_ALARM | REG_HOURS_ALARM => {
                self.alarm[usize::from(register / 2)]
            }
            REG_A => self.register_a | self.update_in_progress(now),
            REG_B => self.register_b,
            REG_C => self.take_flags(now),
            REG_D => D_VALID,
            _ => match time_field(register) {
                Some(field) => self.fields(now)[field],
                None => self.memory[usize::from(register)],
            },
        }
    }

    /// Writes the data port.
    pub fn write(&mut self, value: u8, now: VirtualTime) -> Option<PowerRequest> {
        let register = self.index & 0x7f;
        match register {
            REG_SECONDS_ALARM | REG_MINUTES_ALARM | REG_HOURS_ALARM => {
                self.settle(now);
                self.alarm[usize::from(register / 2)] = value;
            }
            REG_A => {
                self.settle(now);
                self.register_a = value & !A_UPDATE_IN_PROGRESS;
            }
            REG_B => self.write_register_b(value, now),
            REG_C | REG_D => {}
            _ => match time_field(register) {
                Some(field) => self.write_time(field, value, now),
                None => self.memory[usize::from(register)] = value,
            },
        }
        (self.index == SHUTDOWN_INDEX && value == 0).then_some(PowerRequest::Reset)
    }

    /// Level of the interrupt line.
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        self.line
    }

    /// The wall clock, in seconds since 1970.
    const fn wall_seconds(&self, now: VirtualTime) -> i64 {
        self.seconds_at_zero + now.seconds() as i64
    }

    const fn update_in_progress(&self, now: VirtualTime) -> u8 {
        let left = NANOS_PER_SECOND - now.0 % NANOS_PER_SECOND;
        if self.stopped.is_none() && left <= UPDATE_WARNING_NS {
            A_UPDATE_IN_PROGRESS
        } else {
            0
        }
    }

    /// The time registers as the guest reads them.
    fn fields(&self, now: VirtualTime) -> [u8; 8] {
        if let Some(fields) = self.stopped {
            return fields;
        }
        let t = DateTime::from_unix(self.wall_seconds(now));
        let mut hour = t.hour;
        let mut pm = 0;
        if self.register_b & B_24_HOURS == 0 {
            pm = if hour >= 12 { HOUR_PM } else { 0 };
            hour = (hour + 11) % 12 + 1;
        }
        let century = t.year.div_euclid(100).rem_euclid(100);
        let year = t.year.rem_euclid(100);
        [
            self.encode(t.second),
            self.encode(t.minute),
            self.encode(hour) | pm,
            self.encode(t.weekday),
            self.encode(t.day),
            self.encode(t.month),
            self.encode(year),
            // The century is decimal whatever the data mode; firmware tables say so.
            bcd(century),
        ]
    }

    const fn encode(&self, value: i64) -> u8 {
        if self.register_b & B_BINARY != 0 {
            value as u8
        } else {
            bcd(value)
        }
    }

    const fn decode(&self, value: u8) -> i64 {
        if self.register_b & B_BINARY != 0 {
            value as i64
        } else {
            unbcd(value)
        }
    }

    const fn decode_hour(&self, value: u8) -> i64 {
        if self.register_b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let pm = if value & HOUR_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOUR_PM) % 12 + pm
    }

    /// Makes the wall clock read `fields` at `now`.
    const fn set_time(&mut self, fields: [u8; 8], now: VirtualTime) {
        let [second, minute, hour, _, day, month, year, century] = fields;
        let time = DateTime {
            year: unbcd(century) * 100 + self.decode(year),
            month: self.decode(month),
            day: self.decode(day),
            weekday: 1,
            hour: self.decode_hour(hour),
            minute: self.decode(minute),
            second: self.decode(second),
        };
        self.seconds_at_zero = time.to_unix() - now.seconds() as i64;
    }

    fn write_time(&mut self, field: usize, value: u8, now: VirtualTime) {
        if let Some(fields) = &mut self.stopped {
            fields[field] = value;
            return;
        }
        self.settle(now);
        let mut fields = self.fields(now);
        fields[field] = value;
        self.set_time(fields, now);
    }

    fn write_register_b(&mut self, value: u8, now: VirtualTime) {
        self.settle(now);
        let set = value & B_SET != 0;
        match self.stopped {
            None if set => self.stopped = Some(self.fields(now)),
            Some(fields) if !set => {
                // The new data mode is written together with the end of SET.
                self.register_b = value;
                self.stopped = None;
                self.set_time(fields, now);
            }
            _ => {}
        }
        // Stopping the clock also disables its update interrupt.
        self.register_b = if set {
            value & !B_UPDATE_INTERRUPT
        } else {
            value
        };
        self.line = self.flags & self.register_b & FLAGS != 0;
    }

    fn take_flags(&mut self, now: VirtualTime) -> u8 {
        self.settle(now);
        let flags = std::mem::replace(&mut self.flags, 0);
        self.line = false;
        if flags & self.register_b & FLAGS != 0 {
            flags | C_INTERRUPT
        } else {
            flags
        }
    }

    /// Brings `flags` up to `now`, before something changes that they depend on.
    fn settle(&mut self, now: VirtualTime) {
        self.advance(now);
        for flag in [FLAG_PERIODIC, FLAG_ALARM, FLAG_UPDATE] {
            if self.flags & flag == 0 && self.due(flag).is_some_and(|due| due <= now) {
                self.flags |= flag;
            }
        }
        self.flags_since = self.flags_since.max(now);
        self.line |= self.flags & self.register_b & FLAGS != 0;
    }

    /// When `flag` is set next, after `flags_since`.
    fn due(&self, flag: u8) -> Option<VirtualTime> {
        match flag {
            FLAG_PERIODIC => {
                let period = self.periodic_ticks()?;
                let passed = TickRate::RTC.tick(self.flags_since) / period;
                TickRate::RTC.time_of((passed + 1) * period)
            }
            _ if self.stopped.is_some() => None,
            FLAG_UPDATE => self.seconds_later(1),
            _ => self.seconds_later(self.seconds_to_alarm()?),
        }
    }

    /// The turn of the `count`-th second after `flags_since`.
    fn seconds_later(&self, count: u64) -> Option<VirtualTime> {
        let second = self.flags_since.seconds().checked_add(count)?;
        second.checked_mul(NANOS_PER_SECOND).map(VirtualTime)
    }

    /// Period of the periodic interrupt in ticks of the 32768 Hz crystal.
    const fn periodic_ticks(&self) -> Option<u64> {
        match self.register_a & 0x0f {
            0 => None,
            // Rates 1 and 2 are again 256 Hz and 128 Hz.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Seconds from `flags_since` to the next match of the alarm, at least 1.
    fn seconds_to_alarm(&self) -> Option<u64> {
        let [second, minute, hour] = self.alarm;
        let fixed = |value: u8, decoded: i64| (value < ALARM_ANY).then_some(decoded);
        let second = fixed(second, self.decode(second));
        let minute = fixed(minute, self.decode(minute));
        let hour = fixed(hour, self.decode_hour(hour));
        let matches = |fixed: Option<i64>, value: i64| fixed.is_none_or(|fixed| fixed == value);
        if second.is_some_and(|s| s > 59) || minute.is_some_and(|m| m > 59) {
            return None;
        }
        let start = DateTime::from_unix(self.wall_seconds(self.flags_since) + 1);
        let started = start.hour * 3600 + start.minute * 60 + start.second;
        for h in (start.hour..=start.hour + 24).filter(|h| matches(hour, h % 24)) {
            let first_minute = if h == start.hour { start.minute } else { 0 };
            for m in (first_minute..60).filter(|m| matches(minute, *m)) {
                let first = if h == start.hour && m == start.minute {
                    start.second
                } else {
                    0
                };
                if let Some(s) = (first..60).find(|s| matches(second, *s)) {
                    return u64::try_from(h * 3600 + m * 60 + s - started + 1).ok();
                }
            }
        }
        None
    }

    /// The earliest enabled interrupt after `flags_since`.
    fn next_interrupt(&self) -> Option<VirtualTime> {
        [FLAG_PERIODIC, FLAG_ALARM, FLAG_UPDATE]
            .into_iter()
            .filter(|flag| self.register_b & flag != 0)
            .fold(None, |next, flag| earliest(next, self.due(flag)))
    }
}

impl Device for CmosRtc {
    type Saved = RtcStateV1;

    /// Battery-backed state stays: the time, the alarm and the memory.
    fn reset(&mut self, now: VirtualTime) {
        self.index = 0;
        self.register_b &= !FLAGS;
        self.flags = 0;
        self.flags_since = now;
        self.line = false;
    }

    fn advance(&mut self, now: VirtualTime) {
        if !self.line && self.register_b & FLAGS != 0 {
            self.line = self.next_interrupt().is_some_and(|at| at <= now);
        }
    }

    fn next_deadline(&self) -> Option<VirtualTime> {
        if self.line {
            None
        } else {
            self.next_interrupt()
        }
    }

    fn save(&self) -> RtcStateV1 {
        let Self {
            seconds_at_zero,
            stopped,
            index,
            alarm,
            register_a,
            register_b,
            flags,
            flags_since,
            line,
            memory,
        } = self;
        RtcStateV1 {
            seconds_at_zero: *seconds_at_zero,
            stopped: *stopped,
            index: *index,
            alarm: *alarm,
            register_a: *register_a,
            register_b: *register_b,
            flags: *flags,
            flags_since: *flags_since,
            line: *line,
            memory: memory.to_vec(),
        }
    }

    fn restore(saved: RtcStateV1) -> Result<Self, RestoreError> {
        let seconds = saved.seconds_at_zero;
        check(
            (-SECONDS_BOUND..=SECONDS_BOUND).contains(&seconds),
            KIND,
            "seconds_at_zero",
            seconds,
        )?;
        let set = saved.register_b & B_SET != 0;
        check(
            set == saved.stopped.is_some(),
            KIND,
            "stopped",
            saved.stopped,
        )?;
        let a_valid = saved.register_a & A_UPDATE_IN_PROGRESS == 0;
        check(a_valid, KIND, "register_a", saved.register_a)?;
        check(saved.flags & !FLAGS == 0, KIND, "flags", saved.flags)?;
        let size = saved.memory.len();
        check(size == CMOS_SIZE, KIND, "memory.length", size)?;
        let mut memory = [0; CMOS_SIZE];
        memory.copy_from_slice(&saved.memory);
        Ok(Self {
            seconds_at_zero: saved.seconds_at_zero,
            stopped: saved.stopped,
            index: saved.index,
            alarm: saved.alarm,
            register_a: saved.register_a,
            register_b: saved.register_b,
            flags: saved.flags,
            flags_since: saved.flags_since,
            line: saved.line,
            memory,
        })
    }
}

fn time_field(register: u8) -> Option<usize> {
    TIME_REGISTERS.iter().position(|time| *time == register)
}

/// CMOS memory with the sizes where firmware looks for them.
fn memory_sizes(config: &RtcConfig) -> [u8; CMOS_SIZE] {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let mut memory = [0; CMOS_SIZE];
    let mut put = |index: usize, units: u64| {
        let [low, high, ..] = units.min(0xffff).to_le_bytes();
        memory[index] = low;
        memory[index + 1] = high;
    };
    let extended = config.ram_below_4g.saturating_sub(MIB) / KIB;
    put(0x15, 640);
    put(0x17, extended);
    put(0x30, extended);
    put(
        0x34,
        config.ram_below_4g.saturating_sub(16 * MIB) / (64 * KIB),
    );
    let high = (config.ram_above_4g / (64 * KIB))
        .min(0xff_ffff)
        .to_le_bytes();
    memory[0x5b..0x5e].copy_from_slice(&high[..3]);
    memory
}

const fn bcd(value: i64) -> u8 {
    (((value / 10) << 4) | (value % 10)) as u8
}

const fn unbcd(value: u8) -> i64 {
    (value >> 4) as i64 * 10 + (value & 0xf) as i64
}

/// Saved state of the real-time clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcStateV1 {
    seconds_at_zero: i64,
    stopped: Option<[u8; 8]>,
    index: u8,
    alarm: [u8; 3],
    register_a: u8,
    register_b: u8,
    flags: u8,
    flags_since: VirtualTime,
    line: bool,
    memory: Vec<u8>,
}

impl SavedState for RtcStateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}
