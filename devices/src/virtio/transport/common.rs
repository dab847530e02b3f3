//! The common configuration: features, status, queues.
//!
//! ```text
//! status: 0 ─▶ ACKNOWLEDGE ─▶ DRIVER ─▶ FEATURES_OK ─▶ DRIVER_OK      any ─▶ write 0 ─▶ 0
//!                              (refused: the bit stays off)  └▶ queues are looked at once
//! ```
//!
//! Bits of the status only come on; only zero takes them off. Features cannot be changed once they
//! are agreed on, nor a queue once it is enabled.
//!
//! Spec: virtio 1.2 §2.1, §2.2, §3.1.1, §4.1.4.3. Reads may have any size and offset; a write that
//! is not one register, or one half of a 64-bit register, is ignored.

use serde::{Deserialize, Serialize};

use crate::pci::{BarWrite, PciContext};
use crate::virtio::device::VirtioDevice;
use crate::virtio::event::VirtioEvent;
use crate::virtio::fault::Fault;
use crate::virtio::queue::{NO_VECTOR, Ring};

use super::VirtioPci;

/// Feature bit: not a legacy device.
pub const FEATURE_VERSION_1: u64 = 1 << 32;
/// Status: the guest found the device.
pub const STATUS_ACKNOWLEDGE: u8 = 1;
/// Status: it has a driver for it.
pub const STATUS_DRIVER: u8 = 2;
/// Status: the driver is ready.
pub const STATUS_DRIVER_OK: u8 = 4;
/// Status: features are agreed on.
pub const STATUS_FEATURES_OK: u8 = 8;
/// Status: a fault stopped the device.
pub const STATUS_NEEDS_RESET: u8 = 64;
const STATUS_FAILED: u8 = 128;
/// The bits that the driver can set.
const STATUS_OF_DRIVER: u8 =
    STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED;

/// ISR bit: a queue.
pub(super) const ISR_QUEUE: u8 = 1;
/// ISR bit: configuration.
pub(super) const ISR_CONFIG: u8 = 2;
/// Bytes of the common configuration.
pub(super) const SIZE: u64 = 0x38;

/// The registers that belong to no queue. All of it is state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Common {
    pub(super) status: u8,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) config_vector: u16,
    pub(super) queue_select: u16,
    pub(super) isr: u8,
    pub(super) config_generation: u8,
    pub(super) access: Access,
    pub(super) fault: Option<Fault>,
}

/// The window through which configuration space reaches the BAR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access {
    pub(super) bar: u8,
    pub(super) offset: u32,
    pub(super) length: u32,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            status: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            isr: 0,
            config_generation: 0,
            access: Access::default(),
            fault: None,
        }
    }
}

impl Common {
    /// Whether a decoded state is one that the registers can have.
    pub(super) const fn is_possible(&self) -> bool {
        let faulted = self.status & STATUS_NEEDS_RESET != 0;
        self.status & !(STATUS_OF_DRIVER | STATUS_NEEDS_RESET) == 0
            && self.isr & !(ISR_QUEUE | ISR_CONFIG) == 0
            && faulted == self.fault.is_some()
    }
}

/// Half of `features` that a selector shows.
const fn feature_word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// Replaces one half of a 64-bit register.
const fn with_half(word: u64, high: bool, value: u64) -> u64 {
    let value = value & 0xffff_ffff;
    if high {
        word & 0xffff_ffff | value << 32
    } else {
        word & !0xffff_ffff | value
    }
}

impl<D: VirtioDevice> VirtioPci<D> {
    pub(super) fn read_common(&self, offset: u64, into: &mut [u8]) {
        let image = self.common_image();
        crate::virtio::device::read_image(&image, offset as usize, into);
    }

