//! The objects that travel over the API socket, as JSON.

pub mod answers;
pub mod console;
pub mod devices;
pub mod ft;
mod pci;
pub mod platform;
pub mod requests;
pub mod vm;

pub use answers::{
    DeviceNode, MigrationInfo, MigrationState, PciDeviceInfo, PingResponse, VmInfo, VmState,
};
pub use console::{ConsoleConfig, ConsoleMode, SerialConfig};
pub use ft::{
    ConfigOverrides, DiskOverride, FtFailoverConfig, FtMode, FtReceiveConfig, FtRelease,
    FtStartConfig, NetOverride, VsockOverride,
};
pub use platform::{HypervisorChoice, PlatformConfig};
pub use vm::{CpusConfig, MemoryConfig, PayloadConfig, VmConfig};
