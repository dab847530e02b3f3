//! What whoever copies a machine elsewhere asks its thread: a migration, or a snapshot.
//!
//! ```text
//!   Begin ─▶ Read … Flush, Written ─▶ Read … ─▶ Leave ─▶ Written, Read …, Save ─▶ Release
//!                          SlowDown                 └───────── Return ◀──────────┘ when it failed
//! ```
//!
//! Pages are copied by the machine's thread between two slices of the guest, a bounded number at a
//! time; packing and sending them is done elsewhere, meanwhile. Only pages of memory and boot files
//! are copied: a disk's contents stay in its image.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver};

use ft::machine::Section;
use ft::time::PageNumber;

use super::mailbox::Message;
use super::{Command, Reply, VmError, VmHandle};
use crate::machine::MachineConfig;

/// Most pages that are read at once: copying them takes about as long as a slice of the guest.
pub const MOST_PAGES_READ: usize = 256;

/// What a copy begins with.
#[derive(Debug)]
pub struct Outline {
    /// What the machine consists of.
    pub config: MachineConfig,
    /// Pages that may hold anything but zeroes, ascending.
    pub pages: Vec<PageNumber>,
    /// The machine is paused.
    pub paused: bool,
    /// The backend that runs it.
    pub hypervisor: &'static str,
    /// What its memory is mapped from, if another process can map it too.
    pub memory: Option<OwnedFd>,
}

/// A step of a copy; the answer comes through the sender.
pub enum CopyStep {
    /// Says what is to be copied; what is written from now on is told by `Written`.
    Begin(Reply<Outline>),
    /// Copies pages out, one behind another.
    Read(Vec<PageNumber>, Reply<Vec<u8>>),
    /// The pages written since the last time, ascending.
    Written(Reply<Vec<PageNumber>>),
    /// Halves the guest's share of time; false if it is as small as it gets.
    SlowDown(Reply<bool>),
    /// Makes durable what the disks' images hold; answered when that is done, the guest goes on.
    Flush(Reply<()>),
    /// Stops the guest and closes the host sides of its devices: another host is about to have
    /// them.
    Leave(Reply<()>),
    /// All state but pages.
    Save(Reply<Vec<Section>>),
    /// Lets another host open the disks' images.
    Release(Reply<()>),
    /// Undoes what the others have done: the machine goes on here, if it was not paused.
    Return(Reply<()>),
}

impl VmHandle {
    fn step<T>(&self, step: impl FnOnce(Reply<T>) -> CopyStep) -> Result<T, VmError> {
        self.begin_step(step).recv().map_err(|_| VmError::Gone)?
    }

    fn begin_step<T>(
        &self,
        step: impl FnOnce(Reply<T>) -> CopyStep,
    ) -> Receiver<Result<T, VmError>> {
        let (reply, answer) = mpsc::channel();
        let command = Command::Copy(step(reply));
        self.mailbox().send(Message::Command(command));
        answer
    }

    /// Begins a copy of the machine.
    ///
    /// # Errors
    /// When the machine has ended, or cannot be copied as it is; one is under way, for one.
    pub fn begin_copy(&self) -> Result<Outline, VmError> {
        self.step(CopyStep::Begin)
    }

    /// Has at most [`MOST_PAGES_READ`] pages copied out, one behind another; answered later.
    pub fn read_pages(&self, pages: Vec<PageNumber>) -> Receiver<Result<Vec<u8>, VmError>> {
        self.begin_step(|reply| CopyStep::Read(pages, reply))
    }

    /// The pages written since the copy began, or since this was last asked.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn written_pages(&self) -> Result<Vec<PageNumber>, VmError> {
        self.step(CopyStep::Written)
    }

    /// Halves the guest's share of time; false if it is as small as it gets.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn slow_down(&self) -> Result<bool, VmError> {
        self.step(CopyStep::SlowDown)
    }

    /// Makes durable what the disks' images hold, while the guest goes on: less is to be done then
    /// when it stands still. What fails is told when the images are released.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn flush_disks(&self) -> Result<(), VmError> {
        self.step(CopyStep::Flush)
    }

    /// Stops the guest and closes the host sides of its devices.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn leave_host(&self) -> Result<(), VmError> {
        self.step(CopyStep::Leave)
    }

    /// All state of the machine but its pages.
    ///
    /// # Errors
    /// When the machine has ended, or runs.
    pub fn save_sections(&self) -> Result<Vec<Section>, VmError> {
        self.step(CopyStep::Save)
    }

    /// Lets another host open the images of the machine's disks.
    ///
    /// # Errors
    /// When the machine has ended, or an image cannot be made durable.
    pub fn release_disks(&self) -> Result<(), VmError> {
        self.step(CopyStep::Release)
    }

    /// Ends a copy: the machine goes on here as before.
    ///
    /// # Errors
    /// When the machine has ended, or another host has its disks: it stays stopped then.
    pub fn return_to_host(&self) -> Result<(), VmError> {
        self.step(CopyStep::Return)
    }
}
