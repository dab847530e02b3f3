//! The virtio devices of a configuration: what the guest is to see of each, and what is behind it
//! on this host.
//!
//! They stand on the PCI bus in a fixed order, from slot 1 up: console, entropy, disks, network
//! cards, socket device. Their order in the configuration counts within a kind.

use std::net::IpAddr;
use std::path::PathBuf;

use api_client::types::devices::{
    DiskConfig, DiskReplication, ImageType, NetConfig, RngConfig, VsockConfig,
};
use api_client::types::{ConsoleConfig, ConsoleMode, SerialConfig, VmConfig};

use super::unsupported::check_device;
use super::{ConfigError, serial_target};
use crate::host::disk::{DiskTarget, ImageFormat};
use crate::host::serial::SerialTarget;
use crate::host::tap::TapTarget;
use crate::machine::{DiskMode, MOST_VIRTIO};

/// Lowest context identifier of a guest; those below have a meaning of their own.
const FIRST_GUEST_CID: u32 = 3;

/// A virtio device that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Its name.
    pub id: String,
    /// What it is.
    pub kind: DeviceKind,
}

/// What a virtio device is, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// A console, and where its bytes go.
    Console(SerialTarget),
    /// A source of random bytes, and where they come from.
    Entropy(PathBuf),
    /// A disk.
    Disk(DiskSettings),
    /// A network card.
    Net(NetSettings),
    /// A socket device.
    Vsock(VsockSettings),
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// Its image.
    pub target: DiskTarget,
    /// Whose its contents are.
    pub mode: DiskMode,
    /// Serial number; the name if none was given.
    pub serial: String,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSettings {
    /// Its tap.
    pub tap: TapTarget,
    /// The guest's address.
    pub mac: [u8; 6],
    /// The MTU the guest shall use.
    pub mtu: Option<u16>,
    /// Whether checksums and segmentation may be left to the host.
    pub offload: bool,
}

/// A socket device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockSettings {
    /// The guest's context identifier.
    pub cid: u32,
    /// The host's Unix socket.
    pub socket: PathBuf,
}

/// The virtio devices that `config` asks for, in the order of their slots.
///
/// # Errors
/// The first thing that is wrong or cannot be had.
pub fn devices(config: &VmConfig) -> Result<Vec<DeviceSettings>, ConfigError> {
    let mut devices = Vec::new();
    devices.extend(console(&config.console)?);
    devices.push(entropy(&config.rng)?);
    for (index, disk) in config.disks.iter().flatten().enumerate() {
        devices.push(self::disk(&format!("disks[{index}]"), disk)?);
    }
    for (index, net) in config.net.iter().flatten().enumerate() {
        devices.push(self::net(&format!("net[{index}]"), net)?);
    }
    if let Some(vsock) = &config.vsock {
        devices.push(self::vsock(vsock)?);
    }
    if devices.len() > MOST_VIRTIO {
        let reason = format!("{} virtio devices, {MOST_VIRTIO} can be had", devices.len());
        return Err(ConfigError::invalid("config", reason));
    }
    Ok(devices)
}

/// Gives names to the devices that have none, and addresses to the network cards that have none,
/// which `random` makes up.
pub fn settle(config: &mut VmConfig, mut random: impl FnMut() -> [u8; 6]) {
    let mut count = 0;
    let mut name = |kind: &str, id: &mut Option<String>| {
        id.get_or_insert_with(|| format!("_{kind}{count}"));
        count += 1;
    };
    for disk in config.disks.iter_mut().flatten() {
        name("disk", &mut disk.id);
    }
    for net in config.net.iter_mut().flatten() {
        name("net", &mut net.id);
        net.mac.get_or_insert_with(|| mac_text(local_mac(random())));
    }
    if let Some(vsock) = &mut config.vsock {
        name("vsock", &mut vsock.id);
    }
}

