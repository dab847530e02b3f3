//! A copy of the machine elsewhere, as the machine's thread takes part in it.

use ft::machine::{Machine, PAGE_SIZE, Page, Section};
use ft::time::{HostTime, PageNumber};

use super::VmThread;
use crate::machine::VirtualMachine;
use crate::vm::VmError;
use crate::vm::departure::{CopyStep, MOST_PAGES_READ, Outline};

/// Where a copy stands.
#[derive(Debug, Default)]
pub(super) struct Departure {
    /// One is under way.
    copying: bool,
    /// The host sides of the devices are closed; nothing executes.
    pub(super) away: bool,
    /// Another host may have opened the disks.
    disks_released: bool,
    /// The copy has paused the machine, which ran.
    stopped: bool,
}

impl Departure {
    /// Refuses what would change the machine that is copied, or give it to somebody else.
    pub(super) fn check_none(&self) -> Result<(), VmError> {
        match self.copying {
            false => Ok(()),
            true => Err(refused(
                "the machine is being copied to another host or saved",
            )),
        }
    }
}

fn refused(text: &str) -> VmError {
    VmError::Refused(text.to_owned())
}

/// Pages that are copied: not those of disks.
fn own_pages(machine: &VirtualMachine, mut pages: Vec<PageNumber>) -> Vec<PageNumber> {
    let end = machine.first_disk_page();
    pages.truncate(pages.partition_point(|page| page.0 < end));
    pages
}

impl VmThread {
    /// Takes a step of a copy. An asker that has gone away needs no answer.
    pub(super) fn copy_step(&mut self, step: CopyStep, now: HostTime) {
        match step {
            CopyStep::Begin(reply) => {
                let _ = reply.send(self.begin_copy());
            }
            CopyStep::Read(pages, reply) => {
                let _ = reply.send(self.read_pages(&pages));
            }
            CopyStep::Written(reply) => {
                let taken = |machine: &mut VirtualMachine| {
                    let dirty = machine.take_dirty_pages();
                    own_pages(machine, dirty)
                };
                let _ = reply.send(self.with_machine(taken));
            }
            CopyStep::SlowDown(reply) => {
                let primary = self.replica.as_primary();
                let _ = reply.send(Ok(primary.is_some_and(ft::primary::Primary::slow_down)));
            }
            CopyStep::Flush(reply) => {
                let done = move || {
                    let _ = reply.send(Ok(()));
                };
                match &self.host {
                    Some(host) => host.flush_disks(Box::new(done)),
                    None => done(),
                }
            }
            CopyStep::Leave(reply) => {
                let _ = reply.send(self.leave_host(now));
            }
            CopyStep::Save(reply) => {
                let _ = reply.send(self.save_sections());
            }
            CopyStep::Release(reply) => {
                let _ = reply.send(self.release_disks());
            }
            CopyStep::Return(reply) => {
                let _ = reply.send(self.return_to_host(now));
            }
        }
    }

    fn with_machine<T>(
        &mut self,
        with: impl FnOnce(&mut VirtualMachine) -> T,
    ) -> Result<T, VmError> {
        match &mut self.machine {
            Some(machine) => Ok(with(machine)),
            None => Err(refused("there is no machine yet")),
        }
    }

    fn begin_copy(&mut self) -> Result<Outline, VmError> {
        // What the destination is told of the disks would not hold.
        self.offers.resizes().check_none()?;
        self.departure.check_none()?;
        if self.replica.state() != "unprotected" {
            let text = format!("the machine is {}", self.replica.state());
            return Err(VmError::Refused(text));
        }
        let paused = self.paused;
        let outline = self.with_machine(|machine| {
            machine.take_dirty_pages();
            let touched = machine.touched_pages();
            Ok(Outline {
                config: machine.config().clone(),
                pages: own_pages(machine, touched),
                paused,
                hypervisor: machine.hypervisor_name(),
                memory: machine.memory_file()?,
            })
        })?;
        let outline = outline.map_err(|error: std::io::Error| {
            let text = format!("the memory cannot be handed over: {error}");
            VmError::Refused(text)
        })?;
        self.departure.copying = true;
        Ok(outline)
    }

    fn read_pages(&mut self, pages: &[PageNumber]) -> Result<Vec<u8>, VmError> {
        let Some(machine) = &self.machine else {
            return Err(refused("there is no machine yet"));
        };
        let end = machine.first_disk_page();
        if pages.len() > MOST_PAGES_READ || pages.iter().any(|page| page.0 >= end) {
            return Err(refused("there are no such pages to be read at once"));
        }
        let mut bytes = vec![0; pages.len() * PAGE_SIZE];
        let places: &mut [Page] = bytes.as_chunks_mut().0;
        for (page, place) in pages.iter().zip(places) {
            machine.read_page(*page, place);
        }
        Ok(bytes)
    }

    fn save_sections(&mut self) -> Result<Vec<Section>, VmError> {
        if !self.paused && !self.departure.away {
            return Err(refused("the machine runs"));
        }
        self.with_machine(|machine| machine.sections())
    }

    /// Stops the guest and closes the host sides of its devices. Requests that were not completed
    /// are carried out again by whoever goes on with the machine.
    fn leave_host(&mut self, now: HostTime) -> Result<(), VmError> {
        if self.departure.away {
            return Ok(());
        }
        let paused = self.paused;
        self.pause_machine(true, now)?;
        self.departure = Departure {
            copying: true,
            away: true,
            disks_released: false,
            stopped: !paused,
        };
        self.leave(true);
        self.paused = true;
        self.was_live = false;
        Ok(())
    }

    fn release_disks(&mut self) -> Result<(), VmError> {
        let Some(host) = self.host.as_mut().filter(|_| self.departure.away) else {
            return Err(refused("the machine has not left this host"));
        };
        // Some may be released before one cannot be.
        self.departure.disks_released = true;
        host.release_disks().map_err(VmError::Refused)
    }

    fn return_to_host(&mut self, now: HostTime) -> Result<(), VmError> {
        if let Some(primary) = self.replica.as_primary() {
            primary.speed_up();
        }
        if let Some(host) = self.host.as_mut().filter(|_| self.departure.disks_released) {
            host.retake_disks().map_err(VmError::Refused)?;
        }
        let Departure { stopped, .. } = std::mem::take(&mut self.departure);
        if stopped {
            self.pause_machine(false, now)?;
        }
        Ok(())
    }
}
