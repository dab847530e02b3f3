//! A guest on KVM with a disk, protected by checkpoints, whose primary is killed again and again:
//! nothing that its client was answered is lost, its memory is what its own check says, and its
//! file system is clean in the end.
//!
//! Like those of `kvm.rs`, this runs where KVM can run a stock kernel. `CHFT_KVM_ROUNDS` sets how
//! often the primary is killed.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::backend::scratch_with_kvm;
use tests::command::Scratch;
use tests::guest_file;
use tests::process::VmProcess;
use tests::random::Random;
use tests::scenario::{Client, Pair, Protection};
use tests::servers::{disk, image_of_side, power_off, side_of};
use tests::service::Line;

/// The bench's machine is emulated, and its host may be busy.
const LIMIT: Duration = Duration::from_secs(120);
/// Kills of the primary, unless `CHFT_KVM_ROUNDS` says otherwise.
const ROUNDS: u32 = 5;
const DISK_BYTES: u64 = 16 << 20;
/// How the guest is protected. In the bench both sides, the client and the test share one emulated
/// processor: a delta of some tens of pages stops the guest for 13 ms there and is acknowledged
/// after 30, which are neither to be most of an epoch nor to outlast a lease.
const TIMEOUT_MS: u64 = 20_000;
const LEASE_MS: u64 = 500;
const EPOCH_MS: u64 = 100;

/// What the guest is told on its shell first.
const MOUNT: &str = "mount -t ext4 /dev/vda /root && mkdir /root/files && echo MARK mou''nted";
/// And then: to write files durably all the time, to write memory and check it, which ends only if
/// it is wrong, to end in order when the power button is pressed, and to be the line service.
const WORK: &str = "(i=0; while [ ! -e /stop ]; do i=$((i+1)); \
    dd if=/dev/urandom of=/root/files/$((i%20)) bs=4k count=4 conv=fsync; \
    usleep 100000; done; \
    umount /root; poweroff -f) 2> /dev/null & \
    (dd if=/dev/input/event0 bs=24 count=1 of=/pressed; touch /stop) 2> /dev/null & \
    (guest memory 4 0 > /dev/null; poweroff -f) & \
    stty -F /dev/ttyS0 raw -echo clocal; echo MARK be''gin service; \
    exec guest service < /dev/ttyS0 > /dev/ttyS0";

fn rounds() -> u32 {
    let wanted = std::env::var("CHFT_KVM_ROUNDS").ok();
    wanted.map_or(ROUNDS, |text| text.parse().unwrap())
}

