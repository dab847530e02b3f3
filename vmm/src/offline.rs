//! Offline recordings: writing one beside a running VM, and replaying one with every digest
//! checked.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use ft::log::{LogError, LogReader};
use ft::verify::{VerifyError, VerifySummary, verify};
use hypervisor::capabilities::LogicalClock;
use hypervisor::{Hypervisor, MemoryKind};

use crate::host::serial::{SerialError, SerialHost, SerialTarget};
use crate::machine::{BuildError, DiskStores, MachineConfig, SERIAL, VirtualMachine};

/// Why a recording cannot be written or replayed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The file cannot be opened.
    #[error("cannot open recording {path}")]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// It is no recording, or a damaged one.
    #[error("cannot read recording {path}")]
    Log {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: LogError,
    },
    /// It is of a machine that this program cannot make.
    #[error("the recording is of another machine: {0}")]
    Machine(String),
    /// The machine cannot be made.
    #[error("cannot make the machine of the recording")]
    Build(#[from] BuildError),
    /// The backend cannot go to a logical time.
    #[error(
        "{0} does not tell where a guest is, so it cannot replay; use --platform \
         hypervisor=software"
    )]
    Clock(&'static str),
    /// The serial output cannot be shown.
    #[error("cannot show the serial output")]
    Serial(#[from] SerialError),
    /// Replay failed.
    #[error("cannot replay the recording")]
    Replay(#[from] VerifyError),
}

/// Makes the file of a recording.
///
/// # Errors
/// When it cannot be made.
pub fn create(path: &Path) -> Result<ft::primary::LogSink, OfflineError> {
    let file = File::create(path).map_err(|source| OfflineError::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
}

/// Replays the recording at `path` and checks every digest in it.
///
/// # Errors
/// When it cannot be replayed. A divergence is not an error; it is in the summary.
pub fn replay(
    path: &Path,
    serial: Option<SerialTarget>,
    hypervisor: &dyn Hypervisor,
) -> Result<VerifySummary, OfflineError> {
    let failed = |source| OfflineError::Log {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|source| OfflineError::Open {
        path: path.to_owned(),
        source,
    })?;
    let mut reader = LogReader::open(BufReader::with_capacity(1 << 20, file)).map_err(failed)?;
    let fingerprint = reader.header().fingerprint.clone();
    let config =
        MachineConfig::from_fingerprint(&fingerprint).ok_or(OfflineError::Machine(fingerprint))?;
    let mut machine =
        VirtualMachine::blank(config, MemoryKind::Private, DiskStores::new(), hypervisor)?;
    if machine.logical_clock() != LogicalClock::Instructions {
        return Err(OfflineError::Clock(machine.hypervisor_name()));
    }
    let mut host = serial.map(|target| SerialHost::new(target, std::sync::Arc::new(|_: &[u8]| {})));
    if let Some(host) = &mut host {
        host.activate(false)?;
    }
    let summary = verify(&mut reader, &mut machine, |outputs| {
        for numbered in outputs {
            if let (Some(host), SERIAL) = (&host, numbered.output.device) {
                host.write(&numbered.output.payload);
            }
        }
        true
    })?;
    Ok(summary)
}
