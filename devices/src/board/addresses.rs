//! Address decoding: ports, MMIO and model-specific registers.
//!
//! ```text
//! 020-021 0a0-0a1 4d0-4d1  8259 pair, ELCR      080       POST code
//! 040-043 061              8254, port B         0e9 402   debug consoles
//! 060 064 092              i8042, port A        3f8-3ff   serial port, if configured
//! 070-071                  RTC                  600       ACPI sleep and reset
//! 608-60b                  PM timer             610       ACPI notifications
//! cf8-cff                  PCI configuration, if there are PCI devices
//!
//! fec00000                 IOAPIC               APIC base local APIC (xAPIC mode)
//! e8000000                 ECAM                 BARs      PCI devices
//! ```
//!
//! A port access of two or four bytes is two or four byte accesses at rising ports. Whatever nobody
//! decodes reads as all ones, ignores writes, and is counted: once for an access whose first byte
//! is not decoded.

use crate::clock::VirtualTime;
use crate::dma::GuestRam;
use crate::interrupt_controller::ioapic::{IOAPIC_BASE, IOAPIC_SIZE};
use crate::interrupt_controller::lapic::{LAPIC_SIZE, X2APIC_FIRST_MSR};
use crate::interrupt_controller::pic::PicPort;
use crate::legacy::acpi_pm::{
    AcpiPm, NOTIFICATION_PORT, PM_TIMER_PORT, PowerRequest, SLEEP_RESET_PORT,
};
use crate::legacy::cmos_rtc::RTC_PORT;
use crate::legacy::debug_port::{
    DEBUG_CONSOLE_PORT, DEBUG_PORT_PRESENT, FIRMWARE_DEBUG_PORT, POST_PORT,
};
use crate::legacy::i8042::{I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, SYSTEM_CONTROL_A_PORT};
use crate::legacy::pit::{PIT_PORT, SYSTEM_CONTROL_B_PORT};
use crate::legacy::serial_16550::{SERIAL_PORT, SERIAL_PORT_COUNT};

use super::Board;
use super::pci_routes::is_config_port;

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;

const X2APIC_LAST_MSR: u32 = X2APIC_FIRST_MSR + 0xff;
const IOAPIC_LAST: u64 = IOAPIC_BASE + IOAPIC_SIZE - 1;

/// Whether `index` is an MSR that the board answers; the processor has all others.
#[must_use]
pub const fn owns_msr(index: u32) -> bool {
    matches!(
        index,
        MSR_APIC_BASE | MSR_TSC_DEADLINE | X2APIC_FIRST_MSR..=X2APIC_LAST_MSR
    )
}

/// Who answers at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Pic(PicPort),
    Pit(u16),
    SystemControlA,
    SystemControlB,
    I8042Data,
    I8042Command,
    RtcIndex,
    RtcData,
    Post,
    DebugConsole,
    Serial(u16),
    SleepReset,
    PmTimer(u16),
    Notifications,
}

const SERIAL_LAST: u16 = SERIAL_PORT + SERIAL_PORT_COUNT - 1;
const PIT_LAST: u16 = PIT_PORT + 3;
const PM_TIMER_LAST: u16 = PM_TIMER_PORT + 3;
const RTC_DATA_PORT: u16 = RTC_PORT + 1;

impl Port {
    const fn decode(port: u16, serial: bool) -> Option<Self> {
        Some(match port {
            SERIAL_PORT..=SERIAL_LAST if serial => Self::Serial(port - SERIAL_PORT),
            0x20 => Self::Pic(PicPort::MasterCommand),
            0x21 => Self::Pic(PicPort::MasterData),
            0xa0 => Self::Pic(PicPort::SlaveCommand),
            0xa1 => Self::Pic(PicPort::SlaveData),
            0x4d0 => Self::Pic(PicPort::MasterElcr),
            0x4d1 => Self::Pic(PicPort::SlaveElcr),
            PIT_PORT..=PIT_LAST => Self::Pit(port - PIT_PORT),
            SYSTEM_CONTROL_A_PORT => Self::SystemControlA,
            SYSTEM_CONTROL_B_PORT => Self::SystemControlB,
            I8042_DATA_PORT => Self::I8042Data,
            I8042_COMMAND_PORT => Self::I8042Command,
            RTC_PORT => Self::RtcIndex,
            RTC_DATA_PORT => Self::RtcData,
            POST_PORT => Self::Post,
            DEBUG_CONSOLE_PORT | FIRMWARE_DEBUG_PORT => Self::DebugConsole,
            SLEEP_RESET_PORT => Self::SleepReset,
            PM_TIMER_PORT..=PM_TIMER_LAST => Self::PmTimer(port - PM_TIMER_PORT),
            NOTIFICATION_PORT => Self::Notifications,
            _ => return None,
        })
    }
}

