//! The backup's side: listens for a primary and makes the machine that it describes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_client::types::{ConfigOverrides, FtReceiveConfig, VmConfig};

use super::{Control, ControlError, Running, causes};
use crate::api::state::Phase;
use crate::config::{HostLimits, devices, memory_kind, overrides, serial_target};
use crate::host::devices::{DeviceError, HostDevices, Images};
use crate::machine::{BuildError, MachineConfig, VirtualMachine};
use crate::vm::{Address, Builder, Built, Listening, Mailbox, Message, Start, VmHandle};

const OPERATION: &str = "The backup could not listen";
/// How often the listening thread looks whether it is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A backup that waits for its primary. Dropping it ends the waiting.
pub struct Receiving {
    address: String,
    wanted: Arc<AtomicBool>,
}

impl Receiving {
    /// How things stand, in the form of a status.
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "role": "backup",
            "state": "listening",
            "receiver_url": self.address,
            "live": false,
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Release);
    }
}

/// What the machine of the backup is made with.
struct Make {
    control: Arc<Control>,
    overrides: ConfigOverrides,
    mailbox: Mailbox,
}

impl Make {
    /// The machine that the primary describes, and the host side of its devices.
    fn machine(&self, config: MachineConfig, described: &[u8]) -> Result<Built, BuildError> {
        config.check()?;
        let malformed = |_| BuildError::Description("the VM's configuration is malformed".into());
        let vm: Option<VmConfig> = serde_json::from_slice(described).map_err(malformed)?;
        let mut vm =
            vm.ok_or_else(|| BuildError::Description("the VM has no configuration".into()))?;
        overrides::apply(&mut vm, &self.overrides).map_err(described_wrongly)?;
        let host_limits = HostLimits::probe().map_err(described_wrongly)?;
        if config.memory_size > host_limits.memory_bytes {
            let text = format!(
                "{} bytes of memory are more than this host's {}",
                config.memory_size, host_limits.memory_bytes
            );
            return Err(BuildError::Description(text));
        }
        let settings = devices(&vm).map_err(described_wrongly)?;
        let serial = serial_target("serial", &vm.serial).map_err(described_wrongly)?;
        if settings.len() != config.virtio.len() {
            let text = "the machine's devices are not those of the VM's configuration".into();
            return Err(BuildError::Description(text));
        }
        let wrong = |error: DeviceError| BuildError::Device {
            device: error.id.clone(),
            source: Box::new(error),
        };
        let images = Images::open_replicated(&settings, &config.virtio).map_err(wrong)?;
        let stores = images.stores(&config.virtio).map_err(described_wrongly)?;
        let specs = config.virtio.clone();
        let hypervisor = self.control.backend_of(&vm)?;
        let machine = VirtualMachine::blank(config, memory_kind(&vm), stores, hypervisor.as_ref())?;
        let host = HostDevices::prepare(settings, serial, images, specs, self.mailbox.clone());
        self.control.lock().config = Some(vm);
        Ok((Box::new(machine), Box::new(host)))
    }
}

/// What the primary says does not fit this host.
fn described_wrongly(error: impl std::error::Error) -> BuildError {
    BuildError::Description(causes(&error).join(": "))
}

impl Control {
    /// `vm.ft-receive`: listens from now on; what comes of it is told by events and status.
    ///
    /// # Errors
    /// When there is a VM, or the address cannot be listened on.
    pub fn ft_receive(&self, request: &FtReceiveConfig) -> Result<(), ControlError> {
        let address: Address = request
            .receiver_url
            .parse()
            .map_err(|error| ControlError::request(OPERATION, format!("receiver_url: {error}")))?;
        let mut state = self.lock();
        if state.phase() != Phase::Nothing {
            return Err(ControlError::state(OPERATION, "VM is already created"));
        }
        let listening = address
            .listen()
            .map_err(|error| ControlError::unusable(OPERATION, &error))?;
        let wanted = Arc::new(AtomicBool::new(true));
        let address = match (&address, listening.port()) {
            (Address::Tcp(text), Some(port)) => {
                let host = text.rsplit_once(':').map_or("", |(host, _)| host);
                format!("tcp:{host}:{port}")
            }
            _ => address.to_string(),
        };
        let before = state.running.take();
        state.receiving = Some(Receiving {
            address,
            wanted: wanted.clone(),
        });
        state.last_status = None;
        drop(state);
        drop(before);
        let Some(control) = self.itself.upgrade() else {
            return Ok(());
        };
        let overrides = request.config_overrides.clone().unwrap_or_default();
        let waiting = std::thread::Builder::new()
            .name("ft-accept".to_owned())
            .spawn(move || control.accept_primary(&listening, &wanted, overrides));
        waiting.map_err(|error| ControlError::failed(OPERATION, &error))?;
        self.event("ft-receive-ready");
        Ok(())
    }

    fn accept_primary(
        self: &Arc<Self>,
        listening: &Listening,
        wanted: &AtomicBool,
        overrides: ConfigOverrides,
    ) {
        let connection = loop {
            if !wanted.load(Ordering::Acquire) {
                return;
            }
            match listening.accept(LOOK_INTERVAL) {
                Ok(Some(connection)) => break connection,
                Ok(None) => {}
                Err(error) => {
                    log::error!("cannot accept a primary: {error}");
                    self.lock().receiving = None;
                    return;
                }
            }
        };
        let peer = connection.peer().to_owned();
        let started = Mailbox::new().and_then(|mailbox| {
            let make = Make {
                control: self.clone(),
                overrides,
                mailbox: mailbox.0.clone(),
            };
            let builder: Builder = Box::new(move |config, rest| make.machine(config, rest));
            self.start(Start::Backup(builder), mailbox)
        });
        match started {
            Ok(handle) => self.become_backup(handle, peer, connection, wanted),
            Err(error) => {
                log::error!("cannot start the backup: {error}");
                self.lock().receiving = None;
            }
        }
    }

    /// Puts a backup in the VM's place, unless the receiver was ended meanwhile.
    fn become_backup(
        &self,
        handle: VmHandle,
        peer: String,
        connection: crate::vm::Connection,
        wanted: &AtomicBool,
    ) {
        let handle = Arc::new(handle);
        {
            let mut state = self.lock();
            if !wanted.load(Ordering::Acquire) || state.running.is_some() {
                drop(state);
                log::warn!("a primary at {peer} is turned away: the receiver was ended");
                return;
            }
            state.receiving = None;
            state.peer = Some(peer);
            state.running = Some(Running::new(handle.clone(), false));
        }
        self.event("ft-receive-started");
        handle.mailbox().send(Message::Connected(connection));
    }
}
