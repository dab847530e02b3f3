//! Tests of the board as a whole: interrupts end to end, addresses, inputs, saving.

use super::*;
use crate::conformance::{Random, Subject, run};
use crate::dma::NoRam;
use crate::interrupt::{DeliveryMode, Destination, TriggerMode};
use crate::interrupt_controller::ioapic::IOAPIC_BASE;
use crate::interrupt_controller::lapic::LAPIC_BASE;
use crate::legacy::acpi_pm::{NOTIFICATION_GSI, PowerRequest};
use crate::saved::{RestoreError, SavedState, Section, decode_sections, encode_sections};
use crate::virtio::input::VirtioInput;
use crate::virtio::payload::Payload;
use serde::{Deserialize, Serialize};

const T0: VirtualTime = VirtualTime(1_000_000);

fn board() -> Board {
    let rtc = RtcConfig {
        base_seconds: 1_700_000_000,
        ..RtcConfig::default()
    };
    Board::new(&BoardConfig {
        serial: true,
        rtc,
        phys_address_bits: 46,
        tsc_khz: 1_000_000,
        pci: Vec::new(),
    })
}

fn out(board: &mut Board, port: u16, value: u8) {
    board.pio_write(port, 1, u32::from(value), T0, &mut NoRam);
}

fn redirect(board: &mut Board, pin: u8, entry: u64) {
    for half in [1u8, 0] {
        board.mmio_write(
            IOAPIC_BASE,
            4,
            u64::from(0x10 + 2 * pin + half),
            T0,
            &mut NoRam,
        );
        board.mmio_write(
            IOAPIC_BASE + 0x10,
            4,
            (entry >> (32 * half)) & 0xffff_ffff,
            T0,
            &mut NoRam,
        );
    }
}

fn eoi(board: &mut Board) {
    board.mmio_write(LAPIC_BASE + 0xb0, 4, 0, T0, &mut NoRam);
}

fn initialise_pic(board: &mut Board, mask: u8) {
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0x21, mask),
    ] {
        out(board, port, value);
    }
}

#[test]
fn serial_interrupts_arrive_through_the_ioapic() {
    let mut board = board();
    redirect(&mut board, 4, 0x24);
    out(&mut board, 0x3fc, 0x08);
    out(&mut board, 0x3f9, 0x01);
    assert_eq!(board.pending_interrupt(), None);
    assert_eq!(board.serial_input(b"hi"), 2);
    assert_eq!(board.pending_interrupt(), Some(0x24));
    assert_eq!(board.acknowledge_interrupt(), 0x24);
    assert_eq!(board.pio_read(0x3f8, 1, T0), u32::from(b'h'));
    assert_eq!(board.pio_read(0x3f8, 1, T0), u32::from(b'i'));
    eoi(&mut board);
    // With the FIFO off the second byte came as an edge of its own.
    assert_eq!(board.acknowledge_interrupt(), 0x24);
    eoi(&mut board);
    assert_eq!(board.pending_interrupt(), None);
}

#[test]
fn serial_output_leaves_as_an_event() {
    let mut board = board();
    for byte in *b"ok" {
        out(&mut board, 0x3f8, byte);
    }
    out(&mut board, 0xe9, b'd');
    out(&mut board, 0x402, b'e');
    assert!(board.has_events());
    let events = board.take_events();
    assert_eq!(
        (events.serial, events.debug),
        (b"ok".to_vec(), b"de".to_vec())
    );
    assert!(!board.has_events());
}

#[test]
fn the_pit_arrives_through_the_8259_in_virtual_wire_mode() {
    let mut board = board();
    initialise_pic(&mut board, 0xff);
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        out(&mut board, port, value);
    }
    assert_eq!(board.next_deadline(), None, "masked");
    out(&mut board, 0x21, 0xfe);
    let deadline = board.next_deadline().unwrap();
    assert!(
        (1_000_000..1_001_000).contains(&deadline.since(T0)),
        "{deadline}"
    );
    board.advance(VirtualTime(deadline.0 - 1));
    assert_eq!(board.pending_interrupt(), None);
    board.advance(deadline);
    assert_eq!(board.pending_interrupt(), Some(0x30));
    assert_eq!(board.acknowledge_interrupt(), 0x30);
    assert_eq!(board.pending_interrupt(), None);
    // Masked again, an edge is kept until the mask goes.
    out(&mut board, 0x20, 0x20);
    out(&mut board, 0x21, 0xff);
    board.advance(VirtualTime(T0.0 + 50_000_000));
    assert_eq!(board.pending_interrupt(), None);
    board.pio_write(0x21, 1, 0xfe, VirtualTime(T0.0 + 50_000_000), &mut NoRam);
    assert_eq!(board.pending_interrupt(), Some(0x30));
}