    fn common_image(&self) -> [u8; SIZE as usize] {
        let mut image = [0; SIZE as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let common = &self.common;
        let offered = feature_word(self.offered_features(), common.device_feature_select);
        let accepted = feature_word(common.driver_features, common.driver_feature_select);
        put(0x00, &common.device_feature_select.to_le_bytes());
        put(0x04, &offered.to_le_bytes());
        put(0x08, &common.driver_feature_select.to_le_bytes());
        put(0x0c, &accepted.to_le_bytes());
        put(0x10, &common.config_vector.to_le_bytes());
        put(0x12, &(self.queues.len() as u16).to_le_bytes());
        put(0x14, &[common.status, common.config_generation]);
        put(0x16, &common.queue_select.to_le_bytes());
        // A queue that does not exist has size zero.
        if let Some(queue) = self.queues.get(usize::from(common.queue_select)) {
            put(0x18, &queue.size().to_le_bytes());
            put(0x1a, &queue.vector.to_le_bytes());
            put(0x1c, &u16::from(queue.enabled()).to_le_bytes());
            put(0x1e, &common.queue_select.to_le_bytes());
            put(0x20, &queue.ring(Ring::Descriptors).to_le_bytes());
            put(0x28, &queue.ring(Ring::Available).to_le_bytes());
            put(0x30, &queue.ring(Ring::Used).to_le_bytes());
        }
        image
    }

    pub(super) fn write_common(&mut self, offset: u64, write: BarWrite, cx: &mut PciContext<'_>) {
        let BarWrite { size, value } = write;
        match (offset, size) {
            (0x00, 4) => self.common.device_feature_select = value as u32,
            (0x08, 4) => self.common.driver_feature_select = value as u32,
            (0x0c, 4) => self.write_features(value),
            (0x10, 2) => self.common.config_vector = self.existing_vector(value as u16),
            (0x14, 1) => self.write_status(value as u8, cx),
            (0x16, 2) => self.common.queue_select = value as u16,
            _ => self.write_queue(offset, write, cx),
        }
    }

    fn write_features(&mut self, value: u64) {
        let high = match self.common.driver_feature_select {
            0 => false,
            1 => true,
            _ => return,
        };
        if self.common.status & STATUS_FEATURES_OK == 0 {
            let features = with_half(self.common.driver_features, high, value);
            self.common.driver_features = features;
        }
    }

    fn write_queue(&mut self, offset: u64, write: BarWrite, cx: &mut PciContext<'_>) {
        let BarWrite { size, value } = write;
        let select = self.common.queue_select;
        let vector = self.existing_vector(value as u16);
        let Some(queue) = self.queues.get_mut(usize::from(select)) else {
            return;
        };
        let result = match (offset, size) {
            (0x18, 2) => queue.set_size(select, value as u16),
            (0x1a, 2) => {
                queue.vector = vector;
                Ok(())
            }
            (0x1c, 2) if value as u16 == 1 => queue.enable(&*cx.ram),
            (0x20..=0x34, 4 | 8) => {
                let ring = match offset & 0x38 {
                    0x20 => Ring::Descriptors,
                    0x28 => Ring::Available,
                    _ => Ring::Used,
                };
                let old = queue.ring(ring);
                match (offset & 7, size) {
                    (0, 8) => queue.set_ring(ring, value),
                    (0, 4) => queue.set_ring(ring, with_half(old, false, value)),
                    (4, 4) => queue.set_ring(ring, with_half(old, true, value)),
                    _ => {}
                }
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(fault) = result {
            self.fail(fault, cx);
        }
    }

    /// `vector`, or none if there is no such vector; the driver reads back which.
    const fn existing_vector(&self, vector: u16) -> u16 {
        if vector < self.msix.count() {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn write_status(&mut self, value: u8, cx: &mut PciContext<'_>) {
        if value == 0 {
            self.reset_device(cx);
            return;
        }
        let old = self.common.status;
        let mut new = old | value & STATUS_OF_DRIVER;
        let features = self.common.driver_features;
        let agreed = features & !self.offered_features() == 0
            && features & FEATURE_VERSION_1 != 0
            && self.device.accepts(features);
        if old & STATUS_FEATURES_OK == 0 && !agreed {
            new &= !STATUS_FEATURES_OK;
        }
        let too_early = new & STATUS_DRIVER_OK != 0 && new & STATUS_FEATURES_OK == 0;
        if too_early {
            new &= !STATUS_DRIVER_OK;
        }
        self.common.status = new;
        if too_early {
            self.fail(Fault::DriverOkTooEarly, cx);
        }
        if (old ^ new) & STATUS_DRIVER_OK != 0 && self.is_live() {
            cx.events.push(VirtioEvent::DriverReady { features });
            // Drivers may fill queues, and notify, before they say that they are ready.
            for queue in 0..self.queues.len() {
                self.notify(queue, cx);
            }
        }
    }
}
