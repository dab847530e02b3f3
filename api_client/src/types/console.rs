//! Serial port and consoles in a VM's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::pci::pci_device;

/// Where a console's bytes go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleMode {
    /// There is no such device.
    Off,
    /// A new pseudo-terminal.
    Pty,
    /// Standard input and output of the monitor.
    Tty,
    /// A file; output only.
    File,
    /// A listening Unix socket.
    Socket,
    /// The device exists; its output is discarded.
    #[default]
    Null,
}

/// The 16550 serial port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialConfig {
    /// File of mode `File`; pty path in answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where its bytes go.
    pub mode: ConsoleMode,
    /// Path of mode `Socket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

pci_device! {
    /// The virtio console.
    pub struct ConsoleConfig {
        /// File of mode `File`; pty path in answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub file: Option<PathBuf>,
        /// Where its bytes go.
        pub mode: ConsoleMode,
        /// Path of mode `Socket`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub socket: Option<PathBuf>,
    }
}

/// The debug console: one output port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebugConsoleConfig {
    /// File of mode `File`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where its bytes go.
    #[serde(default = "debug_console_mode")]
    pub mode: ConsoleMode,
    /// Port number.
    #[serde(
        default = "debug_console_iobase",
        skip_serializing_if = "Option::is_none"
    )]
    pub iobase: Option<u16>,
}

impl Default for DebugConsoleConfig {
    fn default() -> Self {
        Self {
            file: None,
            mode: debug_console_mode(),
            iobase: debug_console_iobase(),
        }
    }
}

impl Default for SerialConfig {
    fn default() -> Self {
        Self {
            file: None,
            mode: ConsoleMode::Null,
            socket: None,
        }
    }
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            id: None,
            iommu: false,
            pci_segment: 0,
            pci_device_id: None,
            file: None,
            mode: ConsoleMode::Tty,
            socket: None,
        }
    }
}

fn debug_console_mode() -> ConsoleMode {
    ConsoleMode::Off
}

fn debug_console_iobase() -> Option<u16> {
    Some(233)
}
