//! The keyboard controller, as far as it is used without a keyboard: reset, A20 and self tests.
//!
//! The controller answers its own commands, so that a driver that probes it finishes quickly. The
//! keyboard port is there but nothing is plugged in: bytes sent to it come back as a timeout. There
//! is no auxiliary (mouse) port. A20 is always open.
//!
//! Spec: IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller.

use serde::{Deserialize, Serialize};

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

use super::acpi_pm::PowerRequest;

const KIND: &str = "i8042";

/// Data port.
pub const I8042_DATA_PORT: u16 = 0x60;
/// Status (read) and command (write) port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// System control port A: another way to A20 and reset.
pub const SYSTEM_CONTROL_A_PORT: u16 = 0x92;
/// ISA interrupt of the keyboard port.
pub const I8042_IRQ: u8 = 1;

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_TIMEOUT: u8 = 0x40;

const CONFIG_KEYBOARD_INTERRUPT: u8 = 0x01;
const CONFIG_SYSTEM: u8 = 0x04;
const CONFIG_KEYBOARD_DISABLED: u8 = 0x10;
const CONFIG_AUX_DISABLED: u8 = 0x20;

/// Output port at rest: not in reset, A20 open.
const OUTPUT_PORT: u8 = 0x03;
const OUTPUT_PORT_NOT_RESET: u8 = 0x01;

const SELF_TEST_PASSED: u8 = 0x55;
/// Keyboard data line test: the clock line is stuck low, as with nothing behind the port.
const INTERFACE_ABSENT: u8 = 0x01;
const RESEND: u8 = 0xfe;

/// A byte waiting in the output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Output {
    Empty,
    /// The controller's own answer.
    Answer(u8),
    /// What the controller says in place of a device that does not answer.
    Timeout,
}

/// The controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I8042 {
    config: u8,
    output: Output,
    /// Command that waits for its data byte, zero if none.
    command: u8,
    last_write_was_command: bool,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// A controller that has passed its power-on test.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            config: CONFIG_SYSTEM | CONFIG_AUX_DISABLED,
            output: Output::Empty,
            command: 0,
            last_write_was_command: false,
        }
    }

    /// Reads the status port.
    #[must_use]
    pub const fn status(&self) -> u8 {
        let output = match self.output {
            Output::Empty => 0,
            Output::Answer(_) => STATUS_OUTPUT_FULL,
            Output::Timeout => STATUS_OUTPUT_FULL | STATUS_TIMEOUT,
        };
        let command = if self.last_write_was_command {
            STATUS_COMMAND
        } else {
            0
        };
        output | command | STATUS_UNLOCKED | (self.config & STATUS_SYSTEM)
    }

    /// Reads the data port.
    pub const fn read_data(&mut self) -> u8 {
        match std::mem::replace(&mut self.output, Output::Empty) {
            Output::Empty => 0,
            Output::Answer(byte) => byte,
            Output::Timeout => RESEND,
        }
    }

    /// Writes the command port.
    pub fn write_command(&mut self, command: u8) -> Option<PowerRequest> {
        self.last_write_was_command = true;
        self.command = 0;
        match command {
            0x20 => self.output = Output::Answer(self.config),
            // Commands with a data byte: configuration, output port, looped-back and device bytes.
            0x60 | 0xd1..=0xd4 => self.command = command,
            0xa7 => self.config |= CONFIG_AUX_DISABLED,
            0xa8 => self.config &= !CONFIG_AUX_DISABLED,
            0xa9 | 0xab => self.output = Output::Answer(INTERFACE_ABSENT),
            0xaa => {
                self.config |= CONFIG_SYSTEM;
                self.output = Output::Answer(SELF_TEST_PASSED);
            }
            0xad => self.config |= CONFIG_KEYBOARD_DISABLED,
            0xae => self.config &= !CONFIG_KEYBOARD_DISABLED,
            0xd0 => self.output = Output::Answer(OUTPUT_PORT),
            // Pulses the output port lines whose bit is clear.
            0xf0..=0xff if command & OUTPUT_PORT_NOT_RESET == 0 => {
                return Some(PowerRequest::Reset);
            }
            _ => {}
        }
        None
    }

    /// Writes the data port.
    pub fn write_data(&mut self, value: u8) -> Option<PowerRequest> {
        self.last_write_was_command = false;
        match std::mem::replace(&mut self.command, 0) {
            0x60 => self.config = value & 0x7f,
            0xd1 if value & OUTPUT_PORT_NOT_RESET == 0 => return Some(PowerRequest::Reset),
            0xd1 => {}
            // A byte for the auxiliary port comes back as the keyboard's, without the status bit
            // that
            // marks auxiliary data, which tells a driver at once that there is no such port.
            0xd2 | 0xd3 => self.output = Output::Answer(value),
            _ => self.output = Output::Timeout,
        }
        None
    }

    /// Reads system control port A.
    #[must_use]
    pub const fn system_control() -> u8 {
        0x02
    }

    /// Writes system control port A.
    #[must_use]
    pub const fn write_system_control(value: u8) -> Option<PowerRequest> {
        if value & 1 != 0 {
            Some(PowerRequest::Reset)
        } else {
            None
        }
    }

    /// Level of the keyboard interrupt.
    #[must_use]
    pub fn irq_level(&self) -> bool {
        self.config & CONFIG_KEYBOARD_INTERRUPT != 0 && self.output != Output::Empty
    }
}

