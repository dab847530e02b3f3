//! A PC16550D serial port.
//!
//! ```text
//!  offer_input ─▶ backlog (64 KiB) ─▶ FIFO (16, or 1 with FIFOs off) ─▶ RBR
//!                                       ▲ loopback
//!  THR ─────────────────────────────────┴─────────────────▶ returned to the caller
//! ```
//!
//! Modelled: all registers, FIFO enable, reset and trigger levels, the four interrupt sources with
//! their priorities, loopback of data and modem lines, break in loopback, the OUT2 gate. The modem
//! lines are those of a terminal that is always there: CTS, DSR and DCD asserted.
//!
//! Deviates: a byte written to THR is transmitted at once, so THR and the shift register are always
//! empty; the character timeout happens at once, because no time passes between characters. Bytes
//! from outside wait in the backlog, so the receiver overruns only in loopback.
//!
//! Spec: National Semiconductor PC16550D (June 1995).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

const KIND: &str = "serial";

/// First port of the first serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Number of ports.
pub const SERIAL_PORT_COUNT: u16 = 8;
/// ISA interrupt of the first serial port.
pub const SERIAL_IRQ: u8 = 4;
/// Input bytes that wait outside the FIFO at most.
pub const SERIAL_BACKLOG_SIZE: usize = 64 * 1024;

const FIFO_SIZE: usize = 16;

const IER_RECEIVE: u8 = 0x01;
const IER_TRANSMIT: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IER_MODEM_STATUS: u8 = 0x08;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMIT: u8 = 0x02;
const IIR_RECEIVE: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVE: u8 = 0x02;

const LCR_BREAK: u8 = 0x40;
const LCR_DLAB: u8 = 0x80;

const MCR_DTR: u8 = 0x01;
const MCR_RTS: u8 = 0x02;
const MCR_OUT1: u8 = 0x04;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOPBACK: u8 = 0x10;

const LSR_DATA_READY: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_BREAK: u8 = 0x10;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_RI: u8 = 0x40;
const MSR_DCD: u8 = 0x80;
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// A 16550 with its input backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial16550 {
    interrupt_enable: u8,
    /// Enable and trigger bits of FCR.
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    /// Sticky error bits of LSR.
    line_errors: u8,
    /// Modem lines in the high half, their delta bits in the low half.
    modem_status: u8,
    /// The transmitter-empty interrupt is pending.
    transmit_pending: bool,
    /// The interrupt line was low for a moment and high again during accesses.
    pulse: bool,
    fifo: VecDeque<u8>,
    backlog: VecDeque<u8>,
}

impl Default for Serial16550 {
    fn default() -> Self {
        Self::new()
    }
}

