//! Fields that this build cannot honour: fine at their default, refused by name otherwise.
//!
//! The configuration is compared, as JSON, with one that says nothing. Whatever differs and is not
//! in the list of what is supported is refused. A field added to the interface is therefore refused
//! until somebody supports it, and never silently ignored.

use api_client::types::{PayloadConfig, PlatformConfig, VmConfig};
use serde::Serialize;
use serde_json::Value;

use super::ConfigError;

/// What this build honours; its values are checked elsewhere.
const SUPPORTED: &[&str] = &[
    "cpus.boot_vcpus",
    "cpus.max_vcpus",
    "memory.shared",
    "memory.size",
    "payload.kernel",
    "payload.cmdline",
    "payload.initramfs",
    "serial.mode",
    "serial.file",
    "serial.socket",
    "console",
    "rng",
    "disks",
    "net",
    "vsock",
    "platform.hypervisor",
];

/// Refuses the first field of `config` that differs from its default and is not supported.
pub(super) fn check(config: &Value) -> Result<(), ConfigError> {
    let unspoken = VmConfig {
        payload: Some(PayloadConfig::default()),
        platform: Some(PlatformConfig::default()),
        ..VmConfig::default()
    };
    let unspoken = serde_json::to_value(unspoken)
        .map_err(|error| ConfigError::invalid("config", error.to_string()))?;
    match first_difference("", config, &unspoken) {
        Some(field) => Err(ConfigError::NotSupported { field }),
        None => Ok(()),
    }
}

/// Refuses the first member of a device's object, at `path`, that differs from its default and is
/// not among the supported.
pub(super) fn check_device(
    path: &str,
    given: &impl Serialize,
    default: &impl Serialize,
    supported: &[&str],
) -> Result<(), ConfigError> {
    let value = |device: Result<Value, serde_json::Error>| {
        device.map_err(|error| ConfigError::invalid(path, error.to_string()))
    };
    let given = value(serde_json::to_value(given))?;
    let default = value(serde_json::to_value(default))?;
    let members = given.as_object().into_iter().flatten();
    for (name, value) in members.filter(|(name, _)| !supported.contains(&name.as_str())) {
        let unspoken = default.get(name).unwrap_or(&Value::Null);
        if let Some(field) = first_difference(&format!("{path}.{name}"), value, unspoken) {
            return Err(ConfigError::NotSupported { field });
        }
    }
    Ok(())
}

fn first_difference(path: &str, given: &Value, default: &Value) -> Option<String> {
    if SUPPORTED.contains(&path) {
        return None;
    }
    match (given, default) {
        (Value::Object(given), Value::Object(default)) => given.iter().find_map(|(name, value)| {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            first_difference(&path, value, default.get(name).unwrap_or(&Value::Null))
        }),
        (Value::Array(list), Value::Null) if list.is_empty() => None,
        _ if given == default => None,
        _ => Some(path.to_owned()),
    }
}
