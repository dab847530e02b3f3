//! The fault-tolerance calls' bodies, checked field by field before the monitor acts on them.

use api_client::types::{FtReceiveConfig, FtStartConfig};

use super::ConfigError;
use super::settings::serial_target;
use crate::vm::Address;

/// Longest epoch that may be asked for.
const LONGEST_EPOCH_MS: u64 = 10_000;
/// Longest silence that may be asked for before a peer is suspected.
const LONGEST_TIMEOUT_MS: u64 = 600_000;

/// Checks the body of `vm.ft-start`.
///
/// # Errors
/// The first field that is wrong.
pub fn check_ft_start(config: &FtStartConfig) -> Result<(), ConfigError> {
    // Whether the mode and the release can be had depends on the machine, not on the body.
    let FtStartConfig {
        destination_url,
        mode: _,
        release: _,
        epoch_ms,
        fence,
        heartbeat_ms,
        timeout_ms,
        lease_ms,
    } = config;
    check_address("destination_url", destination_url)?;
    if destination_url.starts_with("tcp:") && destination_url.ends_with(":0") {
        return Err(ConfigError::invalid(
            "destination_url",
            "port 0 cannot be connected to",
        ));
    }
    check_fence(fence)?;
    check_milliseconds("epoch_ms", *epoch_ms, LONGEST_EPOCH_MS)?;
    check_milliseconds("heartbeat_ms", *heartbeat_ms, LONGEST_TIMEOUT_MS)?;
    check_milliseconds("timeout_ms", *timeout_ms, LONGEST_TIMEOUT_MS)?;
    if *timeout_ms < heartbeat_ms.saturating_mul(2) {
        let reason = format!("{timeout_ms} is less than two heartbeats of {heartbeat_ms} ms");
        return Err(ConfigError::invalid("timeout_ms", reason));
    }
    if let Some(lease_ms) = lease_ms {
        check_milliseconds("lease_ms", *lease_ms, timeout_ms / 2)?;
    }
    Ok(())
}

/// Checks the body of `vm.ft-receive`.
///
/// # Errors
/// The first field that is wrong.
pub fn check_ft_receive(config: &FtReceiveConfig) -> Result<(), ConfigError> {
    let FtReceiveConfig {
        receiver_url,
        config_overrides,
    } = config;
    check_address("receiver_url", receiver_url)?;
    if let Some(serial) = config_overrides
        .as_ref()
        .and_then(|change| change.serial.as_ref())
    {
        serial_target("config_overrides.serial", serial)?;
    }
    Ok(())
}

pub(super) fn check_address(field: &str, text: &str) -> Result<(), ConfigError> {
    if text.starts_with("vsock:") {
        return Err(ConfigError::ValueNotSupported {
            field: field.to_owned(),
            value: text.to_owned(),
            supported: "tcp:HOST:PORT, unix:PATH",
        });
    }
    let parsed = text.parse::<Address>();
    parsed
        .map(drop)
        .map_err(|error| ConfigError::invalid(field, error.to_string()))
}

fn check_fence(text: &str) -> Result<(), ConfigError> {
    match text.split_once(':') {
        None if text == "none" => Ok(()),
        Some(("file", path)) if !path.is_empty() => Ok(()),
        Some(("etcd", _)) => Err(ConfigError::ValueNotSupported {
            field: "fence".to_owned(),
            value: text.to_owned(),
            supported: "file:PATH, none",
        }),
        _ => {
            let reason = format!("{text:?} is no fence; write file:PATH, or none to have none");
            Err(ConfigError::invalid("fence", reason))
        }
    }
}

fn check_milliseconds(field: &str, value: u64, longest: u64) -> Result<(), ConfigError> {
    if (1..=longest).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::invalid(
            field,
            format!("{value} is not between 1 and {longest}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn start(change: Value) -> Result<(), String> {
        let mut body = json!({"destination_url": "tcp:h:7000", "fence": "file:/f"});
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let config: FtStartConfig =
            serde_json::from_value(body).map_err(|error| error.to_string())?;
        check_ft_start(&config).map_err(|error| error.to_string())
    }

    fn receive(body: Value) -> Result<(), String> {
        let config = serde_json::from_value(body).map_err(|error| error.to_string())?;
        check_ft_receive(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn address_and_fence_are_enough() {
        assert_eq!(start(json!({})), Ok(()));
        assert_eq!(
            start(json!({"destination_url": "unix:/x", "fence": "none"})),
            Ok(())
        );
        assert_eq!(receive(json!({"receiver_url": "tcp:0.0.0.0:0"})), Ok(()));
    }

    #[test]
    fn every_wrong_field_of_a_start_is_named() {
        let table = [
            (json!({"destination_url": "h:7000"}), "destination_url"),
            (json!({"destination_url": ""}), "destination_url"),
            (json!({"destination_url": "tcp:h"}), "destination_url"),
            (json!({"destination_url": "tcp:h:65536"}), "destination_url"),
            (json!({"destination_url": "tcp:h:0"}), "destination_url"),
            (json!({"destination_url": "unix:"}), "destination_url"),
            (
                json!({"destination_url": "vsock:2:3"}),
                "destination_url: vsock:2:3",
            ),
            (json!({"fence": "nothing"}), "fence"),
            (json!({"fence": "file:"}), "fence"),
            (json!({"fence": "etcd:http://x"}), "fence: etcd:http://x"),
            (json!({"fence": null}), "string"),
            (json!({"mode": "fast"}), "fast"),
            (json!({"release": "never"}), "never"),
            (json!({"epoch_ms": 0}), "epoch_ms"),
            (json!({"epoch_ms": 10_001}), "epoch_ms"),
            (json!({"heartbeat_ms": 0}), "heartbeat_ms"),
            (json!({"heartbeat_ms": -1}), "-1"),
            (json!({"timeout_ms": 39}), "timeout_ms"),
            (json!({"timeout_ms": 600_001}), "timeout_ms"),
            (json!({"lease_ms": 0}), "lease_ms"),
            (json!({"lease_ms": 101}), "lease_ms"),
            (json!({"epochs": 1}), "epochs"),
        ];
        for (change, text) in table {
            let error = start(change.clone()).unwrap_err();
            assert!(error.contains(text), "{change}: {error}");
        }
    }

    #[test]
    fn receivers_may_send_the_serial_port_elsewhere_but_not_anywhere() {
        let overriding = |serial: Value| {
            receive(json!({"receiver_url": "unix:/r", "config_overrides": {"serial": serial}}))
        };
        assert_eq!(
            overriding(json!({"mode": "Socket", "socket": "/s"})),
            Ok(())
        );
        let table = [
            (
                overriding(json!({"mode": "Socket"})),
                "config_overrides.serial.socket",
            ),
            (overriding(json!({})), "missing field `mode`"),
            (receive(json!({"receiver_url": "x"})), "receiver_url"),
            (
                receive(json!({"receiver_url": "unix:/r", "config_overrides": {"pmem": []}})),
                "pmem",
            ),
        ];
        for (result, text) in table {
            let error = result.unwrap_err();
            assert!(error.contains(text), "{text}: {error}");
        }
    }
}
