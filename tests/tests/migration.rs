//! Migrations of a busy guest between two processes, snapshots, and what goes wrong with either:
//! the guest's client notices a new connection and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde_json::{Value, json};
use tests::backend::kvm_refusal;
use tests::command::Scratch;
use tests::migration::{
    Receiver, events, figures, free_url, send, serve_client, start_guest, wait_for, wait_for_end,
};
use tests::process::{VmProcess, wait_until};
use tests::proxy::{Order, Proxy, Way};
use tests::scenario::Client;
use tests::skip;

const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A client gives a silent connection 20 s before it looks elsewhere.
const CLIENT_LIMIT: Duration = Duration::from_secs(45);
const MEMORY: &str = "128M";
/// Computes, dirties memory, and answers a client.
const JOBS: &str = "job=load memory_mib=16";

const MEMORY_COMMAND: u16 = 4;
const COMPLETE_COMMAND: u16 = 5;

struct Scene {
    vm: VmProcess,
    client: Client,
    count: u32,
    scratch: Scratch,
}

impl Scene {
    fn boot(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let vm = start_guest(scratch.path(), "vmm-0", MEMORY, JOBS).unwrap();
        let client = serve_client(&vm, BOOT_LIMIT).unwrap();
        Self {
            vm,
            client,
            count: 0,
            scratch,
        }
    }

    /// Another process, without a VM.
    fn empty(&mut self) -> VmProcess {
        self.count += 1;
        let name = format!("vmm-{}", self.count);
        let events = self.scratch.file(&format!("{name}.events"));
        let monitor = format!("path={}", events.display());
        let arguments = ["--event-monitor".to_owned(), monitor];
        VmProcess::start(self.scratch.path(), &name, &arguments).unwrap()
    }

    fn more_replies(&self, count: u64) {
        self.client.more(count, CLIENT_LIMIT).unwrap();
    }

    /// Migrates the guest to another process, which takes the place of the source.
    fn migrate(&mut self, url: Value, options: &Value) {
        let destination = self.empty();
        let receiver = Receiver::start(&destination, url);
        self.migrate_to(destination, receiver, options);
    }

    fn migrate_to(&mut self, destination: VmProcess, receiver: Receiver, options: &Value) {
        send(&self.vm, receiver.url(), options).unwrap();
        receiver.finish().unwrap();
        wait_for_end(&mut self.vm).unwrap();
        let figures = figures(&self.vm).unwrap();
        println!("{options}: {figures:?}");
        let info = destination.get("vm.info").unwrap();
        assert_eq!(info["state"], "Running", "{info}");
        assert_eq!(info["migration"]["state"], "Finished", "{info}");
        self.vm = destination;
        self.more_replies(10);
    }

    fn finish(mut self) {
        let ledger = self.client.finish().unwrap();
        assert_eq!(ledger.lost, 0);
        println!(
            "longest gap {} us, resent {}",
            ledger.longest_gap_us, ledger.resent
        );
    }
}

