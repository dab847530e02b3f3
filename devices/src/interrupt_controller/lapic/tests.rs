//! Tests of the local APIC: what Linux relies on, and the conformance suite.

use super::*;
use crate::conformance::{self, Subject};

const SVR: u64 = 0xf0;
const EOI: u64 = 0xb0;
const LVT_TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const NOW: VirtualTime = VirtualTime(1_000_000);

fn config() -> LapicConfig {
    LapicConfig {
        id: 0,
        boot_processor: true,
        phys_address_bits: 46,
        tsc_khz: 1_000_000,
    }
}

fn enabled() -> Lapic {
    let mut lapic = Lapic::new(config());
    write(&mut lapic, SVR, 0x1ff);
    lapic
}

fn x2apic() -> Lapic {
    let mut lapic = enabled();
    let base = lapic.base_register() | BASE_X2APIC;
    assert_eq!(lapic.write_base_register(base), Some(Effect::Reconfigured));
    lapic
}

fn write(lapic: &mut Lapic, offset: u64, value: u32) {
    write_at(lapic, offset, value, NOW);
}

fn write_at(lapic: &mut Lapic, offset: u64, value: u32, now: VirtualTime) {
    let _ = lapic.mmio_write(offset, 4, u64::from(value), now);
}

fn read(lapic: &mut Lapic, offset: u64, now: VirtualTime) -> u32 {
    lapic.mmio_read(offset, 4, now) as u32
}

fn fixed(vector: u8, trigger: TriggerMode) -> InterruptMessage {
    let destination = Destination::Physical(0);
    InterruptMessage {
        destination,
        mode: DeliveryMode::Fixed,
        trigger,
        vector,
    }
}

fn request(lapic: &mut Lapic, vector: u8) {
    assert_eq!(
        lapic.deliver(&fixed(vector, TriggerMode::Edge)),
        Delivery::Accepted
    );
}

#[test]
fn power_on_values_are_the_manuals() {
    let mut lapic = Lapic::new(config());
    assert_eq!(lapic.base_register(), 0xfee0_0900);
    assert_eq!(lapic.mmio_base(), Some(LAPIC_BASE));
    for (offset, value) in [
        (SVR, 0xff),
        (0x30, 0x0105_0014),
        (LVT_TIMER, 0x1_0000),
        (0xe0, u32::MAX),
        (0x80, 0),
    ] {
        assert_eq!(read(&mut lapic, offset, NOW), value, "{offset:#x}");
    }
    write(&mut lapic, LVT_TIMER, 0x30);
    assert_eq!(
        read(&mut lapic, LVT_TIMER, NOW),
        0x1_0030,
        "disabled: the mask sticks"
    );
    assert_eq!(
        lapic.deliver(&fixed(0x40, TriggerMode::Edge)),
        Delivery::Refused
    );
}

#[test]
fn vectors_are_served_by_priority_class() {
    let mut lapic = enabled();
    request(&mut lapic, 0x41);
    request(&mut lapic, 0x52);
    assert_eq!(lapic.acknowledge(), 0x52);
    assert_eq!(lapic.pending_vector(), None);
    request(&mut lapic, 0x5f);
    assert_eq!(lapic.pending_vector(), None, "same class waits");
    request(&mut lapic, 0x60);
    assert_eq!(lapic.acknowledge(), 0x60);
    for next in [0x5f, 0x41] {
        write(&mut lapic, EOI, 0);
        if next == 0x5f {
            write(&mut lapic, EOI, 0);
        }
        assert_eq!(lapic.acknowledge(), next);
    }
}

#[test]
fn task_priority_holds_back_its_class_and_shows_in_cr8_and_ppr() {
    let mut lapic = enabled();
    lapic.set_cr8(5);
    assert_eq!(read(&mut lapic, 0x80, NOW), 0x50);
    request(&mut lapic, 0x5f);
    assert_eq!(lapic.pending_vector(), None);
    write(&mut lapic, 0x80, 0x4f);
    assert_eq!(lapic.cr8(), 4);
    assert_eq!(lapic.acknowledge(), 0x5f);
    assert_eq!(read(&mut lapic, 0xa0, NOW), 0x50);
    assert_eq!(
        read(&mut lapic, 0x120, NOW),
        1 << 31,
        "in-service bit of 0x5f"
    );
}

