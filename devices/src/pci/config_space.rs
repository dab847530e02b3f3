//! The first 256 bytes of a function's configuration space: a type 0 header and capabilities.
//!
//! ```text
//! 00 vendor, device   04 command, status   08 revision, class   0c cache line .. header type
//! 10..28 BARs         2c subsystem         34 first capability  3c interrupt line, pin
//! 40.. capabilities, linked in the order in which they were added
//! ```
//!
//! All bytes are in one array beside a mask of the bits that the guest can change, so sizing a BAR
//! (write all ones, read back) needs no case of its own. A 64-bit BAR takes two registers.
//!
//! Left out: I/O BARs, the expansion ROM, power management, status bits that report errors (none
//! can happen). Deviates: transfers and messages do not need the bus master bit.
//!
//! Spec: PCI Local Bus 3.0 §6.1, §6.2, §6.7.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::saved::{RestoreError, check};

/// Bytes in it; the rest of the 4 KiB that ECAM shows is zero.
pub const CONFIG_SPACE_SIZE: usize = 256;
/// Command bit: the function answers at its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Status bit, in the first byte at [`STATUS_OFFSET`]: the function wants its pin asserted.
pub const STATUS_INTERRUPT: u8 = 1 << 3;
/// Offset of the status register.
pub const STATUS_OFFSET: u8 = 0x06;
/// Command bit: the interrupt pin is not to be asserted.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const FIRST_BAR: usize = 0x10;
const BAR_COUNT: usize = 6;
const FIRST_CAPABILITY: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const CAPABILITIES: usize = 0x40;

/// Memory decoding, bus mastering, parity and system error response, INTx disable.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 6 | 1 << 8 | COMMAND_INTX_DISABLE;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BAR_64_BIT: u32 = 0b100;
const INTA: u8 = 1;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor; also the subsystem's.
    pub vendor: u16,
    /// Device; also the subsystem's.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, in 24 bits.
    pub class: u32,
}

/// Width of a memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BarWidth {
    /// Below 4 GiB.
    Bits32,
    /// Anywhere.
    Bits64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bar {
    index: u8,
    size: u64,
    width: BarWidth,
}

/// A configuration space.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    // Configuration.
    writable: [u8; CONFIG_SPACE_SIZE],
    bars: Vec<Bar>,
    next_capability: usize,
    last_link: usize,
    // State.
    registers: [u8; CONFIG_SPACE_SIZE],
}

/// The bits of the header that the guest can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpaceState {
    command: u16,
    interrupt_line: u8,
    bars: [u32; BAR_COUNT],
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest is configuration, and 512 numbers.
        self.save().fmt(f)
    }
}

