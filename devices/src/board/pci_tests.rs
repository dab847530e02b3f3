//! PCI on the board: who answers where, interrupts to the processor, events, saving.

use super::*;
use crate::dma::{GuestRam, NoRam, VecRam};
use crate::interrupt_controller::ioapic::IOAPIC_BASE;
use crate::saved::{RestoreError, decode_sections, encode_sections};
use crate::virtio::any::AnyVirtio;
use crate::virtio::block::BlockConfig;
use crate::virtio::console::ConsoleConfig;
use crate::virtio::event::VirtioEvent;
use crate::virtio::input::{InputError, InputOutcome, VirtioInput};
use crate::virtio::net::NetConfig;
use crate::virtio::payload::Payload;
use crate::virtio::transport::BAR_SIZE;
use crate::virtio::vsock::VsockConfig;

const T0: VirtualTime = VirtualTime(1_000_000);
/// Index of the entropy source, the simplest device.
const ENTROPY: usize = 3;

fn config(pci: Vec<VirtioConfig>) -> BoardConfig {
    BoardConfig {
        serial: true,
        rtc: RtcConfig::default(),
        phys_address_bits: 46,
        tsc_khz: 1_000_000,
        pci,
    }
}

/// A board with one device of each type.
pub(super) fn board() -> Board {
    Board::new(&config(vec![
        VirtioConfig::Block(BlockConfig {
            sectors: 64,
            read_only: false,
            block_size: 512,
            serial: BlockConfig::serial_of("disk0"),
        }),
        VirtioConfig::Net(NetConfig {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: None,
            offload: true,
            udp_fragmentation: false,
        }),
        VirtioConfig::Console(ConsoleConfig::default()),
        VirtioConfig::Entropy,
        VirtioConfig::Vsock(VsockConfig { guest_cid: 3 }),
    ]))
}

fn entropy_bar() -> u64 {
    window_64(46).start + 2 * BAR_SIZE
}

/// Makes the entropy source ready: rings at 0, 0x1000 and 0x2000, vectors 0x51 and 0x52.
fn start_entropy(board: &mut Board, ram: &mut VecRam) {
    let bar = entropy_bar();
    let mut write = |offset, size, value| board.mmio_write(bar + offset, size, value, T0, ram);
    write(0x14, 1, 0);
    write(0x14, 1, 3);
    write(0x08, 4, 1);
    write(0x0c, 4, 1);
    write(0x14, 1, 11);
    for (vector, data) in [(0, 0x51), (1, 0x52)] {
        write(0x8000 + 16 * vector, 8, 0xfee0_0000);
        write(0x8008 + 16 * vector, 8, data);
    }
    write(0x10, 2, 1);
    write(0x1a, 2, 0);
    for (register, address) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
        write(register, 8, address);
    }
    write(0x1c, 2, 1);
    write(0x14, 1, 15);
}

/// Asks for eight bytes at 0x3000.
fn ask(board: &mut Board, ram: &mut VecRam) {
    ram.write(0, &0x3000u64.to_le_bytes()).unwrap();
    ram.write(8, &[8, 0, 0, 0, 2, 0, 0, 0]).unwrap();
    ram.write(0x1002, &[1, 0, 0, 0]).unwrap();
    board.mmio_write(entropy_bar() + 0x6000, 2, 0, T0, ram);
}

