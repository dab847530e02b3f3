//! Speed of the software processor and size of the log, each beside QEMU's.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::{Finished, Scratch, guest_to_file, run};
use tests::measure::{Work, median, median_of, number, time_jobs};
use tests::process::VmProcess;
use tests::service::Line;

use crate::{LIFE_TIMEOUT, output_of, ratio, step};

const WORK_JOBS: &str = "job=sha256,loop,poweroff";

/// One run of QEMU in each mode: plain, record.
fn qemu(modes: &str) -> Result<Vec<Value>, HarnessError> {
    let text = output_of(Command::new("scripts/bench-qemu").args(["--modes", modes]))?;
    serde_json::from_str(&text).map_err(|error| {
        HarnessError::Broken(format!("scripts/bench-qemu printed {text:?}: {error}"))
    })
}

fn of_mode<'a>(runs: &'a [Value], mode: &str) -> impl Iterator<Item = &'a Value> {
    runs.iter().filter(move |run| run["mode"] == *mode)
}

/// Speed of the software processor.
///
/// # Errors
/// When a guest or QEMU fails.
pub fn cpu(scratch: &Scratch, rounds: u32) -> Result<Value, HarnessError> {
    let (mut own, mut boots, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        step(&format!("round {round} of {rounds}: our processor"));
        let begun = Instant::now();
        let name = format!("cpu-{round}");
        let jobs = "job=sha256,loop,idle";
        let process = VmProcess::start_guest(scratch.path(), &name, "256M", jobs)?;
        let mut line = Line::connect_within(process.serial(), LIFE_TIMEOUT)?;
        line.receive_until("MARK ready", LIFE_TIMEOUT)?;
        boots.push(begun.elapsed().as_secs_f64());
        own.push(time_jobs(&process, &mut line)?);
        drop(process);
        step(&format!("round {round} of {rounds}: QEMU"));
        peers.extend(qemu("plain,record")?);
    }
    let (sha256_s, loop_s) = (
        median_of(&own, |run| run.sha256_s),
        median_of(&own, |run| run.loop_s),
    );
    let million = |figure: fn(&Work) -> f64| median_of(&own, figure) / 1e6;
    let mut figures = json!({
        "rounds": rounds,
        "boot_s": median(&boots),
        "sha256_s": sha256_s,
        "sha256_mips": million(|run| run.sha256_instructions / run.sha256_s),
        "loop_s": loop_s,
        "loop_mips": million(|run| run.loop_instructions / run.loop_s),
    });
    for mode in ["plain", "record"] {
        for (name, own_s) in [("sha256", sha256_s), ("loop", loop_s)] {
            let times: Vec<f64> = of_mode(&peers, mode)
                .map(|run| number(run, &format!("/{name}_s")))
                .collect();
            let peer_s = median(&times);
            figures[format!("qemu_{mode}_{name}_s")] = json!(peer_s);
            // Above one: we are the faster.
            figures[format!("{name}_speed_to_qemu_{mode}")] = json!(ratio(peer_s, own_s));
        }
    }
    Ok(figures)
}

/// A guest's whole life recorded, then replayed: seconds of each, bytes of the log.
///
/// # Errors
/// When either run fails.
pub fn life(scratch: &Scratch) -> Result<Life, HarnessError> {
    let log = scratch.file("life.log");
    let mut arguments = guest_to_file("256M", WORK_JOBS, &scratch.file("life.txt"))?;
    arguments.extend(["--record".to_owned(), log.display().to_string()]);
    let (record_s, _) = timed_run(scratch, &arguments)?;
    let replay = ["--replay", &log.display().to_string(), "--serial", "null"].map(str::to_owned);
    let (replay_s, replayed) = timed_run(scratch, &replay)?;
    let log_bytes = std::fs::metadata(&log)
        .map_err(HarnessError::host("look at a log"))?
        .len();
    Ok(Life {
        record_s,
        replay_s,
        log_bytes,
        snapshot_bytes: number(&replayed.json()?, "/snapshot_bytes") as u64,
    })
}

/// A guest's life, recorded and replayed.
pub struct Life {
    /// Seconds of the recording.
    pub record_s: f64,
    /// Seconds of the replay.
    pub replay_s: f64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Those of them that hold the machine as it was at the start.
    pub snapshot_bytes: u64,
}

fn timed_run(scratch: &Scratch, arguments: &[String]) -> Result<(f64, Finished), HarnessError> {
    let begun = Instant::now();
    let finished = run(scratch, arguments, LIFE_TIMEOUT)?;
    if finished.code != Some(0) {
        return Err(HarnessError::Broken(format!("a run failed: {finished:?}")));
    }
    Ok((begun.elapsed().as_secs_f64(), finished))
}

/// Size of the log of one guest's life. Ours holds the machine as it was at the start as well,
/// which QEMU has from the files that it is started with.
///
/// # Errors
/// When a guest or QEMU fails.
pub fn log(scratch: &Scratch) -> Result<Value, HarnessError> {
    step("our recording");
    let life = life(scratch)?;
    step("QEMU's recording");
    let peers = qemu("record")?;
    let peer = of_mode(&peers, "record")
        .next()
        .map_or(0.0, |run| number(run, "/log_bytes"));
    Ok(json!({
        "record_s": life.record_s,
        "log_bytes": life.log_bytes,
        "log_bytes_of_the_start": life.snapshot_bytes,
        "log_bytes_of_events": life.log_bytes - life.snapshot_bytes,
        "qemu_log_bytes": peer,
        "events_to_qemu": ratio((life.log_bytes - life.snapshot_bytes) as f64, peer),
    }))
}
