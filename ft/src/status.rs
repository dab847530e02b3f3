//! What is told about protection: a status when asked, and events as they happen.

use serde::Serialize;

use crate::checkpoint::status::CheckpointStatus;
use crate::clock::ClockStats;
use crate::divergence::DivergenceReport;
use crate::failover::{FailoverPhases, Suspicion};
use crate::fence::Claim;
use crate::histogram::LatencySummary;
use crate::link::{Traffic, TrafficByKind};
use crate::parameters::Parameters;
use crate::time::{Epoch, Generation, LogPosition, LogicalTime};

/// What a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Executes for real, alone.
    Unprotected,
    /// Executes for real, with a backup or on the way to one.
    Primary,
    /// Replays.
    Backup,
    /// Does nothing any more.
    Ended,
}

/// Protection, as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct FtStatus {
    /// What this side is.
    pub role: Role,
    /// What it is doing, in a word or two.
    pub state: String,
    /// Its generation.
    pub generation: Generation,
    /// How epochs are closed, or would be if the mode were left open.
    pub mode: &'static str,
    /// Why that.
    pub mode_reason: String,
    /// What the pair has agreed on.
    pub parameters: Option<Parameters>,
    /// The epoch under way.
    pub epoch: Epoch,
    /// Logical time of the machine.
    pub logical_time: LogicalTime,
    /// How far log and backup are.
    pub positions: Positions,
    /// How far the backup is behind.
    pub lag: Lag,
    /// What was sent for the log.
    pub log: LogTraffic,
    /// Deltas that have closed epochs; none where a log does.
    pub checkpoint: Option<CheckpointStatus>,
    /// Outputs and how long they were held.
    pub outputs: OutputStatus,
    /// How well the guest's clock follows.
    pub clock: ClockStats,
    /// Divergences found since this side started.
    pub divergences: u64,
    /// Divergences repaired.
    pub repairs: u64,
    /// The last divergence.
    pub last_divergence: Option<DivergenceReport>,
    /// The last live clone.
    pub last_clone: Option<CloneSummary>,
    /// The last failover to this side.
    pub last_failover: Option<FailoverPhases>,
    /// How often the primary waited for its backup in this protection.
    pub throttled: Throttle,
    /// What keeps this side from going on, or why it ended.
    pub error: Option<String>,
}

/// Positions in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Positions {
    /// Last entry that the primary has written.
    pub recorded: LogPosition,
    /// Last entry that the backup has.
    pub received: LogPosition,
    /// Last entry that it has replayed.
    pub replayed: LogPosition,
    /// Last epoch end that it has verified.
    pub verified: LogPosition,
    /// Epochs that it has verified since the clone.
    pub epochs_verified: u64,
}

/// How far a backup is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lag {
    /// Epochs that are not verified.
    pub epochs: u64,
    /// Age of the oldest entry that is not replayed, in milliseconds.
    pub ms: f64,
    /// Ages that entries had when they were known to be replayed.
    pub replayed: LatencySummary,
}

/// What the log takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LogTraffic {
    /// Bytes in all, without clone, repair and handshake.
    pub bytes: u64,
    /// Rate in the last whole second.
    pub kbit_s: f64,
    /// Bytes by kind.
    pub bytes_by_kind: TrafficByKind<u64>,
    /// Rates by kind.
    pub kbit_s_by_kind: TrafficByKind<f64>,
}

impl LogTraffic {
    /// The figures of a link.
    #[must_use]
    pub fn of(traffic: &Traffic) -> Self {
        Self {
            bytes: traffic.log_bytes(),
            kbit_s: traffic.log_kbit_s(),
            bytes_by_kind: traffic.bytes(),
            kbit_s_by_kind: traffic.kbit_s(),
        }
    }
}

/// Outputs, as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OutputStatus {
    /// How many are held.
    pub waiting: u64,
    /// Number of the last that left.
    pub released: u64,
    /// How long they were held.
    pub added_latency: LatencySummary,
}

