//! The main job on one machine: boot a guest, protect it, talk to it, kill its primary with
//! SIGKILL at a random moment, go on with the backup, protect again; and a table of what it took.
//!
//! `scripts/demo` sets up what this needs and runs it.

mod figures;
mod serial;
mod servers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use figures::Figures;
use serde_json::{Value, json};
use tests::scenario::Protection;

/// Boots a guest, protects it, kills its primary, and shows that nothing was lost.
#[derive(Parser)]
struct Arguments {
    /// The server in the guest, whose clients keep their TCP connections. Without this the guest
    /// has a service on its serial port. Takes root, for a network namespace.
    #[arg(long, value_parser = ["redis", "postgres", "nginx"])]
    guest: Option<String>,
    /// TCP connections to that server.
    #[arg(long, default_value_t = 4, value_parser = connections)]
    connections: usize,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How often the primary is killed; the guest is protected again each time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Guest memory, as `--memory size=` takes it; 256M, or 512M with a server.
    #[arg(long)]
    memory: Option<String>,
    /// `tcp` or `unix`.
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "unix"])]
    transport: String,
    /// When outputs may leave: `received`, `replayed` or `verified`.
    #[arg(long, default_value = "received")]
    release: String,
    /// Milliseconds of silence after which a side is given up. 200; 1000 with a server, because one
    /// machine plays both hosts and the clients here.
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Seconds of idling over which the idle log rate is taken.
    #[arg(long, default_value_t = 5)]
    idle_s: u64,
    /// Seed of the moments at which the primary is killed.
    #[arg(long)]
    seed: Option<u64>,
    /// Folder for sockets, disks, logs and the fence; a fresh one by default.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// The servers of the image take so many.
fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=16) => Ok(count),
        _ => Err("a number from 1 to 16 is wanted".to_owned()),
    }
}

impl Arguments {
    fn protection(&self) -> Protection {
        let usual = if self.guest.is_some() { 1000 } else { 200 };
        let timeout_ms = self.timeout_ms.unwrap_or(usual);
        Protection {
            start: json!({"release": self.release, "timeout_ms": timeout_ms}),
            transport: match self.transport.as_str() {
                "unix" => "unix",
                _ => "tcp",
            },
        }
    }
}

fn step(text: &str) {
    println!("-- {text}");
}

fn table(figures: &Figures) {
    println!();
    if let Ok(Value::Object(map)) = serde_json::to_value(figures) {
        for (name, value) in map {
            match value {
                Value::Object(phases) => {
                    for (phase, value) in phases {
                        println!("{:<28} {value:.1}", format!("{name} {phase}"));
                    }
                }
                Value::Number(value) if value.is_f64() => {
                    println!("{name:<28} {:.2}", value.as_f64().unwrap_or(0.0));
                }
                Value::String(text) => println!("{name:<28} {text}"),
                value => println!("{name:<28} {value}"),
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let folder = arguments
        .folder
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("chft-demo-{}", std::process::id())));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        eprintln!("error: cannot make {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    let seed = arguments.seed.unwrap_or(since.as_nanos() as u64);
    let mut figures = Figures {
        seed,
        ..Figures::default()
    };
    let outcome = match &arguments.guest {
        Some(name) => servers::run(&arguments, name, folder.clone(), &mut figures),
        None => serial::run(&arguments, folder.clone(), &mut figures),
    };
    table(&figures);
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures).unwrap_or_default();
        if let Err(error) = std::fs::write(path, text + "\n") {
            eprintln!("error: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let broken = figures.broken().map(str::to_owned);
    if let Some(error) = outcome.err().map(|error| error.to_string()).or(broken) {
        eprintln!(
            "\nerror: {error}\nsockets, disks and logs are in {}",
            folder.display()
        );
        return ExitCode::FAILURE;
    }
    if arguments.folder.is_none() {
        // Only what a run that went well leaves behind.
        let _ = std::fs::remove_dir_all(&folder);
    }
    ExitCode::SUCCESS
}
