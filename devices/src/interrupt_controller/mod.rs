//! Interrupt controllers: the 8259 pair, the IOAPIC and the local APIC.

pub mod ioapic;
pub mod lapic;
pub mod pic;
