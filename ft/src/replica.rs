//! One side of a virtual machine, whatever its role: what a driver drives.
//!
//! ```text
//!   loop {
//!       now = the host's clock, read after taking bytes off the connection
//!       on_bytes, on_link_closed               what came
//!       next = drive(machine, inbox, now)       one bounded step
//!       poll_transmit                          to the connection, until it takes no more
//!       take_released(the clock, read anew)    to the host side of the devices
//!       take_events                            to whoever listens
//!       next: run on, wait, or end
//!   }
//! ```
//!
//! A role changes inside [`Replica::drive`]: a backup that goes live is a primary afterwards, and
//! a primary that was relieved as planned is a backup.

use crate::backup::{AcceptError, Backup};
use crate::event::Output;
use crate::fence::Fence;
use crate::inbox::Inbox;
use crate::machine::Machine;
use crate::parameters::Parameters;
use crate::primary::{Primary, StartError, StateError};
use crate::protocol::Hello;
use crate::record::Pace;
use crate::status::{End, FtEvent, FtStatus, Next};
use crate::time::{Generation, HostTime};

/// One side of a virtual machine.
pub struct Replica {
    owner: String,
    pace: Pace,
    role: RoleState,
}

/// What it is at the moment.
enum RoleState {
    Primary(Box<Primary>),
    Backup(Box<Backup>),
}

impl Replica {
    /// A side that executes `machine` from now on, unprotected. `owner` names it at fences; no two
    /// sides may have the same.
    #[must_use]
    pub fn primary(owner: String, pace: Pace, machine: &dyn Machine, now: HostTime) -> Self {
        let primary = Box::new(Primary::new(owner.clone(), pace, machine, now));
        Self {
            owner,
            pace,
            role: RoleState::Primary(primary),
        }
    }

    /// A side that waits for a primary at the other end of a fresh connection.
    #[must_use]
    pub fn backup(owner: String, pace: Pace, now: HostTime) -> Self {
        let backup = Box::new(Backup::new(owner.clone(), now));
        Self {
            owner,
            pace,
            role: RoleState::Backup(backup),
        }
    }