impl Device for I8042 {
    type Saved = I8042StateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> I8042StateV1 {
        let Self {
            config,
            output,
            command,
            last_write_was_command,
        } = self;
        I8042StateV1 {
            config: *config,
            output: *output,
            command: *command,
            last_write_was_command: *last_write_was_command,
        }
    }

    fn restore(saved: I8042StateV1) -> Result<Self, RestoreError> {
        let I8042StateV1 {
            config,
            output,
            command,
            last_write_was_command,
        } = saved;
        check(config <= 0x7f, KIND, "config", config)?;
        check(
            matches!(command, 0 | 0x60 | 0xd1..=0xd4),
            KIND,
            "command",
            command,
        )?;
        Ok(Self {
            config,
            output,
            command,
            last_write_was_command,
        })
    }
}

/// Saved state of the keyboard controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042StateV1 {
    config: u8,
    output: Output,
    command: u8,
    last_write_was_command: bool,
}

impl SavedState for I8042StateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Subject};

    #[test]
    fn every_way_to_reset_works() {
        assert_eq!(I8042::new().write_command(0xfe), Some(PowerRequest::Reset));
        assert_eq!(I8042::new().write_command(0xff), None);
        let mut i8042 = I8042::new();
        assert_eq!(i8042.write_command(0xd1), None);
        assert_eq!(i8042.write_data(0xdf), None, "A20 on");
        i8042.write_command(0xd1);
        assert_eq!(i8042.write_data(0xfe), Some(PowerRequest::Reset));
        assert_eq!(I8042::write_system_control(0x03), Some(PowerRequest::Reset));
        assert_eq!(I8042::write_system_control(0x02), None);
    }

    #[test]
    fn the_linux_probe_gets_its_answers() {
        let mut i8042 = I8042::new();
        assert_eq!(
            i8042.status() & 0x03,
            0,
            "both buffers empty: flush ends at once"
        );
        for (command, answer) in [(0xaa, SELF_TEST_PASSED), (0x20, 0x24), (0xa9, 1), (0xd0, 3)] {
            i8042.write_command(command);
            assert_eq!(i8042.status() & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
            assert_eq!(i8042.read_data(), answer, "{command:#x}");
            assert_eq!(i8042.status() & STATUS_OUTPUT_FULL, 0);
        }
        i8042.write_command(0xd3);
        i8042.write_data(0x5a);
        assert_eq!(
            i8042.status() & 0x21,
            STATUS_OUTPUT_FULL,
            "not auxiliary data"
        );
        assert_eq!(i8042.read_data(), 0x5a);
    }

    #[test]
    fn a_keyboard_command_times_out_with_an_interrupt() {
        let mut i8042 = I8042::new();
        i8042.write_command(0x60);
        i8042.write_data(0x45);
        i8042.write_data(0xf2);
        assert!(i8042.irq_level());
        assert_eq!(i8042.status() & STATUS_TIMEOUT, STATUS_TIMEOUT);
        assert_eq!(i8042.read_data(), RESEND);
        assert!(!i8042.irq_level());
    }

    impl Subject for I8042 {
        fn addresses() -> Vec<u64> {
            vec![0, 1]
        }

        fn guest_read(&mut self, address: u64, _size: u8, _now: VirtualTime) -> u64 {
            u64::from(if address == 0 {
                self.read_data()
            } else {
                self.status()
            })
        }

        fn guest_write(&mut self, address: u64, _size: u8, value: u64, _now: VirtualTime) {
            if address == 0 {
                self.write_data(value as u8);
            } else {
                self.write_command(value as u8);
            }
        }
    }

    #[test]
    fn conforms() {
        conformance::run(I8042::new, 20);
    }
}
