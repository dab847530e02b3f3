//! Interrupt wires: ISA lines to both controllers, the 8259's output, messages, ends of interrupt.
//!
//! A line is polled after each access to the device that drives it. Where a device's line dropped
//! and rose within one access, it says so by a pulse, because an edge would be missed otherwise.

use crate::interrupt::{DeliveryMode, Destination, InterruptMessage};
use crate::interrupt_controller::ioapic::{IOAPIC_PIN_COUNT, PinSet};
use crate::interrupt_controller::lapic::{CpuSignal, Delivery, Effect};
use crate::legacy::acpi_pm::NOTIFICATION_GSI;
use crate::legacy::cmos_rtc::RTC_IRQ;
use crate::legacy::i8042::I8042_IRQ;
use crate::legacy::serial_16550::SERIAL_IRQ;
use crate::pci::bus::gsi_of_slot;

use super::Board;

/// IOAPIC pin of the 8259's INT output.
const EXTERNAL_PIN: u8 = 0;
/// IOAPIC pin of IRQ 0, which the ACPI tables announce as an interrupt source override.
pub const TIMER_GSI: u8 = 2;
const ISA_IRQ_COUNT: u8 = 16;

/// Whether `gsi` is a pin that no legacy device drives.
pub(super) const fn is_free_gsi(gsi: u8) -> bool {
    gsi >= ISA_IRQ_COUNT && gsi < IOAPIC_PIN_COUNT && gsi != NOTIFICATION_GSI
}

/// Whether PCI's interrupt pins are wired to `gsi`.
pub(super) const fn is_pci_gsi(gsi: u8) -> bool {
    gsi >= gsi_of_slot(0) && gsi <= gsi_of_slot(3)
}

const _: () = assert!(is_free_gsi(gsi_of_slot(0)) && is_free_gsi(gsi_of_slot(3)));

/// IOAPIC pin of an ISA interrupt.
const fn pin_of_isa_irq(irq: u8) -> u8 {
    if irq == 0 { TIMER_GSI } else { irq }
}

impl Board {
    pub(super) fn poll_serial(&mut self) {
        let Some(serial) = &mut self.serial else {
            return;
        };
        let level = serial.irq_level();
        if serial.take_pulse() {
            self.drive_isa_line(SERIAL_IRQ, false);
        }
        self.drive_isa_line(SERIAL_IRQ, level);
    }

    pub(super) fn poll_rtc(&mut self) {
        self.drive_isa_line(RTC_IRQ, self.rtc.irq_level());
    }

    pub(super) fn poll_i8042(&mut self) {
        self.drive_isa_line(I8042_IRQ, self.i8042.irq_level());
    }

    pub(super) fn poll_notifications(&mut self) {
        self.drive_pin(NOTIFICATION_GSI, self.acpi.gsi_level());
    }

    /// Passes the 8259's INT output on.
    pub(super) fn poll_pic(&mut self) {
        let output = self.pic.output();
        let signal = self.lapic.set_lint0(output);
        self.signal(signal);
        self.drive_pin(EXTERNAL_PIN, output);
    }

    /// A rising edge on a line that is low before and after.
    pub(super) fn pulse_isa_line(&mut self, irq: u8) {
        self.drive_isa_line(irq, true);
        self.drive_isa_line(irq, false);
    }

    fn drive_isa_line(&mut self, irq: u8, level: bool) {
        self.pic.set_irq(irq, level);
        self.poll_pic();
        self.drive_pin(pin_of_isa_irq(irq), level);
    }

    pub(super) fn drive_pin(&mut self, pin: u8, level: bool) {
        if self.ioapic.set_pin(pin, level) {
            self.serve_pins(PinSet(1 << pin));
        }
    }

    /// Sends the messages of `pins`.
    pub(super) fn serve_pins(&mut self, pins: PinSet) {
        for pin in pins {
            if let Some(message) = self.ioapic.message(pin)
                && self.deliver(&message)
            {
                self.ioapic.accepted(pin);
            }
        }
    }

    /// Delivers a message from a device or the IOAPIC. Returns whether this APIC took it.
    ///
    /// External interrupts are not latched: [`Board::pending_interrupt`] looks at the 8259.
    pub(super) fn deliver(&mut self, message: &InterruptMessage) -> bool {
        if !self.lapic.is_addressed(message.destination) {
            return false;
        }
        match self.lapic.deliver(message) {
            Delivery::Refused => false,
            Delivery::Accepted => true,
            Delivery::Signal(signal) => {
                self.events.signals.push(signal);
                true
            }
        }
    }

    /// Carries out what a register write of the local APIC asks for.
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::EndOfInterrupt { vector } => {
                let again = self.ioapic.end_of_interrupt(vector);
                self.serve_pins(again);
            }
            Effect::Send(message) => self.send(&message),
            Effect::Reconfigured => {
                let waiting = self.ioapic.waiting();
                self.serve_pins(waiting);
            }
        }
    }

    /// Sends an inter-processor interrupt of this processor.
    fn send(&mut self, message: &InterruptMessage) {
        let destination = message.destination;
        let to_self = match destination {
            Destination::Sender | Destination::All => true,
            Destination::Others => false,
            Destination::Physical(_) | Destination::Logical(_) => {
                self.lapic.is_addressed(destination)
            }
        };
        if to_self && let Delivery::Signal(signal) = self.lapic.deliver(message) {
            self.events.signals.push(signal);
        }
        let to_others = match destination {
            Destination::Sender => false,
            Destination::Physical(_) => !to_self,
            Destination::All | Destination::Others | Destination::Logical(_) => true,
        };
        // Interrupts for processors that do not exist vanish; start-up messages are for the run
        // loop.
        if to_others && CpuSignal::from_message(message).is_some() {
            self.events.ipis.push(*message);
        }
    }

    /// Whether the 8259's interrupts get through to the processor, by LINT0 or by IOAPIC pin 0.
    pub(super) fn external_interrupt_reaches_cpu(&self) -> bool {
        self.lapic.passes_external_interrupts()
            || (self.ioapic.is_unmasked(EXTERNAL_PIN)
                && self.ioapic.message(EXTERNAL_PIN).is_some_and(|message| {
                    message.mode == DeliveryMode::ExtInt
                        && self.lapic.is_addressed(message.destination)
                }))
    }

    /// Whether an edge of ISA line `irq` would do more than change the state of a controller.
    pub(super) fn isa_line_matters(&self, irq: u8) -> bool {
        self.ioapic.is_unmasked(pin_of_isa_irq(irq))
            || (self.pic.is_unmasked(irq)
                && (self.lapic.is_lint0_open() || self.ioapic.is_unmasked(EXTERNAL_PIN)))
    }
}
