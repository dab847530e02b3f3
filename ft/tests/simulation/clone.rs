//! Live clones of a machine that writes faster than it can be sent, and of one whose pages the
//! backup has already: every page arrives as it is, and no pause is long.

use ft::event::{Input, Output, SyncPoint};
use ft::fence::NoFence;
use ft::inbox::Inbox;
use ft::machine::{
    FieldDifference, Machine, MachineError, PAGE_SIZE, Page, Section, Stop, ZERO_PAGE,
};
use ft::mode::Mode;
use ft::parameters::Parameters;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{CloneSummary, FtEvent, Role};
use ft::time::{HostTime, LogicalTime, PageNumber};

use crate::sim::random::mix;

/// Pages of memory, far more than are left for the pause.
const PAGES: u64 = 12_000;
/// Most bytes of one step: the pages of the pause, and a little more.
const MAX_STEP_BYTES: usize = 5 << 20;

/// A machine that writes a page with each instruction.
struct Wide {
    now: u64,
    /// Pages that are written all the time; the others are what they were in the beginning.
    hot: u64,
    point: SyncPoint,
    words: Vec<u64>,
    dirty: Vec<bool>,
    /// Sections of mebibytes, as of disks with much under way.
    ballast: Vec<Section>,
}

impl Wide {
    fn new(hot: u64, fill: impl Fn(u64) -> u64) -> Self {
        Self {
            now: 0,
            hot,
            point: SyncPoint::start(),
            words: (0..PAGES).map(fill).collect(),
            dirty: vec![false; PAGES as usize],
            ballast: Vec::new(),
        }
    }
}

impl Machine for Wide {
    fn fingerprint(&self) -> String {
        "wide".into()
    }

    fn now(&self) -> LogicalTime {
        LogicalTime(self.now)
    }

    fn virtual_ns(&self) -> u64 {
        self.point.virtual_ns(self.now())
    }

    fn advance(&mut self, until: LogicalTime) -> Stop {
        while self.now < until.0 {
            let page = (mix(self.now) % self.hot) as usize;
            self.words[page] = mix(self.words[page] ^ self.now);
            self.dirty[page] = true;
            self.now += 1;
        }
        Stop::Reached
    }

    fn inject(&mut self, input: &Input) -> Result<(), MachineError> {
        let Input::Clock(sync) = input else {
            return Err(MachineError::new("no such input"));
        };
        self.point = SyncPoint {
            at: self.now(),
            sync: *sync,
        };
        Ok(())
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        Vec::new()
    }

    fn sections(&self) -> Vec<Section> {
        let cpu = Section {
            name: "cpu".into(),
            version: 1,
            bytes: self.now.to_le_bytes().to_vec(),
        };
        std::iter::once(cpu).chain(self.ballast.clone()).collect()
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let bytes = sections
            .first()
            .and_then(|cpu| cpu.bytes.as_slice().try_into().ok());
        self.now = u64::from_le_bytes(bytes.ok_or_else(|| MachineError::new("no cpu"))?);
        self.ballast = sections[1..].to_vec();
        Ok(())
    }

    fn describe_difference(&self, _: &str, _: &[u8], _: &[u8]) -> Vec<FieldDifference> {
        Vec::new()
    }

    fn page_count(&self) -> u64 {
        PAGES
    }

    fn read_page(&self, page: PageNumber, bytes: &mut Page) {
        // The word is at the end, and before it what cannot be packed.
        *bytes = ZERO_PAGE;
        let mut word = self.words[page.0 as usize];
        if word == 0 {
            return;
        }
        for chunk in bytes.rchunks_exact_mut(8) {
            chunk.copy_from_slice(&word.to_le_bytes());
            word = mix(word) | 1;
        }
    }

    fn write_page(&mut self, page: PageNumber, bytes: &Page) {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[PAGE_SIZE - 8..]);
        self.words[page.0 as usize] = u64::from_le_bytes(word);
        self.dirty[page.0 as usize] = true;
    }

    fn take_dirty_pages(&mut self) -> Vec<PageNumber> {
        let dirty = self.dirty.iter_mut().enumerate();
        dirty
            .filter_map(|(page, dirty)| std::mem::take(dirty).then_some(PageNumber(page as u64)))
            .collect()
    }

    fn touched_pages(&self) -> Vec<PageNumber> {
        let words = self.words.iter().enumerate();
        words
            .filter(|(_, word)| **word != 0)
            .map(|(page, _)| PageNumber(page as u64))
            .collect()
    }

    fn synchronise(&mut self) {}
}

/// A clone under way.
struct Cloning {
    primary: Replica,
    machine: Wide,
    backup: Replica,
    copy: Wide,
    now: HostTime,
    /// Bytes that the connection takes in a slice's time.
    per_slice: usize,
    /// Most bytes that the primary had for it at once, and all that it had.
    most: usize,
    sent: usize,
}