/// All ones in `size` bytes.
const fn all_ones(size: u8) -> u64 {
    match size {
        0 => 0,
        1..=7 => (1 << (8 * size as u32)) - 1,
        _ => u64::MAX,
    }
}

const fn is_port_size(size: u8) -> bool {
    matches!(size, 1 | 2 | 4)
}

impl Board {
    /// A guest read of `size` (1, 2 or 4) bytes at `port`.
    pub fn pio_read(&mut self, port: u16, size: u8, now: VirtualTime) -> u32 {
        self.advance(now);
        if is_config_port(port)
            && is_port_size(size)
            && let Some(value) = self.pci_port_read(port, size)
        {
            return value;
        }
        let Some(first) = self.decode_port(port).filter(|_| is_port_size(size)) else {
            self.undecoded_accesses += 1;
            return all_ones(size.min(4)) as u32;
        };
        let mut value = u32::from(self.read_port(first, now));
        for index in 1..size {
            let byte = match self.decode_port(port.wrapping_add(u16::from(index))) {
                Some(target) => self.read_port(target, now),
                None => 0xff,
            };
            value |= u32::from(byte) << (8 * index);
        }
        value
    }

    /// A guest write of the low `size` (1, 2 or 4) bytes of `value` at `port`.
    pub fn pio_write(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        now: VirtualTime,
        ram: &mut dyn GuestRam,
    ) {
        self.advance(now);
        if is_config_port(port)
            && is_port_size(size)
            && self.pci_port_write(port, size, value, ram).is_some()
        {
            return;
        }
        if !is_port_size(size) || self.decode_port(port).is_none() {
            self.undecoded_accesses += 1;
            return;
        }
        let bytes = value.to_le_bytes();
        for (byte, index) in bytes.into_iter().zip(0..u16::from(size)) {
            if let Some(target) = self.decode_port(port.wrapping_add(index)) {
                self.write_port(target, byte, now);
            }
        }
    }

    /// A guest read of `size` (1, 2, 4 or 8) bytes at guest-physical address `gpa`.
    pub fn mmio_read(&mut self, gpa: u64, size: u8, now: VirtualTime) -> u64 {
        self.advance(now);
        if let Some(offset) = self.lapic_offset(gpa) {
            return self.lapic.mmio_read(offset, size, now);
        }
        if let IOAPIC_BASE..=IOAPIC_LAST = gpa {
            return u64::from(self.ioapic.read(gpa & 0xff)) & all_ones(size);
        }
        if let Some(value) = self.pci_mmio_read(gpa, size) {
            return value & all_ones(size);
        }
        self.undecoded_accesses += 1;
        all_ones(size)
    }

    /// A guest write of the low `size` (1, 2, 4 or 8) bytes of `value` at `gpa`.
    pub fn mmio_write(
        &mut self,
        gpa: u64,
        size: u8,
        value: u64,
        now: VirtualTime,
        ram: &mut dyn GuestRam,
    ) {
        self.advance(now);
        if let Some(offset) = self.lapic_offset(gpa) {
            let effect = self.lapic.mmio_write(offset, size, value, now);
            self.apply(effect);
        } else if let IOAPIC_BASE..=IOAPIC_LAST = gpa {
            let pins = self
                .ioapic
                .write(gpa & 0xff, (value & all_ones(size)) as u32);
            self.serve_pins(pins);
        } else if self
            .pci_mmio_write(gpa, size, value & all_ones(size), ram)
            .is_none()
        {
            self.undecoded_accesses += 1;
        }
    }

