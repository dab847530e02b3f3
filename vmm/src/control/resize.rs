//! `vm.resize-disk`.

use std::io::ErrorKind;

use api_client::types::requests::VmResizeDisk;

use super::{Control, ControlError, causes};
use crate::config::{DeviceKind, devices};
use crate::host::disk::SECTOR_SIZE;
use crate::machine::disks::MOST_DISK_BYTES;
use crate::machine::{DiskMode, MOST_VIRTIO};
use crate::vm::VmError;

const OPERATION: &str = "The disk could not be resized";

impl Control {
    /// `vm.resize-disk`: answered when the guest can see the new size, or will once it is resumed.
    ///
    /// # Errors
    /// When there is no such disk, it cannot have that size, or the VM's protection is in the way.
    pub fn resize_disk(&self, request: &VmResizeDisk) -> Result<(), ControlError> {
        let handle = self.handle(OPERATION)?;
        let config = self.lock().config.clone().unwrap_or_default();
        let settings =
            devices(&config).map_err(|error| ControlError::unusable(OPERATION, &error))?;
        let named = settings.iter().enumerate().find_map(|(index, device)| {
            let DeviceKind::Disk(disk) = &device.kind else {
                return None;
            };
            (device.id == request.id).then_some((index, disk))
        });
        let Some((index, disk)) = named.filter(|(index, _)| *index < MOST_VIRTIO) else {
            let reason = format!("there is no disk with the identifier {:?}", request.id);
            return Err(ControlError::new(404, OPERATION, vec![reason]));
        };
        let size = request.desired_size;
        let wrong = |reason: String| {
            let reason = format!("desired_size: {size} {reason}");
            Err(ControlError::request(OPERATION, reason))
        };
        if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
            return wrong(format!("is not a positive multiple of {SECTOR_SIZE}"));
        }
        if disk.mode == DiskMode::Replicated && size > MOST_DISK_BYTES {
            return wrong(format!(
                "is more than the {MOST_DISK_BYTES} bytes that a replicated disk can have"
            ));
        }
        if disk.target.read_only {
            let reason = format!("the disk {:?} is read-only", request.id);
            return Err(ControlError::request(OPERATION, reason));
        }
        handle.resize_disk(index, size).map_err(refusal)
    }
}

/// As clients see it: what the image cannot have is the request's fault, what the host cannot do is
/// not.
fn refusal(error: VmError) -> ControlError {
    let status = match &error {
        VmError::Refused(_) => 409,
        VmError::Resize(error) => match error.kind() {
            ErrorKind::InvalidInput
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::Unsupported => 400,
            _ => 500,
        },
        VmError::Gone | VmError::Address(_) => 500,
    };
    ControlError::new(status, OPERATION, causes(&error))
}
