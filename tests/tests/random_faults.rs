//! Twenty faults, drawn by seeds, to a guest with a disk, a network card, a server and clients at
//! work: after each the guest runs on one host, no connection is lost and nothing that was
//! acknowledged; at the end the file system is clean.
//!
//! Needs root, for a network namespace, and the image that `scripts/guest-image servers` makes.
//! `CHFT_FAULT_SEED` chooses the first seed, `CHFT_FAULT_SEEDS` how many there are.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::Duration;

use tests::command::Scratch;
use tests::faults::Fault;
use tests::network::Network;
use tests::random::Random;
use tests::scenario::Protection;
use tests::servers::traffic::Traffic;
use tests::servers::{ServerGuest, disk, image_of_side, power_off, service, side_of};

/// Seeds of a run.
const SEEDS: u64 = 20;
/// How long clients may wait, on a busy host.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a peer may be silent: the hosts are one machine here, which may be busy.
const TIMEOUT_MS: u64 = 1000;
/// Most microseconds of traffic before a fault.
const TRAFFIC_US: u64 = 700_000;
const CONNECTIONS: usize = 3;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    }
}

#[test]
fn twenty_random_faults_under_traffic_lose_nothing() {
    let Some(_network) = Network::enter().unwrap() else {
        return;
    };
    let scratch = Scratch::new("random-faults").unwrap();
    let mut pair = ServerGuest::with("redis").boot(scratch.path()).unwrap();
    let service = service("redis").unwrap();
    service.prepare().unwrap();
    let traffic = Traffic::start(service.as_ref(), CONNECTIONS).unwrap();
    traffic.go();
    let first = number("CHFT_FAULT_SEED", 1);
    for seed in first..first + number("CHFT_FAULT_SEEDS", SEEDS) {
        let mut random = Random::new(seed);
        let fault = Fault::draw(&mut random);
        let delay_us = random.number() % TRAFFIC_US;
        let what = format!("seed {seed}, {fault:?} after {delay_us} us");
        println!("{what}");
        let proxy = pair
            .protect_by_proxy(&Protection::patient(TIMEOUT_MS))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        std::thread::sleep(Duration::from_micros(delay_us));
        pair.suffer(fault, &proxy)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        traffic
            .more(2, LIMIT)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let acknowledged = traffic.acknowledged();
        let missing = service.missing(&acknowledged).unwrap();
        assert_eq!(missing, 0, "{what}: of {acknowledged:?}");
        let status = pair.primary.ft_status().unwrap();
        assert_eq!(status["divergences"], 0, "{what}: {status}");
    }
    let seen = traffic.finish();
    let lost: Vec<_> = seen.iter().filter_map(|seen| seen.lost.as_ref()).collect();
    assert!(lost.is_empty(), "connections were lost: {lost:?}");
    let image = image_of_side(scratch.path(), side_of(&pair.primary));
    power_off(&mut pair.primary).unwrap();
    disk::check_file_system(&image).unwrap();
}
