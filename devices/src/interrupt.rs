//! Interrupt messages: what IOAPIC pins, MSI writes and inter-processor interrupts have in common.
//!
//! Spec: Intel SDM vol. 3A, ch. 11 "APIC" (interrupt command register, local vector table, message
//! signalled interrupts); Intel 82093AA, redirection table.

use serde::{Deserialize, Serialize};

/// How a message acts on the processor that accepts it; the 3-bit field of ICR, RTE, LVT and MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// Delivers `vector`.
    Fixed,
    /// Delivers `vector` to the addressed processor that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// The reserved encoding 3.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the vector is the page number of the start address.
    StartUp,
    /// The vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// From bits 10:8 of a register.
    #[must_use]
    pub const fn from_register(register: u32) -> Self {
        match (register >> 8) & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }
}

/// Edge or level; a level-triggered vector is reported to the IOAPIC at its end of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerMode {
    /// Each rising edge is one interrupt.
    Edge,
    /// Interrupts as long as the line is asserted.
    Level,
}

/// The APICs that a message addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// The APIC with this id.
    Physical(u32),
    /// The APICs whose logical destination register matches.
    Logical(u32),
    /// Every APIC.
    All,
    /// Every APIC but the sender.
    Others,
    /// The sender only.
    Sender,
}

impl Destination {
    /// From an 8-bit destination field, where 0xff is a broadcast in both modes.
    #[must_use]
    pub const fn from_byte(byte: u8, logical: bool) -> Self {
        match (byte, logical) {
            (0xff, _) => Self::All,
            (byte, true) => Self::Logical(byte as u32),
            (byte, false) => Self::Physical(byte as u32),
        }
    }

    /// From a 32-bit destination field, as x2APIC mode has it.
    #[must_use]
    pub const fn from_x2apic(field: u32, logical: bool) -> Self {
        match (field, logical) {
            (u32::MAX, _) => Self::All,
            (field, true) => Self::Logical(field),
            (field, false) => Self::Physical(field),
        }
    }
}

/// One interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptMessage {
    /// Who it is for.
    pub destination: Destination,
    /// What it does there.
    pub mode: DeliveryMode,
    /// Edge or level.
    pub trigger: TriggerMode,
    /// The vector, where the mode has one.
    pub vector: u8,
}

impl InterruptMessage {
    /// The interrupt that a write of `data` to `address` in 0xFEE0_0000..0xFEF0_0000 stands for;
    /// `None` if the address is not in that range.
    ///
    /// Spec: Intel SDM vol. 3A, ch. 11 "Message Signalled Interrupts".
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let logical = address & (1 << 2) != 0;
        Some(Self {
            destination: Destination::from_byte((address >> 12) as u8, logical),
            mode: DeliveryMode::from_register(data),
            trigger: if data & (1 << 15) != 0 {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
            vector: data as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields_are_where_the_manual_puts_them() {
        let fixed = InterruptMessage::from_msi(0xfee0_1000, 0x0000_0041).unwrap();
        assert_eq!(fixed.destination, Destination::Physical(1));
        assert_eq!((fixed.mode, fixed.vector), (DeliveryMode::Fixed, 0x41));
        assert_eq!(fixed.trigger, TriggerMode::Edge);
        let logical = InterruptMessage::from_msi(0xfee0_300c, 0x0000_c1f0).unwrap();
        assert_eq!(logical.destination, Destination::Logical(3));
        assert_eq!(
            (logical.mode, logical.trigger),
            (DeliveryMode::LowestPriority, TriggerMode::Level)
        );
        assert_eq!(
            InterruptMessage::from_msi(0xfeef_f000, 0)
                .unwrap()
                .destination,
            Destination::All
        );
        assert_eq!(InterruptMessage::from_msi(0xfec0_0000, 0), None);
        assert_eq!(InterruptMessage::from_msi(0x1_fee0_0000, 0), None);
    }
}
