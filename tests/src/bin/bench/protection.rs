//! What recording and protection cost a guest that computes, clone pauses and failovers.

use std::time::Duration;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::measure::{
    Work, boot_shell, clone_pause_ms, failover_ms, log_rate, median, median_of, time_shell,
};
use tests::process::{VmProcess, guest_arguments};
use tests::service::Line;

use crate::processor::{Life, life};
use crate::{LIFE_TIMEOUT, ratio, step};

/// One figure of a run.
type Figure = fn(&Work) -> f64;

/// The same work, once a round in each state.
#[derive(Default)]
struct Works {
    alone: Vec<Work>,
    recording: Vec<Work>,
    side_by_side: Vec<Work>,
    protected: Vec<Work>,
}

impl Works {
    /// Adds times, and speeds as ratios: each of two runs in one round, then the median over the
    /// rounds. `speed_protected_to_side_by_side` leaves out what any two busy guests on this host
    /// cost each other; with a backup on a like host of its own there is no such cost.
    fn report(&self, figures: &mut Value) {
        let names: [(&str, Figure); 2] =
            [("sha256", |run| run.sha256_s), ("loop", |run| run.loop_s)];
        for (name, figure) in names {
            let states = [
                ("unprotected", &self.alone),
                ("recording", &self.recording),
                ("side_by_side", &self.side_by_side),
                ("protected", &self.protected),
            ];
            for (state, runs) in states {
                figures[format!("{name}_s_{state}")] = json!(median_of(runs, figure));
            }
            let speed = |base: &[Work], runs: &[Work]| {
                let pairs = base.iter().zip(runs);
                let speeds = pairs.map(|(base, run)| ratio(figure(base), figure(run)));
                json!(median(&speeds.collect::<Vec<_>>()))
            };
            for (state, runs) in &states[1..] {
                figures[format!("{name}_speed_{state}")] = speed(&self.alone, runs);
            }
            figures[format!("{name}_speed_protected_to_side_by_side")] =
                speed(&self.side_by_side, &self.protected);
        }
    }
}

/// Boots a guest that works in the shell while its process records.
fn recording(scratch: &Scratch) -> Result<(VmProcess, Line), HarnessError> {
    let serial = scratch.file("recording.serial");
    let mut arguments = guest_arguments("256M", "job=shell")?;
    arguments.extend([
        "--serial".to_owned(),
        format!("socket={}", serial.display()),
    ]);
    let log = scratch.file("recording.log");
    arguments.extend(["--record".to_owned(), log.display().to_string()]);
    let process = VmProcess::start(scratch.path(), "recording", &arguments)?;
    let mut line = Line::connect_within(process.serial(), LIFE_TIMEOUT)?;
    line.receive_until("MARK begin shell", LIFE_TIMEOUT)?;
    Ok((process, line))
}

/// Two guests' work at once, the times of whichever was slower: what the cores lose by being both
/// busy, and by one being slower than the other. A pair on this host can go no faster.
fn side_by_side(
    first: (&VmProcess, &mut Line),
    second: (&VmProcess, &mut Line),
) -> Result<Work, HarnessError> {
    std::thread::scope(|scope| {
        let other = scope.spawn(move || time_shell(second.0, second.1));
        let work = time_shell(first.0, first.1);
        let other = other.join();
        let other = other.map_err(|_| HarnessError::Broken("a thread panicked".to_owned()))??;
        let work = work?;
        Ok(Work {
            sha256_s: work.sha256_s.max(other.sha256_s),
            loop_s: work.loop_s.max(other.loop_s),
            ..work
        })
    })
}

fn sub_scratch(scratch: &Scratch, name: &str) -> Result<std::path::PathBuf, HarnessError> {
    let path = scratch.file(name);
    std::fs::create_dir_all(&path).map_err(HarnessError::host("make a folder"))?;
    Ok(path)
}

/// Costs of protection.
///
/// # Errors
/// When a guest or its protection fails.
pub fn ft(scratch: &Scratch, rounds: u32, idle_s: u64) -> Result<Value, HarnessError> {
    let mut works = Works::default();
    let (mut busy, mut pauses, mut killed) = (Vec::new(), Vec::new(), Vec::new());
    step("boot the guests");
    let (mut pair, mut line) = boot_shell(&sub_scratch(scratch, "pair")?, "256M")?;
    let (other, mut other_line) = boot_shell(&sub_scratch(scratch, "other")?, "256M")?;
    let (recorder, mut recorder_line) = recording(scratch)?;
    for round in 1..=rounds {
        step(&format!("round {round} of {rounds}: alone, recording"));
        works.alone.push(time_shell(&pair.primary, &mut line)?);
        works
            .recording
            .push(time_shell(&recorder, &mut recorder_line)?);
        step(&format!(
            "round {round} of {rounds}: side by side, protected, SIGKILL"
        ));
        works.side_by_side.push(side_by_side(
            (&pair.primary, &mut line),
            (&other.primary, &mut other_line),
        )?);
        pauses.push(clone_pause_ms(&mut pair)?);
        let (rate, work) = log_rate(&pair, || time_shell(&pair.primary, &mut line))?;
        busy.push(rate);
        works.protected.push(work);
        killed.push(failover_ms(&mut pair, "KILL")?);
        line = Line::connect_within(pair.primary.serial(), LIFE_TIMEOUT)?;
    }
    drop((other, recorder));
    step("idle log rate; SIGSTOP");
    pauses.push(clone_pause_ms(&mut pair)?);
    let idle = || {
        std::thread::sleep(Duration::from_secs(idle_s));
        Ok(())
    };
    let (idle_rate, ()) = log_rate(&pair, idle)?;
    let silent_ms = failover_ms(&mut pair, "STOP")?;
    drop(pair);
    step("a clone of 2 GiB");
    let (mut large, _line) = boot_shell(&sub_scratch(scratch, "large")?, "2G")?;
    let large_pause_ms = clone_pause_ms(&mut large)?;
    drop(large);
    step("record, then replay a whole life");
    let Life {
        record_s, replay_s, ..
    } = life(scratch)?;
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let mut figures = json!({
        "rounds": rounds,
        "log_kbit_s_idle": idle_rate,
        "log_kbit_s_busy": median(&busy),
        "record_s": record_s,
        "replay_s": replay_s,
        "replay_speed_to_record": ratio(record_s, replay_s),
        "clone_pause_ms_256_mib": worst(&pauses),
        "clone_pause_ms_2_gib": large_pause_ms,
        "failover_ms_sigkill": worst(&killed),
        "failover_ms_sigstop": silent_ms,
    });
    works.report(&mut figures);
    Ok(figures)
}
