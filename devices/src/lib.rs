//! Guest-visible hardware as deterministic state machines.
//!
//! Every device is a pure register core: it changes only by guest accesses, by inputs and by
//! [`device::Device::advance`], all of which carry the virtual time; it makes no host call, reads
//! no host clock and holds no lock. [`board::Board`] owns the devices, decodes addresses, wires
//! interrupt lines, and is what the run loop sees. [`virtio`] devices sit behind [`pci`]; memory is
//! lent to them for each access, through [`dma::GuestRam`].

pub mod board;
pub mod clock;
pub mod conformance;
pub mod device;
pub mod dma;
pub mod interrupt;
pub mod interrupt_controller;
pub mod legacy;
pub mod pci;
pub mod saved;
pub mod virtio;