#[test]
fn irq_0_is_pin_2_and_pin_0_carries_external_interrupts() {
    let mut board = board();
    redirect(&mut board, 2, 0x30);
    for (port, value) in [(0x43, 0x30), (0x40, 0x10), (0x40, 0x00)] {
        out(&mut board, port, value);
    }
    let deadline = board.next_deadline().unwrap();
    board.advance(deadline);
    assert_eq!(board.acknowledge_interrupt(), 0x30);

    board.mmio_write(LAPIC_BASE + 0x350, 4, 0x1_0700, T0, &mut NoRam);
    initialise_pic(&mut board, 0xfe);
    for value in [0x10, 0x00] {
        out(&mut board, 0x40, value);
    }
    board.advance(VirtualTime(T0.0 + 1_000_000));
    assert_eq!(board.pending_interrupt(), None, "LINT0 is masked");
    redirect(&mut board, 0, 0x700);
    assert_eq!(board.pending_interrupt(), Some(0x30));
}

#[test]
fn the_power_button_is_a_level_interrupt_until_it_is_read() {
    let mut board = board();
    redirect(&mut board, NOTIFICATION_GSI, 0x8051);
    board.power_button();
    for _ in 0..2 {
        assert_eq!(board.acknowledge_interrupt(), 0x51);
        eoi(&mut board);
    }
    assert_eq!(board.pio_read(0x610, 1, T0), 1);
    assert_eq!(board.acknowledge_interrupt(), 0x51);
    eoi(&mut board);
    assert_eq!(board.pending_interrupt(), None);
    assert_eq!(board.pio_read(0x610, 1, T0), 0);
}

#[test]
fn a_level_interrupt_waits_for_a_disabled_apic() {
    let mut board = board();
    redirect(&mut board, NOTIFICATION_GSI, 0x8051);
    board.mmio_write(LAPIC_BASE + 0xf0, 4, 0xff, T0, &mut NoRam);
    board.power_button();
    assert_eq!(board.pending_interrupt(), None);
    board.mmio_write(LAPIC_BASE + 0xf0, 4, 0x1ff, T0, &mut NoRam);
    assert_eq!(board.pending_interrupt(), Some(0x51));
}

#[test]
fn msis_reach_the_local_apic() {
    let mut board = board();
    assert!(board.deliver_msi(0xfee0_0000, 0x61));
    assert_eq!(board.acknowledge_interrupt(), 0x61);
    assert!(!board.deliver_msi(0xfee0_5000, 0x62), "another processor");
    assert!(
        !board.deliver_msi(0xfed0_0000, 0x62),
        "not an interrupt address"
    );
    assert!(board.deliver_msi(0xfee0_0000, 0x400));
    assert_eq!(board.take_events().signals, [CpuSignal::Nmi]);
}

#[test]
fn the_apic_timer_runs_by_msr_in_tsc_deadline_mode() {
    let mut board = board();
    let base = board.msr_read(MSR_APIC_BASE, T0).unwrap();
    assert_eq!(board.msr_write(MSR_APIC_BASE, base | 1 << 10, T0), Some(()));
    assert_eq!(board.msr_write(0x832, 0x4_00ec, T0), Some(()));
    board.set_tsc_offset(7000, T0);
    assert_eq!(
        board.msr_write(MSR_TSC_DEADLINE, T0.0 + 7000 + 500, T0),
        Some(())
    );
    assert_eq!(board.next_deadline(), Some(VirtualTime(T0.0 + 500)));
    board.advance(VirtualTime(T0.0 + 500));
    assert_eq!(board.acknowledge_interrupt(), 0xec);
    assert_eq!(board.msr_write(0x80b, 0, T0), Some(()));
    assert_eq!(board.msr_write(0x80b, 1, T0), None);
    assert_eq!(board.msr_read(0x1b0, T0), None);
    assert!(owns_msr(0x8ff) && owns_msr(0x1b) && !owns_msr(0x900) && !owns_msr(0x10));
    assert_eq!(
        board.mmio_read(LAPIC_BASE + 0x20, 4, T0),
        0xffff_ffff,
        "no MMIO in x2APIC mode"
    );
}

