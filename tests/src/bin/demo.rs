//! The main job on one machine: boot a guest, protect it, talk to it, kill its primary with
//! SIGKILL at a random moment, go on with the backup, protect again; and a table of what it took.
//!
//! `scripts/demo` sets up what this needs and runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde::Serialize;
use serde_json::{Value, json};
use tests::HarnessError;
use tests::scenario::{Client, Pair, Protection};
use tests::service::percentile;

/// Boots a guest, protects it, kills its primary, and shows that nothing was lost.
#[derive(Parser)]
struct Arguments {
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How often the primary is killed; the guest is protected again each time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Guest memory, as `--memory size=` takes it.
    #[arg(long, default_value = "256M")]
    memory: String,
    /// `tcp` or `unix`.
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "unix"])]
    transport: String,
    /// When outputs may leave: `received`, `replayed` or `verified`.
    #[arg(long, default_value = "received")]
    release: String,
    /// Seconds of idling over which the idle log rate is taken.
    #[arg(long, default_value_t = 5)]
    idle_s: u64,
    /// Seed of the moments at which the primary is killed.
    #[arg(long)]
    seed: Option<u64>,
    /// Folder for sockets, logs and the fence; a fresh one by default.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Phases of a failover, in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
struct Failover {
    detect: f64,
    fence: f64,
    drain: f64,
    live: f64,
    total: f64,
}

/// What the demo measured. Lists are summed up by their worst or median as the name says.
#[derive(Debug, Default, Serialize)]
struct Figures {
    seed: u64,
    rounds: u32,
    boot_s: f64,
    clone_pause_ms: f64,
    clone_total_ms: f64,
    log_kbit_s_idle: f64,
    log_kbit_s_busy: f64,
    added_latency_ms_p50: f64,
    added_latency_ms_p99: f64,
    request_ms_p50: f64,
    request_ms_p99: f64,
    lag_ms_p99: f64,
    failover_ms: Failover,
    client_stall_ms_max: f64,
    requests: u64,
    epochs_verified: u64,
    divergences: u64,
    replies_lost: u64,
    replies_resent: u64,
}

/// Numbers that look random and depend on the seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn number(status: &Value, path: &str) -> f64 {
    status.pointer(path).and_then(Value::as_f64).unwrap_or(0.0)
}

