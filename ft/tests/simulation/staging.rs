//! What a backup keeps for a primary is bounded, and what goes beyond is refused by name.

use ft::codec::FieldWriter;
use ft::digest::PageDigest;
use ft::event::{Input, SyncPoint};
use ft::fence::NoFence;
use ft::inbox::Inbox;
use ft::log::{Entry, EntryCoder, Event};
use ft::machine::Machine;
use ft::mode::Mode;
use ft::output::OutputLedger;
use ft::parameters::Parameters;
use ft::protocol::{Base, FrameEncoder, Hello, MachineFacts, Message, PROTOCOL_VERSION};
use ft::record::Pace;
use ft::replica::Replica;
use ft::snapshot::write_sections;
use ft::time::{Epoch, Generation, HostTime, LogPosition, PageNumber};

use crate::sim::toy::{ALL_PAGES, LINE, Toy};

/// A backup and the frames of a primary that keeps to no rules.
pub struct Victim {
    pub backup: Replica,
    pub machine: Toy,
    encoder: FrameEncoder,
    now: HostTime,
}

impl Victim {
    /// A backup that waits for its clone.
    fn cloning() -> Self {
        Self::cloning_in(Mode::Replay)
    }

    /// The same, of a pair in one mode or the other.
    fn cloning_in(mode: Mode) -> Self {
        let now = HostTime(0);
        let mut victim = Self {
            backup: Replica::backup("two".into(), Pace::default(), now),
            machine: Toy::new(3),
            encoder: FrameEncoder::default(),
            now,
        };
        victim.tell(&Message::Hello(Box::new(Hello {
            version: PROTOCOL_VERSION,
            facts: MachineFacts::of(&victim.machine),
            generation: Generation(1),
            parameters: Parameters {
                mode,
                ..Parameters::default()
            },
            config: Vec::new(),
        })));
        let fence = Box::new(NoFence);
        let accepted = victim.backup.accept(&victim.machine, fence, now);
        accepted.expect("both machines are toys");
        victim
    }

    /// A backup that has its clone.
    fn replaying() -> Self {
        Self::cloned(Mode::Replay, "replaying")
    }

    /// A backup that is given deltas.
    pub fn following() -> Self {
        Self::cloned(Mode::Checkpoint, "following")
    }

    fn cloned(mode: Mode, state: &str) -> Self {
        let mut victim = Self::cloning_in(mode);
        let sections = victim.sections();
        victim.tell(&sections);
        victim.tell(&Message::CloneDone(Box::new(victim.base(0))));
        victim.drive();
        assert_eq!(victim.backup.state(), state);
        victim
    }

    /// A backup that has diverged: the epoch's digest is none that it can reach.
    fn diverged() -> Self {
        let mut victim = Self::replaying();
        let mut log = FieldWriter::new();
        let entry = Entry {
            at: victim.machine.now(),
            event: Event::EpochEnd {
                root: 1,
                parts: Vec::new(),
            },
        };
        EntryCoder::new(entry.at, SyncPoint::start()).encode(&entry, &mut log);
        victim.tell(&Message::Log(log.finish()));
        victim.drive();
        assert_eq!(victim.backup.state(), "diverged");
        victim
    }

    fn sections(&self) -> Message {
        let mut writer = FieldWriter::new();
        write_sections(&mut writer, &self.machine.sections());
        Message::Sections(writer.finish())
    }

    pub fn base(&self, position: u64) -> Base {
        Base {
            epoch: Epoch(0),
            at: self.machine.now(),
            position: LogPosition(position),
            point: SyncPoint::start(),
            ledger: OutputLedger::default(),
            held: Vec::new(),
        }
    }

    pub fn tell(&mut self, message: &Message) {
        let (kind, payload) = message.encode();
        let mut bytes = Vec::new();
        let sealed = self
            .encoder
            .encode(kind, Generation(1), &payload, &mut bytes);
        sealed.expect("the message fits into a frame");
        self.backup.on_bytes(&bytes, self.now);
    }

    pub fn drive(&mut self) {
        for _ in 0..4 {
            let mut inbox = Inbox::new(1);
            self.backup.drive(&mut self.machine, &mut inbox, self.now);
        }
    }

    /// Time passes.
    pub fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// What the backup has told its primary to be wrong.
    pub fn complaint(&mut self) -> String {
        let mut told = Vec::new();
        while let Some(bytes) = self.backup.poll_transmit(1 << 20) {
            told.extend(bytes);
        }
        String::from_utf8_lossy(&told).into_owned()
    }
}

#[test]
fn pages_of_a_repair_that_nobody_asked_for_are_refused() {
    let mut victim = Victim::replaying();
    victim.tell(&Message::Pages(vec![0, 0]));
    let told = victim.complaint();
    assert!(
        told.contains("message of kind 3 while the state is replaying"),
        "{told}"
    );
}

