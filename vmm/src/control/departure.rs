//! `vm.send-migration` and `vm.cancel-migration`: the VM goes to another host.

use std::sync::Arc;
use std::time::Duration;

use api_client::types::requests::{SendMigrationConfig, TimeoutStrategy};
use api_client::types::{MigrationState, VmConfig};

use super::{Control, ControlError, Notice, causes};
use crate::api::state::Protection;
use crate::migration::channel::{Cancel, Channel};
use crate::migration::progress::Progress;
use crate::migration::sender::{SendError, SendOptions, Sending};
use crate::vm::departure::Outline;
use crate::vm::{Address, VmHandle};

const OPERATION: &str = "The VM migration could not be sent";

/// Why nothing is done with a VM that a migration has left in the open.
pub(super) const AWAY: &str =
    "VM may run on another host since its last migration: resume it if it does not";

fn options(request: &SendMigrationConfig) -> Result<SendOptions, ControlError> {
    let address: Address = request
        .destination_url
        .parse()
        .map_err(|error| ControlError::request(OPERATION, format!("destination_url: {error}")))?;
    Ok(SendOptions {
        address,
        downtime: Duration::from_millis(request.downtime_ms),
        timeout: Duration::from_secs(request.timeout_s),
        stops_at_timeout: request.timeout_strategy == TimeoutStrategy::Ignore,
        connections: request.connections,
        local: request.local,
        preserves_source: request.preserve_source,
    })
}

/// A machine on its way.
struct Departing {
    handle: Arc<VmHandle>,
    vm: VmConfig,
    cancel: Cancel,
    progress: Progress,
}

impl Control {
    /// `vm.send-migration`: answered when it has begun. What comes of it is told by events, and by
    /// `vm.info`.
    ///
    /// # Errors
    /// When it cannot be begun: the destination cannot be reached, or the VM cannot migrate.
    pub fn send_migration(&self, request: &SendMigrationConfig) -> Result<(), ControlError> {
        let options = options(request)?;
        let departing = self.begin_departure(&options)?;
        let begun = self.connect_and_start(departing, options);
        if begun.is_err() {
            self.lock().departing = None;
        }
        begun
    }

    /// Keeps other calls away from the VM.
    fn begin_departure(&self, options: &SendOptions) -> Result<Departing, ControlError> {
        let handle = self.handle(OPERATION)?;
        let mut state = self.lock();
        if state.departing.is_some() {
            return Err(ControlError::state(OPERATION, "VM is migrating"));
        }
        let refused = |text: &str| ControlError::new(409, OPERATION, vec![text.to_owned()]);
        match &state.running {
            Some(running) if running.recorded => {
                return Err(refused("VM is recorded (--record): it cannot migrate"));
            }
            Some(running) if running.away => return Err(ControlError::state(OPERATION, AWAY)),
            Some(running) if running.live && running.protection == Protection::None => {}
            _ => {
                return Err(refused(
                    "VM is protected: end the protection with ft-stop first",
                ));
            }
        }
        let vm = state.config.clone().ok_or_else(|| {
            ControlError::new(404, OPERATION, vec!["VM config is missing".to_owned()])
        })?;
        if options.local && !vm.memory.shared {
            return Err(refused(&SendError::NotShared.to_string()));
        }
        if options.preserves_source && vm.disks.as_ref().is_some_and(|disks| !disks.is_empty()) {
            return Err(refused(
                "preserve_source: the VM would keep its disks, which the other needs",
            ));
        }
        let (cancel, progress) = (Cancel::default(), Progress::new(MigrationState::Copying));
        state.departing = Some(cancel.clone());
        Ok(Departing {
            handle,
            vm,
            cancel,
            progress,
        })
    }

    fn connect_and_start(
        &self,
        departing: Departing,
        options: SendOptions,
    ) -> Result<(), ControlError> {
        let unusable = |error: &dyn std::error::Error| ControlError::unusable(OPERATION, error);
        let stream = options.address.open().map_err(|error| unusable(&error))?;
        let channel = Channel::new(stream, departing.cancel.clone());
        let channel = channel.map_err(|error| unusable(&error))?;
        let Some(control) = self.itself.upgrade() else {
            return Ok(());
        };
        let failed = |error: &dyn std::error::Error| ControlError::failed(OPERATION, error);
        let handle = departing.handle.clone();
        let outline = handle.begin_copy().map_err(|error| failed(&error))?;
        let begun = std::thread::Builder::new()
            .name("migration-worker".to_owned())
            .spawn(move || control.depart(departing, &options, (channel, outline)));
        begun.map(drop).map_err(|error| {
            if let Err(error) = handle.return_to_host() {
                log::error!("the machine was not given back: {error}");
            }
            failed(&error)
        })
    }

