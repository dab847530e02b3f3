//! Bodies of the fault-tolerance calls.
//!
//! The answer of `vm.ft-status` is an open JSON object here: it grows with the replication
//! engine, and tools show what they find.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::console::{ConsoleConfig, SerialConfig};

/// How the backup learns what the primary did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FtMode {
    /// Whichever the capabilities allow.
    #[default]
    Auto,
    /// The backup re-executes from the log.
    Replay,
    /// State and dirty pages close every epoch.
    Checkpoint,
}

/// Which acknowledgement lets an output leave the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FtRelease {
    /// The log has arrived in the backup's memory.
    Received,
    /// The backup has executed up to the output.
    Replayed,
    /// The epoch's digests were equal.
    Verified,
}

/// What differs on the backup's host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigOverrides {
    /// Where the serial port's bytes go here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialConfig>,
    /// Where the virtio console's bytes go here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleConfig>,
    /// Disks whose images are elsewhere here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskOverride>>,
    /// Network interfaces with other taps here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<NetOverride>>,
    /// The socket device's Unix socket here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockOverride>,
}

/// A disk's image on the backup's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskOverride {
    /// The disk's name.
    pub id: String,
    /// Image file; made if it is not there and the disk is replicated.
    pub path: PathBuf,
}

/// A network interface's tap on the backup's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetOverride {
    /// The interface's name.
    pub id: String,
    /// Name of the tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Address of the tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Its netmask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

/// The socket device on the backup's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockOverride {
    /// Unix socket.
    pub socket: PathBuf,
}

/// Body of `vm.ft-receive`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtReceiveConfig {
    /// Where to listen: `tcp:HOST:PORT`, `unix:PATH`, `vsock:CID:PORT`.
    pub receiver_url: String,
    /// What differs on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_overrides: Option<ConfigOverrides>,
}

/// Body of `vm.ft-start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtStartConfig {
    /// Where the backup listens.
    pub destination_url: String,
    /// How the backup follows.
    #[serde(default)]
    pub mode: FtMode,
    /// What lets an output leave; chosen by the clock's precision if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<FtRelease>,
    /// Length of an epoch in milliseconds.
    #[serde(default = "epoch_ms")]
    pub epoch_ms: u64,
    /// What decides who lives: `file:PATH`, `etcd:URL`, or `none`.
    pub fence: String,
    /// Milliseconds between heartbeats.
    #[serde(default = "heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// Silence after which the peer is suspected.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// How long an acknowledgement lets outputs leave, in milliseconds, at most half of the
    /// timeout; 20 or that half if not given. None leave if the way there and back takes longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// Body of `vm.ft-failover`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FtFailoverConfig {
    /// Swap roles at an epoch boundary; `false` promotes a backup whose primary is gone.
    #[serde(default = "yes")]
    pub planned: bool,
}

impl Default for FtFailoverConfig {
    fn default() -> Self {
        Self { planned: yes() }
    }
}

fn epoch_ms() -> u64 {
    10
}

fn heartbeat_ms() -> u64 {
    20
}

fn timeout_ms() -> u64 {
    200
}

fn yes() -> bool {
    true
}