#[test]
fn start_up_messages_for_other_processors_are_events() {
    let mut board = board();
    board.mmio_write(LAPIC_BASE + 0x310, 4, 0x0100_0000, T0, &mut NoRam);
    board.mmio_write(LAPIC_BASE + 0x300, 4, 0x4699, T0, &mut NoRam);
    let events = board.take_events();
    assert_eq!(events.signals, []);
    let expected = InterruptMessage {
        destination: Destination::Physical(1),
        mode: DeliveryMode::StartUp,
        trigger: TriggerMode::Edge,
        vector: 0x99,
    };
    assert_eq!(events.ipis, [expected]);
    board.mmio_write(LAPIC_BASE + 0x300, 4, 0x0008_0041, T0, &mut NoRam);
    assert_eq!(board.pending_interrupt(), Some(0x41), "all including self");
    board.nmi_button();
    assert_eq!(board.take_events().signals, [CpuSignal::Nmi]);
}

#[test]
fn power_requests_come_from_every_register_that_makes_them() {
    for (port, value, request) in [
        (0x600, 0x34, PowerRequest::PowerOff),
        (0x600, 0x01, PowerRequest::Reset),
        (0x64, 0xfe, PowerRequest::Reset),
        (0x92, 0x01, PowerRequest::Reset),
    ] {
        let mut board = board();
        out(&mut board, port, value);
        out(&mut board, 0x600, 0x34);
        assert_eq!(
            board.take_events().power,
            Some(request),
            "{port:#x}: the first one counts"
        );
    }
    let mut board = board();
    out(&mut board, 0x70, 0x8f);
    out(&mut board, 0x71, 0x00);
    assert_eq!(board.take_events().power, Some(PowerRequest::Reset));
}

#[test]
fn undecoded_accesses_read_all_ones_and_are_counted() {
    let mut board = board();
    for (size, ones) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
        assert_eq!(board.pio_read(0xcf8, size, T0), ones);
        assert_eq!(board.mmio_read(0xd000_0000, size, T0), u64::from(ones));
    }
    assert_eq!(board.mmio_read(0xd000_0000, 8, T0), u64::MAX);
    board.pio_write(0xcf8, 4, 0, T0, &mut NoRam);
    board.mmio_write(0xd000_0000, 8, 0, T0, &mut NoRam);
    assert_eq!(board.pio_read(0x3f8, 3, T0), 0xff_ffff, "no such size");
    assert_eq!(board.undecoded_accesses(), 10);
    let without = BoardConfig {
        serial: false,
        rtc: RtcConfig::default(),
        phys_address_bits: 36,
        tsc_khz: 1_000_000,
        pci: Vec::new(),
    };
    let mut without = Board::new(&without);
    assert_eq!(without.pio_read(0x3fd, 1, T0), 0xff);
    assert_eq!(without.serial_input(b"x"), 0);
}

#[test]
fn wide_port_accesses_are_byte_accesses_at_rising_ports() {
    let mut board = board();
    let second = VirtualTime(1_000_000_000);
    assert_eq!(board.pio_read(0x608, 4, second), 3_579_545);
    assert_eq!(board.pio_read(0x609, 1, second), (3_579_545 >> 8) & 0xff);
    board.pio_write(0x70, 2, 0x5532, second, &mut NoRam);
    assert_eq!(board.pio_read(0x71, 1, second), 0x55);
    assert_eq!(board.pio_read(0xffff, 4, second), u32::MAX);
}

#[test]
fn interrupt_registers_of_the_ioapic_take_narrow_and_wide_accesses() {
    let mut board = board();
    board.mmio_write(IOAPIC_BASE, 1, 0x1, T0, &mut NoRam);
    assert_eq!(board.mmio_read(IOAPIC_BASE + 0x10, 8, T0), 0x0017_0020);
    assert_eq!(board.mmio_read(IOAPIC_BASE + 0x10, 1, T0), 0x20);
}

