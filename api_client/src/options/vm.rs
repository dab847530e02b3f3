//! Option tables of processors, memory, consoles and platform.

use serde_json::{Map, Value, json};

use super::{HYPERVISOR, Item, Key, Kind, OptionError, parse};
use crate::types::{ConsoleConfig, SerialConfig};

const U8: Kind = Kind::Number(0xff);
const U16: Kind = Kind::Number(0xffff);
const U32: Kind = Kind::Number(0xffff_ffff);

/// `--cpus`.
pub const CPUS: &[Key] = &[
    Key::renamed("boot", "boot_vcpus", U32),
    Key::renamed("max", "max_vcpus", U32),
    Key::new("topology", Kind::Topology),
    Key::new("kvm_hyperv", Kind::Toggle),
    Key::new("max_phys_bits", U8),
    Key::new(
        "affinity",
        Kind::Pairs(
            ("vcpu", Item::Number(0xffff_ffff)),
            ("host_cpus", Item::Integers),
        ),
    ),
    Key::new("features", Kind::Switches(&["amx"])),
    Key::new("nested", Kind::Toggle),
    Key::new(
        "core_scheduling",
        Kind::Choice(&[("vm", "Vm"), ("vcpu", "Vcpu"), ("off", "Off")]),
    ),
    Key::new("profile", Kind::Choice(&[("host", "Host")])),
];

/// `--memory`.
pub const MEMORY: &[Key] = &[
    Key::new("size", Kind::Bytes),
    Key::new("mergeable", Kind::Toggle),
    Key::new(
        "hotplug_method",
        Kind::Choice(&[("acpi", "Acpi"), ("virtio-mem", "VirtioMem")]),
    ),
    Key::new("hotplug_size", Kind::Bytes),
    Key::new("hotplugged_size", Kind::Bytes),
    Key::new("shared", Kind::Toggle),
    Key::new("hugepages", Kind::Toggle),
    Key::new("hugepage_size", Kind::Bytes),
    Key::new("prefault", Kind::Toggle),
    Key::new("reserve", Kind::Toggle),
    Key::new("thp", Kind::Toggle),
];

/// `--platform`.
pub const PLATFORM: &[Key] = &[
    Key::new("num_pci_segments", U16),
    Key::new("iommu_segments", Kind::Integers(0xffff)),
    Key::renamed("iommu_address_width", "iommu_address_width_bits", U8),
    Key::new("iommufd", Kind::Toggle),
    Key::new("iommufd_fd", Kind::Number(0x7fff_ffff)),
    Key::new("vfio_p2p_dma", Kind::Toggle),
    Key::new("system_serial_number", Kind::Text),
    Key::renamed("serial_number", "system_serial_number", Kind::Text),
    Key::new("system_uuid", Kind::Text),
    Key::renamed("uuid", "system_uuid", Kind::Text),
    Key::new("system_manufacturer", Kind::Text),
    Key::new("system_product_name", Kind::Text),
    Key::new("system_version", Kind::Text),
    Key::new("system_family", Kind::Text),
    Key::new("system_sku_number", Kind::Text),
    Key::new("chassis_asset_tag", Kind::Text),
    Key::new("oem_strings", Kind::Texts),
    Key::new("tdx", Kind::Toggle),
    Key::new("sev_snp", Kind::Toggle),
    Key::new("hypervisor", HYPERVISOR),
];

/// `--serial`.
pub const SERIAL: &[Key] = &[
    Key::new("off", Kind::Flag),
    Key::new("null", Kind::Flag),
    Key::new("pty", Kind::Flag),
    Key::new("tty", Kind::Flag),
    Key::new("file", Kind::Text),
    Key::new("socket", Kind::Text),
];

/// `--console`.
pub const CONSOLE: &[Key] = &[
    Key::new("off", Kind::Flag),
    Key::new("null", Kind::Flag),
    Key::new("pty", Kind::Flag),
    Key::new("tty", Kind::Flag),
    Key::new("file", Kind::Text),
    Key::new("socket", Kind::Text),
    Key::new("id", Kind::Text),
    Key::new("iommu", Kind::Toggle),
    Key::new("pci_segment", U16),
    Key::new("pci_device_id", U8),
];

/// Words of the console tables that choose a mode, and the mode.
const MODES: &[(&str, &str)] = &[
    ("off", "Off"),
    ("null", "Null"),
    ("pty", "Pty"),
    ("tty", "Tty"),
    ("file", "File"),
    ("socket", "Socket"),
];

/// Reads the argument of `--serial`.
///
/// # Errors
/// A string that chooses no mode, or more than one.
pub fn parse_serial(input: &str) -> Result<SerialConfig, OptionError> {
    from_members(input, mode_members(input, SERIAL)?)
}

/// Reads the argument of `--console`.
///
/// # Errors
/// A string that chooses no mode, or more than one.
pub fn parse_console(input: &str) -> Result<ConsoleConfig, OptionError> {
    from_members(input, mode_members(input, CONSOLE)?)
}

/// Replaces the mode's word by the member `mode`.
fn mode_members(input: &str, keys: &[Key]) -> Result<Map<String, Value>, OptionError> {
    let mut object = parse(input, keys)?;
    let chosen: Vec<_> = MODES
        .iter()
        .filter(|(word, _)| object.contains_key(*word))
        .collect();
    let [(word, mode)] = chosen[..] else {
        return Err(OptionError::InvalidValue(input.to_owned()));
    };
    if object.get(*word) == Some(&Value::Bool(true)) {
        object.remove(*word);
    }
    object.insert("mode".to_owned(), json!(mode));
    Ok(object)
}

fn from_members<T: serde::de::DeserializeOwned>(
    input: &str,
    members: Map<String, Value>,
) -> Result<T, OptionError> {
    serde_json::from_value(Value::Object(members))
        .map_err(|_| OptionError::InvalidValue(input.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ConsoleMode;

    #[test]
    fn serial_strings_choose_exactly_one_mode() {
        let table = [
            ("off", Some((ConsoleMode::Off, None, None))),
            ("null", Some((ConsoleMode::Null, None, None))),
            ("tty", Some((ConsoleMode::Tty, None, None))),
            ("pty", Some((ConsoleMode::Pty, None, None))),
            (
                "file=/tmp/a",
                Some((ConsoleMode::File, Some("/tmp/a"), None)),
            ),
            (
                "socket=/tmp/s",
                Some((ConsoleMode::Socket, None, Some("/tmp/s"))),
            ),
            ("", None),
            ("off,tty", None),
            ("file=", None),
            ("file=a,socket=b", None),
            ("telnet", None),
        ];
        for (input, expected) in table {
            let parsed = parse_serial(input).ok();
            let parsed = parsed.as_ref().map(|config| {
                let text = |path: &Option<std::path::PathBuf>| {
                    path.as_ref().map(|path| path.display().to_string())
                };
                (config.mode, text(&config.file), text(&config.socket))
            });
            let expected = expected.map(|(mode, file, socket): (_, Option<&str>, Option<&str>)| {
                (mode, file.map(str::to_owned), socket.map(str::to_owned))
            });
            assert_eq!(parsed, expected, "{input}");
        }
    }

    #[test]
    fn console_strings_take_pci_keys() {
        let console = parse_console("null,id=c0,iommu=on").expect("valid");
        assert_eq!((console.mode, console.iommu), (ConsoleMode::Null, true));
        assert_eq!(console.id.as_deref(), Some("c0"));
    }
}
