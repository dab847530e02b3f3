//! Devices in a VM's configuration; the same objects are the bodies of the `vm.add-*` calls.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::pci::pci_device;

/// Format of a disk image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageType {
    /// Found out by looking.
    #[default]
    Unknown,
    /// Plain bytes.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// Fixed-size VHD.
    FixedVhd,
    /// VHDX.
    Vhdx,
    /// Flat VMDK.
    FlatVmdk,
}

/// How an image file is locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockGranularity {
    /// Only the bytes that are used.
    #[default]
    ByteRange,
    /// The whole file.
    Full,
}

/// Whose a disk's contents are when its VM is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskReplication {
    /// Each side has an image of its own; the clone copies it.
    #[default]
    Replicate,
    /// Both sides reach the same image; only the live one uses it.
    Shared,
}

/// Which side of a vhost-user socket connects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VhostMode {
    /// The monitor connects.
    #[default]
    Client,
    /// The monitor listens.
    Server,
}

/// A token bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucketConfig {
    /// Tokens it holds.
    pub size: u64,
    /// Tokens that are there once, at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds to fill it.
    pub refill_time: u64,
}

/// Limits on bytes and operations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiterConfig {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucketConfig>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucketConfig>,
}

/// A rate limit that several disks share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimitGroupConfig {
    /// Name.
    pub id: String,
    /// The limits.
    pub rate_limiter_config: RateLimiterConfig,
}

/// Which host CPUs one queue's thread may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueAffinity {
    /// Index of the queue.
    pub queue_index: u16,
    /// Host CPU numbers.
    pub host_cpus: Vec<usize>,
}

pci_device! {
    /// A block device.
    pub struct DiskConfig {
        /// Image file.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub path: Option<PathBuf>,
        /// Refuse writes.
        #[serde(default)]
        pub readonly: bool,
        /// Bypass the page cache.
        #[serde(default)]
        pub direct: bool,
        /// Queues.
        #[serde(default = "disk_num_queues")]
        pub num_queues: u16,
        /// Entries of a queue.
        #[serde(default = "disk_queue_size")]
        pub queue_size: u16,
        /// Served by a vhost-user process.
        #[serde(default)]
        pub vhost_user: bool,
        /// Its socket.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub vhost_socket: Option<String>,
        /// Shared limit it belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rate_limit_group: Option<String>,
        /// Its own limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rate_limiter_config: Option<RateLimiterConfig>,
        /// Do not use io_uring.
        #[serde(default)]
        pub disable_io_uring: bool,
        /// Do not use AIO.
        #[serde(default)]
        pub disable_aio: bool,
        /// Serial number.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub serial: Option<String>,
        /// Pinning of queues.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub queue_affinity: Option<Vec<QueueAffinity>>,
        /// Follow backing files of the image.
        #[serde(default)]
        pub backing_files: bool,
        /// Let discards make holes.
        #[serde(default = "yes")]
        pub sparse: bool,
        /// Format of the image.
        #[serde(default)]
        pub image_type: ImageType,
        /// How the image is locked.
        #[serde(default)]
        pub lock_granularity: LockGranularity,
        /// Whose the contents are under protection.
        #[serde(default)]
        pub ft: DiskReplication,
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            id: None,
            iommu: false,
            pci_segment: 0,
            pci_device_id: None,
            path: None,
            readonly: false,
            direct: false,
            num_queues: disk_num_queues(),
            queue_size: disk_queue_size(),
            vhost_user: false,
            vhost_socket: None,
            rate_limit_group: None,
            rate_limiter_config: None,
            disable_io_uring: false,
            disable_aio: false,
            serial: None,
            queue_affinity: None,
            backing_files: false,
            sparse: yes(),
            image_type: ImageType::default(),
            lock_granularity: LockGranularity::default(),
            ft: DiskReplication::default(),
        }
    }
}

