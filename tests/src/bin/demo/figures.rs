//! What the demo measures, and how the rounds are summed up.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tests::HarnessError;
use tests::measure::{median, number};
use tests::scenario::Pair;
use tests::service::percentile;

/// Phases of a failover, in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Failover {
    detect: f64,
    fence: f64,
    drain: f64,
    live: f64,
    total: f64,
}

/// What the demo measured. Lists are summed up by their worst or median as the name says.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub seed: u64,
    pub rounds: u32,
    pub boot_s: f64,
    pub clone_pause_ms: f64,
    pub clone_total_ms: f64,
    pub log_kbit_s_idle: f64,
    pub log_kbit_s_busy: f64,
    pub added_latency_ms_p50: f64,
    pub added_latency_ms_p99: f64,
    pub request_ms_p50: f64,
    pub request_ms_p99: f64,
    pub lag_ms_p99: f64,
    pub failover_ms: Failover,
    pub client_stall_ms_max: f64,
    pub epochs_verified: u64,
    pub divergences: u64,
    #[serde(flatten)]
    pub serial: Option<SerialFigures>,
    #[serde(flatten)]
    pub servers: Option<ServerFigures>,
}

/// What only the serial guest has: its client connects anew after a failover.
#[derive(Debug, Default, Serialize)]
pub struct SerialFigures {
    pub requests: u64,
    pub replies_lost: u64,
    pub replies_resent: u64,
}

/// What only a guest with a server has: its clients keep their connections.
#[derive(Debug, Default, Serialize)]
pub struct ServerFigures {
    pub guest: String,
    pub tcp_connections: usize,
    pub tcp_connections_kept: usize,
    pub writes_acknowledged: u64,
    pub writes_lost: u64,
    /// Longest silence while the guest was cloned.
    pub clone_stall_ms_max: f64,
    /// Longest silence at a failover.
    pub failover_stall_ms_max: f64,
    pub requests_per_s_unprotected: f64,
    pub requests_per_s_protected: f64,
    pub file_system_clean: bool,
}

impl Figures {
    /// What was promised and does not hold.
    pub fn broken(&self) -> Option<&'static str> {
        if self.divergences > 0 {
            return Some("the backup diverged");
        }
        if self
            .serial
            .as_ref()
            .is_some_and(|serial| serial.replies_lost > 0)
        {
            return Some("replies were lost");
        }
        let servers = self.servers.as_ref()?;
        if servers.writes_lost > 0 {
            return Some("acknowledged writes were lost");
        }
        if servers.tcp_connections_kept < servers.tcp_connections {
            return Some("TCP connections were lost");
        }
        (!servers.file_system_clean).then_some("the file system of the survivor is not clean")
    }

    /// Takes the times of requests, in microseconds.
    pub fn take_requests(&mut self, latencies_us: &[u64], longest_stall_us: u64) {
        self.request_ms_p50 = percentile(latencies_us, 50) as f64 / 1000.0;
        self.request_ms_p99 = percentile(latencies_us, 99) as f64 / 1000.0;
        self.client_stall_ms_max = longest_stall_us as f64 / 1000.0;
    }
}

/// Everything that the rounds leave behind, to be summed up at the end.
#[derive(Default)]
pub struct Samples {
    pauses: Vec<f64>,
    clones: Vec<f64>,
    failovers: Vec<Failover>,
    /// Log rates of busy times.
    pub busy: Vec<f64>,
    added_p50: Vec<f64>,
    added_p99: Vec<f64>,
    lag_p99: Vec<f64>,
    epochs_verified: u64,
    divergences: u64,
}

impl Samples {
    /// Takes the clone from a primary's status.
    pub fn take_clone(&mut self, status: &Value) {
        self.pauses.push(number(status, "/last_clone/pause_ms"));
        self.clones.push(number(status, "/last_clone/total_ms"));
    }

    /// Takes what a primary says of its protection.
    pub fn take_protected(&mut self, status: &Value) {
        self.added_p50
            .push(number(status, "/outputs/added_latency/p50_us") / 1000.0);
        self.added_p99
            .push(number(status, "/outputs/added_latency/p99_us") / 1000.0);
        self.lag_p99
            .push(number(status, "/lag/replayed/p99_us") / 1000.0);
        self.epochs_verified += number(status, "/positions/epochs_verified") as u64;
    }

    /// Takes what the survivor of a failover says of it.
    pub fn take_failover(&mut self, status: &Value) {
        let phase = |name: &str| number(status, &format!("/last_failover/{name}_ms"));
        self.failovers.push(Failover {
            detect: phase("detect"),
            fence: phase("fence"),
            drain: phase("drain"),
            live: phase("live"),
            total: phase("total"),
        });
        self.divergences += number(status, "/divergences") as u64;
    }

    /// Puts the sums into `figures`.
    pub fn sum_up(&mut self, figures: &mut Figures) {
        let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        figures.clone_pause_ms = worst(&self.pauses);
        figures.clone_total_ms = worst(&self.clones);
        figures.log_kbit_s_busy = median(&self.busy);
        figures.added_latency_ms_p50 = median(&self.added_p50);
        figures.added_latency_ms_p99 = worst(&self.added_p99);
        figures.lag_ms_p99 = worst(&self.lag_p99);
        figures.epochs_verified = self.epochs_verified;
        figures.divergences = self.divergences;
        self.failovers
            .sort_by(|one, other| one.total.total_cmp(&other.total));
        figures.failover_ms = self.failovers.last().cloned().unwrap_or_default();
    }
}

/// Log rate of the primary over `seconds`, in kbit/s.
pub fn log_rate(pair: &Pair, seconds: u64) -> Result<f64, HarnessError> {
    let (rate, ()) = tests::measure::log_rate(pair, || {
        std::thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })?;
    Ok(rate)
}