fn step(text: &str) {
    println!("-- {text}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Everything that the rounds leave behind, to be summed up at the end.
#[derive(Default)]
struct Samples {
    pauses: Vec<f64>,
    clones: Vec<f64>,
    failovers: Vec<Failover>,
    busy: Vec<f64>,
    added_p50: Vec<f64>,
    added_p99: Vec<f64>,
    lag_p99: Vec<f64>,
}

impl Samples {
    fn take_clone(&mut self, status: &Value) {
        self.pauses.push(number(status, "/last_clone/pause_ms"));
        self.clones.push(number(status, "/last_clone/total_ms"));
    }

    fn take_protected(&mut self, status: &Value) {
        self.added_p50
            .push(number(status, "/outputs/added_latency/p50_us") / 1000.0);
        self.added_p99
            .push(number(status, "/outputs/added_latency/p99_us") / 1000.0);
        self.lag_p99
            .push(number(status, "/lag/replayed/p99_us") / 1000.0);
    }

    fn take_failover(&mut self, status: &Value) {
        let phase = |name: &str| number(status, &format!("/last_failover/{name}_ms"));
        self.failovers.push(Failover {
            detect: phase("detect"),
            fence: phase("fence"),
            drain: phase("drain"),
            live: phase("live"),
            total: phase("total"),
        });
    }

    fn sum_up(&mut self, figures: &mut Figures) {
        let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        figures.clone_pause_ms = worst(&self.pauses);
        figures.clone_total_ms = worst(&self.clones);
        figures.log_kbit_s_busy = median(&mut self.busy);
        figures.added_latency_ms_p50 = median(&mut self.added_p50);
        figures.added_latency_ms_p99 = worst(&self.added_p99);
        figures.lag_ms_p99 = worst(&self.lag_p99);
        self.failovers
            .sort_by(|one, other| one.total.total_cmp(&other.total));
        figures.failover_ms = self.failovers.last().cloned().unwrap_or_default();
    }
}

fn log_bytes(status: &Value) -> f64 {
    number(status, "/log/bytes")
}

/// Log rate of the primary over `seconds`, in kbit/s.
fn log_rate(pair: &Pair, seconds: u64) -> Result<f64, HarnessError> {
    let before = log_bytes(&pair.primary.ft_status()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let after = log_bytes(&pair.primary.ft_status()?);
    Ok((after - before) * 8.0 / 1000.0 / seconds as f64)
}

fn run(arguments: &Arguments, folder: PathBuf, figures: &mut Figures) -> Result<(), HarnessError> {
    let transport = if arguments.transport == "unix" {
        "unix"
    } else {
        "tcp"
    };
    let protection = Protection {
        start: json!({"release": arguments.release}),
        transport,
    };
    let mut random = Random(figures.seed);
    let mut samples = Samples::default();

    step("boot the guest");
    let (mut pair, line, boot_s) = Pair::boot(
        folder,
        &arguments.memory,
        "job=service",
        "MARK begin service",
    )?;
    figures.boot_s = boot_s;
    step("protect it");
    pair.protect(&protection)?;
    samples.take_clone(&pair.primary.ft_status()?);
    step(&format!("let it idle for {} s", arguments.idle_s));
    figures.log_kbit_s_idle = log_rate(&pair, arguments.idle_s)?;

    let mut client = Client::start(line, pair.primary.serial().to_owned())?;
    for round in 1..=arguments.rounds {
        step(&format!(
            "round {round}: requests, then SIGKILL to the primary"
        ));
        samples.busy.push(log_rate(&pair, 1)?);
        std::thread::sleep(Duration::from_micros(random.next() % 1_000_000));
        let status = pair.primary.ft_status()?;
        samples.take_protected(&status);
        figures.epochs_verified += number(&status, "/positions/epochs_verified") as u64;
        if let Some(backup) = &pair.backup {
            client.follow(backup.serial().to_owned());
        }
        pair.kill_primary()?;
        let status = pair.primary.ft_status()?;
        samples.take_failover(&status);
        figures.divergences += number(&status, "/divergences") as u64;
        figures.rounds = round;
        let before = client.ledger().acknowledged;
        tests::process::wait_until("further replies", Duration::from_secs(10), || {
            Ok(client.ledger().acknowledged > before || client.has_ended())
        })?;
        if client.has_ended() {
            break;
        }
        if round < arguments.rounds {
            pair.protect(&protection)?;
            samples.take_clone(&pair.primary.ft_status()?);
        }
    }
    samples.sum_up(figures);
    let finished = client.finish();
    let ledger = client.ledger();
    figures.requests = ledger.acknowledged;
    figures.replies_lost = ledger.lost;
    figures.replies_resent = ledger.resent;
    figures.request_ms_p50 = percentile(&ledger.latencies_us, 50) as f64 / 1000.0;
    figures.request_ms_p99 = percentile(&ledger.latencies_us, 99) as f64 / 1000.0;
    figures.client_stall_ms_max = ledger.longest_gap_us as f64 / 1000.0;
    finished.map(|_| ())
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
    let outcome = run(&arguments, folder.clone(), &mut figures);
    table(&figures);
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures).unwrap_or_default();
        if let Err(error) = std::fs::write(path, text + "\n") {
            eprintln!("error: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if let Err(error) = outcome {
        eprintln!(
            "\nerror: {error}\nsockets and logs are in {}",
            folder.display()
        );
        return ExitCode::FAILURE;
    }
    if arguments.folder.is_none() {
        // Only sockets, logs and claims of a run that went well.
        let _ = std::fs::remove_dir_all(&folder);
    }
    if figures.replies_lost > 0 || figures.divergences > 0 {
        eprintln!("\nerror: replies were lost or the backup diverged");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
