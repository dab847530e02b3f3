//! The demo of a guest with a disk, a network card and a server. Its clients are on a network of
//! the demo's own and keep their TCP connections through every failover; afterwards every write
//! that was acknowledged must be there, and the survivor's file system must be clean.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::HarnessError;
use tests::network::Network;
use tests::random::Random;
use tests::scenario::Pair;
use tests::servers::traffic::{Seen, Service, Traffic};
use tests::servers::{ServerGuest, disk, image_of_side, power_off, service, side_of};

use crate::figures::{Figures, Samples, ServerFigures, log_rate};
use crate::{Arguments, step};

/// Over how long a rate of requests is taken.
const RATE_TIME: Duration = Duration::from_secs(3);
/// How long all clients may take to go on after a failover or a clone.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// Runs it for the server of that name, with the files in `folder`.
///
/// # Errors
/// What went wrong; `figures` has what was measured up to there.
pub fn run(
    arguments: &Arguments,
    name: &str,
    folder: PathBuf,
    figures: &mut Figures,
) -> Result<(), HarnessError> {
    let network = Network::try_enter()?;
    let _network = network.map_err(|reason| {
        HarnessError::Broken(format!(
            "the guest needs a network, which takes root: {reason}"
        ))
    })?;
    let service =
        service(name).ok_or_else(|| HarnessError::Broken(format!("there is no guest {name:?}")))?;
    step(&format!("boot the guest with {name}"));
    let mut guest = ServerGuest::with(name);
    if let Some(memory) = &arguments.memory {
        guest.memory.clone_from(memory);
    }
    let begun = Instant::now();
    let pair = guest.boot(&folder)?;
    figures.boot_s = begun.elapsed().as_secs_f64();
    service.prepare()?;
    let traffic = Traffic::start(service.as_ref(), arguments.connections)?;
    let mut demo = Demo {
        arguments,
        service: service.as_ref(),
        pair,
        samples: Samples::default(),
        servers: ServerFigures {
            guest: name.to_owned(),
            tcp_connections: arguments.connections,
            ..ServerFigures::default()
        },
    };
    let gone = demo.go_through(&traffic, figures);
    let seen = traffic.finish();
    demo.sum_up(&seen, figures);
    // A lost connection is the reason why the rest went wrong, if there is one.
    if let Some(reason) = seen.iter().find_map(|seen| seen.lost.clone()) {
        figures.servers = Some(demo.servers);
        return Err(HarnessError::Broken(format!(
            "a connection was lost: {reason}"
        )));
    }
    let ended = gone.and_then(|()| demo.end(&seen));
    figures.servers = Some(demo.servers);
    ended
}

struct Demo<'a> {
    arguments: &'a Arguments,
    service: &'a dyn Service,
    pair: Pair,
    samples: Samples,
    servers: ServerFigures,
}

impl Demo<'_> {
    fn go_through(&mut self, traffic: &Traffic, figures: &mut Figures) -> Result<(), HarnessError> {
        let mut random = Random::new(figures.seed);
        step("requests to the unprotected guest");
        traffic.go();
        self.servers.requests_per_s_unprotected = traffic.rate(RATE_TIME)?;
        step("protect it");
        self.protect(traffic)?;
        traffic.rest();
        step(&format!("let it idle for {} s", self.arguments.idle_s));
        figures.log_kbit_s_idle = log_rate(&self.pair, self.arguments.idle_s)?;
        step("requests to the protected guest");
        traffic.go();
        self.servers.requests_per_s_protected = traffic.rate(RATE_TIME)?;
        for round in 1..=self.arguments.rounds {
            step(&format!(
                "round {round}: requests, then SIGKILL to the primary"
            ));
            self.samples.busy.push(log_rate(&self.pair, 1)?);
            std::thread::sleep(Duration::from_micros(random.number() % 1_000_000));
            self.samples.take_protected(&self.pair.primary.ft_status()?);
            traffic.take_stall_us();
            self.pair.kill_primary()?;
            self.samples.take_failover(&self.pair.primary.ft_status()?);
            traffic.more(1, CLIENT_LIMIT)?;
            let stall_ms = traffic.take_stall_us() as f64 / 1000.0;
            self.servers.failover_stall_ms_max = self.servers.failover_stall_ms_max.max(stall_ms);
            self.look_for_writes(&traffic.acknowledged())?;
            figures.rounds = round;
            if round < self.arguments.rounds {
                self.protect_again(round, traffic)?;
            }
        }
        Ok(())
    }

    fn protect(&mut self, traffic: &Traffic) -> Result<(), HarnessError> {
        traffic.take_stall_us();
        self.pair.protect(&self.arguments.protection())?;
        self.samples.take_clone(&self.pair.primary.ft_status()?);
        traffic.more(1, CLIENT_LIMIT)?;
        let stall_ms = traffic.take_stall_us() as f64 / 1000.0;
        self.servers.clone_stall_ms_max = self.servers.clone_stall_ms_max.max(stall_ms);
        Ok(())
    }

    /// The new backup finds the image of an earlier life, or makes one, in turns.
    fn protect_again(&mut self, round: u32, traffic: &Traffic) -> Result<(), HarnessError> {
        if round.is_multiple_of(2) {
            let other = 1 - side_of(&self.pair.primary);
            let image = image_of_side(self.pair.folder(), other);
            let removed = std::fs::remove_file(&image);
            removed.map_err(HarnessError::host(format!("remove {}", image.display())))?;
        }
        self.protect(traffic)
    }

    fn look_for_writes(&mut self, acknowledged: &[u64]) -> Result<(), HarnessError> {
        let lost = self.service.missing(acknowledged)?;
        self.servers.writes_lost = self.servers.writes_lost.max(lost);
        Ok(())
    }

    fn sum_up(&mut self, seen: &[Seen], figures: &mut Figures) {
        self.samples.sum_up(figures);
        let kept = seen.iter().filter(|seen| seen.lost.is_none());
        self.servers.tcp_connections_kept = kept.count();
        self.servers.writes_acknowledged = seen.iter().map(|seen| seen.acknowledged).sum();
        let latencies: Vec<u64> = seen
            .iter()
            .flat_map(|seen| seen.latencies_us.clone())
            .collect();
        let stalls = seen.iter().map(|seen| seen.longest_stall_us);
        figures.take_requests(&latencies, stalls.max().unwrap_or(0));
    }

    /// What the survivor has, and how its disk is once it is off.
    fn end(&mut self, seen: &[Seen]) -> Result<(), HarnessError> {
        let acknowledged: Vec<u64> = seen.iter().map(|seen| seen.acknowledged).collect();
        self.look_for_writes(&acknowledged)?;
        step("power the survivor off and check its file system");
        power_off(&mut self.pair.primary)?;
        let image = image_of_side(self.pair.folder(), side_of(&self.pair.primary));
        disk::check_file_system(&image)?;
        self.servers.file_system_clean = true;
        Ok(())
    }
}
