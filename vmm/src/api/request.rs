//! What a client may ask, and what it is told.

use api_client::types::requests::{
    ReceiveMigrationConfig, RestoreConfig, SendMigrationConfig, VmResizeDisk, VmSnapshotConfig,
};
use api_client::types::{FtFailoverConfig, FtReceiveConfig, FtStartConfig, VmConfig};
use serde_json::Value;

use super::ApiError;
use super::state::Call;

/// A call, with its body read and checked as far as that is possible without the VM.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `vmm.ping`.
    VmmPing,
    /// `vmm.shutdown`.
    VmmShutdown,
    /// `vm.create`; the configuration is validated at boot, not here.
    VmCreate(Box<VmConfig>),
    /// `vm.delete`.
    VmDelete,
    /// `vm.boot`.
    VmBoot,
    /// `vm.pause`.
    VmPause,
    /// `vm.resume`.
    VmResume,
    /// `vm.shutdown`.
    VmShutdown,
    /// `vm.reboot`.
    VmReboot,
    /// `vm.power-button`.
    VmPowerButton,
    /// `vm.nmi`.
    VmNmi,
    /// `vm.info`.
    VmInfo,
    /// `vm.counters`.
    VmCounters,
    /// `vm.resize-disk`.
    VmResizeDisk(VmResizeDisk),
    /// `vm.snapshot`.
    VmSnapshot(VmSnapshotConfig),
    /// `vm.restore`, checked.
    VmRestore(RestoreConfig),
    /// `vm.send-migration`, checked.
    SendMigration(SendMigrationConfig),
    /// `vm.receive-migration`, checked.
    ReceiveMigration(ReceiveMigrationConfig),
    /// `vm.cancel-migration`.
    CancelMigration,
    /// `vm.ft-receive`, checked.
    FtReceive(FtReceiveConfig),
    /// `vm.ft-start`, checked.
    FtStart(FtStartConfig),
    /// `vm.ft-status`.
    FtStatus,
    /// `vm.ft-stop`.
    FtStop,
    /// `vm.ft-failover`.
    FtFailover(FtFailoverConfig),
    /// A call that the interface has and this build does not: its name.
    Unsupported(&'static str),
}

impl Request {
    /// Which call this is, for the rules of [`super::state`]; `None` for an unsupported one.
    #[must_use]
    pub fn call(&self) -> Option<Call> {
        Some(match self {
            Self::VmmPing => Call::VmmPing,
            Self::VmmShutdown => Call::VmmShutdown,
            Self::VmCreate(_) => Call::VmCreate,
            Self::VmDelete => Call::VmDelete,
            Self::VmBoot => Call::VmBoot,
            Self::VmPause => Call::VmPause,
            Self::VmResume => Call::VmResume,
            Self::VmShutdown => Call::VmShutdown,
            Self::VmReboot => Call::VmReboot,
            Self::VmPowerButton => Call::VmPowerButton,
            Self::VmNmi => Call::VmNmi,
            Self::VmInfo => Call::VmInfo,
            Self::VmCounters => Call::VmCounters,
            Self::VmResizeDisk(_) => Call::VmResizeDisk,
            Self::VmSnapshot(_) => Call::VmSnapshot,
            Self::VmRestore(_) => Call::VmRestore,
            Self::SendMigration(_) => Call::SendMigration,
            Self::ReceiveMigration(_) => Call::ReceiveMigration,
            Self::CancelMigration => Call::CancelMigration,
            Self::FtReceive(_) => Call::FtReceive,
            Self::FtStart(_) => Call::FtStart,
            Self::FtStatus => Call::FtStatus,
            Self::FtStop => Call::FtStop,
            Self::FtFailover(_) => Call::FtFailover,
            Self::Unsupported(_) => return None,
        })
    }
}

/// What a client is told when its call succeeded.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nothing more.
    Empty,
    /// A body.
    Json(Value),
}

/// Whoever carries out the calls: the monitor.
pub trait Requests: Send + Sync {
    /// Carries out one call. May be called from several threads at once.
    ///
    /// # Errors
    /// The refusal that the client sees.
    fn handle(&self, request: Request) -> Result<Answer, ApiError>;
}
