//! Disks and network cards that cannot be had: each refusal names the thing, and a VM that runs
//! is none the worse for it.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::{Scratch, run};
use tests::guest_file;
use tests::network::{Network, ip, tap};
use tests::process::{VmProcess, guest_arguments};
use tests::scenario::mode;
use tests::service::{Ledger, Line};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// A guest with a disk and a network card of which it makes no use, and a client at its service.
struct Guest {
    process: VmProcess,
    line: Line,
    ledger: Ledger,
}

impl Guest {
    fn boot(scratch: &Scratch) -> Self {
        blank(&scratch.file("own.raw"), MIB);
        let mut arguments = guest_arguments("128M", "job=service").unwrap();
        let more = [
            (
                "--serial",
                format!("socket={}", scratch.file("vmm.serial").display()),
            ),
            (
                "--disk",
                format!("path={},id=own", scratch.file("own.raw").display()),
            ),
            ("--net", format!("tap={}", tap(0))),
        ];
        arguments.extend(
            more.into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value]),
        );
        let process = VmProcess::start(scratch.path(), "vmm", &arguments).unwrap();
        let mut line = Line::connect_within(process.serial(), LIMIT).unwrap();
        line.receive_until("MARK begin service", Duration::from_secs(90))
            .unwrap();
        Self {
            process,
            line,
            ledger: Ledger::default(),
        }
    }

    /// It answers, is unprotected and runs.
    fn assert_unharmed(&mut self) {
        for _ in 0..3 {
            assert!(
                self.ledger.request(&mut self.line).unwrap(),
                "the line is closed"
            );
        }
        let status = self.process.ft_status().unwrap();
        assert_eq!(status["role"], "unprotected", "{status}");
        assert_eq!(status["live"], true, "{status}");
        assert_eq!(self.process.get("vm.info").unwrap()["state"], "Running");
    }
}

