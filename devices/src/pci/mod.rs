//! PCI: configuration space, message signalled interrupts, one bus.
//!
//! Spec: PCI Local Bus 3.0; PCI Express Base 5.0 §7.2.2 (ECAM).

pub mod bus;
pub mod config_space;
pub mod msix;

use crate::dma::GuestRam;
use crate::virtio::event::VirtioEvent;

use self::msix::MsixMessage;

/// What an access to a function may use, and where what comes of it is collected.
pub struct PciContext<'a> {
    /// The guest's memory.
    pub ram: &'a mut dyn GuestRam,
    /// Interrupt messages, in the order in which they were sent.
    pub messages: Vec<MsixMessage>,
    /// What left the device, in order.
    pub events: Vec<VirtioEvent>,
    /// Index of the function on the bus that was reached; an access reaches one at most.
    pub source: usize,
}

impl<'a> PciContext<'a> {
    /// A context in which nothing happened yet.
    #[must_use]
    pub const fn new(ram: &'a mut dyn GuestRam) -> Self {
        Self {
            ram,
            messages: Vec::new(),
            events: Vec::new(),
            source: 0,
        }
    }
}

/// A single-function device on the bus.
pub trait PciFunction {
    /// Reads `size` bytes (1, 2 or 4, aligned) of the first 256 of configuration space.
    fn config_read(&mut self, offset: u8, size: u8) -> u32;

    /// Writes `size` bytes (1, 2 or 4, aligned) of configuration space.
    fn config_write(&mut self, offset: u8, size: u8, value: u32, cx: &mut PciContext<'_>);

    /// The BAR that decodes `gpa` now, and the offset in it.
    fn decode(&self, gpa: u64) -> Option<(u8, u64)>;

    /// Reads `size` bytes at `offset` of a BAR.
    fn bar_read(&mut self, bar: u8, offset: u64, size: u8) -> u64;

    /// Writes `size` bytes at `offset` of a BAR.
    fn bar_write(&mut self, bar: u8, offset: u64, write: BarWrite, cx: &mut PciContext<'_>);

    /// Whether the interrupt pin is asserted.
    fn intx_level(&self) -> bool;
}

/// What is written to a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWrite {
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
    /// The value, in the low bytes.
    pub value: u64,
}
