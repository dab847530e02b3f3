//! Starts that cannot succeed: refused with both values named, and nobody is harmed.

use ft::backup::AcceptError;
use ft::fence::NoFence;
use ft::inbox::Inbox;
use ft::machine::Machine;
use ft::mode::Mode;
use ft::parameters::Parameters;
use ft::primary::StartError;
use ft::protocol::{FrameEncoder, Hello, MachineFacts, Message, PROTOCOL_VERSION};
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{End, FtEvent, Next};
use ft::time::{Generation, HostTime};

use crate::sim::fence::FenceStore;
use crate::sim::toy::Toy;

/// A primary and a backup in one room.
struct Pair {
    primary: Replica,
    machine: Toy,
    backup: Replica,
    spare: Toy,
    now: HostTime,
}

impl Pair {
    fn new(busy: u64, spare_busy: u64) -> Self {
        let now = HostTime(0);
        let machine = Toy::new(busy);
        let primary = Replica::primary("one".into(), Pace::default(), &machine, now);
        let backup = Replica::backup("two".into(), Pace::default(), now);
        Self {
            primary,
            machine,
            backup,
            spare: Toy::new(spare_busy),
            now,
        }
    }

    fn protect(&mut self, fences: &FenceStore) -> Result<(), StartError> {
        let fence = fences.fence("one");
        let config = b"config".to_vec();
        self.primary.protect(
            &self.machine,
            Parameters::default(),
            fence,
            config,
            self.now,
        )
    }

    /// Carries bytes both ways and lets the primary act.
    fn carry(&mut self) {
        self.now = self.now.plus_ms(5);
        while let Some(bytes) = self.primary.poll_transmit(4096) {
            self.backup.on_bytes(&bytes, self.now);
        }
        while let Some(bytes) = self.backup.poll_transmit(4096) {
            self.primary.on_bytes(&bytes, self.now);
        }
        let next = self
            .primary
            .drive(&mut self.machine, &mut Inbox::new(100), self.now);
        assert!(!matches!(next, Next::Ended(_)));
    }

    fn start_failure(&mut self) -> String {
        self.carry();
        let events = self.primary.take_events();
        let failed = events.into_iter().find_map(|event| match event {
            FtEvent::StartFailed { reason } => Some(reason),
            _ => None,
        });
        assert_eq!(
            self.primary.state(),
            "unprotected",
            "the machine goes on as it was"
        );
        let before = self.machine.now();
        self.carry();
        assert!(self.machine.now() > before, "the machine goes on as it was");
        failed.expect("the start has failed")
    }
}

#[test]
fn a_machine_that_is_not_like_the_primarys_is_refused_with_both_values() {
    let fences = FenceStore::default();
    let mut pair = Pair::new(3, 4);
    pair.protect(&fences).unwrap();
    pair.carry();
    assert_eq!(
        pair.backup.hello().map(|hello| hello.config.clone()),
        Some(b"config".to_vec())
    );
    let refused = pair
        .backup
        .accept(&pair.spare, fences.fence("two"), pair.now);
    let text = "machine fingerprint does not match: the peer has toy 3, this side has toy 4";
    assert_eq!(refused.unwrap_err().to_string(), text);
    assert_eq!(pair.backup.end(), Some(&End::Failed(text.into())));
    assert!(pair.start_failure().contains(text));
}

#[test]
fn a_fence_that_is_not_the_primarys_is_refused_with_both_generations() {
    let fences = FenceStore::default();
    let mut pair = Pair::new(3, 3);
    pair.protect(&fences).unwrap();
    pair.carry();
    let other = FenceStore::default();
    let refused = pair
        .backup
        .accept(&pair.spare, other.fence("two"), pair.now);
    assert!(matches!(refused, Err(AcceptError::Refused(_))));
    let failure = pair.start_failure();
    assert!(
        failure.contains("latest generation at the fence"),
        "{failure}"
    );
    assert!(
        failure.contains("the peer has 1, this side has none"),
        "{failure}"
    );
}

#[test]
fn a_fence_that_cannot_be_asked_fails_the_start_at_once() {
    let fences = FenceStore::default();
    fences.set_unreachable("one", true);
    let mut pair = Pair::new(3, 3);
    let error = pair.protect(&fences).unwrap_err();
    assert!(matches!(error, StartError::Fence(_)), "{error}");
    assert_eq!(pair.primary.state(), "unprotected");
}

#[test]
fn a_second_start_is_refused_and_names_the_state() {
    let fences = FenceStore::default();
    let mut pair = Pair::new(3, 3);
    pair.protect(&fences).unwrap();
    let error = pair.protect(&fences).unwrap_err().to_string();
    assert_eq!(error, "start is not possible while the state is handshake");
}

#[test]
fn a_setting_out_of_range_is_refused_by_name() {
    let mut pair = Pair::new(3, 3);
    let parameters = Parameters {
        epoch_ms: 0,
        ..Parameters::default()
    };
    let fence = Box::new(NoFence);
    let error = pair
        .primary
        .protect(&pair.machine, parameters, fence, Vec::new(), pair.now);
    let text = "epoch_ms is 0; it must be from 1 to 1000";
    assert_eq!(error.unwrap_err().to_string(), text);
}

#[test]
fn requests_to_an_unprotected_machine_and_to_a_backup_are_refused() {
    let mut pair = Pair::new(3, 3);
    let error = pair.primary.fail_over().unwrap_err().to_string();
    assert_eq!(
        error,
        "failover is not possible while the state is unprotected"
    );
    let error = pair
        .primary
        .stop_protection(pair.now)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "stop is not possible while the state is unprotected");
    let error = pair.backup.fail_over().unwrap_err().to_string();
    assert_eq!(error, "failover is not possible while the state is backup");
}

