//! Measurements that the benchmarks are made of: guest work timed from outside, log rates, clones
//! and failovers, and the medians of several rounds.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde_json::Value;

use crate::HarnessError;
use crate::process::VmProcess;
use crate::scenario::{Pair, Protection};
use crate::service::Line;

/// How long one piece of guest work may take.
const WORK_TIMEOUT: Duration = Duration::from_secs(300);

/// What one run of the two workloads took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Wall seconds of SHA-256.
    pub sha256_s: f64,
    /// Wall seconds of the shell loop.
    pub loop_s: f64,
    /// Instructions that the guest retired in SHA-256.
    pub sha256_instructions: f64,
    /// Instructions that the guest retired in the loop.
    pub loop_instructions: f64,
}

/// A number in a status; zero where there is none.
pub fn number(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or(0.0)
}

/// The middle of `values`, the lower of two; zero for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

/// Median of one figure of several runs.
pub fn median_of(runs: &[Work], figure: fn(&Work) -> f64) -> f64 {
    median(&runs.iter().map(figure).collect::<Vec<_>>())
}

/// Processor seconds that a process has taken, with what the kernel did for it.
///
/// # Errors
/// When the process is not there.
pub fn cpu_s(process: &VmProcess) -> Result<f64, HarnessError> {
    let refused = |error: nix::Error| HarnessError::host("read a process's clock")(error.into());
    let pid = Pid::from_raw(process.pid().cast_signed());
    let clock = clock_getcpuclockid(pid).map_err(refused)?;
    let taken = clock.now().map_err(refused)?;
    Ok(Duration::from(taken).as_secs_f64())
}

/// Time and instructions between two marks.
fn between(process: &VmProcess, line: &mut Line, job: &str) -> Result<(f64, f64), HarnessError> {
    line.receive_until(&format!("MARK begin {job}"), WORK_TIMEOUT)?;
    let begun = Instant::now();
    let first = number(&process.ft_status()?, "/logical_time");
    line.receive_until(&format!("MARK end {job}"), WORK_TIMEOUT)?;
    let taken_s = begun.elapsed().as_secs_f64();
    let last = number(&process.ft_status()?, "/logical_time");
    Ok((taken_s, last - first))
}

/// Times the guest's own jobs `sha256` and `loop`, which must be the next it does.
///
/// # Errors
/// When the guest or its process fails.
pub fn time_jobs(process: &VmProcess, line: &mut Line) -> Result<Work, HarnessError> {
    let (sha256_s, sha256_instructions) = between(process, line, "sha256")?;
    let (loop_s, loop_instructions) = between(process, line, "loop")?;
    Ok(Work {
        sha256_s,
        loop_s,
        sha256_instructions,
        loop_instructions,
    })
}

/// Times the kind of work of [`time_jobs`], but little of it, given to the guest's shell: so one
/// guest does it unprotected and protected, often enough for the host's own ups and downs to show.
///
/// # Errors
/// As [`time_jobs`].
pub fn time_shell(process: &VmProcess, line: &mut Line) -> Result<Work, HarnessError> {
    // The quotes keep the terminal's echo of a command from looking like a mark.
    let commands = [
        "echo MA''RK begin sha256; head -c 2097152 /dev/zero | sha256sum; echo MA''RK end sha256",
        "echo MA''RK begin loop; i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; \
         echo MA''RK end loop",
    ];
    let send = |line: &mut Line, command: &str| {
        line.send(command)
            .map_err(HarnessError::host("give the guest work"))
    };
    send(line, commands[0])?;
    let (sha256_s, sha256_instructions) = between(process, line, "sha256")?;
    send(line, commands[1])?;
    let (loop_s, loop_instructions) = between(process, line, "loop")?;
    Ok(Work {
        sha256_s,
        loop_s,
        sha256_instructions,
        loop_instructions,
    })
}

/// Boots a guest with a shell on its serial line.
///
/// # Errors
/// When it does not come up.
pub fn boot_shell(folder: &Path, memory: &str) -> Result<(Pair, Line), HarnessError> {
    let booted = Pair::boot(folder.to_owned(), memory, "job=shell", "MARK begin shell")?;
    Ok((booted.0, booted.1))
}

/// Log rate of the primary while `during` runs, in kbit/s; and what that gave.
///
/// # Errors
/// When the status cannot be had, or `during` fails.
pub fn log_rate<T>(
    pair: &Pair,
    during: impl FnOnce() -> Result<T, HarnessError>,
) -> Result<(f64, T), HarnessError> {
    let begun = Instant::now();
    let before = number(&pair.primary.ft_status()?, "/log/bytes");
    let given = during()?;
    let after = number(&pair.primary.ft_status()?, "/log/bytes");
    Ok((
        (after - before) * 8.0 / 1000.0 / begun.elapsed().as_secs_f64(),
        given,
    ))
}

/// Protects the guest; returns how long it stood still, in milliseconds.
///
/// # Errors
/// When it cannot be protected.
pub fn clone_pause_ms(pair: &mut Pair) -> Result<f64, HarnessError> {
    pair.protect(&Protection::default())?;
    Ok(number(&pair.primary.ft_status()?, "/last_clone/pause_ms"))
}

/// Sends `signal` to the primary; returns how long the backup took to be live, in milliseconds,
/// as seen from outside.
///
/// # Errors
/// When the backup does not go live.
pub fn failover_ms(pair: &mut Pair, signal: &str) -> Result<f64, HarnessError> {
    let begun = Instant::now();
    pair.primary.signal(signal)?;
    pair.promote()?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_lower_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0, 7.0]), 5.0);
    }
}
