//! The pair of 8259A interrupt controllers, with the PC's edge/level control registers.
//!
//! ```text
//! IRQ 0..7  ──▶ master ──▶ INT ──▶ LINT0 of the local APIC and IOAPIC pin 0
//!                 ▲ IR2
//! IRQ 8..15 ──▶ slave
//! ```
//!
//! Modelled: ICW1–ICW4, masks, specific, non-specific and rotating EOI, automatic EOI, special mask
//! and special fully nested mode, poll, IRR/ISR reads, spurious IRQ 7 and 15, ELCR. Left out:
//! MCS-80
//! mode and buffered mode, which no PC has.
//!
//! Deviates: the master sees the slave's output as a level, so that a slave in automatic EOI mode
//! with two requests does not lose the second. After power-on all lines are masked until the guest
//! programs ICW1, where the real chip is undefined.
//!
//! Spec: Intel 8259A (231468-003); ELCR as in the 82371SB.

use serde::{Deserialize, Serialize};

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

const KIND: &str = "pic";
const CASCADE_LINE: u8 = 2;
const SPURIOUS_LINE: u8 = 7;

/// A register of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PicPort {
    /// Port 0x20.
    MasterCommand,
    /// Port 0x21.
    MasterData,
    /// Port 0xa0.
    SlaveCommand,
    /// Port 0xa1.
    SlaveData,
    /// Port 0x4d0.
    MasterElcr,
    /// Port 0x4d1.
    SlaveElcr,
}

/// Which initialisation word the next data write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    /// None: a data write is the interrupt mask.
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    /// Input levels, as last set.
    lines: u8,
    /// Edge requests not yet acknowledged.
    edges: u8,
    in_service: u8,
    mask: u8,
    elcr: u8,
    vector_base: u8,
    /// The line with the highest priority; rotates.
    first: u8,
    expect: Expect,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    reads_in_service: bool,
    poll: bool,
    /// Inputs that are level-sensitive by wiring.
    wired_level: u8,
}

impl Chip {
    const fn new(wired_level: u8) -> Self {
        Self {
            lines: 0,
            edges: 0,
            in_service: 0,
            mask: 0xff,
            elcr: 0,
            vector_base: 0,
            first: 0,
            expect: Expect::Mask,
            wants_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            reads_in_service: false,
            poll: false,
            wired_level,
        }
    }

    const fn level_lines(&self) -> u8 {
        self.elcr | self.wired_level
    }

    const fn requests(&self) -> u8 {
        self.edges | (self.lines & self.level_lines())
    }

    fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << line;
        if level {
            if self.lines & bit == 0 && self.level_lines() & bit == 0 {
                self.edges |= bit;
            }
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// Rank of the most urgent of `lines`, 0 first; 8 if there is none.
    const fn rank(&self, lines: u8) -> u32 {
        if lines == 0 {
            8
        } else {
            lines.rotate_right(self.first as u32).trailing_zeros()
        }
    }

    const fn line_of_rank(&self, rank: u32) -> u8 {
        (rank as u8).wrapping_add(self.first) & 7
    }

    /// The line that the chip asks the processor to serve.
    fn pending(&self) -> Option<u8> {
        let rank = self.rank(self.requests() & !self.mask);
        if rank == 8 {
            return None;
        }
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        if self.special_fully_nested {
            blocking &= !(1 << CASCADE_LINE);
        }
        (rank < self.rank(blocking)).then(|| self.line_of_rank(rank))
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let line = self.pending()?;
        let bit = 1 << line;
        self.edges &= !bit;
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.first = (line + 1) & 7;
        }
        Some(line)
    }

    fn read_command(&mut self) -> u8 {
        if self.poll {
            self.poll = false;
            return self.acknowledge().map_or(0, |line| 0x80 | line);
        }
        if self.reads_in_service {
            self.in_service
        } else {
            self.requests()
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.start_initialisation(value);
        } else if value & 0x08 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn start_initialisation(&mut self, icw1: u8) {
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            vector_base: self.vector_base,
            mask: 0,
            expect: Expect::Icw2,
            wants_icw4: icw1 & 0x01 != 0,
            single: icw1 & 0x02 != 0,
            ..Self::new(self.wired_level)
        };
    }

    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            // Non-specific EOI, without and with rotation.
            command @ (1 | 5) => {
                let mut served = self.in_service;
                if self.special_mask {
                    served &= !self.mask;
                }
                let rank = self.rank(served);
                if rank < 8 {
                    let line = self.line_of_rank(rank);
                    self.end(line, command == 5);
                }
            }
            // Specific EOI, without and with rotation.
            command @ (3 | 7) => self.end(named, command == 7),
            6 => self.first = (named + 1) & 7,
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            _ => {}
        }
    }

    fn end(&mut self, line: u8, rotate: bool) {
        self.in_service &= !(1 << line);
        if rotate {
            self.first = (line + 1) & 7;
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        if value & 0x04 != 0 {
            self.poll = true;
        } else if value & 0x02 != 0 {
            self.reads_in_service = value & 0x01 != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Mask => {
                self.mask = value;
                Expect::Mask
            }
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                match (self.single, self.wants_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Mask,
                }
            }
            // The wiring of the cascade is fixed.
            Expect::Icw3 if self.wants_icw4 => Expect::Icw4,
            Expect::Icw3 => Expect::Mask,
            Expect::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                Expect::Mask
            }
        };
    }

    fn check(&self, wired_level: u8, elcr_writable: u8) -> Result<(), RestoreError> {
        check(self.first < 8, KIND, "first", self.first)?;
        check(
            self.vector_base & 7 == 0,
            KIND,
            "vector_base",
            self.vector_base,
        )?;
        check(
            self.wired_level == wired_level,
            KIND,
            "wired_level",
            self.wired_level,
        )?;
        check(self.elcr & !elcr_writable == 0, KIND, "elcr", self.elcr)
    }
}

