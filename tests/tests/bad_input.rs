//! Bad input to the command line and the API: each refusal names what is wrong, and harms nothing.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::command::{Finished, Scratch, run};
use tests::guest_file;
use tests::process::VmProcess;
use tests::service::Line;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs with `arguments`; checks the exit code and that the error has every one of `words`.
fn refused(scratch: &Scratch, arguments: &[&str], code: i32, words: &[&str]) {
    let owned: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let finished = run(scratch, &owned, LIMIT).unwrap();
    assert_eq!(finished.code, Some(code), "{arguments:?}: {finished:?}");
    assert_words(&finished, arguments, words);
}

fn assert_words(finished: &Finished, arguments: &[&str], words: &[&str]) {
    for word in words {
        assert!(
            finished.errors.contains(word),
            "{arguments:?}: no {word:?} in {finished:?}"
        );
    }
    assert!(
        !finished.errors.contains("panicked"),
        "{arguments:?}: {finished:?}"
    );
}

#[test]
fn the_command_line_names_what_it_refuses() {
    let scratch = Scratch::new("bad-options").unwrap();
    fs::write(scratch.file("letter.txt"), "no kernel\n".repeat(1000)).unwrap();
    fs::write(scratch.file("taken"), "a file\n").unwrap();
    let kernel = guest_file("vmlinuz").unwrap().display().to_string();
    let host = ["--serial", "null", "--console", "off"];
    let with = |more: &[&'static str]| [&["--kernel", &kernel], more, &host[..]].concat();
    let other = |kernel: &'static str| [&["--kernel", kernel][..], &host[..]].concat();

    refused(
        &scratch,
        &other("missing/vmlinuz"),
        1,
        &[
            "  0: Error booting VM\n  1: The VM could not boot\n",
            "  2: cannot read kernel missing/vmlinuz\n  3: No such file",
        ],
    );
    refused(
        &scratch,
        &other("letter.txt"),
        1,
        &["letter.txt", "neither a bzImage nor an ELF"],
    );
    refused(
        &scratch,
        &with(&["--memory", "size=0"]),
        1,
        &["memory.size"],
    );
    refused(
        &scratch,
        &with(&["--memory", "size=1000000G"]),
        1,
        &["memory.size"],
    );
    refused(
        &scratch,
        &with(&["--memory", "size=plenty"]),
        1,
        &["--memory", "plenty"],
    );
    refused(
        &scratch,
        &with(&["--memory", "size=64M,colour=red"]),
        1,
        &["--memory", "colour"],
    );
    refused(
        &scratch,
        &with(&["--cpus", "boot=2"]),
        1,
        &["boot_vcpus", "2"],
    );
    refused(
        &scratch,
        &with(&["--initramfs", "missing.cpio"]),
        1,
        &["missing.cpio"],
    );
    refused(
        &scratch,
        &with(&["--platform", "hypervisor=abacus"]),
        1,
        &["--platform", "abacus"],
    );
    refused(
        &scratch,
        &with(&["--record", "missing/x.log"]),
        1,
        &[
            "  0: Error booting VM\n  1: cannot open recording missing/x.log\n",
            "  2: No such file",
        ],
    );
    let nowhere = |flag: &'static str| with(&[flag, "missing/place"]);
    let named = ["missing/place", "No such file"];
    refused(&scratch, &nowhere("--event-monitor"), 1, &named);
    refused(&scratch, &nowhere("--log-file"), 1, &named);
    refused(&scratch, &with(&["--what-is-this"]), 2, &["--what-is-this"]);
    refused(
        &scratch,
        &["--api-socket", "path=taken"],
        1,
        &["taken", "not a socket"],
    );
    let text = fs::read_to_string(scratch.file("taken")).unwrap();
    assert_eq!(
        text, "a file\n",
        "the file in the socket's place was touched"
    );
}

#[test]
fn a_socket_in_use_stays_with_its_owner() {
    let scratch = Scratch::new("socket-in-use").unwrap();
    let process = VmProcess::start_empty(scratch.path(), "first").unwrap();
    let path = format!("path={}", process.api().display());
    refused(
        &scratch,
        &["--api-socket", &path],
        1,
        &["first.api", "in use"],
    );
    process.get("vmm.ping").unwrap();
}

/// Makes a call that must be refused with `status`; the error must have every one of `words`.
fn api_refuses(process: &VmProcess, call: &str, body: &Value, status: u16, words: &[&str]) {
    let error = process
        .put(call, body)
        .expect_err(&format!("{call} took {body}"));
    let said = error.to_string();
    assert_eq!(error.status(), Some(status), "{call} {body}: {said}");
    for word in words {
        assert!(
            said.contains(word),
            "{call} {body}: no {word:?} in {said:?}"
        );
    }
}

fn vm(kernel: &Path) -> Value {
    json!({
        "payload": {"kernel": kernel, "cmdline": "console=ttyS0 quiet"},
        "memory": {"size": 67_108_864},
        "serial": {"mode": "Null"},
        "console": {"mode": "Off"},
    })
}

/// `base` with one member replaced.
fn but(base: &Value, member: &str, value: Value) -> Value {
    let mut changed = base.clone();
    changed[member] = value;
    changed
}

#[test]
fn the_api_names_what_it_refuses_and_goes_on() {
    let scratch = Scratch::new("bad-calls").unwrap();
    let letter = scratch.file("letter.txt");
    fs::write(&letter, "no kernel\n".repeat(1000)).unwrap();
    let process = VmProcess::start_empty(scratch.path(), "vmm").unwrap();
    let good = vm(&guest_file("vmlinuz").unwrap());

    api_refuses(
        &process,
        "vm.create",
        &but(&good, "nonsense", json!(1)),
        400,
        &["nonsense"],
    );
    api_refuses(
        &process,
        "vm.create",
        &but(&good, "payload", json!({"kernel": 5})),
        400,
        &["payload.kernel: invalid type: integer `5`"],
    );
    api_refuses(&process, "vm.create", &json!([]), 400, &["JSON"]);
    api_refuses(
        &process,
        "vm.boot",
        &Value::Null,
        404,
        &["VM config is missing"],
    );
    api_refuses(&process, "vm.pause", &Value::Null, 500, &["not"]);
    let lost = json!({"receiver_url": "pigeon:7"});
    api_refuses(
        &process,
        "vm.ft-receive",
        &lost,
        400,
        &["receiver_url", "pigeon:7"],
    );

    // What only a boot can find out: the VM stays created, and can be deleted.
    for (bad, words) in [
        (
            vm(&scratch.file("missing/vmlinuz")),
            ["missing/vmlinuz", "No such file"],
        ),
        (vm(&letter), ["letter.txt", "neither a bzImage nor an ELF"]),
        (
            but(&good, "memory", json!({"size": 0})),
            ["memory.size", "memory"],
        ),
        (
            but(&good, "memory", json!({"size": 1_u64 << 50})),
            ["memory.size", "host"],
        ),
    ] {
        if let Err(error) = process.put("vm.create", &bad) {
            let said = error.to_string();
            assert!(
                words.iter().all(|word| said.contains(word)),
                "{bad}: {said}"
            );
            assert_eq!(error.status(), Some(400), "{bad}: {said}");
            continue;
        }
        api_refuses(&process, "vm.boot", &Value::Null, 400, &words);
        assert_eq!(process.get("vm.info").unwrap()["state"], "Created", "{bad}");
        process.put("vm.delete", &Value::Null).unwrap();
    }
    api_refuses(
        &process,
        "vm.ft-failover",
        &json!({"planned": true}),
        404,
        &["VM is not"],
    );
}

#[test]
fn a_running_vm_is_unharmed_by_bad_calls() {
    let scratch = Scratch::new("unharmed").unwrap();
    let jobs = "job=loop,idle loop_turns=100";
    let guest = VmProcess::start_guest(scratch.path(), "vmm", "128M", jobs).unwrap();
    let mut line = Line::connect_within(guest.serial(), LIMIT).unwrap();
    line.receive_until("MARK ready", Duration::from_secs(90))
        .unwrap();
    let before = guest.get("vm.counters").unwrap();
    let count = |counters: &Value, device: &str, name: &str| {
        let value = counters[device][name].as_u64();
        value.unwrap_or_else(|| panic!("no {device} {name} in {counters}"))
    };
    let sent = count(&before, "__serial", "tx_bytes");
    assert!(sent >= "MARK ready".len() as u64, "{before}");

    let good = vm(&guest_file("vmlinuz").unwrap());
    let fence = format!("file:{}", scratch.file("fence").display());

    api_refuses(&guest, "vm.create", &good, 500, &["already created"]);
    api_refuses(&guest, "vm.boot", &Value::Null, 500, &["already created"]);
    api_refuses(&guest, "vm.resume", &Value::Null, 500, &["Running"]);
    api_refuses(&guest, "vm.ft-stop", &Value::Null, 409, &["protect"]);
    api_refuses(
        &guest,
        "vm.ft-failover",
        &json!({"planned": true}),
        409,
        &["protect"],
    );
    api_refuses(
        &guest,
        "vm.ft-failover",
        &json!({"planned": "yes"}),
        400,
        &["planned: invalid type: string"],
    );
    let to = |url: &str, more: Value| {
        let mut body = json!({"destination_url": url, "fence": fence});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let nobody = "tcp:127.0.0.1:1";
    for (body, words) in [
        (json!({"destination_url": nobody}), ["fence", "missing"]),
        (to("pigeon:7", json!({})), ["destination_url", "pigeon:7"]),
        (to(nobody, json!({})), ["127.0.0.1:1", "refused"]),
        (
            to("unix:/missing/socket", json!({})),
            ["/missing/socket", "No such file"],
        ),
        (
            to(nobody, json!({"release": "whenever"})),
            ["whenever", "received"],
        ),
        (to(nobody, json!({"epoch_ms": 0})), ["epoch_ms", "0"]),
        (to(nobody, json!({"epoch_ms": -3})), ["epoch_ms: ", "`-3`"]),
        (to(nobody, json!({"timeout_ms": 1})), ["timeout_ms", "1"]),
        (
            to(nobody, json!({"fence": "carrier:x"})),
            ["fence", "carrier:x"],
        ),
        (
            to(nobody, json!({"mode": "mirror"})),
            ["mirror", "checkpoint"],
        ),
        (to(nobody, json!({"speed": "high"})), ["speed", "unknown"]),
    ] {
        api_refuses(&guest, "vm.ft-start", &body, 400, &words);
    }
    let status = guest.ft_status().unwrap();
    assert_eq!(
        (&status["role"], &status["live"]),
        (&json!("unprotected"), &json!(true))
    );
    assert_eq!(guest.get("vm.info").unwrap()["state"], "Running");
    line.receive_until("MARK begin idle", Duration::from_secs(60))
        .unwrap();
    // It has run on all the while.
    let after = guest.get("vm.counters").unwrap();
    assert!(count(&after, "__serial", "tx_bytes") > sent, "{after}");
    let instructions = |counters| count(counters, "__vcpu0", "instructions");
    assert!(instructions(&after) > instructions(&before), "{after}");
}
