//! Option tables of the devices.

use super::{Item, Key, Kind};

const U8: Kind = Kind::Number(0xff);
const U16: Kind = Kind::Number(0xffff);
const U32: Kind = Kind::Number(0xffff_ffff);
const FD: Kind = Kind::Number(0x7fff_ffff);
const U64: Kind = Kind::Number(u64::MAX);

/// Appends the common PCI keys, with or without `iommu`, and rate limits where `limits`.
macro_rules! keys {
    (pci: $($key:expr),* $(,)?) => {
        &[
            $($key,)*
            Key::new("id", Kind::Text),
            Key::new("iommu", Kind::Toggle),
            Key::new("pci_segment", U16),
            Key::new("pci_device_id", U8),
        ]
    };
    (pci_without_iommu: $($key:expr),* $(,)?) => {
        &[
            $($key,)*
            Key::new("id", Kind::Text),
            Key::new("pci_segment", U16),
            Key::new("pci_device_id", U8),
        ]
    };
    (limited_pci: $($key:expr),* $(,)?) => {
        keys![pci:
            $($key,)*
            Key::renamed("bw_size", "rate_limiter_config.bandwidth.size", U64),
            Key::renamed("bw_one_time_burst", "rate_limiter_config.bandwidth.one_time_burst", U64),
            Key::renamed("bw_refill_time", "rate_limiter_config.bandwidth.refill_time", U64),
            Key::renamed("ops_size", "rate_limiter_config.ops.size", U64),
            Key::renamed("ops_one_time_burst", "rate_limiter_config.ops.one_time_burst", U64),
            Key::renamed("ops_refill_time", "rate_limiter_config.ops.refill_time", U64),
        ]
    };
}

/// `--disk`.
pub const DISK: &[Key] = keys![limited_pci:
    Key::new("path", Kind::Text),
    Key::new("readonly", Kind::Toggle),
    Key::new("direct", Kind::Toggle),
    Key::new("num_queues", U16),
    Key::new("queue_size", U16),
    Key::new("vhost_user", Kind::Toggle),
    Key::renamed("socket", "vhost_socket", Kind::Text),
    Key::new("rate_limit_group", Kind::Text),
    Key::new("serial", Kind::Text),
    Key::new(
        "queue_affinity",
        Kind::Pairs(("queue_index", Item::Number(0xffff)), ("host_cpus", Item::Integers)),
    ),
    Key::new("backing_files", Kind::Toggle),
    Key::new("sparse", Kind::Toggle),
    Key::new("image_type", Kind::Choice(IMAGE_TYPES)),
    Key::new(
        "lock_granularity",
        Kind::ExactChoice(&[("byte-range", "ByteRange"), ("full", "Full")]),
    ),
    Key::new(
        "ft",
        Kind::Choice(&[("replicate", "replicate"), ("shared", "shared")]),
    ),
    Key::renamed("_disable_io_uring", "disable_io_uring", Kind::Toggle),
    Key::renamed("_disable_aio", "disable_aio", Kind::Toggle),
];

const IMAGE_TYPES: &[(&str, &str)] = &[
    ("raw", "Raw"),
    ("qcow2", "Qcow2"),
    ("vhd", "FixedVhd"),
    ("vhdx", "Vhdx"),
    ("vmdk", "FlatVmdk"),
];

/// `--net`.
pub const NET: &[Key] = keys![limited_pci:
    Key::new("tap", Kind::Text),
    Key::new("ip", Kind::Text),
    Key::new("mask", Kind::Text),
    Key::new("mac", Kind::Text),
    Key::new("host_mac", Kind::Text),
    Key::new("mtu", U16),
    Key::new("num_queues", U16),
    Key::new("queue_size", U16),
    Key::new("vhost_user", Kind::Toggle),
    Key::renamed("socket", "vhost_socket", Kind::Text),
    Key::new("vhost_mode", Kind::Choice(&[("client", "Client"), ("server", "Server")])),
    Key::renamed("fd", "fds", Kind::Integers(0x7fff_ffff)),
    Key::new("offload_tso", Kind::Toggle),
    Key::new("offload_ufo", Kind::Toggle),
    Key::new("offload_csum", Kind::Toggle),
];

/// `--disk` of `ch-remote ft-receive`: what differs on the backup's host.
pub const DISK_OVERRIDE: &[Key] = &[
    Key::required("id", Kind::Text),
    Key::required("path", Kind::Text),
];

/// `--net` of `ch-remote ft-receive`.
pub const NET_OVERRIDE: &[Key] = &[
    Key::required("id", Kind::Text),
    Key::new("tap", Kind::Text),
    Key::new("ip", Kind::Text),
    Key::new("mask", Kind::Text),
];

/// `--rng`.
pub const RNG: &[Key] = keys![pci: Key::new("src", Kind::Text)];

/// `--fs`.
pub const FS: &[Key] = keys![pci_without_iommu:
    Key::required("tag", Kind::Text),
    Key::required("socket", Kind::Text),
    Key::new("num_queues", U16),
    Key::new("queue_size", U16),
];

/// `--pmem`.
pub const PMEM: &[Key] = keys![pci:
    Key::required("file", Kind::Text),
    Key::new("size", Kind::Bytes),
    Key::new("discard_writes", Kind::Toggle),
];

/// `--vsock`.
pub const VSOCK: &[Key] = keys![pci:
    Key::required("cid", U32),
    Key::required("socket", Kind::Text),
];

/// `--vdpa`.
pub const VDPA: &[Key] = keys![pci:
    Key::required("path", Kind::Text),
    Key::new("num_queues", U16),
];

/// `--device`.
pub const DEVICE: &[Key] = keys![pci:
    Key::new("path", Kind::Text),
    Key::new("fd", FD),
    Key::new("x_nv_gpudirect_clique", U8),
    Key::new("x_exclude_mmap_bars", Kind::Integers(0xff)),
];

/// `--user-device`.
pub const USER_DEVICE: &[Key] = keys![pci_without_iommu: Key::required("socket", Kind::Text)];

/// `--generic-vhost-user`.
pub const GENERIC_VHOST_USER: &[Key] = keys![pci_without_iommu:
    Key::required("device_type", Kind::Named(DEVICE_TYPES)),
    Key::renamed("virtio_id", "device_type", Kind::Named(DEVICE_TYPES)),
    Key::required("socket", Kind::Text),
    Key::required("queue_sizes", Kind::Integers(0xffff)),
];

/// Virtio device numbers (virtio 1.2 §5). 0 marks those that a vhost-user process cannot serve.
const DEVICE_TYPES: &[(&str, u64)] = &[
    ("net", 1),
    ("block", 2),
    ("console", 3),
    ("rng", 4),
    ("balloon", 5),
    ("scsi", 8),
    ("9p", 9),
    ("gpu", 16),
    ("rtc", 17),
    ("input", 18),
    ("vsock", 19),
    ("crypto", 20),
    ("iommu", 0),
    ("mem", 24),
    ("sound", 25),
    ("fs", 26),
    ("pmem", 27),
    ("rpmb", 28),
    ("scmi", 32),
    ("i2c", 34),
    ("watchdog", 0),
    ("can", 36),
    ("gpio", 41),
];
