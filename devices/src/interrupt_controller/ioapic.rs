//! The IOAPIC: 24 pins, a redirection table, and an EOI register.
//!
//! Modelled: edge and level pins, remote IRR, ExtINT entries, the EOI register of version 0x20.
//! Entries that switch to edge lose their remote IRR, which older drivers use as an EOI.
//!
//! Deviates: the polarity bit is kept but has no effect, because lines here are asserted or not,
//! and have no voltage. Messages are delivered at once, so delivery status always reads zero.
//!
//! Invariant: remote IRR is set only in entries that are level-triggered.
//!
//! Spec: Intel 82093AA (290566-001); EOI register as in later I/O hubs.

use serde::{Deserialize, Serialize};

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::interrupt::{DeliveryMode, Destination, InterruptMessage, TriggerMode};
use crate::saved::{RestoreError, SavedState, check};

const KIND: &str = "ioapic";

/// Guest-physical address of the register page.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Size of the register page.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Number of pins.
pub const IOAPIC_PIN_COUNT: u8 = 24;

const PINS: usize = IOAPIC_PIN_COUNT as usize;
const VERSION: u32 = ((IOAPIC_PIN_COUNT as u32 - 1) << 16) | 0x20;

const OFFSET_SELECT: u64 = 0x00;
const OFFSET_WINDOW: u64 = 0x10;
const OFFSET_EOI: u64 = 0x40;

const RTE_LOGICAL: u64 = 1 << 11;
const RTE_REMOTE_IRR: u64 = 1 << 14;
const RTE_LEVEL: u64 = 1 << 15;
const RTE_MASK: u64 = 1 << 16;
const RTE_READ_ONLY: u64 = (1 << 12) | RTE_REMOTE_IRR;
const RTE_WRITABLE: u64 = 0xff00_0000_0001_ffff & !RTE_READ_ONLY;

/// Pins whose interrupt may have become deliverable, bit n for pin n.
///
/// The caller asks [`Ioapic::message`] about each, delivers, and reports back by
/// [`Ioapic::accepted`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinSet(pub u32);

impl PinSet {
    /// No pins.
    pub const EMPTY: Self = Self(0);
}

impl Iterator for PinSet {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.0 == 0 {
            return None;
        }
        let pin = self.0.trailing_zeros() as u8;
        self.0 &= self.0 - 1;
        Some(pin)
    }
}

