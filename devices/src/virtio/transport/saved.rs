//! Saved state of a virtio function: what it is made of, its registers, its queues, its device.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use std::fmt::Debug;

use crate::pci::bus::SLOT_COUNT;
use crate::pci::config_space::{BarWidth, ConfigSpaceState};
use crate::pci::msix::Msix;
use crate::saved::{RestoreError, SavedState, check};
use crate::virtio::device::VirtioDevice;
use crate::virtio::queue::Queue;

use super::common::Common;
use super::{BAR_SIZE, VirtioPci};

const KIND: &str = "pci-device";

/// Saved state of a virtio function whose device saves itself as `S`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtioPciStateV1<S> {
    slot: u8,
    initial_bar: u64,
    config_space: ConfigSpaceState,
    msix: Msix,
    common: Common,
    queues: Vec<Queue>,
    device: S,
}

impl<S> SavedState for VirtioPciStateV1<S>
where
    S: Serialize + DeserializeOwned + Clone + PartialEq + Debug,
{
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}

impl<D: VirtioDevice> VirtioPci<D> {
    pub(super) fn save_state(&self) -> VirtioPciStateV1<D::Saved> {
        let Self {
            slot,
            initial_bar,
            // These two follow from the configuration.
            msix_capability: _,
            access_capability: _,
            config,
            msix,
            common,
            queues,
            device,
        } = self;
        VirtioPciStateV1 {
            slot: *slot,
            initial_bar: *initial_bar,
            config_space: config.save(),
            msix: msix.clone(),
            common: common.clone(),
            queues: queues.clone(),
            device: device.save(),
        }
    }

    pub(super) fn restore_state(saved: VirtioPciStateV1<D::Saved>) -> Result<Self, RestoreError> {
        let VirtioPciStateV1 {
            slot,
            initial_bar,
            config_space,
            msix,
            common,
            queues,
            device,
        } = saved;
        let device = D::restore(device)?;
        check(usize::from(slot) < SLOT_COUNT, KIND, "slot", slot)?;
        let wide = device.identity().bar == BarWidth::Bits64;
        let reachable = wide || initial_bar <= u64::from(u32::MAX);
        check(
            reachable && initial_bar.is_multiple_of(BAR_SIZE),
            KIND,
            "initial_bar",
            initial_bar,
        )?;
        let mut function = Self::new(device, slot, initial_bar);
        function.config.restore(&config_space)?;
        msix.validate(function.msix.count())?;
        check(common.is_possible(), KIND, "common", &common)?;
        let found = queues.len();
        check(found == function.queues.len(), KIND, "queues", found)?;
        for (queue, max_size) in queues.iter().zip(function.device.queue_sizes()) {
            queue.validate(*max_size)?;
        }
        function.msix = msix;
        function.common = common;
        function.queues = queues;
        Ok(function)
    }
}
