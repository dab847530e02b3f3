//! The fault-tolerance calls, checked and in the types that the monitor works with.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use api_client::types::{FtMode, FtReceiveConfig, FtRelease, FtStartConfig, SerialConfig};

use super::settings::serial_target;
use super::{ConfigError, PeerAddress};
use crate::host::serial::SerialTarget;

/// Longest epoch that may be asked for.
const LONGEST_EPOCH_MS: u64 = 10_000;
/// Longest silence that may be asked for before a peer is suspected.
const LONGEST_TIMEOUT_MS: u64 = 600_000;

/// What decides who lives when two peers lose each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceTarget {
    /// Nothing does: both may go on.
    None,
    /// An atomic test-and-set on storage that both can reach.
    File(PathBuf),
}

impl FenceTarget {
    /// Reads `file:PATH` or `none`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("etcd", _)) => Err(format!("{text:?}: etcd is not supported by this build")),
            _ => Err(format!("{text:?} is no fence; write file:PATH, or none to have none")),
        }
    }
}

impl fmt::Display for FenceTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::File(path) => write!(formatter, "file:{}", path.display()),
        }
    }
}

/// `vm.ft-start`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FtStart {
    /// Where the backup listens.
    pub destination: PeerAddress,
    /// How the backup follows.
    pub mode: FtMode,
    /// What lets an output leave; `None` leaves the choice to the clock's precision.
    pub release: Option<FtRelease>,
    /// Length of an epoch.
    pub epoch: Duration,
    /// What decides who lives.
    pub fence: FenceTarget,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Silence after which the peer is suspected.
    pub timeout: Duration,
}

impl FtStart {
    /// Checks the body of `vm.ft-start`.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(config: &FtStartConfig) -> Result<Self, ConfigError> {
        let FtStartConfig {
            destination_url,
            mode,
            release,
            epoch_ms,
            fence,
            heartbeat_ms,
            timeout_ms,
        } = config;
        let destination = PeerAddress::parse(destination_url)
            .map_err(|reason| ConfigError::invalid("destination_url", reason))?;
        if matches!(&destination, PeerAddress::Tcp { port: 0, .. }) {
            return Err(ConfigError::invalid("destination_url", "port 0 cannot be connected to"));
        }
        let fence =
            FenceTarget::parse(fence).map_err(|reason| ConfigError::invalid("fence", reason))?;
        let epoch = milliseconds("epoch_ms", *epoch_ms, LONGEST_EPOCH_MS)?;
        let heartbeat = milliseconds("heartbeat_ms", *heartbeat_ms, LONGEST_TIMEOUT_MS)?;
        let timeout = milliseconds("timeout_ms", *timeout_ms, LONGEST_TIMEOUT_MS)?;
        if timeout < heartbeat * 2 {
            return Err(ConfigError::invalid(
                "timeout_ms",
                format!("{timeout_ms} is less than two heartbeats of {heartbeat_ms} ms"),
            ));
        }
        let (mode, release) = (*mode, *release);
        Ok(Self { destination, mode, release, epoch, fence, heartbeat, timeout })
    }
}

fn milliseconds(field: &str, value: u64, longest: u64) -> Result<Duration, ConfigError> {
    if (1..=longest).contains(&value) {
        Ok(Duration::from_millis(value))
    } else {
        Err(ConfigError::invalid(field, format!("{value} is not between 1 and {longest}")))
    }
}

/// `vm.ft-receive`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FtReceive {
    /// Where to listen.
    pub receiver: PeerAddress,
    /// Where the serial port's bytes go on this host, if that was said; the inner `None` is a
    /// port that is off, which is then refused if the primary's machine has one.
    pub serial: Option<Option<SerialTarget>>,
    /// The override as it was given, for the configuration that `vm.info` shows.
    pub serial_config: Option<SerialConfig>,
}

impl FtReceive {
    /// Checks the body of `vm.ft-receive`.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(config: &FtReceiveConfig) -> Result<Self, ConfigError> {
        let FtReceiveConfig { receiver_url, config_overrides } = config;
        let receiver = PeerAddress::parse(receiver_url)
            .map_err(|reason| ConfigError::invalid("receiver_url", reason))?;
        let serial_config =
            config_overrides.as_ref().and_then(|overrides| overrides.serial.clone());
        let serial = serial_config
            .as_ref()
            .map(|serial| serial_target("config_overrides.serial", serial))
            .transpose()?;
        Ok(Self { receiver, serial, serial_config })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn start(change: Value) -> Result<FtStart, String> {
        let mut body = json!({"destination_url": "tcp:h:7000", "fence": "file:/f"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let config: FtStartConfig =
            serde_json::from_value(body).map_err(|error| error.to_string())?;
        FtStart::parse(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_interface() {
        let start = start(json!({})).unwrap();
        assert_eq!(start.epoch, Duration::from_millis(10));
        assert_eq!(start.heartbeat, Duration::from_millis(20));
        assert_eq!(start.timeout, Duration::from_millis(200));
        assert_eq!((start.mode, start.release), (FtMode::Auto, None));
        assert_eq!(start.fence, FenceTarget::File("/f".into()));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let table = [
            (json!({"destination_url": "h:7000"}), "destination_url"),
            (json!({"destination_url": "tcp:h:0"}), "destination_url"),
            (json!({"fence": "nothing"}), "fence"),
            (json!({"fence": "file:"}), "fence"),
            (json!({"fence": "etcd:http://x"}), "fence"),
            (json!({"fence": null}), "string"),
            (json!({"mode": "fast"}), "fast"),
            (json!({"release": "never"}), "never"),
            (json!({"epoch_ms": 0}), "epoch_ms"),
            (json!({"epoch_ms": 10_001}), "epoch_ms"),
            (json!({"heartbeat_ms": 0}), "heartbeat_ms"),
            (json!({"heartbeat_ms": -1}), "-1"),
            (json!({"timeout_ms": 39}), "timeout_ms"),
            (json!({"timeout_ms": 600_001}), "timeout_ms"),
            (json!({"epochs": 1}), "epochs"),
        ];
        for (change, text) in table {
            let error = start(change.clone()).unwrap_err();
            assert!(error.contains(text), "{change}: {error}");
        }
    }

    #[test]
    fn receivers_may_send_the_serial_port_elsewhere() {
        let parse = |body: Value| {
            let config = serde_json::from_value(body).map_err(|error| error.to_string())?;
            FtReceive::parse(&config).map_err(|error| error.to_string())
        };
        let plain = parse(json!({"receiver_url": "tcp:0.0.0.0:0"})).unwrap();
        assert_eq!(plain.serial, None);
        let socket = json!({"mode": "Socket", "socket": "/s"});
        let overridden = json!({"receiver_url": "unix:/r", "config_overrides": {"serial": socket}});
        let socket = Some(Some(SerialTarget::Socket("/s".into())));
        assert_eq!(parse(overridden).unwrap().serial, socket);

        let pty = json!({"receiver_url": "unix:/r", "config_overrides": {"serial": {"mode": "Pty"}}});
        let error = parse(pty).unwrap_err();
        assert!(error.contains("config_overrides.serial.mode") && error.contains("Pty"), "{error}");
        let unknown = json!({"receiver_url": "unix:/r", "config_overrides": {"disks": []}});
        assert!(parse(unknown).unwrap_err().contains("disks"));
    }
}
