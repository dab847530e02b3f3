//! The life of the one VM of this process: created, booted, received, protected, ended.
//!
//! ```text
//!   (nothing) ─create─▶ created ─boot─▶ running ⇄ paused ─shutdown─▶ created ─delete─▶ (nothing)
//!       ├──ft-receive──▶ receiving ─(promotion)─▶ running
//!       ├──receive-migration─▶ arriving ────────▶ running or paused
//!       └──restore──────────────────────────────▶ paused or running
//!                                                 running or paused ─send-migration─▶ (the end)
//! ```
//!
//! API threads call in at any time. They take the lock only to look at or change what is here;
//! whatever the machine's thread must answer is asked without it, since that thread reports
//! events under the same lock.

mod arrival;
mod counters;
mod departure;
mod error;
mod events;
mod info;
mod protect;
mod receive;
mod requests;
mod resize;
mod snapshot;

use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api_client::types::{HypervisorChoice, VmConfig};
use ft::event::ControlOp;
use ft::machine::Machine;
use ft::status::End;
use hypervisor::{Hypervisor, HypervisorError};

use crate::api::state::{Phase, Protection};
use crate::config::{HostLimits, VmSettings};
use crate::host::devices::{self as host, HostDevices, Images};
use crate::loader::Payload;
use crate::machine::{MachineConfig, VirtioSpec, VirtualMachine};
use crate::migration::channel::Cancel;
use crate::migration::progress::Progress;
use crate::vm::{Mailbox, Message, Start, VmEvent, VmHandle};

pub use error::{BootError, ControlError, causes};
pub use receive::Receiving;

/// What `vm.boot` says when it fails.
const BOOT: &str = "The VM could not boot";
/// How long the end of a protected machine waits for its backup to know.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes events for whoever monitors: source, name, properties.
pub type EventSink = Arc<dyn Fn(&str, &str, Vec<(String, String)>) + Send + Sync>;

/// What the process's main thread must deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The machine has gone to another host, which goes on with it.
    Migrated,
    /// The machine has ended by itself; `live` says whether it executed for real here.
    Ended {
        /// Why.
        end: End,
        /// Whether it was live.
        live: bool,
    },
    /// `vmm.shutdown` was called, or a signal came.
    Quit,
}

/// What does not change while the process lives.
pub struct Setting {
    /// Chooses the backend of a VM.
    pub backends: fn(HypervisorChoice) -> Result<Arc<dyn Hypervisor>, HypervisorError>,
    /// Events for the monitor.
    pub events: EventSink,
    /// Notices for the main thread.
    pub notices: Sender<Notice>,
    /// Name of this side at fences; unique among all.
    pub owner: String,
}

/// A VM that exists.
struct Running {
    handle: Arc<VmHandle>,
    paused: bool,
    /// It stands still behind a migration that failed: another host may run it.
    away: bool,
    /// It executes for real here.
    live: bool,
    /// A log of it is or was written, so its disks are not the machine's own.
    recorded: bool,
    protection: Protection,
    /// Why the machine ended by itself.
    ended: Option<End>,
}

impl Running {
    fn new(handle: Arc<VmHandle>, live: bool) -> Self {
        Self {
            handle,
            paused: false,
            away: false,
            live,
            recorded: false,
            protection: Protection::None,
            ended: None,
        }
    }
}

impl State {
    /// What the rules about calls ask for.
    fn phase(&self) -> Phase {
        match &self.running {
            // A backup that came to nothing leaves nothing behind.
            Some(Running {
                ended: Some(_),
                live: false,
                ..
            }) => Phase::Nothing,
            Some(Running { ended: Some(_), .. }) => Phase::Created,
            Some(Running { live: false, .. }) => Phase::Backup,
            Some(_) if self.departing.is_some() => Phase::Migrating,
            Some(Running { paused: true, .. }) => Phase::Paused,
            Some(_) => Phase::Running,
            None if self.booting => Phase::Booting,
            None if self.arriving.is_some() => Phase::Arriving,
            None if self.receiving.is_some() => Phase::Backup,
            None if self.config.is_some() => Phase::Created,
            None => Phase::Nothing,
        }
    }

    fn protection(&self) -> Protection {
        self.running
            .as_ref()
            .map_or(Protection::None, |running| running.protection)
    }
}

#[derive(Default)]
struct State {
    config: Option<VmConfig>,
    running: Option<Running>,
    receiving: Option<Receiving>,
    /// The machine is on its way to another host.
    departing: Option<Cancel>,
    /// A machine is on its way here.
    arriving: Option<Cancel>,
    /// The last migration.
    last_migration: Option<Progress>,
    /// A machine is being made; there is none yet.
    booting: bool,
    /// Where the backup is or was.
    peer: Option<String>,
    /// What the last `ft-start` came to, until it is asked for.
    started: Option<Result<(), String>>,
    /// Protection as it stood when the machine ended.
    last_status: Option<serde_json::Value>,
}

/// The VM of this process and what becomes of it.
pub struct Control {
    setting: Setting,
    state: Mutex<State>,
    changed: Condvar,
    itself: Weak<Self>,
}

