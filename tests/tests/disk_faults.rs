//! Disks whose host fails: full file systems, limits of file sizes, files that are cut off. And a
//! disk that changes its size under a guest with a driver.
//!
//! Each guest is busybox with the drivers for virtio; its disk has no file system, so that what is
//! read and written is what the test says.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::process::{VmProcess, wait_until};
use tests::scenario::mode;
use tests::shell::{self, Shell};

const LIMIT: Duration = Duration::from_secs(40);
/// Set in a process that may mount what it likes.
const OWN_MOUNTS: &str = "CHFT_OWN_MOUNTS";
const MIB: u64 = 1 << 20;
/// Size of all disks.
const DISK: u64 = 32 * MIB;
/// What a guest writes; more than fits where there is not room for all.
const WRITE_MIB: u64 = 12;
const PAGE: u64 = 4096;
/// What there is room for.
const ROOM_MIB: u64 = 4;

/// Runs a test again in a mount namespace of its own. False: that was done, or cannot be.
fn has_own_mounts(test: &str) -> bool {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    if !unshare()
        .arg("true")
        .output()
        .is_ok_and(|made| made.status.success())
    {
        tests::skip("mounting a small file system needs root");
        return false;
    }
    let itself = std::env::current_exe().unwrap();
    let run = unshare()
        .arg(itself)
        .args([test, "--exact", "--nocapture"])
        .env(OWN_MOUNTS, "1")
        .status();
    assert!(run.unwrap().success(), "{test} in its own mount namespace");
    false
}

/// A small file system, until it is dropped.
struct SmallFiles(PathBuf);