pci_device! {
    /// A network interface.
    pub struct NetConfig {
        /// Name of the host's tap.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tap: Option<String>,
        /// Address of the tap.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ip: Option<String>,
        /// Its netmask.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mask: Option<String>,
        /// Guest's MAC address.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mac: Option<String>,
        /// MAC address of the tap.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub host_mac: Option<String>,
        /// MTU.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mtu: Option<u16>,
        /// Queues, two to a pair.
        #[serde(default = "net_num_queues")]
        pub num_queues: u16,
        /// Entries of a queue.
        #[serde(default = "net_queue_size")]
        pub queue_size: u16,
        /// Served by a vhost-user process.
        #[serde(default)]
        pub vhost_user: bool,
        /// Its socket.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub vhost_socket: Option<String>,
        /// Which side connects.
        #[serde(default)]
        pub vhost_mode: VhostMode,
        /// Opened taps; sent beside the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fds: Option<Vec<i32>>,
        /// Limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rate_limiter_config: Option<RateLimiterConfig>,
        /// TCP segmentation offload.
        #[serde(default = "yes")]
        pub offload_tso: bool,
        /// UDP fragmentation offload.
        #[serde(default = "yes")]
        pub offload_ufo: bool,
        /// Checksum offload.
        #[serde(default = "yes")]
        pub offload_csum: bool,
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            id: None,
            iommu: false,
            pci_segment: 0,
            pci_device_id: None,
            tap: None,
            ip: None,
            mask: None,
            mac: None,
            host_mac: None,
            mtu: None,
            num_queues: net_num_queues(),
            queue_size: net_queue_size(),
            vhost_user: false,
            vhost_socket: None,
            vhost_mode: VhostMode::default(),
            fds: None,
            rate_limiter_config: None,
            offload_tso: yes(),
            offload_ufo: yes(),
            offload_csum: yes(),
        }
    }
}

pci_device! {
    /// The entropy device.
    pub struct RngConfig {
        /// Where entropy comes from.
        #[serde(default = "rng_source")]
        pub src: PathBuf,
    }
}

impl Default for RngConfig {
    fn default() -> Self {
        Self {
            id: None,
            iommu: false,
            pci_segment: 0,
            pci_device_id: None,
            src: rng_source(),
        }
    }
}

pci_device! {
    /// The balloon device.
    pub struct BalloonConfig {
        /// Bytes taken from the guest.
        pub size: u64,
        /// Give memory back when the guest runs out.
        #[serde(default)]
        pub deflate_on_oom: bool,
        /// Let the guest report free pages.
        #[serde(default)]
        pub free_page_reporting: bool,
    }
}

pci_device! {
    /// Any vhost-user device.
    pub struct GenericVhostUserConfig {
        /// Socket of the process that serves it.
        pub socket: PathBuf,
        /// Entries of each queue.
        pub queue_sizes: Vec<u16>,
        /// Virtio device number.
        pub device_type: u32,
    }
}

pci_device! {
    /// A shared file system.
    pub struct FsConfig {
        /// Name in the guest.
        pub tag: String,
        /// Socket of virtiofsd.
        pub socket: PathBuf,
        /// Queues.
        #[serde(default = "fs_num_queues")]
        pub num_queues: u16,
        /// Entries of a queue.
        #[serde(default = "fs_queue_size")]
        pub queue_size: u16,
    }
}

pci_device! {
    /// A persistent memory device.
    pub struct PmemConfig {
        /// File behind it.
        pub file: PathBuf,
        /// Bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size: Option<u64>,
        /// Drop what the guest writes.
        #[serde(default)]
        pub discard_writes: bool,
    }
}

pci_device! {
    /// A VFIO device.
    #[derive(Default)]
    pub struct DeviceConfig {
        /// Its path in sysfs.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub path: Option<PathBuf>,
        /// Opened device; sent beside the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fd: Option<i32>,
        /// GPUDirect clique.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub x_nv_gpudirect_clique: Option<u8>,
        /// BARs that are not mapped.
        #[serde(default)]
        pub x_exclude_mmap_bars: Vec<u8>,
    }
}

pci_device! {
    /// A vfio-user device.
    pub struct UserDeviceConfig {
        /// Socket of the process that serves it.
        pub socket: PathBuf,
    }
}

pci_device! {
    /// A vDPA device.
    pub struct VdpaConfig {
        /// Its character device.
        pub path: PathBuf,
        /// Queues.
        #[serde(default = "vdpa_num_queues")]
        pub num_queues: u16,
    }
}

pci_device! {
    /// The socket device.
    pub struct VsockConfig {
        /// Context identifier of the guest.
        pub cid: u32,
        /// Unix socket on the host.
        pub socket: PathBuf,
    }
}

pci_device! {
    /// The virtio clock device.
    #[derive(Default)]
    pub struct RtcConfig {
    }
}

fn disk_num_queues() -> u16 {
    1
}

fn disk_queue_size() -> u16 {
    128
}

fn yes() -> bool {
    true
}

fn net_num_queues() -> u16 {
    2
}

fn net_queue_size() -> u16 {
    256
}

fn rng_source() -> PathBuf {
    PathBuf::from("/dev/urandom")
}

fn fs_num_queues() -> u16 {
    1
}

fn fs_queue_size() -> u16 {
    1024
}

fn vdpa_num_queues() -> u16 {
    1
}
