//! One virtual machine at work: a thread that owns the machine and its side of a pair, and the
//! handle through which everyone else asks it for things.
//!
//! ```text
//!   API ──Command──┐                     ┌──▶ serial host   (released outputs)
//!   serial ─Input──┴──▶ mailbox ──▶ thread ◀─▶ connection   (frames from and to the peer)
//!                        kick           └──▶ events         (what happened)
//! ```
//!
//! The thread waits for nobody while the guest has something to do. Between two slices it takes
//! what the peer has sent; other threads wait for terminals and API clients and put what came into
//! its mailbox. So the guest runs on, heartbeats go out and the API is answered whatever the world
//! does.

mod connection;
pub mod departure;
mod mailbox;
mod offers;
mod opening;
mod permit;
mod resize;
mod thread;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};

use devices::board::DeviceEvent;
use ft::event::{ControlOp, Output};
use ft::parameters::Parameters;
use ft::status::{End, FtEvent, FtStatus};

use crate::machine::{BuildError, MachineConfig, VirtualMachine};

pub use connection::{Address, AddressError, Connection, Listening, Stream};
pub use mailbox::{Mailbox, Message};
pub use offers::{Offered, Port};
pub use permit::{LOOK_AGAIN, Permit};

/// The host side of a machine's devices.
pub trait HostSide: Send {
    /// An output leaves the machine for good.
    fn output(&mut self, output: &Output);
    /// A virtio device asks for something, or says how its driver is.
    fn request(&mut self, request: DeviceEvent);
    /// This side executes for real from now on: input may come, outputs will. Says what could not
    /// be opened. Another call tries that again.
    fn go_live(&mut self, live: &Live<'_>) -> Vec<String>;
    /// What could not be opened will not be: whatever waits for it has failed.
    fn give_up(&mut self);
    /// Gives the image of a disk another size; what came of it is told through the disk's port.
    ///
    /// # Errors
    /// When it cannot be begun.
    fn resize_disk(&mut self, device: usize, size: u64) -> Result<(), String>;
    /// Another side executes from now on: nothing comes or goes here until it is live again. Images
    /// that both sides share stay open, and locked, if the machine may come back (`comes_back`).
    fn leave(&mut self, comes_back: bool);
    /// Another side may have taken the machine over without asking: nothing that was kept back may
    /// leave here any more.
    fn discard(&mut self);
    /// Makes durable what the images of all disks hold, and calls `done` then, on another thread.
    fn flush_disks(&self, done: Box<dyn FnOnce() + Send>);
    /// After [`HostSide::leave`]: lets another host open the images of all disks, when nothing of
    /// them is in flight and all is durable.
    ///
    /// # Errors
    /// When that cannot be done.
    fn release_disks(&mut self) -> Result<(), String>;
    /// Takes back what [`HostSide::release_disks`] has let go.
    ///
    /// # Errors
    /// When another host has an image.
    fn retake_disks(&mut self) -> Result<(), String>;
    /// What the devices have done while the machine was live here, by their names.
    fn counters(&self) -> BTreeMap<String, Counters>;
    /// What the host has chosen for devices while they are open, by their names: the path of a
    /// pseudoterminal, the name of a tap.
    fn places(&self) -> BTreeMap<String, String>;
}

/// Counters by their names.
pub type Counters = BTreeMap<&'static str, u64>;

/// A machine that goes live here after another host had it.
pub struct Live<'a> {
    /// The machine, for what its devices are like.
    pub machine: &'a VirtualMachine,
}

/// Numbers the times that a machine is live here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure(u64);

/// Whoever wants to know what happens to the machine.
pub type Listener = Box<dyn FnMut(VmEvent) + Send>;

/// Something that happened to the machine.
#[derive(Debug, Clone)]
pub enum VmEvent {
    /// To its protection.
    Ft(FtEvent),
    /// It went live here without the host side of a device.
    DeviceLost {
        /// Which, and why.
        reason: String,
    },
    /// It has ended; the thread is about to.
    Ended {
        /// Why.
        end: End,
        /// Whether it executed for real here until then.
        was_live: bool,
        /// How things stand.
        status: Box<VmStatus>,
    },
}

/// A machine and the host side of its devices.
pub type Built = (Box<VirtualMachine>, Box<dyn HostSide>);

/// Makes the machine of a backup, from what the primary handed on.
pub type Builder = Box<dyn FnMut(MachineConfig, &[u8]) -> Result<Built, BuildError> + Send>;

/// What the thread is to start as.
pub enum Start {
    /// Executes this machine; with a log of it if there is a sink.
    Live(Built, Option<ft::primary::LogSink>),
    /// Goes on with a machine that another host had, or that was saved; paused if it says so.
    Arrived(Built, bool),
    /// Waits for a primary on a connection that will be handed in.
    Backup(Builder),
}

/// Why the thread refused.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The thread is gone.
    #[error("the virtual machine has ended")]
    Gone,
    /// Not possible for this machine now.
    #[error("{0}")]
    Refused(String),
    /// The peer's address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A disk's image cannot have the size that it was to have.
    #[error("the image cannot be resized")]
    Resize(#[source] std::io::Error),
}

