//! Bodies of the calls that change, save, restore and migrate a VM.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::HypervisorChoice;

/// When the pages of a snapshot are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryRestoreMode {
    /// All before the guest runs.
    #[default]
    Copy,
    /// When the guest touches them.
    OnDemand,
}

/// What a migration does that does not converge in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeoutStrategy {
    /// It gives up; the VM goes on here.
    #[default]
    Cancel,
    /// It stops the VM and sends the rest.
    Ignore,
}

/// When the pages of a migrated VM are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationMemoryMode {
    /// Before the VM changes sides.
    #[default]
    Precopy,
    /// After, when they are touched.
    Postcopy,
}

/// Body of `vm.resize`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmResize {
    /// Processors wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_vcpus: Option<u32>,
    /// Bytes of memory wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_ram: Option<u64>,
    /// Bytes of the balloon wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_balloon: Option<u64>,
}

/// Body of `vm.resize-disk`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmResizeDisk {
    /// The disk.
    pub id: String,
    /// Bytes wanted.
    pub desired_size: u64,
}

/// Body of `vm.resize-zone`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmResizeZone {
    /// The zone.
    pub id: String,
    /// Bytes wanted.
    pub desired_ram: u64,
}

/// Body of `vm.remove-device`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmRemoveDevice {
    /// The device.
    pub id: String,
}

/// Body of `vm.snapshot`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSnapshotConfig {
    /// Where the snapshot goes.
    pub destination_url: String,
}

/// Taps for one restored network interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredNetConfig {
    /// The interface.
    pub id: String,
    /// How many descriptors it takes.
    pub num_fds: usize,
    /// Ignored; they are sent beside the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fds: Option<Vec<i32>>,
}

/// Descriptor for one restored VFIO device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredVfioConfig {
    /// The device.
    pub id: String,
    /// Ignored; it is sent beside the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
}

/// Another host NUMA node for a memory zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneUpdate {
    /// The zone.
    pub id: String,
    /// The node.
    pub host_numa_node: u32,
}

/// Body of `vm.restore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// Where the snapshot is.
    pub source_url: String,
    /// Touch every page at start.
    #[serde(default)]
    pub prefault: bool,
    /// When pages are read.
    #[serde(default)]
    pub memory_restore_mode: MemoryRestoreMode,
    /// Taps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_fds: Option<Vec<RestoredNetConfig>>,
    /// VFIO descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfio_fds: Option<Vec<RestoredVfioConfig>>,
    /// iommufd descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<i32>,
    /// Run at once.
    #[serde(default)]
    pub resume: bool,
    /// Zones on other nodes.
    #[serde(default)]
    pub zone_updates: Vec<ZoneUpdate>,
    /// Backend that runs the processor here, whatever the VM asked for elsewhere; extension of this
    /// project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorChoice>,
}

/// Body of `vm.send-migration`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendMigrationConfig {
    /// Where the receiver listens.
    pub destination_url: String,
    /// Pass memory by descriptor.
    #[serde(default)]
    pub local: bool,
    /// Keep the VM here, paused.
    #[serde(default)]
    pub preserve_source: bool,
    /// Longest pause wanted.
    #[serde(default = "downtime_ms")]
    pub downtime_ms: u64,
    /// Time to converge.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// What to do after that time.
    #[serde(default)]
    pub timeout_strategy: TimeoutStrategy,
    /// Parallel connections.
    #[serde(default = "migration_connections")]
    pub connections: u32,
    /// Certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// When pages are sent.
    #[serde(default)]
    pub memory_mode: MigrationMemoryMode,
}

/// Body of `vm.receive-migration`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveMigrationConfig {
    /// Where to listen.
    pub receiver_url: String,
    /// Certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// When pages arrive.
    #[serde(default)]
    pub memory_mode: MigrationMemoryMode,
    /// VFIO descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfio_fds: Option<Vec<RestoredVfioConfig>>,
    /// iommufd descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<i32>,
    /// Zones on other nodes.
    #[serde(default)]
    pub zone_updates: Vec<ZoneUpdate>,
    /// Backend that runs the processor here, whatever the VM asked for elsewhere; extension of this
    /// project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorChoice>,
}

fn downtime_ms() -> u64 {
    300
}

fn timeout_s() -> u64 {
    3600
}

fn migration_connections() -> u32 {
    1
}
