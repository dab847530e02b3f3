//! Offline logs: what was recorded replays with every digest equal, and what is wrong with a log
//! is said.

#[path = "simulation/sim/mod.rs"]
#[allow(dead_code)]
mod sim;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ft::divergence::DivergenceCause;
use ft::event::{ControlOp, Input};
use ft::inbox::Inbox;
use ft::log::{LogError, LogReader};
use ft::machine::Machine;
use ft::primary::Primary;
use ft::record::Pace;
use ft::status::Next;
use ft::time::HostTime;
use ft::verify::{VerifyError, VerifySummary, verify};

use sim::toy::{LINE, Toy};

/// How busy the recorded machine is.
const BUSY: u64 = 5;

/// A sink whose bytes can be looked at.
#[derive(Clone, Default)]
struct SharedBytes(Arc<Mutex<Vec<u8>>>);

impl SharedBytes {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for SharedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Records a life of some milliseconds that begins in the midst of things; the log, and the
/// machine as it was at the end.
fn recorded(finish: bool) -> (Vec<u8>, Toy) {
    let mut machine = Toy::new(BUSY);
    let mut now = HostTime(1_000_000);
    let pace = Pace {
        max_instructions: 200,
        ..Pace::default()
    };
    let mut primary = Primary::new("recorder".into(), pace, &machine, now);
    let mut inbox = Inbox::new(1 << 16);
    let bytes = SharedBytes::default();
    for step in 0..400_u64 {
        if step == 50 {
            let sink = Box::new(bytes.clone());
            primary
                .record(&mut machine, sink, 1, 2, now)
                .expect("the sink takes everything");
        }
        if step % 7 == 0 {
            let payload = step.to_le_bytes().to_vec();
            inbox
                .offer(Input::Device {
                    device: LINE,
                    payload,
                })
                .expect("there is room");
        }
        if step == 200 {
            inbox
                .offer(Input::Control(ControlOp::Nmi))
                .expect("there is room");
        }
        let next = primary.drive(&mut machine, &mut inbox, now);
        primary.take_released(now);
        now = match next {
            Next::Wait(Some(at)) => at.min(now.plus_ms(1)),
            _ => now.plus(250_000),
        };
    }
    if finish {
        primary
            .finish_recording(&mut machine, now)
            .expect("the sink takes everything");
    }
    (bytes.take(), machine)
}

fn replayed(log: &[u8], machine: &mut Toy) -> Result<VerifySummary, VerifyError> {
    let mut reader = LogReader::open(log)?;
    verify(&mut reader, machine, |_| true)
}

#[test]
fn a_recorded_life_replays_with_every_digest_equal_and_ends_in_the_same_state() {
    let (log, recorded) = recorded(true);
    let mut machine = Toy::new(BUSY);
    let summary = replayed(&log, &mut machine).unwrap();
    assert!(
        summary.epochs_verified > 10 && summary.outputs > 20,
        "{summary:?}"
    );
    assert!(
        summary.divergences.is_empty() && summary.cut_at.is_none(),
        "{summary:?}"
    );
    assert_eq!(machine.sections(), recorded.sections());
}

#[test]
fn a_log_without_its_end_replays_up_to_there_and_says_so() {
    let (log, _) = recorded(false);
    let summary = replayed(&log, &mut Toy::new(BUSY)).unwrap();
    assert_eq!(summary.cut_at, Some(log.len() as u64));
    assert!(summary.epochs_verified > 10);
}

#[test]
fn a_log_cut_anywhere_replays_to_the_last_whole_record_or_has_no_snapshot() {
    let (log, _) = recorded(true);
    let mut verified = 0;
    for length in (20..log.len()).step_by(97) {
        match replayed(&log[..length], &mut Toy::new(BUSY)) {
            Ok(summary) => {
                assert!(
                    summary.divergences.is_empty(),
                    "cut at {length}: {summary:?}"
                );
                assert!(
                    summary.cut_at.is_some_and(|at| at <= length as u64),
                    "{summary:?}"
                );
                assert!(summary.epochs_verified >= verified);
                verified = summary.epochs_verified;
            }
            Err(VerifyError::Log(LogError::NoSnapshot { .. } | LogError::Io { .. })) => {
                assert_eq!(verified, 0);
            }
            Err(error) => panic!("cut at {length}: {error}"),
        }
    }
    assert!(verified > 10);
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let (log, _) = recorded(true);
    for bit in (0..log.len() * 8).step_by(131) {
        let mut damaged = log.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let result = replayed(&damaged, &mut Toy::new(BUSY));
        let noticed = match &result {
            Err(_) => true,
            Ok(summary) => summary.cut_at.is_some(),
        };
        assert!(noticed, "bit {bit}: {result:?}");
    }
}

#[test]
fn a_machine_that_executes_otherwise_is_found_at_the_end_of_the_epoch_and_the_part_is_named() {
    let (log, _) = recorded(true);
    let mut machine = Toy::new(BUSY);
    let mut reader = LogReader::open(log.as_slice()).unwrap();
    let mut seen = 0;
    machine.flip_after(400, 12);
    let summary = verify(&mut reader, &mut machine, |outputs| {
        seen += outputs.len();
        true
    })
    .unwrap();
    let report = &summary.divergences[0];
    assert_eq!(report.cause, DivergenceCause::Digest);
    assert!(
        report
            .sections
            .iter()
            .any(|section| section.section == "cpu"),
        "{report}"
    );
    assert_eq!(seen as u64, summary.outputs);
}

#[test]
fn a_log_of_another_machine_is_refused_with_both_values() {
    let (log, _) = recorded(true);
    let error = replayed(&log, &mut Toy::new(BUSY + 1))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the log is of a machine with fingerprint toy 5; this one has toy 6"
    );
}

#[test]
fn what_is_no_log_is_refused() {
    let error = LogReader::open(&b"\x7fELF\x02\x01\x01\x00 and so on and on"[..]).unwrap_err();
    assert!(matches!(error, LogError::Magic { .. }), "{error}");
    let (mut log, _) = recorded(true);
    log[8] = 9;
    let error = LogReader::open(log.as_slice()).unwrap_err().to_string();
    assert_eq!(error, "log format version 9; this program reads version 1");
}

/// A sink that is full after so many bytes.
struct FullAfter(usize);

impl Write for FullAfter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_the_machine_goes_on() {
    let mut machine = Toy::new(BUSY);
    let mut now = HostTime(0);
    let pace = Pace {
        max_instructions: 200,
        ..Pace::default()
    };
    let mut primary = Primary::new("recorder".into(), pace, &machine, now);
    primary
        .record(&mut machine, Box::new(FullAfter(1_200)), 5, 0, now)
        .unwrap();
    for _ in 0..400 {
        primary.drive(&mut machine, &mut Inbox::new(1), now);
        now = now.plus(500_000);
    }
    assert!(!primary.is_recording());
    let events = format!("{:?}", primary.take_events());
    assert!(events.contains("RecordingFailed"), "{events}");
    assert!(machine.now().0 > 1_000);
}