impl SmallFiles {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={ROOM_MIB}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success(), "mount {}", path.display());
        Self(path)
    }

    fn grow(&self) {
        let options = format!("remount,size={}m", DISK / MIB + 1);
        let grown = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallFiles {
    fn drop(&mut self) {
        // The namespace ends with this process anyway.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Limits the size of the files that a process writes, or lifts that.
fn limit_files(process: &VmProcess, limit: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.pid().to_string()])
        .arg(format!("--fsize={limit}:"))
        .status();
    assert!(status.unwrap().success(), "prlimit");
}

/// A file of zeroes that takes no room.
fn image(path: &Path) -> PathBuf {
    std::fs::File::create_new(path)
        .unwrap()
        .set_len(DISK)
        .unwrap();
    path.to_owned()
}

/// A guest with a shell, and one disk.
struct Guest {
    process: VmProcess,
    shell: Shell,
}

impl Guest {
    fn boot(scratch: &Scratch, disk: &Path) -> Option<Self> {
        let serial = scratch.file("primary.serial");
        let disk = format!("path={},image_type=raw", disk.display());
        let arguments = shell::arguments("software", &disk, &serial)?;
        let process = VmProcess::start(scratch.path(), "primary", &arguments).unwrap();
        let shell = Shell::boots(&serial).unwrap();
        Some(Self { process, shell })
    }

    fn succeeds(&mut self, command: &str) -> String {
        self.shell.succeeds(command).unwrap()
    }

    /// Fills the front of the disk with a letter.
    fn fill(&mut self, letter: char) -> (String, String) {
        let source = format!(
            "tr '\\0' {letter} < /dev/zero | head -c {}",
            WRITE_MIB * MIB
        );
        let fill = format!("{source} | dd of=/dev/vda bs=64k conv=fsync");
        self.shell.run(&fill).unwrap()
    }

    /// What the whole disk holds, from the disk itself.
    fn disk_digest(&mut self) -> String {
        self.succeeds("echo 3 > /proc/sys/vm/drop_caches");
        let digest = self.succeeds("sha256sum /dev/vda");
        digest.split(' ').next().unwrap().to_owned()
    }

    /// The digest of a disk that was filled with a letter.
    fn expected_digest(&mut self, letter: char) -> String {
        let letters = format!(
            "tr '\\0' {letter} < /dev/zero | head -c {}",
            WRITE_MIB * MIB
        );
        let zeroes = format!("head -c {} /dev/zero", DISK - WRITE_MIB * MIB);
        let digest = self.succeeds(&format!("({letters}; {zeroes}) | sha256sum"));
        digest.split(' ').next().unwrap().to_owned()
    }

    /// Protects the guest by a new process, which has the disk in `disk`.
    fn try_protect(
        &self,
        scratch: &Scratch,
        name: &str,
        disk: &Path,
    ) -> Result<VmProcess, HarnessError> {
        let backup = VmProcess::start_empty(scratch.path(), name).unwrap();
        let url = format!("unix:{}", scratch.file(&format!("{name}.link")).display());
        let receive = json!({
            "receiver_url": url,
            "config_overrides": {
                "serial": {"mode": "Socket", "socket": backup.serial()},
                "disks": [{"id": "_disk0", "path": disk}],
            },
        });
        backup.put("vm.ft-receive", &receive).unwrap();
        let fence = format!("file:{}", scratch.file("fence").display());
        // A machine that is slow for once must not end the protection by itself.
        let start = json!({
            "destination_url": url, "mode": mode(), "fence": fence, "timeout_ms": 3000,
        });
        self.process.put("vm.ft-start", &start)?;
        Ok(backup)
    }

    fn protect(&self, scratch: &Scratch, name: &str, disk: &Path) -> VmProcess {
        self.try_protect(scratch, name, disk).unwrap()
    }

    /// Kills the process; the guest goes on in `backup`.
    fn move_to(&mut self, backup: VmProcess) {
        self.process.kill().unwrap();
        self.shell = Shell::connect(backup.serial()).unwrap();
        self.process = backup;
    }

    fn status(&self) -> Value {
        self.process.ft_status().unwrap()
    }

    /// Waits for a state; gives the status.
    fn wait_for(&self, state: &str) -> Value {
        let state = json!(state);
        self.process.wait_for("state", &state, LIMIT).unwrap()
    }

    /// Waits until the backup has verified some more, and nothing is left to be repaired.
    fn wait_until_verified(&self) {
        let verified = |status: &Value| status["positions"]["epochs_verified"].as_u64().unwrap();
        let from = verified(&self.wait_for("protected"));
        let waited = wait_until("further epochs", LIMIT, || {
            let status = self.status();
            assert_ne!(status["state"], "unprotected", "{status}");
            let settled = status["divergences"] == status["repairs"];
            Ok(settled && status["state"] == "protected" && verified(&status) >= from + 3)
        });
        assert!(waited.is_ok(), "{waited:?}: {}", self.status());
    }
}

fn failed((status, last): &(String, String)) {
    assert_ne!(status, "0", "the guest was told that all is well");
    let said = last.contains("I/O error") || last.contains("Input/output error");
    assert!(said || last.contains("records out"), "{last}");
}

/// The primary cannot write all; `relieve` ends that.
fn primary_fails(
    scratch: &Scratch,
    mut guest: Guest,
    fail: impl FnOnce(&Guest),
    relieve: impl FnOnce(&Guest),
) {
    let backup = guest.protect(scratch, "backup", &scratch.file("backup.raw"));
    fail(&guest);
    failed(&guest.fill('a'));
    assert_eq!(guest.succeeds("echo alive"), "alive");
    guest.wait_until_verified();
    relieve(&guest);
    let (status, last) = guest.fill('b');
    assert_eq!(status, "0", "{last}");
    let expected = guest.expected_digest('b');
    assert_eq!(guest.disk_digest(), expected);
    guest.wait_until_verified();
    guest.move_to(backup);
    assert_eq!(guest.disk_digest(), expected);
}

#[test]
fn a_full_file_system_of_the_primary_is_the_guests_error_and_the_pair_goes_on() {
    if !has_own_mounts("a_full_file_system_of_the_primary_is_the_guests_error_and_the_pair_goes_on")
    {
        return;
    }
    let scratch = Scratch::new("disk-full").unwrap();
    let files = SmallFiles::mount(scratch.file("small"));
    let disk = image(&files.0.join("disk.raw"));
    let Some(guest) = Guest::boot(&scratch, &disk) else {
        return;
    };
    primary_fails(&scratch, guest, |_| {}, |_| files.grow());
}

#[test]
fn a_limit_of_the_primarys_files_is_the_guests_error_and_the_pair_goes_on() {
    let scratch = Scratch::new("disk-limit").unwrap();
    let disk = image(&scratch.file("disk.raw"));
    let Some(guest) = Guest::boot(&scratch, &disk) else {
        return;
    };
    let limit = (ROOM_MIB * MIB).to_string();
    let fail = |guest: &Guest| limit_files(&guest.process, &limit);
    primary_fails(&scratch, guest, fail, |guest| {
        limit_files(&guest.process, "unlimited");
    });
}

/// The backup cannot write all.
fn backup_fails(scratch: &Scratch, disk: &Path, fail: impl FnOnce(&VmProcess)) {
    let Some(mut guest) = Guest::boot(scratch, &image(&scratch.file("disk.raw"))) else {
        return;
    };
    let backup = guest.protect(scratch, "backup", disk);
    fail(&backup);
    let (status, last) = guest.fill('a');
    assert_eq!(status, "0", "{last}");
    guest.wait_for("unprotected");
    let mut reason = Value::Null;
    let waited = wait_until("the backup's reason", LIMIT, || {
        reason = backup.ft_status()?["error"].clone();
        Ok(reason.is_string())
    });
    assert!(waited.is_ok(), "{waited:?}: {:?}", backup.ft_status());
    let reason = reason.as_str().unwrap();
    assert!(reason.contains("disk of device"), "{reason}");
    // The request, or the page of a delta.
    let named = reason.contains("failed here") || reason.contains("does not take the delta");
    assert!(named, "{reason}");
    let expected = guest.expected_digest('a');
    assert_eq!(guest.disk_digest(), expected);
    // Another backup has room.
    let other = guest.protect(scratch, "other", &scratch.file("other.raw"));
    guest.wait_until_verified();
    guest.move_to(other);
    assert_eq!(guest.disk_digest(), expected);
    drop(backup);
}

#[test]
fn a_full_file_system_of_the_backup_ends_the_backup_and_nothing_else() {
    if !has_own_mounts("a_full_file_system_of_the_backup_ends_the_backup_and_nothing_else") {
        return;
    }
    let scratch = Scratch::new("backup-full").unwrap();
    let files = SmallFiles::mount(scratch.file("small"));
    backup_fails(&scratch, &files.0.join("backup.raw"), |_| {});
}

#[test]
fn a_limit_of_the_backups_files_ends_the_backup_and_nothing_else() {
    let scratch = Scratch::new("backup-limit").unwrap();
    let limit = (ROOM_MIB * MIB).to_string();
    backup_fails(&scratch, &scratch.file("backup.raw"), |backup| {
        limit_files(backup, &limit);
    });
}

#[test]
fn a_file_that_is_cut_off_is_the_guests_error_and_the_backup_has_the_good_copy() {
    // So large that the window of pages that are checked unwritten, which begins at the front,
    // takes thousands of epochs to the end.
    const LARGE: u64 = 256 * MIB;
    const WRITTEN: u64 = MIB;
    // One sector of a page is left, so that a write of it still succeeds.
    const CUT: u64 = LARGE - 4 * PAGE;
    let scratch = Scratch::new("disk-cut").unwrap();
    let disk = image(&scratch.file("disk.raw"));
    let cut = |path: &Path, len: u64| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(len).unwrap();
    };
    cut(&disk, LARGE);
    let Some(mut guest) = Guest::boot(&scratch, &disk) else {
        return;
    };
    let seek = (LARGE - WRITTEN) / PAGE;
    let letters = format!("tr '\\0' a < /dev/zero | head -c {WRITTEN}");
    guest.succeeds(&format!(
        "{letters} | dd of=/dev/vda bs={PAGE} seek={seek} conv=fsync"
    ));
    let mirror = scratch.file("backup.raw");
    let backup = guest.protect(&scratch, "backup", &mirror);
    guest.wait_until_verified();
    cut(&disk, CUT + 512);
    guest.succeeds("echo 3 > /proc/sys/vm/drop_caches");
    let read = format!("dd if=/dev/vda of=/dev/null bs={PAGE} skip={seek}");
    failed(&guest.shell.run(&read).unwrap());
    assert_eq!(guest.succeeds("echo alive"), "alive");
    guest.wait_until_verified();
    // The page is written, so it is compared, and there are only zeroes to compare it by: the
    // backup, which has all of it, takes over.
    let discard = format!("blkdiscard -o {CUT} -l 512 /dev/vda");
    guest.shell.begin(&discard).unwrap();
    backup.wait_for("live", &json!(true), LIMIT).unwrap();
    guest.move_to(backup);
    assert_eq!(guest.succeeds("echo alive"), "alive");
    guest.succeeds(&format!("{discard}; sync"));
    let mut expected = vec![0; LARGE as usize];
    expected[(LARGE - WRITTEN) as usize..].fill(b'a');
    expected[CUT as usize..][..512].fill(0);
    let kept = std::fs::read(&mirror).unwrap() == expected;
    assert!(kept, "the backup's copy is no more what it was");
    // What cannot be read is not cloned either.
    cut(&mirror, CUT);
    guest.succeeds(&discard);
    let other = scratch.file("other.raw");
    let refusal = guest.try_protect(&scratch, "other", &other);
    let refusal = refusal.map(|_| ()).unwrap_err().to_string();
    assert!(refusal.contains("disk of device"), "{refusal}");
    assert_eq!(guest.succeeds("echo alive"), "alive");
}

