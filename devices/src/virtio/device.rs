//! What every virtio device is, and what it may do while it is notified or given an input.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dma::GuestRam;
use crate::pci::config_space::BarWidth;
use crate::saved::RestoreError;

use super::chain::Chain;
use super::event::VirtioEvent;
use super::fault::Fault;
use super::input::{InputFailure, InputOutcome, VirtioInput};
use super::queue::Queue;

/// What a device is to the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioIdentity {
    /// For errors.
    pub name: &'static str,
    /// Virtio device type.
    pub type_id: u16,
    /// PCI class, in 24 bits.
    pub class: u32,
    /// Width of its BAR.
    pub bar: BarWidth,
}

/// A virtio device without its transport.
///
/// Order of use: features and configuration are read, `notify` and `input` follow while the driver
/// is ready, `reset` at any time. A device that returned a fault is not notified again until it is
/// reset; inputs still arrive, with [`Context::live`] false.
pub trait VirtioDevice: Clone + PartialEq + Eq + Debug {
    /// Configuration and complete state.
    type Saved: Serialize + DeserializeOwned + Clone + PartialEq + Debug;

    /// What it is.
    fn identity(&self) -> VirtioIdentity;

    /// Feature bits offered, without the transport's own.
    fn features(&self) -> u64;

    /// Whether the driver may choose this subset of the offered features.
    fn accepts(&self, features: u64) -> bool {
        let _ = features;
        true
    }

    /// The size of each queue.
    fn queue_sizes(&self) -> &'static [u16];

    /// Reads configuration at `offset`; what does not exist reads as zero.
    fn config_read(&self, offset: usize, into: &mut [u8]);

    /// The driver writes configuration.
    fn config_write(&mut self, offset: usize, bytes: &[u8]) {
        let _ = (offset, bytes);
    }

    /// The driver offers something in a queue.
    ///
    /// # Errors
    /// If the driver broke the protocol.
    fn notify(&mut self, queue: usize, cx: &mut Context<'_>) -> Result<(), Fault>;

    /// Something arrived from outside.
    ///
    /// # Errors
    /// If the driver broke the protocol, or the host side.
    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure>;

    /// The largest payload in bytes that an input of this device may have now without being
    /// refused.
    fn input_room(&self) -> usize {
        0
    }

    /// Forgets what the driver did. What the host side still works on is kept until it is done.
    fn reset(&mut self);

    /// Configuration and complete state.
    fn save(&self) -> Self::Saved;

    /// Rebuilds a device.
    ///
    /// # Errors
    /// If a field has a value that it cannot have.
    fn restore(saved: Self::Saved) -> Result<Self, RestoreError>;
}

/// Copies the part of `image` from `offset` up; zeroes beyond its end.
pub(super) fn read_image(image: &[u8], offset: usize, into: &mut [u8]) {
    let rest = image.get(offset..).unwrap_or(&[]);
    for (index, byte) in into.iter_mut().enumerate() {
        *byte = rest.get(index).copied().unwrap_or(0);
    }
}

/// What a device may use while it works.
pub struct Context<'a> {
    /// The guest's memory.
    pub ram: &'a mut dyn GuestRam,
    /// All negotiated features.
    pub features: u64,
    /// Whether the driver is ready and no fault stopped the device.
    pub live: bool,
    events: &'a mut Vec<VirtioEvent>,
    queues: &'a mut [Queue],
    /// One bit for each queue to which something was given back.
    used: u64,
    config_changed: bool,
}

impl<'a> Context<'a> {
    pub(super) const fn new(
        ram: &'a mut dyn GuestRam,
        queues: &'a mut [Queue],
        events: &'a mut Vec<VirtioEvent>,
        (features, live): (u64, bool),
    ) -> Self {
        Self {
            ram,
            features,
            live,
            events,
            queues,
            used: 0,
            config_changed: false,
        }
    }

    /// Queues with something given back, one bit each, and whether configuration changed.
    pub(super) const fn effects(&self) -> (u64, bool) {
        (self.used, self.config_changed)
    }

    /// Whether `feature`, a bit, was negotiated.
    #[must_use]
    pub const fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Emits an event.
    pub fn emit(&mut self, event: VirtioEvent) {
        self.events.push(event);
    }

    /// Says that configuration is not what it was.
    pub const fn change_config(&mut self) {
        self.config_changed = true;
    }

    /// Takes the next chain of a queue; `None` if there is none or the device is not live.
    ///
    /// # Errors
    /// If ring or chain are malformed.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain>, Fault> {
        if !self.live {
            return Ok(None);
        }
        self.queues[queue].pop(&*self.ram, self.features)
    }

    /// Puts back the last `count` chains taken.
    pub fn rewind(&mut self, queue: usize, count: usize) {
        // A queue has at most 2^15 entries.
        self.queues[queue].rewind(count as u16);
    }

    /// Gives a chain back, `len` bytes of which were written.
    ///
    /// # Errors
    /// If the ring is not memory.
    pub fn push(&mut self, queue: usize, head: u16, len: u64) -> Result<(), Fault> {
        self.used |= 1 << queue;
        // A chain has less than 4 GiB.
        self.queues[queue].push(self.ram, head, len as u32)
    }

    /// Whether all entries of the queue are offered, none of them taken.
    #[must_use]
    pub fn is_all_offered(&self, queue: usize, taken: usize) -> bool {
        let queue = &self.queues[queue];
        queue.enabled() && taken >= usize::from(queue.size())
    }

    /// Tells the driver whether to notify when it offers more.
    ///
    /// # Errors
    /// If the ring is not memory.
    pub fn want_notification(&mut self, queue: usize, wanted: bool) -> Result<(), Fault> {
        if !self.live {
            return Ok(());
        }
        self.queues[queue].want_notification(self.ram, self.features, wanted)
    }
}
