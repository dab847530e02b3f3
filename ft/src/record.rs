//! The recorder: executes the machine for real and says what a replay has to know.
//!
//! In each slice it re-bases the clock if that is due, takes what the host side offers, gives both
//! to the machine at the logical time it stands at, lets it execute, and collects what it puts
//! out. The entries that result are all a backup needs; whether they go to one, to a file or
//! nowhere is the caller's affair, as is when an epoch ends.

use crate::clock::{Activity, ClockFollower, ClockStats};
use crate::digest::EpochDigest;
use crate::epoch::EpochMeter;
use crate::event::{Input, SyncPoint};
use crate::inbox::Inbox;
use crate::log::{Entry, Event};
use crate::machine::{Machine, Stop};
use crate::output::{NumberedOutput, OutputLedger};
use crate::time::{Epoch, HostTime, LogicalTime};

/// Most inputs taken in one slice.
const MAX_INPUTS_PER_SLICE: usize = 256;

/// How much is executed between two looks at the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Host time that a slice should take, in nanoseconds: what waits for the guest waits for half
    /// of it.
    pub slice_ns: u64,
    /// How long the guest goes on behind an output, so that bytes that follow share its entry.
    pub linger_ns: u64,
    /// Most instructions of a slice, however fast the guest seems to be.
    pub max_instructions: u64,
    /// Shortest slice that is worth what coming back from the guest costs: in a shorter one it
    /// gets nowhere. Zero where coming back costs nothing to speak of.
    pub least_ns: u64,
    /// Pages of a delta that are encoded between two slices; twice that when outputs wait for it.
    pub delta_pages: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            slice_ns: 250_000,
            linger_ns: 20_000,
            max_instructions: 1_000_000,
            least_ns: 0,
            // About as long as a slice takes.
            delta_pages: 64,
        }
    }
}

/// Longest slice of a side for whose answer somebody waits.
const ATTENTIVE_NS: u64 = 80_000;

impl Pace {
    /// The pace of a side that is to look at its peer often: a primary with outputs that wait, and
    /// a backup, to which one may come at any time.
    #[must_use]
    pub fn attentive(self) -> Self {
        Self {
            slice_ns: self.slice_ns.min(ATTENTIVE_NS.max(self.least_ns)),
            ..self
        }
    }
}

/// How a slice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest has more to do.
    Busy,
    /// The guest sleeps, until a host time if a timer is armed.
    Idle(Option<HostTime>),
    /// The guest has switched itself off.
    PoweredOff,
    /// The machine cannot go on.
    Failed(String),
}

/// What a slice brought.
#[derive(Debug)]
pub struct Slice {
    /// How it ended.
    pub outcome: Outcome,
    /// What a replay has to know, in order.
    pub entries: Vec<Entry>,
    /// What the machine put out, in order. Their count is the last entry, if there are any.
    pub outputs: Vec<NumberedOutput>,
    /// Inputs that the machine refused, and why.
    pub refused: Vec<String>,
}

/// An epoch that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedEpoch {
    /// Its number.
    pub epoch: Epoch,
    /// The logical time at which it ended.
    pub at: LogicalTime,
    /// The state at its end.
    pub digest: EpochDigest,
}

impl EndedEpoch {
    /// The log entry that tells of it; `with_parts` for a log whose reader has nobody to ask.
    #[must_use]
    pub fn entry(&self, with_parts: bool) -> Entry {
        let parts = if with_parts {
            self.digest.parts.clone()
        } else {
            Vec::new()
        };
        Entry {
            at: self.at,
            event: Event::EpochEnd {
                root: self.digest.root,
                parts,
            },
        }
    }
}

/// Executes a machine and notes what is not deterministic.
#[derive(Debug)]
pub struct Recorder {
    clock: ClockFollower,
    ledger: OutputLedger,
    meter: EpochMeter,
    /// Set while the guest sleeps: the virtual time of its next timer, if one is armed.
    asleep: Option<Option<u64>>,
    busy_since: Option<HostTime>,
}

impl Recorder {
    /// A recorder of a machine whose outputs so far are in `ledger`.
    #[must_use]
    pub fn new(clock: ClockFollower, ledger: OutputLedger, now: HostTime) -> Self {
        let meter = EpochMeter::new(1, now);
        Self {
            clock,
            ledger,
            meter,
            asleep: None,
            busy_since: None,
        }
    }

    /// Begins epoch zero, with epochs of `epoch_ms`.
    pub fn restart_epochs(&mut self, epoch_ms: u64, now: HostTime) {
        self.meter = EpochMeter::new(epoch_ms, now);
    }

    /// Executes one slice.
    pub fn run(
        &mut self,
        machine: &mut dyn Machine,
        inbox: &mut Inbox,
        now: HostTime,
        pace: Pace,
    ) -> Slice {
        let outcome = Outcome::Busy;
        let mut slice = Slice {
            outcome,
            entries: Vec::new(),
            outputs: Vec::new(),
            refused: Vec::new(),
        };
        if let Some(since) = self.busy_since.replace(now) {
            self.meter.executed(now.since(since));
        }
        let synced = self.sync_clock(machine, inbox.is_empty(), now, &mut slice);
        if let (Some(wake_ns), true, false) = (self.asleep, inbox.is_empty(), synced) {
            self.busy_since = None;
            slice.outcome = Outcome::Idle(wake_ns.map(|ns| self.clock.wake_at(ns)));
            return slice;
        }
        self.take_inputs(machine, inbox, &mut slice);
        slice.outcome = self.execute(machine, pace, &mut slice);
        self.meter.wrote(machine.dirty_pages_hint());
        if slice.outcome != Outcome::Busy {
            self.busy_since = None;
        }
        if !slice.outputs.is_empty() {
            let count = slice.outputs.len() as u64;
            slice.entries.push(Entry {
                at: machine.now(),
                event: Event::Outputs { count },
            });
        }
        slice
    }

