//! The register file of the local APIC, as its MMIO page shows it.
//!
//! Registers are numbered by their page offset divided by 16, which is also their MSR number minus
//! 0x800 in x2APIC mode; `x2apic` adds what differs there.
//!
//! Spec: Intel SDM vol. 3A, ch. 11, table "Local APIC Register Address Map".

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::interrupt::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

use super::timer::TimerMode;
use super::{ERROR_ILLEGAL_REGISTER, ERROR_SEND_ILLEGAL_VECTOR, Effect, FIRST_LEGAL_VECTOR, Lapic};

/// Local vector table entries that something raises; 1 and 2 are thermal and performance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lvt {
    Timer = 0,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

impl Lvt {
    /// Entries in the table.
    pub(super) const COUNT: usize = 6;
}

pub(super) const LVT_MASKED: u32 = 1 << 16;
pub(super) const LVT_LEVEL: u32 = 1 << 15;
pub(super) const LVT_REMOTE_IRR: u32 = 1 << 14;
/// Delivery status; read-only, always idle.
pub(super) const LVT_BUSY: u32 = 1 << 12;
/// Writable bits of each entry.
pub(super) const LVT_WRITABLE: [u32; Lvt::COUNT] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

pub(super) const SVR_ENABLED: u32 = 1 << 8;
pub(super) const SVR_SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
pub(super) const SVR_WRITABLE: u32 = 0xff | SVR_ENABLED | SVR_SUPPRESS_EOI_BROADCAST;

pub(super) const REG_ID: u8 = 0x02;
pub(super) const REG_VERSION: u8 = 0x03;
pub(super) const REG_TPR: u8 = 0x08;
const REG_ARBITRATION: u8 = 0x09;
pub(super) const REG_PPR: u8 = 0x0a;
pub(super) const REG_EOI: u8 = 0x0b;
const REG_REMOTE_READ: u8 = 0x0c;
pub(super) const REG_LDR: u8 = 0x0d;
const REG_DFR: u8 = 0x0e;
pub(super) const REG_SVR: u8 = 0x0f;
pub(super) const REG_ISR: u8 = 0x10;
const REG_TMR: u8 = 0x18;
const REG_IRR: u8 = 0x20;
pub(super) const REG_ESR: u8 = 0x28;
pub(super) const REG_ICR_LOW: u8 = 0x30;
const REG_ICR_HIGH: u8 = 0x31;
pub(super) const REG_LVT_FIRST: u8 = 0x32;
pub(super) const REG_LVT_LAST: u8 = 0x37;
pub(super) const REG_INITIAL_COUNT: u8 = 0x38;
pub(super) const REG_CURRENT_COUNT: u8 = 0x39;
pub(super) const REG_DIVIDE: u8 = 0x3e;

/// Version 0x14, EOI broadcast suppression offered, number of LVT entries less one.
const VERSION: u32 = 0x14 | 1 << 24 | (Lvt::COUNT as u32 - 1) << 16;

/// Writable bits of the low half of the ICR.
const ICR_WRITABLE: u32 = 0x000c_cfff;

impl Lapic {
    /// Reads `size` bytes at `offset` of the register page. Bytes outside the 32-bit register at
    /// the head of each 16-byte slot read zero.
    pub fn mmio_read(&mut self, offset: u64, size: u8, now: VirtualTime) -> u64 {
        let shift = 8 * (offset & 0xf) as u32;
        if shift >= 32 {
            return 0;
        }
        let value = u64::from(self.read((offset >> 4) as u8, now)) >> shift;
        if size >= 8 {
            value
        } else {
            value & ((1 << (8 * u32::from(size))) - 1)
        }
    }

    /// Writes at `offset` of the register page. Only aligned writes of at least 32 bits count.
    pub fn mmio_write(&mut self, offset: u64, size: u8, value: u64, now: VirtualTime) -> Effect {
        if offset & 0xf != 0 || size < 4 {
            return Effect::None;
        }
        self.write((offset >> 4) as u8, value as u32, now)
    }

    fn read(&mut self, register: u8, now: VirtualTime) -> u32 {
        self.advance(now);
        match register {
            REG_ID => u32::from(self.xapic_id) << 24,
            REG_ARBITRATION | REG_REMOTE_READ | REG_EOI => 0,
            REG_LDR => self.logical_id,
            REG_DFR => self.destination_format,
            REG_ICR_LOW => self.icr as u32,
            REG_ICR_HIGH => (self.icr >> 32) as u32,
            _ => match self.read_common(register, now) {
                Some(value) => value,
                None => {
                    self.record_error(ERROR_ILLEGAL_REGISTER);
                    0
                }
            },
        }
    }

