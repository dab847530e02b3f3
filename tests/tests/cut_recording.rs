//! A machine that is recorded stays where it is; its recording, cut among its events, replays to
//! its last whole entry, says where it ends, and counts the epochs up to there as verified.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::command::{Scratch, run};
use tests::process::{VmProcess, guest_arguments, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// How long the guest is recorded: some way into its boot.
const RECORDED: Duration = Duration::from_secs(3);

/// Replays `log`: exit code and summary.
fn replay(scratch: &Scratch, log: &Path) -> (Option<i32>, Value) {
    let arguments = ["--replay", &log.display().to_string(), "--serial", "null"];
    let finished = run(scratch, &arguments.map(str::to_owned), LIMIT).unwrap();
    (finished.code, finished.json().unwrap())
}

fn number(summary: &Value, member: &str) -> u64 {
    summary[member].as_u64().unwrap()
}

#[test]
fn a_recording_cut_among_its_events_replays_up_to_the_cut() {
    let scratch = Scratch::new("cut-recording").unwrap();
    let log = scratch.file("boot.log");
    let mut arguments = guest_arguments("128M", "job=idle").unwrap();
    let record = ["--serial", "null", "--record", &log.display().to_string()];
    arguments.extend(record.map(str::to_owned));
    let mut recorder = VmProcess::start(scratch.path(), "recorder", &arguments).unwrap();
    std::thread::sleep(RECORDED);
    // The log would have no end that says so; both calls are refused, and change nothing.
    for call in ["vm.send-migration", "vm.ft-start"] {
        let mut body = json!({"destination_url": "tcp:127.0.0.1:1"});
        if call == "vm.ft-start" {
            body["fence"] = json!("none");
        }
        let said = recorder.put(call, &body).unwrap_err().to_string();
        assert!(said.contains("VM is recorded"), "{call}: {said}");
    }
    recorder.signal("TERM").unwrap();
    wait_until("the end of the recording", LIMIT, || {
        Ok(recorder.ended().is_some())
    })
    .unwrap();

    let (code, whole) = replay(&scratch, &log);
    assert_eq!(code, Some(0), "{whole}");
    assert_eq!(whole["cut_at"], Value::Null, "{whole}");
    assert!(number(&whole, "epochs_verified") > 10, "{whole}");

    // The events are at the end of the file, tens of bytes each.
    let bytes = fs::read(&log).unwrap();
    let mut last = number(&whole, "entries");
    for missing in [5, 400] {
        let length = bytes.len() - missing;
        let cut = scratch.file("cut.log");
        fs::write(&cut, &bytes[..length]).unwrap();
        let (code, summary) = replay(&scratch, &cut);
        assert_eq!(code, Some(1), "{summary}");
        assert_eq!(summary["divergences"], json!([]), "{summary}");
        let end = number(&summary, "cut_at") as usize;
        assert!(
            (length - 300..=length).contains(&end),
            "{length}: {summary}"
        );
        let entries = number(&summary, "entries");
        assert!(entries > 0 && entries <= last, "{summary}");
        assert!(number(&summary, "epochs_verified") > 10, "{summary}");
        last = entries;
    }
    assert!(last < number(&whole, "entries"));
}
