//! The configuration of a VM, field for field as the interface has it.
//!
//! Fields that a build cannot honour are part of the types all the same: they are accepted at
//! their default, and refused by name at validation otherwise. Unknown fields do not parse.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::console::{ConsoleConfig, DebugConsoleConfig, SerialConfig};
use super::devices::{
    BalloonConfig, DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig,
    PmemConfig, RateLimitGroupConfig, RngConfig, RtcConfig, UserDeviceConfig, VdpaConfig,
    VsockConfig,
};
use super::platform::{
    GdbConfig, LandlockConfig, NumaConfig, PciSegmentConfig, PlatformConfig, TpmConfig,
};

/// Memory of a VM whose configuration does not say: 512 MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// How memory is added to a running guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HotplugMethod {
    /// ACPI memory hotplug.
    #[default]
    Acpi,
    /// The virtio-mem device.
    VirtioMem,
}

/// How the threads of virtual CPUs share host cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoreScheduling {
    /// All of one VM trust each other.
    #[default]
    Vm,
    /// Each has a core of its own.
    Vcpu,
    /// No core scheduling.
    Off,
}

/// The processor model that a guest sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuProfile {
    /// What the host has.
    #[default]
    Host,
}

/// How the guest's processors are arranged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTopology {
    /// Threads of a core.
    pub threads_per_core: u16,
    /// Cores of a die.
    pub cores_per_die: u16,
    /// Dies of a package.
    pub dies_per_package: u16,
    /// Packages.
    pub packages: u16,
}

/// Which host CPUs one virtual CPU may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuAffinity {
    /// Index of the virtual CPU.
    pub vcpu: u32,
    /// Host CPU numbers.
    pub host_cpus: Vec<usize>,
}

/// Processor features that are off unless asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuFeatures {
    /// Intel AMX.
    #[serde(default)]
    pub amx: bool,
}

/// The guest's processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpusConfig {
    /// Processors present at boot.
    pub boot_vcpus: u32,
    /// Most processors there can be after hotplug.
    pub max_vcpus: u32,
    /// Arrangement; flat if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<CpuTopology>,
    /// Offer the Hyper-V interface.
    #[serde(default)]
    pub kvm_hyperv: bool,
    /// Most physical address bits the guest may see.
    #[serde(default = "max_phys_bits")]
    pub max_phys_bits: u8,
    /// Pinning to host CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Vec<CpuAffinity>>,
    /// Optional features.
    #[serde(default)]
    pub features: CpuFeatures,
    /// Offer nested virtualisation.
    #[serde(default = "yes")]
    pub nested: bool,
    /// Core scheduling of the processors' threads.
    #[serde(default)]
    pub core_scheduling: CoreScheduling,
    /// Processor model.
    #[serde(default)]
    pub profile: CpuProfile,
}

/// A part of guest memory with its own backing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryZoneConfig {
    /// Name of the zone.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// File that backs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Map it shared.
    #[serde(default)]
    pub shared: bool,
    /// Use huge pages.
    #[serde(default)]
    pub hugepages: bool,
    /// Bytes of a huge page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// Host NUMA node it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_numa_node: Option<u32>,
    /// Bytes that can be added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// Bytes that have been added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Touch every page at start.
    #[serde(default)]
    pub prefault: bool,
    /// Reserve swap for it.
    #[serde(default)]
    pub reserve: bool,
    /// Let the host merge equal pages.
    #[serde(default)]
    pub mergeable: bool,
}

/// The guest's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Bytes at boot.
    pub size: u64,
    /// Let the host merge equal pages.
    #[serde(default)]
    pub mergeable: bool,
    /// How memory is added later.
    #[serde(default)]
    pub hotplug_method: HotplugMethod,
    /// Bytes that can be added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// Bytes that have been added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Map it shared.
    #[serde(default)]
    pub shared: bool,
    /// Use huge pages.
    #[serde(default)]
    pub hugepages: bool,
    /// Bytes of a huge page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// Touch every page at start.
    #[serde(default)]
    pub prefault: bool,
    /// Reserve swap for it.
    #[serde(default)]
    pub reserve: bool,
    /// Zones; `size` is 0 then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<Vec<MemoryZoneConfig>>,
    /// Use transparent huge pages.
    #[serde(default = "yes")]
    pub thp: bool,
}

/// What the guest boots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadConfig {
    /// Firmware image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Kernel: bzImage or ELF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Kernel command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Initial RAM file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
    /// IGVM file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub igvm: Option<PathBuf>,
    /// Host data of a confidential guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_data: Option<String>,
    /// Items for fw_cfg.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fw_cfg_config: Option<Value>,
}

/// Everything that defines a VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Processors.
    #[serde(default)]
    pub cpus: CpusConfig,
    /// Memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// What it boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<PayloadConfig>,
    /// Shared rate limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_groups: Option<Vec<RateLimitGroupConfig>>,
    /// Disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskConfig>>,
    /// Network interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<NetConfig>>,
    /// Entropy device.
    #[serde(default)]
    pub rng: RngConfig,
    /// Balloon device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// Generic vhost-user devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_vhost_user: Option<Vec<GenericVhostUserConfig>>,
    /// Shared file systems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs: Option<Vec<FsConfig>>,
    /// Persistent memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pmem: Option<Vec<PmemConfig>>,
    /// Serial port.
    #[serde(default)]
    pub serial: SerialConfig,
    /// Virtio console.
    #[serde(default)]
    pub console: ConsoleConfig,
    /// Debug console.
    #[serde(default)]
    pub debug_console: DebugConsoleConfig,
    /// VFIO devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceConfig>>,
    /// vfio-user devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_devices: Option<Vec<UserDeviceConfig>>,
    /// vDPA devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vdpa: Option<Vec<VdpaConfig>>,
    /// Socket device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// Panic notification device.
    #[serde(default)]
    pub pvpanic: bool,
    /// Virtual IOMMU.
    #[serde(default)]
    pub iommu: bool,
    /// NUMA nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<Vec<NumaConfig>>,
    /// Watchdog device.
    #[serde(default)]
    pub watchdog: bool,
    /// Virtio clock device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtc: Option<RtcConfig>,
    /// Settings of PCI segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_segments: Option<Vec<PciSegmentConfig>>,
    /// Platform settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformConfig>,
    /// Software TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmConfig>,
    /// Debugger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gdb: Option<GdbConfig>,
    /// Memory control device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvmemcontrol: Option<Value>,
    /// Memory shared between VMs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivshmem: Option<Value>,
    /// Confine the monitor with Landlock.
    #[serde(default)]
    pub landlock_enable: bool,
    /// Further paths under Landlock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub landlock_rules: Option<Vec<LandlockConfig>>,
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self {
            boot_vcpus: 1,
            max_vcpus: 1,
            topology: None,
            kvm_hyperv: false,
            max_phys_bits: max_phys_bits(),
            affinity: None,
            features: CpuFeatures::default(),
            nested: yes(),
            core_scheduling: CoreScheduling::default(),
            profile: CpuProfile::default(),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: DEFAULT_MEMORY_BYTES,
            mergeable: false,
            hotplug_method: HotplugMethod::default(),
            hotplug_size: None,
            hotplugged_size: None,
            shared: false,
            hugepages: false,
            hugepage_size: None,
            prefault: false,
            reserve: false,
            zones: None,
            thp: yes(),
        }
    }
}

fn max_phys_bits() -> u8 {
    46
}

fn yes() -> bool {
    true
}
