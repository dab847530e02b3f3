//! Capabilities, status, features, vectors, and the window in configuration space.

use super::*;
use crate::conformance::virtio_driver::Rig;
use crate::virtio::block::{Block, BlockConfig};

fn disk() -> Block {
    Block::new(BlockConfig {
        sectors: 1000,
        read_only: false,
        block_size: 512,
        serial: [b'x'; 20],
    })
}

fn read(rig: &mut Rig<Block>, offset: u8, size: u8) -> u32 {
    rig.function.config_read(offset, size)
}

#[test]
fn capabilities_say_where_everything_is() {
    let mut rig = Rig::new(disk());
    assert_eq!(read(&mut rig, 0, 4), 0x1042_1af4);
    assert_eq!(read(&mut rig, 8, 4), 0x0180_0001);
    assert_eq!(read(&mut rig, 0x3c, 2), 0x0111, "INTA, GSI 17 in slot 1");
    let mut at = read(&mut rig, 0x34, 1) as u8;
    let mut found = Vec::new();
    while at != 0 {
        if read(&mut rig, at, 1) == 9 {
            let kind = read(&mut rig, at + 3, 1);
            let offset = read(&mut rig, at + 8, 4);
            found.push((kind, offset, read(&mut rig, at + 12, 4)));
            if kind == 2 {
                assert_eq!(read(&mut rig, at + 16, 4), 4, "notify multiplier");
            }
        } else {
            assert_eq!(read(&mut rig, at, 4) >> 16, 1, "two vectors");
            assert_eq!(read(&mut rig, at + 4, 4), 0x8000);
            assert_eq!(read(&mut rig, at + 8, 4), 0x4_8000);
        }
        at = read(&mut rig, at + 1, 1) as u8;
    }
    let expected = [
        (1, 0, 56),
        (3, 0x2000, 1),
        (4, 0x4000, 0x1000),
        (2, 0x6000, 0x1000),
        (5, 0, 0),
    ];
    assert_eq!(found, expected);
}

#[test]
fn status_bits_come_in_order_and_go_together() {
    let mut rig = Rig::new(disk());
    rig.write_common(0x14, 1, 0x0f);
    assert_eq!(rig.status(), STATUS_NEEDS_RESET | 3, "no features yet");
    assert_eq!(rig.function.fault(), Some(Fault::DriverOkTooEarly));
    assert!(rig.start(0));
    assert_eq!(rig.status(), 0x0f);
    rig.write_common(0x14, 1, 1);
    assert_eq!(rig.status(), 0x0f, "bits do not go one by one");
    rig.write_common(0x08, 4, 0);
    rig.write_common(0x0c, 4, 0);
    assert_ne!(rig.read_common(0x0c, 4), 0, "features are agreed on");
    rig.take_events();
    rig.write_common(0x14, 1, 0);
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.take_events(), [VirtioEvent::DeviceReset]);
    rig.write_common(0x14, 1, 0);
    assert_eq!(rig.take_events(), [], "it was reset already");
    assert_eq!(rig.read_common(0x1c, 2), 0, "queues are off");
}

#[test]
fn features_must_be_offered_and_modern() {
    let mut rig = Rig::new(disk());
    let offered = rig.offered();
    for features in [offered & !FEATURE_VERSION_1, offered | 1 << 40, 0] {
        rig.write_common(0x14, 1, 0);
        rig.write_status(3);
        for select in 0..2 {
            rig.write_common(0x08, 4, select);
            rig.write_common(0x0c, 4, features >> (32 * select) & 0xffff_ffff);
        }
        rig.write_status(STATUS_FEATURES_OK);
        assert_eq!(rig.status(), 3, "{features:#x}");
    }
    rig.write_common(0x00, 4, 2);
    assert_eq!(rig.read_common(0x04, 4), 0);
}

#[test]
fn a_ready_driver_is_an_event_and_queues_are_looked_at() {
    let mut rig = Rig::new(disk());
    assert!(rig.negotiate(0));
    rig.set_up_queues();
    rig.post(0, &[&[8, 0, 0, 0], &[0; 12]], &[21]);
    rig.notify(0);
    assert_eq!(rig.returned(0), None, "not ready");
    rig.write_status(STATUS_DRIVER_OK);
    let features = rig.features();
    assert_eq!(rig.take_events(), [VirtioEvent::DriverReady { features }]);
    assert_eq!(rig.returned(0).unwrap().len, 21);
    assert_eq!(rig.function.driver_features(), Some(features));
}

