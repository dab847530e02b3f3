//! What this build can do of a VM's configuration, checked.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use api_client::types::{ConsoleMode, HypervisorChoice, SerialConfig, VmConfig};
use hypervisor::MemoryKind;
use serde_json::Value;

use super::devices::{self, DeviceSettings};
use super::error::PayloadError;
use super::{ConfigError, unsupported};
use crate::host::serial::SerialTarget;

/// Granularity of a guest's memory.
const PAGE_BYTES: u64 = 4096;

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl HostLimits {
    /// Asks the host.
    ///
    /// # Errors
    /// `/proc/meminfo` cannot be read.
    pub fn probe() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        let memory_bytes = memory_total(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no MemTotal in /proc/meminfo")
        })?;
        Ok(Self { memory_bytes })
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A VM's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSettings {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Whose it is.
    pub memory: MemoryKind,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Kernel command line; empty if none was given.
    pub cmdline: String,
    /// Initial RAM file system.
    pub initramfs: Option<PathBuf>,
    /// Where the serial port leads; `None` if there is no port.
    pub serial: Option<SerialTarget>,
    /// Virtio devices, in the order of their slots.
    pub devices: Vec<DeviceSettings>,
    /// Which backend runs the processor.
    pub hypervisor: HypervisorChoice,
}

impl VmSettings {
    /// Checks `config` against what this build and `host` can do.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(config: &VmConfig, host: &HostLimits) -> Result<Self, ConfigError> {
        let (kernel, cmdline, initramfs) = payload(config)?;
        processors(config)?;
        let members = serde_json::to_value(config)
            .map_err(|error| ConfigError::invalid("config", error.to_string()))?;
        identifiers(&members)?;
        device_paths(config)?;
        let memory_bytes = memory(config, host)?;
        let serial = serial_target("serial", &config.serial)?;
        unsupported::check(&members)?;
        let devices = devices::devices(config)?;
        let platform = config.platform.as_ref();
        let hypervisor = platform
            .and_then(|platform| platform.hypervisor)
            .unwrap_or_default();
        Ok(Self {
            memory_bytes,
            memory: memory_kind(config),
            kernel,
            cmdline,
            initramfs,
            serial,
            devices,
            hypervisor,
        })
    }

    /// Writes into `config` what was chosen where it left the choice, for `vm.info` to show and for
    /// the other host of a pair to have the same.
    pub fn settle(config: &mut VmConfig, random: impl FnMut() -> [u8; 6]) {
        let tty = ConsoleMode::Tty;
        if config.console.mode == tty && config.serial.mode == tty {
            // One terminal: the serial port was asked for, the console is the interface's default.
            config.console.mode = ConsoleMode::Off;
        }
        devices::settle(config, random);
    }
}

type Payload = (PathBuf, String, Option<PathBuf>);

fn payload(config: &VmConfig) -> Result<Payload, ConfigError> {
    let payload = config.payload.clone().unwrap_or_default();
    match (payload.kernel, payload.firmware) {
        (None, None) => Err(ConfigError::Payload(PayloadError::Missing)),
        (Some(_), Some(_)) => Err(ConfigError::Payload(PayloadError::Both)),
        (None, Some(_)) => Err(ConfigError::NotSupported {
            field: "payload.firmware".to_owned(),
        }),
        (Some(kernel), None) => Ok((
            kernel,
            payload.cmdline.unwrap_or_default(),
            payload.initramfs,
        )),
    }
}

fn processors(config: &VmConfig) -> Result<(), ConfigError> {
    let (boot, max) = (config.cpus.boot_vcpus, config.cpus.max_vcpus);
    if boot == 0 {
        return Err(ConfigError::invalid(
            "cpus.boot_vcpus",
            "a VM needs a processor",
        ));
    }
    if max < boot {
        let reason = format!("{max} is less than the {boot} processors at boot");
        return Err(ConfigError::invalid("cpus.max_vcpus", reason));
    }
    for (field, value) in [("cpus.boot_vcpus", boot), ("cpus.max_vcpus", max)] {
        if value > 1 {
            return Err(ConfigError::ValueNotSupported {
                field: field.to_owned(),
                value: value.to_string(),
                supported: "1",
            });
        }
    }
    Ok(())
}

/// Whose memory a VM is to have.
pub fn memory_kind(config: &VmConfig) -> MemoryKind {
    match config.memory.shared {
        true => MemoryKind::Shared,
        false => MemoryKind::Private,
    }
}

fn memory(config: &VmConfig, host: &HostLimits) -> Result<u64, ConfigError> {
    let size = config.memory.size;
    let invalid = |reason: String| Err(ConfigError::invalid("memory.size", reason));
    if size == 0 {
        return invalid("a VM needs memory".to_owned());
    }
    if size > host.memory_bytes {
        return invalid(format!(
            "{size} bytes is more than the host's {}",
            host.memory_bytes
        ));
    }
    if !size.is_multiple_of(PAGE_BYTES) {
        return invalid(format!("{size} bytes is not a multiple of {PAGE_BYTES}"));
    }
    Ok(size)
}

/// Where a serial port leads; `field` is the name of its object, for refusals. `None` if it is off.
///
/// # Errors
/// A mode that needs a path has none, or cannot be had.
pub fn serial_target(
    field: &str,
    serial: &SerialConfig,
) -> Result<Option<SerialTarget>, ConfigError> {
    let path = |member: &str, path: &Option<PathBuf>| {
        path.clone()
            .filter(|path| !path.as_os_str().is_empty())
            .ok_or_else(|| {
                let reason = format!("mode {:?} needs a path here", serial.mode);
                ConfigError::invalid(&format!("{field}.{member}"), reason)
            })
    };
    match serial.mode {
        ConsoleMode::Off => Ok(None),
        ConsoleMode::Null => Ok(Some(SerialTarget::Null)),
        ConsoleMode::Tty => Ok(Some(SerialTarget::Tty)),
        ConsoleMode::File => Ok(Some(SerialTarget::File(path("file", &serial.file)?))),
        ConsoleMode::Socket => Ok(Some(SerialTarget::Socket(path("socket", &serial.socket)?))),
        ConsoleMode::Pty => Ok(Some(SerialTarget::Pty)),
    }
}

/// Every device's name is its own.
fn identifiers(config: &Value) -> Result<(), ConfigError> {
    fn walk<'a>(value: &'a Value, seen: &mut BTreeSet<&'a str>) -> Result<(), ConfigError> {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member {
                        Value::String(id) if name == "id" => {
                            if id.starts_with("__") {
                                return Err(ConfigError::IdentifierReserved(id.clone()));
                            }
                            if !seen.insert(id) {
                                return Err(ConfigError::IdentifierNotUnique(id.clone()));
                            }
                        }
                        other => walk(other, seen)?,
                    }
                }
                Ok(())
            }
            Value::Array(items) => items.iter().try_for_each(|item| walk(item, seen)),
            _ => Ok(()),
        }
    }
    walk(config, &mut BTreeSet::new())
}

/// No host device is passed through twice.
fn device_paths(config: &VmConfig) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    let paths = config
        .devices
        .iter()
        .flatten()
        .filter_map(|device| device.path.as_ref());
    for path in paths {
        if !seen.insert(path) {
            return Err(ConfigError::DuplicateDevicePath(path.display().to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