#[test]
fn level_interrupts_end_at_the_ioapic_and_edges_do_not() {
    let mut lapic = enabled();
    let _ = lapic.deliver(&fixed(0x71, TriggerMode::Level));
    assert_eq!(read(&mut lapic, 0x1b0, NOW), 1 << 17);
    assert_eq!(lapic.acknowledge(), 0x71);
    let ended = Effect::EndOfInterrupt { vector: 0x71 };
    assert_eq!(lapic.mmio_write(EOI, 4, 0, NOW), ended);
    request(&mut lapic, 0x71);
    assert_eq!(lapic.acknowledge(), 0x71);
    assert_eq!(lapic.mmio_write(EOI, 4, 0, NOW), Effect::None);
    assert_eq!(
        lapic.mmio_write(EOI, 4, 0, NOW),
        Effect::None,
        "nothing in service"
    );

    write(&mut lapic, SVR, 0x11ff);
    let _ = lapic.deliver(&fixed(0x71, TriggerMode::Level));
    assert_eq!(lapic.acknowledge(), 0x71);
    assert_eq!(
        lapic.mmio_write(EOI, 4, 0, NOW),
        Effect::None,
        "broadcast suppressed"
    );
}

#[test]
fn one_shot_timer_counts_down_at_25_mhz_over_the_divisor() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_TIMER, 0xec);
    write(&mut lapic, DIVIDE, 0b0011);
    write(&mut lapic, INITIAL_COUNT, 1000);
    let tick = 40 * 16;
    assert_eq!(
        lapic.next_deadline(),
        Some(VirtualTime(NOW.0 + 1000 * tick))
    );
    assert_eq!(
        read(
            &mut lapic,
            CURRENT_COUNT,
            VirtualTime(NOW.0 + 10 * tick + 1)
        ),
        990
    );
    lapic.advance(VirtualTime(NOW.0 + 1000 * tick - 1));
    assert_eq!(lapic.pending_vector(), None);
    lapic.advance(VirtualTime(NOW.0 + 1000 * tick));
    assert_eq!(lapic.pending_vector(), Some(0xec));
    assert_eq!(lapic.next_deadline(), None);
    assert_eq!(read(&mut lapic, CURRENT_COUNT, VirtualTime(u64::MAX)), 0);
}

#[test]
fn every_divisor_code_is_right() {
    for (code, divisor) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        let mut lapic = enabled();
        write(&mut lapic, LVT_TIMER, 0xec);
        write(&mut lapic, DIVIDE, code);
        write(&mut lapic, INITIAL_COUNT, 3);
        let expiry = VirtualTime(NOW.0 + 3 * TIMER_TICK_NS * divisor);
        assert_eq!(lapic.next_deadline(), Some(expiry), "{code}");
    }
}

#[test]
fn periodic_timer_keeps_its_phase_over_missed_periods() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_TIMER, 0x2_00ec);
    write(&mut lapic, DIVIDE, 0b1011);
    write(&mut lapic, INITIAL_COUNT, 100);
    lapic.advance(VirtualTime(NOW.0 + 3 * 4000 + 1));
    assert_eq!(lapic.acknowledge(), 0xec);
    assert_eq!(lapic.next_deadline(), Some(VirtualTime(NOW.0 + 4 * 4000)));
    write(&mut lapic, INITIAL_COUNT, 0);
    assert_eq!(lapic.next_deadline(), None, "zero stops it");
}

#[test]
fn a_masked_timer_has_no_deadline_and_loses_its_expiry() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_TIMER, 0x1_00ec);
    write(&mut lapic, INITIAL_COUNT, 100);
    assert_eq!(lapic.next_deadline(), None);
    let later = VirtualTime(NOW.0 + 1_000_000);
    write_at(&mut lapic, LVT_TIMER, 0xec, later);
    assert_eq!(lapic.pending_vector(), None);
}

#[test]
fn tsc_deadline_follows_the_guest_offset_and_disarms_when_it_fires() {
    let mut lapic = enabled();
    lapic.write_tsc_deadline(5, NOW);
    assert_eq!(lapic.tsc_deadline(NOW), 0, "ignored in one-shot mode");
    write(&mut lapic, LVT_TIMER, 0x4_00ec);
    lapic.set_tsc_offset(0u64.wrapping_sub(NOW.0), NOW);
    lapic.write_tsc_deadline(5000, NOW);
    assert_eq!(lapic.next_deadline(), Some(VirtualTime(NOW.0 + 5000)));
    lapic.set_tsc_offset(1000u64.wrapping_sub(NOW.0), NOW);
    assert_eq!(lapic.next_deadline(), Some(VirtualTime(NOW.0 + 4000)));
    assert_eq!(lapic.tsc_deadline(VirtualTime(NOW.0 + 3999)), 5000);
    assert_eq!(lapic.tsc_deadline(VirtualTime(NOW.0 + 4000)), 0);
    assert_eq!(lapic.acknowledge(), 0xec);
    write(&mut lapic, EOI, 0);
    lapic.write_tsc_deadline(1, VirtualTime(NOW.0 + 4000));
    assert_eq!(
        lapic.pending_vector(),
        Some(0xec),
        "a past deadline fires at once"
    );
    lapic.write_tsc_deadline(u64::MAX, VirtualTime(NOW.0 + 4000));
    write(&mut lapic, LVT_TIMER, 0xec);
    assert_eq!(lapic.tsc_deadline(NOW), 0, "leaving the mode disarms");
}

