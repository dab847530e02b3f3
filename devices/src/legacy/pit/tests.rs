//! Tests of the interval timer: what Linux relies on, and the conformance suite.

use super::*;
use crate::conformance::{self, Subject};

const CONTROL: u16 = 3;

fn at(tick: u64) -> VirtualTime {
    TickRate::PIT.time_of(tick).unwrap()
}

fn program(pit: &mut Pit, control: u8, count: u16, tick: u64) {
    pit.write(CONTROL, control, at(tick));
    for byte in count.to_le_bytes() {
        pit.write(u16::from(control >> 6), byte, at(tick));
    }
}

fn value(pit: &mut Pit, channel: u16, tick: u64) -> u16 {
    pit.write(CONTROL, (channel as u8) << 6, at(tick));
    let low = pit.read(channel, at(tick));
    u16::from_le_bytes([low, pit.read(channel, at(tick))])
}

#[test]
fn periodic_mode_interrupts_every_count_and_keeps_phase() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 4773, 100);
    assert_eq!(pit.next_deadline(), Some(at(101 + 4773)));
    pit.advance(VirtualTime(at(101 + 4773).0 - 1));
    assert!(!pit.take_pulse());
    pit.advance(at(101 + 4773));
    assert!(pit.take_pulse());
    pit.advance(at(101 + 5 * 4773 + 7));
    assert!(pit.take_pulse());
    assert_eq!(pit.next_deadline(), Some(at(101 + 6 * 4773)));
    assert_eq!(value(&mut pit, 0, 101 + 5 * 4773 + 7), 4773 - 7);
}

#[test]
fn a_new_count_waits_for_the_end_of_the_period() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 1000, 0);
    pit.write(0, 0xf4, at(10));
    pit.write(0, 0x01, at(10));
    assert_eq!(pit.next_deadline(), Some(at(1001)));
    pit.advance(at(1001));
    assert_eq!(pit.next_deadline(), Some(at(1501)));
}

#[test]
fn one_shot_modes_interrupt_once() {
    for (control, delay) in [(0x30, 500), (0x38, 501)] {
        let mut pit = Pit::new();
        program(&mut pit, control, 500, 0);
        assert_eq!(pit.next_deadline(), Some(at(1 + delay)), "{control:#x}");
        pit.advance(at(100_000));
        assert!(pit.take_pulse());
        assert_eq!(pit.next_deadline(), None);
        program(&mut pit, control, 0, 100_000);
        assert_eq!(
            pit.next_deadline(),
            Some(at(100_001 + delay - 500 + 0x1_0000))
        );
    }
}

#[test]
fn mode_without_a_count_stops_the_timer() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 1000, 0);
    pit.write(CONTROL, 0x30, at(50));
    assert_eq!(pit.next_deadline(), None);
}

#[test]
fn the_linux_tsc_calibration_sees_channel_2_count_and_finish() {
    let mut pit = Pit::new();
    pit.write_system_control(0x01, at(0));
    program(&mut pit, 0xb0, 0xffff, 10);
    // quick_pit_calibrate reads the count unlatched, low byte first, and watches the high byte.
    pit.read(2, at(11));
    assert_eq!(pit.read(2, at(11)), 0xff);
    pit.read(2, at(11 + 0x1_00));
    assert_eq!(pit.read(2, at(11 + 0x1_00)), 0xfe);
    // pit_calibrate_tsc waits for the output in port 0x61.
    program(&mut pit, 0xb0, 11_931, 1000);
    assert_eq!(
        pit.read_system_control(at(1000 + 11_931)) & CONTROL_OUTPUT,
        0
    );
    assert_eq!(
        pit.read_system_control(at(1001 + 11_931)) & CONTROL_OUTPUT,
        CONTROL_OUTPUT
    );
}

