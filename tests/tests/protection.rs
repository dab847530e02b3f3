//! A protected guest with a client: kills, planned failovers, lost backups, fences, false peers.
//!
//! One guest is booted for each test, and goes through many protections.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::process::{VmProcess, wait_until};
use tests::scenario::{Client, Pair, Protection, mode};
use tests::service::Line;

const LIMIT: Duration = Duration::from_secs(15);
/// How long a client may take to go on: it gives a silent connection 20 s before it looks elsewhere.
const CLIENT_LIMIT: Duration = Duration::from_secs(35);
const SERVICE: &str = "MARK begin service";

fn boot(scratch: &Scratch) -> (Pair, Line) {
    let folder = scratch.path().to_owned();
    let (pair, line, _) = Pair::boot(folder, "128M", "job=service", SERVICE).unwrap();
    (pair, line)
}

fn protection(release: &str, transport: &'static str) -> Protection {
    Protection {
        start: json!({"release": release}),
        transport,
    }
}

fn refused(result: Result<(), HarnessError>, words: &[&str]) {
    let said = result.expect_err("a call that must be refused").to_string();
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
}

fn start_body(scratch: &Scratch, url: &Value, fence: &str) -> Value {
    let fence = format!("file:{}", scratch.file(fence).display());
    json!({"destination_url": url, "mode": mode(), "fence": fence})
}

#[test]
fn nothing_is_lost_when_the_primary_is_killed_under_each_release_policy() {
    let scratch = Scratch::new("kill").unwrap();
    let (mut pair, line) = boot(&scratch);
    let mut client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
    let rounds = [
        ("received", "tcp"),
        ("replayed", "unix"),
        ("verified", "tcp"),
    ];
    for (round, (release, transport)) in rounds.into_iter().enumerate() {
        pair.protect(&protection(release, transport)).unwrap();
        let before = pair.primary.ft_status().unwrap();
        assert_eq!(before["role"], "primary");
        assert_eq!(before["parameters"]["release"], release);
        let clone = before["last_clone"]["pages"].as_u64().unwrap();
        assert!(clone > 1000, "{before}");
        client.more(30, CLIENT_LIMIT).unwrap();
        let status = pair.primary.ft_status().unwrap();
        assert!(
            status["positions"]["epochs_verified"].as_u64().unwrap() > 0,
            "{status}"
        );
        assert_eq!(status["divergences"], 0, "{status}");
        client.follow_backup(&pair).unwrap();
        pair.kill_primary().unwrap();
        client.more(30, CLIENT_LIMIT).unwrap();
        let after = pair.primary.ft_status().unwrap();
        assert_eq!(after["role"], "unprotected", "round {round}: {after}");
        assert!(
            after["generation"].as_u64() > before["generation"].as_u64(),
            "{after}"
        );
        assert_eq!(after["divergences"], 0, "{after}");
        assert!(after["last_failover"]["total_ms"].is_number(), "{after}");
    }
    let ledger = client.finish().unwrap();
    assert_eq!(ledger.lost, 0);
    assert!(ledger.acknowledged >= 180);
}

#[test]
fn roles_are_swapped_protection_ends_and_a_backup_is_lost_without_harm() {
    let scratch = Scratch::new("planned").unwrap();
    let (mut pair, line) = boot(&scratch);
    let mut client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
    pair.protect(&Protection::default()).unwrap();
    client.more(10, CLIENT_LIMIT).unwrap();

    // A second start while it is protected is refused and changes nothing, and so is a migration.
    let away = json!({"destination_url": "tcp:127.0.0.1:1"});
    refused(
        pair.primary.put("vm.send-migration", &away),
        &["VM is protected"],
    );
    let second = start_body(&scratch, &json!("tcp:127.0.0.1:1"), "fence");
    refused(
        pair.primary.put("vm.ft-start", &second),
        &["The VM could not be protected"],
    );
    assert_eq!(pair.primary.ft_status().unwrap()["role"], "primary");
    client.more(10, CLIENT_LIMIT).unwrap();

    // A planned failover: the old primary is the backup now, and serves nobody.
    client.follow_backup(&pair).unwrap();
    let mut witness = Line::connect(pair.primary.serial()).unwrap();
    pair.primary
        .put("vm.ft-failover", &json!({"planned": true}))
        .unwrap();
    let new = pair.backup.take().unwrap();
    new.wait_for("live", &json!(true), LIMIT).unwrap();
    let old = std::mem::replace(&mut pair.primary, new);
    assert_closed(&mut witness, &old);
    client.more(20, CLIENT_LIMIT).unwrap();
    let status = pair
        .primary
        .wait_for("role", &json!("primary"), LIMIT)
        .unwrap();
    assert_eq!(status["divergences"], 0);
    assert_eq!(old.ft_status().unwrap()["role"], "backup");
    assert_eq!(old.ft_status().unwrap()["live"], false);

    // The backup is killed: the guest goes on alone, and can be protected again.
    drop(old);
    pair.primary
        .wait_for("role", &json!("unprotected"), LIMIT)
        .unwrap();
    client.more(20, CLIENT_LIMIT).unwrap();
    pair.protect(&Protection::default()).unwrap();
    client.more(20, CLIENT_LIMIT).unwrap();

    // Protection ends as asked.
    pair.primary.put("vm.ft-stop", &Value::Null).unwrap();
    let status = pair
        .primary
        .wait_for("role", &json!("unprotected"), LIMIT)
        .unwrap();
    assert_eq!(status["live"], true);
    let backup = pair.backup.take().unwrap();
    backup.wait_for("role", &json!("ended"), LIMIT).unwrap();
    assert_eq!(backup.ft_status().unwrap()["live"], false);
    client.more(20, CLIENT_LIMIT).unwrap();
    refused(pair.primary.put("vm.ft-stop", &Value::Null), &["protect"]);
    assert_eq!(client.finish().unwrap().lost, 0);
}