/// Makes an image with an empty ext4 file system.
fn make_disk(image: &Path) {
    let file = std::fs::File::create_new(image).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    let mut make = Command::new("mke2fs");
    let made = make.args(["-q", "-t", "ext4"]).arg(image).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

fn boot(scratch: &Scratch) -> VmProcess {
    let image = image_of_side(scratch.path(), 0);
    make_disk(&image);
    let path = |name| guest_file(name).unwrap().display().to_string();
    let serial = scratch.file("vmm-0.serial").display().to_string();
    let words = [
        ("--kernel", path("vmlinuz")),
        ("--initramfs", path("disk.cpio")),
        (
            "--cmdline",
            "console=ttyS0 quiet panic=-1 root=none job=shell".to_owned(),
        ),
        ("--memory", "size=96M".to_owned()),
        ("--console", "off".to_owned()),
        ("--platform", "hypervisor=kvm".to_owned()),
        ("--serial", format!("socket={serial}")),
        ("--disk", format!("path={},image_type=raw", image.display())),
    ];
    let words = words.into_iter();
    let arguments: Vec<String> = words
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect();
    VmProcess::start(scratch.path(), "vmm-0", &arguments).unwrap()
}

/// How many files the guest has left on its disk.
fn count_files(image: &Path) -> usize {
    let mut list = Command::new("debugfs");
    let list = list
        .args(["-R", "ls -p /files"])
        .arg(image)
        .output()
        .unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    // A regular file is /INODE/100644/OWNER/GROUP/NAME/SIZE/.
    text.lines().filter(|line| line.contains("/100")).count()
}

/// The guest at work, and its client.
struct Scene {
    pair: Pair,
    client: Client,
    begun: Instant,
}

impl Scene {
    fn begin(scratch: &Scratch) -> Self {
        let begun = Instant::now();
        let primary = boot(scratch);
        let mut line = Line::connect_within(primary.serial(), LIMIT).unwrap();
        line.receive_until("MARK begin shell", LIMIT).unwrap();
        line.send(MOUNT).unwrap();
        line.receive_until("MARK mounted", LIMIT).unwrap();
        line.send(WORK).unwrap();
        line.receive_until("MARK begin service", LIMIT).unwrap();
        let client = Client::start(line, primary.serial().to_owned()).unwrap();
        let folder = scratch.path().to_owned();
        let overrides = move |backup: &VmProcess| {
            let image = image_of_side(&folder, side_of(backup));
            Ok(json!({
                "serial": {"mode": "Socket", "socket": backup.serial()},
                "disks": [{"id": "_disk0", "path": image}],
            }))
        };
        let pair = Pair::of(scratch.path().to_owned(), primary, Box::new(overrides));
        let scene = Self {
            pair,
            client,
            begun,
        };
        scene.say("boot");
        scene
    }

    fn say(&self, what: &str) {
        let taken_s = self.begun.elapsed().as_secs_f64();
        let acknowledged = self.client.ledger().acknowledged;
        eprintln!("{taken_s:6.1} s, {acknowledged} replies: {what}");
    }

    /// What both sides say of themselves.
    fn status(&self) -> String {
        let tell = |side: Option<&VmProcess>| match side.map(VmProcess::ft_status) {
            Some(Ok(status)) => format!("{status:#}"),
            Some(Err(error)) => error.to_string(),
            None => "there is none".to_owned(),
        };
        let (primary, backup) = (Some(&self.pair.primary), self.pair.backup.as_ref());
        format!("primary: {}\nbackup: {}", tell(primary), tell(backup))
    }

    fn more_replies(&mut self, count: u64) {
        if let Err(error) = self.client.more(count, LIMIT) {
            let end = self.client.has_ended().then(|| self.client.finish());
            panic!("{error}: {end:?}\n{}", self.status());
        }
    }

    /// Protects the guest, lets it work, and kills its primary at some moment.
    fn round(&mut self, round: u32, random: &mut Random) {
        let protection = Protection {
            // `auto` has to see that KVM cannot be replayed.
            start: json!({
                "mode": "auto",
                "timeout_ms": TIMEOUT_MS,
                "lease_ms": LEASE_MS,
                "epoch_ms": EPOCH_MS,
            }),
            ..Protection::default()
        };
        let protected = self.pair.protect(&protection);
        assert!(protected.is_ok(), "{protected:?}\n{}", self.status());
        self.more_replies(2);
        let status = self.pair.primary.ft_status().unwrap();
        assert_eq!(status["mode"], "checkpoint", "{status}");
        assert_eq!(status["hypervisor"], "kvm", "{status}");
        std::thread::sleep(Duration::from_micros(random.number() % 300_000));
        let status = self.pair.primary.ft_status().unwrap();
        let (clone, deltas) = (&status["last_clone"], &status["checkpoint"]);
        self.say(&format!("round {round}: clone {clone}, {deltas}"));
        let backup = self.pair.backup.as_ref().unwrap();
        self.client.follow(backup.serial().to_owned());
        let killed = self.pair.kill_primary();
        assert!(killed.is_ok(), "{killed:?}\n{}", self.status());
        self.more_replies(2);
        let status = self.pair.primary.ft_status().unwrap();
        assert_eq!(status["divergences"], 0, "round {round}: {status}");
        self.say(&format!("round {round}: {}", status["last_failover"]));
    }
}

#[test]
fn a_guest_on_kvm_and_its_disk_survive_kills_of_its_primary() {
    let Some(scratch) = scratch_with_kvm("kvm-checkpoint").unwrap() else {
        return;
    };
    let mut scene = Scene::begin(&scratch);
    let mut random = Random::new(u64::from(std::process::id()));
    for round in 0..rounds() {
        scene.round(round, &mut random);
    }
    let ledger = scene.client.finish().unwrap();
    assert_eq!(ledger.lost, 0);
    let side = side_of(&scene.pair.primary);
    power_off(&mut scene.pair.primary).unwrap();
    let image = image_of_side(scratch.path(), side);
    disk::check_file_system(&image).unwrap();
    assert!(count_files(&image) > 1, "the guest has written no files");
}