    /// Sets how long its machine executes at a time as soon as it does: a backup learns which
    /// machine it has from its primary.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        if let RoleState::Primary(primary) = &mut self.role {
            primary.set_pace(pace);
        }
    }

    /// The primary, if it is one.
    #[must_use]
    pub fn as_primary(&mut self) -> Option<&mut Primary> {
        match &mut self.role {
            RoleState::Primary(primary) => Some(primary),
            RoleState::Backup(_) => None,
        }
    }

    /// The backup, if it is one.
    #[must_use]
    pub fn as_backup(&mut self) -> Option<&mut Backup> {
        match &mut self.role {
            RoleState::Primary(_) => None,
            RoleState::Backup(backup) => Some(backup),
        }
    }

    /// Whether it executes for real and lets outputs go.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.role, RoleState::Primary(_))
    }

    /// Whether it executes for real and nothing is under way that decides whether it goes on: no
    /// claim after its backup fell silent, and no handing over.
    #[must_use]
    pub fn is_undisputed(&self) -> bool {
        match &self.role {
            RoleState::Primary(primary) => primary.is_undisputed(),
            RoleState::Backup(_) => false,
        }
    }

    /// Begins to protect the machine; see [`Primary::protect`].
    ///
    /// # Errors
    /// If it cannot be begun, or this side is a backup.
    pub fn protect(
        &mut self,
        machine: &dyn Machine,
        parameters: Parameters,
        fence: Box<dyn Fence>,
        config: Vec<u8>,
        now: HostTime,
    ) -> Result<(), StartError> {
        match &mut self.role {
            RoleState::Primary(primary) => primary.protect(machine, parameters, fence, config, now),
            RoleState::Backup(_) => Err(backup_cannot("start").into()),
        }
    }

    /// What a primary has opened with, if this side is to accept or refuse it.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        match &self.role {
            RoleState::Primary(_) => None,
            RoleState::Backup(backup) => backup.hello(),
        }
    }

    /// Accepts a primary; see [`Backup::accept`].
    ///
    /// # Errors
    /// If the sides do not fit, or this one is no backup.
    pub fn accept(
        &mut self,
        machine: &dyn Machine,
        fence: Box<dyn Fence>,
        now: HostTime,
    ) -> Result<(), AcceptError> {
        match &mut self.role {
            RoleState::Primary(_) => Err(AcceptError::State("primary")),
            RoleState::Backup(backup) => backup.accept(machine, fence, now),
        }
    }

    /// Ends protection.
    ///
    /// # Errors
    /// If there is none, or this side is a backup.
    pub fn stop_protection(&mut self, now: HostTime) -> Result<(), StateError> {
        match &mut self.role {
            RoleState::Primary(primary) => primary.stop_protection(now),
            RoleState::Backup(_) => Err(backup_cannot("stop")),
        }
    }

    /// Begins a planned failover.
    ///
    /// # Errors
    /// If the machine is not protected, or this side is a backup.
    pub fn fail_over(&mut self) -> Result<(), StateError> {
        match &mut self.role {
            RoleState::Primary(primary) => primary.fail_over(),
            RoleState::Backup(_) => Err(backup_cannot("failover")),
        }
    }

    /// Takes bytes that came from the peer. Read the clock after taking them off the connection.
    pub fn on_bytes(&mut self, bytes: &[u8], now: HostTime) {
        match &mut self.role {
            RoleState::Primary(primary) => primary.on_bytes(bytes, now),
            RoleState::Backup(backup) => backup.on_bytes(bytes, now),
        }
    }

    /// The connection to the peer was closed by the other side or failed.
    pub fn on_link_closed(&mut self) {
        match &mut self.role {
            RoleState::Primary(primary) => primary.on_link_closed(),
            RoleState::Backup(backup) => backup.on_link_closed(),
        }
    }

    /// Takes at most `max` bytes for the peer. Ask only as fast as the connection takes them.
    pub fn poll_transmit(&mut self, max: usize) -> Option<Vec<u8>> {
        match &mut self.role {
            RoleState::Primary(primary) => primary.poll_transmit(max),
            RoleState::Backup(backup) => backup.poll_transmit(max),
        }
    }

    /// Whether more bytes should be read from the connection; if not, after the next step perhaps.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        match &self.role {
            RoleState::Primary(_) => true,
            RoleState::Backup(backup) => backup.wants_bytes(),
        }
    }

    /// Whether the connection is still of use. If not, close it once there is nothing to transmit.
    #[must_use]
    pub fn wants_link(&self) -> bool {
        match &self.role {
            RoleState::Primary(primary) => primary.wants_link(),
            RoleState::Backup(backup) => backup.wants_link(),
        }
    }

    /// Looks after the peer while there is no machine yet.
    pub fn tick(&mut self, now: HostTime) -> Next {
        match &mut self.role {
            RoleState::Primary(_) => Next::Run,
            RoleState::Backup(backup) => backup.tick(now),
        }
    }

    /// One bounded step.
    pub fn drive(&mut self, machine: &mut dyn Machine, inbox: &mut Inbox, now: HostTime) -> Next {
        match &mut self.role {
            RoleState::Primary(primary) => {
                let next = primary.drive(machine, inbox, now);
                match primary.take_demotion() {
                    Some((demotion, history, events)) => {
                        let owner = self.owner.clone();
                        let backup =
                            Backup::demoted(owner, machine, demotion, history, events, now);
                        self.role = RoleState::Backup(Box::new(backup));
                        Next::Run
                    }
                    None => next,
                }
            }
            RoleState::Backup(backup) => {
                let next = backup.drive(machine, self.pace.attentive().slice_ns, now);
                let Some((promoted, adoption)) = backup.take_promotion(machine, now) else {
                    return next;
                };
                machine.synchronise();
                machine.take_dirty_pages();
                let mut primary = Primary::promoted(promoted, self.pace);
                if let Some(adoption) = adoption {
                    primary.adopt(machine, adoption, now);
                }
                self.role = RoleState::Primary(Box::new(primary));
                Next::Run
            }
        }
    }

    /// Takes outputs that may leave at `now`, which has to be read just before they do.
    pub fn take_released(&mut self, now: HostTime) -> Vec<Output> {
        match &mut self.role {
            RoleState::Primary(primary) => primary.take_released(now),
            RoleState::Backup(_) => Vec::new(),
        }
    }

    /// Until when what was released may still be on its way; see [`Primary::permitted_until`].
    #[must_use]
    pub fn permitted_until(&self) -> HostTime {
        match &self.role {
            RoleState::Primary(primary) => primary.permitted_until(),
            RoleState::Backup(_) => HostTime(0),
        }
    }

    /// Has the lease renewed for something that has not left; see [`Primary::want_permit`].
    pub fn want_permit(&mut self) {
        if let RoleState::Primary(primary) = &mut self.role {
            primary.want_permit();
        }
    }

    /// Stops executing, or goes on; a backup does what its primary does.
    ///
    /// # Errors
    /// If this side is a backup.
    pub fn set_paused(
        &mut self,
        machine: &dyn Machine,
        paused: bool,
        now: HostTime,
    ) -> Result<(), StateError> {
        match &mut self.role {
            RoleState::Primary(primary) => {
                primary.set_paused(machine, paused, now);
                Ok(())
            }
            RoleState::Backup(_) => Err(backup_cannot(if paused { "pause" } else { "resume" })),
        }
    }

    /// Takes what has happened since the last call.
    pub fn take_events(&mut self) -> Vec<FtEvent> {
        match &mut self.role {
            RoleState::Primary(primary) => primary.take_events(),
            RoleState::Backup(backup) => backup.take_events(),
        }
    }

    /// Protection, as it stands. `machine` is none only while a backup has none.
    #[must_use]
    pub fn status(&self, machine: Option<&dyn Machine>, now: HostTime) -> Option<FtStatus> {
        match &self.role {
            RoleState::Primary(primary) => machine.map(|machine| primary.status(machine, now)),
            RoleState::Backup(backup) => Some(backup.status(machine)),
        }
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        match &self.role {
            RoleState::Primary(primary) => primary.generation(),
            RoleState::Backup(backup) => backup.generation(),
        }
    }

    /// What it is doing, in a word or two, as in [`FtStatus::state`].
    #[must_use]
    pub fn state(&self) -> &'static str {
        match &self.role {
            RoleState::Primary(primary) => primary.state_name(),
            RoleState::Backup(backup) => backup.state_name(),
        }
    }

    /// Why it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match &self.role {
            RoleState::Primary(primary) => primary.end(),
            RoleState::Backup(backup) => backup.end(),
        }
    }
}

/// A request that only a primary can meet.
fn backup_cannot(request: &'static str) -> StateError {
    StateError {
        request,
        state: "backup".into(),
    }
}