fn blank(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// The head of a qcow2 image of 1 MiB in version 3, whose first table is at `table`.
fn qcow2_head(table: u64) -> Vec<u8> {
    let mut head = b"QFI\xfb".to_vec();
    head.extend(3_u32.to_be_bytes());
    // No backing file; clusters of 64 KiB; the size; no encryption.
    head.extend([0; 12]);
    head.extend(16_u32.to_be_bytes());
    head.extend(MIB.to_be_bytes());
    head.extend(0_u32.to_be_bytes());
    // One entry in the first table; the table of reference counts in the second cluster.
    head.extend(1_u32.to_be_bytes());
    head.extend(table.to_be_bytes());
    head.extend((64_u64 << 10).to_be_bytes());
    head.extend(1_u32.to_be_bytes());
    // No snapshots, no features, reference counts of 16 bits, 104 bytes of head.
    head.extend([0; 12 + 24]);
    head.extend(4_u32.to_be_bytes());
    head.extend(104_u32.to_be_bytes());
    head
}

/// A thing that cannot be had: the disks and network cards asked for, and words of the refusal.
struct Bad {
    disks: Vec<Value>,
    net: Vec<Value>,
    status: u16,
    words: Vec<String>,
}

impl Bad {
    fn disks(disks: &[Value], status: u16, words: &[&str]) -> Self {
        Self {
            disks: disks.to_vec(),
            net: Vec::new(),
            status,
            words: words.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    fn net(net: &[Value], status: u16, words: &[&str]) -> Self {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self {
            disks: Vec::new(),
            net: net.to_vec(),
            status,
            words,
        }
    }

    fn config(&self) -> Value {
        json!({
            "payload": {
                "kernel": guest_file("vmlinuz").unwrap(),
                "cmdline": "console=ttyS0 quiet",
            },
            "memory": {"size": 64 * MIB},
            "serial": {"mode": "Null"},
            "console": {"mode": "Off"},
            "disks": self.disks,
            "net": self.net,
        })
    }

    /// The same on a command line.
    fn arguments(&self) -> Vec<String> {
        let kernel = guest_file("vmlinuz").unwrap().display().to_string();
        let host = [
            "--memory",
            "size=64M",
            "--serial",
            "null",
            "--console",
            "off",
        ];
        let mut arguments = vec!["--kernel".to_owned(), kernel];
        arguments.extend(host.map(str::to_owned));
        for (option, devices) in [("--disk", &self.disks), ("--net", &self.net)] {
            if !devices.is_empty() {
                arguments.push(option.to_owned());
                arguments.extend(devices.iter().map(option_text));
            }
        }
        arguments
    }

    fn assert_named(&self, said: &str) {
        for word in &self.words {
            assert!(said.contains(word), "no {word:?} in {said:?}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// `{"path": "x", "id": "y"}` as `path=x,id=y`.
fn option_text(device: &Value) -> String {
    let members = device.as_object().unwrap().iter();
    let pairs = members.map(
        |(name, value)| match (name.as_str(), value.as_str().unwrap()) {
            // The only value that the command line spells in another way.
            ("image_type", value) => format!("image_type={}", value.to_lowercase()),
            (_, value) => format!("{name}={value}"),
        },
    );
    pairs.collect::<Vec<_>>().join(",")
}

fn bad_things(scratch: &Scratch) -> Vec<Bad> {
    let path = |name: &str| scratch.file(name);
    let disk = |name: &str| json!({"path": path(name)});
    blank(&path("good.raw"), MIB);
    blank(&path("empty.raw"), 0);
    blank(&path("odd.raw"), MIB + 7);
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("cut.qcow2"), &qcow2_head(128 << 10)[..40]).unwrap();
    let mut far = qcow2_head(1 << 40);
    far.resize(256 << 10, 0);
    fs::write(path("far.qcow2"), far).unwrap();
    fs::write(path("noise.raw"), "no image\n".repeat(1000)).unwrap();
    let qcow2 = |name: &str| json!({"path": path(name), "image_type": "Qcow2"});
    let busy = tap(0);
    vec![
        Bad::disks(
            &[disk("missing.raw")],
            400,
            &["missing.raw", "No such file"],
        ),
        Bad::disks(&[disk("folder")], 400, &["folder"]),
        Bad::disks(&[disk("empty.raw")], 400, &["empty.raw", "empty"]),
        Bad::disks(&[disk("odd.raw")], 400, &["odd.raw", "multiple of"]),
        Bad::disks(&[disk("own.raw")], 400, &["own.raw", "in use"]),
        Bad::disks(
            &[disk("good.raw"), disk("good.raw")],
            400,
            &["good.raw", "in use"],
        ),
        Bad::disks(
            &[
                json!({"path": path("good.raw"), "id": "twin"}),
                json!({"path": path("noise.raw"), "id": "twin"}),
            ],
            409,
            &["twin", "not unique"],
        ),
        Bad::disks(&[qcow2("cut.qcow2")], 400, &["cut.qcow2", "qcow2"]),
        Bad::disks(&[disk("cut.qcow2")], 400, &["cut.qcow2"]),
        Bad::disks(&[qcow2("far.qcow2")], 400, &["far.qcow2", "qcow2"]),
        Bad::disks(&[qcow2("good.raw")], 400, &["good.raw", "qcow2"]),
        Bad::net(&[json!({"tap": busy})], 400, &[&busy, "in use"]),
        Bad::net(
            &[json!({"tap": "a-name-that-is-too-long"})],
            400,
            &["a-name-that-is-too-long", "15"],
        ),
        Bad::net(&[json!({"tap": "lo"})], 400, &["lo", "not a tap"]),
        Bad::net(
            &[
                json!({"tap": "new0", "id": "twin"}),
                json!({"tap": "new1", "id": "twin"}),
            ],
            409,
            &["twin", "not unique"],
        ),
        Bad::net(
            &[json!({"tap": "new0", "mac": "52:54:00:00:00"})],
            400,
            &["mac", "52:54:00:00:00"],
        ),
        Bad::net(
            &[json!({"tap": "new0", "ip": "10.0.0.1", "mask": "255.0.255.0"})],
            400,
            &["mask", "255.0.255.0"],
        ),
    ]
}

#[test]
fn devices_that_cannot_be_had_are_refused_by_name_and_a_running_vm_goes_on() {
    let Some(_network) = Network::enter().unwrap() else {
        return;
    };
    let scratch = Scratch::new("bad-devices").unwrap();
    let mut guest = Guest::boot(&scratch);
    let other = VmProcess::start_empty(scratch.path(), "other").unwrap();
    let mut problems = Vec::new();
    for bad in bad_things(&scratch) {
        let what = format!("{:?} {:?}", bad.disks, bad.net);
        // By the API: refused at once or at boot, and nothing is left behind.
        let refusal = other
            .put("vm.create", &bad.config())
            .and_then(|()| other.put("vm.boot", &Value::Null))
            .err();
        match refusal {
            None => problems.push(format!("{what}: the API takes it")),
            Some(error) => {
                bad.assert_named(&error.to_string());
                if error.status() != Some(bad.status) {
                    problems.push(format!("{what}: {:?}, {error}", error.status()));
                }
            }
        }
        other.put("vm.delete", &Value::Null).unwrap();
        // By the command line.
        let finished = run(&scratch, &bad.arguments(), LIMIT).unwrap();
        if finished.code != Some(1) {
            problems.push(format!("{what}: exit code {:?}", finished.code));
        }
        bad.assert_named(&finished.errors);
        guest.assert_unharmed();
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // What was refused left no tap behind, and no image locked.
    assert!(ip("link show new0").is_err(), "a tap was left behind");
    let good = Bad::disks(&[json!({"path": scratch.file("good.raw")})], 0, &[]);
    other.put("vm.create", &good.config()).unwrap();
    other.put("vm.boot", &Value::Null).unwrap();
}

/// Makes `backup` a receiver whose disk is at `path`; protects the guest with it.
fn protect(guest: &Guest, backup: &VmProcess, path: &Path, id: &str) -> Result<(), HarnessError> {
    let body = json!({
        "receiver_url": "tcp:127.0.0.1:0",
        "config_overrides": {
            "serial": {"mode": "Socket", "socket": backup.serial()},
            "disks": [{"id": id, "path": path}],
            "net": [{"id": "_net1", "tap": tap(1)}],
        },
    });
    backup.put("vm.ft-receive", &body)?;
    let url = backup.ft_status()?["receiver_url"].clone();
    let fence = format!("file:{}", backup.serial().with_extension("fence").display());
    let start = json!({
        "destination_url": url, "mode": mode(), "fence": fence, "timeout_ms": 2000,
    });
    guest.process.put("vm.ft-start", &start)
}

#[test]
fn a_backup_whose_image_does_not_fit_is_refused_by_name_and_the_vm_goes_on() {
    let Some(_network) = Network::enter().unwrap() else {
        return;
    };
    let scratch = Scratch::new("bad-backups").unwrap();
    let mut guest = Guest::boot(&scratch);
    blank(&scratch.file("small.raw"), MIB / 2);
    blank(&scratch.file("large.raw"), 2 * MIB);
    fs::create_dir(scratch.file("folder")).unwrap();
    fs::write(scratch.file("cut.qcow2"), &qcow2_head(128 << 10)[..40]).unwrap();
    let cases = [
        ("small.raw", "own", ["own", "524288", "1048576"]),
        ("large.raw", "own", ["own", "2097152", "1048576"]),
        (
            "missing/folder.raw",
            "own",
            ["missing/folder.raw", "No such file", "own"],
        ),
        ("folder", "own", ["folder", "own", "image"]),
        ("cut.qcow2", "own", ["cut.qcow2", "qcow2", "own"]),
        ("own.raw", "own", ["own.raw", "in use", "own"]),
        (
            "fresh.raw",
            "another",
            ["config_overrides.disks", "another", "no such device"],
        ),
    ];
    let mut problems = Vec::new();
    for (number, (name, id, words)) in cases.into_iter().enumerate() {
        let name_of_process = format!("backup-{number}");
        let backup = VmProcess::start_empty(scratch.path(), &name_of_process).unwrap();
        match protect(&guest, &backup, &scratch.file(name), id) {
            Ok(()) => problems.push(format!("{name} {id}: taken")),
            Err(error) => {
                let said = error.to_string();
                for word in words {
                    if !said.contains(word) {
                        problems.push(format!("{name} {id}: no {word:?} in {said:?}"));
                    }
                }
            }
        }
        guest.assert_unharmed();
        backup.get("vmm.ping").unwrap();
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // A device that cannot be had when the backup goes live is told then, and the guest goes on.
    let backup = VmProcess::start_empty(scratch.path(), "backup-good").unwrap();
    protect(&guest, &backup, &scratch.file("fresh.raw"), "own").unwrap();
    assert!(guest.ledger.request(&mut guest.line).unwrap());
    assert_eq!(guest.process.ft_status().unwrap()["role"], "primary");
    assert_eq!(fs::metadata(scratch.file("fresh.raw")).unwrap().len(), MIB);
}
