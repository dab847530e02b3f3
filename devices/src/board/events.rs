//! What leaves the board: outputs and requests.

use crate::interrupt::InterruptMessage;
use crate::interrupt_controller::lapic::CpuSignal;
use crate::legacy::acpi_pm::PowerRequest;
use crate::virtio::event::VirtioEvent;

/// Something that left a virtio device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEvent {
    /// Index of the device in the board's configuration.
    pub device: usize,
    /// What it was.
    pub event: VirtioEvent,
}

/// What left the board since it was last asked, each list in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoardEvents {
    /// Bytes sent by the serial port.
    pub serial: Vec<u8>,
    /// Bytes written to the debug console and to firmware's debug port.
    pub debug: Vec<u8>,
    /// The first request to switch off or reset.
    pub power: Option<PowerRequest>,
    /// NMI, SMI, INIT and start-up messages for this processor.
    pub signals: Vec<CpuSignal>,
    /// Inter-processor interrupts that address other processors too, or only them.
    pub ipis: Vec<InterruptMessage>,
    /// Outputs and requests of virtio devices.
    pub virtio: Vec<DeviceEvent>,
}

impl BoardEvents {
    /// Whether nothing happened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let Self {
            serial,
            debug,
            power,
            signals,
            ipis,
            virtio,
        } = self;
        serial.is_empty()
            && debug.is_empty()
            && power.is_none()
            && signals.is_empty()
            && ipis.is_empty()
            && virtio.is_empty()
    }
}
