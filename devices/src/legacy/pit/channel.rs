//! One counter of the 8254.
//!
//! A counter is a start tick and a length; its value and its output are computed from the current
//! tick. A count written at tick t is loaded at t + 1. `advance` moves the start of a periodic
//! counter to its last reload and reports rising edges of the output.
//!
//! ```text
//! mode  output                                     rising edge (ticks after start)
//!  0    low until the count ends, then high        N, once
//!  1    low from the gate's edge until the end     N, once per trigger
//!  2    high, low in the last tick of a period     every N
//!  3    high half a period, low half a period      every N
//!  4    high, low in the tick at the end           N + 1, once
//!  5    as 4, started by the gate's edge           N + 1, once per trigger
//! ```

use serde::{Deserialize, Serialize};

use crate::saved::{RestoreError, check};

/// Which bytes of the count a port access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    /// Low, then high.
    Both,
}

/// Whether the counter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// No count since the mode was set.
    Stopped,
    /// Has a count; waits for the gate.
    Armed,
    Counting {
        start: u64,
    },
    /// The gate holds a one-shot count.
    Paused {
        elapsed: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    mode: u8,
    bytes: Bytes,
    bcd: bool,
    gate: bool,
    run: Run,
    /// Length of the count in ticks, 1..=65536.
    count: u32,
    /// Loaded at the end of the period (modes 2, 3) or at the next trigger (modes 1, 5).
    next_count: Option<u32>,
    /// The one edge of a one-shot count has been reported.
    fired: bool,
    /// First byte of a two-byte count.
    written_low: Option<u8>,
    /// The next read of a two-byte count is its high byte.
    reads_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bytes: Bytes::Both,
            bcd: false,
            gate,
            run: Run::Stopped,
            count: 0x1_0000,
            next_count: None,
            fired: false,
            written_low: None,
            reads_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// Whether the output rose since the last call, at or before `tick`.
    pub(super) fn advance(&mut self, tick: u64) -> bool {
        let Some(edge) = self.next_edge().filter(|edge| *edge <= tick) else {
            return false;
        };
        if self.is_periodic() {
            self.count = self.next_count.take().unwrap_or(self.count);
            let late = (tick - edge) % u64::from(self.count);
            self.run = Run::Counting { start: tick - late };
        } else {
            self.fired = true;
        }
        true
    }

    /// The tick of the next rising edge.
    pub(super) fn next_edge(&self) -> Option<u64> {
        let Run::Counting { start } = self.run else {
            return None;
        };
        let end = start + u64::from(self.count);
        match self.mode {
            2 | 3 => Some(end),
            _ if self.fired => None,
            0 | 1 => Some(end),
            _ => Some(end + 1),
        }
    }

    pub(super) fn output(&self, tick: u64) -> bool {
        let count = u64::from(self.count);
        let elapsed = match self.run {
            Run::Stopped => return self.mode != 0,
            Run::Armed => return true,
            Run::Paused { elapsed } => elapsed,
            Run::Counting { start } if tick < start => return self.mode != 0,
            Run::Counting { start } => tick - start,
        };
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => elapsed % count != count - 1,
            3 => elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        let rose = gate && !self.gate;
        let fell = !gate && self.gate;
        self.gate = gate;
        match (self.mode, self.run) {
            (0 | 4, Run::Counting { start }) if fell => {
                self.run = Run::Paused {
                    elapsed: tick.saturating_sub(start),
                };
            }
            (0 | 4, Run::Paused { elapsed }) if rose => {
                self.run = Run::Counting {
                    start: (tick + 1).saturating_sub(elapsed),
                };
            }
            (2 | 3, Run::Counting { .. }) if fell => self.run = Run::Armed,
            (2 | 3, Run::Armed) | (1 | 5, Run::Armed | Run::Counting { .. }) if rose => {
                self.start(tick);
            }
            _ => {}
        }
    }

    pub(super) const fn write_control(&mut self, value: u8) {
        let bytes = match (value >> 4) & 3 {
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        };
        // Modes 6 and 7 are other names of 2 and 3.
        let mode = match (value >> 1) & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        *self = Self {
            mode,
            bytes,
            bcd: value & 1 != 0,
            ..Self::new(self.gate)
        };
    }

    pub(super) fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.value(tick))
            .to_le_bytes();
        let (byte, last) = match self.bytes {
            Bytes::Low => (low, true),
            Bytes::High => (high, true),
            Bytes::Both => {
                self.reads_high = !self.reads_high;
                if self.reads_high {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if last {
            self.latched_count = None;
        }
        byte
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        let count = match (self.bytes, self.written_low.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Bytes::Both, None) => {
                self.written_low = Some(value);
                if self.mode == 0 {
                    self.run = Run::Stopped;
                }
                return;
            }
        };
        self.load(self.length(count), tick);
    }

    const fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    const fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Ticks that a written count stands for.
    fn length(&self, count: u16) -> u32 {
        let count = if self.bcd {
            (0..4).rev().fold(0, |sum, digit| {
                sum * 10 + u32::from((count >> (4 * digit)) & 0xf)
            })
        } else {
            u32::from(count)
        };
        match count % self.modulus() {
            0 => self.modulus(),
            // One tick is not a legal period.
            1 if self.is_periodic() => 2,
            count => count,
        }
    }

    fn load(&mut self, count: u32, tick: u64) {
        match (self.mode, self.run) {
            (0 | 4, _) => {
                self.count = count;
                self.fired = false;
                self.run = if self.gate {
                    Run::Counting { start: tick + 1 }
                } else {
                    Run::Paused { elapsed: 0 }
                };
            }
            (_, Run::Counting { .. }) => self.next_count = Some(count),
            (2 | 3, _) if self.gate => {
                self.count = count;
                self.start(tick);
            }
            _ => {
                self.count = count;
                self.run = Run::Armed;
            }
        }
    }

    fn start(&mut self, tick: u64) {
        self.count = self.next_count.take().unwrap_or(self.count);
        self.fired = false;
        self.run = Run::Counting { start: tick + 1 };
    }

    /// The count as the guest reads it.
    fn value(&self, tick: u64) -> u16 {
        let count = u64::from(self.count);
        let elapsed = match self.run {
            Run::Stopped | Run::Armed => 0,
            Run::Paused { elapsed } => elapsed,
            Run::Counting { start } => tick.saturating_sub(start),
        };
        let modulus = u64::from(self.modulus());
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => {
                let half = count.div_ceil(2);
                let phase = elapsed % count;
                (count & !1) - 2 * if phase < half { phase } else { phase - half }
            }
            _ => count + modulus - elapsed % modulus,
        };
        let value = (value % modulus) as u16;
        if self.bcd {
            [1000, 100, 10, 1]
                .iter()
                .fold(0, |bcd, place| (bcd << 4) | (value / place % 10))
        } else {
            value
        }
    }

    fn status(&self, tick: u64) -> u8 {
        let loaded = match self.run {
            Run::Stopped => false,
            Run::Counting { start } => tick >= start && self.next_count.is_none(),
            Run::Armed | Run::Paused { .. } => true,
        };
        let bytes = match self.bytes {
            Bytes::Low => 1,
            Bytes::High => 2,
            Bytes::Both => 3,
        };
        u8::from(self.output(tick)) << 7
            | u8::from(!loaded) << 6
            | bytes << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    pub(super) fn check(&self, kind: &'static str) -> Result<(), RestoreError> {
        let shortest = if self.is_periodic() { 2 } else { 1 };
        let legal = |count: u32| count >= shortest && count <= self.modulus();
        check(self.mode <= 5, kind, "mode", self.mode)?;
        // The power-on count is never looked at, and is not legal in decimal.
        let unused = matches!(self.run, Run::Stopped) && self.count == 0x1_0000;
        check(legal(self.count) || unused, kind, "count", self.count)?;
        check(
            self.next_count.is_none_or(legal),
            kind,
            "next_count",
            self.next_count,
        )?;
        let bounded = match self.run {
            Run::Stopped | Run::Armed => true,
            Run::Counting { start: ticks } | Run::Paused { elapsed: ticks } => ticks < 1 << 60,
        };
        check(bounded, kind, "run", self.run)
    }
}
