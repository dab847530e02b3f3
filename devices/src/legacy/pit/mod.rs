//! The 8254 interval timer, and port 0x61.
//!
//! Channel 0 drives IRQ 0, channel 1 once drove memory refresh, channel 2 has its gate and output
//! in
//! port 0x61, where the refresh toggle and the speaker bit are too. The input clock is 105/88 MHz.
//! All six modes, BCD counting, latching and read-back are modelled, each counter in `channel`.
//!
//! Deviates: IRQ 0 is a pulse at each rising edge of channel 0 that a running count causes. The
//! edges
//! that come from writing a control word are not passed on. A count of 1 in modes 2 and 3, which
//! the
//! data sheet forbids, counts as 2.
//!
//! Spec: Intel 8254 (231164-005); port 0x61 as "NMI status and control" of the PC chip sets.

mod channel;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::clock::{TickRate, VirtualTime};
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

use channel::Channel;

const KIND: &str = "pit";

/// Port of channel 0; channels 1 and 2 and the control word follow.
pub const PIT_PORT: u16 = 0x40;
/// Port of the gate and output of channel 2.
pub const SYSTEM_CONTROL_B_PORT: u16 = 0x61;
/// ISA interrupt of channel 0.
pub const PIT_IRQ: u8 = 0;

const CONTROL_GATE: u8 = 0x01;
const CONTROL_WRITABLE: u8 = 0x0f;
const CONTROL_REFRESH: u8 = 0x10;
const CONTROL_OUTPUT: u8 = 0x20;

/// Half a period of the refresh toggle, about 15 microseconds.
const REFRESH_TICKS: u64 = 18;

/// The interval timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pit {
    channels: [Channel; 3],
    control: u8,
    /// Channel 0 has risen since [`Pit::take_pulse`].
    pulse: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// A timer whose counters are stopped.
    #[must_use]
    pub const fn new() -> Self {
        let channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        Self {
            channels,
            control: 0,
            pulse: false,
        }
    }

    /// Reads port 0x40 + `offset`. The control word cannot be read.
    pub fn read(&mut self, offset: u16, now: VirtualTime) -> u8 {
        self.advance(now);
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.read(TickRate::PIT.tick(now)),
            None => 0xff,
        }
    }

    /// Writes port 0x40 + `offset`.
    pub fn write(&mut self, offset: u16, value: u8, now: VirtualTime) {
        self.advance(now);
        let tick = TickRate::PIT.tick(now);
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.write(value, tick),
            None if offset == 3 => self.write_control_word(value, tick),
            None => {}
        }
    }

    /// Reads port 0x61.
    pub fn read_system_control(&mut self, now: VirtualTime) -> u8 {
        self.advance(now);
        let tick = TickRate::PIT.tick(now);
        let refresh = if (tick / REFRESH_TICKS) & 1 != 0 {
            CONTROL_REFRESH
        } else {
            0
        };
        let output = if self.channels[2].output(tick) {
            CONTROL_OUTPUT
        } else {
            0
        };
        self.control | refresh | output
    }

    /// Writes port 0x61.
    pub fn write_system_control(&mut self, value: u8, now: VirtualTime) {
        self.advance(now);
        self.control = value & CONTROL_WRITABLE;
        self.channels[2].set_gate(value & CONTROL_GATE != 0, TickRate::PIT.tick(now));
    }

    /// Whether IRQ 0 rose since the last call.
    #[must_use]
    pub const fn take_pulse(&mut self) -> bool {
        std::mem::replace(&mut self.pulse, false)
    }

    fn write_control_word(&mut self, value: u8, tick: u64) {
        if value >> 6 == 3 {
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value & (2 << index) != 0 {
                    if value & 0x20 == 0 {
                        channel.latch_count(tick);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(tick);
                    }
                }
            }
            return;
        }
        let channel = &mut self.channels[usize::from(value >> 6)];
        if value & 0x30 == 0 {
            channel.latch_count(tick);
        } else {
            channel.write_control(value);
        }
    }
}

impl Device for Pit {
    type Saved = PitStateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, now: VirtualTime) {
        let tick = TickRate::PIT.tick(now);
        let [timer, refresh, speaker] = &mut self.channels;
        self.pulse |= timer.advance(tick);
        refresh.advance(tick);
        speaker.advance(tick);
    }

    fn next_deadline(&self) -> Option<VirtualTime> {
        TickRate::PIT.time_of(self.channels[0].next_edge()?)
    }

    fn save(&self) -> PitStateV1 {
        let Self {
            channels,
            control,
            pulse,
        } = self;
        PitStateV1 {
            channels: channels.clone(),
            control: *control,
            pulse: *pulse,
        }
    }

    fn restore(saved: PitStateV1) -> Result<Self, RestoreError> {
        let PitStateV1 {
            channels,
            control,
            pulse,
        } = saved;
        check(control & !CONTROL_WRITABLE == 0, KIND, "control", control)?;
        for channel in &channels {
            channel.check(KIND)?;
        }
        Ok(Self {
            channels,
            control,
            pulse,
        })
    }
}

/// Saved state of the interval timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitStateV1 {
    channels: [Channel; 3],
    control: u8,
    pulse: bool,
}

impl SavedState for PitStateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}