#[test]
fn a_repair_of_too_many_bytes_or_batches_is_refused_with_the_bound() {
    let mut victim = Victim::diverged();
    for _ in 0..18 {
        assert!(!victim.complaint().contains("repair"));
        victim.tell(&Message::Pages(vec![0; 15 << 20]));
    }
    let told = victim.complaint();
    assert!(
        told.contains("bytes; at most 269484032 are possible"),
        "{told}"
    );
    let mut victim = Victim::diverged();
    (0..=256).for_each(|_| victim.tell(&Message::Pages(vec![0, 0])));
    let told = victim.complaint();
    assert!(
        told.contains("a repair of 257 batches; at most 256 are possible"),
        "{told}"
    );
}

#[test]
fn a_second_repair_before_the_first_is_set_is_refused() {
    let mut victim = Victim::diverged();
    for _ in 0..2 {
        assert!(!victim.complaint().contains("while the state is"));
        let sections = victim.sections();
        victim.tell(&sections);
        victim.tell(&Message::RepairState(Box::new(victim.base(1))));
    }
    let told = victim.complaint();
    assert!(told.contains("while the state is diverged"), "{told}");
}

#[test]
fn a_log_without_end_before_a_repair_is_refused() {
    let mut victim = Victim::diverged();
    let at = victim.machine.now();
    let mut coder = EntryCoder::new(at, SyncPoint::start());
    let mut told = String::new();
    for _ in 0..64 {
        let mut log = FieldWriter::new();
        let event = Event::Marker;
        (0..100_000).for_each(|_| {
            let event = event.clone();
            coder.encode(&Entry { at, event }, &mut log);
        });
        // The repair has to come through.
        assert!(victim.backup.wants_bytes());
        victim.tell(&Message::Log(log.finish()));
        told = victim.complaint();
        if told.contains("bytes of log before the repair") {
            return;
        }
    }
    panic!("{told}");
}

#[test]
fn a_clone_that_comes_faster_than_it_is_set_waits_on_the_connection() {
    let mut victim = Victim::cloning();
    let digest = PageDigest {
        page: PageNumber(ALL_PAGES - 1),
        digest: 0,
    };
    for _ in 0..33 {
        victim.tell(&Message::Compare(vec![digest]));
        victim.tell(&Message::Pages(vec![0; 1 << 20]));
    }
    assert!(!victim.backup.wants_bytes());
}

#[test]
fn a_backup_without_room_to_listen_does_not_blame_the_primary_for_silence() {
    let mut victim = Victim::cloning();
    let digest = |page| PageDigest { page, digest: 0 };
    let all: Vec<_> = (0..ALL_PAGES).map(PageNumber).map(digest).collect();
    let timeout_ms = Parameters::default().timeout_ms;
    while victim.backup.wants_bytes() {
        victim.tell(&Message::Compare(all.clone()));
    }
    (0..200).for_each(|_| victim.tell(&Message::Compare(all.clone())));
    let mut rounds = 0;
    while !victim.backup.wants_bytes() {
        // Less than what counts as a loop that was stopped.
        victim.wait_ms(timeout_ms * 2 / 5);
        victim.drive();
        rounds += 1;
        let told = victim.complaint();
        assert!(victim.backup.end().is_none(), "{rounds}: {told}");
    }
    assert!(rounds > 20, "there was room after {rounds} rounds");
    for _ in 0..20 {
        victim.wait_ms(timeout_ms * 2 / 5);
        victim.drive();
        victim.complaint();
    }
    assert!(victim.backup.end().is_some(), "it listens in vain");
}

#[test]
fn a_page_to_be_compared_that_does_not_exist_is_refused() {
    let mut victim = Victim::cloning();
    let digest = PageDigest {
        page: PageNumber(ALL_PAGES),
        digest: 0,
    };
    victim.tell(&Message::Compare(vec![digest]));
    victim.drive();
    let told = victim.complaint();
    assert!(
        told.contains("page 18 to be compared; there are 18"),
        "{told}"
    );
}

#[test]
fn a_backup_replays_few_inputs_of_devices_between_two_heartbeats() {
    let mut victim = Victim::replaying();
    let at = victim.machine.now();
    let mut coder = EntryCoder::new(at, SyncPoint::start());
    let mut log = FieldWriter::new();
    for request in 1..=10_u64 {
        let input = Input::Device {
            device: LINE,
            payload: request.to_le_bytes().to_vec(),
        };
        let event = Event::Input(input);
        coder.encode(&Entry { at, event }, &mut log);
    }
    victim.tell(&Message::Log(log.finish()));
    let mut replayed = Vec::new();
    for _ in 0..4 {
        let (now, mut inbox) = (victim.now, Inbox::new(1));
        victim.backup.drive(&mut victim.machine, &mut inbox, now);
        replayed.push(victim.machine.history().len());
    }
    replayed.dedup();
    assert_eq!(replayed, [4, 8, 10]);
}
