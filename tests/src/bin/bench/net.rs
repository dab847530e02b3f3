//! What protection costs a guest's network: a download, requests on many connections at once, and
//! the time of a single one, unprotected and under each release policy.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::HarnessError;
use tests::command::Scratch;
use tests::measure::cpu_s;
use tests::process::VmProcess;
use tests::scenario::Pair;
use tests::servers::ServerGuest;
use tests::servers::http::get;
use tests::servers::redis::{Client, Redis, Reply};
use tests::servers::traffic::{Connection, Service, Session, Traffic, connect};
use tests::service::percentile;

use crate::rounds::{Figure, Plan, Rounds, network};
use crate::{ratio, step};

const POLICIES: &[&str] = &["received", "replayed", "verified"];
const FIGURES: &[Figure] = &[
    Figure {
        name: "download_mib_s",
        more_is_better: true,
    },
    Figure {
        name: "requests_per_s_16_connections",
        more_is_better: true,
    },
    Figure {
        name: "writes_per_s_16_connections",
        more_is_better: true,
    },
    // What it costs the primary's own host, whatever else there is on this one.
    Figure {
        name: "requests_per_cpu_s_16_connections",
        more_is_better: true,
    },
    Figure {
        name: "writes_per_cpu_s_16_connections",
        more_is_better: true,
    },
    Figure {
        name: "round_trip_ms_p50",
        more_is_better: false,
    },
    Figure {
        name: "round_trip_ms_p99",
        more_is_better: false,
    },
];
const CONNECTIONS: usize = 16;
/// Over how long a rate of requests is taken.
const RATE_TIME: Duration = Duration::from_secs(2);
/// Round trips that are timed.
const ROUND_TRIPS: usize = 300;
const HTTP: u16 = 80;
const FILE: &str = "/data";

/// Costs for the network.
///
/// # Errors
/// When the guest or its protection fails.
pub fn net(scratch: &Scratch, count: u32) -> Result<Value, HarnessError> {
    let _network = network()?;
    step("boot the guest");
    let mut pair = ServerGuest::with("redis,nginx").boot(scratch.path())?;
    // These connections live through all rounds.
    let pings = Traffic::start(&Ping, CONNECTIONS)?;
    let writes = Traffic::start(&Redis, CONNECTIONS)?;
    let mut single = Client::connect()?;
    let mut web = connect(HTTP)?;
    // The first download is from the guest's disk; all that count are from its memory.
    download_mib_s(&mut web)?;
    let plan = Plan {
        count,
        policies: POLICIES,
        figures: FIGURES,
        backup_core: None,
    };
    let rounds = Rounds::go_through(&mut pair, plan, |pair: &Pair| {
        let download = download_mib_s(&mut web)?;
        let [pings, writes] = [&pings, &writes].map(|traffic| rate(traffic, &pair.primary));
        let ([pings, pings_cpu], [writes, writes_cpu]) = (pings?, writes?);
        let [p50, p99] = round_trips_ms(&mut single)?;
        Ok(vec![
            download, pings, writes, pings_cpu, writes_cpu, p50, p99,
        ])
    })?;
    Ok(rounds.report())
}

fn download_mib_s(connection: &mut Connection) -> Result<f64, HarnessError> {
    let begun = Instant::now();
    let bytes = get(connection, FILE, |_| {})?;
    Ok(bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
}

/// Requests a second, and for each second that the server's processor was at work.
fn rate(traffic: &Traffic, server: &VmProcess) -> Result<[f64; 2], HarnessError> {
    traffic.go();
    let (begun, before) = (Instant::now(), cpu_s(server)?);
    let rate = traffic.rate(RATE_TIME);
    let cores = (cpu_s(server)? - before) / begun.elapsed().as_secs_f64();
    traffic.rest();
    let rate = rate?;
    Ok([rate, ratio(rate, cores)])
}

/// Median and 99th percentile of one request at a time.
fn round_trips_ms(client: &mut Client) -> Result<[f64; 2], HarnessError> {
    let mut taken_us = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        ping(client)?;
        taken_us.push(begun.elapsed().as_micros() as u64);
    }
    Ok([50, 99].map(|percent| percentile(&taken_us, percent) as f64 / 1000.0))
}

fn ping(client: &mut Client) -> Result<(), HarnessError> {
    match client.command(&["PING"])? {
        Reply::Status(text) if text == "PONG" => Ok(()),
        other => Err(HarnessError::Broken(format!(
            "redis answers PING with {other:?}"
        ))),
    }
}

/// Redis with requests that write nothing.
struct Ping;

impl Service for Ping {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn prepare(&self) -> Result<(), HarnessError> {
        Ok(())
    }

    fn connect(&self, _client: usize) -> Result<Box<dyn Session>, HarnessError> {
        Ok(Box::new(Pinger(Client::connect()?)))
    }

    fn missing(&self, _acknowledged: &[u64]) -> Result<u64, HarnessError> {
        Ok(0)
    }
}

struct Pinger(Client);

impl Session for Pinger {
    fn request(&mut self, _number: u64) -> Result<(), HarnessError> {
        ping(&mut self.0)
    }
}
