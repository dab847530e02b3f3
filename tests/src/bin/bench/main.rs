//! Benchmarks, each a table and `target/bench/NAME.json`. Figures that are compared are measured in
//! one run, in turns, and are given as ratios. `scripts/bench` sets up what this needs and runs it.

mod checkpoint;
mod disk;
mod migration;
mod net;
mod processor;
mod protection;
mod rounds;
mod soak;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tests::command::Scratch;
use tests::{HarnessError, repository};

/// How long a guest may take to boot, or to live from boot to power-off.
const LIFE_TIMEOUT: Duration = Duration::from_secs(300);

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
        /// Kills; before each, the works are done in turns, and means are shown.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds over which the idle log rate is taken.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
        idle_s: u64,
    },
    /// What it costs to close epochs by deltas.
    Checkpoint {
        /// How often each load is measured; medians are shown.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// Size of the log of one guest's life, beside QEMU's.
    Log,
    /// Live migration between two processes of a guest that dirties 64 MiB all the time.
    Migration {
        /// How often it migrates each way; medians and worst are shown.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// What protection costs a guest's network, under each release policy. Takes root.
    Net {
        /// How often each is measured; medians and worst are shown.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// What protection costs a guest's disk. Takes root.
    Disk {
        /// How often each is measured; medians and worst are shown.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// A protected guest under mixed load for a long time. Takes root.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..10_000))]
        minutes: u64,
    },
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
            Some(value) => println!("{name:<44} {value:>14.3}"),
            None => println!("{name:<44} {value:>14}"),
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
        Name::Cpu { rounds } => ("cpu", processor::cpu(&scratch, *rounds)?),
        Name::Ft { rounds, idle_s } => ("ft", protection::ft(&scratch, *rounds, *idle_s)?),
        Name::Checkpoint { rounds } => ("checkpoint", checkpoint::checkpoint(&scratch, *rounds)?),
        Name::Log => ("log", processor::log(&scratch)?),
        Name::Migration { rounds } => ("migration", migration::migration(&scratch, *rounds)?),
        Name::Net { rounds } => ("net", net::net(&scratch, *rounds)?),
        Name::Disk { rounds } => ("disk", disk::disk(&scratch, *rounds)?),
        Name::Soak { minutes } => ("soak", soak::soak(&scratch, *minutes)?),
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
