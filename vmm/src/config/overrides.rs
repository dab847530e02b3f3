//! What differs on a backup's host, put into the configuration that came from the primary.

use api_client::types::{ConfigOverrides, VmConfig};

use super::ConfigError;

/// Puts `overrides` into `config`.
///
/// # Errors
/// If one names a device that the VM does not have.
pub fn apply(config: &mut VmConfig, overrides: &ConfigOverrides) -> Result<(), ConfigError> {
    let ConfigOverrides {
        serial,
        console,
        disks,
        net,
        vsock,
    } = overrides;
    if let Some(serial) = serial {
        config.serial = serial.clone();
    }
    if let Some(console) = console {
        config.console = console.clone();
    }
    let missing = |field: &str, id: &str| {
        let reason = format!("the VM has no such device {id:?}");
        ConfigError::invalid(&format!("config_overrides.{field}"), reason)
    };
    for disk in disks.iter().flatten() {
        let mut all = config.disks.iter_mut().flatten();
        let found = all.find(|known| known.id.as_deref() == Some(disk.id.as_str()));
        found.ok_or_else(|| missing("disks", &disk.id))?.path = Some(disk.path.clone());
    }
    for net in net.iter().flatten() {
        let mut all = config.net.iter_mut().flatten();
        let found = all
            .find(|known| known.id.as_deref() == Some(net.id.as_str()))
            .ok_or_else(|| missing("net", &net.id))?;
        found.tap = net.tap.clone().or(found.tap.take());
        found.ip = net.ip.clone().or(found.ip.take());
        found.mask = net.mask.clone().or(found.mask.take());
    }
    if let Some(vsock) = vsock {
        let found = config.vsock.as_mut();
        found.ok_or_else(|| missing("vsock", "vsock"))?.socket = vsock.socket.clone();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn overrides_replace_what_they_name_and_nothing_else() {
        let mut config: VmConfig = serde_json::from_value(json!({
            "disks": [{"id": "a", "path": "/a"}, {"id": "b", "path": "/b"}],
            "net": [{"id": "n", "tap": "t0", "ip": "10.0.0.1"}],
            "vsock": {"cid": 3, "socket": "/v"},
        }))
        .unwrap();
        let overrides: ConfigOverrides = serde_json::from_value(json!({
            "serial": {"mode": "File", "file": "/s"},
            "disks": [{"id": "b", "path": "/c"}],
            "net": [{"id": "n", "tap": "t1"}],
            "vsock": {"socket": "/w"},
        }))
        .unwrap();
        apply(&mut config, &overrides).unwrap();
        let told = serde_json::to_value(&config).unwrap();
        assert_eq!(told["disks"][0]["path"], "/a");
        assert_eq!(told["disks"][1]["path"], "/c");
        assert_eq!(told["net"][0]["tap"], "t1");
        assert_eq!(told["net"][0]["ip"], "10.0.0.1");
        assert_eq!(told["vsock"]["socket"], "/w");
        assert_eq!(told["serial"]["file"], "/s");
    }

    #[test]
    fn an_override_of_nothing_is_refused_by_its_name() {
        let mut config = VmConfig::default();
        let overrides: ConfigOverrides =
            serde_json::from_value(json!({"disks": [{"id": "x", "path": "/c"}]})).unwrap();
        let text = apply(&mut config, &overrides).unwrap_err().to_string();
        assert!(
            text.contains("config_overrides.disks") && text.contains("\"x\""),
            "{text}"
        );
    }
}
