//! The source's side of a migration.
//!
//! ```text
//!   Start ─▶ Config ─▶ rounds of Memory, the guest runs ─▶ the guest stands still
//!     ─▶ Memory: what is left ─▶ locks of the disks given back ─▶ State ─▶ Complete ─▶ the end
//! ```
//!
//! To another process on this host the memory goes by its descriptor: MemoryFd before Config, and
//! no rounds.
//!
//! Whatever fails before Complete was sent leaves the machine to the source. When Complete was sent
//! and nothing is heard any more, the destination may run the machine or not. The source does not
//! go on then: a machine that stands still harms nobody, two that run destroy their disks.

mod handover;

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use api_client::types::{MigrationState, VmConfig};
use ft::machine::Section;
use ft::precopy::{Goal, Onward, Precopy};
use ft::time::{HostTime, PageNumber};

use super::channel::{Cancel, Channel, ChannelError};
use super::description::Description;
use super::layout::Layout;
use super::outlet::{LaneKind, Outlet};
use super::pages::Batch;
use super::progress::Progress;
use super::state::{self, StateError};
use super::wire::{Command, EXTENSIONS, PACKED, ROLE_MEMORY, Request};
use crate::vm::departure::{MOST_PAGES_READ, Outline};
use crate::vm::{Address, AddressError, VmError, VmHandle};

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the destination may be silent while the guest stands still: to take what it was sent,
/// to make the machine, and to say that it goes on.
const DECISION: Duration = Duration::from_secs(30);
/// Part of the pause that is not for memory: state, disks, and the destination's start.
const OVERHEAD: Duration = Duration::from_millis(20);
/// Pages that are not worth another round: a mebibyte, about a millisecond.
const FEW_PAGES: usize = 256;

/// Whose machine migrates, or is saved; a copy of it was begun.
pub trait Source {
    /// Has pages copied.
    fn read(&self, pages: Vec<PageNumber>) -> Receiver<Result<Vec<u8>, VmError>>;
    /// The pages written since the last time.
    ///
    /// # Errors
    /// When the machine has ended.
    fn written(&self) -> Result<Vec<PageNumber>, VmError>;
    /// Halves the guest's share of time; false if it cannot.
    ///
    /// # Errors
    /// When the machine has ended.
    fn slow_down(&self) -> Result<bool, VmError>;
    /// Makes the contents of the disks durable while the guest goes on.
    ///
    /// # Errors
    /// When the machine has ended.
    fn flush(&self) -> Result<(), VmError>;
    /// Stops the guest and closes its devices.
    ///
    /// # Errors
    /// When the machine has ended.
    fn leave(&self) -> Result<(), VmError>;
    /// All state but pages.
    ///
    /// # Errors
    /// When the machine has ended.
    fn save(&self) -> Result<Vec<Section>, VmError>;
    /// Lets the destination open the disks.
    ///
    /// # Errors
    /// When that cannot be.
    fn release(&self) -> Result<(), VmError>;
}

impl Source for VmHandle {
    fn read(&self, pages: Vec<PageNumber>) -> Receiver<Result<Vec<u8>, VmError>> {
        self.read_pages(pages)
    }

    fn written(&self) -> Result<Vec<PageNumber>, VmError> {
        self.written_pages()
    }

    fn slow_down(&self) -> Result<bool, VmError> {
        Self::slow_down(self)
    }

    fn flush(&self) -> Result<(), VmError> {
        self.flush_disks()
    }

    fn leave(&self) -> Result<(), VmError> {
        self.leave_host()
    }

    fn save(&self) -> Result<Vec<Section>, VmError> {
        self.save_sections()
    }

    fn release(&self) -> Result<(), VmError> {
        self.release_disks()
    }
}

/// How a machine is to migrate.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Where to.
    pub address: Address,
    /// Longest pause wanted.
    pub downtime: Duration,
    /// Time to converge.
    pub timeout: Duration,
    /// After that time the guest is stopped, instead of the migration.
    pub stops_at_timeout: bool,
    /// Connections for memory; one is the main connection itself.
    pub connections: u32,
    /// The destination is on this host and takes the memory itself over.
    pub local: bool,
    /// The machine stays here too, paused, and keeps its disks; the other is paused as well.
    pub preserves_source: bool,
}

/// Why a machine has not migrated.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection is of no use any more.
    #[error("{step} failed")]
    Channel {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: ChannelError,
    },
    /// A further connection cannot be made.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The machine here does not go along.
    #[error("the machine cannot migrate")]
    Source(#[from] VmError),
    /// The memory cannot be handed over.
    #[error(
        "the guest's memory is this process's alone; --memory shared=on makes it one to hand over"
    )]
    NotShared,
    /// The guest writes too fast, or the connection is too slow.
    #[error("it did not converge within {0} s")]
    Timeout(u64),
    /// The state cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The description cannot be written.
    #[error("the configuration cannot be written")]
    Description(#[from] serde_json::Error),
    /// The host failed.
    #[error("the host has not what a migration needs")]
    Host(#[from] std::io::Error),
    /// Complete was sent, and nothing was heard since.
    #[error(
        "the destination was told to go on and has not answered: whether it runs the VM is not \
         known, so the VM stays paused here; resume it only if it does not run there"
    )]
    Undecided(#[source] ChannelError),
}

