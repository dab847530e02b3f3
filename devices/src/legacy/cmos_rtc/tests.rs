//! Tests of the real-time clock: what Linux relies on, and the conformance suite.

use super::*;
use crate::conformance::{self, Subject};

/// 2024-02-29 23:59:50 UTC, a Thursday.
const BASE: u64 = 1_709_251_190;

fn rtc() -> CmosRtc {
    let ram_below_4g = 0xc000_0000;
    CmosRtc::new(RtcConfig {
        base_seconds: BASE,
        ram_below_4g,
        ram_above_4g: 5 << 30,
    })
}

fn get(rtc: &mut CmosRtc, index: u8, now: VirtualTime) -> u8 {
    rtc.select(index);
    rtc.read(now)
}

fn put(rtc: &mut CmosRtc, index: u8, value: u8, now: VirtualTime) {
    rtc.select(index);
    assert_eq!(rtc.write(value, now), None);
}

fn time(rtc: &mut CmosRtc, now: VirtualTime) -> [u8; 8] {
    TIME_REGISTERS.map(|register| get(rtc, register, now))
}

fn seconds(count: u64) -> VirtualTime {
    VirtualTime(count * NANOS_PER_SECOND)
}

#[test]
fn wall_clock_is_base_plus_virtual_time_in_bcd() {
    let mut rtc = rtc();
    let expected = [0x50, 0x59, 0x23, 0x05, 0x29, 0x02, 0x24, 0x20];
    assert_eq!(time(&mut rtc, VirtualTime::ZERO), expected);
    let expected = [0x00, 0x00, 0x00, 0x06, 0x01, 0x03, 0x24, 0x20];
    assert_eq!(time(&mut rtc, seconds(10)), expected);
    assert_eq!(get(&mut rtc, REG_D, seconds(10)), D_VALID);
}

#[test]
fn binary_and_12_hour_modes() {
    let mut rtc = rtc();
    put(&mut rtc, REG_B, B_BINARY, seconds(0));
    assert_eq!(time(&mut rtc, seconds(0))[..3], [50, 59, 11 | HOUR_PM]);
    assert_eq!(time(&mut rtc, seconds(10))[..3], [0, 0, 12]);
}

#[test]
fn update_in_progress_shows_shortly_before_the_second_turns() {
    let mut rtc = rtc();
    let turn = seconds(1).0;
    for (now, expected) in [
        (0, 0x26),
        (turn - 244_001, 0x26),
        (turn - 244_000, 0xa6),
        (turn - 1, 0xa6),
        (turn, 0x26),
    ] {
        assert_eq!(get(&mut rtc, REG_A, VirtualTime(now)), expected, "{now}");
    }
}

#[test]
fn the_linux_set_time_sequence_moves_the_clock() {
    let mut rtc = rtc();
    let now = seconds(100);
    put(&mut rtc, REG_B, B_24_HOURS | B_SET, now);
    put(&mut rtc, REG_A, A_POWER_ON | 0x60, now);
    let fields = [0x56, 0x34, 0x12, 0x01, 0x31, 0x12, 0x99, 0x19];
    for (register, value) in TIME_REGISTERS.into_iter().zip(fields) {
        put(&mut rtc, register, value, now);
    }
    let later = seconds(105);
    assert_eq!(time(&mut rtc, later), fields, "stopped");
    put(&mut rtc, REG_B, B_24_HOURS, later);
    put(&mut rtc, REG_A, A_POWER_ON, later);
    let expected = [0x58, 0x34, 0x12, 0x06, 0x31, 0x12, 0x99, 0x19];
    assert_eq!(time(&mut rtc, seconds(107)), expected);
}

#[test]
fn update_interrupt_comes_each_second_until_register_c_is_read() {
    let mut rtc = rtc();
    put(
        &mut rtc,
        REG_B,
        B_24_HOURS | B_UPDATE_INTERRUPT,
        VirtualTime(5),
    );
    assert_eq!(rtc.next_deadline(), Some(seconds(1)));
    rtc.advance(seconds(1));
    assert!(rtc.irq_level());
    assert_eq!(
        rtc.next_deadline(),
        None,
        "nothing new before the flags are read"
    );
    let flags = get(&mut rtc, REG_C, seconds(1));
    assert_eq!(
        flags & (C_INTERRUPT | FLAG_UPDATE),
        C_INTERRUPT | FLAG_UPDATE
    );
    assert!(!rtc.irq_level());
    assert_eq!(rtc.next_deadline(), Some(seconds(2)));
}

