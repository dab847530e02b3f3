//! Protection from the primary's side, and how it stands on either.

use std::time::{Duration, Instant};

use api_client::types::{FtFailoverConfig, FtMode, FtRelease, FtStartConfig, HypervisorChoice};
use ft::mode::Mode;
use ft::output::ReleasePolicy;
use ft::parameters::Parameters;

use super::{Control, ControlError};
use crate::api::state::{Phase, Protection};
use crate::backend;
use crate::vm::{Address, Protect};

const START: &str = "The VM could not be protected";
/// Longest time a live clone may take before the caller is told to look later.
const START_TIMEOUT: Duration = Duration::from_secs(120);

fn parameters(request: &FtStartConfig) -> Result<Parameters, ControlError> {
    let defaults = Parameters::default();
    let parameters = Parameters {
        mode: match request.mode {
            FtMode::Auto => Mode::Auto,
            FtMode::Replay => Mode::Replay,
            FtMode::Checkpoint => Mode::Checkpoint,
        },
        release: match request.release {
            Some(FtRelease::Received) => ReleasePolicy::Received,
            Some(FtRelease::Replayed) => ReleasePolicy::Replayed,
            Some(FtRelease::Verified) => ReleasePolicy::Verified,
            None => defaults.release,
        },
        epoch_ms: request.epoch_ms,
        heartbeat_ms: request.heartbeat_ms,
        timeout_ms: request.timeout_ms,
        lease_ms: request
            .lease_ms
            .unwrap_or(defaults.lease_ms.min(request.timeout_ms / 2).max(1)),
        fence: request.fence.clone(),
        ..defaults
    };
    parameters
        .validate()
        .map_err(|error| ControlError::request(START, error.to_string()))?;
    if parameters.fence != "none" && !parameters.fence.starts_with("file:") {
        let reason = format!("fence: {:?} is not file:PATH or none", parameters.fence);
        return Err(ControlError::request(START, reason));
    }
    Ok(parameters)
}

impl Control {
    /// `vm.ft-start`: answered when the VM is protected, or cannot be.
    ///
    /// # Errors
    /// When it cannot be; the VM then runs on as it was.
    pub fn ft_start(&self, request: &FtStartConfig) -> Result<(), ControlError> {
        let handle = self.handle(START)?;
        let parameters = parameters(request)?;
        let address: Address = request
            .destination_url
            .parse()
            .map_err(|error| ControlError::request(START, format!("destination_url: {error}")))?;
        let status = handle.status();
        let status = status.map_err(|error| ControlError::failed(START, &error))?;
        let config = self.begin_start(&address, backend::named(status.hypervisor))?;
        let begun = address
            .connect()
            .map_err(|error| ControlError::unusable(START, &error))
            .and_then(|connection| {
                let protect = Protect {
                    connection,
                    parameters,
                    config,
                };
                handle
                    .protect(protect)
                    .map_err(|error| ControlError::unusable(START, &error))
            });
        if let Err(error) = begun {
            if let Some(running) = &mut self.lock().running {
                running.protection = Protection::None;
            }
            return Err(error);
        }
        self.wait_until_started()
    }

    /// Keeps other starts away, and gives the configuration that the backup is to have.
    /// Its machine is to be the same, so it has to take the backend that runs it here.
    fn begin_start(
        &self,
        address: &Address,
        backend: HypervisorChoice,
    ) -> Result<Vec<u8>, ControlError> {
        let mut state = self.lock();
        let mut config = state.config.clone();
        if let Some(config) = &mut config {
            let platform = config.platform.get_or_insert_default();
            platform.hypervisor = Some(backend);
        }
        let config =
            serde_json::to_vec(&config).map_err(|error| ControlError::failed(START, &error))?;
        if state.departing.is_some() {
            let reason = vec!["VM is migrating".to_owned()];
            return Err(ControlError::new(409, START, reason));
        }
        match &mut state.running {
            Some(running) if running.recorded => {
                let reason = vec!["VM is recorded (--record): it cannot be protected".to_owned()];
                return Err(ControlError::new(409, START, reason));
            }
            Some(running) if running.protection == Protection::None => {
                running.protection = Protection::Starting;
            }
            _ => {
                let reason = vec!["VM is being protected already".to_owned()];
                return Err(ControlError::new(409, START, reason));
            }
        }
        state.started = None;
        state.peer = Some(address.to_string());
        Ok(config)
    }

    fn wait_until_started(&self) -> Result<(), ControlError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut state = self.lock();
        loop {
            if let Some(outcome) = state.started.take() {
                return outcome.map_err(|reason| ControlError::request(START, reason));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!(
                    "the clone is not complete after {} s; ft-status tells more",
                    START_TIMEOUT.as_secs()
                );
                return Err(ControlError::new(500, START, vec![reason]));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// `vm.ft-status`.
    ///
    /// # Errors
    /// When there is neither a VM nor a receiver.
    pub fn ft_status(&self) -> Result<serde_json::Value, ControlError> {
        let (handle, receiving) = {
            let state = self.lock();
            let handle = state.running.as_ref().map(|running| running.handle.clone());
            let receiving = state
                .receiving
                .as_ref()
                .map(|receiving| receiving.describe());
            (handle, receiving)
        };
        if let Some(handle) = handle {
            if let Ok(status) = handle.status() {
                return Ok(self.status_value(&self.lock(), &status));
            }
            if let Some(last) = self.lock().last_status.clone() {
                return Ok(last);
            }
        }
        receiving.ok_or_else(|| {
            ControlError::state(
                "The protection status is not available",
                "VM is not running",
            )
        })
    }

    /// `vm.ft-stop`.
    ///
    /// # Errors
    /// When the VM is not protected, or this side is the backup.
    pub fn ft_stop(&self) -> Result<(), ControlError> {
        const OPERATION: &str = "The protection could not be stopped";
        if self.lock().phase() == Phase::Backup {
            // A backup ends by leaving; its primary goes on unprotected.
            self.delete();
            return Ok(());
        }
        let handle = self.handle(OPERATION)?;
        handle
            .stop_protection()
            .map_err(|error| ControlError::failed(OPERATION, &error))
    }

    /// `vm.ft-failover`.
    ///
    /// # Errors
    /// When the VM is not protected, or this side is the backup.
    pub fn ft_failover(&self, request: &FtFailoverConfig) -> Result<(), ControlError> {
        const OPERATION: &str = "The roles could not be swapped";
        if !request.planned {
            let reason = "planned: an unplanned failover is what the backup does by itself when \
                          its primary is gone"
                .to_owned();
            return Err(ControlError::request(OPERATION, reason));
        }
        let handle = self.handle(OPERATION)?;
        handle
            .fail_over()
            .map_err(|error| ControlError::failed(OPERATION, &error))
    }
}
