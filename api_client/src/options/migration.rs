//! Option tables of restoring and migrating a VM.

use super::{HYPERVISOR, Item, Key, Kind};

const FD: Kind = Kind::Number(0x7fff_ffff);
const VFIO_FDS: Kind = Kind::Pairs(("id", Item::Text), ("fd", Item::Number(0x7fff_ffff)));
const ZONE_UPDATES: Kind = Kind::Pairs(
    ("id", Item::Text),
    ("host_numa_node", Item::Number(0xffff_ffff)),
);
const MEMORY_MODE: Kind = Kind::Choice(&[("precopy", "Precopy"), ("postcopy", "Postcopy")]);

/// `ch-remote restore`, `--restore`. The number of descriptors (`num_fds`) is filled in later.
pub const RESTORE: &[Key] = &[
    Key::required("source_url", Kind::Text),
    Key::new("prefault", Kind::Toggle),
    Key::new(
        "memory_restore_mode",
        Kind::Choice(&[("copy", "Copy"), ("ondemand", "OnDemand")]),
    ),
    Key::new(
        "net_fds",
        Kind::Pairs(("id", Item::Text), ("fds", Item::Integers)),
    ),
    Key::new("vfio_fds", VFIO_FDS),
    Key::new("iommufd_fd", FD),
    Key::new("resume", Kind::Toggle),
    Key::new("zone_updates", ZONE_UPDATES),
    Key::new("hypervisor", HYPERVISOR),
];

/// `ch-remote send-migration`.
pub const SEND_MIGRATION: &[Key] = &[
    Key::required("destination_url", Kind::Text),
    Key::new("local", Kind::Toggle),
    Key::new("preserve_source", Kind::Toggle),
    Key::new("downtime_ms", Kind::Number(u64::MAX)),
    Key::new("timeout_s", Kind::Number(u64::MAX)),
    Key::new(
        "timeout_strategy",
        Kind::Choice(&[("cancel", "Cancel"), ("ignore", "Ignore")]),
    ),
    Key::new("connections", Kind::Number(0xffff_ffff)),
    Key::new("tls_dir", Kind::Text),
    Key::new("memory_mode", MEMORY_MODE),
];

/// `ch-remote receive-migration`.
pub const RECEIVE_MIGRATION: &[Key] = &[
    Key::required("receiver_url", Kind::Text),
    Key::new("tls_dir", Kind::Text),
    Key::new("memory_mode", MEMORY_MODE),
    Key::new("vfio_fds", VFIO_FDS),
    Key::new("iommufd_fd", FD),
    Key::new("zone_updates", ZONE_UPDATES),
    Key::new("hypervisor", HYPERVISOR),
];
