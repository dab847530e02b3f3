//! Disks that are being resized.
//!
//! ```text
//!   command ──▶ image (host's queue) ──▶ input in line ──▶ taken at a logical time: answered
//!                     └──▶ cannot: answered
//! ```
//!
//! The image has the new size before the guest hears of it, behind all requests that the guest
//! made before. A shrinking disk therefore fails requests past its end for a moment, and a growing
//! one never promises what is not there.
//!
//! A disk that is a part of its machine decides what pages the machine has, and what a backup is
//! told when it is to make the same machine. So such a disk keeps its size while there is a backup,
//! no disk changes while a clone is made, and no clone begins before a resize has its end.

use std::collections::BTreeMap;
use std::io;

use devices::virtio::any::VirtioConfig;

use super::{Reply, VmError};
use crate::machine::{DiskMode, MachineConfig};

fn refused(text: String) -> VmError {
    VmError::Refused(text)
}

/// Whether a disk may be resized while protection stands as it does.
///
/// # Errors
/// If not.
pub(super) fn check(
    config: &MachineConfig,
    device: usize,
    protection: &str,
) -> Result<(), VmError> {
    let spec = config.virtio.get(device);
    let Some(spec) = spec.filter(|spec| matches!(spec.config, VirtioConfig::Block(_))) else {
        return Err(refused(format!("device {device} is no disk")));
    };
    match (protection, spec.disk) {
        ("unprotected", _) | ("protected" | "repairing", DiskMode::Outside) => Ok(()),
        (state, DiskMode::Replicated) => Err(refused(format!(
            "the VM is {state} and the disk is replicated: end the protection with ft-stop, \
             resize the disk, and protect the VM again"
        ))),
        (state, DiskMode::Outside) => Err(refused(format!(
            "the VM is {state}: resize the disk when it is protected, or end the protection with \
             ft-stop"
        ))),
    }
}

/// A disk whose guest does not know its size yet.
struct Resize {
    /// What the image has, once it has it.
    sectors: Option<u64>,
    /// Who asked, until that is answered.
    reply: Option<Reply<()>>,
}

impl Resize {
    // An asker that has gone away needs no answer.
    fn answer(&mut self, answer: Result<(), VmError>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(answer);
        }
    }
}

/// The disks that are being resized, by the index of the device.
#[derive(Default)]
pub(super) struct Resizes(BTreeMap<usize, Resize>);

impl Resizes {
    /// Refuses to begin what has to wait for the end of a resize.
    ///
    /// # Errors
    /// If there is one.
    pub(super) fn check_none(&self) -> Result<(), VmError> {
        match self.0.first_key_value() {
            None => Ok(()),
            Some((device, _)) => Err(refused(format!(
                "the disk of device {device} is being resized; a paused VM has to be resumed for it"
            ))),
        }
    }

    /// The image of a disk is being resized.
    pub(super) fn begin(&mut self, device: usize, reply: Reply<()>) {
        let resize = Resize {
            sectors: None,
            reply: Some(reply),
        };
        self.0.insert(device, resize);
    }

    /// What came of it: the sectors that the guest is to be told of, if there is something to tell.
    pub(super) fn ended(&mut self, device: usize, result: io::Result<u64>) -> Option<u64> {
        match result {
            Ok(sectors) => {
                if let Some(resize) = self.0.get_mut(&device) {
                    resize.sectors = Some(sectors);
                }
                Some(sectors)
            }
            Err(error) => {
                if let Some(mut resize) = self.0.remove(&device) {
                    resize.answer(Err(VmError::Resize(error)));
                }
                None
            }
        }
    }

    /// Answers for disks whose guest knows now, or cannot know because it is paused.
    pub(super) fn settle(&mut self, config: &MachineConfig, paused: bool) {
        self.0.retain(|&device, resize| {
            let Some(sectors) = resize.sectors else {
                return true;
            };
            let seen = config.virtio.get(device).is_none_or(
                |spec| !matches!(spec.config, VirtioConfig::Block(b) if b.sectors != sectors),
            );
            if seen || paused {
                resize.answer(Ok(()));
            }
            !seen
        });
    }

    /// Another host goes on with the machine.
    pub(super) fn abandon(&mut self) {
        for mut resize in std::mem::take(&mut self.0).into_values() {
            let text = "the machine has gone on elsewhere before its disk was resized";
            resize.answer(Err(refused(text.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests;
