//! A guest that writes to its disk all the time migrates: nothing of what was in flight is lost,
//! one process at a time has the image, and a destination that cannot open it gets nothing.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::command::Scratch;
use tests::migration::{Receiver, free_url, send, wait_for, wait_for_end};
use tests::process::VmProcess;
use tests::shell::{self, Shell};

const LIMIT: Duration = Duration::from_secs(40);
/// How long a command of the guest may take.
const PATIENCE: Duration = Duration::from_secs(120);
const DISK_BYTES: u64 = 32 << 20;
/// Writes stretches of the disk, each with its number and durably, until the file `stop` is there.
const WRITER: &str = "dd if=/dev/urandom of=/noise bs=64k count=2 2>/dev/null; \
    (i=0; while [ ! -e /stop ]; do i=$((i+1)); (echo line-$i; cat /noise) | \
    dd of=/dev/vda bs=4k seek=$((i%240*32)) conv=notrunc,fsync 2>/dev/null; \
    echo $i > /count; done; touch /stopped) & true";

struct Guest {
    vm: VmProcess,
    serial: PathBuf,
    shell: Shell,
    scratch: Scratch,
    count: u32,
}

fn arguments(disk: &Path, mode: &str, serial: &Path) -> Option<Vec<String>> {
    let disk = format!("path={},image_type=raw,ft={mode}", disk.display());
    shell::arguments("auto", &disk, serial)
}

impl Guest {
    fn boot(mode: &str) -> Option<Self> {
        let scratch = Scratch::new("migrates-disk").unwrap();
        let disk = scratch.file("disk.raw");
        let file = std::fs::File::create_new(&disk).unwrap();
        file.set_len(DISK_BYTES).unwrap();
        let serial = scratch.file("guest.serial");
        let arguments = arguments(&disk, mode, &serial)?;
        let vm = VmProcess::start(scratch.path(), "vmm-0", &arguments).unwrap();
        let shell = Shell::boots(&serial).unwrap();
        Some(Self {
            vm,
            serial,
            shell,
            scratch,
            count: 0,
        })
    }

    fn disk(&self) -> PathBuf {
        self.scratch.file("disk.raw")
    }

    /// Runs a command in the guest, which succeeds: its last line.
    fn run(&mut self, command: &str) -> String {
        self.shell.succeeds(command).unwrap()
    }

    fn written(&mut self) -> u64 {
        self.run("cat /count || echo 0").parse().unwrap()
    }

    fn writes_on(&mut self) {
        let before = self.written();
        let begun = Instant::now();
        while self.written() < before + 10 {
            assert!(begun.elapsed() < PATIENCE, "the writer stands at {before}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn destination(&mut self) -> VmProcess {
        self.count += 1;
        let name = format!("vmm-{}", self.count);
        VmProcess::start_empty(self.scratch.path(), &name).unwrap()
    }

    fn migrate(&mut self) {
        let destination = self.destination();
        let receiver = Receiver::start(&destination, free_url().unwrap());
        send(&self.vm, receiver.url(), &json!({})).unwrap();
        receiver.finish().unwrap();
        wait_for_end(&mut self.vm).unwrap();
        self.vm = destination;
        self.reconnect();
    }

    fn reconnect(&mut self) {
        self.shell = Shell::connect(&self.serial).unwrap();
        self.run("true");
    }

    /// Saves the guest, and restores it where its disk is as it was and nowhere else.
    fn goes_through_a_snapshot(&mut self, digest: &str) {
        let folder = self.scratch.file("saved");
        std::fs::create_dir(&folder).unwrap();
        let url = format!("file://{}", folder.display());
        self.vm.put("vm.pause", &Value::Null).unwrap();
        let take = json!({"destination_url": url});
        self.vm.put("vm.snapshot", &take).unwrap();
        let restore = json!({"source_url": url, "resume": true});
        let other = self.destination();
        // One process at a time.
        let error = other.put("vm.restore", &restore).unwrap_err();
        assert!(error.to_string().contains("is in use"), "{error}");
        self.vm.kill().unwrap();
        let image = std::fs::File::options().write(true).open(self.disk());
        let image = image.unwrap();
        image.set_len(DISK_BYTES + 512).unwrap();
        let error = other.put("vm.restore", &restore).unwrap_err();
        let text = format!("disk _disk0: the image has {} bytes here", DISK_BYTES + 512);
        assert!(error.to_string().contains(&text), "{error}");
        assert_eq!(error.status(), Some(400));
        image.set_len(DISK_BYTES).unwrap();
        drop(image);
        other.put("vm.restore", &restore).unwrap();
        self.vm = other;
        self.reconnect();
        let read = self.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vda");
        assert_eq!(read.split(' ').next(), Some(digest));
    }

    /// Nobody else can have the image.
    fn is_locked(&self) {
        let serial = self.scratch.file("other.serial");
        let arguments = arguments(&self.disk(), "shared", &serial).unwrap();
        let run = tests::command::run(&self.scratch, &arguments, LIMIT).unwrap();
        assert_eq!(run.code, Some(1));
        assert!(run.errors.contains("is in use"), "{}", run.errors);
    }
}

fn digest_of(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_guest_that_writes_goes_to_whoever_can_open_its_disk_and_loses_no_write() {
    for mode in ["replicate", "shared"] {
        let Some(mut guest) = Guest::boot(mode) else {
            return;
        };
        guest.run(WRITER);
        std::thread::sleep(Duration::from_secs(1));
        guest.migrate();
        guest.is_locked();
        guest.writes_on();

        // The image is not to be found when the destination looks for it.
        let hidden = guest.scratch.file("hidden.raw");
        std::fs::rename(guest.disk(), &hidden).unwrap();
        let destination = guest.destination();
        let receiver = Receiver::start(&destination, free_url().unwrap());
        send(&guest.vm, receiver.url(), &json!({})).unwrap();
        let error = receiver.finish().unwrap_err().to_string();
        assert!(error.contains("cannot open image"), "{error}");
        std::fs::rename(&hidden, guest.disk()).unwrap();
        let info = wait_for(&guest.vm, &["Failed"]).unwrap();
        assert_eq!(info["state"], "Running", "{info}");
        let reason = info["migration"]["reason"].as_str().unwrap();
        assert!(reason.contains("cannot open image"), "{reason}");
        guest.reconnect();
        guest.is_locked();
        guest.writes_on();

        guest.migrate();
        guest.run("touch /stop; while [ ! -e /stopped ]; do sleep 0.1; done; sync");
        let cached = guest.run("sha256sum < /dev/vda");
        let read = guest.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vda");
        let outside = digest_of(&guest.disk());
        assert_eq!(cached, read, "{mode}");
        assert_eq!(read.split(' ').next(), Some(outside.as_str()), "{mode}");
        println!("{mode}: {} stretches written", guest.written());
        guest.goes_through_a_snapshot(&outside);
    }
}