#[test]
fn both_mechanisms_find_the_devices_and_their_bars() {
    let mut board = board();
    let window = window_64(46).start;
    assert_eq!(window, (1 << 46) - (64 << 30));
    assert_eq!(window_64(36), 48 << 30..64 << 30);
    let devices = [
        (0, 0x0d57_8086, 0, 0),
        (1, 0x1042_1af4, 0xc000_0000, 0),
        (2, 0x1041_1af4, window as u32 | 4, window >> 32),
        (3, 0x1043_1af4, (window + BAR_SIZE) as u32 | 4, window >> 32),
        (4, 0x1044_1af4, entropy_bar() as u32 | 4, window >> 32),
        (
            5,
            0x1053_1af4,
            (window + 3 * BAR_SIZE) as u32 | 4,
            window >> 32,
        ),
        (6, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff),
    ];
    for (slot, id, low, high) in devices {
        for (register, value) in [(0, id), (0x10, low), (0x14, high as u32)] {
            let address = 0x8000_0000 | slot << 11 | register;
            board.pio_write(0xcf8, 4, address, T0, &mut NoRam);
            assert_eq!(board.pio_read(0xcfc, 4, T0), value, "slot {slot}");
            let ecam = ECAM_BASE + u64::from(slot << 15 | register);
            assert_eq!(board.mmio_read(ecam, 4, T0), u64::from(value));
        }
    }
    assert_eq!(board.undecoded_accesses(), 0);
    assert_eq!(
        board.mmio_read(0xc000_4000, 8, T0),
        64,
        "capacity by the BAR"
    );
    assert_eq!(board.mmio_read(ECAM_BASE + ECAM_SIZE, 4, T0), 0xffff_ffff);
    assert_eq!(board.undecoded_accesses(), 1);
    assert_eq!(board.virtio_count(), 5);
    assert!(matches!(board.virtio_device(4), Some(AnyVirtio::Vsock(_))));
    assert!(board.virtio_device(5).is_none());
}

#[test]
fn a_request_is_an_event_and_its_answer_an_msi() {
    let (mut board, mut ram) = (board(), VecRam::new(0, 0x4000));
    let control = ECAM_BASE + (4 << 15) + 0x42;
    board.mmio_write(control, 2, 0x8000, T0, &mut ram);
    assert_eq!(board.virtio_features(ENTROPY), None);
    start_entropy(&mut board, &mut ram);
    assert_eq!(board.virtio_features(ENTROPY), Some(1 << 32));
    ask(&mut board, &mut ram);
    let events = board.take_events().virtio;
    assert!(events.iter().all(|event| event.device == ENTROPY));
    let request = VirtioEvent::EntropyRequest { id: 0, len: 8 };
    assert_eq!(events.last().unwrap().event, request);
    assert_eq!(board.pending_interrupt(), None);
    let answer = |bytes| VirtioInput::Entropy {
        id: 0,
        bytes: Payload::from(bytes),
    };
    let outcome = board.virtio_input(ENTROPY, answer(vec![7; 8]), &mut ram, T0);
    assert_eq!(outcome, Ok(InputOutcome::Taken));
    assert_eq!(ram.bytes()[0x3000..0x3009], [7, 7, 7, 7, 7, 7, 7, 7, 0]);
    assert_eq!(board.acknowledge_interrupt(), 0x51);
    let missing = InputError::NoSuchDevice { index: 5 };
    let outcome = board.virtio_input(5, answer(vec![1]), &mut ram, T0);
    assert_eq!(outcome, Err(missing));
    let wrong = board.virtio_input(0, answer(vec![1]), &mut ram, T0);
    assert_eq!(wrong, Err(InputError::WrongDevice { device: "block" }));
    assert_eq!(board.virtio_fault(ENTROPY), None);
    assert_eq!(board.virtio_input_room(2), 64 * 1024);
}

#[test]
fn without_msix_a_level_interrupt_stays_until_the_isr_is_read() {
    let (mut board, mut ram) = (board(), VecRam::new(0, 0x4000));
    // Slot 4 is wired to global system interrupt 16: level-triggered, active low, vector 0x61.
    for (register, value) in [(0x31u64, 0u64), (0x30, 0xa061)] {
        board.mmio_write(IOAPIC_BASE, 4, register, T0, &mut ram);
        board.mmio_write(IOAPIC_BASE + 0x10, 4, value, T0, &mut ram);
    }
    start_entropy(&mut board, &mut ram);
    ask(&mut board, &mut ram);
    let bytes = Payload::from(vec![1; 8]);
    let answer = VirtioInput::Entropy { id: 0, bytes };
    let outcome = board.virtio_input(ENTROPY, answer, &mut ram, T0);
    assert_eq!(outcome, Ok(InputOutcome::Taken));
    for read in [false, true] {
        assert_eq!(board.acknowledge_interrupt(), 0x61);
        if read {
            assert_eq!(board.mmio_read(entropy_bar() + 0x2000, 1, T0), 1);
        }
        board.mmio_write(0xfee0_00b0, 4, 0, T0, &mut ram);
    }
    assert_eq!(board.pending_interrupt(), None);
    assert!(!board.set_gsi(17, true) && board.set_gsi(21, true));
}

