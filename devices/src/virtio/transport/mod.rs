//! Virtio over PCI: one function with MSI-X around one device.
//!
//! ```text
//! BAR 0, 512 KiB       capabilities in configuration space
//! 00000 common         40 MSI-X          5c ISR        7c notifications
//! 02000 ISR            4c common         6c device     90 access by configuration space
//! 04000 device
//! 06000 notifications, 4 bytes for each queue
//! 08000 MSI-X table    48000 MSI-X pending bits
//! ```
//!
//! Vector numbers are the driver's choice; there is one for each queue and one for configuration
//! changes. With MSI-X off, the ISR register drives the interrupt pin.
//!
//! A driver that breaks the protocol meets [`VirtioPci::fault`]: `NEEDS_RESET` is set, a
//! configuration interrupt is raised if the driver is ready, and queues are left alone until reset.
//!
//! Spec: virtio 1.2 §2.1 to §2.4, §3.1, §4.1. Deviates: transfers need no bus mastering.

mod common;
mod saved;

#[cfg(test)]
mod tests;

use crate::clock::VirtualTime;
use crate::pci::bus::gsi_of_slot;
use crate::pci::config_space::{
    COMMAND_INTX_DISABLE, COMMAND_MEMORY, ConfigSpace, PciIdentity, STATUS_INTERRUPT, STATUS_OFFSET,
};
use crate::pci::msix::{MSIX_CAPABILITY, MSIX_ENTRY_SIZE, Msix};
use crate::pci::{BarWrite, PciContext, PciFunction};

use super::device::{Context, VirtioDevice};
use super::event::VirtioEvent;
use super::fault::Fault;
use super::input::{InputError, InputFailure, InputOutcome, VirtioInput};
use super::queue::{FEATURE_EVENT_INDEX, FEATURE_INDIRECT, Queue};

use self::common::{Common, ISR_CONFIG, ISR_QUEUE};
pub use self::common::{
    FEATURE_VERSION_1, STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FEATURES_OK,
    STATUS_NEEDS_RESET,
};
pub use self::saved::VirtioPciStateV1;

/// Size of BAR 0.
pub const BAR_SIZE: u64 = 512 * 1024;
/// Offset of the common configuration in BAR 0.
pub const COMMON_OFFSET: u64 = 0;
/// Offset of the ISR status register.
pub const ISR_OFFSET: u64 = 0x2000;
/// Offset of the device's configuration.
pub const DEVICE_OFFSET: u64 = 0x4000;
/// Offset of the notification registers.
pub const NOTIFY_OFFSET: u64 = 0x6000;
/// Distance between the notification registers of two queues.
pub const NOTIFY_MULTIPLIER: u64 = 4;
/// Offset of the MSI-X table.
pub const MSIX_TABLE_OFFSET: u64 = 0x8000;
/// Offset of the MSI-X pending bits.
pub const MSIX_PENDING_OFFSET: u64 = 0x4_8000;

const REGION_SIZE: u64 = 0x1000;
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE_ID: u16 = 0x1040;
const VENDOR_CAPABILITY: u8 = 9;
const CAPABILITY_COMMON: u8 = 1;
const CAPABILITY_NOTIFY: u8 = 2;
const CAPABILITY_ISR: u8 = 3;
const CAPABILITY_DEVICE: u8 = 4;
const CAPABILITY_ACCESS: u8 = 5;

/// Offsets in the capability that gives access to the BAR.
const ACCESS_BAR: u8 = 4;
const ACCESS_OFFSET: u8 = 8;
const ACCESS_LENGTH: u8 = 12;
const ACCESS_DATA: u8 = 16;
const ACCESS_END: u8 = 20;

