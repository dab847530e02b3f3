//! The replayer: makes a machine repeat what a log says.

use crate::digest::EpochDigest;
use crate::event::{Input, SyncPoint};
use crate::log::{Entry, Event};
use crate::machine::{Machine, Stop};
use crate::output::{NumberedOutput, OutputLedger};
use crate::time::{Epoch, LogicalTime};

/// What came of an attempt to replay an entry.
#[derive(Debug)]
pub enum Step {
    /// The entry is done.
    Done,
    /// The machine is not there yet; give the same entry again.
    Partial,
    /// The entry is done, and with it an epoch.
    Epoch(Box<ReplayedEpoch>),
    /// The machine cannot do what the entry says: it has diverged.
    Contradiction(String),
    /// The machine cannot go on at all.
    Failed(String),
}

/// The end of an epoch on the replaying side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedEpoch {
    /// Which epoch.
    pub epoch: Epoch,
    /// Its end.
    pub at: LogicalTime,
    /// The state there.
    pub digest: EpochDigest,
    /// What the log says the state's digest should be.
    pub recorded: u64,
}

impl ReplayedEpoch {
    /// Whether the state is the recorded one.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.digest.root == self.recorded
    }
}

/// Where a replay begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayBase {
    /// The epoch that begins there.
    pub epoch: Epoch,
    /// The last re-basing of the clock before.
    pub point: SyncPoint,
    /// The outputs before.
    pub ledger: OutputLedger,
}

/// Replays entries into a machine.
#[derive(Debug)]
pub struct Replayer {
    epoch: Epoch,
    scrub_pages: u32,
    point: SyncPoint,
    ledger: OutputLedger,
    uncounted: u64,
    outputs: Vec<NumberedOutput>,
}

impl Replayer {
    /// A replayer of a log that begins at `base`.
    #[must_use]
    pub fn new(base: ReplayBase, scrub_pages: u32) -> Self {
        let ReplayBase {
            epoch,
            point,
            ledger,
        } = base;
        Self {
            epoch,
            scrub_pages,
            point,
            ledger,
            uncounted: 0,
            outputs: Vec::new(),
        }
    }

    /// Brings the machine to the entry, executing at most `budget` instructions, and does what the
    /// entry says. The budget is reduced by what was executed.
    pub fn step(&mut self, machine: &mut dyn Machine, entry: &Entry, budget: &mut u64) -> Step {
        match self.reach(machine, entry.at, budget) {
            Ok(true) => self.apply(machine, entry),
            Ok(false) => Step::Partial,
            Err(step) => step,
        }
    }

    /// Takes the outputs that were repeated since the last call.
    pub fn take_outputs(&mut self) -> Vec<NumberedOutput> {
        std::mem::take(&mut self.outputs)
    }

    /// The epoch that is being replayed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last re-basing of the clock.
    #[must_use]
    pub fn point(&self) -> SyncPoint {
        self.point
    }

    /// Outputs so far.
    #[must_use]
    pub fn ledger(&self) -> OutputLedger {
        self.ledger
    }

    /// Gives up following the log, and gives the machine an input that the log still holds, at
    /// whatever logical time it stands. For a machine that has diverged and must go live.
    ///
    /// Whether the machine took it.
    pub fn salvage(&mut self, machine: &mut dyn Machine, entry: &Entry) -> bool {
        let Event::Input(input @ (Input::Device { .. } | Input::Control(_))) = &entry.event else {
            return true;
        };
        let taken = machine.inject(input).is_ok();
        self.collect(machine);
        taken
    }

    /// Digest of the state as it is, for telling the primary. Takes the machine's dirty pages.
    pub fn digest(&self, machine: &mut dyn Machine) -> EpochDigest {
        let digest = EpochDigest::take(machine, self.epoch, self.scrub_pages, self.ledger);
        // The zeroes that stand for what cannot be read differ, and are repaired.
        machine.take_unreadable();
        digest
    }

    /// Executes up to `at`; whether it was reached within the budget.
    fn reach(
        &mut self,
        machine: &mut dyn Machine,
        at: LogicalTime,
        budget: &mut u64,
    ) -> Result<bool, Step> {
        if machine.now() > at {
            let now = machine.now();
            return Err(contradiction(
                at,
                format!("the machine is at {now} already"),
            ));
        }
        while machine.now() < at {
            if *budget == 0 {
                return Ok(false);
            }
            let from = machine.now();
            let stop = machine.advance(at.min(from.plus(*budget)));
            let outputs = self.outputs.len();
            self.collect(machine);
            *budget = budget.saturating_sub(machine.now().since(from));
            match stop {
                Stop::Reached => {}
                Stop::Kicked => return Ok(false),
                Stop::Output => {
                    if machine.now() == from && self.outputs.len() == outputs {
                        let text = "the machine stopped for an output and had none";
                        return Err(Step::Failed(text.into()));
                    }
                }
                Stop::Idle { .. } if machine.now() >= at => {}
                Stop::Idle { .. } => {
                    let now = machine.now();
                    return Err(contradiction(at, format!("the guest is halted at {now}")));
                }
                Stop::PoweredOff if machine.now() >= at => {}
                Stop::PoweredOff => {
                    let now = machine.now();
                    return Err(contradiction(at, format!("the guest is off at {now}")));
                }
                Stop::Failed(text) => return Err(Step::Failed(text)),
            }
        }
        Ok(true)
    }

    /// Does what an entry says, at its time.
    fn apply(&mut self, machine: &mut dyn Machine, entry: &Entry) -> Step {
        match &entry.event {
            Event::Marker => Step::Done,
            Event::Input(input) => {
                if let Err(error) = machine.inject(input) {
                    return contradiction(entry.at, format!("the input is refused: {error}"));
                }
                if let Input::Clock(sync) = input {
                    self.point = SyncPoint {
                        at: entry.at,
                        sync: *sync,
                    };
                }
                self.collect(machine);
                Step::Done
            }
            Event::Outputs { count } => {
                let found = std::mem::take(&mut self.uncounted);
                if found == *count {
                    return Step::Done;
                }
                contradiction(entry.at, format!("there were {found} outputs, not {count}"))
            }
            Event::EpochEnd { root, .. } => {
                let digest = self.digest(machine);
                let epoch = self.epoch;
                self.epoch = epoch.plus(1);
                let recorded = *root;
                Step::Epoch(Box::new(ReplayedEpoch {
                    epoch,
                    at: entry.at,
                    digest,
                    recorded,
                }))
            }
        }
    }

    /// Takes what the machine has put out.
    fn collect(&mut self, machine: &mut dyn Machine) {
        for output in machine.take_outputs() {
            self.uncounted += 1;
            self.outputs.push(self.ledger.admit(output));
        }
    }
}

/// The log and the machine do not agree.
fn contradiction(at: LogicalTime, what: String) -> Step {
    Step::Contradiction(format!("at logical time {at} of the log {what}"))
}