#[test]
fn a_primary_that_comes_back_finds_itself_fenced_and_says_no_more() {
    let scratch = Scratch::new("fenced").unwrap();
    let (mut pair, line) = boot(&scratch);
    pair.protect(&Protection::default()).unwrap();
    let mut client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
    client.more(20, CLIENT_LIMIT).unwrap();
    client.follow_backup(&pair).unwrap();
    pair.primary.signal("STOP").unwrap();
    pair.backup
        .as_ref()
        .unwrap()
        .wait_for("live", &json!(true), LIMIT)
        .unwrap();
    let live = pair.backup.take().unwrap();
    let old = std::mem::replace(&mut pair.primary, live);
    // The client hangs on the silent host; a new one listens there, and the old client moves.
    let mut witness = Line::connect(old.serial()).unwrap();
    old.signal("CONT").unwrap();
    witness.send("HELLO").unwrap();
    let status = old.wait_for("role", &json!("ended"), LIMIT).unwrap();
    let error = status["error"].as_str().unwrap_or_default();
    assert!(error.contains("was claimed by"), "{status}");
    assert_eq!(status["live"], false, "{status}");
    client.more(20, CLIENT_LIMIT).unwrap();
    let heard = assert_closed(&mut witness, &old);
    assert!(heard.is_empty(), "the old primary released {heard:?}");
    assert_eq!(pair.primary.ft_status().unwrap()["live"], true);
    assert_eq!(client.finish().unwrap().lost, 0);
}

/// A side that is not live any more has closed its serial port: the connection ends at once, and
/// there is nobody to connect to. Returns what came before the end.
fn assert_closed(witness: &mut Line, old: &VmProcess) -> Vec<String> {
    let begun = Instant::now();
    let mut heard = Vec::new();
    let end = loop {
        match witness.receive() {
            Ok(line) => heard.push(line),
            Err(error) => break error,
        }
    };
    // A read that waits for too long is an error too, of another kind.
    let closed = matches!(
        end.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
    );
    assert!(closed, "the old connection is open: {end}");
    assert!(begun.elapsed() < LIMIT, "it was closed late");
    let refused = Line::connect(old.serial()).map(|_| ());
    assert!(refused.is_err(), "somebody listens at the old place");
    heard
}

fn receiver(backup: &VmProcess) -> Value {
    let serial = json!({"mode": "Socket", "socket": backup.serial()});
    let body = json!({"receiver_url": "tcp:127.0.0.1:0", "config_overrides": {"serial": serial}});
    backup.put("vm.ft-receive", &body).unwrap();
    backup.ft_status().unwrap()["receiver_url"].clone()
}

/// Sends `bytes` to a receiver as if from a primary; returns once the connection is closed.
fn talk_nonsense(url: &Value, bytes: &[u8]) {
    let address = url
        .as_str()
        .and_then(|url| url.strip_prefix("tcp:"))
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The receiver may have hung up in the middle of it.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let begun = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(
        begun.elapsed() < LIMIT,
        "the receiver keeps a connection with nonsense open"
    );
}

#[test]
fn a_failed_start_leaves_the_vm_as_it_was_and_a_receiver_usable() {
    let scratch = Scratch::new("failed-start").unwrap();
    let (mut pair, line) = boot(&scratch);
    let mut client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
    let nobody = start_body(&scratch, &json!("tcp:127.0.0.1:1"), "fence");
    refused(
        pair.primary.put("vm.ft-start", &nobody),
        &["127.0.0.1:1", "refused"],
    );
    client.more(10, CLIENT_LIMIT).unwrap();

    let backup = VmProcess::start_empty(scratch.path(), "receiver").unwrap();
    let noise: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for nonsense in [&noise[..], b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00", b""] {
        let url = receiver(&backup);
        talk_nonsense(&url, nonsense);
        let status = wait_for_error(&backup);
        assert_eq!(status["live"], false, "{status}");
        backup.get("vmm.ping").unwrap();
    }

    // A fence that cannot be had is refused by name.
    let url = receiver(&backup);
    let body = start_body(&scratch, &url, "missing/folder/fence");
    refused(
        pair.primary.put("vm.ft-start", &body),
        &["missing/folder/fence"],
    );
    assert_eq!(pair.primary.ft_status().unwrap()["role"], "unprotected");
    client.more(10, CLIENT_LIMIT).unwrap();

    // After all that, the same two can still become a pair.
    let url = wait_for_receiver(&backup);
    pair.primary
        .put("vm.ft-start", &start_body(&scratch, &url, "fence"))
        .unwrap();
    pair.backup = Some(backup);
    client.more(20, CLIENT_LIMIT).unwrap();
    client.follow_backup(&pair).unwrap();
    pair.kill_primary().unwrap();
    client.more(20, CLIENT_LIMIT).unwrap();
    assert_eq!(client.finish().unwrap().lost, 0);
}

/// Waits until a receiver has given up on its false primary, and says why.
fn wait_for_error(backup: &VmProcess) -> Value {
    let mut last = Value::Null;
    let waited = wait_until("the receiver's error", LIMIT, || {
        last = backup.ft_status()?;
        Ok(last["error"].as_str().is_some_and(|text| !text.is_empty()))
    });
    assert!(waited.is_ok(), "{waited:?}: {last}");
    last
}

/// The address of a receiver that still listens, or listens again now.
fn wait_for_receiver(backup: &VmProcess) -> Value {
    let status = backup.ft_status().unwrap();
    if status["state"] == "listening" {
        return status["receiver_url"].clone();
    }
    wait_for_error(backup);
    receiver(backup)
}
