//! Disks that change their size while the machine runs, and its protection afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use api_client::types::requests::VmResizeDisk;
use hypervisor::software::SoftwareHypervisor;
use serde_json::{Value, json};
use vmm::api::{Answer, ApiError, Request, Requests};
use vmm::control::{Control, Notice, Setting};

use crate::guest::{guest_folder, skip};

const KIB: u64 = 1024;

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("resize-{}-{next}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn image(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A monitor without its server.
struct Monitor {
    control: Arc<Control>,
    _notices: Receiver<Notice>,
}

impl Monitor {
    fn new(owner: &str) -> Self {
        let (sender, notices) = channel();
        let control = Control::new(Setting {
            backends: |_| Ok(Arc::new(SoftwareHypervisor)),
            events: Arc::new(|source, event, properties| {
                println!("{source} {event} {properties:?}");
            }),
            notices: sender,
            owner: format!("{owner}-{}", std::process::id()),
        });
        Self {
            control,
            _notices: notices,
        }
    }

    fn ask(&self, request: Request) -> Result<Answer, ApiError> {
        self.control.handle(request)
    }

    fn resize(&self, id: &str, desired_size: u64) -> Result<Answer, ApiError> {
        let id = id.to_owned();
        self.ask(Request::VmResizeDisk(VmResizeDisk { id, desired_size }))
    }

    fn refusal(&self, id: &str, size: u64) -> (u16, String) {
        let error = self.resize(id, size).unwrap_err();
        (error.status, error.chain.join(": "))
    }

    fn status(&self) -> Value {
        match self.ask(Request::FtStatus).unwrap() {
            Answer::Json(value) => value,
            Answer::Empty => panic!("a status has a body"),
        }
    }
}

/// A machine with two replicated disks, a shared one, and one that may not be written.
fn boot(scratch: &Scratch, folder: &Path) -> Monitor {
    let monitor = Monitor::new("primary");
    scratch.image("first", &vec![1; 64 << 10]);
    scratch.image("second", &vec![2; 64 << 10]);
    scratch.image("shared", &vec![3; 64 << 10]);
    scratch.image("fixed", &vec![4; 64 << 10]);
    let disk = |id: &str| json!({"id": id, "path": scratch.path(id), "image_type": "Raw"});
    let mut disks = ["first", "second", "shared", "fixed"].map(disk);
    disks[2]["ft"] = json!("shared");
    disks[3]["readonly"] = json!(true);
    let config = json!({
        "payload": {
            "kernel": folder.join("vmlinuz"),
            "initramfs": folder.join("serial.cpio"),
            "cmdline": "console=ttyS0 quiet panic=-1",
        },
        "memory": {"size": 128 << 20},
        "console": {"mode": "Off"},
        "disks": disks,
    });
    let config = serde_json::from_value(config).unwrap();
    monitor.ask(Request::VmCreate(Box::new(config))).unwrap();
    monitor.ask(Request::VmBoot).unwrap();
    monitor
}

/// Protects the machine by a new backup with images of its own.
fn protect(primary: &Monitor, scratch: &Scratch, name: &str) -> Monitor {
    let backup = Monitor::new(name);
    let url = format!("unix:{}", scratch.path(&format!("{name}.sock")).display());
    let own = |id: &str| json!({"id": id, "path": scratch.path(&format!("{name}-{id}"))});
    let disks = ["first", "second", "fixed"].map(own);
    let receive = json!({"receiver_url": url, "config_overrides": {"disks": disks}});
    let receive = serde_json::from_value(receive).unwrap();
    backup.ask(Request::FtReceive(receive)).unwrap();
    let start = json!({"destination_url": url, "fence": "none", "timeout_ms": 60_000});
    let start = serde_json::from_value(start).unwrap();
    primary.ask(Request::FtStart(start)).unwrap();
    backup
}

fn unprotect(primary: &Monitor) {
    primary.ask(Request::FtStop).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while primary.status()["state"] != "unprotected" {
        assert!(Instant::now() < deadline, "{}", primary.status());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn disks_change_their_size_and_their_machine_can_be_protected_afterwards() {
    let folder = match guest_folder() {
        Ok(folder) => folder,
        Err(reason) => return skip(&reason),
    };
    let scratch = Scratch::new();
    let primary = boot(&scratch, &folder);
    let size = |name: &str| std::fs::metadata(scratch.path(name)).unwrap().len();

    primary.resize("first", 96 * KIB + 512).unwrap();
    assert_eq!(size("first"), 96 * KIB + 512);
    primary.resize("shared", 16 * KIB).unwrap();
    assert_eq!(size("shared"), 16 * KIB);

    let backup = protect(&primary, &scratch, "one");
    assert_eq!(size("one-first"), 96 * KIB + 512);
    let (status, text) = primary.refusal("first", 128 * KIB);
    assert!(status == 409 && text.contains("ft-stop"), "{status} {text}");
    assert_eq!(size("first"), 96 * KIB + 512);
    let (status, text) = backup.refusal("first", 128 * KIB);
    assert!(status == 409 && text.contains("backup"), "{status} {text}");
    primary.resize("shared", 32 * KIB).unwrap();
    assert_eq!(size("shared"), 32 * KIB);
    unprotect(&primary);
    drop(backup);

    // Smaller than at first, and the disk behind it is where it was on the bus.
    primary.resize("first", 8 * KIB + 512).unwrap();
    let backup = protect(&primary, &scratch, "two");
    assert_eq!(std::fs::read(scratch.path("two-first")).unwrap(), [1; 8704]);
    assert_eq!(
        std::fs::read(scratch.path("two-second")).unwrap(),
        [2; 64 << 10]
    );
    let digest_problems = |status: &Value| status["divergences"].as_u64();
    assert_eq!(digest_problems(&primary.status()), Some(0));
    unprotect(&primary);
    drop(backup);
    primary.ask(Request::VmDelete).unwrap();
}

#[test]
fn sizes_that_a_disk_cannot_have_are_refused_by_the_reason() {
    let folder = match guest_folder() {
        Ok(folder) => folder,
        Err(reason) => return skip(&reason),
    };
    let scratch = Scratch::new();
    let idle = Monitor::new("idle");
    assert_eq!(idle.refusal("first", 512).0, 404);
    let primary = boot(&scratch, &folder);
    let table = [
        ("nobody", 64 * KIB, 404, "nobody"),
        ("first", 0, 400, "multiple of 512"),
        ("first", 1000, 400, "multiple of 512"),
        ("first", 1 << 62, 400, "replicated disk"),
        ("shared", 1 << 62, 400, "cannot be resized"),
        ("fixed", 64 * KIB, 400, "read-only"),
    ];
    for (id, size, status, text) in table {
        let (found, chain) = primary.refusal(id, size);
        assert!(
            found == status && chain.contains(text),
            "{id} {size}: {found} {chain}"
        );
    }
    primary.ask(Request::VmPause).unwrap();
    primary.resize("first", 4 * KIB).unwrap();
    // The guest cannot know yet.
    assert_eq!(primary.refusal("first", 8 * KIB).0, 409);
    primary.ask(Request::VmResume).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = primary.resize("first", 8 * KIB) {
        assert!(error.status == 409 && Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        std::fs::metadata(scratch.path("first")).unwrap().len(),
        8 * KIB
    );
    primary.ask(Request::VmDelete).unwrap();
}
