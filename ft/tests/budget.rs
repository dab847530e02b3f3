//! What the log costs on the wire: a machine as fast as a real one that does nothing else.

use ft::event::{Input, Output, SyncPoint};
use ft::fence::NoFence;
use ft::inbox::Inbox;
use ft::machine::{FieldDifference, Machine, MachineError, Page, Section, Stop, ZERO_PAGE};
use ft::parameters::Parameters;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{FtStatus, Next};
use ft::time::{HostTime, LogicalTime, PageNumber};

/// Instructions in a microsecond.
const PER_US: u64 = 150;
/// Instructions that the sleepy guest executes each time it wakes.
const NAP_WORK: u64 = 30_000;

/// Spins, or sleeps and wakes.
#[derive(Clone)]
struct Spinner {
    now: u64,
    point: SyncPoint,
    /// Virtual time between two wakes; none for a guest that is always busy.
    nap_ns: Option<u64>,
    wake_ns: u64,
    awake_until: u64,
}

impl Spinner {
    fn new(nap_ns: Option<u64>) -> Self {
        Self {
            now: 0,
            point: SyncPoint::start(),
            nap_ns,
            wake_ns: 0,
            awake_until: NAP_WORK,
        }
    }
}

impl Machine for Spinner {
    fn fingerprint(&self) -> String {
        "spinner".into()
    }

    fn now(&self) -> LogicalTime {
        LogicalTime(self.now)
    }

    fn virtual_ns(&self) -> u64 {
        self.point.virtual_ns(self.now())
    }

    fn advance(&mut self, until: LogicalTime) -> Stop {
        let Some(nap_ns) = self.nap_ns else {
            self.now = self.now.max(until.0);
            return Stop::Reached;
        };
        if self.now >= until.0 {
            return Stop::Reached;
        }
        if self.now >= self.awake_until {
            if self.virtual_ns() < self.wake_ns {
                return Stop::Idle {
                    wake_ns: Some(self.wake_ns),
                };
            }
            self.awake_until = self.now + NAP_WORK;
            self.wake_ns = self.virtual_ns() + nap_ns;
        }
        self.now = until.0.min(self.awake_until);
        if self.now == until.0 {
            Stop::Reached
        } else {
            self.advance(until)
        }
    }

    fn inject(&mut self, input: &Input) -> Result<(), MachineError> {
        let Input::Clock(sync) = input else {
            return Err(MachineError::new("only a clock"));
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
        let fields = [self.now, self.wake_ns, self.awake_until, self.virtual_ns()];
        let bytes = fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        let point = [
            self.point.at.0,
            self.point.sync.virtual_ns,
            self.point.sync.rate.0.into(),
        ];
        let point = point.iter().flat_map(|field| field.to_le_bytes()).collect();
        vec![
            Section {
                name: "cpu".into(),
                version: 1,
                bytes,
            },
            Section {
                name: "clock".into(),
                version: 1,
                bytes: point,
            },
        ]
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let word = |section: usize, index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&sections[section].bytes[index * 8..index * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        (self.now, self.wake_ns, self.awake_until) = (word(0, 0), word(0, 1), word(0, 2));
        self.point.at = LogicalTime(word(1, 0));
        self.point.sync.virtual_ns = word(1, 1);
        self.point.sync.rate.0 = word(1, 2) as u32;
        Ok(())
    }

    fn describe_difference(&self, _: &str, _: &[u8], _: &[u8]) -> Vec<FieldDifference> {
        Vec::new()
    }

    fn page_count(&self) -> u64 {
        4
    }

    fn read_page(&self, _: PageNumber, bytes: &mut Page) {
        *bytes = ZERO_PAGE;
    }

    fn write_page(&mut self, _: PageNumber, _: &Page) {}

    fn take_dirty_pages(&mut self) -> Vec<PageNumber> {
        Vec::new()
    }

    fn touched_pages(&self) -> Vec<PageNumber> {
        Vec::new()
    }

    fn synchronise(&mut self) {}
}

/// How long a machine is protected, in milliseconds.
const PROTECTED_MS: u64 = 3_500;

/// Protects a machine for three and a half seconds; the primary's status then, and how often it
/// sent something.
fn protected(nap_ns: Option<u64>) -> (FtStatus, u64) {
    let mut now = HostTime(0);
    let (mut machine, mut spare) = (Spinner::new(nap_ns), Spinner::new(nap_ns));
    let mut primary = Replica::primary("one".into(), Pace::default(), &machine, now);
    let mut backup = Replica::backup("two".into(), Pace::default(), now);
    let parameters = Parameters::default();
    primary
        .protect(&machine, parameters, Box::new(NoFence), Vec::new(), now)
        .expect("nothing stands in the way");
    let mut inbox = Inbox::new(1);
    let mut jitter = 1_u64;
    let mut sent = 0;
    while now < HostTime(0).plus_ms(PROTECTED_MS) {
        let before = machine.now();
        let next = primary.drive(&mut machine, &mut inbox, now);
        // A host is never quite even: up to five per cent more than the guest needs.
        jitter = jitter
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let ns = machine.now().since(before) * 1_000 / PER_US;
        let cost = 2_000 + ns + ns * (jitter >> 60) / 320;
        while let Some(bytes) = primary.poll_transmit(1 << 20) {
            sent += 1;
            backup.on_bytes(&bytes, now);
        }
        if backup.hello().is_some() {
            backup
                .accept(&spare, Box::new(NoFence), now)
                .expect("nothing stands in the way");
        }
        while backup.state() != "listening"
            && backup.drive(&mut spare, &mut inbox, now) == Next::Run
        {}
        while let Some(bytes) = backup.poll_transmit(1 << 20) {
            primary.on_bytes(&bytes, now);
        }
        now = match next {
            Next::Wait(Some(at)) => at.max(now.plus(cost)),
            _ => now.plus(cost),
        };
    }
    assert_eq!(primary.state(), "protected");
    let status = primary
        .status(Some(&machine), now)
        .expect("nothing stands in the way");
    assert!(status.positions.epochs_verified > 2, "{status:?}");
    assert_eq!(status.divergences, 0);
    (status, sent)
}

#[test]
fn a_busy_guest_costs_at_most_100_kbit_a_second() {
    let (status, _) = protected(None);
    assert!(
        status.log.kbit_s > 10.0 && status.log.kbit_s <= 100.0,
        "{:#?}",
        status.log
    );
    assert!(status.clock.late < 10, "{:?}", status.clock);
}

#[test]
fn a_guest_that_sleeps_and_wakes_ten_times_a_second_costs_at_most_10_kbit_a_second() {
    let (status, _) = protected(Some(100_000_000));
    assert!(
        status.log.kbit_s > 0.5 && status.log.kbit_s <= 10.0,
        "{:#?}",
        status.log
    );
}

#[test]
fn a_guest_that_wakes_25_times_a_second_costs_at_most_10_kbit_a_second() {
    let (status, _) = protected(Some(40_000_000));
    assert!(
        status.log.kbit_s > 0.5 && status.log.kbit_s <= 10.0,
        "{:#?}",
        status.log
    );
}

#[test]
fn a_guest_that_sleeps_for_moments_sends_no_more_than_once_in_a_millisecond() {
    // Awake for 200 microseconds, then asleep for 100.
    let (status, sent) = protected(Some(300_000));
    assert!(sent > PROTECTED_MS / 2, "{sent}");
    // And once for each epoch.
    let most = PROTECTED_MS + status.positions.epochs_verified + 100;
    assert!(sent <= most, "{sent}, not {most}");
}
