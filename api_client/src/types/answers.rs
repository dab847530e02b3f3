//! Answers. Unlike requests they tolerate fields that this version does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::vm::VmConfig;

/// What a VM is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// It has a configuration and does not run.
    #[default]
    Created,
    /// Its processors run.
    Running,
    /// It was stopped.
    Shutdown,
    /// Its processors stand still.
    Paused,
    /// A debugger holds it.
    BreakPoint,
}

/// Answer of `vmm.ping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingResponse {
    /// Version of the build.
    pub build_version: String,
    /// Version of the program.
    pub version: String,
    /// Process number.
    pub pid: i64,
    /// What this build can do.
    pub features: Vec<String>,
}

/// One device of `vm.info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Its name.
    pub id: String,
    /// Address ranges.
    pub resources: Vec<Value>,
    /// Device it hangs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Devices that hang on it.
    pub children: Vec<String>,
    /// PCI address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_bdf: Option<String>,
}

/// Answer of `vm.info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Configuration, with what was chosen at boot.
    pub config: VmConfig,
    /// What it is doing.
    pub state: VmState,
    /// Bytes the guest can use now.
    pub memory_actual_size: u64,
    /// Devices; missing before boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<BTreeMap<String, DeviceNode>>,
    /// The migration that goes on, or the last one; missing if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationInfo>,
}

/// What a migration is doing, or what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationState {
    /// It waits for a sender.
    Waiting,
    /// Memory is copied while the VM runs.
    Copying,
    /// The VM stands still and changes sides.
    Switching,
    /// The VM has changed sides.
    Finished,
    /// It has failed; the VM goes on at the source.
    Failed,
    /// It was cancelled; the VM goes on at the source.
    Cancelled,
    /// It has failed at the last moment: the VM stands still here, and may run on the other side.
    Undecided,
}

/// How far a migration is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationInfo {
    /// What it is doing, or what became of it.
    pub state: MigrationState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of the round in which memory is copied.
    pub round: u64,
    /// Bytes of memory that went over the connections.
    pub transferred_bytes: u64,
    /// Pages that were copied; those that were written again count again.
    pub transferred_pages: u64,
    /// Pages of this round that were not.
    pub remaining_pages: u64,
    /// Time since it began, or that it took.
    pub elapsed_ms: u64,
    /// How long the VM stood still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_us: Option<u64>,
}

/// Answer of `vm.add-*` for a running VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PciDeviceInfo {
    /// Name of the new device.
    pub id: String,
    /// Its PCI address.
    pub bdf: String,
}
