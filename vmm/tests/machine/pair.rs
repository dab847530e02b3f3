//! A primary and its backup in one thread, with an ideal connection and a clock that advances by
//! what is executed.

use ft::divergence::DivergenceReport;
use ft::fence::NoFence;
use ft::inbox::Inbox;
use ft::machine::{Machine, ZERO_PAGE};
use ft::parameters::Parameters;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{FtEvent, FtStatus, Next};
use ft::time::{HostTime, PageNumber};

use crate::faulty::Faulty;
use crate::guest::Snapshot;

/// Host time that an instruction takes.
const NS_PER_INSTRUCTION: u64 = 10;
/// Host time that a round of the loop takes besides.
const ROUND_NS: u64 = 3_000;
/// Rounds after which something that is waited for does not happen.
const MOST_ROUNDS: u64 = 200_000;

/// One side.
pub struct Side {
    /// Its part of the protocol.
    pub replica: Replica,
    /// Its machine.
    pub machine: Faulty,
    inbox: Inbox,
}

impl Side {
    fn new(replica: Replica, machine: Faulty) -> Self {
        let inbox = Inbox::new(1 << 16);
        Self {
            replica,
            machine,
            inbox,
        }
    }

    fn drive(&mut self, now: HostTime) -> Next {
        self.replica.drive(&mut self.machine, &mut self.inbox, now)
    }
}

/// Both sides.
pub struct Pair {
    /// Executes.
    pub primary: Side,
    /// Replays.
    pub backup: Side,
    /// Everything that the primary has reported.
    pub events: Vec<FtEvent>,
    now: HostTime,
}

impl Pair {
    /// A guest that goes on from `snapshot`, protected.
    pub fn new(snapshot: &Snapshot) -> Self {
        let now = HostTime(0);
        let machine = Faulty::new(snapshot.machine());
        let replica = Replica::primary("one".into(), Pace::default(), &machine, now);
        let primary = Side::new(replica, machine);
        let replica = Replica::backup("two".into(), Pace::default(), now);
        let backup = Side::new(replica, Faulty::new(snapshot.blank()));
        let mut pair = Self {
            primary,
            backup,
            events: Vec::new(),
            now,
        };
        let Side {
            replica, machine, ..
        } = &mut pair.primary;
        let parameters = Parameters::default();
        let begun = replica.protect(machine, parameters, Box::new(NoFence), Vec::new(), now);
        begun.unwrap();
        pair.run_until("protection", |pair| {
            pair.primary.replica.state() == "protected"
        });
        pair
    }

    /// Runs until both sides have gone through some more epochs.
    pub fn run_epochs(&mut self, count: u64) {
        let target = self.primary.machine.epochs().len() + count as usize;
        self.run_until("further epochs", |pair| {
            let ends = pair.primary.machine.epochs();
            ends.len() >= target && pair.backup.machine.now() >= ends[target - 1].at
        });
    }