/// Names of the events of a VM.
fn event_names(process: &VmProcess) -> Vec<String> {
    let events = events(process).unwrap();
    let vm = events.iter().filter(|event| event["source"] == "vm");
    vm.map(|event| event["event"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_busy_guest_goes_from_process_to_process_and_its_client_loses_nothing() {
    let mut scene = Scene::boot("migrates");
    let source = scene.vm.serial().with_extension("events");
    let unix = scene.scratch.file("migration.sock");
    scene.migrate(free_url().unwrap(), &json!({}));
    let told = std::fs::read_to_string(source).unwrap();
    for event in [
        "migration-started",
        "migration-memory-iteration",
        "pausing",
        "paused",
        "snapshotting",
        "snapshotted",
        "migration-finished",
    ] {
        assert!(told.contains(&format!("\"{event}\"")), "{event}: {told}");
    }
    // The events of a destination are where it was started to tell them.
    let names = event_names(&scene.vm);
    let wanted = [
        "migration-receive-ready",
        "migration-receive-started",
        "restoring",
        "restored",
        "resuming",
        "resumed",
        "migration-receive-finished",
    ];
    assert_eq!(names, wanted);
    scene.migrate(json!(format!("unix:{}", unix.display())), &json!({}));
    scene.migrate(
        free_url().unwrap(),
        &json!({"connections": 3, "downtime_ms": 50}),
    );
    scene.finish();
}

#[test]
fn a_migration_that_is_cancelled_or_cut_leaves_the_source_running_and_the_receiver_usable() {
    let mut scene = Scene::boot("cut");
    let destination = scene.empty();
    for (order, state) in [
        (Order::Hold(1 << 20), "Cancelled"),
        (Order::Truncate, "Failed"),
        (Order::Close, "Failed"),
    ] {
        let receiver = Receiver::start(&destination, free_url().unwrap());
        wait_until("the receiver to listen", CLIENT_LIMIT, || {
            let names = event_names(&destination);
            Ok(names
                .last()
                .is_some_and(|name| name == "migration-receive-ready"))
        })
        .unwrap();
        let proxy = Proxy::start(receiver.url(), Order::Hold(2 << 20)).unwrap();
        send(&scene.vm, &proxy.url(), &json!({})).unwrap();
        let info = wait_for(&scene.vm, &["Copying"]).unwrap();
        assert_eq!(info["state"], "Running", "{info}");
        wait_until("memory on its way", CLIENT_LIMIT, || {
            Ok(proxy.passed(Way::Forth) >= 2 << 20)
        })
        .unwrap();
        // Both sides answer meanwhile, and refuse what would be in the way.
        for (process, call, status) in [
            (&scene.vm, "vm.pause", 500),
            (&scene.vm, "vm.delete", 500),
            (&destination, "vm.boot", 500),
        ] {
            let error = process.put(call, &Value::Null).unwrap_err();
            assert_eq!(error.status(), Some(status), "{call}: {error}");
        }
        let protect = json!({"destination_url": "tcp:127.0.0.1:1", "fence": "none"});
        let error = scene.vm.put("vm.ft-start", &protect).unwrap_err();
        assert_eq!(error.status(), Some(409), "{error}");
        destination.get("vmm.ping").unwrap();
        scene.more_replies(10);
        if state == "Cancelled" {
            scene.vm.put("vm.cancel-migration", &Value::Null).unwrap();
        } else {
            proxy.order(Way::Forth, order);
        }
        let info = wait_for(&scene.vm, &["Cancelled", "Failed"]).unwrap();
        assert_eq!(info["migration"]["state"], state, "{info}");
        assert_eq!(info["state"], "Running", "{info}");
        drop(proxy);
        let error = receiver.finish().unwrap_err();
        assert_eq!(error.status(), Some(500), "{error}");
        // Nothing of the VM is there.
        let error = destination.get("vm.info").unwrap_err();
        assert_eq!(error.status(), Some(404), "{error}");
        let names = event_names(&destination);
        assert_eq!(names.last().unwrap(), "migration-receive-failed");
        assert_eq!(event_names(&scene.vm).last().unwrap(), "migration-failed");
        scene.more_replies(10);
    }
    let receiver = Receiver::start(&destination, free_url().unwrap());
    scene.migrate_to(destination, receiver, &json!({}));
    scene.finish();
}

/// A destination of the plain protocol that takes everything and is gone when it is told to go on.
/// Returns the commands that it was given.
fn take_and_leave(listener: &TcpListener) -> std::io::Result<Vec<u16>> {
    let (mut stream, _) = listener.accept()?;
    let mut commands = Vec::new();
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let command = u16::from_le_bytes([head[0], head[1]]);
        commands.push(command);
        let length = u64::from_le_bytes(head[8..].try_into().unwrap());
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload)?;
        if command == MEMORY_COMMAND {
            let lengths = payload
                .chunks(16)
                .map(|range| range[8..].try_into().unwrap());
            let bytes: u64 = lengths.map(u64::from_le_bytes).sum();
            stream.read_exact(&mut vec![0; bytes as usize])?;
        }
        if command == COMPLETE_COMMAND {
            return Ok(commands);
        }
        let mut response = [0; 16];
        response[0] = 1;
        stream.write_all(&response)?;
    }
}

#[test]
fn a_guest_that_may_run_elsewhere_stands_still_until_somebody_says_that_it_does_not() {
    let mut scene = Scene::boot("undecided");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = json!(format!("tcp:{}", listener.local_addr().unwrap()));
    let fake = std::thread::spawn(move || take_and_leave(&listener));
    send(&scene.vm, &url, &json!({})).unwrap();
    let info = wait_for(&scene.vm, &["Undecided"]).unwrap();
    let commands = fake.join().unwrap().unwrap();
    assert_eq!(commands[..2], [1, 2]);
    assert!(
        commands[2..commands.len() - 2]
            .iter()
            .all(|c| *c == MEMORY_COMMAND)
    );
    assert_eq!(commands[commands.len() - 2..], [3, COMPLETE_COMMAND]);
    assert_eq!(info["state"], "Paused", "{info}");
    let reason = info["migration"]["reason"].as_str().unwrap();
    assert!(reason.contains("resume it only if"), "{reason}");
    // Nothing is done with it that would let it run, or say what it is.
    let folder = json!({"destination_url": format!("file://{}", scene.scratch.path().display())});
    for (call, body) in [
        ("vm.snapshot", folder),
        (
            "vm.send-migration",
            json!({"destination_url": "tcp:127.0.0.1:1"}),
        ),
    ] {
        let error = scene.vm.put(call, &body).unwrap_err();
        assert!(
            error.to_string().contains("may run on another host"),
            "{error}"
        );
    }
    scene.vm.put("vm.resume", &Value::Null).unwrap();
    assert_eq!(scene.vm.get("vm.info").unwrap()["state"], "Running");
    scene.more_replies(10);
    scene.migrate(free_url().unwrap(), &json!({}));
    scene.finish();
}

#[test]
fn a_backend_that_is_not_there_is_refused_before_memory_comes() {
    let asking = Scratch::new("absent-backend-asked").unwrap();
    if kvm_refusal(&asking).unwrap().is_none() {
        skip("a backend that is not there: this host has both");
        return;
    }
    let mut scene = Scene::boot("absent-backend");
    let destination = scene.empty();
    let options = json!({"hypervisor": "kvm"});
    let receiver = Receiver::start_with(&destination, free_url().unwrap(), &options);
    send(&scene.vm, receiver.url(), &json!({})).unwrap();
    wait_for(&scene.vm, &["Failed"]).unwrap();
    let error = receiver.finish().unwrap_err().to_string();
    assert!(error.contains("kvm cannot be used here"), "{error}");
    let names = event_names(&scene.vm);
    let copied = |name: &String| name == "migration-memory-iteration";
    assert!(!names.iter().any(copied), "{names:?}");
    scene.more_replies(10);
    scene.finish();
}

#[test]
fn a_receiver_can_be_called_off_and_its_process_ended() {
    let scratch = Scratch::new("receiver").unwrap();
    let monitor = format!("path={}", scratch.file("vmm-0.events").display());
    let arguments = ["--event-monitor".to_owned(), monitor];
    let mut process = VmProcess::start(scratch.path(), "vmm-0", &arguments).unwrap();
    let receiver = Receiver::start(&process, free_url().unwrap());
    wait_until("the receiver", CLIENT_LIMIT, || {
        Ok(process.put("vm.cancel-migration", &Value::Null).is_ok())
    })
    .unwrap();
    let error = receiver.finish().unwrap_err();
    assert_eq!(error.status(), Some(500), "{error}");
    let error = process
        .put("vm.cancel-migration", &Value::Null)
        .unwrap_err();
    assert_eq!(error.status(), Some(500), "{error}");
    let receiver = Receiver::start(&process, free_url().unwrap());
    // A restore that came first would be in the receiver's way.
    wait_until("the second receiver", CLIENT_LIMIT, || {
        let names = event_names(&process);
        let ready = names
            .iter()
            .filter(|name| *name == "migration-receive-ready");
        Ok(ready.count() == 2)
    })
    .unwrap();
    let restore = json!({"source_url": "file:///nowhere"});
    let error = process.put("vm.restore", &restore).unwrap_err();
    assert!(error.to_string().contains("migrating here"), "{error}");
    process.put("vmm.shutdown", &Value::Null).unwrap();
    wait_for_end(&mut process).unwrap();
    assert!(receiver.finish().is_err());
}

#[test]
fn a_snapshot_is_a_guest_that_goes_on_where_it_stood_and_a_damaged_one_is_none() {
    let mut scene = Scene::boot("snapshot");
    let folder = scene.scratch.file("saved");
    std::fs::create_dir(&folder).unwrap();
    let url = json!(format!("file://{}", folder.display()));
    let take = json!({"destination_url": url});
    let error = scene.vm.put("vm.snapshot", &take).unwrap_err();
    assert_eq!(error.status(), Some(500), "{error}");
    scene.vm.put("vm.pause", &Value::Null).unwrap();
    scene.vm.put("vm.snapshot", &take).unwrap();
    let error = scene.vm.put("vm.snapshot", &take).unwrap_err();
    assert_eq!(error.status(), Some(400), "{error}");
    // It is no end of the VM.
    scene.vm.put("vm.resume", &Value::Null).unwrap();
    scene.more_replies(10);
    // One that the client knows of: nothing is acknowledged behind it.
    scene.vm.put("vm.pause", &Value::Null).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    scene.vm.put("vm.snapshot", &take).unwrap();
    scene.vm.kill().unwrap();

    let other = scene.empty();
    let restore = json!({"source_url": url, "resume": true});
    let memory = File::options()
        .read(true)
        .write(true)
        .open(folder.join("memory-ranges"));
    let memory = memory.unwrap();
    // What is in a hole belongs to no page; in the kernel there is none.
    let mut byte = [0];
    let at = (16 << 20..).find(|at| {
        memory.read_exact_at(&mut byte, *at).unwrap();
        byte != [0]
    });
    let at = at.unwrap();
    memory.write_all_at(&[!byte[0]], at).unwrap();
    let error = other.put("vm.restore", &restore).unwrap_err();
    assert_eq!(error.status(), Some(400), "{error}");
    assert!(
        error.to_string().contains("memory-ranges is damaged"),
        "{error}"
    );
    assert_eq!(other.get("vm.info").unwrap_err().status(), Some(404));
    memory.write_all_at(&byte, at).unwrap();
    other.put("vm.restore", &restore).unwrap();
    scene.vm = other;
    scene.more_replies(10);
    scene.finish();
}