#[test]
fn sections_restore_and_bad_sets_of_sections_are_refused() {
    let mut board = board();
    redirect(&mut board, 4, 0x24);
    assert_eq!(board.serial_input(b"pending input"), 13);
    let sections = board.save();
    let bytes = encode_sections(&sections);
    assert_eq!(
        Board::restore(&decode_sections(&bytes).unwrap()).unwrap(),
        board
    );

    let error = Board::restore(&sections[1..]).unwrap_err();
    assert!(
        matches!(error, RestoreError::Missing { kind: "board" }),
        "{error}"
    );
    let mut doubled = sections.clone();
    doubled.push(sections[2].clone());
    assert!(matches!(
        Board::restore(&doubled),
        Err(RestoreError::Unexpected { .. })
    ));
    let mut stranger = sections.clone();
    stranger.push(Section {
        kind: "hpet".to_owned(),
        version: 1,
        bytes: vec![],
    });
    assert!(matches!(
        Board::restore(&stranger),
        Err(RestoreError::Unexpected { .. })
    ));
}

#[test]
fn damaged_bytes_never_panic() {
    let sections = board().save();
    let mut random = Random::new(1);
    for _ in 0..3000 {
        let mut damaged = sections.clone();
        let which = random.below(damaged.len() as u64) as usize;
        let bytes = &mut damaged[which].bytes;
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.next() as u8,
            _ => bytes.insert(at, random.next() as u8),
        }
        if let Ok(mut board) = Board::restore(&damaged) {
            board.advance(VirtualTime(random.next() >> 4));
            let _ = (
                board.pending_interrupt(),
                board.next_deadline(),
                board.acknowledge_interrupt(),
            );
        }
        assert!(!describe(&damaged[which].kind, &damaged[which].bytes).is_empty());
    }
}

#[test]
fn every_section_is_described_and_differences_have_a_name() {
    let mut board = board();
    let before = board.save();
    for section in &before {
        let fields = describe(&section.kind, &section.bytes);
        assert!(
            fields.iter().all(|(path, _)| path != "unreadable"),
            "{}",
            section.kind
        );
    }
    board.mmio_write(LAPIC_BASE + 0x80, 4, 0x20, T0, &mut NoRam);
    let after = board.save();
    let lapic = |sections: &[Section]| {
        let section = sections
            .iter()
            .find(|section| section.kind == "lapic")
            .unwrap();
        describe(&section.kind, &section.bytes)
    };
    let (old, new) = (lapic(&before), lapic(&after));
    let changed: Vec<_> = old.iter().zip(&new).filter(|(a, b)| a != b).collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(
        changed[0].1.clone(),
        ("task_priority".to_owned(), "32 (0x20)".to_owned())
    );
    assert_eq!(describe("hpet", &[0xab])[1].1, "ab");
}

#[test]
fn reset_restores_the_boot_state_but_not_the_time() {
    let mut board = board();
    redirect(&mut board, 4, 0x24);
    out(&mut board, 0x3f9, 0x0f);
    board.reset(T0);
    let mut fresh = self::board();
    fresh.reset(T0);
    assert_eq!(board, fresh);
}

/// The board behind the one-address interface of the conformance suite.
#[derive(Clone, Debug, PartialEq)]
struct Wrapped(Board);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct WrappedStateV1(Vec<Section>);

impl SavedState for WrappedStateV1 {
    const KIND: &'static str = "wrapped";
    const VERSION: u16 = 1;
}

impl Device for Wrapped {
    type Saved = WrappedStateV1;

    fn reset(&mut self, now: VirtualTime) {
        self.0.reset(now);
    }

    fn advance(&mut self, now: VirtualTime) {
        self.0.advance(now);
        let _ = self.0.take_events();
    }

    fn next_deadline(&self) -> Option<VirtualTime> {
        self.0.next_deadline()
    }

    fn save(&self) -> WrappedStateV1 {
        WrappedStateV1(self.0.save())
    }

    fn restore(saved: WrappedStateV1) -> Result<Self, RestoreError> {
        Board::restore(&saved.0).map(Self)
    }
}

const MMIO: u64 = 1 << 40;
const MSR: u64 = 2 << 40;
const INPUT: u64 = 3 << 40;
const SPACE: u64 = !0 << 40;