#[test]
fn periodic_interrupt_has_the_rate_of_register_a() {
    let mut rtc = rtc();
    put(&mut rtc, REG_A, 0x2f, VirtualTime::ZERO);
    put(
        &mut rtc,
        REG_B,
        B_24_HOURS | FLAG_PERIODIC,
        VirtualTime::ZERO,
    );
    assert_eq!(rtc.next_deadline(), Some(VirtualTime(500_000_000)));
    put(&mut rtc, REG_A, 0x26, VirtualTime::ZERO);
    assert_eq!(
        rtc.next_deadline(),
        Some(VirtualTime(976_563)),
        "1/1024 s, rounded up"
    );
    put(&mut rtc, REG_A, 0x20, VirtualTime::ZERO);
    assert_eq!(rtc.next_deadline(), None);
}

#[test]
fn alarm_fires_at_the_next_match() {
    for (alarm, expected) in [
        ([0x55, 0x59, 0x23], Some(5)),
        ([0x50, 0x59, 0x23], Some(86_400)),
        ([0x30, 0x01, 0x00], Some(10 + 90)),
        ([0xff, 0xff, 0xff], Some(1)),
        ([0x00, 0xff, 0xff], Some(10)),
        ([0x00, 0x30, 0xff], Some(10 + 1800)),
        ([0x00, 0x00, 0x01], Some(10 + 3600)),
        ([0x00, 0x00, 0x24], None),
        ([0x60, 0xff, 0xff], None),
    ] {
        let mut rtc = rtc();
        for (register, value) in [1, 3, 5].into_iter().zip(alarm) {
            put(&mut rtc, register, value, VirtualTime::ZERO);
        }
        put(&mut rtc, REG_B, B_24_HOURS | FLAG_ALARM, VirtualTime::ZERO);
        assert_eq!(rtc.next_deadline(), expected.map(seconds), "{alarm:x?}");
    }
}

#[test]
fn flags_are_set_without_their_interrupts() {
    let mut rtc = rtc();
    assert_eq!(
        get(&mut rtc, REG_C, seconds(1)),
        FLAG_PERIODIC | FLAG_UPDATE
    );
    assert_eq!(get(&mut rtc, REG_C, seconds(1)), 0);
    assert!(!rtc.irq_level());
}

#[test]
fn the_shutdown_code_resets_the_machine() {
    let mut rtc = rtc();
    rtc.select(SHUTDOWN_INDEX);
    assert_eq!(rtc.write(5, VirtualTime::ZERO), None);
    assert_eq!(rtc.write(0, VirtualTime::ZERO), Some(PowerRequest::Reset));
    rtc.select(0x0f);
    assert_eq!(rtc.write(0, VirtualTime::ZERO), None);
}

#[test]
fn memory_sizes_are_where_firmware_looks() {
    let mut rtc = rtc();
    let mut byte = |index| u64::from(get(&mut rtc, index, VirtualTime::ZERO));
    assert_eq!(
        (byte(0x34) | byte(0x35) << 8) * 0x1_0000 + (16 << 20),
        0xc000_0000
    );
    assert_eq!(
        (byte(0x5b) | byte(0x5c) << 8 | byte(0x5d) << 16) * 0x1_0000,
        5 << 30
    );
    assert_eq!(byte(0x15) | byte(0x16) << 8, 640);
}

impl Subject for CmosRtc {
    fn addresses() -> Vec<u64> {
        let registers = (0..0x10u64).chain([0x32, 0x40, 0x8f]);
        registers
            .chain([0x0a, 0x0b, 0x0b, 0x0b, 0x0c, 0x01, 0x03, 0x05].repeat(3))
            .collect()
    }

    fn guest_read(&mut self, address: u64, _size: u8, now: VirtualTime) -> u64 {
        u64::from(get(self, address as u8, now)) | u64::from(self.irq_level()) << 8
    }

    fn guest_write(&mut self, address: u64, _size: u8, value: u64, now: VirtualTime) {
        self.select(address as u8);
        let _ = CmosRtc::write(self, value as u8, now);
    }
}

#[test]
fn conforms() {
    conformance::run(rtc, 60);
    conformance::run(
        || {
            CmosRtc::new(RtcConfig {
                base_seconds: u64::MAX,
                ..Default::default()
            })
        },
        5,
    );
}

#[test]
fn unreachable_states_are_refused() {
    let good = rtc().save();
    let mut cases = vec![good; 3];
    cases[0].memory.pop();
    cases[1].seconds_at_zero = i64::MAX;
    cases[2].register_b |= B_SET;
    for saved in cases {
        assert!(CmosRtc::restore(saved).is_err());
    }
}