impl SendError {
    /// Whether somebody here has ended it.
    pub const fn is_cancel(&self) -> bool {
        let source = match self {
            Self::Channel { source, .. } => source,
            _ => return false,
        };
        matches!(source, ChannelError::Cancelled)
    }
}

fn failed(step: &'static str) -> impl Fn(ChannelError) -> SendError {
    move |source| SendError::Channel { step, source }
}

/// Whoever is told what happens: an event's name and its properties.
pub type Tell<'a> = &'a dyn Fn(&str, Vec<(String, String)>);

/// The surroundings of a migration.
pub struct Sending<'a> {
    /// The machine.
    pub source: &'a dyn Source,
    /// How it is to be.
    pub options: &'a SendOptions,
    /// Ends it.
    pub cancel: Cancel,
    /// How far it is.
    pub progress: Progress,
    /// Who is told.
    pub tell: Tell<'a>,
}

impl Sending<'_> {
    /// Migrates the machine of `outline` over a fresh connection: how long the guest stood still.
    ///
    /// # Errors
    /// When it did not migrate.
    pub fn send(
        &self,
        main: Channel,
        vm: VmConfig,
        outline: Outline,
    ) -> Result<Duration, SendError> {
        let mut outlet = self.greet(main, vm, &outline)?;
        let paused = outline.paused || self.options.preserves_source;
        let layout = Layout::of(&outline.config);
        let copied = match self.options.local {
            true => self.copy_boot_files(&mut outlet, outline.pages, &layout),
            false => self.copy(&mut outlet, outline.pages),
        };
        let sent = copied.and_then(|(precopy, stopped)| {
            self.move_over(&mut outlet, precopy, paused)?;
            Ok(stopped.elapsed())
        });
        if let Err(error) = &sent
            && !matches!(error, SendError::Undecided(_))
        {
            self.abandon(outlet.main());
        }
        let downtime = sent?;
        self.progress.paused_for(downtime.as_micros() as u64);
        Ok(downtime)
    }

    /// Start, Config, and the further connections.
    fn greet(
        &self,
        mut main: Channel,
        vm: VmConfig,
        outline: &Outline,
    ) -> Result<Outlet, SendError> {
        let start = main.ask(&Request::start(EXTENSIONS), &[]);
        let started = start.map_err(failed("Start"))?;
        if self.options.local {
            self.hand_over(&mut main, outline)?;
        }
        let config = serde_json::to_vec(&Description::new(vm, outline.config.clone()))?;
        let request = Request::with(Command::Config, config.len() as u64);
        main.ask(&request, &[&config]).map_err(failed("Config"))?;
        let kind = LaneKind {
            layout: Layout::of(&outline.config),
            packs: started.extensions & EXTENSIONS & PACKED != 0,
            progress: self.progress.clone(),
        };
        let mut beside = Vec::new();
        let further = match self.options.connections {
            0 | 1 => 0,
            count => count,
        };
        for _ in 0..further {
            let mut channel = Channel::new(self.options.address.open()?, self.cancel.clone())?;
            let joined = channel.write(&[&ROLE_MEMORY.to_le_bytes()]);
            joined.map_err(failed("a further connection"))?;
            beside.push(kind.lane(channel));
        }
        Ok(Outlet::new(kind.lane(main), beside)?)
    }

    /// The rounds, until the guest stands still: what is left, and since when it does.
    fn copy(
        &self,
        outlet: &mut Outlet,
        pages: Vec<PageNumber>,
    ) -> Result<(Precopy, Instant), SendError> {
        let count = pages.len();
        self.progress.round(0, count);
        let mut precopy = Precopy::begin(pages, count, self.now());
        loop {
            let (begun, before) = (Instant::now(), self.progress.sent_bytes());
            let out_of_time = self.round(outlet, &mut precopy)?;
            let (bytes, took) = (self.progress.sent_bytes() - before, begun.elapsed());
            self.tell_of(&precopy, bytes);
            if out_of_time {
                break;
            }
            self.source.flush()?;
            let dirty = self.source.written()?;
            let goal = Goal {
                pause_pages: self.pause_pages(bytes, took),
                few_pages: FEW_PAGES,
                patience: u64::MAX,
            };
            let mut failure = None;
            let slow = || {
                let slowed = self.source.slow_down();
                slowed.unwrap_or_else(|error| {
                    failure = Some(error);
                    false
                })
            };
            let onward = precopy.next_round(dirty, goal, slow, self.now());
            if let Some(error) = failure {
                return Err(error.into());
            }
            self.progress.round(precopy.round(), precopy.rest().len());
            if onward == Onward::Pause {
                break;
            }
        }
        let stopped = self.stop()?;
        precopy.add(&self.source.written()?);
        Ok((precopy, stopped))
    }

    /// Stops the guest: since when it stands still.
    fn stop(&self) -> Result<Instant, SendError> {
        (self.tell)("pausing", Vec::new());
        let stopped = Instant::now();
        self.progress.enter(MigrationState::Switching);
        self.source.leave()?;
        (self.tell)("paused", Vec::new());
        Ok(stopped)
    }

    fn now(&self) -> HostTime {
        HostTime(self.progress.begun().elapsed().as_nanos() as u64)
    }

    /// Pages that can be sent in the pause, if the connection is as fast as in the last round.
    fn pause_pages(&self, bytes: u64, took: Duration) -> usize {
        let downtime = self.options.downtime;
        let time = downtime.saturating_sub(OVERHEAD).max(downtime / 4);
        let bytes = u128::from(bytes) * time.as_nanos() / took.as_nanos().max(1);
        usize::try_from(bytes / ft::machine::PAGE_SIZE as u128).unwrap_or(usize::MAX)
    }

    fn tell_of(&self, precopy: &Precopy, bytes: u64) {
        let text = |name: &str, value: u64| (name.to_owned(), value.to_string());
        let properties = vec![
            text("id", precopy.round()),
            text("bytes", bytes),
            text("total_bytes", self.progress.sent_bytes()),
        ];
        (self.tell)("migration-memory-iteration", properties);
    }

    /// Sends the pages of a round; true when time ran out before it ended.
    ///
    /// The next batch is copied by the machine's thread while one is on its way.
    fn round(&self, outlet: &mut Outlet, precopy: &mut Precopy) -> Result<bool, SendError> {
        let mut coming: Option<(Vec<PageNumber>, Receiver<_>)> = None;
        let mut out_of_time = false;
        loop {
            self.cancel.check().map_err(failed("Memory"))?;
            out_of_time = out_of_time || self.is_out_of_time()?;
            let pages = match out_of_time {
                true => Vec::new(),
                false => precopy.next_batch(MOST_PAGES_READ),
            };
            let next = (!pages.is_empty()).then(|| (pages.clone(), self.source.read(pages)));
            if let Some((pages, data)) = std::mem::replace(&mut coming, next) {
                let data: Vec<u8> = data.recv().map_err(|_| VmError::Gone)??;
                let sent = outlet.send(Batch { pages, data });
                sent.map_err(failed("Memory"))?;
            }
            if coming.is_none() {
                break;
            }
        }
        outlet.settle().map_err(failed("Memory"))?;
        Ok(out_of_time)
    }

    fn is_out_of_time(&self) -> Result<bool, SendError> {
        if self.progress.begun().elapsed() <= self.options.timeout
            || self.progress.state() != MigrationState::Copying
        {
            return Ok(false);
        }
        match self.options.stops_at_timeout {
            true => Ok(true),
            false => Err(SendError::Timeout(self.options.timeout.as_secs())),
        }
    }

    /// What is left, the state, and the word to go on. The guest stands still.
    fn move_over(
        &self,
        outlet: &mut Outlet,
        mut precopy: Precopy,
        paused: bool,
    ) -> Result<(), SendError> {
        outlet.main().set_patience(Some(DECISION));
        self.round(outlet, &mut precopy)?;
        (self.tell)("snapshotting", Vec::new());
        let state = state::write(&self.source.save()?, &())?;
        if !self.options.preserves_source {
            self.source.release()?;
        }
        (self.tell)("snapshotted", Vec::new());
        let main = outlet.main();
        let request = Request::with(Command::State, state.len() as u64);
        main.ask(&request, &[&state]).map_err(failed("State"))?;
        let complete = match paused {
            true => Command::CompletePaused,
            false => Command::Complete,
        };
        // The last moment at which somebody can end it.
        self.cancel.check().map_err(failed("Complete"))?;
        main.take_leave(DECISION);
        // A request of which a part did not go is none for the destination.
        let asked = main.send(&Request::bare(complete), &[]);
        asked.map_err(failed("Complete"))?;
        main.answer(complete)
            .map(drop)
            .map_err(|error| match error {
                // The destination says itself that it has not.
                ChannelError::Refused { .. } => failed("Complete")(error),
                error => SendError::Undecided(error),
            })
    }

    /// Tells the destination that there will be no migration, if it can still be told.
    fn abandon(&self, main: &mut Channel) {
        if !main.is_whole() {
            return;
        }
        main.take_leave(FAREWELL);
        let request = Request::bare(Command::Abandon);
        let told = main.send(&request, &[]).and_then(|()| main.run_dry());
        if let Err(error) = told {
            log::debug!("the destination cannot be told that the migration is off: {error}");
        }
    }
}