#[test]
fn a_low_gate_holds_the_count() {
    let mut pit = Pit::new();
    pit.write_system_control(1, at(0));
    program(&mut pit, 0xb0, 1000, 0);
    pit.write_system_control(0, at(101));
    assert_eq!(value(&mut pit, 2, 5000), 900);
    pit.write_system_control(1, at(5000));
    assert_eq!(value(&mut pit, 2, 5001), 900);
    assert_eq!(
        pit.read_system_control(at(5901)) & CONTROL_OUTPUT,
        CONTROL_OUTPUT
    );
}

#[test]
fn square_wave_is_high_half_the_time_and_counts_by_two() {
    let mut pit = Pit::new();
    pit.write_system_control(1, at(0));
    program(&mut pit, 0xb6, 11, 0);
    for period in 0..3 {
        for phase in 0..11 {
            let now = at(1 + 11 * period + phase);
            let high = pit.read_system_control(now) & CONTROL_OUTPUT != 0;
            assert_eq!(high, phase < 6, "{phase}");
        }
    }
    assert_eq!(value(&mut pit, 2, 1 + 33 + 2), 6);
}

#[test]
fn read_back_latches_status_then_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 1000, 0);
    pit.write(CONTROL, 0xc2, at(11));
    assert_eq!(pit.read(0, at(500)), 0xb4);
    assert_eq!(
        u16::from_le_bytes([pit.read(0, at(500)), pit.read(0, at(501))]),
        990
    );
}

#[test]
fn decimal_counts_are_decimal_both_ways() {
    let mut pit = Pit::new();
    program(&mut pit, 0x31, 0x1234, 0);
    assert_eq!(pit.next_deadline(), Some(at(1 + 1234)));
    assert_eq!(value(&mut pit, 0, 1 + 35), 0x1199);
}

#[test]
fn hardware_triggered_mode_starts_on_the_gate() {
    let mut pit = Pit::new();
    program(&mut pit, 0xb2, 50, 0);
    assert_eq!(
        pit.read_system_control(at(200)) & CONTROL_OUTPUT,
        CONTROL_OUTPUT
    );
    pit.write_system_control(1, at(200));
    assert_eq!(pit.read_system_control(at(201)) & CONTROL_OUTPUT, 0);
    assert_eq!(
        pit.read_system_control(at(251)) & CONTROL_OUTPUT,
        CONTROL_OUTPUT
    );
}

#[test]
fn the_refresh_bit_toggles() {
    let mut pit = Pit::new();
    let early = pit.read_system_control(at(0)) & CONTROL_REFRESH;
    let late = pit.read_system_control(at(REFRESH_TICKS)) & CONTROL_REFRESH;
    assert_ne!(early, late);
}

const GATE: u64 = 4;
const PULSE: u64 = 5;

impl Subject for Pit {
    fn addresses() -> Vec<u64> {
        [0, 0, 1, 2, 2, 3, 3, GATE, PULSE].to_vec()
    }

    fn guest_read(&mut self, address: u64, _size: u8, now: VirtualTime) -> u64 {
        match address {
            GATE => u64::from(self.read_system_control(now)),
            PULSE => u64::from(self.take_pulse()),
            _ => u64::from(Pit::read(self, address as u16, now)),
        }
    }

    fn guest_write(&mut self, address: u64, _size: u8, value: u64, now: VirtualTime) {
        match address {
            GATE => self.write_system_control(value as u8, now),
            _ => Pit::write(self, address as u16, value as u8, now),
        }
    }
}

#[test]
fn conforms() {
    conformance::run(Pit::new, 60);
}

#[test]
fn unreachable_states_are_refused() {
    let mut saved = Pit::new().save();
    saved.control = 0x80;
    assert!(Pit::restore(saved).is_err());
    let bytes = postcard::to_allocvec(&Pit::new().save()).unwrap();
    // Byte 0 is the mode of channel 0.
    let broken = [&[9], &bytes[1..]].concat();
    let saved: PitStateV1 = postcard::from_bytes(&broken).unwrap();
    assert!(Pit::restore(saved).is_err());
}
