//! What the thread is asked: by operators, and by whoever wants to know how it stands.

use ft::event::Input;
use ft::machine::Machine;
use ft::time::HostTime;

use super::VmThread;
use super::fencing::open_fence;
use crate::machine::VirtualMachine;
use crate::vm::{Command, Protect, Reply, VmError, VmStatus, resize};

impl VmThread {
    pub(super) fn command(&mut self, command: Command) {
        let now = self.now();
        // An asker that has gone away needs no answer.
        match command {
            Command::SetPaused(paused, reply) => {
                let free = self.departure.check_none();
                let _ = reply.send(free.and_then(|()| self.pause_machine(paused, now)));
            }
            Command::Control(operation) => {
                if self.inbox.offer(Input::Control(operation)).is_err() {
                    log::warn!("{operation:?} is dropped: too much waits to be taken");
                }
            }
            Command::Protect(protect, reply) => {
                let _ = reply.send(self.protect(*protect, now));
            }
            Command::StopProtection(reply) => {
                let stopped = self.replica.stop_protection(now);
                let _ = reply.send(stopped.map_err(|error| VmError::Refused(error.to_string())));
            }
            Command::FailOver(reply) => {
                let begun = self.replica.fail_over();
                let _ = reply.send(begun.map_err(|error| VmError::Refused(error.to_string())));
            }
            Command::ResizeDisk(device, size, reply) => self.resize_disk(device, size, reply),
            Command::Status(reply) => {
                let _ = reply.send(Ok(Box::new(self.status(now))));
            }
            Command::Copy(step) => self.copy_step(step, now),
            Command::Quit => self.quit = true,
        }
    }

    pub(super) fn pause_machine(&mut self, paused: bool, now: HostTime) -> Result<(), VmError> {
        let Some(machine) = &self.machine else {
            return Err(VmError::Refused("there is no machine yet".to_owned()));
        };
        self.replica
            .set_paused(machine.as_ref(), paused, now)
            .map_err(|error| VmError::Refused(error.to_string()))?;
        self.paused = paused;
        Ok(())
    }

    fn protect(&mut self, protect: Protect, now: HostTime) -> Result<(), VmError> {
        let refused = |error: &dyn std::error::Error| VmError::Refused(error.to_string());
        let Some(machine) = &self.machine else {
            return Err(VmError::Refused("there is no machine yet".to_owned()));
        };
        // What the backup is told of its machine would not hold.
        self.offers.resizes().check_none()?;
        self.departure.check_none()?;
        let fence = open_fence(&protect.parameters.fence)?;
        let mut config = postcard::to_allocvec(machine.config())
            .map_err(|error| VmError::Refused(error.to_string()))?;
        config.extend(protect.config);
        self.replica
            .protect(machine.as_ref(), protect.parameters, fence, config, now)
            .map_err(|error| refused(&error))?;
        self.connect(protect.connection);
        Ok(())
    }

    fn resize_disk(&mut self, device: usize, size: u64, reply: Reply<()>) {
        let protection = self.replica.state();
        let (Some(machine), Some(host)) = (&self.machine, &mut self.host) else {
            let _ = reply.send(Err(VmError::Refused("there is no machine yet".to_owned())));
            return;
        };
        let begun = resize::check(machine.config(), device, protection)
            .and_then(|()| self.offers.resizes().check_none())
            .and_then(|()| self.departure.check_none())
            .and_then(|()| host.resize_disk(device, size).map_err(VmError::Refused));
        match begun {
            Ok(()) => self.offers.resizes().begin(device, reply),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Whether the machine executes for real here; one that was fenced does not any more.
    fn is_live(&self) -> bool {
        self.replica.is_undisputed() && self.machine.is_some()
    }

    pub(super) fn status(&mut self, now: HostTime) -> VmStatus {
        let serial = *self.offers.serial_counters();
        let machine = self.machine.as_deref();
        VmStatus {
            ft: self
                .replica
                .status(machine.map(|machine| machine as &dyn Machine), now),
            live: self.is_live(),
            paused: self.paused,
            memory_size: machine.map_or(0, |machine| machine.config().memory_size),
            logical_time: machine.map_or(0, |machine| machine.now().0),
            virtual_ns: machine.map_or(0, Machine::virtual_ns),
            hypervisor: machine.map_or("none", VirtualMachine::hypervisor_name),
            clock: machine.map_or("none", VirtualMachine::clock_name),
            serial,
            devices: self
                .host
                .as_ref()
                .map(|host| host.counters())
                .unwrap_or_default(),
            places: self
                .host
                .as_ref()
                .map(|host| host.places())
                .unwrap_or_default(),
        }
    }
}