    /// Ends the epoch that is under way and begins the next.
    pub fn end_epoch(
        &mut self,
        machine: &mut dyn Machine,
        scrub_pages: u32,
        now: HostTime,
    ) -> EndedEpoch {
        let epoch = self.meter.epoch();
        let digest = EpochDigest::take(machine, epoch, scrub_pages, self.ledger);
        self.meter.next(now);
        EndedEpoch {
            epoch,
            at: machine.now(),
            digest,
        }
    }

    /// The guest is kept from executing for a while: that time says nothing of its speed.
    pub fn hold_back(&mut self) {
        self.clock.held_back();
        self.busy_since = None;
    }

    /// Lets guest time go on from where it stands, as after a pause.
    pub fn resume_clock(&mut self, machine: &dyn Machine, now: HostTime) {
        self.clock.rebase(now, machine.virtual_ns());
    }

    /// Measures the epoch that is under way.
    #[must_use]
    pub fn meter(&self) -> &EpochMeter {
        &self.meter
    }

    /// Measures the epoch that is under way.
    pub fn meter_mut(&mut self) -> &mut EpochMeter {
        &mut self.meter
    }

    /// Outputs so far.
    #[must_use]
    pub fn ledger(&self) -> OutputLedger {
        self.ledger
    }

    /// The last re-basing of the clock.
    #[must_use]
    pub fn point(&self) -> SyncPoint {
        self.clock.point().unwrap_or(SyncPoint::start())
    }

    /// How far the guest's clock should be ahead of the host's, in nanoseconds.
    #[must_use]
    pub fn clock_offset_ns(&self) -> i128 {
        self.clock.offset_ns()
    }

    /// How well the clock follows.
    #[must_use]
    pub fn clock_stats(&self) -> ClockStats {
        self.clock.stats()
    }

    /// About how many instructions the guest executes in `ns`.
    #[must_use]
    pub fn instructions_in(&self, ns: u64) -> u64 {
        self.clock.instructions_in(ns)
    }

    /// Re-bases the clock if that is due; whether it was.
    fn sync_clock(
        &mut self,
        machine: &mut dyn Machine,
        no_input: bool,
        now: HostTime,
        slice: &mut Slice,
    ) -> bool {
        let activity = match self.asleep {
            None => Activity::Running,
            Some(wake_ns) if no_input => Activity::Idle(wake_ns),
            Some(_) => Activity::Woken,
        };
        self.clock.set_unit(machine.time_unit());
        let due = self
            .clock
            .poll(now, machine.now(), machine.virtual_ns(), activity);
        match due {
            Some(sync) => self.inject(machine, Input::Clock(sync), slice),
            None => return false,
        }
        true
    }

    /// Gives the machine what the host side offers.
    fn take_inputs(&mut self, machine: &mut dyn Machine, inbox: &mut Inbox, slice: &mut Slice) {
        for _ in 0..MAX_INPUTS_PER_SLICE {
            let Some(input) = inbox.take() else { break };
            if matches!(input, Input::Control(_)) {
                self.meter.force();
            }
            self.inject(machine, input, slice);
        }
    }

    /// Gives the machine one input and notes it, if the machine takes it.
    fn inject(&mut self, machine: &mut dyn Machine, input: Input, slice: &mut Slice) {
        match machine.inject(&input) {
            Ok(()) => {
                self.asleep = None;
                slice.entries.push(Entry {
                    at: machine.now(),
                    event: Event::Input(input),
                });
                self.collect(machine, slice);
            }
            Err(error) => slice.refused.push(error.to_string()),
        }
    }

    /// Executes until the slice is over or the guest stops.
    fn execute(&mut self, machine: &mut dyn Machine, pace: Pace, slice: &mut Slice) -> Outcome {
        let slice_instructions = self.clock.instructions_in(pace.slice_ns);
        let slice_instructions = slice_instructions.min(pace.max_instructions).max(1);
        let mut until = machine.now().plus(slice_instructions);
        let linger = self.clock.instructions_in(pace.linger_ns);
        let mut lingering = false;
        loop {
            let before = (machine.now(), slice.outputs.len());
            let stop = machine.advance(until);
            self.collect(machine, slice);
            match stop {
                Stop::Reached | Stop::Kicked => return Outcome::Busy,
                Stop::Output => {
                    if before == (machine.now(), slice.outputs.len()) {
                        let text = "the machine stopped for an output and had none";
                        return Outcome::Failed(text.into());
                    }
                    if !lingering {
                        until = until.min(machine.now().plus(linger));
                        lingering = true;
                    }
                    if machine.now() >= until {
                        return Outcome::Busy;
                    }
                }
                Stop::Idle { wake_ns } => {
                    self.asleep = Some(wake_ns);
                    return Outcome::Idle(wake_ns.map(|ns| self.clock.wake_at(ns)));
                }
                Stop::PoweredOff => return Outcome::PoweredOff,
                Stop::Failed(text) => return Outcome::Failed(text),
            }
        }
    }

    /// Takes what the machine has put out.
    fn collect(&mut self, machine: &mut dyn Machine, slice: &mut Slice) {
        for output in machine.take_outputs() {
            slice.outputs.push(self.ledger.admit(output));
        }
    }
}
