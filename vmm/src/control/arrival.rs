//! `vm.receive-migration`: a VM comes from another host. One of a snapshot is made in the same way.

use std::sync::Arc;
use std::sync::mpsc::Receiver as Waiting;

use api_client::types::requests::ReceiveMigrationConfig;
use api_client::types::{HypervisorChoice, MigrationState, VmConfig};
use devices::virtio::any::VirtioConfig;
use ft::machine::{Machine, Section};
use hypervisor::Hypervisor;

use super::{Control, ControlError, Running, causes};
use crate::api::state::Phase;
use crate::config::{DeviceKind, DeviceSettings, HostLimits, devices, serial_target};
use crate::host::devices::{HostDevices, Images};
use crate::host::serial::SerialTarget;
use crate::machine::{MachineConfig, VirtualMachine};
use crate::migration::channel::Cancel;
use crate::migration::contents::Contents;
use crate::migration::description::{DescriptionError, disk_bytes};
use crate::migration::progress::Progress;
use crate::migration::receiver::{Destination, Failure, ReceiveError, Receiving};
use crate::vm::{Address, Built, Mailbox, Message, Start};

const OPERATION: &str = "The VM migration could not be received";

/// A VM of which the host side was checked.
struct Checked {
    vm: VmConfig,
    machine: MachineConfig,
    devices: Vec<DeviceSettings>,
    serial: Option<SerialTarget>,
    hypervisor: Arc<dyn Hypervisor>,
}

/// Makes a VM from what arrives of it.
pub(super) struct Arrival<'a> {
    control: &'a Control,
    cancel: Cancel,
    /// The backend to take, whatever the VM asked for elsewhere.
    hypervisor: Option<HypervisorChoice>,
    checked: Option<Checked>,
    made: Option<(Built, (Mailbox, Waiting<Message>))>,
}

/// Steps that come in the wrong order.
#[derive(Debug, thiserror::Error)]
#[error("the VM cannot go on: {0}")]
struct OutOfOrder(&'static str);

/// The host has less memory than the machine.
#[derive(Debug, thiserror::Error)]
#[error("{wanted} bytes of memory are more than this host's {had}")]
struct LittleMemory {
    wanted: u64,
    had: u64,
}

impl<'a> Arrival<'a> {
    /// Nothing yet. `cancel` ends it; the VM is run by `hypervisor`, or by what it asks for.
    pub(super) const fn new(
        control: &'a Control,
        cancel: Cancel,
        hypervisor: Option<HypervisorChoice>,
    ) -> Self {
        Self {
            control,
            cancel,
            hypervisor,
            checked: None,
            made: None,
        }
    }
}

/// Whether a device of the configuration is one of the machine.
const fn fits(kind: &DeviceKind, config: &VirtioConfig) -> bool {
    matches!(
        (kind, config),
        (DeviceKind::Console(_), VirtioConfig::Console(_))
            | (DeviceKind::Entropy(_), VirtioConfig::Entropy)
            | (DeviceKind::Disk(_), VirtioConfig::Block(_))
            | (DeviceKind::Net(_), VirtioConfig::Net(_))
            | (DeviceKind::Vsock(_), VirtioConfig::Vsock(_))
    )
}

impl Destination for Arrival<'_> {
    fn check(&mut self, machine: &MachineConfig, mut vm: VmConfig) -> Result<(), Failure> {
        if self.hypervisor.is_some() {
            let platform = vm.platform.get_or_insert_default();
            platform.hypervisor = self.hypervisor;
        }
        let (wanted, had) = (machine.memory_size, HostLimits::probe()?.memory_bytes);
        if wanted > had {
            return Err(LittleMemory { wanted, had }.into());
        }
        let devices = devices(&vm)?;
        let serial = serial_target("serial", &vm.serial)?;
        let pairs = devices.iter().zip(&machine.virtio);
        let mut pairs = pairs.map(|(device, spec)| fits(&device.kind, &spec.config));
        if devices.len() != machine.virtio.len()
            || !pairs.all(|fits| fits)
            || serial.is_some() != machine.serial
        {
            return Err(DescriptionError::Devices.into());
        }
        // Here and not when the machine is made: the guest stands still then, and to find out what
        // a backend can do takes its time.
        let hypervisor = self.control.backend_of(&vm)?;
        self.checked = Some(Checked {
            hypervisor,
            vm,
            machine: machine.clone(),
            devices,
            serial,
        });
        Ok(())
    }

    fn make(&mut self, contents: &Contents, sections: &[Section]) -> Result<(), Failure> {
        let checked = self.checked.as_ref();
        let checked = checked.ok_or(OutOfOrder("it was not checked"))?;
        let images = Images::open_all(&checked.devices)?;
        for (index, expected) in disk_bytes(&checked.machine) {
            let found = images.size(index).unwrap_or_default();
            if found != expected {
                let id = checked.devices[index].id.clone();
                return Err(DescriptionError::DiskSize {
                    id,
                    expected,
                    found,
                }
                .into());
            }
        }
        let specs = checked.machine.virtio.clone();
        let stores = images.stores(&specs)?;
        let over = contents.take();
        let hypervisor = checked.hypervisor.as_ref();
        let mut machine = VirtualMachine::over(checked.machine.clone(), over, stores, hypervisor)?;
        machine.restore(sections)?;
        machine.synchronise();
        let mailbox = Mailbox::new()?;
        let host = HostDevices::prepare(
            checked.devices.clone(),
            checked.serial.clone(),
            images,
            specs,
            mailbox.0.clone(),
        );
        self.made = Some(((Box::new(machine), Box::new(host)), mailbox));
        Ok(())
    }

    fn go_on(&mut self, paused: bool) -> Result<(), Failure> {
        let (built, mailbox) = self.made.take().ok_or(OutOfOrder("it was not made"))?;
        let checked = self
            .checked
            .take()
            .ok_or(OutOfOrder("it was not checked"))?;
        if !paused {
            self.control.event("resuming");
        }
        {
            // Whoever ends the process meanwhile either finds the VM or keeps it from beginning.
            let mut state = self.control.lock();
            self.cancel.check()?;
            let handle = self.control.start(Start::Arrived(built, paused), mailbox)?;
            let mut running = Running::new(Arc::new(handle), true);
            running.paused = paused;
            state.config = Some(checked.vm);
            state.running = Some(running);
        }
        if !paused {
            self.control.event("resumed");
        }
        Ok(())
    }
}

