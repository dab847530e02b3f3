//! What it costs to close epochs by deltas: pauses, deltas, and the guest's speed, for a guest that
//! is idle, one that computes, and ones that write memory.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::measure::{boot_shell, median, number};
use tests::scenario::{Pair, Protection};
use tests::service::Line;

use crate::{ratio, step};

/// How long one piece of work may take.
const WORK_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a peer may be silent: the hosts are one machine here, which is busy.
const TIMEOUT_MS: u64 = 5000;

/// A load, and the shell command that is one portion of it.
struct Load {
    name: &'static str,
    command: &'static str,
}

/// The quotes keep the terminal's echo of a command from looking like a mark.
const LOADS: [Load; 4] = [
    Load {
        name: "idle",
        command: "sleep 5",
    },
    Load {
        name: "sha256",
        command: "head -c 33554432 /dev/zero | sha256sum",
    },
    Load {
        name: "memory_2_mib",
        command: "guest memory 2 24",
    },
    Load {
        name: "memory_32_mib",
        command: "guest memory 32 2",
    },
];

/// Does a portion of the load; how long it took, in seconds.
fn portion(line: &mut Line, load: &Load) -> Result<f64, HarnessError> {
    let command = format!(
        "echo MA''RK begin load; {}; echo MA''RK end load",
        load.command
    );
    line.send(&command)
        .map_err(HarnessError::host("give the guest work"))?;
    line.receive_until("MARK begin load", WORK_TIMEOUT)?;
    let begun = Instant::now();
    line.receive_until("MARK end load", WORK_TIMEOUT)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Protects the guest for one portion of the load; seconds that it took, and the status after it.
fn protected(
    pair: &mut Pair,
    line: &mut Line,
    load: &Load,
) -> Result<(f64, f64, Value), HarnessError> {
    pair.protect(&Protection {
        start: json!({"mode": "checkpoint", "timeout_ms": TIMEOUT_MS}),
        transport: "unix",
    })?;
    let begun = Instant::now();
    let taken_s = portion(line, load)?;
    let protected_s = begun.elapsed().as_secs_f64();
    let status = pair.primary.ft_status()?;
    pair.primary.put("vm.ft-stop", &Value::Null)?;
    drop(pair.backup.take());
    Ok((taken_s, protected_s, status))
}

/// Pauses, deltas and speed, for each load.
///
/// # Errors
/// When a guest or its protection fails.
pub fn checkpoint(scratch: &Scratch, rounds: u32) -> Result<Value, HarnessError> {
    step("boot the guest");
    let (mut pair, mut line) = boot_shell(scratch.path(), "256M")?;
    let mut figures = json!({"rounds": rounds});
    for load in &LOADS {
        let (mut slowdowns, mut statuses) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            step(&format!("{}, round {round} of {rounds}", load.name));
            let alone_s = portion(&mut line, load)?;
            let (taken_s, protected_s, status) = protected(&mut pair, &mut line, load)?;
            slowdowns.push(ratio(taken_s, alone_s));
            statuses.push((protected_s, status));
        }
        let column = |figure: &dyn Fn(f64, &Value) -> f64| -> Vec<f64> {
            let rows = statuses.iter();
            rows.map(|(seconds, status)| figure(*seconds, status))
                .collect()
        };
        let mut put =
            |name: &str, value: f64| figures[format!("{}_{name}", load.name)] = json!(value);
        let of = |pointer: &'static str| {
            move |_: f64, status: &Value| number(status, &format!("/checkpoint{pointer}"))
        };
        let per_delta = |pointer: &'static str| {
            move |_: f64, status: &Value| {
                let deltas = number(status, "/checkpoint/deltas");
                ratio(number(status, &format!("/checkpoint{pointer}")), deltas)
            }
        };
        put("slowdown", median(&slowdowns));
        let deltas =
            |seconds: f64, status: &Value| ratio(number(status, "/checkpoint/deltas"), seconds);
        put("epochs_per_s", median(&column(&deltas)));
        for (name, pointer) in [
            ("pause_us_p50", "/pause/p50_us"),
            ("pause_us_p99", "/pause/p99_us"),
            ("pause_us_max", "/pause/max_us"),
            ("commit_us_p50", "/commit/p50_us"),
            ("commit_us_p99", "/commit/p99_us"),
        ] {
            put(name, median(&column(&of(pointer))));
        }
        for (name, pointer) in [
            ("pages_per_epoch", "/pages/written"),
            ("sent_bytes_per_epoch", "/sent_bytes"),
            ("saved_bytes_per_epoch_skip", "/saved_bytes/skip"),
            ("saved_bytes_per_epoch_zero", "/saved_bytes/zero"),
            ("saved_bytes_per_epoch_xor", "/saved_bytes/xor"),
            ("saved_bytes_per_epoch_lz4", "/saved_bytes/lz4"),
        ] {
            put(name, median(&column(&per_delta(pointer))));
        }
    }
    Ok(figures)
}