impl Cloning {
    fn begin(machine: Wide, copy: Wide, max_instructions: u64) -> Self {
        Self::begin_in(Mode::Auto, machine, copy, max_instructions)
    }

    /// The same of a pair in one mode or the other.
    fn begin_in(mode: Mode, machine: Wide, copy: Wide, max_instructions: u64) -> Self {
        let now = HostTime(0);
        let pace = Pace {
            max_instructions,
            ..Pace::default()
        };
        let mut primary = Replica::primary("one".into(), pace, &machine, now);
        let parameters = Parameters {
            mode,
            scrub_pages: 0,
            ..Parameters::default()
        };
        let begun = primary.protect(&machine, parameters, Box::new(NoFence), Vec::new(), now);
        begun.expect("the machine is unprotected");
        Self {
            primary,
            machine,
            backup: Replica::backup("two".into(), pace, now),
            copy,
            now,
            per_slice: usize::MAX,
            most: 0,
            sent: 0,
        }
    }

    /// A slice's time passes; what the primary tells.
    fn pass(&mut self) -> Vec<FtEvent> {
        self.now = self.now.plus(Pace::default().slice_ns);
        let (now, mut inbox) = (self.now, Inbox::new(1));
        self.primary.drive(&mut self.machine, &mut inbox, now);
        let mut taken = 0;
        while taken < self.per_slice
            && let Some(bytes) = self
                .primary
                .poll_transmit((32 << 10).min(self.per_slice - taken))
        {
            taken += bytes.len();
            self.backup.on_bytes(&bytes, now);
        }
        (self.most, self.sent) = (self.most.max(taken), self.sent + taken);
        if self.backup.hello().is_some() {
            let fence = Box::new(NoFence);
            let accepted = self.backup.accept(&self.copy, fence, now);
            accepted.expect("both machines are wide");
        }
        // The pages are looked at before the backup has executed anything.
        for _ in 0..100 {
            if self.backup.state() == "cloning" {
                self.backup.drive(&mut self.copy, &mut inbox, now);
            }
        }
        while let Some(bytes) = self.backup.poll_transmit(1 << 20) {
            self.primary.on_bytes(&bytes, now);
        }
        self.primary.take_events()
    }

    /// Lets the clone come to its end; how it went.
    fn complete(&mut self) -> CloneSummary {
        while self.now < HostTime(0).plus_ms(5_000) {
            for event in self.pass() {
                match event {
                    FtEvent::Protected { clone, .. } => return clone,
                    FtEvent::StartFailed { reason } => panic!("{reason}"),
                    _ => {}
                }
            }
        }
        panic!("the clone does not end");
    }

    /// The copy is what the machine is, once it has executed as much.
    fn assert_equal(&mut self) {
        self.copy.advance(self.machine.now());
        let (words, copies) = (&self.machine.words, &self.copy.words);
        let differing = (0..PAGES as usize).filter(|page| words[*page] != copies[*page]);
        assert_eq!(differing.collect::<Vec<_>>(), Vec::<usize>::new());
        let status = self.backup.status(Some(&self.copy), self.now);
        assert!(status.is_some_and(|status| status.role == Role::Backup));
    }
}

#[test]
fn every_page_of_every_round_arrives_as_it_is_when_the_clone_is_complete() {
    let machine = Wide::new(4_000, |page| mix(page + 1));
    let mut cloning = Cloning::begin(machine, Wide::new(4_000, |_| 0), 600);
    let clone = cloning.complete();
    assert!(clone.rounds >= 3, "{clone:?}");
    cloning.assert_equal();
}

#[test]
fn a_guest_that_writes_faster_than_can_be_sent_is_slowed_until_its_pause_is_short() {
    let machine = Wide::new(10_000, |page| mix(page + 1));
    let mut cloning = Cloning::begin(machine, Wide::new(10_000, |_| 0), 100_000);
    let clone = cloning.complete();
    assert!(cloning.most < MAX_STEP_BYTES, "{} bytes", cloning.most);
    assert!(clone.rounds > 5, "{clone:?}");
    let (primary, machine) = (&cloning.primary, &cloning.machine);
    let throttled = primary
        .status(Some(machine), cloning.now)
        .unwrap()
        .throttled;
    assert!(throttled.count >= 3, "{throttled:?}");
    assert!(
        throttled.total_ms as f64 > clone.total_ms / 4.0,
        "{throttled:?} {clone:?}"
    );
    // It is itself again afterwards.
    let before = cloning.machine.now;
    cloning.pass();
    assert!(cloning.machine.now - before > 10_000);
    cloning.assert_equal();
}