#[test]
fn without_msix_the_pin_follows_the_isr_register() {
    let mut rig = Rig::started(disk(), 0);
    rig.config_write(0x43, 1, 0);
    rig.request(0, &[&[8, 0, 0, 0], &[0; 12]], &[21]);
    assert!(rig.messages.is_empty() && rig.function.intx_level());
    assert_eq!(read(&mut rig, 6, 2) & 8, 8, "interrupt status");
    rig.config_write(4, 2, 0x402);
    assert!(!rig.function.intx_level(), "disabled by command");
    rig.config_write(4, 2, 2);
    let resized = rig.input(VirtioInput::BlockResize { sectors: 1 });
    assert_eq!(resized, Ok(InputOutcome::Taken));
    assert_eq!(rig.function.bar_read(0, ISR_OFFSET, 1), 3);
    assert!(!rig.function.intx_level());
    assert_eq!(rig.function.bar_read(0, ISR_OFFSET, 1), 0);
    assert_eq!(read(&mut rig, 6, 2) & 8, 0);
}

#[test]
fn a_masked_vector_is_sent_when_it_is_unmasked() {
    let mut rig = Rig::started(disk(), 0);
    rig.bar_write(MSIX_TABLE_OFFSET + 12, 4, 1);
    rig.request(0, &[&[8, 0, 0, 0], &[0; 12]], &[21]);
    assert!(rig.messages.is_empty());
    assert_eq!(rig.function.bar_read(0, MSIX_PENDING_OFFSET, 8), 1);
    rig.bar_write(MSIX_TABLE_OFFSET + 12, 4, 0);
    assert_eq!(rig.take_vectors(), [0]);
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let mut rig = Rig::started(disk(), 0);
    for register in [0x10, 0x1a] {
        rig.write_common(register, 2, 2);
        assert_eq!(rig.read_common(register, 2), 0xffff);
        rig.write_common(register, 2, 1);
        assert_eq!(rig.read_common(register, 2), 1);
    }
    rig.write_common(0x16, 2, 1);
    assert_eq!(rig.read_common(0x18, 2), 0, "no second queue");
}

#[test]
fn a_queue_of_impossible_size_is_a_fault() {
    for size in [0, 3, 256] {
        let mut rig = Rig::new(disk());
        assert!(rig.negotiate(0));
        rig.write_common(0x18, 2, size);
        let queue = 0;
        let size = size as u16;
        assert_eq!(rig.function.fault(), Some(Fault::QueueSize { queue, size }));
        assert_ne!(rig.status() & STATUS_NEEDS_RESET, 0);
        assert!(rig.start(0), "a reset ends it");
    }
    let mut rig = Rig::started(disk(), 0);
    rig.write_common(0x18, 2, 64);
    rig.write_common(0x20, 4, 0x1234);
    assert_eq!(rig.read_common(0x18, 2), 128, "it is enabled");
    assert_eq!(rig.read_common(0x20, 8), rig.rings(0)[0]);
}

#[test]
fn configuration_space_reaches_the_bar() {
    let mut rig = Rig::new(disk());
    let window = 0x90;
    rig.config_write(window + 8, 4, 0x4000);
    rig.config_write(window + 12, 4, 4);
    assert_eq!(read(&mut rig, window + 16, 4), 1000, "capacity");
    assert_eq!(read(&mut rig, window + 16, 2), 0, "another length");
    rig.config_write(window + 8, 4, 0x14);
    rig.config_write(window + 12, 4, 1);
    rig.config_write(window + 16, 1, 1);
    assert_eq!(rig.status(), 1);
    assert_eq!(read(&mut rig, window + 8, 4), 0x14);
    rig.config_write(window + 8, 4, BAR_SIZE as u32);
    assert_eq!(read(&mut rig, window + 16, 1), 0, "beyond the BAR");
    rig.config_write(window + 12, 4, 0);
    assert_eq!(read(&mut rig, window + 16, 1), 0, "no length");
}

#[test]
fn power_on_reset_forgets_everything_but_the_configuration() {
    let mut rig = Rig::started(disk(), 0);
    rig.config_write(0x10, 4, 0xd000_0000);
    rig.function.power_on_reset();
    assert_eq!(rig.function, Rig::new(disk()).function);
}
