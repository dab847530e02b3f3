//! Configuration: what operators write, checked, and turned into what the monitor works with.
//!
//! ```text
//! command line ──▶ options ─┐
//!                           ├─▶ VmConfig ──▶ VmSettings::validate ──▶ VmSettings
//! vm.create ────────────────┘                        │
//! vm.ft-* ──▶ check_ft_*                             └─▶ ConfigError (400 or 409)
//! ```
//!
//! `VmConfig` is what travels and what `vm.info` shows; `VmSettings` is what this build can do of
//! it. A field that this build cannot honour is accepted at its default and refused by name
//! otherwise, so that nobody gets a VM other than the one asked for.

mod devices;
mod endpoint;
mod error;
mod ft;
mod migration;
pub mod options;
pub mod overrides;
mod settings;
mod unsupported;

pub use devices::{
    DeviceKind, DeviceSettings, DiskSettings, NetSettings, VsockSettings, devices, settle,
};
pub use endpoint::{Endpoint, EndpointError, inherited};
pub use error::ConfigError;
pub use ft::{check_ft_receive, check_ft_start};
pub use migration::{check_receive_migration, check_restore, check_send_migration};
pub use settings::{HostLimits, VmSettings, memory_kind, serial_target};