#[test]
fn icr_writes_become_messages() {
    let mut lapic = enabled();
    write(&mut lapic, 0x310, 0x0300_0000);
    let Effect::Send(message) = lapic.mmio_write(0x300, 4, 0xc500, NOW) else {
        panic!("INIT is sent");
    };
    assert_eq!(message.destination, Destination::Physical(3));
    assert_eq!(CpuSignal::from_message(&message), Some(CpuSignal::Init));
    assert_eq!(
        lapic.mmio_write(0x300, 4, 0x8500, NOW),
        Effect::None,
        "INIT de-assert"
    );
    let Effect::Send(message) = lapic.mmio_write(0x300, 4, 0x0004_0041, NOW) else {
        panic!("self IPI is sent");
    };
    assert_eq!(
        (message.destination, message.vector),
        (Destination::Sender, 0x41)
    );
    assert_eq!(read(&mut lapic, 0x300, NOW), 0x0004_0041);
}

#[test]
fn errors_show_after_a_write_and_interrupt_once() {
    let mut lapic = enabled();
    write(&mut lapic, 0x370, 0xfe);
    assert_eq!(lapic.mmio_write(0x300, 4, 0x0004_0003, NOW), Effect::None);
    assert_eq!(lapic.acknowledge(), 0xfe);
    assert_eq!(read(&mut lapic, 0x280, NOW), 0);
    write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280, NOW), ERROR_SEND_ILLEGAL_VECTOR);
    write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280, NOW), 0);
}

#[test]
fn logical_destinations_match_in_flat_cluster_and_x2apic_form() {
    let mut lapic = enabled();
    write(&mut lapic, 0xd0, 0x0100_0000);
    assert!(lapic.is_addressed(Destination::Logical(0x03)));
    assert!(!lapic.is_addressed(Destination::Logical(0x02)));
    write(&mut lapic, 0xd0, 0x2100_0000);
    write(&mut lapic, 0xe0, 0x0fff_ffff);
    assert!(lapic.is_addressed(Destination::Logical(0x21)));
    assert!(!lapic.is_addressed(Destination::Logical(0x11)));
    let lapic = x2apic();
    assert!(lapic.is_addressed(Destination::Logical(1)));
    assert!(!lapic.is_addressed(Destination::Logical(0x1_0001)));
    assert!(lapic.is_addressed(Destination::from_byte(0xff, false)));
}

#[test]
fn x2apic_mode_is_entered_and_left_only_the_legal_way() {
    let mut lapic = x2apic();
    assert_eq!(lapic.mmio_base(), None);
    let base = lapic.base_register();
    assert_eq!(lapic.write_base_register(base & !BASE_X2APIC), None);
    assert_eq!(lapic.write_base_register(base & !BASE_ENABLED), None);
    assert_eq!(lapic.write_base_register(base | 1), None);
    assert_eq!(lapic.write_base_register(base | 1 << 46), None);
    assert!(
        lapic
            .write_base_register(base & !(BASE_X2APIC | BASE_ENABLED))
            .is_some()
    );
    assert!(
        lapic.passes_external_interrupts(),
        "the pin is wired through"
    );
    assert_eq!(lapic.write_base_register(base), None);
    assert!(lapic.write_base_register(base & !BASE_X2APIC).is_some());
    assert_eq!(read(&mut lapic, SVR, NOW), 0xff, "disabling resets");
}

#[test]
fn x2apic_msrs_fault_where_the_manual_says() {
    let mut lapic = x2apic();
    for register in [0x0c, 0x0e, 0x31, 0x3f, 0x0b, 0x40] {
        assert_eq!(lapic.msr_read(register, NOW), None, "{register:#x}");
    }
    for (register, value) in [
        (0x02, 0),
        (0x0b, 1),
        (0x28, 1),
        (0x08, 0x100),
        (0x0d, 0),
        (0x39, 0),
        (0x30, 1 << 13),
    ] {
        assert_eq!(lapic.msr_write(register, value, NOW), None, "{register:#x}");
    }
    assert_eq!(lapic.msr_read(0x0d, NOW), Some(1));
    let Some(Effect::Send(message)) = lapic.msr_write(0x3f, 0x99, NOW) else {
        panic!("self IPI is sent");
    };
    assert_eq!(
        (message.destination, message.vector),
        (Destination::Sender, 0x99)
    );
    let Some(Effect::Send(message)) = lapic.msr_write(0x30, 0x0000_0005_0000_0040, NOW) else {
        panic!("IPI is sent");
    };
    assert_eq!(message.destination, Destination::Physical(5));
    assert_eq!(
        enabled().msr_read(0x02, NOW),
        None,
        "xAPIC mode has no MSRs"
    );
}