#[test]
fn a_guest_that_writes_too_fast_for_the_connection_is_not_protected_and_the_rate_is_named() {
    let machine = Wide::new(10_000, |page| mix(page + 1));
    let mut cloning = Cloning::begin(machine, Wide::new(10_000, |_| 0), u64::MAX);
    cloning.per_slice = 100 << 10;
    let reason = loop {
        let told = cloning.pass().into_iter().find_map(|event| match event {
            FtEvent::StartFailed { reason } => Some(reason),
            FtEvent::Protected { clone, .. } => panic!("{clone:?}"),
            _ => None,
        });
        if let Some(reason) = told {
            break reason;
        }
        assert!(cloning.now < HostTime(0).plus_ms(10_000), "it never ends");
    };
    assert!(reason.starts_with("the guest writes "), "{reason}");
    assert!(reason.contains("one part in 1024 of its time"), "{reason}");
    assert!(cloning.most < MAX_STEP_BYTES, "{} bytes", cloning.most);
    assert_eq!(cloning.primary.state(), "unprotected");
    let before = cloning.machine.now;
    cloning.pass();
    assert!(
        cloning.machine.now - before > 10_000,
        "it goes on as it was"
    );
}

#[test]
fn pages_that_the_backup_has_are_not_sent_and_those_of_its_own_are_gone() {
    let fill = |page| mix(page + 1) * u64::from(page % 8 != 5);
    let machine = Wide::new(100, fill);
    // Some pages are others, some are missing, and some are not the primary's at all.
    let held = |page| match page {
        5_000..5_300 => 7,
        9_000..9_100 => 0,
        page if page % 16 == 5 => 9,
        page => fill(page),
    };
    let mut cloning = Cloning::begin(machine, Wide::new(100, held), 50);
    let clone = cloning.complete();
    let different = 300 / 8 * 7 + 100 / 8 * 7;
    let pages = different..different + 400;
    assert!(pages.contains(&clone.pages), "{clone:?}");
    assert!(cloning.sent < 4 << 20, "{} bytes", cloning.sent);
    cloning.assert_equal();
}

#[test]
fn a_clone_to_a_backup_that_holds_every_page_goes_at_the_speed_of_comparing() {
    let fill = |page| mix(page + 1);
    let mut cloning = Cloning::begin(Wide::new(100, fill), Wide::new(100, fill), 50);
    let clone = cloning.complete();
    // Twelve questions, and the answer to the last.
    assert!(clone.total_ms <= 20.0, "{clone:?}");
    assert!(clone.pages < 200, "{clone:?}");
    cloning.assert_equal();
}

#[test]
fn a_machine_whose_sections_exceed_a_message_is_cloned_and_repaired() {
    let mut machine = Wide::new(10, |page| mix(page + 1));
    machine.ballast = (0..4)
        .map(|disk| Section {
            name: format!("disk {disk}"),
            version: 1,
            bytes: vec![disk; 6 << 20],
        })
        .collect();
    let mut cloning = Cloning::begin(machine, Wide::new(10, |page| mix(page + 1)), 50);
    cloning.complete();
    assert_eq!(cloning.copy.ballast, cloning.machine.ballast);
    let differs = |section: &mut Section| section.bytes[1 << 20] ^= 1;
    cloning.copy.ballast.iter_mut().for_each(differs);
    let mut told = Vec::new();
    while cloning.now < HostTime(0).plus_ms(5_000) {
        let (now, mut inbox) = (cloning.now, Inbox::new(1));
        cloning.backup.drive(&mut cloning.copy, &mut inbox, now);
        told.extend(cloning.pass());
        if matches!(told.last(), Some(FtEvent::Repaired { .. })) {
            break;
        }
    }
    assert!(
        matches!(told.last(), Some(FtEvent::Repaired { sections: 4.., .. })),
        "{told:?}"
    );
    assert_eq!(cloning.copy.ballast, cloning.machine.ballast);
}

#[test]
fn a_delta_that_takes_long_to_send_is_waited_for_as_long_as_it_moves() {
    // Twelve mebibytes that cannot be packed, at half of one a second.
    let machine = Wide::new(3_000, |page| mix(page + 1));
    let copy = Wide::new(3_000, |_| 0);
    let mut following = Cloning::begin_in(Mode::Checkpoint, machine, copy, 600);
    following.complete();
    following.per_slice = 128;
    let end = following.now.plus_ms(60_000);
    while following.now < end {
        for event in following.pass() {
            let rests = matches!(event, FtEvent::Throttled { .. });
            assert!(rests, "{event:?} at {}", following.now);
        }
        let (now, mut inbox) = (following.now, Inbox::new(1));
        following.backup.drive(&mut following.copy, &mut inbox, now);
    }
    let (primary, machine) = (&following.primary, &following.machine);
    let status = primary.status(Some(machine), following.now).unwrap();
    assert_eq!(status.state, "protected", "{status:?}");
    assert!(status.positions.epochs_verified >= 2, "{status:?}");
    assert!(status.throttled.total_ms > 40_000, "{status:?}");
}
