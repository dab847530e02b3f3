//! Benchmarks, each a table and `target/bench/NAME.json`. Figures that are compared are measured in
//! one run, in turns, and are given as ratios. `scripts/bench` sets up what this needs and runs it.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tests::command::{Scratch, guest_to_file, run};
use tests::measure::{
    Work, boot_shell, clone_pause_ms, failover_ms, log_rate, median, median_of, number, time_jobs,
    time_shell,
};
use tests::process::{VmProcess, guest_arguments};
use tests::service::Line;
use tests::{HarnessError, repository};

/// How long a guest may take to boot, or to live from boot to power-off.
const LIFE_TIMEOUT: Duration = Duration::from_secs(300);
const WORK_JOBS: &str = "job=sha256,loop,poweroff";

/// One figure of a run.
type Figure = fn(&Work) -> f64;

/// Measures one thing and stores the figures.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    name: Name,
}

#[derive(Subcommand)]
enum Name {
    /// Speed of the software CPU, beside QEMU TCG plain and recording.
    Cpu {
        /// How often each is run; medians are shown.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// What recording and protection cost, clone pauses and failovers.
    Ft {
        /// How often each is run; medians are shown.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds over which the idle log rate is taken.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
        idle_s: u64,
    },
    /// Size of the log of one guest's life, beside QEMU's.
    Log,
    /// The deterministic simulation of the protocol.
    Simulate {
        /// Number of seeds.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
    },
}

fn step(text: &str) {
    eprintln!("-- {text}");
}

fn ratio(above: f64, below: f64) -> f64 {
    if below > 0.0 { above / below } else { 0.0 }
}

/// The output of a program that must succeed.
fn output_of(command: &mut Command) -> Result<String, HarnessError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .map_err(HarnessError::host(format!("run {name}")))?;
    if !output.status.success() {
        return Err(HarnessError::Broken(format!(
            "{name} ended with {}",
            output.status
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

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

fn cpu(scratch: &Scratch, rounds: u32) -> Result<Value, HarnessError> {
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
    /// cost each other; with the backup on a host of its own there is no such cost.
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

/// The first guest's work while the second does the same: what the cores lose by being both busy.
fn side_by_side(
    first: (&VmProcess, &mut Line),
    second: (&VmProcess, &mut Line),
) -> Result<Work, HarnessError> {
    std::thread::scope(|scope| {
        let other = scope.spawn(move || time_shell(second.0, second.1));
        let work = time_shell(first.0, first.1);
        let other = other.join();
        other.map_err(|_| HarnessError::Broken("a thread panicked".to_owned()))??;
        work
    })
}

/// A guest's whole life recorded, then replayed: seconds of each, bytes of the log.
fn life(scratch: &Scratch) -> Result<(f64, f64, u64), HarnessError> {
    let log = scratch.file("life.log");
    let mut arguments = guest_to_file("256M", WORK_JOBS, &scratch.file("life.txt"))?;
    arguments.extend(["--record".to_owned(), log.display().to_string()]);
    let record_s = timed_run(scratch, &arguments)?;
    let replay = ["--replay", &log.display().to_string(), "--serial", "null"].map(str::to_owned);
    let replay_s = timed_run(scratch, &replay)?;
    let size = std::fs::metadata(&log)
        .map_err(HarnessError::host("look at a log"))?
        .len();
    Ok((record_s, replay_s, size))
}

fn timed_run(scratch: &Scratch, arguments: &[String]) -> Result<f64, HarnessError> {
    let begun = Instant::now();
    let finished = run(scratch, arguments, LIFE_TIMEOUT)?;
    if finished.code != Some(0) {
        return Err(HarnessError::Broken(format!("a run failed: {finished:?}")));
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn sub_scratch(scratch: &Scratch, name: &str) -> Result<std::path::PathBuf, HarnessError> {
    let path = scratch.file(name);
    std::fs::create_dir_all(&path).map_err(HarnessError::host("make a folder"))?;
    Ok(path)
}

fn ft(scratch: &Scratch, rounds: u32, idle_s: u64) -> Result<Value, HarnessError> {
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
    let (record_s, replay_s, _) = life(scratch)?;
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

fn log(scratch: &Scratch) -> Result<Value, HarnessError> {
    step("our recording");
    let (record_s, _, size) = life(scratch)?;
    step("QEMU's recording");
    let peers = qemu("record")?;
    let peer = of_mode(&peers, "record")
        .next()
        .map_or(0.0, |run| number(run, "/log_bytes"));
    Ok(json!({
        "record_s": record_s,
        "log_bytes": size,
        "qemu_log_bytes": peer,
        "size_to_qemu": ratio(size as f64, peer),
    }))
}

fn simulate(seeds: u64) -> Result<Value, HarnessError> {
    let begun = Instant::now();
    let seeds_text = seeds.to_string();
    let arguments = [
        "run",
        "--release",
        "--quiet",
        "-p",
        "ft",
        "--example",
        "simulate",
        "--",
        "--seeds",
    ];
    let text = output_of(Command::new("cargo").args(arguments).arg(&seeds_text))?;
    print!("{text}");
    let taken_s = begun.elapsed().as_secs_f64();
    Ok(json!({"seeds": seeds, "taken_s": taken_s, "seeds_per_s": ratio(seeds as f64, taken_s)}))
}

fn table(figures: &Value) {
    for (name, value) in figures.as_object().into_iter().flatten() {
        match value.as_f64().filter(|_| value.is_f64()) {
            Some(value) => println!("{name:<34} {value:>14.3}"),
            None => println!("{name:<34} {value:>14}"),
        }
    }
}

fn store(name: &str, figures: &Value) -> Result<(), HarnessError> {
    let folder = repository().join("target/bench");
    let path: &Path = &folder.join(format!("{name}.json"));
    let text = format!("{figures:#}\n");
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(HarnessError::host(format!("write {}", path.display())))
}

fn bench(name: &Name) -> Result<(), HarnessError> {
    let scratch = Scratch::new("bench")?;
    let (name, figures) = match name {
        Name::Cpu { rounds } => ("cpu", cpu(&scratch, *rounds)?),
        Name::Ft { rounds, idle_s } => ("ft", ft(&scratch, *rounds, *idle_s)?),
        Name::Log => ("log", log(&scratch)?),
        Name::Simulate { seeds } => ("simulate", simulate(*seeds)?),
    };
    table(&figures);
    store(name, &figures)
}

fn main() -> ExitCode {
    match bench(&Arguments::parse().name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