    /// Registers that read alike in both modes.
    pub(super) fn read_common(&self, register: u8, now: VirtualTime) -> Option<u32> {
        let word = usize::from(register & 7);
        Some(match register {
            REG_VERSION => VERSION,
            REG_TPR => u32::from(self.task_priority),
            REG_PPR => u32::from(self.processor_priority()),
            REG_SVR => self.spurious,
            REG_ISR..REG_TMR => self.in_service[word],
            REG_TMR..REG_IRR => self.level_triggered[word],
            REG_IRR..REG_ESR => self.requests[word],
            REG_ESR => self.errors,
            REG_LVT_FIRST..=REG_LVT_LAST => self.lvt[usize::from(register - REG_LVT_FIRST)],
            REG_INITIAL_COUNT => self.timer.initial_count(),
            REG_CURRENT_COUNT => self.timer.current_count(now),
            REG_DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    fn write(&mut self, register: u8, value: u32, now: VirtualTime) -> Effect {
        self.advance(now);
        match register {
            REG_ID => self.xapic_id = (value >> 24) as u8,
            REG_LDR => self.logical_id = value & 0xff00_0000,
            REG_DFR => self.destination_format = value | 0x0fff_ffff,
            REG_ICR_HIGH => {
                self.icr = (self.icr & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32;
            }
            REG_ICR_LOW => {
                self.icr = (self.icr & !0xffff_ffff) | u64::from(value & ICR_WRITABLE);
                let logical = value & (1 << 11) != 0;
                return self.send(Destination::from_byte((self.icr >> 56) as u8, logical));
            }
            // Read-only registers.
            REG_VERSION | REG_ARBITRATION | REG_PPR | REG_REMOTE_READ | REG_CURRENT_COUNT => {}
            REG_ISR..REG_ESR => {}
            _ => {
                return self.write_common(register, value, now).unwrap_or_else(|| {
                    self.record_error(ERROR_ILLEGAL_REGISTER);
                    Effect::None
                });
            }
        }
        Effect::Reconfigured
    }

    /// Registers that are written alike in both modes; `None` if there is no such register.
    pub(super) fn write_common(
        &mut self,
        register: u8,
        value: u32,
        now: VirtualTime,
    ) -> Option<Effect> {
        match register {
            REG_EOI => return Some(self.end_of_interrupt()),
            REG_TPR => self.task_priority = value as u8,
            REG_SVR => {
                self.write_spurious(value);
                return Some(Effect::Reconfigured);
            }
            REG_ESR => {
                self.errors = self.new_errors;
                self.new_errors = 0;
            }
            REG_LVT_FIRST..=REG_LVT_LAST => {
                self.write_lvt(usize::from(register - REG_LVT_FIRST), value);
            }
            REG_INITIAL_COUNT => self
                .timer
                .write_initial_count(self.timer_mode(), value, now),
            REG_DIVIDE => self.timer.write_divide(value, now),
            _ => return None,
        }
        Some(Effect::None)
    }

    /// Sends what the ICR holds to `destination`, unless its shorthand says otherwise.
    pub(super) fn send(&mut self, destination: Destination) -> Effect {
        let command = self.icr as u32;
        let mode = DeliveryMode::from_register(command);
        let vector = command as u8;
        let has_vector = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if has_vector && vector < FIRST_LEGAL_VECTOR {
            self.record_error(ERROR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let level_deasserted = command & (1 << 15) != 0 && command & (1 << 14) == 0;
        if mode == DeliveryMode::Init && level_deasserted {
            // INIT level de-assert synchronised arbitration ids, which are long gone.
            return Effect::None;
        }
        let destination = match (command >> 18) & 3 {
            0 => destination,
            1 => Destination::Sender,
            2 => Destination::All,
            _ => Destination::Others,
        };
        // The trigger mode of an IPI matters for INIT only; interrupts are always edges.
        Effect::Send(InterruptMessage {
            destination,
            mode,
            trigger: TriggerMode::Edge,
            vector,
        })
    }

    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & SVR_WRITABLE;
        if self.spurious & SVR_ENABLED == 0 {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let old_mode = self.timer_mode();
        let mut entry = value & LVT_WRITABLE[index];
        if self.spurious & SVR_ENABLED == 0 {
            entry |= LVT_MASKED;
        }
        if entry & LVT_LEVEL != 0 {
            entry |= self.lvt[index] & LVT_REMOTE_IRR;
        }
        self.lvt[index] = entry;
        if index == Lvt::Timer as usize {
            self.timer.change_mode(old_mode, TimerMode::from_lvt(entry));
        }
        if index == Lvt::Lint0 as usize {
            // A level that was there before the pin was opened counts now.
            self.reassert_lint0();
        }
    }
}