/// The 8259A pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// Lines 0, 1 and 2 are always edge-triggered.
    const MASTER_ELCR_WRITABLE: u8 = 0xf8;
    /// Lines 8 and 13 are always edge-triggered.
    const SLAVE_ELCR_WRITABLE: u8 = 0xde;

    /// A pair in its power-on state.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            master: Chip::new(1 << CASCADE_LINE),
            slave: Chip::new(0),
        }
    }

    /// Reads a register; the command ports acknowledge an interrupt in poll mode.
    pub fn read(&mut self, port: PicPort) -> u8 {
        let value = match port {
            PicPort::MasterCommand => self.master.read_command(),
            PicPort::MasterData => self.master.mask,
            PicPort::SlaveCommand => self.slave.read_command(),
            PicPort::SlaveData => self.slave.mask,
            PicPort::MasterElcr => self.master.elcr,
            PicPort::SlaveElcr => self.slave.elcr,
        };
        self.cascade();
        value
    }

    /// Writes a register.
    pub fn write(&mut self, port: PicPort, value: u8) {
        match port {
            PicPort::MasterCommand => self.master.write_command(value),
            PicPort::MasterData => self.master.write_data(value),
            PicPort::SlaveCommand => self.slave.write_command(value),
            PicPort::SlaveData => self.slave.write_data(value),
            PicPort::MasterElcr => self.master.elcr = value & Self::MASTER_ELCR_WRITABLE,
            PicPort::SlaveElcr => self.slave.elcr = value & Self::SLAVE_ELCR_WRITABLE,
        }
        self.cascade();
    }

    /// Sets the level of ISA line `irq` (0..=15); line 2 is the cascade and cannot be set.
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE_LINE => {}
            0..=7 => self.master.set_line(irq, level),
            8..=15 => {
                self.slave.set_line(irq - 8, level);
                self.cascade();
            }
            _ => {}
        }
    }

    /// Level of the INT output.
    #[must_use]
    pub fn output(&self) -> bool {
        self.master.pending().is_some()
    }

    /// Whether a rising edge on `irq` would be noticed by the processor now.
    #[must_use]
    pub const fn is_unmasked(&self, irq: u8) -> bool {
        let (chip, line) = if irq < 8 {
            (&self.master, irq)
        } else {
            (&self.slave, irq & 7)
        };
        let cascade_open = irq < 8 || self.master.mask & (1 << CASCADE_LINE) == 0;
        cascade_open && chip.mask & (1 << line) == 0
    }

    /// The vector that [`Self::acknowledge`] would return; `None` while INT is low.
    #[must_use]
    pub fn pending_vector(&self) -> Option<u8> {
        let line = self.master.pending()?;
        if line != CASCADE_LINE {
            return Some(self.master.vector_base | line);
        }
        let line = self.slave.pending().unwrap_or(SPURIOUS_LINE);
        Some(self.slave.vector_base | line)
    }

    /// An interrupt acknowledge cycle. With nothing pending the result is the spurious vector,
    /// which does not enter service.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.master.acknowledge() else {
            return self.master.vector_base | SPURIOUS_LINE;
        };
        if line != CASCADE_LINE {
            return self.master.vector_base | line;
        }
        let line = self.slave.acknowledge().unwrap_or(SPURIOUS_LINE);
        self.cascade();
        self.slave.vector_base | line
    }

    fn cascade(&mut self) {
        let output = self.slave.pending().is_some();
        self.master.set_line(CASCADE_LINE, output);
    }
}

impl Device for Pic {
    type Saved = PicStateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> PicStateV1 {
        let Self { master, slave } = self;
        PicStateV1 {
            master: master.clone(),
            slave: slave.clone(),
        }
    }

    fn restore(saved: PicStateV1) -> Result<Self, RestoreError> {
        let PicStateV1 { master, slave } = saved;
        master.check(1 << CASCADE_LINE, Self::MASTER_ELCR_WRITABLE)?;
        slave.check(0, Self::SLAVE_ELCR_WRITABLE)?;
        Ok(Self { master, slave })
    }
}

/// Saved state of the 8259A pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicStateV1 {
    master: Chip,
    slave: Chip,
}

