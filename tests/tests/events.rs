//! What the event monitor tells of a VM's life: boot, pause, protection, failover, a failed start.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::command::Scratch;
use tests::process::{VmProcess, guest_arguments, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

/// The events written so far, as source and name; each is a JSON document of its own with an empty
/// line behind it.
fn events(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let documents = whole.split("\n\n").filter(|text| !text.is_empty());
    let events = documents.map(|text| {
        let event: Value = serde_json::from_str(text).unwrap();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        assert!(event["timestamp"]["secs"].is_u64(), "{event}");
        (text("source"), text("event"))
    });
    events.collect()
}

/// Waits until these events of the VM have come, in this order, perhaps with others between them.
fn expect(path: &Path, names: &[&str]) {
    let mut found = Vec::new();
    let waited = wait_until("the events", LIMIT, || {
        found = events(path);
        let mut told = found.iter().filter(|(source, _)| source == "vm");
        Ok(names
            .iter()
            .all(|name| told.any(|(_, event)| event == name)))
    });
    assert!(waited.is_ok(), "{names:?} of {found:?}");
}

#[test]
fn the_event_monitor_tells_of_boot_pause_protection_and_failover() {
    let scratch = Scratch::new("events").unwrap();
    let monitor = |name: &str| {
        let path = scratch.file(name);
        let argument = format!("path={}", path.display());
        (path, ["--event-monitor".to_owned(), argument])
    };
    let (told, option) = monitor("primary.events");
    let mut arguments = guest_arguments("128M", "job=idle").unwrap();
    arguments.extend(option);
    let mut primary = VmProcess::start(scratch.path(), "primary", &arguments).unwrap();
    expect(&told, &["booting", "booted"]);
    assert_eq!(events(&told)[0], ("vmm".to_owned(), "starting".to_owned()));
    primary.put("vm.pause", &Value::Null).unwrap();
    primary.put("vm.resume", &Value::Null).unwrap();
    expect(&told, &["pausing", "paused", "resuming", "resumed"]);

    let fence = format!("file:{}", scratch.file("fence").display());
    let socket = format!("unix:{}", scratch.file("pair").display());
    let start = json!({"destination_url": socket, "fence": fence, "timeout_ms": 2000});
    assert!(primary.put("vm.ft-start", &start).is_err(), "to nobody");

    let (heard, option) = monitor("backup.events");
    let backup = VmProcess::start(scratch.path(), "backup", &option).unwrap();
    let receive = json!({"receiver_url": socket});
    backup.put("vm.ft-receive", &receive).unwrap();
    expect(&heard, &["ft-receive-ready"]);
    primary.put("vm.ft-start", &start).unwrap();
    expect(&told, &["resumed", "ft-protected"]);
    expect(&heard, &["ft-receive-started"]);
    primary.kill().unwrap();
    expect(&heard, &["ft-suspected", "ft-promoted"]);
    backup.put("vm.delete", &Value::Null).unwrap();
    expect(&heard, &["ft-promoted", "shutdown", "deleted"]);
}
