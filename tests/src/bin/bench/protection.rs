//! What recording and protection cost a guest that computes, clone pauses and failovers.

use std::time::Duration;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::cores::Carousel;
use tests::measure::{Work, boot_shell, clone_pause_ms, failover_ms, log_rate, median, time_shell};
use tests::process::{VmProcess, guest_arguments};
use tests::scenario::Pair;
use tests::service::Line;

use crate::processor::{Life, life};
use crate::{LIFE_TIMEOUT, ratio, step};

/// Turns of a round. A host's cores change speed under their neighbours from one second to the
/// next, so each state works for a moment, many times, and its processors go from core to core.
const TURNS: u32 = 6;

/// One figure of a run.
type Figure = fn(&Work) -> f64;

/// The same work, once a turn in each state.
#[derive(Default)]
struct Works {
    alone: Vec<Work>,
    recording: Vec<Work>,
    side_by_side: Vec<Work>,
    protected: Vec<Work>,
}

/// The guests beside the pair.
struct Others {
    first: (Pair, Line),
    second: (Pair, Line),
    recorder: (VmProcess, Line),
}

impl Works {
    /// Has every state work once; the log rate of the protected guest, in kbit/s.
    fn turn(
        &mut self,
        pair: &Pair,
        line: &mut Line,
        others: &mut Others,
    ) -> Result<f64, HarnessError> {
        let Others {
            first: (first, first_line),
            second: (second, second_line),
            recorder: (recorder, recorder_line),
        } = others;
        let (first, second) = (&first.primary, &second.primary);
        let alone = on_all_cores(&[first.pid()], || time_shell(first, first_line))?;
        let backup = pair.backup.as_ref().map_or(0, VmProcess::pid);
        let (rate, protected) = on_all_cores(&[pair.primary.pid(), backup], || {
            log_rate(pair, || time_shell(&pair.primary, line))
        })?;
        let recording = on_all_cores(&[recorder.pid()], || time_shell(recorder, recorder_line))?;
        let beside = on_all_cores(&[first.pid(), second.pid()], || {
            side_by_side((first, first_line), (second, second_line))
        })?;
        self.alone.push(alone);
        self.protected.push(protected);
        self.recording.push(recording);
        self.side_by_side.push(beside);
        Ok(rate)
    }

    /// Adds mean times, and speeds as ratios of the time of all turns together.
    /// `speed_protected_to_side_by_side` leaves out what any two busy guests on this host cost each
    /// other; with a backup on a like host of its own there is no such cost.
    fn report(&self, figures: &mut Value) {
        let names: [(&str, Figure); 2] =
            [("sha256", |run| run.sha256_s), ("loop", |run| run.loop_s)];
        for (name, figure) in names {
            let mean = |runs: &[Work]| ratio(runs.iter().map(figure).sum(), runs.len() as f64);
            let [alone, beside] = [mean(&self.alone), mean(&self.side_by_side)];
            figures[format!("{name}_s_unprotected")] = json!(alone);
            figures[format!("{name}_s_protected_max")] = json!(worst(
                &self.protected.iter().map(figure).collect::<Vec<_>>()
            ));
            for (state, runs) in [
                ("recording", &self.recording),
                ("side_by_side", &self.side_by_side),
                ("protected", &self.protected),
            ] {
                figures[format!("{name}_s_{state}")] = json!(mean(runs));
                figures[format!("{name}_speed_{state}")] = json!(ratio(alone, mean(runs)));
            }
            figures[format!("{name}_speed_protected_to_side_by_side")] =
                json!(ratio(beside, mean(&self.protected)));
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

/// Does something while the processors of some processes go from core to core.
fn on_all_cores<T>(
    pids: &[u32],
    work: impl FnOnce() -> Result<T, HarnessError>,
) -> Result<T, HarnessError> {
    let carousel = Carousel::start(pids)?;
    let given = work();
    carousel.stop()?;
    given
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
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
    let mut others = Others {
        first: boot_shell(&sub_scratch(scratch, "first")?, "256M")?,
        second: boot_shell(&sub_scratch(scratch, "second")?, "256M")?,
        recorder: recording(scratch)?,
    };
    for round in 1..=rounds {
        step(&format!(
            "round {round} of {rounds}: works in turns; SIGKILL"
        ));
        pauses.push(clone_pause_ms(&mut pair)?);
        for _ in 0..TURNS {
            busy.push(works.turn(&pair, &mut line, &mut others)?);
        }
        let status = pair.primary.ft_status()?;
        if status["divergences"] != 0 {
            return Err(HarnessError::Broken(format!("a divergence: {status}")));
        }
        killed.push(failover_ms(&mut pair, "KILL")?);
        line = Line::connect_within(pair.primary.serial(), LIFE_TIMEOUT)?;
    }
    drop(others);
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