/// An address of nobody's, with the rest of the bits as they are.
fn local_mac(mut bytes: [u8; 6]) -> [u8; 6] {
    bytes[0] = (bytes[0] & !1) | 2;
    bytes
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn console(console: &ConsoleConfig) -> Result<Option<DeviceSettings>, ConfigError> {
    let unspoken = ConsoleConfig::default();
    check_device("console", console, &unspoken, &["mode", "file", "socket"])?;
    if console.mode == ConsoleMode::Socket {
        return Err(ConfigError::ValueNotSupported {
            field: "console.mode".to_owned(),
            value: "Socket".to_owned(),
            supported: "Off, Null, Tty, Pty, File",
        });
    }
    let port = SerialConfig {
        file: console.file.clone(),
        mode: console.mode,
        socket: None,
    };
    let target = serial_target("console", &port)?;
    Ok(target.map(|target| DeviceSettings {
        id: "__console".to_owned(),
        kind: DeviceKind::Console(target),
    }))
}

fn entropy(rng: &RngConfig) -> Result<DeviceSettings, ConfigError> {
    check_device("rng", rng, &RngConfig::default(), &["src"])?;
    Ok(DeviceSettings {
        id: "__rng".to_owned(),
        kind: DeviceKind::Entropy(rng.src.clone()),
    })
}

fn named(field: &str, id: &Option<String>) -> Result<String, ConfigError> {
    let id = id.clone().filter(|id| !id.is_empty());
    id.ok_or_else(|| ConfigError::invalid(&format!("{field}.id"), "the device has no name"))
}

fn disk(field: &str, disk: &DiskConfig) -> Result<DeviceSettings, ConfigError> {
    const SUPPORTED: &[&str] = &[
        "id",
        "path",
        "readonly",
        "direct",
        "serial",
        "backing_files",
        "sparse",
        "image_type",
        "disable_io_uring",
        "disable_aio",
        "ft",
    ];
    check_device(field, disk, &DiskConfig::default(), SUPPORTED)?;
    let id = named(field, &disk.id)?;
    let path = disk
        .path
        .clone()
        .filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| ConfigError::invalid(&format!("{field}.path"), "is missing"))?;
    let format = match disk.image_type {
        ImageType::Unknown => None,
        ImageType::Raw => Some(ImageFormat::Raw),
        ImageType::Qcow2 => Some(ImageFormat::Qcow2),
        other => {
            return Err(ConfigError::ValueNotSupported {
                field: format!("{field}.image_type"),
                value: format!("{other:?}"),
                supported: "Raw, Qcow2",
            });
        }
    };
    let settings = DiskSettings {
        target: DiskTarget {
            path,
            format,
            read_only: disk.readonly,
            direct: disk.direct,
            sparse: disk.sparse,
            backing_files: disk.backing_files,
            io_uring: !disk.disable_io_uring,
        },
        mode: match disk.ft {
            DiskReplication::Replicate => DiskMode::Replicated,
            DiskReplication::Shared => DiskMode::Outside,
        },
        serial: disk.serial.clone().unwrap_or_else(|| id.clone()),
    };
    Ok(DeviceSettings {
        id,
        kind: DeviceKind::Disk(settings),
    })
}

fn net(field: &str, net: &NetConfig) -> Result<DeviceSettings, ConfigError> {
    const SUPPORTED: &[&str] = &[
        "id",
        "tap",
        "ip",
        "mask",
        "mac",
        "host_mac",
        "mtu",
        "offload_tso",
        "offload_ufo",
        "offload_csum",
    ];
    check_device(field, net, &NetConfig::default(), SUPPORTED)?;
    let id = named(field, &net.id)?;
    let address = |member: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(str::parse::<IpAddr>).transpose();
        parsed.map_err(|error| {
            let text = text.as_deref().unwrap_or_default();
            ConfigError::invalid(&format!("{field}.{member}"), format!("{text:?}: {error}"))
        })
    };
    let (ip, mask) = (address("ip", &net.ip)?, address("mask", &net.mask)?);
    if mask.is_some() && ip.is_none() {
        let reason = "a mask needs an address";
        return Err(ConfigError::invalid(&format!("{field}.ip"), reason));
    }
    let mac = mac(&format!("{field}.mac"), &net.mac)?
        .ok_or_else(|| ConfigError::invalid(&format!("{field}.mac"), "is missing"))?;
    if net.mtu.is_some_and(|mtu| mtu < 1280) {
        let reason = "an MTU below 1280 cannot carry IPv6";
        return Err(ConfigError::invalid(&format!("{field}.mtu"), reason));
    }
    let settings = NetSettings {
        tap: TapTarget {
            name: net.tap.clone(),
            ip,
            mask,
            host_mac: self::mac(&format!("{field}.host_mac"), &net.host_mac)?,
            mtu: net.mtu,
        },
        mac,
        mtu: net.mtu,
        offload: net.offload_csum && net.offload_tso,
    };
    Ok(DeviceSettings {
        id,
        kind: DeviceKind::Net(settings),
    })
}

fn mac(field: &str, text: &Option<String>) -> Result<Option<[u8; 6]>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| {
            u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| part.len() == 2)
        })
        .collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    match mac {
        Some(mac) if mac[0] & 1 == 0 => Ok(Some(mac)),
        Some(_) => {
            let reason = format!("{text:?} is the address of a group");
            Err(ConfigError::invalid(field, reason))
        }
        None => {
            let reason = format!("{text:?} is not six bytes in hexadecimal with colons");
            Err(ConfigError::invalid(field, reason))
        }
    }
}

fn vsock(vsock: &VsockConfig) -> Result<DeviceSettings, ConfigError> {
    let unspoken = VsockConfig {
        id: None,
        iommu: false,
        pci_segment: 0,
        pci_device_id: None,
        cid: FIRST_GUEST_CID,
        socket: PathBuf::new(),
    };
    check_device("vsock", vsock, &unspoken, &["id", "cid", "socket"])?;
    if vsock.cid < FIRST_GUEST_CID || vsock.cid == u32::MAX {
        let reason = format!("{} is not a guest's: 3 to 4294967294", vsock.cid);
        return Err(ConfigError::invalid("vsock.cid", reason));
    }
    if vsock.socket.as_os_str().is_empty() {
        return Err(ConfigError::invalid("vsock.socket", "is missing"));
    }
    Ok(DeviceSettings {
        id: named("vsock", &vsock.id)?,
        kind: DeviceKind::Vsock(VsockSettings {
            cid: vsock.cid,
            socket: vsock.socket.clone(),
        }),
    })
}

#[cfg(test)]
mod tests;