/// A virtio device as a PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioPci<D> {
    // Configuration.
    slot: u8,
    initial_bar: u64,
    msix_capability: u8,
    access_capability: u8,
    // State.
    config: ConfigSpace,
    msix: Msix,
    common: Common,
    queues: Vec<Queue>,
    device: D,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// `device` in `slot`, its BAR at `bar` as firmware would have put it.
    ///
    /// # Panics
    /// If `bar` is not a multiple of [`BAR_SIZE`], or too high for the device's BAR.
    #[must_use]
    pub fn new(device: D, slot: u8, bar: u64) -> Self {
        let identity = device.identity();
        let sizes = device.queue_sizes();
        let vectors = sizes.len() as u16 + 1;
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: VENDOR,
            device: FIRST_DEVICE_ID + identity.type_id,
            revision: 1,
            class: identity.class,
        });
        config.add_bar(0, BAR_SIZE, identity.bar, bar);
        config.add_interrupt_pin(gsi_of_slot(slot));
        config.set_command(COMMAND_MEMORY);
        let msix_capability = config.add_capability(MSIX_CAPABILITY, &msix_body(vectors));
        let multiplier = (NOTIFY_MULTIPLIER as u32).to_le_bytes();
        for (kind, offset, len, extra) in [
            (CAPABILITY_COMMON, COMMON_OFFSET, common::SIZE, &[][..]),
            (CAPABILITY_ISR, ISR_OFFSET, 1, &[]),
            (CAPABILITY_DEVICE, DEVICE_OFFSET, REGION_SIZE, &[]),
            (CAPABILITY_NOTIFY, NOTIFY_OFFSET, REGION_SIZE, &multiplier),
        ] {
            let body = virtio_body(kind, offset, len, extra);
            config.add_capability(VENDOR_CAPABILITY, &body);
        }
        let access = virtio_body(CAPABILITY_ACCESS, 0, 0, &[0; 4]);
        let access_capability = config.add_capability(VENDOR_CAPABILITY, &access);
        Self {
            slot,
            initial_bar: bar,
            msix_capability,
            access_capability,
            config,
            msix: Msix::new(vectors),
            common: Common::default(),
            queues: sizes.iter().map(|size| Queue::new(*size)).collect(),
            device,
        }
    }

    /// The device behind the transport.
    #[must_use]
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// Its slot on the bus.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        self.slot
    }

    /// The fault that stopped the device, if one did.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.common.fault
    }

    /// The negotiated features, once the driver is ready.
    #[must_use]
    pub fn driver_features(&self) -> Option<u64> {
        self.is_live().then_some(self.common.driver_features)
    }

    /// Puts the function in its power-on state.
    pub fn power_on_reset(&mut self) {
        let mut device = self.device.clone();
        device.reset();
        *self = Self::new(device, self.slot, self.initial_bar);
    }

    /// An input to the device.
    ///
    /// # Errors
    /// If the host side is wrong about the device.
    pub fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut PciContext<'_>,
    ) -> Result<InputOutcome, InputError> {
        match self.work(cx, |device, context| device.input(input, context)) {
            Ok(outcome) => Ok(outcome),
            Err(InputFailure::Fault(_)) => Ok(InputOutcome::Faulted),
            Err(InputFailure::Error(error)) => Err(error),
        }
    }

    fn is_live(&self) -> bool {
        self.common.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | FEATURE_VERSION_1 | FEATURE_INDIRECT | FEATURE_EVENT_INDEX
    }

    /// Lets the device work, then raises the interrupts that follow.
    fn work<R>(
        &mut self,
        cx: &mut PciContext<'_>,
        act: impl FnOnce(&mut D, &mut Context<'_>) -> Result<R, InputFailure>,
    ) -> Result<R, InputFailure> {
        let (features, live) = (self.common.driver_features, self.is_live());
        let mut context = Context::new(
            &mut *cx.ram,
            &mut self.queues,
            &mut cx.events,
            (features, live),
        );
        let result = act(&mut self.device, &mut context);
        let (used, config_changed) = context.effects();
        for queue in (0..self.queues.len()).filter(|queue| used & 1 << queue != 0) {
            match self.queues[queue].wants_interrupt(&*cx.ram, features) {
                Ok(true) => self.raise(self.queues[queue].vector, ISR_QUEUE, cx),
                Ok(false) => {}
                Err(fault) => self.fail(fault, cx),
            }
        }
        if config_changed {
            self.common.config_generation = self.common.config_generation.wrapping_add(1);
            if self.is_live() {
                self.raise(self.common.config_vector, ISR_CONFIG, cx);
            }
        }
        if let Err(InputFailure::Fault(fault)) = &result {
            self.fail(*fault, cx);
        }
        result
    }

    fn notify(&mut self, queue: usize, cx: &mut PciContext<'_>) {
        let enabled = self.queues.get(queue).is_some_and(Queue::enabled);
        if !self.is_live() || !enabled {
            return;
        }
        // A fault is recorded where it happens.
        let _ = self.work(cx, |device, context| Ok(device.notify(queue, context)?));
    }

    fn raise(&mut self, vector: u16, isr: u8, cx: &mut PciContext<'_>) {
        if self.msix.enabled() {
            cx.messages.extend(self.msix.fire(vector));
        } else {
            self.common.isr |= isr;
        }
    }

    /// The driver broke the protocol: only the first time counts.
    fn fail(&mut self, fault: Fault, cx: &mut PciContext<'_>) {
        if self.common.fault.is_some() {
            return;
        }
        self.common.fault = Some(fault);
        self.common.status |= STATUS_NEEDS_RESET;
        cx.events.push(VirtioEvent::Fault(fault));
        if self.common.status & STATUS_DRIVER_OK != 0 {
            self.raise(self.common.config_vector, ISR_CONFIG, cx);
        }
    }

    /// The driver gives the device up. PCI state stays, interrupt vectors are forgotten.
    fn reset_device(&mut self, cx: &mut PciContext<'_>) {
        if self.common.status != 0 {
            cx.events.push(VirtioEvent::DeviceReset);
        }
        self.common = Common {
            access: self.common.access,
            ..Common::default()
        };
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device.reset();
    }

    fn wants_interrupt_pin(&self) -> bool {
        self.common.isr != 0 && !self.msix.enabled()
    }

    /// One byte of configuration space, with what is not kept there.
    fn config_byte(&self, at: u8) -> u8 {
        let byte = self.config.read(at, 1) as u8;
        if at == STATUS_OFFSET && self.wants_interrupt_pin() {
            return byte | STATUS_INTERRUPT;
        }
        if at == self.msix_capability + 3 {
            return byte | self.msix.control();
        }
        let access = &self.common.access;
        match at.checked_sub(self.access_capability) {
            Some(ACCESS_BAR) => access.bar,
            Some(offset @ ACCESS_OFFSET..ACCESS_LENGTH) => {
                access.offset.to_le_bytes()[usize::from(offset - ACCESS_OFFSET)]
            }
            Some(offset @ ACCESS_LENGTH..ACCESS_DATA) => {
                access.length.to_le_bytes()[usize::from(offset - ACCESS_LENGTH)]
            }
            _ => byte,
        }
    }

    fn write_config_byte(&mut self, at: u8, value: u8, cx: &mut PciContext<'_>) {
        if at == self.msix_capability + 3 {
            self.msix.set_control(value, &mut cx.messages);
            return;
        }
        let access = &mut self.common.access;
        match at.checked_sub(self.access_capability) {
            Some(ACCESS_BAR) => access.bar = value,
            Some(offset @ ACCESS_OFFSET..ACCESS_LENGTH) => {
                set_byte(&mut access.offset, offset - ACCESS_OFFSET, value);
            }
            Some(offset @ ACCESS_LENGTH..ACCESS_DATA) => {
                set_byte(&mut access.length, offset - ACCESS_LENGTH, value);
            }
            _ => self.config.write(at, 1, u32::from(value)),
        }
    }

    /// Where in the BAR an access of `size` bytes at `at` goes, if it is one through the window.
    fn access_target(&self, at: u8, size: u8) -> Option<u64> {
        let access = &self.common.access;
        let data = self.access_capability + ACCESS_DATA;
        let usable = access.bar == 0
            && access.length == u32::from(size)
            && access.offset.is_multiple_of(access.length)
            && u64::from(access.offset) < BAR_SIZE;
        (at == data && usable).then_some(u64::from(access.offset))
    }
}