    /// Migrates the VM, on a thread of its own.
    fn depart(
        self: Arc<Self>,
        departing: Departing,
        options: &SendOptions,
        (channel, outline): (Channel, Outline),
    ) {
        self.lock().last_migration = Some(departing.progress.clone());
        self.event("migration-started");
        let Departing {
            handle,
            vm,
            cancel,
            progress,
        } = departing;
        let tell = |name: &str, properties: Vec<(String, String)>| {
            (self.setting.events)("vm", name, properties);
        };
        let sending = Sending {
            source: handle.as_ref(),
            options,
            cancel,
            progress: progress.clone(),
            tell: &tell,
        };
        match sending.send(channel, vm, outline) {
            Ok(downtime) => {
                self.tell_of_departure(&progress, downtime);
                match options.preserves_source {
                    true => self.preserve(),
                    false => self.departed(handle),
                }
            }
            Err(error) => self.stay(&handle, &progress, &error),
        }
    }

    fn tell_of_departure(&self, progress: &Progress, downtime: Duration) {
        progress.end(MigrationState::Finished, None);
        let info = progress.info();
        let properties = vec![
            ("downtime_us".to_owned(), downtime.as_micros().to_string()),
            ("total_ms".to_owned(), info.elapsed_ms.to_string()),
            ("bytes".to_owned(), info.transferred_bytes.to_string()),
        ];
        log::info!(
            "the VM has migrated: downtime {} us, total {} ms, {} rounds, {} bytes",
            downtime.as_micros(),
            info.elapsed_ms,
            info.round + 1,
            info.transferred_bytes
        );
        (self.setting.events)("vm", "migration-finished", properties);
    }

    /// The VM is in two processes, paused in both: whoever resumes it says that the other will not.
    fn preserve(&self) {
        let mut state = self.lock();
        state.departing = None;
        if let Some(running) = &mut state.running {
            (running.paused, running.away) = (true, true);
        }
    }

    /// The VM is elsewhere: nothing of it stays here, and the process ends.
    fn departed(&self, handle: Arc<VmHandle>) {
        drop(handle);
        self.lock().departing = None;
        self.discard();
        // The main thread may be on its way out already.
        let _ = self.setting.notices.send(Notice::Migrated);
    }

    /// The VM goes on here, unless the destination may run it.
    fn stay(&self, handle: &VmHandle, progress: &Progress, error: &SendError) {
        let mut reason = causes(error).join(": ");
        let state = match error {
            SendError::Undecided(_) => MigrationState::Undecided,
            error if error.is_cancel() => MigrationState::Cancelled,
            _ => MigrationState::Failed,
        };
        let mut paused = state == MigrationState::Undecided;
        if !paused && let Err(error) = handle.return_to_host() {
            // It has ended by itself, or a disk is the destination's now.
            let text = causes(&error).join(": ");
            reason = format!("{reason}; the VM stays stopped here: {text}");
            paused = true;
        }
        log::error!("the VM has not migrated: {reason}");
        progress.end(state, Some(reason.clone()));
        {
            let mut state = self.lock();
            state.departing = None;
            if let Some(running) = &mut state.running {
                running.paused |= paused;
                running.away = paused;
            }
        }
        let properties = vec![("reason".to_owned(), reason)];
        (self.setting.events)("vm", "migration-failed", properties);
    }

    /// `vm.cancel-migration`: ends a migration from here or to here, as soon as that can be.
    ///
    /// # Errors
    /// When there is none.
    pub fn cancel_migration(&self) -> Result<(), ControlError> {
        const OPERATION: &str = "The VM migration could not be cancelled";
        let state = self.lock();
        let moving = state.departing.as_ref().or(state.arriving.as_ref());
        match moving {
            Some(cancel) => {
                cancel.cancel();
                Ok(())
            }
            None => Err(ControlError::state(OPERATION, "VM is not migrating")),
        }
    }
}
