//! Guests with a disk, a network card and a server: their clients keep their TCP connections
//! whatever happens to the hosts, what was acknowledged stays, and file systems stay clean.
//!
//! Needs root, for a network namespace, and the image that `scripts/guest-image servers` makes.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tests::command::Scratch;
use tests::network::Network;
use tests::process::wait_until;
use tests::random::Random;
use tests::scenario::{Pair, Protection};
use tests::servers::traffic::{Service, Traffic};
use tests::servers::{ServerGuest, disk, image_of_side, power_off, service, side_of, wait_for_end};

/// How long anything may take that has a bound of its own, on a busy host.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a peer may be silent: the hosts are one machine here, which may be busy.
const TIMEOUT_MS: u64 = 2000;
/// Clients of each guest.
const CONNECTIONS: usize = 4;

/// A guest with clients at work.
struct Scene {
    pair: Pair,
    service: Box<dyn Service>,
    traffic: Traffic,
    scratch: Scratch,
    _network: Network,
}

impl Scene {
    /// `None`, and a line that says so, where there is no network to be had.
    fn boot(name: &str, guest: &ServerGuest) -> Option<Self> {
        let network = Network::enter().unwrap()?;
        let scratch = Scratch::new(name).unwrap();
        let pair = guest.boot(scratch.path()).unwrap();
        let service = service(&guest.servers).unwrap();
        service.prepare().unwrap();
        let traffic = Traffic::start(service.as_ref(), CONNECTIONS).unwrap();
        traffic.go();
        Some(Self {
            pair,
            service,
            traffic,
            scratch,
            _network: network,
        })
    }

    fn protect(&mut self) {
        self.pair.protect(&Protection::patient(TIMEOUT_MS)).unwrap();
        self.more(3);
    }

    /// Every client has some more replies, over its first connection.
    fn more(&self, count: u64) {
        self.traffic.more(count, LIMIT).unwrap();
    }

    fn kill_primary(&mut self) {
        self.pair.kill_primary().unwrap();
        self.more(5);
        self.assert_nothing_missing();
    }

    fn assert_nothing_missing(&self) {
        let acknowledged = self.traffic.acknowledged();
        let missing = self.service.missing(&acknowledged).unwrap();
        assert_eq!(missing, 0, "of {acknowledged:?}");
        let status = self.pair.primary.ft_status().unwrap();
        assert_eq!(status["divergences"], 0, "{status}");
    }

    /// Ends the clients, looks for all they had acknowledged, and looks at the disk of the
    /// survivor once it is off.
    fn finish(mut self, image: usize) {
        let seen = self.traffic.finish();
        let lost: Vec<_> = seen.iter().filter_map(|seen| seen.lost.as_ref()).collect();
        assert!(lost.is_empty(), "connections were lost: {lost:?}");
        let acknowledged: Vec<u64> = seen.iter().map(|seen| seen.acknowledged).collect();
        assert_eq!(self.service.missing(&acknowledged).unwrap(), 0);
        power_off(&mut self.pair.primary).unwrap();
        let image = image_of_side(self.scratch.path(), image);
        disk::check_file_system(&image).unwrap();
    }
}

#[test]
fn redis_survives_two_kills_of_its_host_and_loses_neither_writes_nor_connections() {
    let Some(mut scene) = Scene::boot("redis", &ServerGuest::with("redis")) else {
        return;
    };
    let mut random = Random::new(u64::from(std::process::id()));
    for round in 0..2 {
        // In the second round the backup finds the image that the first primary left behind.
        scene.protect();
        std::thread::sleep(Duration::from_micros(random.number() % 1_000_000));
        scene.kill_primary();
        assert_eq!(side_of(&scene.pair.primary), 1 - round);
    }
    scene.finish(0);
}

#[test]
fn postgres_survives_a_kill_and_its_balances_agree() {
    let Some(mut scene) = Scene::boot("postgres", &ServerGuest::with("postgres")) else {
        return;
    };
    scene.protect();
    scene.kill_primary();
    scene.finish(1);
}

#[test]
fn downloads_that_a_kill_interrupts_are_right_to_the_last_byte() {
    let Some(mut scene) = Scene::boot("nginx", &ServerGuest::with("nginx")) else {
        return;
    };
    scene
        .pair
        .protect(&Protection::patient(TIMEOUT_MS))
        .unwrap();
    scene.pair.kill_primary().unwrap();
    // Each of them was under way at the kill.
    scene.more(1);
    scene.finish(1);
}

#[test]
fn roles_are_swapped_back_and_forth_a_backup_is_lost_and_protection_ends_under_traffic() {
    let Some(mut scene) = Scene::boot("swaps", &ServerGuest::with("redis")) else {
        return;
    };
    scene.protect();
    for side in [1, 0] {
        scene.pair.swap().unwrap();
        assert_eq!(side_of(&scene.pair.primary), side);
        scene.more(5);
        scene.assert_nothing_missing();
    }
    // The backup is lost: the guest goes on alone.
    let mut backup = scene.pair.backup.take().unwrap();
    backup.kill().unwrap();
    scene
        .pair
        .primary
        .wait_for("role", &json!("unprotected"), LIMIT)
        .unwrap();
    scene.more(5);
    // It is protected anew, and protection ends as asked. Its backup has an image it must make.
    let image = image_of_side(scene.scratch.path(), 1);
    fs::remove_file(image).unwrap();
    scene.protect();
    scene.pair.primary.put("vm.ft-stop", &Value::Null).unwrap();
    let status = scene
        .pair
        .primary
        .wait_for("role", &json!("unprotected"), LIMIT)
        .unwrap();
    assert_eq!(status["live"], true, "{status}");
    scene
        .pair
        .backup
        .as_ref()
        .unwrap()
        .wait_for("role", &json!("ended"), LIMIT)
        .unwrap();
    scene.more(5);
    scene.assert_nothing_missing();
    scene.finish(0);
}

#[test]
fn an_image_that_both_sides_share_keeps_what_was_written_before_the_kill() {
    let guest = ServerGuest {
        shared_disk: true,
        ..ServerGuest::with("redis")
    };
    let Some(mut scene) = Scene::boot("shared", &guest) else {
        return;
    };
    scene.protect();
    scene.kill_primary();
    // Roles are swapped as well: one side closes the image before the other opens it.
    scene.protect();
    scene.pair.swap().unwrap();
    scene.more(5);
    scene.assert_nothing_missing();
    drop(scene.pair.backup.take());
    scene
        .pair
        .primary
        .wait_for("role", &json!("unprotected"), LIMIT)
        .unwrap();
    scene.finish(0);
}

#[test]
fn a_shutdown_of_a_protected_vm_ends_it_on_both_sides() {
    let Some(mut scene) = Scene::boot("shutdown", &ServerGuest::with("redis")) else {
        return;
    };
    scene.protect();
    scene.pair.primary.put("vm.shutdown", &Value::Null).unwrap();
    let backup = scene.pair.backup.take().unwrap();
    wait_for_end(&mut scene.pair.primary, "the primary's VM", LIMIT).unwrap();
    backup.wait_for("role", &json!("ended"), LIMIT).unwrap();
    // Neither has been taken over by the other.
    for process in [&scene.pair.primary, &backup] {
        let status = process.ft_status();
        let live = status.map(|status| status["live"].clone());
        assert!(
            !live.is_ok_and(|live| live == true),
            "{} is live",
            process.name()
        );
    }
    let lost = wait_until("the clients to notice", LIMIT, || {
        Ok(scene.service.prepare().is_err())
    });
    lost.unwrap();
}