impl Serial16550 {
    /// A port in its power-on state, with no input.
    #[must_use]
    pub fn new() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: 0,
            line_errors: 0,
            modem_status: MSR_CONNECTED,
            transmit_pending: false,
            pulse: false,
            fifo: VecDeque::with_capacity(FIFO_SIZE),
            backlog: VecDeque::new(),
        }
    }

    /// Queues bytes that arrived on the line. Returns how many fitted; the rest is not taken.
    #[must_use]
    pub fn offer_input(&mut self, bytes: &[u8]) -> usize {
        let room = SERIAL_BACKLOG_SIZE - self.backlog.len();
        let taken = bytes.len().min(room);
        self.backlog.extend(&bytes[..taken]);
        self.refill();
        taken
    }

    /// Input bytes that can be offered before the backlog is full.
    #[must_use]
    pub fn input_room(&self) -> usize {
        SERIAL_BACKLOG_SIZE - self.backlog.len()
    }

    /// Level of the interrupt line.
    #[must_use]
    pub fn irq_level(&self) -> bool {
        let gate = self.modem_control & (MCR_OUT2 | MCR_LOOPBACK) == MCR_OUT2;
        gate && self.interrupt() != IIR_NONE
    }

    /// Whether the line dropped and rose again since the last call, which an edge-triggered
    /// controller sees as a new interrupt.
    #[must_use]
    pub const fn take_pulse(&mut self) -> bool {
        std::mem::replace(&mut self.pulse, false)
    }

    /// Reads the register at `offset`, 0..8.
    pub fn read(&mut self, offset: u16) -> u8 {
        let divisor_latch = self.line_control & LCR_DLAB != 0;
        match offset {
            0 if divisor_latch => self.divisor as u8,
            1 if divisor_latch => (self.divisor >> 8) as u8,
            0 => self.receive(),
            1 => self.interrupt_enable,
            2 => self.identify_interrupt(),
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let status = self.line_status();
                self.line_errors = 0;
                status
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= 0xf0;
                status
            }
            7 => self.scratch,
            _ => 0xff,
        }
    }

    /// Writes the register at `offset`, 0..8. The result is the byte that left on the line.
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        let divisor_latch = self.line_control & LCR_DLAB != 0;
        match offset {
            0 if divisor_latch => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            1 if divisor_latch => self.divisor = (self.divisor & 0xff) | u16::from(value) << 8,
            0 => return self.transmit(value),
            1 => {
                let newly_enabled = value & !self.interrupt_enable;
                self.interrupt_enable = value & 0x0f;
                // The transmitter is always empty, which counts from the moment it is asked for.
                self.transmit_pending |= newly_enabled & IER_TRANSMIT != 0;
            }
            2 => self.write_fifo_control(value),
            3 => self.write_line_control(value),
            4 => self.write_modem_control(value),
            7 => self.scratch = value,
            // LSR and MSR are for factory tests only.
            _ => {}
        }
        None
    }

    const fn capacity(&self) -> usize {
        if self.fifo_control & FCR_ENABLE != 0 {
            FIFO_SIZE
        } else {
            1
        }
    }

    const fn trigger_level(&self) -> usize {
        match (self.fifo_control & FCR_ENABLE, self.fifo_control >> 6) {
            (0, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        }
    }

    /// The source of the interrupt line, as IIR bits 3:0.
    fn interrupt(&self) -> u8 {
        let enabled = self.interrupt_enable;
        if enabled & IER_LINE_STATUS != 0 && self.line_errors != 0 {
            IIR_LINE_STATUS
        } else if enabled & IER_RECEIVE != 0 && self.fifo.len() >= self.trigger_level() {
            IIR_RECEIVE
        } else if enabled & IER_RECEIVE != 0 && !self.fifo.is_empty() {
            IIR_TIMEOUT
        } else if enabled & IER_TRANSMIT != 0 && self.transmit_pending {
            IIR_TRANSMIT
        } else if enabled & IER_MODEM_STATUS != 0 && self.modem_status & 0x0f != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn identify_interrupt(&mut self) -> u8 {
        let source = self.interrupt();
        if source == IIR_TRANSMIT {
            self.transmit_pending = false;
        }
        source
            | if self.fifo_control & FCR_ENABLE != 0 {
                IIR_FIFOS
            } else {
                0
            }
    }

    fn line_status(&self) -> u8 {
        let ready = if self.fifo.is_empty() {
            0
        } else {
            LSR_DATA_READY
        };
        ready | self.line_errors | LSR_TRANSMITTER_EMPTY
    }

    fn receive(&mut self) -> u8 {
        let byte = self.fifo.pop_front().unwrap_or(0);
        if self.fifo.is_empty() && !self.backlog.is_empty() {
            // On a wire the line would stay low until the next character had arrived.
            self.pulse |= !self.irq_level();
        }
        self.refill();
        byte
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        // Writing clears the request, and the byte leaves before anyone can look.
        self.pulse |= self.transmit_pending && self.interrupt() == IIR_TRANSMIT;
        self.transmit_pending = true;
        if self.modem_control & MCR_LOOPBACK == 0 {
            return Some(byte);
        }
        self.loop_back(byte);
        None
    }

    fn loop_back(&mut self, byte: u8) {
        if self.fifo.len() < self.capacity() {
            self.fifo.push_back(byte);
            return;
        }
        self.line_errors |= LSR_OVERRUN;
        if self.fifo_control & FCR_ENABLE == 0 {
            self.fifo[0] = byte;
        }
    }

    fn refill(&mut self) {
        if self.modem_control & MCR_LOOPBACK != 0 {
            return;
        }
        while self.fifo.len() < self.capacity() {
            match self.backlog.pop_front() {
                Some(byte) => self.fifo.push_back(byte),
                None => break,
            }
        }
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        self.fifo_control = if value & FCR_ENABLE != 0 {
            value & 0xc1
        } else {
            0
        };
        if toggled || (value & FCR_ENABLE != 0 && value & FCR_CLEAR_RECEIVE != 0) {
            self.fifo.clear();
            self.refill();
        }
    }

    fn write_line_control(&mut self, value: u8) {
        let broke = value & !self.line_control & LCR_BREAK != 0;
        self.line_control = value;
        if broke && self.modem_control & MCR_LOOPBACK != 0 {
            self.loop_back(0);
            self.line_errors |= LSR_BREAK;
        }
    }

    fn write_modem_control(&mut self, value: u8) {
        self.modem_control = value & 0x1f;
        let lines = if value & MCR_LOOPBACK == 0 {
            MSR_CONNECTED
        } else {
            [
                (MCR_RTS, MSR_CTS),
                (MCR_DTR, MSR_DSR),
                (MCR_OUT1, MSR_RI),
                (MCR_OUT2, MSR_DCD),
            ]
            .iter()
            .fold(
                0,
                |lines, (from, to)| if value & from != 0 { lines | to } else { lines },
            )
        };
        let old = self.modem_status & 0xf0;
        // The ring indicator counts only when it falls.
        let changed = ((old ^ lines) & !MSR_RI) | (old & !lines & MSR_RI);
        self.modem_status = lines | (self.modem_status & 0x0f) | changed >> 4;
        self.refill();
    }
}

impl Device for Serial16550 {
    type Saved = SerialStateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> SerialStateV1 {
        let Self {
            interrupt_enable,
            fifo_control,
            line_control,
            modem_control,
            scratch,
            divisor,
            line_errors,
            modem_status,
            transmit_pending,
            pulse,
            fifo,
            backlog,
        } = self;
        SerialStateV1 {
            interrupt_enable: *interrupt_enable,
            fifo_control: *fifo_control,
            line_control: *line_control,
            modem_control: *modem_control,
            scratch: *scratch,
            divisor: *divisor,
            line_errors: *line_errors,
            modem_status: *modem_status,
            transmit_pending: *transmit_pending,
            pulse: *pulse,
            fifo: fifo.iter().copied().collect(),
            backlog: backlog.iter().copied().collect(),
        }
    }

    fn restore(saved: SerialStateV1) -> Result<Self, RestoreError> {
        check(
            saved.interrupt_enable <= 0x0f,
            KIND,
            "interrupt_enable",
            saved.interrupt_enable,
        )?;
        let control = saved.fifo_control;
        let legal = control == 0 || (control & FCR_ENABLE != 0 && control & !0xc1 == 0);
        check(legal, KIND, "fifo_control", control)?;
        check(
            saved.modem_control <= 0x1f,
            KIND,
            "modem_control",
            saved.modem_control,
        )?;
        let error_bits = LSR_OVERRUN | LSR_BREAK;
        check(
            saved.line_errors & !error_bits == 0,
            KIND,
            "line_errors",
            saved.line_errors,
        )?;
        check(
            saved.backlog.len() <= SERIAL_BACKLOG_SIZE,
            KIND,
            "backlog",
            saved.backlog.len(),
        )?;
        let mut serial = Self {
            interrupt_enable: saved.interrupt_enable,
            fifo_control: saved.fifo_control,
            line_control: saved.line_control,
            modem_control: saved.modem_control,
            scratch: saved.scratch,
            divisor: saved.divisor,
            line_errors: saved.line_errors,
            modem_status: saved.modem_status,
            transmit_pending: saved.transmit_pending,
            pulse: saved.pulse,
            fifo: VecDeque::with_capacity(FIFO_SIZE),
            backlog: saved.backlog.into(),
        };
        check(
            saved.fifo.len() <= serial.capacity(),
            KIND,
            "fifo",
            saved.fifo.len(),
        )?;
        serial.fifo.extend(saved.fifo);
        Ok(serial)
    }
}

/// Saved state of the serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialStateV1 {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    line_errors: u8,
    modem_status: u8,
    transmit_pending: bool,
    pulse: bool,
    fifo: Vec<u8>,
    backlog: Vec<u8>,
}