impl SavedState for PicStateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Subject};

    /// The sequence of Linux's `init_8259A`.
    fn initialised() -> Pic {
        let mut pic = Pic::new();
        for (port, value) in [
            (PicPort::MasterCommand, 0x11),
            (PicPort::MasterData, 0x30),
            (PicPort::MasterData, 0x04),
            (PicPort::MasterData, 0x01),
            (PicPort::SlaveCommand, 0x11),
            (PicPort::SlaveData, 0x38),
            (PicPort::SlaveData, 0x02),
            (PicPort::SlaveData, 0x01),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn mask_reads_back_as_the_linux_probe_expects() {
        let mut pic = Pic::new();
        pic.write(PicPort::SlaveData, 0xff);
        pic.write(PicPort::MasterData, 0xfb);
        assert_eq!(pic.read(PicPort::MasterData), 0xfb);
    }

    #[test]
    fn nothing_is_delivered_before_initialisation() {
        let mut pic = Pic::new();
        pic.set_irq(4, true);
        assert!(!pic.output());
    }

    #[test]
    fn an_edge_is_served_once_and_a_new_one_needs_a_low_line() {
        let mut pic = initialised();
        pic.set_irq(4, true);
        assert_eq!(pic.pending_vector(), Some(0x34));
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(PicPort::MasterCommand, 0x64);
        assert!(!pic.output());
        pic.set_irq(4, false);
        pic.set_irq(4, true);
        assert!(pic.output());
    }

    #[test]
    fn a_level_line_interrupts_again_after_eoi() {
        let mut pic = initialised();
        pic.write(PicPort::SlaveElcr, 0x08);
        pic.set_irq(11, true);
        assert_eq!(pic.acknowledge(), 0x3b);
        assert!(!pic.output());
        pic.write(PicPort::SlaveCommand, 0x63);
        pic.write(PicPort::MasterCommand, 0x62);
        assert_eq!(pic.pending_vector(), Some(0x3b));
        pic.set_irq(11, false);
        assert!(!pic.output());
    }

    #[test]
    fn lower_lines_preempt_and_equal_or_higher_lines_wait() {
        let mut pic = initialised();
        pic.set_irq(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.set_irq(5, true);
        assert!(!pic.output());
        pic.set_irq(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(PicPort::MasterCommand, 0x20);
        pic.write(PicPort::MasterCommand, 0x0b);
        assert_eq!(pic.read(PicPort::MasterCommand), 1 << 4);
        pic.write(PicPort::MasterCommand, 0x20);
        assert_eq!(pic.acknowledge(), 0x35);
    }

    #[test]
    fn spurious_acknowledge_sets_no_service_bit() {
        let mut pic = initialised();
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(PicPort::MasterCommand, 0x0b);
        assert_eq!(pic.read(PicPort::MasterCommand), 0);
    }

    #[test]
    fn auto_eoi_serves_two_slave_requests_in_turn() {
        let mut pic = initialised();
        pic.write(PicPort::SlaveCommand, 0x11);
        for value in [0x38, 0x02, 0x03] {
            pic.write(PicPort::SlaveData, value);
        }
        pic.set_irq(8, true);
        pic.set_irq(12, true);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(PicPort::MasterCommand, 0x62);
        assert_eq!(pic.acknowledge(), 0x3c);
    }

    #[test]
    fn poll_and_rotation_follow_the_data_sheet() {
        let mut pic = initialised();
        pic.set_irq(3, true);
        pic.set_irq(6, true);
        pic.write(PicPort::MasterCommand, 0x0c);
        assert_eq!(pic.read(PicPort::MasterCommand), 0x83);
        pic.write(PicPort::MasterCommand, 0xa0);
        // Line 3 is now the lowest, line 4 the highest.
        pic.set_irq(3, false);
        pic.set_irq(3, true);
        assert_eq!(pic.acknowledge(), 0x36);
    }

    impl Subject for Pic {
        fn addresses() -> Vec<u64> {
            (0..7).collect()
        }

        fn guest_read(&mut self, address: u64, _size: u8, _now: VirtualTime) -> u64 {
            match port(address) {
                Some(port) => u64::from(Pic::read(self, port)),
                None => u64::from(self.acknowledge()) | u64::from(self.output()) << 8,
            }
        }

        fn guest_write(&mut self, address: u64, _size: u8, value: u64, _now: VirtualTime) {
            match port(address) {
                Some(port) => Pic::write(self, port, value as u8),
                None => self.set_irq(value as u8 & 0x1f, value & 0x100 != 0),
            }
        }
    }

    fn port(address: u64) -> Option<PicPort> {
        let ports = [
            PicPort::MasterCommand,
            PicPort::MasterData,
            PicPort::SlaveCommand,
            PicPort::SlaveData,
            PicPort::MasterElcr,
            PicPort::SlaveElcr,
        ];
        ports.get(address as usize).copied()
    }

    #[test]
    fn conforms() {
        conformance::run(Pic::new, 40);
    }

    #[test]
    fn unreachable_states_are_refused() {
        let mut saved = initialised().save();
        saved.master.first = 8;
        assert!(Pic::restore(saved).is_err());
    }
}