impl Control {
    /// Nothing yet.
    pub fn new(setting: Setting) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            setting,
            state: Mutex::default(),
            changed: Condvar::new(),
            itself: itself.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, name: &str) {
        (self.setting.events)("vm", name, Vec::new());
    }

    /// The machine's handle.
    fn handle(&self, operation: &str) -> Result<Arc<VmHandle>, ControlError> {
        match &self.lock().running {
            Some(Running {
                handle,
                ended: None,
                ..
            }) => Ok(handle.clone()),
            Some(Running {
                ended: Some(end), ..
            }) => Err(ControlError::state(
                operation,
                &format!("The VM has ended: {end:?}"),
            )),
            None => Err(ControlError::state(operation, "VM is not running")),
        }
    }

    /// `vm.create`.
    ///
    /// # Errors
    /// When there is a VM.
    pub fn create(&self, mut config: VmConfig) -> Result<(), ControlError> {
        let mut state = self.lock();
        if state.phase() != Phase::Nothing {
            return Err(ControlError::state(
                "The VM could not be created",
                "VM is already created",
            ));
        }
        let mut lacking = None;
        VmSettings::settle(&mut config, || {
            random_address().unwrap_or_else(|error| {
                lacking = Some(error);
                [0; 6]
            })
        });
        if let Some(error) = lacking {
            return Err(ControlError::failed("The VM could not be created", &error));
        }
        state.config = Some(config);
        // A backup that came to nothing; its thread may be reporting, so the lock must be free.
        let before = state.running.take();
        drop(state);
        drop(before);
        Ok(())
    }

    /// `vm.boot`; with a log of it if there is a sink.
    ///
    /// # Errors
    /// When there is no configuration, it is not valid, or the machine cannot be made.
    pub fn boot(&self, sink: Option<ft::primary::LogSink>) -> Result<(), ControlError> {
        let config = {
            let mut state = self.lock();
            let config = state.config.clone().ok_or_else(|| {
                ControlError::new(404, BOOT, vec!["VM config is missing".to_owned()])
            })?;
            let exists = state
                .running
                .as_ref()
                .is_some_and(|running| running.ended.is_none());
            if exists || std::mem::replace(&mut state.booting, true) {
                return Err(ControlError::state(BOOT, "VM is already created"));
            }
            config
        };
        let booted = self.boot_configured(&config, sink);
        self.lock().booting = false;
        booted
    }

    /// Makes and starts the machine of a configuration. Nobody else does meanwhile.
    fn boot_configured(
        &self,
        config: &VmConfig,
        sink: Option<ft::primary::LogSink>,
    ) -> Result<(), ControlError> {
        const OPERATION: &str = BOOT;
        let settings = HostLimits::probe()
            .map_err(|error| ControlError::failed(OPERATION, &error))
            .and_then(|host| {
                VmSettings::validate(config, &host).map_err(|error| {
                    let mut reasons = causes(&error);
                    reasons.insert(0, "Failed to validate config".to_owned());
                    ControlError::new(error.status(), OPERATION, reasons)
                })
            })?;
        let recorded = sink.is_some();
        let failed = |error: &dyn std::error::Error| ControlError::failed(OPERATION, error);
        let unusable = |error: &dyn std::error::Error| ControlError::unusable(OPERATION, error);
        let hypervisor =
            (self.setting.backends)(settings.hypervisor).map_err(|error| unusable(&error))?;
        self.event("booting");
        let payload = Payload::read(
            &settings.kernel,
            settings.initramfs.as_deref(),
            &settings.cmdline,
        )
        .map_err(|error| unusable(&error))?;
        let images = Images::open_all(&settings.devices).map_err(|error| unusable(&error))?;
        let specs = host::specs(&settings.devices, &images, recorded);
        let stores = images.stores(&specs).map_err(|error| failed(&error))?;
        let machine = VirtualMachine::new(
            machine_config(&settings, specs.clone(), hypervisor.tsc_khz()),
            settings.memory,
            &payload,
            stores,
            hypervisor.as_ref(),
        )
        .map_err(|error| unusable(&error))?;
        if recorded {
            check_replayable(&machine)?;
        }
        let mailbox = Mailbox::new().map_err(|error| failed(&error))?;
        let mut devices = HostDevices::prepare(
            settings.devices,
            settings.serial,
            images,
            specs,
            mailbox.0.clone(),
        );
        devices.activate().map_err(|error| unusable(&error))?;
        let start = Start::Live((Box::new(machine), Box::new(devices)), sink);
        let handle = self.start(start, mailbox).map_err(|error| failed(&error))?;
        self.install(handle, recorded);
        self.event("booted");
        Ok(())
    }

    /// Starts the machine's thread.
    fn start(
        &self,
        start: Start,
        mailbox: (Mailbox, Receiver<Message>),
    ) -> std::io::Result<VmHandle> {
        let itself = self.itself.clone();
        let listener = Box::new(move |event: VmEvent| {
            if let Some(control) = itself.upgrade() {
                control.heard(event);
            }
        });
        VmHandle::start(self.setting.owner.clone(), start, mailbox, listener)
    }

    fn install(&self, handle: VmHandle, recorded: bool) {
        let mut running = Running::new(Arc::new(handle), true);
        running.recorded = recorded;
        let before = self.lock().running.replace(running);
        // A machine that had ended; its thread may be reporting, so the lock is free here.
        drop(before);
    }

    /// `vm.pause` and `vm.resume`.
    ///
    /// # Errors
    /// When there is nothing to pause, or it is already.
    pub fn set_paused(&self, paused: bool) -> Result<(), ControlError> {
        let operation = if paused {
            "The VM could not be paused"
        } else {
            "The VM could not resume"
        };
        let handle = self.handle(operation)?;
        self.event(if paused { "pausing" } else { "resuming" });
        let away = self.lock().running.as_ref().is_some_and(|vm| vm.away);
        let returned = match away && !paused {
            true => handle.return_to_host(),
            false => Ok(()),
        };
        returned
            .and_then(|()| handle.set_paused(paused))
            .map_err(|error| ControlError::failed(operation, &error))?;
        if let Some(running) = &mut self.lock().running {
            running.paused = paused;
            running.away = false;
        }
        self.event(if paused { "paused" } else { "resumed" });
        Ok(())
    }

    /// `vm.power-button`, `vm.nmi`, `vm.reboot`.
    ///
    /// # Errors
    /// When the VM is not running.
    pub fn operate(&self, operation: ControlOp, text: &str) -> Result<(), ControlError> {
        let handle = self.handle(text)?;
        if operation == ControlOp::Reset {
            self.event("rebooting");
        }
        handle.control(operation);
        if operation == ControlOp::Reset {
            self.event("rebooted");
        }
        Ok(())
    }

    /// `vm.shutdown`: the machine is gone, here and on its backup; its configuration stays.
    ///
    /// # Errors
    /// When the VM is not running.
    pub fn shutdown(&self) -> Result<(), ControlError> {
        self.end_protection();
        let running = {
            let mut state = self.lock();
            state.receiving = None;
            state.running.take()
        };
        if running.is_none() {
            return Err(ControlError::state(
                "The VM could not be shut down",
                "VM is not running",
            ));
        }
        // Joins the thread, which may be reporting: the lock must be free.
        drop(running);
        self.event("shutdown");
        Ok(())
    }

    /// Tells the backup of a machine that is to end that it ends too: it would take over otherwise.
    fn end_protection(&self) {
        let protected = |state: &State| {
            let running = state.running.as_ref();
            running.is_some_and(|running| {
                running.live && running.ended.is_none() && running.protection != Protection::None
            })
        };
        let handle = {
            let state = self.lock();
            let running = state.running.as_ref().filter(|_| protected(&state));
            running.map(|running| running.handle.clone())
        };
        let Some(handle) = handle else { return };
        if let Err(error) = handle.stop_protection() {
            log::warn!("the backup cannot be told that the VM ends: {error}");
            return;
        }
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), FAREWELL_TIMEOUT, |state| protected(state));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// `vm.delete`: as shutdown, and the configuration goes too.
    pub fn delete(&self) {
        self.end_protection();
        self.discard();
    }

    /// The machine and its configuration are gone from this process. A backup takes over.
    fn discard(&self) {
        let (running, receiving) = {
            let mut state = self.lock();
            let moving = state.departing.iter().chain(&state.arriving);
            moving.for_each(Cancel::cancel);
            (state.running.take(), state.receiving.take())
        };
        let was_running = running.is_some();
        drop((running, receiving));
        if was_running {
            self.event("shutdown");
        }
        if self.lock().config.take().is_some() {
            self.event("deleted");
        }
    }

    /// The backend that a VM from elsewhere asks for.
    fn backend_of(&self, vm: &VmConfig) -> Result<Arc<dyn Hypervisor>, HypervisorError> {
        let platform = vm.platform.as_ref();
        let choice = platform.and_then(|platform| platform.hypervisor);
        (self.setting.backends)(choice.unwrap_or_default())
    }

    /// Ends whatever there is, before the process does. A backup takes over, as it does when the
    /// process ends in any other way.
    pub fn quit(&self) {
        self.discard();
    }
}

/// Refuses to record a machine whose runs cannot be replayed.
fn check_replayable(machine: &VirtualMachine) -> Result<(), ControlError> {
    machine.replayable().map_err(|reason| {
        let reason = format!(
            "a recording could not be replayed: {reason}; use --platform hypervisor=software"
        );
        ControlError::request(BOOT, reason)
    })
}

/// The machine that a configuration asks for.
fn machine_config(settings: &VmSettings, virtio: Vec<VirtioSpec>, tsc_khz: u32) -> MachineConfig {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    MachineConfig {
        memory_size: settings.memory_bytes,
        serial: settings.serial.is_some(),
        start_seconds: now.map_or(0, |since| since.as_secs()),
        boot_pages: 0,
        tsc_khz,
        virtio,
    }
}

/// Six random bytes, for an address that nobody chose.
fn random_address() -> std::io::Result<[u8; 6]> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
