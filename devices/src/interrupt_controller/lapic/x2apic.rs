//! x2APIC mode: the registers as MSRs 0x800..=0x8ff.
//!
//! Accesses that the MMIO page would ignore raise a general-protection fault here: registers that
//! do not exist, reserved bits, and any access outside x2APIC mode.
//!
//! Spec: Intel SDM vol. 3A, ch. 11, section "Extended xAPIC (x2APIC)".

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::interrupt::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

use super::registers::{
    LVT_BUSY, LVT_REMOTE_IRR, LVT_WRITABLE, REG_DIVIDE, REG_EOI, REG_ESR, REG_ICR_LOW, REG_ID,
    REG_INITIAL_COUNT, REG_LDR, REG_LVT_FIRST, REG_LVT_LAST, REG_SVR, REG_TPR, SVR_WRITABLE,
};
use super::{ERROR_SEND_ILLEGAL_VECTOR, Effect, FIRST_LEGAL_VECTOR, Lapic};

/// First MSR of the x2APIC register space.
pub const X2APIC_FIRST_MSR: u32 = 0x800;

const REG_SELF_IPI: u8 = 0x3f;
/// Writable bits of the 64-bit ICR; bit 12 is ignored rather than refused, as processors do.
const ICR_WRITABLE: u64 = 0xffff_ffff_000c_cfff;
const ICR_BUSY: u64 = 1 << 12;

impl Lapic {
    /// Reads MSR `0x800 + register`; `None` means a general-protection fault.
    pub fn msr_read(&mut self, register: u8, now: VirtualTime) -> Option<u64> {
        if !self.is_x2apic() {
            return None;
        }
        self.advance(now);
        match register {
            REG_ID => Some(u64::from(self.id())),
            REG_LDR => Some(u64::from(self.x2apic_logical_id())),
            REG_ICR_LOW => Some(self.icr),
            _ => self.read_common(register, now).map(u64::from),
        }
    }

    /// Writes MSR `0x800 + register`; `None` means a general-protection fault.
    pub fn msr_write(&mut self, register: u8, value: u64, now: VirtualTime) -> Option<Effect> {
        if !self.is_x2apic() || value & self.reserved_bits(register)? != 0 {
            return None;
        }
        self.advance(now);
        match register {
            REG_ICR_LOW => {
                self.icr = value & ICR_WRITABLE;
                let logical = value & (1 << 11) != 0;
                Some(self.send(Destination::from_x2apic((value >> 32) as u32, logical)))
            }
            REG_SELF_IPI => Some(self.send_to_self(value as u8)),
            _ => self.write_common(register, value as u32, now),
        }
    }

    /// The logical id that x2APIC mode derives: cluster in the high half, one bit in the low half.
    pub(super) const fn x2apic_logical_id(&self) -> u32 {
        let id = self.id();
        ((id >> 4) << 16) | (1 << (id & 0xf))
    }

    /// Bits of a writable register that must be zero; `None` if it cannot be written.
    fn reserved_bits(&self, register: u8) -> Option<u64> {
        let writable = match register {
            REG_TPR | REG_SELF_IPI => 0xff,
            REG_EOI | REG_ESR => 0,
            REG_SVR => u64::from(SVR_WRITABLE),
            REG_ICR_LOW => ICR_WRITABLE | ICR_BUSY,
            REG_LVT_FIRST..=REG_LVT_LAST => {
                let entry = LVT_WRITABLE[usize::from(register - REG_LVT_FIRST)];
                u64::from(entry | LVT_BUSY | LVT_REMOTE_IRR)
            }
            REG_INITIAL_COUNT => u64::from(u32::MAX),
            REG_DIVIDE => 0b1011,
            _ => return None,
        };
        Some(!writable)
    }

    fn send_to_self(&mut self, vector: u8) -> Effect {
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(ERROR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::Send(InterruptMessage {
            destination: Destination::Sender,
            mode: DeliveryMode::Fixed,
            trigger: TriggerMode::Edge,
            vector,
        })
    }
}