/// Asks the thread for something; the answer comes through the sender.
pub enum Command {
    /// Stop executing, or go on.
    SetPaused(bool, Reply<()>),
    /// An operation of the operator's on the machine.
    Control(ControlOp),
    /// Begin protection over this connection.
    Protect(Box<Protect>, Reply<()>),
    /// End protection.
    StopProtection(Reply<()>),
    /// Swap roles with the backup.
    FailOver(Reply<()>),
    /// Give the disk with this index another size, in bytes.
    ResizeDisk(usize, u64, Reply<()>),
    /// A step of copying the machine elsewhere.
    Copy(departure::CopyStep),
    /// How things stand.
    Status(Reply<Box<VmStatus>>),
    /// End the thread; the machine is lost.
    Quit,
}

/// What `Command::Protect` needs.
pub struct Protect {
    /// To the backup.
    pub connection: Connection,
    /// Settings of the pair.
    pub parameters: Parameters,
    /// Handed to the backup as it is, behind the machine's configuration.
    pub config: Vec<u8>,
}

/// Where an answer goes.
pub type Reply<T> = mpsc::Sender<Result<T, VmError>>;

/// How things stand.
#[derive(Debug, Clone)]
pub struct VmStatus {
    /// Protection.
    pub ft: Option<FtStatus>,
    /// The machine executes for real here.
    pub live: bool,
    /// The machine is paused.
    pub paused: bool,
    /// Bytes of guest memory, if there is a machine.
    pub memory_size: u64,
    /// Instructions retired.
    pub logical_time: u64,
    /// Guest time in nanoseconds.
    pub virtual_ns: u64,
    /// Backend.
    pub hypervisor: &'static str,
    /// What its logical time counts.
    pub clock: &'static str,
    /// What went through the serial port here.
    pub serial: SerialCounters,
    /// What the virtio devices have done here.
    pub devices: BTreeMap<String, Counters>,
    /// Where devices lead that the host has chosen a place for.
    pub places: BTreeMap<String, String>,
}

/// Bytes of the serial port, counted while the machine executes for real here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SerialCounters {
    /// Handed to the guest.
    pub received_bytes: u64,
    /// Arrived, and were dropped because too many waited.
    pub dropped_bytes: u64,
    /// Sent by the guest and let out.
    pub sent_bytes: u64,
}

/// The handle of a machine's thread.
pub struct VmHandle {
    mailbox: Mailbox,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl VmHandle {
    /// Starts the thread that reads this mailbox.
    ///
    /// # Errors
    /// When the host has no thread to give.
    pub fn start(
        owner: String,
        start: Start,
        (mailbox, receiver): (Mailbox, Receiver<Message>),
        listener: Listener,
    ) -> std::io::Result<Self> {
        let inner = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("vcpu0".to_owned())
            .spawn(move || {
                thread::VmThread::new(owner, start, (inner, receiver), listener).run();
            })?;
        Ok(Self {
            mailbox,
            thread: Some(thread),
        })
    }

    /// Where messages to the thread go.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, VmError> {
        let (reply, answer) = mpsc::channel();
        self.mailbox.send(Message::Command(command(reply)));
        answer.recv().map_err(|_| VmError::Gone)?
    }

    /// Stops executing, or goes on.
    ///
    /// # Errors
    /// When this side is a backup, or the machine has ended.
    pub fn set_paused(&self, paused: bool) -> Result<(), VmError> {
        self.ask(|reply| Command::SetPaused(paused, reply))
    }

    /// An operation of the operator's on the machine.
    pub fn control(&self, operation: ControlOp) {
        self.mailbox
            .send(Message::Command(Command::Control(operation)));
    }

    /// Begins protection; answered when it has begun, not when the clone is complete.
    ///
    /// # Errors
    /// When it cannot be begun; the machine goes on as it was.
    pub fn protect(&self, protect: Protect) -> Result<(), VmError> {
        self.ask(|reply| Command::Protect(Box::new(protect), reply))
    }

    /// Ends protection.
    ///
    /// # Errors
    /// When there is none.
    pub fn stop_protection(&self) -> Result<(), VmError> {
        self.ask(Command::StopProtection)
    }

    /// Swaps roles with the backup.
    ///
    /// # Errors
    /// When the machine is not protected.
    pub fn fail_over(&self) -> Result<(), VmError> {
        self.ask(Command::FailOver)
    }

    /// Gives the disk with this index another size, in bytes; answered when the guest can see it,
    /// or will as soon as it is resumed.
    ///
    /// # Errors
    /// When the machine's protection does not allow it now, or the image cannot have that size.
    pub fn resize_disk(&self, device: usize, size: u64) -> Result<(), VmError> {
        self.ask(|reply| Command::ResizeDisk(device, size, reply))
    }

    /// How things stand.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn status(&self) -> Result<VmStatus, VmError> {
        self.ask(Command::Status).map(|status| *status)
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(std::thread::JoinHandle::is_finished)
    }
}

impl Drop for VmHandle {
    fn drop(&mut self) {
        self.mailbox.send(Message::Command(Command::Quit));
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; the process aborts on panic anyway.
            let _ = thread.join();
        }
    }
}
