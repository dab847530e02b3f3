//! A live clone of a machine that writes faster than it can be sent: every page arrives as it is.

use ft::event::{Input, Output, SyncPoint};
use ft::fence::NoFence;
use ft::inbox::Inbox;
use ft::machine::{
    FieldDifference, Machine, MachineError, PAGE_SIZE, Page, Section, Stop, ZERO_PAGE,
};
use ft::parameters::Parameters;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{FtEvent, Role};
use ft::time::{HostTime, LogicalTime, PageNumber};

use crate::sim::random::mix;

/// Pages of memory, far more than are left for the pause.
const PAGES: u64 = 6_000;
/// Pages that are written all the time; the others are what they were in the beginning.
const HOT: u64 = 4_000;

/// A machine that writes a page with each instruction.
struct Wide {
    now: u64,
    point: SyncPoint,
    words: Vec<u64>,
    dirty: Vec<bool>,
}

impl Wide {
    fn new(fill: impl Fn(u64) -> u64) -> Self {
        Self {
            now: 0,
            point: SyncPoint::start(),
            words: (0..PAGES).map(fill).collect(),
            dirty: vec![false; PAGES as usize],
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
            let page = (mix(self.now) % HOT) as usize;
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
        vec![Section {
            name: "cpu".into(),
            version: 1,
            bytes: self.now.to_le_bytes().to_vec(),
        }]
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let bytes = sections
            .first()
            .and_then(|cpu| cpu.bytes.as_slice().try_into().ok());
        self.now = u64::from_le_bytes(bytes.ok_or_else(|| MachineError::new("no cpu"))?);
        Ok(())
    }

    fn describe_difference(&self, _: &str, _: &[u8], _: &[u8]) -> Vec<FieldDifference> {
        Vec::new()
    }

    fn page_count(&self) -> u64 {
        PAGES
    }

    fn read_page(&self, page: PageNumber, bytes: &mut Page) {
        *bytes = ZERO_PAGE;
        bytes[PAGE_SIZE - 8..].copy_from_slice(&self.words[page.0 as usize].to_le_bytes());
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

#[test]
fn every_page_of_every_round_arrives_as_it_is_when_the_clone_is_complete() {
    let (mut machine, mut copy) = (Wide::new(|page| mix(page + 1)), Wide::new(|_| 0));
    let pace = Pace {
        max_instructions: 600,
        ..Pace::default()
    };
    let mut now = HostTime(0);
    let mut primary = Replica::primary("one".into(), pace, &machine, now);
    let mut backup = Replica::backup("two".into(), pace, now);
    let parameters = Parameters {
        scrub_pages: 0,
        ..Parameters::default()
    };
    let begun = primary.protect(&machine, parameters, Box::new(NoFence), Vec::new(), now);
    begun.unwrap();
    let mut inbox = Inbox::new(1);
    let mut rounds = None;
    while rounds.is_none() {
        now = now.plus_ms(1);
        primary.drive(&mut machine, &mut inbox, now);
        while let Some(bytes) = primary.poll_transmit(1 << 20) {
            backup.on_bytes(&bytes, now);
        }
        if backup.hello().is_some() {
            backup.accept(&copy, Box::new(NoFence), now).unwrap();
        }
        // The pages are looked at before the backup has executed anything.
        for _ in 0..100 {
            if backup.state() == "cloning" {
                backup.drive(&mut copy, &mut inbox, now);
            }
        }
        while let Some(bytes) = backup.poll_transmit(1 << 20) {
            primary.on_bytes(&bytes, now);
        }
        rounds = primary
            .take_events()
            .into_iter()
            .find_map(|event| match event {
                FtEvent::Protected { clone, .. } => Some(clone.rounds),
                _ => None,
            });
        assert!(now < HostTime(0).plus_ms(1000), "the clone does not end");
    }
    assert!(
        rounds.is_some_and(|rounds| rounds >= 3),
        "{rounds:?} rounds"
    );
    // The primary has gone on: the copy is brought to where it is.
    copy.advance(machine.now());
    let differing = (0..PAGES as usize).filter(|page| machine.words[*page] != copy.words[*page]);
    assert_eq!(differing.collect::<Vec<_>>(), Vec::<usize>::new());
    let status = backup.status(Some(&copy), now).unwrap();
    assert_eq!(status.role, Role::Backup);
}