impl<D: VirtioDevice> PciFunction for VirtioPci<D> {
    fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        if let Some(target) = self.access_target(offset, size) {
            return self.bar_read(0, target, size) as u32;
        }
        (0..size).fold(0, |value, index| {
            let byte = self.config_byte(offset.wrapping_add(index));
            value | u32::from(byte) << (8 * index)
        })
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32, cx: &mut PciContext<'_>) {
        if let Some(target) = self.access_target(offset, size) {
            let value = u64::from(value);
            self.bar_write(0, target, BarWrite { size, value }, cx);
            return;
        }
        for (index, byte) in (0..size).zip(value.to_le_bytes()) {
            self.write_config_byte(offset.wrapping_add(index), byte, cx);
        }
    }

    fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
        self.config.decode(gpa)
    }

    fn bar_read(&mut self, _bar: u8, offset: u64, size: u8) -> u64 {
        let size = size.min(8);
        let mut bytes = [0; 8];
        let part = &mut bytes[..usize::from(size)];
        match Region::of(offset, self.msix.count()) {
            Some((Region::Common, at)) => self.read_common(at, part),
            Some((Region::Isr, 0)) => {
                bytes[0] = std::mem::take(&mut self.common.isr);
            }
            Some((Region::Device, at)) => self.device.config_read(at as usize, part),
            Some((Region::MsixTable, at)) => return self.msix.read_table(at, size),
            Some((Region::MsixPending, at)) => return self.msix.read_pending(at, size),
            Some((Region::Isr | Region::Notify, _)) | None => {}
        }
        u64::from_le_bytes(bytes)
    }

    fn bar_write(&mut self, _bar: u8, offset: u64, write: BarWrite, cx: &mut PciContext<'_>) {
        let BarWrite { size, value } = write;
        let size = size.min(8);
        match Region::of(offset, self.msix.count()) {
            Some((Region::Common, at)) => self.write_common(at, BarWrite { size, value }, cx),
            Some((Region::Device, at)) => {
                let bytes = value.to_le_bytes();
                let part = &bytes[..usize::from(size)];
                self.device.config_write(at as usize, part);
            }
            Some((Region::Notify, at)) if at.is_multiple_of(NOTIFY_MULTIPLIER) => {
                self.notify((at / NOTIFY_MULTIPLIER) as usize, cx);
            }
            Some((Region::MsixTable, at)) => {
                self.msix.write_table(at, size, value, &mut cx.messages);
            }
            Some((Region::Isr | Region::Notify | Region::MsixPending, _)) | None => {}
        }
    }

    fn intx_level(&self) -> bool {
        self.wants_interrupt_pin() && self.config.command() & COMMAND_INTX_DISABLE == 0
    }
}