    /// Reads an MSR that [`owns_msr`] names; `None` means a general-protection fault.
    pub fn msr_read(&mut self, index: u32, now: VirtualTime) -> Option<u64> {
        self.advance(now);
        match index {
            MSR_APIC_BASE => Some(self.lapic.base_register()),
            MSR_TSC_DEADLINE => Some(self.lapic.tsc_deadline(now)),
            X2APIC_FIRST_MSR..=X2APIC_LAST_MSR => self.lapic.msr_read(index as u8, now),
            _ => None,
        }
    }

    /// Writes an MSR that [`owns_msr`] names; `None` means a general-protection fault.
    pub fn msr_write(&mut self, index: u32, value: u64, now: VirtualTime) -> Option<()> {
        self.advance(now);
        match index {
            MSR_APIC_BASE => {
                let effect = self.lapic.write_base_register(value)?;
                self.apply(effect);
                Some(())
            }
            MSR_TSC_DEADLINE => {
                self.lapic.write_tsc_deadline(value, now);
                Some(())
            }
            X2APIC_FIRST_MSR..=X2APIC_LAST_MSR => {
                let effect = self.lapic.msr_write(index as u8, value, now)?;
                self.apply(effect);
                Some(())
            }
            _ => None,
        }
    }

    fn lapic_offset(&self, gpa: u64) -> Option<u64> {
        let offset = gpa.checked_sub(self.lapic.mmio_base()?)?;
        (offset < LAPIC_SIZE).then_some(offset)
    }

    const fn decode_port(&self, port: u16) -> Option<Port> {
        Port::decode(port, self.serial.is_some())
    }

    fn read_port(&mut self, port: Port, now: VirtualTime) -> u8 {
        match port {
            Port::Serial(offset) => {
                let Some(serial) = &mut self.serial else {
                    return 0xff;
                };
                let value = serial.read(offset);
                self.poll_serial();
                value
            }
            Port::Pic(register) => {
                let value = self.pic.read(register);
                self.poll_pic();
                value
            }
            Port::Pit(offset) => self.pit.read(offset, now),
            Port::SystemControlA => I8042::system_control(),
            Port::SystemControlB => self.pit.read_system_control(now),
            Port::I8042Data => {
                let value = self.i8042.read_data();
                self.poll_i8042();
                value
            }
            Port::I8042Command => self.i8042.status(),
            // The index is write-only.
            Port::RtcIndex => 0xff,
            Port::RtcData => {
                let value = self.rtc.read(now);
                self.poll_rtc();
                value
            }
            Port::Post => self.debug.post_code(),
            Port::DebugConsole => DEBUG_PORT_PRESENT,
            Port::SleepReset => 0,
            Port::PmTimer(offset) => AcpiPm::timer(now).to_le_bytes()[usize::from(offset & 3)],
            Port::Notifications => {
                let value = self.acpi.take_notifications();
                self.poll_notifications();
                value
            }
        }
    }

    fn write_port(&mut self, port: Port, value: u8, now: VirtualTime) {
        match port {
            Port::Serial(offset) => {
                if let Some(serial) = &mut self.serial {
                    self.events.serial.extend(serial.write(offset, value));
                    self.poll_serial();
                }
            }
            Port::Pic(register) => {
                self.pic.write(register, value);
                self.poll_pic();
            }
            Port::Pit(offset) => self.pit.write(offset, value, now),
            Port::SystemControlA => self.request_power(I8042::write_system_control(value)),
            Port::SystemControlB => self.pit.write_system_control(value, now),
            Port::I8042Data => {
                let request = self.i8042.write_data(value);
                self.request_power(request);
                self.poll_i8042();
            }
            Port::I8042Command => {
                let request = self.i8042.write_command(value);
                self.request_power(request);
                self.poll_i8042();
            }
            Port::RtcIndex => self.rtc.select(value),
            Port::RtcData => {
                let request = self.rtc.write(value, now);
                self.request_power(request);
                self.poll_rtc();
            }
            Port::Post => self.debug.set_post_code(value),
            Port::DebugConsole => self.events.debug.push(value),
            Port::SleepReset => self.request_power(AcpiPm::write_sleep_reset(value)),
            // Read-only.
            Port::PmTimer(_) | Port::Notifications => {}
        }
    }

    fn request_power(&mut self, request: Option<PowerRequest>) {
        self.events.power = self.events.power.or(request);
    }
}