    /// Runs until something is so.
    pub fn run_until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        for _ in 0..MOST_ROUNDS {
            if so(self) {
                return;
            }
            self.round();
        }
        panic!("{what} did not happen; {:?}", self.events);
    }

    fn round(&mut self) {
        let before = self.primary.machine.now();
        let next = self.primary.drive(self.now);
        assert!(!matches!(next, Next::Ended(_)), "{next:?}");
        self.events.extend(self.primary.replica.take_events());
        let executed = self.primary.machine.now().since(before);
        self.now = self.now.plus(ROUND_NS + executed * NS_PER_INSTRUCTION);
        self.primary.replica.take_released(self.now);
        self.carry();
        let waits = self.drive_backup();
        self.carry();
        if let (Next::Wait(Some(until)), true) = (next, waits) {
            // Both sleep; heartbeats and markers are a millisecond or more apart.
            self.now = self.now.max(until.min(self.now.plus(500_000)));
        }
    }

    /// One step of the backup; whether it has nothing to do.
    fn drive_backup(&mut self) -> bool {
        let now = self.now;
        let Side {
            replica, machine, ..
        } = &mut self.backup;
        if replica.hello().is_some() {
            replica.accept(machine, Box::new(NoFence), now).unwrap();
        }
        let next = match replica.state() {
            "listening" | "handshake" => replica.tick(now),
            _ => self.backup.drive(now),
        };
        assert!(!matches!(next, Next::Ended(_)), "{next:?}");
        matches!(next, Next::Wait(_))
    }

    /// Carries bytes both ways.
    fn carry(&mut self) {
        let (primary, backup) = (&mut self.primary.replica, &mut self.backup.replica);
        while let Some(bytes) = primary.poll_transmit(1 << 20) {
            backup.on_bytes(&bytes, self.now);
        }
        while let Some(bytes) = backup.poll_transmit(1 << 20) {
            primary.on_bytes(&bytes, self.now);
        }
    }

    /// Whether the primary may let go what it has released.
    pub fn is_permitted(&self) -> bool {
        self.now < self.primary.replica.permitted_until()
    }

    /// Runs for some host time.
    pub fn run_for_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        self.run_until("the end of a time", |pair| pair.now >= end);
    }

    /// The primary's status.
    pub fn primary_status(&self) -> FtStatus {
        let Side {
            replica, machine, ..
        } = &self.primary;
        replica.status(Some(machine), self.now).unwrap()
    }

    /// The backup's status.
    pub fn backup_status(&self) -> FtStatus {
        let Side {
            replica, machine, ..
        } = &self.backup;
        replica.status(Some(machine), self.now).unwrap()
    }

    /// Divergences that the primary has reported.
    pub fn reports(&self) -> Vec<&DivergenceReport> {
        self.events.iter().filter_map(report_of).collect()
    }

    /// Repairs that the primary has reported: pages and sections.
    pub fn repairs(&self) -> Vec<(u64, u64)> {
        let repair = |event: &FtEvent| match event {
            FtEvent::Repaired { pages, sections } => Some((*pages, *sections)),
            _ => None,
        };
        self.events.iter().filter_map(repair).collect()
    }

    /// A page that was written in each of the last epochs; another for each `index`.
    pub fn hot_page(&self, index: u64) -> PageNumber {
        let last: Vec<_> = self.primary.machine.epochs().iter().rev().take(4).collect();
        let always = |page: &&PageNumber| last.iter().all(|end| end.written.contains(page));
        let hot: Vec<_> = last[0].written.iter().filter(always).collect();
        assert!(!hot.is_empty(), "no page is written all the time");
        *hot[index as usize * 7 % hot.len()]
    }

    /// A page that holds nothing and that nobody writes.
    pub fn unused_page(&self) -> PageNumber {
        let touched = self.primary.machine.touched_pages();
        let unused = |page: &PageNumber| touched.binary_search(page).is_err();
        (1000..).map(PageNumber).find(unused).unwrap()
    }

    /// Keeps the guest until the backup has all that it has done and no repair is under way,
    /// compares all of the state, and lets the guest go on.
    pub fn assert_equal(&mut self) {
        self.set_paused(true);
        self.run_until("a backup that has caught up", |pair| {
            let (primary, backup) = (&pair.primary, &pair.backup);
            // The last entry of the log may be an input that changes the state and not the time.
            primary.machine.now() == backup.machine.now()
                && primary.replica.state() == "protected"
                && pair.primary_status().positions.recorded
                    == pair.backup_status().positions.replayed
        });
        self.compare();
        self.set_paused(false);
    }

    fn set_paused(&mut self, paused: bool) {
        let Side {
            replica, machine, ..
        } = &mut self.primary;
        replica.set_paused(machine, paused, self.now).unwrap();
    }

    fn compare(&self) {
        let (primary, backup) = (&self.primary.machine, &self.backup.machine);
        assert_eq!(primary.sections(), backup.sections());
        let (mut ours, mut theirs) = (ZERO_PAGE, ZERO_PAGE);
        for page in (0..primary.page_count()).map(PageNumber) {
            primary.read_page(page, &mut ours);
            backup.read_page(page, &mut theirs);
            assert!(ours == theirs, "page {page} differs");
        }
    }
}

/// The report of a divergence, if that is what the event is.
fn report_of(event: &FtEvent) -> Option<&DivergenceReport> {
    match event {
        FtEvent::Diverged { report } => Some(report),
        _ => None,
    }
}