#[test]
fn a_guest_sees_its_disk_grow_and_shrink() {
    let scratch = Scratch::new("disk-size").unwrap();
    let disk = image(&scratch.file("disk.raw"));
    let Some(mut guest) = Guest::boot(&scratch, &disk) else {
        return;
    };
    guest.fill('a');
    let resize = |guest: &Guest, size: u64| -> Result<(), HarnessError> {
        let body = json!({"id": "_disk0", "desired_size": size});
        guest.process.put("vm.resize-disk", &body)
    };
    for size in [2 * DISK, DISK / 2, DISK] {
        resize(&guest, size).unwrap();
        let sectors = (size / 512).to_string();
        let waited = wait_until("the guest's disk to change", LIMIT, || {
            Ok(guest.succeeds("cat /sys/block/vda/size") == sectors)
        });
        waited.unwrap();
    }
    let expected = guest.expected_digest('a');
    assert_eq!(guest.disk_digest(), expected);
    let backup = guest.protect(&scratch, "backup", &scratch.file("backup.raw"));
    let refusal = resize(&guest, 2 * DISK).unwrap_err().to_string();
    assert!(refusal.contains("ft-stop"), "{refusal}");
    guest.wait_until_verified();
    guest.move_to(backup);
    assert_eq!(guest.disk_digest(), expected);
    resize(&guest, 2 * DISK).unwrap();
}