impl ConfigSpace {
    /// A header without BARs and capabilities.
    #[must_use]
    pub fn new(identity: PciIdentity) -> Self {
        let mut space = Self {
            writable: [0; CONFIG_SPACE_SIZE],
            bars: Vec::new(),
            next_capability: CAPABILITIES,
            last_link: FIRST_CAPABILITY,
            registers: [0; CONFIG_SPACE_SIZE],
        };
        space.put(0, &identity.vendor.to_le_bytes());
        space.put(2, &identity.device.to_le_bytes());
        space.put(8, &(identity.class << 8).to_le_bytes());
        space.put(8, &[identity.revision]);
        space.put(0x2c, &identity.vendor.to_le_bytes());
        space.put(0x2e, &identity.device.to_le_bytes());
        let command = COMMAND_WRITABLE.to_le_bytes();
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&command);
        space
    }

    /// Adds a memory BAR of `size` bytes at `address`.
    ///
    /// # Panics
    /// If size or address cannot be had: not a power of two from 16, not aligned, too high.
    pub fn add_bar(&mut self, index: u8, size: u64, width: BarWidth, address: u64) {
        let wide = width == BarWidth::Bits64;
        assert!(size.is_power_of_two() && (16..1 << 31).contains(&size));
        assert!(address.is_multiple_of(size) && (wide || address <= u64::from(u32::MAX)));
        assert!(usize::from(index) + usize::from(wide) < BAR_COUNT);
        let at = FIRST_BAR + 4 * usize::from(index);
        let low_mask = !(size as u32 - 1);
        self.writable[at..at + 4].copy_from_slice(&low_mask.to_le_bytes());
        let kind = if wide { BAR_64_BIT } else { 0 };
        self.put(at, &(address as u32 | kind).to_le_bytes());
        if wide {
            self.writable[at + 4..at + 8].fill(0xff);
            self.put(at + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.bars.push(Bar { index, size, width });
    }

    /// Appends a capability whose bytes after id and link are `body`; returns its offset.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let at = self.next_capability;
        let end = at + 2 + body.len();
        assert!(end <= CONFIG_SPACE_SIZE, "capabilities end at {end:#x}");
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.registers[self.last_link] = at as u8;
        self.registers[STATUS] |= STATUS_CAPABILITIES;
        self.last_link = at + 1;
        self.next_capability = end.next_multiple_of(4);
        at as u8
    }

    /// Gives the function an interrupt pin, INTA, and says which interrupt line it is wired to.
    pub fn add_interrupt_pin(&mut self, line: u8) {
        self.registers[INTERRUPT_PIN] = INTA;
        self.registers[INTERRUPT_LINE] = line;
        self.writable[INTERRUPT_LINE] = 0xff;
    }

    /// Sets the command register, as firmware does.
    pub fn set_command(&mut self, command: u16) {
        self.put(COMMAND, &(command & COMMAND_WRITABLE).to_le_bytes());
    }

    /// The command register.
    #[must_use]
    pub const fn command(&self) -> u16 {
        u16::from_le_bytes([self.registers[COMMAND], self.registers[COMMAND + 1]])
    }

    /// A guest read of up to 4 bytes; what lies beyond the end reads as zero.
    #[must_use]
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        let mut bytes = [0; 4];
        let from = self.registers[usize::from(offset)..].iter();
        for (into, byte) in bytes.iter_mut().zip(from).take(usize::from(size)) {
            *into = *byte;
        }
        u32::from_le_bytes(bytes)
    }

    /// A guest write of up to 4 bytes; bits that are not the guest's stay.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        let bytes = value.to_le_bytes();
        for (at, byte) in (usize::from(offset)..CONFIG_SPACE_SIZE)
            .zip(bytes)
            .take(usize::from(size))
        {
            let mask = self.writable[at];
            self.registers[at] = self.registers[at] & !mask | byte & mask;
        }
    }

    /// The address in BAR `index`, whether decoded or not; `None` if there is no such BAR.
    #[must_use]
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        let bar = self.bars.iter().find(|bar| bar.index == index)?;
        Some(self.address_of(bar))
    }

    /// The BAR that decodes `gpa`, and the offset in it; none with memory decoding off.
    #[must_use]
    pub fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
        if self.command() & COMMAND_MEMORY == 0 {
            return None;
        }
        self.bars.iter().find_map(|bar| {
            let offset = gpa.checked_sub(self.address_of(bar))?;
            (offset < bar.size).then_some((bar.index, offset))
        })
    }

    /// What the guest changed.
    #[must_use]
    pub fn save(&self) -> ConfigSpaceState {
        ConfigSpaceState {
            command: self.command(),
            interrupt_line: self.registers[INTERRUPT_LINE],
            bars: std::array::from_fn(|index| self.bar_register(index)),
        }
    }

    /// Takes over what [`Self::save`] gave, in a space of the same configuration.
    ///
    /// # Errors
    /// If a bit differs that the guest cannot change.
    pub fn restore(&mut self, saved: &ConfigSpaceState) -> Result<(), RestoreError> {
        let ConfigSpaceState {
            command,
            interrupt_line,
            bars,
        } = saved;
        self.write(COMMAND as u8, 2, u32::from(*command));
        self.write(INTERRUPT_LINE as u8, 1, u32::from(*interrupt_line));
        for (index, register) in bars.iter().enumerate() {
            self.write((FIRST_BAR + 4 * index) as u8, 4, *register);
        }
        check(self.save() == *saved, "pci", "config_space", saved)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.registers[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn bar_register(&self, index: usize) -> u32 {
        self.read((FIRST_BAR + 4 * index) as u8, 4)
    }

    fn address_of(&self, bar: &Bar) -> u64 {
        let index = usize::from(bar.index);
        let low = u64::from(self.bar_register(index) & !0xf);
        match bar.width {
            BarWidth::Bits32 => low,
            BarWidth::Bits64 => low | u64::from(self.bar_register(index + 1)) << 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(PciIdentity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_8000,
        });
        space.add_bar(0, 0x8_0000, BarWidth::Bits32, 0xc008_0000);
        space.add_bar(2, 0x1000, BarWidth::Bits64, 0x30_0000_1000);
        space.add_interrupt_pin(17);
        space
    }

    #[test]
    fn the_header_is_where_the_specification_puts_it() {
        let mut space = space();
        assert_eq!(space.read(0, 4), 0x1042_1af4);
        assert_eq!(space.read(8, 4), 0x0180_0001);
        assert_eq!(space.read(0x2c, 4), 0x1042_1af4);
        assert_eq!(space.read(0x3c, 2), 0x0111);
        assert_eq!(space.read(4, 4), 0);
        assert_eq!(space.add_capability(0x11, &[1, 2, 3]), 0x40);
        assert_eq!(space.add_capability(0x09, &[4]), 0x48);
        assert_eq!(space.read(0x34, 1), 0x40);
        assert_eq!(space.read(0x40, 4), 0x0201_4811);
        assert_eq!(space.read(0x48, 4), 0x0004_0009);
        assert_eq!(space.read(6, 2), 0x10);
        space.write(0, 4, 0);
        space.write(0x40, 4, 0);
        assert_eq!((space.read(0, 2), space.read(0x40, 1)), (0x1af4, 0x11));
    }

    #[test]
    fn bars_are_sized_and_moved() {
        let mut space = space();
        for (offset, old, mask) in [
            (0x10, 0xc008_0000, 0xfff8_0000u32),
            (0x14, 0, 0),
            (0x18, 0x0000_1004, 0xffff_f004),
            (0x1c, 0x30, 0xffff_ffff),
            (0x20, 0, 0),
        ] {
            assert_eq!(space.read(offset, 4), old);
            space.write(offset, 4, u32::MAX);
            assert_eq!(space.read(offset, 4), mask, "{offset:#x}");
            space.write(offset, 4, old);
        }
        assert_eq!(space.decode(0xc008_0004), None, "decoding is off");
        space.write(4, 2, 0x2);
        assert_eq!(space.decode(0xc008_0004), Some((0, 4)));
        assert_eq!(space.decode(0xc010_0000), None);
        assert_eq!(space.decode(0x30_0000_1fff), Some((2, 0xfff)));
        space.write(0x10, 4, 0xd000_0000);
        assert_eq!(space.decode(0xc008_0004), None);
        assert_eq!(space.decode(0xd007_ffff), Some((0, 0x7_ffff)));
        assert_eq!(space.bar_address(0), Some(0xd000_0000));
        assert_eq!(space.bar_address(1), None);
    }

    #[test]
    fn a_saved_header_is_restored_and_an_impossible_one_refused() {
        let mut space = space();
        space.write(4, 2, 0xffff);
        space.write(0x10, 4, 0xd000_0000);
        space.write(0x3c, 1, 9);
        assert_eq!(space.command(), COMMAND_WRITABLE);
        let saved = space.save();
        let mut other = self::space();
        other.restore(&saved).unwrap();
        assert_eq!(other, space);
        let mut bars = saved.bars;
        bars[1] = 4;
        assert!(other.restore(&ConfigSpaceState { bars, ..saved }).is_err());
    }
}
