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
}

/// Answer of `vm.add-*` for a running VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PciDeviceInfo {
    /// Name of the new device.
    pub id: String,
    /// Its PCI address.
    pub bdf: String,
}
