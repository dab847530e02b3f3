//! Rules and book-keeping of resizes.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use devices::virtio::block::BlockConfig;

use super::*;
use crate::machine::VirtioSpec;

/// Device 0 gives random bytes, device 1 is a disk of 8 sectors.
fn config(disk: DiskMode) -> MachineConfig {
    let block = BlockConfig {
        sectors: 8,
        read_only: false,
        block_size: 512,
        serial: BlockConfig::serial_of("disk"),
    };
    let entropy = VirtioSpec {
        config: VirtioConfig::Entropy,
        disk: DiskMode::Outside,
    };
    let disk = VirtioSpec {
        config: VirtioConfig::Block(block),
        disk,
    };
    MachineConfig {
        memory_size: 1 << 20,
        serial: false,
        start_seconds: 0,
        boot_pages: 0,
        tsc_khz: 1_000_000,
        virtio: vec![entropy, disk],
    }
}

fn begun(resizes: &mut Resizes) -> Receiver<Result<(), VmError>> {
    let (reply, answer) = channel();
    resizes.begin(1, reply);
    answer
}

#[test]
fn a_disk_of_the_machine_keeps_its_size_while_there_is_a_backup() {
    let check = |disk, device, state| check(&config(disk), device, state);
    for disk in [DiskMode::Outside, DiskMode::Replicated] {
        check(disk, 1, "unprotected").unwrap();
        check(disk, 1, "cloning").unwrap_err();
        check(disk, 0, "unprotected").unwrap_err();
        check(disk, 2, "unprotected").unwrap_err();
    }
    for state in ["protected", "repairing"] {
        check(DiskMode::Outside, 1, state).unwrap();
        let refusal = check(DiskMode::Replicated, 1, state).unwrap_err();
        assert!(refusal.to_string().contains("ft-stop"), "{refusal}");
    }
}

#[test]
fn a_resize_is_answered_when_the_machine_has_taken_it() {
    let (mut resizes, mut config) = (Resizes::default(), config(DiskMode::Outside));
    resizes.check_none().unwrap();
    let answer = begun(&mut resizes);
    resizes.settle(&config, false);
    resizes.check_none().unwrap_err();
    assert_eq!(resizes.ended(1, Ok(16)), Some(16));
    resizes.settle(&config, false);
    assert_eq!(answer.try_recv().unwrap_err(), TryRecvError::Empty);
    let VirtioConfig::Block(block) = &mut config.virtio[1].config else {
        panic!("device 1 is a disk");
    };
    block.sectors = 16;
    resizes.settle(&config, false);
    answer.try_recv().unwrap().unwrap();
    resizes.check_none().unwrap();
}

#[test]
fn a_paused_machine_is_answered_for_at_once_and_remembered() {
    let (mut resizes, config) = (Resizes::default(), config(DiskMode::Outside));
    let answer = begun(&mut resizes);
    resizes.ended(1, Ok(16));
    resizes.settle(&config, true);
    answer.try_recv().unwrap().unwrap();
    resizes.check_none().unwrap_err();
}

#[test]
fn failures_and_departures_are_answered_and_forgotten() {
    let mut resizes = Resizes::default();
    let answer = begun(&mut resizes);
    assert_eq!(resizes.ended(1, Err(io::Error::other("full"))), None);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, VmError::Resize(_)), "{error}");
    let answer = begun(&mut resizes);
    resizes.abandon();
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, VmError::Refused(_)), "{error}");
    resizes.check_none().unwrap();
}
