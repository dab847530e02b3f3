//! A guest's life on KVM. These tests run where KVM can run a stock kernel: on a host with a real
//! one, or in the machine of `scripts/kvm-bench`.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::path::Path;
use std::time::{Duration, Instant};

use tests::backend::{kvm_place, scratch_with_kvm};
use tests::command::host_is_quiet;
use tests::figure;
use tests::process::{VmProcess, guest_arguments_on, wait_until};
use tests::service::Line;

/// The bench's machine is emulated, and its host may be busy.
const LIMIT: Duration = Duration::from_secs(120);
/// What the guest may take to its first mark.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// SHA-256 of 16 MiB of zeros.
const DIGEST_16_MIB: &str = "080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e";

/// Starts the serial guest on KVM.
fn start(folder: &Path, name: &str, jobs: &str) -> VmProcess {
    let mut arguments = guest_arguments_on("kvm", "256M", jobs).unwrap();
    let serial = folder.join(format!("{name}.serial"));
    arguments.push("--serial".to_owned());
    arguments.push(format!("socket={}", serial.display()));
    VmProcess::start(folder, name, &arguments).unwrap()
}

fn wait_for_the_end(guest: &mut VmProcess) -> Option<i32> {
    let mut status = None;
    wait_until("the end of the process", LIMIT, || {
        status = guest.ended();
        Ok(status.is_some())
    })
    .unwrap();
    status.unwrap().code()
}

#[test]
fn a_debian_kernel_boots_works_and_powers_off() {
    let Some(scratch) = scratch_with_kvm("boot").unwrap() else {
        return;
    };
    let begun = Instant::now();
    let jobs = "job=sha256,loop,poweroff sha256_mib=16 loop_turns=3000";
    let mut guest = start(scratch.path(), "vmm", jobs);
    let mut line = Line::connect_within(guest.serial(), LIMIT).unwrap();
    line.receive_until("MARK ready", LIMIT).unwrap();
    let booted = begun.elapsed();
    figure(&format!(
        "boot of Debian's kernel to its first mark, {}: {:.1} s",
        kvm_place(),
        booted.as_secs_f64()
    ));
    if booted > BOOT_LIMIT && host_is_quiet("a boot", begun).unwrap() {
        panic!("the boot took {} s", booted.as_secs_f64());
    }
    let digest = line.receive_until("MARK end sha256", LIMIT).unwrap();
    assert_eq!(digest.split(' ').nth(3), Some(DIGEST_16_MIB), "{digest}");
    assert_eq!(guest.get("vm.info").unwrap()["state"], "Running");
    let turns = line.receive_until("MARK end loop", LIMIT).unwrap();
    assert_eq!(turns.split(' ').nth(3), Some("3000"), "{turns}");
    assert_eq!(wait_for_the_end(&mut guest), Some(0));
}

#[test]
fn a_shell_answers() {
    let Some(scratch) = scratch_with_kvm("shell").unwrap() else {
        return;
    };
    let mut guest = start(scratch.path(), "vmm", "job=shell");
    let mut line = Line::connect_within(guest.serial(), LIMIT).unwrap();
    line.receive_until("MARK begin shell", LIMIT).unwrap();
    line.send("echo answer $((6 * 7))").unwrap();
    line.receive_until("answer 42", LIMIT).unwrap();
    line.send("exit").unwrap();
    assert_eq!(wait_for_the_end(&mut guest), Some(0));
}

#[test]
fn a_guest_that_reboots_comes_up_again() {
    let Some(scratch) = scratch_with_kvm("reboot").unwrap() else {
        return;
    };
    let mut guest = start(scratch.path(), "vmm", "job=reboot");
    let mut line = Line::connect_within(guest.serial(), LIMIT).unwrap();
    for boot in ["first", "second"] {
        line.receive_until("MARK ready", LIMIT)
            .unwrap_or_else(|error| panic!("{boot}: {error}"));
        line.receive_until("MARK begin reboot", LIMIT).unwrap();
    }
    assert!(guest.ended().is_none(), "the process ended with a reboot");
}
