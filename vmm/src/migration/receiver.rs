//! The destination's side of a migration.
//!
//! ```text
//!   Established ─Start─▶ Started ─Config─▶ Configured ─State─▶ Restored ─Complete─▶ (the end)
//!                      MemoryFd ↺           Memory ↺            CompletePaused
//! ```
//!
//! Any command that comes at another time, and any that cannot be carried out, is answered by an
//! error, and ends the migration. So does Abandon, and a connection that closes. Nothing of the VM
//! stays behind then. The monitor goes on answering its clients meanwhile: this runs on the thread
//! of the one that asked for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use api_client::types::{MigrationState, VmConfig};
use ft::machine::Section;

use super::channel::{Cancel, Channel, ChannelError};
use super::contents::{Contents, ContentsError};
use super::description::{Description, DescriptionError};
use super::inlet::{self, Inlet, InletError};
use super::progress::Progress;
use super::state::{self, StateError};
use super::wire::{Command, EXTENSIONS, MEMORY_SLOT, REASONS, Request, Response, VERSION};
use crate::config::memory_kind;
use crate::control::causes;
use crate::machine::MachineConfig;
use crate::vm::Listening;

/// How often somebody who waits for a sender looks whether it is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long somebody who connects may take to begin.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long the sender may take to give its last word, while this side has its disks.
const DECISION_PATIENCE: Duration = Duration::from_secs(60);

/// Why a machine cannot be made, or go on, here.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where a machine migrates to.
pub trait Destination {
    /// Looks whether such a VM can be had, before its memory comes.
    ///
    /// # Errors
    /// When it cannot.
    fn check(&mut self, machine: &MachineConfig, vm: VmConfig) -> Result<(), Failure>;
    /// Makes the machine. The source has let go of its disks.
    ///
    /// # Errors
    /// When it cannot be made.
    fn make(&mut self, contents: &Contents, sections: &[Section]) -> Result<(), Failure>;
    /// Lets the machine go on, or leaves it paused.
    ///
    /// # Errors
    /// When it cannot.
    fn go_on(&mut self, paused: bool) -> Result<(), Failure>;
}