impl Subject for Wrapped {
    fn addresses() -> Vec<u64> {
        let ports = [
            0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71,
        ];
        let more = [0x80, 0x92, 0xe9, 0x402, 0x600, 0x608, 0x610];
        let serial = 0x3f8..0x400;
        let apics = [0, 0, 0x10, 0x10, 0x10, 0x40].map(|offset| MMIO | (IOAPIC_BASE + offset));
        let lapic = (0..0x40).map(|register| MMIO | (LAPIC_BASE + 16 * register));
        let msrs = [0x1b, 0x6e0, 0x80b, 0x80f, 0x832, 0x835, 0x838, 0x83f].map(|msr| MSR | msr);
        let inputs = [0, 1, 2, 3, 4, 5, 5, 5, 6, 6].map(|input| INPUT | input);
        let pci = [0xcf8, 0xcf8, 0xcfc, 0xcfe];
        let ecam = (0..6).flat_map(|slot| [0x04, 0x10, 0x14, 0x43].map(|at| slot << 15 | at));
        let ecam = ecam.map(|offset| MMIO | (ECAM_BASE + offset));
        let bars = [
            0xc000_0000,
            window_64(46).start,
            window_64(46).start + (2 << 19),
        ];
        let registers = [0x0c, 0x14, 0x16, 0x1c, 0x20, 0x2000, 0x6000, 0x8000, 0x800c];
        let bars = bars
            .into_iter()
            .flat_map(|bar| registers.map(|at| MMIO | (bar + at)));
        let bars: Vec<u64> = bars.collect();
        ports
            .into_iter()
            .chain(more)
            .chain(serial)
            .chain(apics)
            .chain(lapic)
            .chain(msrs)
            .chain(inputs)
            .chain(pci)
            .chain(ecam)
            .chain(bars)
            .collect()
    }

    fn guest_read(&mut self, address: u64, size: u8, now: VirtualTime) -> u64 {
        let board = &mut self.0;
        let value = match address & SPACE {
            MMIO => board.mmio_read(address & !SPACE, size, now),
            MSR => board.msr_read(address as u32, now).unwrap_or(1),
            INPUT => u64::from(board.acknowledge_interrupt()),
            _ => u64::from(board.pio_read(address as u16, size, now)),
        };
        let pending = board.pending_interrupt().map_or(0, u64::from);
        let _ = board.take_events();
        value ^ pending << 32
    }

    fn guest_write(&mut self, address: u64, size: u8, value: u64, now: VirtualTime) {
        let board = &mut self.0;
        match address & SPACE {
            MMIO => board.mmio_write(address & !SPACE, size, value, now, &mut NoRam),
            MSR => {
                let _ = board.msr_write(address as u32, value, now);
            }
            INPUT => {
                board.advance(now);
                match address & 7 {
                    0 => assert!(board.serial_input(&value.to_le_bytes()) <= 8),
                    1 => board.power_button(),
                    2 => assert!(board.deliver_msi(LAPIC_BASE, value as u32 & 0xff) || size > 0),
                    3 => board.set_tsc_offset(value, now),
                    4 => board.set_cr8(value as u8),
                    6 => {
                        let index = (value >> 8) as usize % 6;
                        let input = any_input(value, size);
                        let _ = board.virtio_input(index, input, &mut NoRam, now);
                    }
                    _ => {
                        board.acknowledge_interrupt();
                    }
                }
            }
            _ => board.pio_write(address as u16, size, value as u32, now, &mut NoRam),
        }
        let _ = board.take_events();
    }
}

/// Inputs of every device, sound or not.
fn any_input(value: u64, size: u8) -> VirtioInput {
    let bytes = Payload::from(vec![value as u8; 4 * usize::from(size)]);
    let id = value >> 16 & 3;
    match value & 7 {
        0 => VirtioInput::BlockCompletion {
            id,
            result: Ok(bytes),
        },
        1 => VirtioInput::BlockResize {
            sectors: value >> 4,
        },
        2 => VirtioInput::NetReceive(bytes),
        3 => VirtioInput::NetLink { up: id == 0 },
        4 => VirtioInput::ConsoleInput(bytes),
        5 => VirtioInput::Entropy { id, bytes },
        6 => VirtioInput::VsockReceive(bytes),
        _ => VirtioInput::VsockTransportReset { guest_cid: id },
    }
}

#[test]
fn conforms() {
    run(|| Wrapped(board()), 60);
}

#[test]
fn conforms_with_pci_devices() {
    run(|| Wrapped(super::pci_tests::board()), 30);
}
