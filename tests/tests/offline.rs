//! Offline recordings: what was recorded replays with every digest equal, again and again, and a
//! damaged recording is refused with the place of the damage.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::{Finished, Load, Scratch, guest_to_file, run};

const LIMIT: Duration = Duration::from_secs(120);
const JOBS: &str = "job=sha256,loop,poweroff sha256_mib=8 loop_turns=2000";

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Records the guest's whole life into `log`.
fn record(scratch: &Scratch, log: &Path, serial: &Path) -> Result<Finished, HarnessError> {
    let mut arguments = guest_to_file("128M", JOBS, serial)?;
    arguments.extend(["--record".to_owned(), text(log)]);
    run(scratch, &arguments, LIMIT)
}

fn replay(scratch: &Scratch, log: &Path, serial: &str) -> Result<Finished, HarnessError> {
    let arguments = ["--replay", &text(log), "--serial", serial].map(str::to_owned);
    run(scratch, &arguments, LIMIT)
}

/// A copy of `log` that ends after `length` bytes, with one bit of `flipped` turned over.
fn damage(log: &[u8], length: usize, flipped: Option<usize>, path: &Path) {
    let mut bytes = log[..length].to_vec();
    if let Some(offset) = flipped {
        bytes[offset] ^= 0x10;
    }
    fs::write(path, bytes).unwrap();
}

fn check_damaged(scratch: &Scratch, log: &[u8]) {
    let copy = scratch.file("damaged.log");
    // Inside the header, inside the starting snapshot, and among the events.
    for (length, flipped, what) in [
        (20, None, "a log cut in its header"),
        (log.len() / 8, None, "a log cut in its first part"),
        (log.len(), Some(3), "a log with a wrong magic"),
        (
            log.len(),
            Some(log.len() / 3),
            "a log with a wrong bit in its first part",
        ),
        (
            log.len(),
            Some(log.len() - 9),
            "a log with a wrong bit near its end",
        ),
    ] {
        damage(log, length, flipped, &copy);
        let finished = replay(scratch, &copy, "null").unwrap();
        assert!(
            !matches!(finished.code, None | Some(0)),
            "{what}: {finished:?}"
        );
        let said = format!("{}{}", finished.output, finished.errors);
        let names = ["offset", "cut_at", "not an event log"]
            .iter()
            .any(|word| said.contains(word));
        assert!(names, "{what}: no place is named: {finished:?}");
        if let Ok(summary) = finished.json() {
            assert_eq!(summary["divergences"], json!([]), "{what}: {summary}");
            assert!(summary["cut_at"].is_u64(), "{what}: {summary}");
        }
    }
}

#[test]
fn a_recorded_boot_replays_equal_three_times_and_damage_is_told() {
    let scratch = Scratch::new("offline").unwrap();
    let (log, serial) = (scratch.file("boot.log"), scratch.file("recorded.txt"));
    let recorded = record(&scratch, &log, &serial).unwrap();
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    let console = fs::read(&serial).unwrap();
    let shown = String::from_utf8_lossy(&console);
    for mark in [
        "MARK ready",
        "MARK end sha256 ",
        "MARK end loop 2000",
        "MARK begin poweroff",
    ] {
        assert!(shown.contains(mark), "no {mark:?} on the console: {shown}");
    }

    let mut first: Option<Value> = None;
    for round in 0..3 {
        let load = (round == 1).then(|| Load::start().unwrap());
        let copy = scratch.file(&format!("replayed-{round}.txt"));
        let finished = replay(&scratch, &log, &format!("file={}", text(&copy))).unwrap();
        drop(load);
        assert_eq!(finished.code, Some(0), "replay {round}: {finished:?}");
        let summary = finished.json().unwrap();
        assert_eq!(summary["divergences"], json!([]), "replay {round}");
        assert_eq!(summary["cut_at"], Value::Null, "replay {round}");
        assert!(
            summary["epochs_verified"].as_u64().unwrap() > 0,
            "replay {round}: {summary}"
        );
        assert_eq!(
            summary,
            *first.get_or_insert_with(|| summary.clone()),
            "replay {round}"
        );
        assert_eq!(
            fs::read(&copy).unwrap(),
            console,
            "console of replay {round}"
        );
    }
    check_damaged(&scratch, &fs::read(&log).unwrap());
}

#[test]
fn what_is_no_recording_is_refused_by_name() {
    let scratch = Scratch::new("no-recording").unwrap();
    let file = scratch.file("letter.txt");
    fs::write(&file, "Dear reader, this is no recording at all.\n").unwrap();
    let finished = replay(&scratch, &file, "null").unwrap();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.errors.contains("letter.txt"), "{finished:?}");
    assert!(finished.errors.contains("not an event log"), "{finished:?}");
    let missing = replay(&scratch, &scratch.file("missing.log"), "null").unwrap();
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.errors.contains("missing.log"), "{missing:?}");
}