#[test]
fn lint0_level_interrupt_repeats_until_the_line_drops() {
    let mut lapic = enabled();
    write(&mut lapic, 0x350, 0x8061);
    assert_eq!(lapic.set_lint0(true), None);
    assert_eq!(lapic.acknowledge(), 0x61);
    write(&mut lapic, EOI, 0);
    assert_eq!(lapic.acknowledge(), 0x61);
    assert_eq!(lapic.set_lint0(false), None);
    write(&mut lapic, EOI, 0);
    assert_eq!(lapic.pending_vector(), None);
}

#[test]
fn virtual_wire_mode_passes_external_interrupts_and_nmi() {
    let mut lapic = Lapic::new(config());
    assert!(!lapic.passes_external_interrupts());
    lapic.enter_virtual_wire_mode();
    assert!(lapic.passes_external_interrupts());
    assert_eq!(lapic.pulse_lint1(), Some(CpuSignal::Nmi));
}

#[test]
fn spurious_acknowledge_leaves_no_trace() {
    let mut lapic = enabled();
    let before = lapic.clone();
    assert_eq!(lapic.acknowledge(), 0xff);
    assert_eq!(lapic, before);
}

const MSR_SPACE: u64 = 0x10_0000;
const BASE_MSR: u64 = 0x20_0000;
const DEADLINE_MSR: u64 = 0x20_0008;
const OFFSET: u64 = 0x20_0010;
const INPUT: u64 = 0x20_0018;

impl Subject for Lapic {
    fn addresses() -> Vec<u64> {
        let registers = (0..0x40u64).flat_map(|register| [register << 4, MSR_SPACE | register]);
        let timer = [LVT_TIMER, INITIAL_COUNT, DIVIDE, SVR, EOI].repeat(6);
        let others = [BASE_MSR, DEADLINE_MSR, OFFSET, INPUT].repeat(8);
        registers.chain(timer).chain(others).collect()
    }

    fn guest_read(&mut self, address: u64, size: u8, now: VirtualTime) -> u64 {
        match address {
            BASE_MSR => self.base_register(),
            DEADLINE_MSR => self.tsc_deadline(now),
            INPUT => u64::from(self.acknowledge()),
            _ if address & !0xff == MSR_SPACE => {
                self.msr_read(address as u8, now).unwrap_or(u64::MAX)
            }
            _ => self.mmio_read(address & 0xfff, size, now),
        }
    }

    fn guest_write(&mut self, address: u64, size: u8, value: u64, now: VirtualTime) {
        match address {
            BASE_MSR => {
                let base = LAPIC_BASE | (value & 0xd00);
                let _ = self.write_base_register(if value & 7 == 0 { value } else { base });
            }
            DEADLINE_MSR => self.write_tsc_deadline(now.0.wrapping_add(value), now),
            OFFSET => self.set_tsc_offset(value.wrapping_sub(1 << 20), now),
            INPUT => {
                self.advance(now);
                let _ = self.set_lint0(value & 0x100 != 0);
                let level = value & 0x200 != 0;
                let trigger = if level {
                    TriggerMode::Level
                } else {
                    TriggerMode::Edge
                };
                let _ = self.deliver(&fixed(value as u8, trigger));
            }
            _ if address & !0xff == MSR_SPACE => {
                let _ = self.msr_write(address as u8, value, now);
            }
            _ => {
                let _ = self.mmio_write(address & 0xfff, size, value, now);
            }
        }
    }
}

#[test]
fn conforms() {
    conformance::run(|| Lapic::new(config()), 40);
    conformance::run(x2apic, 40);
}

#[test]
fn unreachable_states_are_refused() {
    let good = enabled().save();
    let mut cases = vec![good.clone(); 4];
    cases[0].config.phys_address_bits = 99;
    cases[1].requests[0] = 1;
    cases[2].base = BASE_X2APIC;
    cases[3].spurious = 0xff;
    cases[3].lvt[0] = 0x30;
    for saved in cases {
        assert!(Lapic::restore(saved).is_err());
    }
    assert!(Lapic::restore(good).is_ok());
}