/// What happened to one virtual machine on this side, whatever role it had.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) divergences: u64,
    pub(crate) repairs: u64,
    pub(crate) last_divergence: Option<DivergenceReport>,
    pub(crate) last_clone: Option<CloneSummary>,
    pub(crate) last_failover: Option<FailoverPhases>,
}

/// How often and how long the primary waited for its backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttle {
    /// How often it had to stop because the window was full, or was slowed further for a clone.
    pub count: u64,
    /// How long it was kept in all, short rests included, in milliseconds.
    pub total_ms: u64,
}

/// A live clone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CloneSummary {
    /// Rounds of dirty-page copying, the pause included.
    pub rounds: u64,
    /// Pages sent, each as often as it was.
    pub pages: u64,
    /// From the first page to the resumed guest, in milliseconds.
    pub total_ms: f64,
    /// How long the guest stood still.
    pub pause_ms: f64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum FtEvent {
    /// Protection could not be started; the machine goes on as it was.
    StartFailed {
        /// Why.
        reason: String,
    },
    /// There is no fence: a partition may leave two machines live.
    Unfenced,
    /// The backup has the whole clone; the guest runs protected.
    Protected {
        /// The generation.
        generation: Generation,
        /// How the clone went.
        clone: CloneSummary,
    },
    /// An input was refused by the machine.
    InputRefused {
        /// Why.
        reason: String,
    },
    /// The primary waits for its backup.
    Throttled {
        /// Epochs that are not verified.
        lag_epochs: u64,
    },
    /// Nothing leaves: each acknowledgement comes when the lease that it gives is over already.
    LeaseTooShort {
        /// How long a lease is, in milliseconds.
        lease_ms: u64,
        /// How long the last acknowledgement took, in milliseconds.
        took_ms: u64,
    },
    /// The backup's state was not the primary's.
    Diverged {
        /// In what.
        report: Box<DivergenceReport>,
    },
    /// It is again.
    Repaired {
        /// Pages that were shipped.
        pages: u64,
        /// Sections that were shipped.
        sections: u64,
    },
    /// The peer is suspected.
    Suspected {
        /// Why.
        cause: Suspicion,
    },
    /// The fence cannot be asked; it is tried again.
    FenceUnavailable {
        /// What the host said.
        error: String,
    },
    /// The backup is lost; the machine goes on alone.
    ProtectionLost {
        /// Why.
        cause: Suspicion,
        /// The generation it goes on with.
        generation: Generation,
    },
    /// Another side is live; this one has halted itself.
    Fenced {
        /// Who.
        owner: String,
        /// With which generation.
        generation: Generation,
    },
    /// The backup has become primary.
    Promoted {
        /// The generation.
        generation: Generation,
        /// How long it took.
        phases: FailoverPhases,
    },
    /// The primary has become backup, as planned.
    Demoted {
        /// The generation of the new primary.
        generation: Generation,
    },
    /// A planned failover did not take place; everything is as before.
    FailoverDeclined {
        /// Why.
        reason: String,
    },
    /// Protection has ended, as asked for.
    Stopped,
    /// The recording of an offline log has failed and ended; the machine goes on.
    RecordingFailed {
        /// Why.
        reason: String,
    },
}

impl FtEvent {
    /// The event of having lost to a claim.
    #[must_use]
    pub fn fenced(claim: &Claim) -> Self {
        Self::Fenced {
            owner: claim.owner.clone(),
            generation: claim.generation,
        }
    }
}

/// Why a side does nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest has switched itself off and all its outputs have left.
    PoweredOff,
    /// Another side is live.
    Fenced(String),
    /// Protection was ended while this side was a backup.
    Stopped,
    /// It cannot go on.
    Failed(String),
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Come again at once; there is more to execute.
    Run,
    /// Come again when bytes or inputs have come, or at this time.
    Wait(HostTimeOrNever),
    /// Do not come again.
    Ended(End),
}

/// A host time, or none.
pub type HostTimeOrNever = Option<crate::time::HostTime>;
