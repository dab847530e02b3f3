//! PCI on the board: addresses, interrupts, and the inputs and events of virtio devices.
//!
//! ```text
//! 0cf8-0cff            configuration address and data
//! c0000000..e8000000   32-bit BARs; the guest's memory ends at or below
//! e8000000..e8100000   ECAM of bus 0
//! [`window_64`]        64-bit BARs, at the top of the guest-physical space
//! ```
//!
//! BARs are decoded where the guest put them last, inside the windows or not; the local APIC, the
//! IOAPIC and ECAM come first. The initial ones follow from the list of devices alone. A board
//! without PCI devices has no bus, no host bridge and no ECAM.

use std::ops::Range;

use crate::clock::VirtualTime;
use crate::dma::GuestRam;
use crate::pci::bus::{CONFIG_ADDRESS_PORT, ECAM_BUS_SIZE, PciBus};
use crate::pci::config_space::BarWidth;
use crate::pci::{BarWrite, PciContext};
use crate::virtio::any::{AnyVirtio, VirtioConfig};
use crate::virtio::device::VirtioDevice;
use crate::virtio::event::VirtioEvent;
use crate::virtio::fault::Fault;
use crate::virtio::input::{InputError, InputOutcome, VirtioInput};
use crate::virtio::transport::{BAR_SIZE, VirtioPci};

use super::{Board, DeviceEvent};

/// First address of ECAM; the tables' MCFG names it, with bus 0 only.
pub const ECAM_BASE: u64 = 0xe800_0000;
/// Bytes of ECAM.
pub const ECAM_SIZE: u64 = ECAM_BUS_SIZE;
/// The window for 32-bit BARs.
pub const WINDOW_32: Range<u64> = 0xc000_0000..ECAM_BASE;

const LAST_CONFIG_PORT: u16 = CONFIG_ADDRESS_PORT + 7;
const WINDOW_64_MAX: u64 = 64 << 30;

/// The window for 64-bit BARs of a machine with such an address width: the last 64 GiB, or the last
/// quarter if that is less. The guest's memory ends at or below its start.
#[must_use]
pub const fn window_64(phys_address_bits: u8) -> Range<u64> {
    let end = 1 << phys_address_bits;
    let quarter = end / 4;
    let size = if quarter < WINDOW_64_MAX {
        quarter
    } else {
        WINDOW_64_MAX
    };
    end - size..end
}

/// The bus with its virtio devices.
pub(super) type Bus = PciBus<VirtioPci<AnyVirtio>>;

/// The bus for `devices`, BARs assigned; `None` for none.
///
/// # Panics
/// If there are more than 31, or one has a configuration that its type does not allow.
pub(super) fn make_bus(devices: &[VirtioConfig], phys_address_bits: u8) -> Option<Bus> {
    if devices.is_empty() {
        return None;
    }
    let mut next_32 = WINDOW_32.start;
    let mut next_64 = window_64(phys_address_bits).start;
    let functions = devices.iter().zip(1..).map(|(config, slot)| {
        let device = AnyVirtio::new(*config);
        let next = match device.identity().bar {
            BarWidth::Bits32 => &mut next_32,
            BarWidth::Bits64 => &mut next_64,
        };
        let bar = *next;
        *next += BAR_SIZE;
        VirtioPci::new(device, slot, bar)
    });
    Some(PciBus::new(functions.collect()))
}

/// Whether `port` belongs to the configuration mechanism.
pub(super) const fn is_config_port(port: u16) -> bool {
    port >= CONFIG_ADDRESS_PORT && port <= LAST_CONFIG_PORT
}

/// Who answers at an address.
#[derive(Clone, Copy)]
enum Target {
    Ecam(u64),
    Bar((usize, u8, u64)),
}

impl Board {
    /// Virtio devices, which are numbered in the order of the configuration.
    #[must_use]
    pub fn virtio_count(&self) -> usize {
        self.functions().len()
    }

    /// A virtio device.
    #[must_use]
    pub fn virtio_device(&self, index: usize) -> Option<&AnyVirtio> {
        self.functions().get(index).map(VirtioPci::device)
    }

    /// The features that the driver of a device negotiated; `None` while it is not ready.
    #[must_use]
    pub fn virtio_features(&self, index: usize) -> Option<u64> {
        self.functions().get(index)?.driver_features()
    }

    /// The fault that stopped a device until its reset, if one did.
    #[must_use]
    pub fn virtio_fault(&self, index: usize) -> Option<Fault> {
        self.functions().get(index)?.fault()
    }