impl SavedState for SerialStateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Subject};

    /// FIFOs on, OUT2 set, as after Linux's startup.
    fn open() -> Serial16550 {
        let mut serial = Serial16550::new();
        serial.write(2, 0x07);
        serial.write(4, MCR_OUT2 | MCR_RTS | MCR_DTR);
        serial
    }

    #[test]
    fn linux_autoconfig_finds_a_16550a() {
        let mut serial = Serial16550::new();
        serial.write(1, 0);
        assert_eq!(serial.read(1), 0);
        serial.write(1, 0x0f);
        assert_eq!(serial.read(1) & 0x0f, 0x0f);
        serial.write(1, 0);
        serial.write(4, MCR_LOOPBACK | MCR_OUT2 | MCR_RTS);
        assert_eq!(serial.read(6) & 0xf0, 0x90);
        serial.write(4, 0);
        serial.write(3, 0xbf);
        serial.write(2, 0);
        serial.write(3, 0);
        serial.write(2, FCR_ENABLE);
        assert_eq!(serial.read(2) >> 6, 3);
        // Neither a 16650's EFR nor a 16750's 64-byte FIFO.
        serial.write(3, 0x80);
        serial.write(2, FCR_ENABLE | 0x20);
        assert_eq!(serial.read(2) & 0x20, 0);
        serial.write(7, 0x5a);
        assert_eq!(serial.read(7), 0x5a);
    }

    #[test]
    fn divisor_latch_hides_data_and_enable_registers() {
        let mut serial = open();
        serial.write(3, LCR_DLAB | 3);
        assert_eq!(serial.write(0, 0x0c), None);
        serial.write(1, 0x12);
        assert_eq!((serial.read(0), serial.read(1)), (0x0c, 0x12));
        serial.write(3, 3);
        assert_eq!(serial.write(0, b'x'), Some(b'x'));
        assert_eq!(serial.read(1), 0);
    }

    #[test]
    fn transmit_interrupt_comes_on_enable_and_after_each_byte_until_identified() {
        let mut serial = open();
        assert!(!serial.irq_level());
        for _ in 0..2 {
            serial.write(1, IER_TRANSMIT);
            assert!(serial.irq_level());
            assert_eq!(serial.read(2), IIR_FIFOS | IIR_TRANSMIT);
            assert!(!serial.irq_level());
            assert_eq!(serial.read(2), IIR_FIFOS | IIR_NONE);
            serial.write(1, 0);
        }
        serial.write(1, IER_TRANSMIT);
        serial.read(2);
        assert_eq!(serial.write(0, b'a'), Some(b'a'));
        assert!(serial.irq_level());
        assert!(!serial.take_pulse());
        serial.write(0, b'b');
        assert!(
            serial.take_pulse(),
            "an edge for a handler that does not read IIR"
        );
        assert_eq!(serial.read(5), LSR_TRANSMITTER_EMPTY);
    }

    #[test]
    fn input_fills_the_fifo_and_waits_in_the_backlog() {
        let mut serial = open();
        serial.write(2, 0x81);
        serial.write(1, IER_RECEIVE);
        let input: Vec<u8> = (0..20).collect();
        assert_eq!(serial.offer_input(&input[..7]), 7);
        assert_eq!(serial.read(2) & 0x0f, IIR_TIMEOUT);
        assert_eq!(serial.offer_input(&input[7..]), 13);
        assert_eq!(serial.read(2) & 0x0f, IIR_RECEIVE);
        for byte in input {
            assert_eq!(serial.read(5) & LSR_DATA_READY, LSR_DATA_READY);
            assert_eq!(serial.read(0), byte);
        }
        assert_eq!(serial.read(5) & LSR_DATA_READY, 0);
        assert!(!serial.irq_level());
    }

    #[test]
    fn the_backlog_is_bounded_and_says_what_it_took() {
        let mut serial = open();
        let input = vec![7; SERIAL_BACKLOG_SIZE + 1000];
        assert_eq!(serial.offer_input(&input), SERIAL_BACKLOG_SIZE);
        assert_eq!(serial.input_room(), FIFO_SIZE);
        assert_eq!(serial.offer_input(&input), FIFO_SIZE);
        assert_eq!(serial.offer_input(&input), 0);
    }

    #[test]
    fn loopback_returns_data_and_overruns_and_keeps_input_waiting() {
        let mut serial = open();
        serial.write(4, MCR_LOOPBACK);
        assert_eq!(serial.offer_input(b"later"), 5);
        for byte in 0..17 {
            assert_eq!(serial.write(0, byte), None);
        }
        assert_eq!(
            serial.read(5) & (LSR_OVERRUN | LSR_DATA_READY),
            LSR_OVERRUN | LSR_DATA_READY
        );
        assert_eq!(serial.read(5) & LSR_OVERRUN, 0);
        for byte in 0..16 {
            assert_eq!(serial.read(0), byte);
        }
        serial.write(4, MCR_OUT2);
        assert_eq!(serial.read(0), b'l');
    }

    #[test]
    fn interrupt_sources_have_the_data_sheet_priorities() {
        let mut serial = open();
        serial.write(4, MCR_LOOPBACK);
        serial.write(1, 0x0f);
        serial.write(3, LCR_BREAK);
        serial.write(4, MCR_OUT2);
        serial.read(6);
        serial.write(4, MCR_LOOPBACK);
        serial.write(4, MCR_OUT2);
        assert_eq!(serial.read(2) & 0x0f, IIR_LINE_STATUS);
        assert_eq!(serial.read(5) & LSR_BREAK, LSR_BREAK);
        assert_eq!(serial.read(2) & 0x0f, IIR_RECEIVE);
        serial.read(0);
        assert_eq!(serial.read(2) & 0x0f, IIR_TRANSMIT);
        assert_eq!(serial.read(2) & 0x0f, IIR_MODEM_STATUS);
        serial.read(6);
        assert_eq!(serial.read(2) & 0x0f, IIR_NONE);
    }

    #[test]
    fn out2_gates_the_line() {
        let mut serial = open();
        serial.write(1, IER_TRANSMIT);
        serial.write(4, 0);
        assert!(!serial.irq_level());
        serial.write(4, MCR_OUT2);
        assert!(serial.irq_level());
    }

    #[test]
    fn refilling_an_emptied_fifo_pulses_the_line() {
        let mut serial = Serial16550::new();
        serial.write(4, MCR_OUT2);
        serial.write(1, IER_RECEIVE);
        assert_eq!(serial.offer_input(b"ab"), 2);
        assert!(!serial.take_pulse());
        assert_eq!(serial.read(0), b'a');
        assert!(serial.irq_level() && serial.take_pulse());
        assert_eq!(serial.read(0), b'b');
        assert!(!serial.irq_level() && !serial.take_pulse());
    }

    impl Subject for Serial16550 {
        fn addresses() -> Vec<u64> {
            (0..8).chain([0, 2, 5, 100, 100]).collect()
        }

        fn guest_read(&mut self, address: u64, _size: u8, _now: VirtualTime) -> u64 {
            let value = Serial16550::read(self, address as u16);
            u64::from(value) | u64::from(self.irq_level()) << 8 | u64::from(self.take_pulse()) << 9
        }

        fn guest_write(&mut self, address: u64, size: u8, value: u64, _now: VirtualTime) {
            if address == 100 {
                let bytes = value.to_le_bytes().repeat(usize::from(size));
                assert!(self.offer_input(&bytes) <= bytes.len());
            } else {
                Serial16550::write(self, address as u16, value as u8);
            }
        }
    }

    #[test]
    fn conforms() {
        conformance::run(Serial16550::new, 40);
    }

    #[test]
    fn unreachable_states_are_refused() {
        let mut saved = open().save();
        saved.fifo = vec![0; 17];
        assert!(Serial16550::restore(saved).is_err());
        let mut saved = open().save();
        saved.backlog = vec![0; SERIAL_BACKLOG_SIZE + 1];
        assert!(Serial16550::restore(saved).is_err());
    }
}
