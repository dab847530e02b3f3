//! `vm.snapshot` and `vm.restore`: the VM into a folder, and out of it.

use api_client::types::VmConfig;
use api_client::types::requests::{RestoreConfig, VmSnapshotConfig};

use super::arrival::Arrival;
use super::departure::AWAY;
use super::{Control, ControlError};
use crate::api::state::Phase;
use crate::config::{DeviceKind, devices};
use crate::machine::MachineConfig;
use crate::migration::description::disk_bytes;
use crate::migration::restore::{modified_ns, restore};
use crate::migration::snapshot::{DiskFacts, SnapshotError, folder, take};

const SNAPSHOT: &str = "The VM could not be snapshotted";
const RESTORE: &str = "The VM could not be restored";

/// What is to be known of the disks of a VM that runs here, whose configuration is therefore right.
fn disk_facts(vm: &VmConfig, machine: &MachineConfig) -> Vec<DiskFacts> {
    let settings = devices(vm).unwrap_or_default();
    let facts = disk_bytes(machine).filter_map(|(index, bytes)| {
        let device = settings.get(index)?;
        let DeviceKind::Disk(disk) = &device.kind else {
            return None;
        };
        Some(DiskFacts {
            id: device.id.clone(),
            bytes,
            modified_ns: modified_ns(&disk.target.path),
            path: disk.target.path.clone(),
        })
    });
    facts.collect()
}

impl Control {
    /// `vm.snapshot`.
    ///
    /// # Errors
    /// When the VM is not paused, or the files cannot be made.
    pub fn snapshot(&self, request: &VmSnapshotConfig) -> Result<(), ControlError> {
        let unusable = |error: &SnapshotError| ControlError::unusable(SNAPSHOT, error);
        let folder = folder(&request.destination_url).map_err(|error| unusable(&error))?;
        let handle = self.handle(SNAPSHOT)?;
        let vm = {
            let state = self.lock();
            if state.phase() != Phase::Paused {
                return Err(ControlError::state(SNAPSHOT, "VM is not paused"));
            }
            if state.running.as_ref().is_some_and(|running| running.away) {
                return Err(ControlError::state(SNAPSHOT, AWAY));
            }
            state.config.clone().unwrap_or_default()
        };
        self.event("snapshotting");
        let known = vm.clone();
        let disks = move |machine: &MachineConfig| disk_facts(&known, machine);
        let outline = handle.begin_copy();
        let outline = outline.map_err(|error| ControlError::failed(SNAPSHOT, &error))?;
        let taken = take((handle.as_ref(), outline), vm, disks, &folder);
        if let Err(error) = handle.return_to_host() {
            log::error!("the machine was not given back after a snapshot: {error}");
        }
        taken.map_err(|error| unusable(&error))?;
        self.event("snapshotted");
        Ok(())
    }

    /// `vm.restore`.
    ///
    /// # Errors
    /// When there is a VM, or the snapshot cannot be used; there is no VM then.
    pub fn restore(&self, request: &RestoreConfig) -> Result<(), ControlError> {
        let folder = folder(&request.source_url);
        let folder = folder.map_err(|error| ControlError::unusable(RESTORE, &error))?;
        let cancel = self.begin_arrival(RESTORE, false)?;
        self.event("restoring");
        let mut arrival = Arrival::new(self, cancel, request.hypervisor);
        let restored = restore(&folder, &mut arrival, request.resume);
        self.lock().arriving = None;
        restored.map_err(|error| ControlError::unusable(RESTORE, &error))?;
        self.event("restored");
        Ok(())
    }
}