impl Control {
    /// `vm.receive-migration`: answered when the VM is here, or will not come.
    ///
    /// # Errors
    /// When there is a VM, nobody can be listened for, or none came.
    pub fn receive_migration(&self, request: &ReceiveMigrationConfig) -> Result<(), ControlError> {
        let address: Address = request
            .receiver_url
            .parse()
            .map_err(|error| ControlError::request(OPERATION, format!("receiver_url: {error}")))?;
        let cancel = self.begin_arrival(OPERATION, true)?;
        let progress = Progress::new(MigrationState::Waiting);
        self.lock().last_migration = Some(progress.clone());
        let listening = address
            .listen()
            .map_err(|error| ControlError::unusable(OPERATION, &error));
        let received = listening.and_then(|listening| {
            self.event("migration-receive-ready");
            let tell = |name: &str, properties: Vec<(String, String)>| {
                (self.setting.events)("vm", name, properties);
            };
            let mut receiving = Receiving {
                listening: Arc::new(listening),
                destination: &mut Arrival::new(self, cancel.clone(), request.hypervisor),
                cancel,
                progress: progress.clone(),
                tell: &tell,
            };
            receiving
                .receive()
                .map_err(|error| self.turned_away(&progress, &error))
        });
        self.lock().arriving = None;
        received?;
        progress.end(MigrationState::Finished, None);
        self.event("migration-receive-finished");
        Ok(())
    }

    /// Keeps other calls away while a VM arrives, in the place of none or of one that is only
    /// created, if that `gives_way`.
    pub(super) fn begin_arrival(
        &self,
        operation: &str,
        gives_way: bool,
    ) -> Result<Cancel, ControlError> {
        let mut state = self.lock();
        match state.phase() {
            Phase::Nothing => {}
            Phase::Created if gives_way => {
                log::warn!("the VM that was created gives way to one that migrates here");
            }
            _ => return Err(ControlError::state(operation, "VM is already created")),
        }
        let cancel = Cancel::default();
        state.arriving = Some(cancel.clone());
        // One that has ended; its thread may be reporting, so the lock must be free.
        let before = state.running.take();
        drop(state);
        drop(before);
        Ok(cancel)
    }

    fn turned_away(&self, progress: &Progress, error: &ReceiveError) -> ControlError {
        let reason = causes(error).join(": ");
        log::error!("no VM has migrated here: {reason}");
        let state = match error.is_cancel() {
            true => MigrationState::Cancelled,
            false => MigrationState::Failed,
        };
        progress.end(state, Some(reason.clone()));
        let properties = vec![("reason".to_owned(), reason)];
        (self.setting.events)("vm", "migration-receive-failed", properties);
        ControlError::failed(OPERATION, error)
    }
}