#[test]
fn a_stranger_at_the_door_is_refused_and_told_why() {
    let mut backup = Replica::backup("two".into(), Pace::default(), HostTime(0));
    backup.on_bytes(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n", HostTime(0));
    assert!(
        matches!(backup.end(), Some(End::Failed(_))),
        "{:?}",
        backup.end()
    );
    assert!(!backup.wants_link());
    assert!(backup.poll_transmit(1000).is_some());
}

#[test]
fn a_peer_that_closes_during_the_handshake_fails_the_start() {
    let fences = FenceStore::default();
    let mut pair = Pair::new(3, 3);
    pair.protect(&fences).unwrap();
    pair.primary.on_link_closed();
    let failure = pair.start_failure();
    assert_eq!(failure, "the connection was closed");
}

#[test]
fn a_start_keeps_the_generation_that_this_side_has_claimed_and_raises_anothers() {
    let fences = FenceStore::default();
    let mut pair = Pair::new(3, 3);
    pair.protect(&fences).unwrap();
    assert_eq!(pair.primary.generation(), Generation(1));
    pair.primary.on_link_closed();
    pair.start_failure();
    pair.protect(&fences).unwrap();
    assert_eq!(
        pair.primary.generation(),
        Generation(1),
        "claimed by this side already"
    );
    let mut other = Pair::new(3, 3);
    other.primary = Replica::primary("three".into(), Pace::default(), &other.machine, other.now);
    other.protect(&fences).unwrap();
    assert_eq!(
        other.primary.generation(),
        Generation(2),
        "claimed by another side before"
    );
}

/// Opens a backup with what `change` makes of a primary's greeting; what the backup ends with.
fn open_with(change: impl FnOnce(&mut Hello)) -> String {
    let machine = Toy::new(3);
    let mut hello = Hello {
        version: PROTOCOL_VERSION,
        facts: MachineFacts::of(&machine),
        generation: Generation(1),
        parameters: Parameters {
            mode: Mode::Replay,
            ..Parameters::default()
        },
        config: Vec::new(),
    };
    change(&mut hello);
    let (kind, payload) = Message::Hello(Box::new(hello)).encode();
    let (mut encoder, mut bytes) = (FrameEncoder::default(), Vec::new());
    let sealed = encoder.encode(kind, Generation(1), &payload, &mut bytes);
    sealed.expect("a greeting fits into a frame");
    let now = HostTime(0);
    let mut backup = Replica::backup("two".into(), Pace::default(), now);
    backup.on_bytes(&bytes, now);
    let refused = backup.accept(&machine, Box::new(NoFence), now);
    assert!(refused.is_err());
    let Some(End::Failed(text)) = backup.end().cloned() else {
        panic!("{:?}", backup.end())
    };
    assert!(!backup.wants_link());
    let told = backup.poll_transmit(4096).expect("the peer is told");
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains(text.as_str()), "{told}");
    text
}

#[test]
fn another_protocol_version_is_refused_with_both_values() {
    let other = PROTOCOL_VERSION + 7;
    let text = open_with(|hello| hello.version = other);
    let expected = format!(
        "protocol version does not match: the peer has {other}, this side has {PROTOCOL_VERSION}"
    );
    assert_eq!(text, expected);
}

#[test]
fn a_mode_that_is_open_or_that_this_side_cannot_follow_is_refused() {
    let text = open_with(|hello| hello.parameters.mode = Mode::Auto);
    let expected = "mode does not match: the peer has auto, this side has replay";
    assert_eq!(text, expected);
}

#[test]
fn a_machine_that_cannot_be_replayed_is_not_and_auto_takes_deltas_for_it() {
    let (now, machine) = (HostTime(0), Toy::inexact(3, 9));
    let mut primary = Replica::primary("one".into(), Pace::default(), &machine, now);
    let mut protect = |mode| {
        let parameters = Parameters {
            mode,
            ..Parameters::default()
        };
        primary.protect(&machine, parameters, Box::new(NoFence), Vec::new(), now)
    };
    let refused = protect(Mode::Replay).unwrap_err().to_string();
    let expected = "mode replay is not possible with this machine: the machine draws from its \
                    host; checkpoint and auto are";
    assert_eq!(refused, expected);
    protect(Mode::Auto).unwrap();
    let status = primary.status(Some(&machine), now).unwrap();
    assert_eq!(status.mode, "checkpoint");
    assert_eq!(status.mode_reason, "the machine draws from its host");
}

#[test]
fn another_memory_size_is_refused_with_both_values() {
    let text = open_with(|hello| hello.facts.page_count = 99);
    let expected = "memory size in pages does not match: the peer has 99, this side has 18";
    assert_eq!(text, expected);
}

#[test]
fn a_machine_that_cannot_be_replayed_is_not_recorded() {
    let now = HostTime(0);
    let mut machine = Toy::inexact(3, 9);
    let mut primary = Replica::primary("one".into(), Pace::default(), &machine, now);
    let primary = primary.as_primary().unwrap();
    let refused = primary.record(&mut machine, Box::new(std::io::sink()), 10, 1, now);
    let text = refused.unwrap_err().to_string();
    let expected = "this machine cannot be replayed: the machine draws from its host";
    assert_eq!(text, expected);
}