/// The IOAPIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ioapic {
    id: u8,
    select: u8,
    entries: [u64; PINS],
    levels: u32,
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioapic {
    /// An IOAPIC with every pin masked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            id: 0,
            select: 0,
            entries: [RTE_MASK; PINS],
            levels: 0,
        }
    }

    /// Reads the register at `offset` of the page; unknown offsets read zero.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            OFFSET_SELECT => u32::from(self.select),
            OFFSET_WINDOW => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the page. The result names the pins to serve.
    pub fn write(&mut self, offset: u64, value: u32) -> PinSet {
        match offset {
            OFFSET_SELECT => self.select = value as u8,
            OFFSET_WINDOW => return self.write_selected(value),
            OFFSET_EOI => return self.end_of_interrupt(value as u8),
            _ => {}
        }
        PinSet::EMPTY
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION,
            _ => match self.selected_entry() {
                Some(pin) if self.select & 1 == 0 => self.entries[pin] as u32,
                Some(pin) => (self.entries[pin] >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) -> PinSet {
        if self.select == 0 {
            self.id = (value >> 24) as u8 & 0x0f;
            return PinSet::EMPTY;
        }
        let Some(pin) = self.selected_entry() else {
            return PinSet::EMPTY;
        };
        let old = self.entries[pin];
        let (kept, written) = if self.select & 1 == 0 {
            (0xffff_ffff_0000_0000, u64::from(value))
        } else {
            (0x0000_0000_ffff_ffff, u64::from(value) << 32)
        };
        let mut new = (old & (kept | RTE_READ_ONLY)) | (written & RTE_WRITABLE & !kept);
        if new & RTE_LEVEL == 0 {
            new &= !RTE_REMOTE_IRR;
        }
        self.entries[pin] = new;
        PinSet(self.waiting().0 & (1 << pin))
    }

    fn selected_entry(&self) -> Option<usize> {
        let pin = usize::from(self.select.checked_sub(0x10)? / 2);
        (pin < PINS).then_some(pin)
    }

    /// Sets the level of `pin`. Returns whether an interrupt is to be served on it now.
    #[must_use]
    pub fn set_pin(&mut self, pin: u8, level: bool) -> bool {
        if pin >= IOAPIC_PIN_COUNT {
            return false;
        }
        let bit = 1 << pin;
        if !level {
            self.levels &= !bit;
            return false;
        }
        let risen = self.levels & bit == 0;
        self.levels |= bit;
        let entry = self.entries[usize::from(pin)];
        if entry & RTE_LEVEL != 0 {
            self.is_waiting(pin)
        } else {
            risen && entry & RTE_MASK == 0
        }
    }

    /// The message that `pin` sends.
    #[must_use]
    pub fn message(&self, pin: u8) -> Option<InterruptMessage> {
        let entry = *self.entries.get(usize::from(pin))?;
        let level = entry & RTE_LEVEL != 0;
        Some(InterruptMessage {
            destination: Destination::from_byte((entry >> 56) as u8, entry & RTE_LOGICAL != 0),
            mode: DeliveryMode::from_register(entry as u32),
            trigger: if level {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
            vector: entry as u8,
        })
    }

    /// Notes that a local APIC took the message of `pin`: a level pin now waits for its EOI.
    pub fn accepted(&mut self, pin: u8) {
        if let Some(entry) = self.entries.get_mut(usize::from(pin)) {
            let mode = DeliveryMode::from_register(*entry as u32);
            let has_eoi = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
            if *entry & RTE_LEVEL != 0 && has_eoi {
                *entry |= RTE_REMOTE_IRR;
            }
        }
    }

    /// The end of level-triggered interrupt `vector`. Pins still asserted are to be served again.
    pub fn end_of_interrupt(&mut self, vector: u8) -> PinSet {
        let mut ended = 0;
        for (pin, entry) in self.entries.iter_mut().enumerate() {
            if *entry & RTE_REMOTE_IRR != 0 && *entry as u8 == vector {
                *entry &= !RTE_REMOTE_IRR;
                ended |= 1 << pin;
            }
        }
        PinSet(self.waiting().0 & ended)
    }

    /// Level pins that are asserted, unmasked and not accepted yet.
    pub fn waiting(&self) -> PinSet {
        let asserted = PinSet(self.levels);
        PinSet(
            asserted
                .filter(|pin| self.is_waiting(*pin))
                .fold(0, |set, pin| set | 1 << pin),
        )
    }

    /// Whether a change of `pin` would send a message.
    #[must_use]
    pub fn is_unmasked(&self, pin: u8) -> bool {
        self.entries
            .get(usize::from(pin))
            .is_some_and(|entry| entry & RTE_MASK == 0)
    }

    fn is_waiting(&self, pin: u8) -> bool {
        let entry = self.entries[usize::from(pin)];
        self.levels & (1 << pin) != 0
            && entry & (RTE_MASK | RTE_REMOTE_IRR | RTE_LEVEL) == RTE_LEVEL
    }
}

impl Device for Ioapic {
    type Saved = IoapicStateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> IoapicStateV1 {
        let Self {
            id,
            select,
            entries,
            levels,
        } = self;
        IoapicStateV1 {
            id: *id,
            select: *select,
            entries: *entries,
            levels: *levels,
        }
    }

    fn restore(saved: IoapicStateV1) -> Result<Self, RestoreError> {
        let IoapicStateV1 {
            id,
            select,
            entries,
            levels,
        } = saved;
        check(id <= 0x0f, KIND, "id", id)?;
        check(levels >> IOAPIC_PIN_COUNT == 0, KIND, "levels", levels)?;
        for entry in entries {
            check(
                entry & !(RTE_WRITABLE | RTE_REMOTE_IRR) == 0,
                KIND,
                "entries",
                entry,
            )?;
            let impossible = entry & (RTE_REMOTE_IRR | RTE_LEVEL) == RTE_REMOTE_IRR;
            check(!impossible, KIND, "entries", entry)?;
        }
        Ok(Self {
            id,
            select,
            entries,
            levels,
        })
    }
}

/// Saved state of the IOAPIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoapicStateV1 {
    id: u8,
    select: u8,
    entries: [u64; PINS],
    levels: u32,
}

impl SavedState for IoapicStateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Subject};

    fn write_entry(ioapic: &mut Ioapic, pin: u8, entry: u64) -> u32 {
        let mut served = 0;
        for half in [1, 0] {
            let _ = ioapic.write(OFFSET_SELECT, u32::from(0x10 + 2 * pin + half));
            served |= ioapic.write(OFFSET_WINDOW, (entry >> (32 * half)) as u32).0;
        }
        served
    }

    fn read_low(ioapic: &mut Ioapic, pin: u8) -> u32 {
        let _ = ioapic.write(OFFSET_SELECT, u32::from(0x10 + 2 * pin));
        ioapic.read(OFFSET_WINDOW)
    }

    #[test]
    fn version_and_id_read_as_linux_expects() {
        let mut ioapic = Ioapic::new();
        let _ = ioapic.write(OFFSET_SELECT, 1);
        assert_eq!(ioapic.read(OFFSET_WINDOW), 0x0017_0020);
        let _ = ioapic.write(OFFSET_SELECT, 0);
        let _ = ioapic.write(OFFSET_WINDOW, 0x0500_0000);
        assert_eq!(ioapic.read(OFFSET_WINDOW), 0x0500_0000);
        assert_eq!(read_low(&mut ioapic, 23), 0x1_0000);
    }

    #[test]
    fn an_edge_pin_sends_once_per_edge_and_loses_masked_edges() {
        let mut ioapic = Ioapic::new();
        assert!(!ioapic.set_pin(4, true));
        assert_eq!(
            write_entry(&mut ioapic, 4, 0x34),
            0,
            "a held line is not an edge"
        );
        assert!(!ioapic.set_pin(4, true));
        assert!(!ioapic.set_pin(4, false));
        assert!(ioapic.set_pin(4, true));
        assert_eq!(ioapic.message(4).unwrap().vector, 0x34);
        ioapic.accepted(4);
        assert_eq!(read_low(&mut ioapic, 4), 0x34);
    }

    #[test]
    fn a_level_pin_waits_for_eoi_and_fires_again_while_asserted() {
        let mut ioapic = Ioapic::new();
        write_entry(&mut ioapic, 20, 0x8051);
        assert!(ioapic.set_pin(20, true));
        ioapic.accepted(20);
        assert_eq!(read_low(&mut ioapic, 20), 0xc051);
        assert!(!ioapic.set_pin(20, true));
        assert_eq!(ioapic.end_of_interrupt(0x50), PinSet::EMPTY);
        assert_eq!(ioapic.end_of_interrupt(0x51), PinSet(1 << 20));
        ioapic.accepted(20);
        assert!(!ioapic.set_pin(20, false));
        assert_eq!(ioapic.write(OFFSET_EOI, 0x51), PinSet::EMPTY);
        assert_eq!(read_low(&mut ioapic, 20), 0x8051);
    }

    #[test]
    fn unmasking_an_asserted_level_pin_serves_it() {
        let mut ioapic = Ioapic::new();
        write_entry(&mut ioapic, 9, 0x1_8060);
        assert!(!ioapic.set_pin(9, true));
        assert_eq!(write_entry(&mut ioapic, 9, 0x8060), 1 << 9);
    }

    #[test]
    fn switching_to_edge_clears_remote_irr() {
        let mut ioapic = Ioapic::new();
        write_entry(&mut ioapic, 9, 0x8060);
        assert!(ioapic.set_pin(9, true));
        ioapic.accepted(9);
        write_entry(&mut ioapic, 9, 0x1_0060);
        assert_eq!(write_entry(&mut ioapic, 9, 0x8060), 1 << 9);
    }

    #[test]
    fn read_only_bits_cannot_be_written() {
        let mut ioapic = Ioapic::new();
        write_entry(&mut ioapic, 0, u64::MAX);
        assert_eq!(read_low(&mut ioapic, 0), 0x0001_afff);
    }

    impl Subject for Ioapic {
        fn addresses() -> Vec<u64> {
            let registers = [
                OFFSET_SELECT,
                OFFSET_WINDOW,
                OFFSET_WINDOW,
                OFFSET_EOI,
                0x20,
                0x1000,
            ];
            registers.to_vec()
        }

        fn guest_read(&mut self, address: u64, _size: u8, _now: VirtualTime) -> u64 {
            u64::from(Ioapic::read(self, address)) | u64::from(self.waiting().0) << 32
        }

        fn guest_write(&mut self, address: u64, _size: u8, value: u64, _now: VirtualTime) {
            if address == 0x1000 {
                let pin = value as u8 & 0x1f;
                if self.set_pin(pin, value & 0x100 != 0) {
                    self.accepted(pin);
                }
                return;
            }
            for pin in Ioapic::write(self, address, value as u32) {
                assert!(self.message(pin).is_some());
                self.accepted(pin);
            }
        }
    }

    #[test]
    fn conforms() {
        conformance::run(Ioapic::new, 40);
    }

    #[test]
    fn unreachable_states_are_refused() {
        let mut saved = Ioapic::new().save();
        saved.entries[3] = RTE_REMOTE_IRR;
        assert!(Ioapic::restore(saved).is_err());
        let mut saved = Ioapic::new().save();
        saved.levels = 1 << 24;
        assert!(Ioapic::restore(saved).is_err());
    }
}
