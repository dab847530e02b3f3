//! A guest whose epochs are closed by deltas, with a client: its backup executes nothing and goes
//! on from the last whole delta.
//!
//! One guest is booted for each test, and goes through many protections.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::command::Scratch;
use tests::network::Network;
use tests::scenario::{Client, Pair, Protection};
use tests::servers::traffic::Traffic;
use tests::servers::{ServerGuest, disk, image_of_side, power_off, service, side_of};

const LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to go on: it gives a silent connection 20 s before it looks elsewhere.
const CLIENT_LIMIT: Duration = Duration::from_secs(35);
/// How long a peer may be silent: the hosts are one machine here, which may be busy.
const TIMEOUT_MS: u64 = 2000;

fn by_delta(release: &str, transport: &'static str) -> Protection {
    Protection {
        start: json!({"mode": "checkpoint", "release": release, "timeout_ms": TIMEOUT_MS}),
        transport,
    }
}

#[test]
fn nothing_is_lost_when_the_primary_is_killed_and_the_backup_has_executed_nothing() {
    let scratch = Scratch::new("delta-kill").unwrap();
    let folder = scratch.path().to_owned();
    let jobs = "job=load memory_mib=4";
    let (mut pair, line, _) = Pair::boot(folder, "128M", jobs, "MARK begin service").unwrap();
    let mut client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
    let rounds = [
        ("received", "tcp"),
        ("replayed", "unix"),
        ("verified", "tcp"),
        ("received", "unix"),
    ];
    for (round, (release, transport)) in rounds.into_iter().enumerate() {
        pair.protect(&by_delta(release, transport)).unwrap();
        let before = pair.primary.ft_status().unwrap();
        assert_eq!(before["mode"], "checkpoint", "{before}");
        assert_eq!(before["mode_reason"], "checkpoint was asked for");
        client.more(20, CLIENT_LIMIT).unwrap();
        let status = pair.primary.ft_status().unwrap();
        let verified = status["positions"]["epochs_verified"].as_u64();
        assert!(verified.unwrap() > 0, "{status}");
        let checkpoint = &status["checkpoint"];
        assert!(checkpoint["deltas"].as_u64().unwrap() > 5, "{status}");
        assert!(checkpoint["pages"]["xor"].as_u64().unwrap() > 0, "{status}");
        assert_eq!(status["divergences"], 0, "{status}");
        client.follow_backup(&pair).unwrap();
        pair.kill_primary().unwrap();
        client.more(20, CLIENT_LIMIT).unwrap();
        let after = pair.primary.ft_status().unwrap();
        assert_eq!(after["role"], "unprotected", "round {round}: {after}");
        assert_eq!(after["divergences"], 0, "{after}");
        assert!(after["last_failover"]["total_ms"].is_number(), "{after}");
    }
    let ledger = client.finish().unwrap();
    assert_eq!(ledger.lost, 0);
    assert!(ledger.acknowledged >= 160);
}

#[test]
fn roles_are_swapped_and_protection_ends_without_harm() {
    let scratch = Scratch::new("delta-planned").unwrap();
    let folder = scratch.path().to_owned();
    let (mut pair, line, _) =
        Pair::boot(folder, "128M", "job=service", "MARK begin service").unwrap();
    let mut client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
    pair.protect(&by_delta("received", "tcp")).unwrap();
    client.more(10, CLIENT_LIMIT).unwrap();
    for _ in 0..2 {
        client.follow_backup(&pair).unwrap();
        pair.swap().unwrap();
        let new = pair.primary.ft_status().unwrap();
        assert_eq!(new["mode"], "checkpoint", "{new}");
        let old = pair.backup.as_ref().unwrap();
        old.wait_for("state", &json!("following"), LIMIT).unwrap();
        client.more(10, CLIENT_LIMIT).unwrap();
    }
    // The other one goes on after that, too.
    client.follow_backup(&pair).unwrap();
    pair.kill_primary().unwrap();
    client.more(20, CLIENT_LIMIT).unwrap();
    pair.protect(&by_delta("received", "tcp")).unwrap();
    pair.primary.put("vm.ft-stop", &Value::Null).unwrap();
    pair.primary
        .wait_for("role", &json!("unprotected"), LIMIT)
        .unwrap();
    client.more(10, CLIENT_LIMIT).unwrap();
    assert_eq!(client.finish().unwrap().lost, 0);
}

#[test]
fn redis_keeps_its_connections_and_its_data_through_kills_of_the_primary() {
    let Some(_network) = Network::enter().unwrap() else {
        return;
    };
    let scratch = Scratch::new("delta-redis").unwrap();
    let mut pair = ServerGuest::with("redis").boot(scratch.path()).unwrap();
    let service = service("redis").unwrap();
    service.prepare().unwrap();
    let traffic = Traffic::start(service.as_ref(), 2).unwrap();
    traffic.go();
    for _ in 0..2 {
        pair.protect(&by_delta("received", "tcp")).unwrap();
        traffic.more(10, LIMIT).unwrap();
        pair.kill_primary().unwrap();
        traffic.more(10, LIMIT).unwrap();
        let missing = service.missing(&traffic.acknowledged()).unwrap();
        assert_eq!(missing, 0);
        let status = pair.primary.ft_status().unwrap();
        assert_eq!(status["divergences"], 0, "{status}");
    }
    let seen = traffic.finish();
    assert!(seen.iter().all(|seen| seen.lost.is_none()), "{seen:?}");
    let acknowledged: Vec<u64> = seen.iter().map(|seen| seen.acknowledged).collect();
    assert_eq!(service.missing(&acknowledged).unwrap(), 0);
    let side = side_of(&pair.primary);
    power_off(&mut pair.primary).unwrap();
    disk::check_file_system(&image_of_side(scratch.path(), side)).unwrap();
}