/// The parts of BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Region {
    fn of(offset: u64, vectors: u16) -> Option<(Self, u64)> {
        let table = MSIX_ENTRY_SIZE * u64::from(vectors);
        let regions = [
            (Self::Common, COMMON_OFFSET, common::SIZE),
            (Self::Isr, ISR_OFFSET, 1),
            (Self::Device, DEVICE_OFFSET, REGION_SIZE),
            (Self::Notify, NOTIFY_OFFSET, REGION_SIZE),
            (Self::MsixTable, MSIX_TABLE_OFFSET, table),
            (Self::MsixPending, MSIX_PENDING_OFFSET, REGION_SIZE),
        ];
        regions.into_iter().find_map(|(region, start, len)| {
            let at = offset.checked_sub(start)?;
            (at < len).then_some((region, at))
        })
    }
}

const fn set_byte(word: &mut u32, index: u8, value: u8) {
    let shift = 8 * index as u32;
    *word = *word & !(0xff << shift) | (value as u32) << shift;
}

/// Message control, table and pending bits; both are in BAR 0.
fn msix_body(vectors: u16) -> Vec<u8> {
    let mut body = (vectors - 1).to_le_bytes().to_vec();
    body.extend((MSIX_TABLE_OFFSET as u32).to_le_bytes());
    body.extend((MSIX_PENDING_OFFSET as u32).to_le_bytes());
    body
}

/// A virtio capability from its length byte on.
fn virtio_body(kind: u8, offset: u64, len: u64, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + extra.len() as u8, kind, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((len as u32).to_le_bytes());
    body.extend(extra);
    body
}

const _: () = assert!(ACCESS_END == 20 && BAR_SIZE > MSIX_PENDING_OFFSET + REGION_SIZE);

impl<D: VirtioDevice> crate::device::Device for VirtioPci<D> {
    type Saved = VirtioPciStateV1<D::Saved>;

    fn reset(&mut self, _now: VirtualTime) {
        self.power_on_reset();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> Self::Saved {
        self.save_state()
    }

    fn restore(saved: Self::Saved) -> Result<Self, crate::saved::RestoreError> {
        Self::restore_state(saved)
    }
}
