//! The guest's life without protection: boot, work, power-off, reboot.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::time::{Duration, Instant};

use tests::command::{Scratch, guest_to_file, host_is_quiet, run};
use tests::process::{VmProcess, wait_until};
use tests::service::Line;

const LIMIT: Duration = Duration::from_secs(90);
/// What the guest may take to its first mark.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// SHA-256 of 64 MiB of zeros.
const DIGEST_64_MIB: &str = "3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351";

#[test]
fn a_debian_kernel_boots_works_and_powers_off() {
    let scratch = Scratch::new("boot").unwrap();
    let begun = Instant::now();
    let jobs = "job=sha256,loop,poweroff sha256_mib=64 loop_turns=3000";
    let mut guest = VmProcess::start_guest(scratch.path(), "vmm", "256M", jobs).unwrap();
    let mut line = Line::connect_within(guest.serial(), LIMIT).unwrap();
    line.receive_until("MARK ready", LIMIT).unwrap();
    let booted = begun.elapsed();
    if booted > BOOT_LIMIT && host_is_quiet("a boot", begun).unwrap() {
        panic!("the boot took {} s", booted.as_secs_f64());
    }
    let digest = line.receive_until("MARK end sha256", LIMIT).unwrap();
    assert_eq!(digest.split(' ').nth(3), Some(DIGEST_64_MIB), "{digest}");
    assert_eq!(guest.get("vm.info").unwrap()["state"], "Running");
    let turns = line.receive_until("MARK end loop", LIMIT).unwrap();
    assert_eq!(turns.split(' ').nth(3), Some("3000"), "{turns}");
    let mut status = None;
    wait_until("the end of the process", LIMIT, || {
        status = guest.ended();
        Ok(status.is_some())
    })
    .unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn a_guest_that_reboots_comes_up_again() {
    let scratch = Scratch::new("reboot").unwrap();
    let mut guest = VmProcess::start_guest(scratch.path(), "vmm", "128M", "job=reboot").unwrap();
    let mut line = Line::connect_within(guest.serial(), LIMIT).unwrap();
    for boot in ["first", "second"] {
        line.receive_until("MARK ready", LIMIT)
            .unwrap_or_else(|error| panic!("{boot}: {error}"));
        line.receive_until("MARK begin reboot", LIMIT).unwrap();
    }
    assert!(guest.ended().is_none(), "the process ended with a reboot");
}

#[test]
fn a_serial_file_has_what_the_guest_wrote() {
    let scratch = Scratch::new("serial-file").unwrap();
    let serial = scratch.file("console.txt");
    let arguments = guest_to_file("128M", "job=loop,poweroff loop_turns=10", &serial).unwrap();
    let finished = run(&scratch, &arguments, LIMIT).unwrap();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let text = fs::read_to_string(&serial).unwrap();
    let marks: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("MARK"))
        .map(|line| &line[..12])
        .collect();
    let wanted = [
        "MARK ready u",
        "MARK begin l",
        "MARK end loo",
        "MARK begin p",
    ];
    assert_eq!(marks, wanted, "{text}");
}