/// Why no machine has migrated here.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// No sender can be accepted.
    #[error("cannot accept a sender")]
    Accept(#[source] std::io::Error),
    /// The connection is of no use any more.
    #[error("the connection from the sender")]
    Channel(#[from] ChannelError),
    /// Memory cannot be taken.
    #[error("memory cannot be taken")]
    Memory(#[from] InletError),
    /// There is no memory to be had.
    #[error("the machine's memory cannot be had")]
    Contents(#[from] ContentsError),
    /// What is described cannot be had.
    #[error("the VM cannot be had here")]
    Description(#[from] DescriptionError),
    /// The state cannot be used.
    #[error("the VM's state cannot be used")]
    State(#[from] StateError),
    /// A command at the wrong time.
    #[error("{command:?} came when the migration was {stage}")]
    Order {
        /// The command.
        command: Command,
        /// What went before.
        stage: &'static str,
    },
    /// A protocol that we do not speak.
    #[error("the sender speaks version {0} of the protocol, this program {VERSION}")]
    Version(u16),
    /// Memory by descriptor that is none.
    #[error("the memory that is handed over cannot be had: {0}")]
    Handover(&'static str),
    /// The sender has called it off.
    #[error("the sender has called it off")]
    Abandoned,
    /// The machine cannot be made, or go on.
    #[error("the VM cannot be had here")]
    Machine(#[source] Failure),
}

impl ReceiveError {
    /// Whether somebody here has ended it.
    pub const fn is_cancel(&self) -> bool {
        matches!(
            self,
            Self::Channel(ChannelError::Cancelled)
                | Self::Memory(InletError::Channel(ChannelError::Cancelled))
        )
    }
}

/// How a conversation has failed.
enum Conversation {
    /// It never began.
    Stray(ChannelError),
    /// No machine comes of it.
    Failed(ReceiveError),
}

/// How far it is.
enum Stage {
    Established,
    /// With the memory that was handed over.
    Started(Option<OwnedFd>),
    Configured(Arc<Contents>, Inlet),
    Restored,
    Completed,
}

impl Stage {
    const fn name(&self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Started(_) => "started",
            Self::Configured(..) => "configured",
            Self::Restored => "restored",
            Self::Completed => "completed",
        }
    }
}

/// The surroundings of a machine that arrives.
pub struct Receiving<'a> {
    /// Where the sender comes to.
    pub listening: Arc<Listening>,
    /// Who makes the machine.
    pub destination: &'a mut dyn Destination,
    /// Ends it.
    pub cancel: Cancel,
    /// How far it is.
    pub progress: Progress,
    /// Who is told.
    pub tell: super::sender::Tell<'a>,
}

/// The descriptor that comes behind MemoryFd.
fn take_memory(channel: &mut Channel) -> Result<OwnedFd, ReceiveError> {
    let mut slot = [0; 4];
    let memory = channel.read_with(&mut slot)?;
    if u32::from_le_bytes(slot) != MEMORY_SLOT {
        return Err(ReceiveError::Handover("it is not in slot 0"));
    }
    memory.ok_or(ReceiveError::Handover("no descriptor came along"))
}

impl Receiving<'_> {
    /// Waits for a sender and takes its machine.
    ///
    /// # Errors
    /// When none came that has one for us.
    pub fn receive(&mut self) -> Result<(), ReceiveError> {
        loop {
            let (channel, peer) = self.accept()?;
            match self.converse(channel, &peer) {
                // Whoever says nothing that could be a sender's is none.
                Err(Conversation::Stray(error)) => {
                    log::warn!("{peer} is no sender: {error}");
                }
                Err(Conversation::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn accept(&self) -> Result<(Channel, String), ReceiveError> {
        loop {
            self.cancel.check()?;
            let accepted = self.listening.accept_stream(LOOK_INTERVAL);
            if let Some((stream, peer)) = accepted.map_err(ReceiveError::Accept)? {
                let channel = Channel::new(stream, self.cancel.clone());
                return Ok((channel.map_err(ReceiveError::Accept)?, peer));
            }
        }
    }

    fn converse(&mut self, mut channel: Channel, peer: &str) -> Result<(), Conversation> {
        let mut stage = Stage::Established;
        let mut tells_why = false;
        while !matches!(stage, Stage::Completed) {
            channel.set_patience(match stage {
                Stage::Established => Some(START_PATIENCE),
                Stage::Restored => Some(DECISION_PATIENCE),
                _ => None,
            });
            let begins = matches!(stage, Stage::Established);
            match self.step(&mut channel, stage, &mut tells_why) {
                Ok(next) => stage = next,
                Err(error) => {
                    self.refuse(&mut channel, tells_why, &error);
                    return Err(match error {
                        ReceiveError::Channel(error)
                            if begins && !matches!(error, ChannelError::Cancelled) =>
                        {
                            Conversation::Stray(error)
                        }
                        error => Conversation::Failed(error),
                    });
                }
            }
            if begins {
                log::info!("a VM migrates here from {peer}");
                (self.tell)("migration-receive-started", Vec::new());
                self.progress.enter(MigrationState::Copying);
            }
        }
        Ok(())
    }

    /// Tells the sender that there will be nothing, if it is there.
    fn refuse(&self, channel: &mut Channel, tells_why: bool, error: &ReceiveError) {
        if matches!(error, ReceiveError::Channel(ChannelError::Closed)) {
            return;
        }
        let reason = causes(error).join(": ");
        channel.take_leave(Duration::from_secs(1));
        if let Err(error) = channel.refuse(tells_why.then_some(&reason)) {
            log::debug!("the sender cannot be told that it is refused: {error}");
        }
    }

    /// Takes one request and answers it.
    fn step(
        &mut self,
        channel: &mut Channel,
        stage: Stage,
        tells_why: &mut bool,
    ) -> Result<Stage, ReceiveError> {
        let request = channel.request()?;
        let mut response = Response::OK;
        let next = match (stage, request.command) {
            (_, Command::Abandon) => {
                channel.respond(&Response::OK)?;
                return Err(ReceiveError::Abandoned);
            }
            (Stage::Established, Command::Start) => {
                if request.version() != VERSION {
                    return Err(ReceiveError::Version(request.version()));
                }
                response.extensions = request.extensions() & EXTENSIONS;
                *tells_why = response.extensions & REASONS != 0;
                Stage::Started(None)
            }
            (Stage::Started(None), Command::MemoryFd) => {
                Stage::Started(Some(take_memory(channel)?))
            }
            (Stage::Started(memory), Command::Config) => {
                self.configure(channel, &request, memory)?
            }
            (Stage::Configured(contents, inlet), Command::Memory | Command::PackedMemory) => {
                inlet::take(channel, &request, &contents, &self.progress)?;
                Stage::Configured(contents, inlet)
            }
            (Stage::Configured(contents, inlet), Command::State) => {
                inlet.close();
                self.restore(channel, &request, &contents)?;
                Stage::Restored
            }
            (Stage::Restored, Command::Complete | Command::CompletePaused) => {
                let paused = request.command == Command::CompletePaused;
                let went = self.destination.go_on(paused);
                went.map_err(ReceiveError::Machine)?;
                Stage::Completed
            }
            (stage, command) => {
                let stage = stage.name();
                return Err(ReceiveError::Order { command, stage });
            }
        };
        match (channel.respond(&response), &next) {
            // The machine runs here now, whether the source hears of it or not.
            (Err(error), Stage::Completed) => {
                log::error!("the source does not know that its VM runs here: {error}");
            }
            (answered, _) => answered?,
        }
        Ok(next)
    }

    fn configure(
        &mut self,
        channel: &mut Channel,
        request: &Request,
        memory: Option<OwnedFd>,
    ) -> Result<Stage, ReceiveError> {
        let described = channel.payload(request.length)?;
        let (machine, vm) = Description::read(&described)?;
        let kind = memory_kind(&vm);
        let checked = self.destination.check(&machine, vm);
        checked.map_err(ReceiveError::Machine)?;
        let contents = Arc::new(match memory {
            Some(file) => Contents::over(&machine, file)?,
            None => Contents::new(&machine, kind)?,
        });
        self.progress
            .round(0, contents.layout().page_count() as usize);
        let inlet = Inlet::open(
            self.listening.clone(),
            contents.clone(),
            self.cancel.clone(),
            self.progress.clone(),
        );
        Ok(Stage::Configured(
            contents,
            inlet.map_err(ReceiveError::Accept)?,
        ))
    }

    fn restore(
        &mut self,
        channel: &mut Channel,
        request: &Request,
        contents: &Contents,
    ) -> Result<(), ReceiveError> {
        let state = channel.payload(request.length)?;
        self.progress.enter(MigrationState::Switching);
        (self.tell)("restoring", Vec::new());
        let (sections, ()) = state::read(&state)?;
        let made = self.destination.make(contents, &sections);
        made.map_err(ReceiveError::Machine)?;
        (self.tell)("restored", Vec::new());
        Ok(())
    }
}