    /// Bytes of the largest payload that an input of the device may have now without being refused.
    #[must_use]
    pub fn virtio_input_room(&self, index: usize) -> usize {
        self.virtio_device(index)
            .map_or(0, VirtioDevice::input_room)
    }

    /// The requests of all virtio devices that the host side was given and did not answer, each
    /// device's in order. A host side that takes over issues them again; all can be repeated.
    #[must_use]
    pub fn virtio_unanswered(&self) -> Vec<DeviceEvent> {
        let functions = self.functions().iter().enumerate();
        let events = functions.flat_map(|(device, function)| {
            let events = function.device().unanswered().into_iter();
            events.map(move |event| DeviceEvent { device, event })
        });
        events.collect()
    }

    /// An input to a virtio device.
    ///
    /// # Errors
    /// If there is no such device, or it cannot be given this.
    pub fn virtio_input(
        &mut self,
        index: usize,
        input: VirtioInput,
        ram: &mut dyn GuestRam,
        now: VirtualTime,
    ) -> Result<InputOutcome, InputError> {
        self.advance(now);
        let mut cx = PciContext::new(ram);
        cx.source = index;
        let functions = self.pci.as_mut().map(Bus::functions_mut);
        let function = functions.and_then(|functions| functions.get_mut(index));
        let missing = InputError::NoSuchDevice { index };
        let result = function.ok_or(missing)?.input(input, &mut cx);
        self.finish_pci(cx);
        result
    }

    /// An event for each device whose driver is ready, that it is given up.
    pub(super) fn ready_devices(&self) -> Vec<DeviceEvent> {
        let functions = self.functions().iter().enumerate();
        let ready = functions.filter(|(_, function)| function.driver_features().is_some());
        let events = ready.map(|(device, _)| DeviceEvent {
            device,
            event: VirtioEvent::DeviceReset,
        });
        events.collect()
    }

    fn functions(&self) -> &[VirtioPci<AnyVirtio>] {
        self.pci.as_ref().map_or(&[], Bus::functions)
    }

    pub(super) fn pci_port_read(&mut self, port: u16, size: u8) -> Option<u32> {
        let value = self.pci.as_mut()?.port_read(port, size)?;
        self.poll_pci();
        Some(value)
    }

    pub(super) fn pci_port_write(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        ram: &mut dyn GuestRam,
    ) -> Option<()> {
        let mut cx = PciContext::new(ram);
        self.pci.as_mut()?.port_write(port, size, value, &mut cx)?;
        self.finish_pci(cx);
        Some(())
    }

    pub(super) fn pci_mmio_read(&mut self, gpa: u64, size: u8) -> Option<u64> {
        let bus = self.pci.as_mut()?;
        let value = match target(bus, gpa)? {
            Target::Ecam(offset) => bus.ecam_read(offset, size),
            Target::Bar((index, bar, offset)) => bus.bar_read(index, bar, offset, size)?,
        };
        self.poll_pci();
        Some(value)
    }

    pub(super) fn pci_mmio_write(
        &mut self,
        gpa: u64,
        size: u8,
        value: u64,
        ram: &mut dyn GuestRam,
    ) -> Option<()> {
        let bus = self.pci.as_mut()?;
        let mut cx = PciContext::new(ram);
        match target(bus, gpa)? {
            Target::Ecam(offset) => bus.ecam_write(offset, size, value, &mut cx),
            Target::Bar(target) => bus.bar_write(target, BarWrite { size, value }, &mut cx),
        }
        self.finish_pci(cx);
        Some(())
    }

    /// Delivers the messages of an access and keeps its events.
    fn finish_pci(&mut self, cx: PciContext<'_>) {
        let PciContext {
            ram: _,
            messages,
            events,
            source: device,
        } = cx;
        for message in messages {
            // A message that no local APIC takes has no effect.
            self.deliver_msi(message.address, message.data);
        }
        let events = events
            .into_iter()
            .map(|event: VirtioEvent| DeviceEvent { device, event });
        self.events.virtio.extend(events);
        self.poll_pci();
    }

    fn poll_pci(&mut self) {
        if let Some(bus) = &self.pci {
            for (gsi, level) in bus.line_levels() {
                self.drive_pin(gsi, level);
            }
        }
    }
}

fn target(bus: &Bus, gpa: u64) -> Option<Target> {
    match gpa.checked_sub(ECAM_BASE) {
        Some(offset) if offset < ECAM_SIZE => Some(Target::Ecam(offset)),
        _ => bus.decode(gpa).map(Target::Bar),
    }
}