#[test]
fn pci_state_is_saved_restored_and_described() {
    let (mut board, mut ram) = (board(), VecRam::new(0, 0x4000));
    start_entropy(&mut board, &mut ram);
    ask(&mut board, &mut ram);
    board.mmio_write(ECAM_BASE + (1 << 15) + 0x10, 4, 0xd000_0000, T0, &mut ram);
    board.pio_write(0xcf8, 4, 0x8000_0810, T0, &mut ram);
    let _ = board.take_events();
    let sections = board.save();
    let bytes = encode_sections(&sections);
    let mut restored = Board::restore(&decode_sections(&bytes).unwrap()).unwrap();
    assert_eq!(restored, board);
    let request = DeviceEvent {
        device: ENTROPY,
        event: VirtioEvent::EntropyRequest { id: 0, len: 8 },
    };
    assert_eq!(restored.virtio_unanswered(), [request]);
    assert_eq!(restored.pio_read(0xcfc, 4, T0), 0xd000_0000);
    assert_eq!(restored.mmio_read(0xd000_4000, 8, T0), 64);
    for section in &sections {
        let fields = describe(&section.kind, &section.bytes);
        let first = fields.first().map(|(path, _)| path.as_str());
        assert_ne!(first, Some("unreadable"), "{}", section.kind);
    }
    let kinds: Vec<_> = sections
        .iter()
        .map(|section| section.kind.clone())
        .collect();
    assert_eq!(kinds[10..12], ["pci-bus", "pci-device-0"]);
    let missing = Board::restore(&sections[..sections.len() - 1]).unwrap_err();
    assert!(matches!(missing, RestoreError::Missing { .. }), "{missing}");
    let mut swapped = sections.clone();
    swapped[11].kind = kinds[12].clone();
    swapped[12].kind = kinds[11].clone();
    assert!(Board::restore(&swapped).is_err(), "devices in wrong slots");
}

#[test]
fn reset_moves_bars_back_and_stops_devices() {
    let (mut board, mut ram) = (board(), VecRam::new(0, 0x4000));
    start_entropy(&mut board, &mut ram);
    board.mmio_write(ECAM_BASE + (1 << 15) + 0x10, 4, 0xd000_0000, T0, &mut ram);
    board.reset(T0);
    // The host side of the device that had a driver is told that it has none any more.
    let events = board.take_events().virtio;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event, VirtioEvent::DeviceReset);
    let mut fresh = self::board();
    fresh.reset(T0);
    assert_eq!(board, fresh);
    let none = Board::new(&config(Vec::new()));
    assert!(
        none.save()
            .iter()
            .all(|section| !section.kind.starts_with("pci"))
    );
}

#[test]
fn damaged_pci_sections_never_panic() {
    let (mut board, mut ram) = (board(), VecRam::new(0, 0x4000));
    start_entropy(&mut board, &mut ram);
    ask(&mut board, &mut ram);
    let sections = board.save();
    let mut random = crate::conformance::Random::new(7);
    for _ in 0..2000 {
        let mut damaged = sections.clone();
        let which = 10 + random.below(6) as usize;
        let bytes = &mut damaged[which].bytes;
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.next() as u8,
            _ => bytes.insert(at, random.next() as u8),
        }
        assert!(!describe(&damaged[which].kind, &damaged[which].bytes).is_empty());
        if let Ok(mut board) = Board::restore(&damaged) {
            let bar = entropy_bar();
            for offset in [0x6000, 0x14, 0x2000, 0x8000] {
                board.mmio_write(bar + offset, 4, random.next(), T0, &mut ram);
                board.mmio_read(bar + offset, 4, T0);
            }
            let bytes = Payload::from(vec![1; 8]);
            let answer = VirtioInput::Entropy { id: 0, bytes };
            let _ = board.virtio_input(ENTROPY, answer, &mut ram, T0);
            let _ = Board::restore(&board.save());
        }
    }
}
