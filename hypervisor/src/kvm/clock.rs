//! Logical time, virtual time and the guest's time-stamp counter, all from the host's counter.
//!
//! ```text
//!   host counter h ──▶ logical time  = anchor time + (h - anchor) in nanoseconds
//!         │                  │ set_tsc_clock: virtual time is a function of it, 1 ns per unit
//!         └──────────▶ guest counter = scaled h + offset = ticks of virtual time + adjustment
//! ```
//!
//! Both are read off one counter, so that a guest never sees its counter and its timers drift
//! apart. Logical time moves only with [`GuestClock::enter`] and [`GuestClock::leave`]. What
//! passes between two runs counts, because the guest's counter does not stand still then either;
//! but a long gap is a pause, and is taken back out of the guest's counter by its offset, which
//! the guest cannot notice. Nothing here makes a system call; the vCPU does what follows.

use crate::cpu_model::ticks_at;
use crate::vcpu::TscClock;

/// A gap between two runs that is longer is a pause: the guest's time stands still in it.
const LONGEST_GAP_NS: u64 = 100_000_000;
/// Nanoseconds in a millisecond.
const NS_PER_MS: u128 = 1_000_000;

/// How the host's counter becomes the guest's, but for the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scale {
    /// Frequency of the host's counter, in kHz.
    pub host_khz: u32,
    /// Frequency of the guest's counter, in kHz.
    pub guest_khz: u32,
    /// A value of the host's counter.
    pub host: u64,
    /// What the scaled counter was then.
    pub scaled: u64,
}

impl Scale {
    /// A counter that the guest sees as it is.
    pub fn none(khz: u32) -> Self {
        Self {
            host_khz: khz,
            guest_khz: khz,
            host: 0,
            scaled: 0,
        }
    }

    /// The scaled counter when the host's is `host`.
    pub fn at(&self, host: u64) -> u64 {
        if self.host_khz == self.guest_khz {
            return self.scaled.wrapping_add(host.wrapping_sub(self.host));
        }
        let passed = u128::from(host.saturating_sub(self.host)) * u128::from(self.guest_khz);
        self.scaled
            .wrapping_add((passed / u128::from(self.host_khz)) as u64)
    }

    /// Nanoseconds in which the host's counter makes so many ticks.
    pub fn ns(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * NS_PER_MS / u128::from(self.host_khz)) as u64
    }
}

/// Time of one vCPU. All parameters called `host` are values of the host's counter.
#[derive(Debug)]
pub(super) struct GuestClock {
    scale: Scale,
    /// Logical time at the last entry or exit.
    time: u64,
    /// The host's counter at that moment.
    seen: u64,
    /// Logical time at `anchor`.
    anchor_time: u64,
    anchor: u64,
    /// The guest's counter is the scaled host counter plus this.
    offset: u64,
    /// What virtual time was last set to.
    set: TscClock,
    /// What the guest's counter is ahead of virtual time.
    adjustment: u64,
    /// The last entry found its time over, so that the guest has not run since.
    starved: bool,
}

impl GuestClock {
    pub fn new(scale: Scale, host: u64) -> Self {
        Self {
            scale,
            time: 0,
            seen: host,
            anchor_time: 0,
            anchor: host,
            offset: 0,
            set: TscClock::default(),
            adjustment: 0,
            starved: false,
        }
    }

    /// Logical time at the last entry or exit.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// What virtual time was last set to.
    pub fn clock(&self) -> TscClock {
        self.set
    }

    /// What KVM has to add to the scaled host counter.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What the guest's counter is ahead of virtual time, modulo 2^64.
    pub fn adjustment(&self) -> u64 {
        self.adjustment
    }

    /// Host counter ticks in `ns`.
    pub fn host_ticks(&self, ns: u64) -> u64 {
        let ticks = u128::from(ns) * u128::from(self.scale.host_khz) / NS_PER_MS;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    fn time_of(&self, host: u64) -> u64 {
        self.anchor_time + self.scale.ns(host.saturating_sub(self.anchor))
    }

    /// The guest's counter.
    fn guest(&self, host: u64) -> u64 {
        self.scale.at(host).wrapping_add(self.offset)
    }

    /// The guest is about to be entered, to run until `until`. Says whether it has anything left
    /// to run; if not, the next entry has, whatever passes until then.
    pub fn enter(&mut self, host: u64, until: u64) -> bool {
        let gap = host.saturating_sub(self.seen);
        if self.starved || self.scale.ns(gap) > LONGEST_GAP_NS {
            let guest_before = self.guest(self.seen);
            self.anchor = self.anchor.saturating_add(gap);
            self.seen = self.seen.max(host);
            self.offset = guest_before.wrapping_sub(self.scale.at(self.seen));
            self.starved = false;
            return true;
        }
        self.leave(host);
        self.starved = self.time >= until;
        !self.starved
    }

    /// The guest was left, or is looked at while it is not running.
    pub fn leave(&mut self, host: u64) {
        self.time = self.time.max(self.time_of(host));
        self.seen = self.seen.max(host);
    }

    /// Another state: logical time, what virtual time follows, and the adjustment.
    pub fn restore(&mut self, time: u64, clock: TscClock, adjustment: u64, host: u64) {
        self.time = time;
        self.adjustment = adjustment;
        self.starved = false;
        self.set(clock, host);
    }

    /// Virtual time follows `clock` from now on; the guest's counter is set after it.
    pub fn set(&mut self, clock: TscClock, host: u64) {
        self.set = clock;
        self.anchor = host;
        self.seen = host;
        self.anchor_time = self.time;
        let ticks = ticks_at(clock.ns_at(self.time), self.scale.guest_khz);
        self.offset = ticks
            .wrapping_add(self.adjustment)
            .wrapping_sub(self.scale.at(host));
    }

    /// The guest writes its counter. Spec: Intel SDM vol. 3B §18.17.3.
    pub fn write_counter(&mut self, value: u64, host: u64) {
        self.write_adjustment(
            self.adjustment
                .wrapping_add(value.wrapping_sub(self.guest(host))),
        );
    }

    /// The guest writes what its counter is ahead.
    pub fn write_adjustment(&mut self, value: u64) {
        let change = value.wrapping_sub(self.adjustment);
        self.adjustment = value;
        self.offset = self.offset.wrapping_add(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1 << 32;

    fn clock(base_time: u64, base_ns: u64) -> TscClock {
        TscClock {
            base_time,
            base_ns,
            rate: RATE,
        }
    }

    /// A clock at logical time zero and virtual time zero, and its host counter.
    fn started(host_khz: u32, guest_khz: u32) -> (GuestClock, u64) {
        let host = 77_000_000_000;
        let scale = Scale {
            host_khz,
            guest_khz,
            host: 5,
            scaled: 9,
        };
        let mut guest = GuestClock::new(scale, host);
        guest.restore(0, clock(0, 0), 0, host);
        (guest, host)
    }

    /// What the guest's counter should show at the clock's time.
    fn expected(guest: &GuestClock) -> u64 {
        let ns = guest.clock().ns_at(guest.time());
        ticks_at(ns, guest.scale.guest_khz).wrapping_add(guest.adjustment())
    }

    fn assert_close(guest: &GuestClock, host: u64) {
        let off = guest.guest(host).wrapping_sub(expected(guest)) as i64;
        assert!(off.abs() <= 8, "the counter is {off} ticks off");
    }

    #[test]
    fn counter_and_logical_time_agree_across_runs_and_gaps() {
        for (host_khz, guest_khz) in [(2_399_998, 2_399_998), (3_000_000, 1_000_000)] {
            let (mut guest, mut host) = started(host_khz, guest_khz);
            for step in 0..1000u64 {
                host += 1000 + step * 37;
                assert!(guest.enter(host, u64::MAX));
                host += 500_000;
                let before = guest.time();
                guest.leave(host);
                assert!(guest.time() > before);
                assert_close(&guest, host);
            }
        }
    }

    #[test]
    fn a_pause_is_taken_out_of_the_counter() {
        let (mut guest, mut host) = started(1_000_000, 1_000_000);
        host += 1_000;
        guest.leave(host);
        assert_eq!((guest.time(), guest.guest(host)), (1_000, 1_000));
        host += 5_000_000_000;
        assert!(guest.enter(host, u64::MAX));
        assert_eq!((guest.time(), guest.guest(host)), (1_000, 1_000));
        host += 10;
        guest.leave(host);
        assert_eq!((guest.time(), guest.guest(host)), (1_010, 1_010));
    }

    #[test]
    fn a_guest_whose_time_always_runs_out_before_it_runs_still_runs() {
        let (mut guest, mut host) = started(1_000_000, 1_000_000);
        let mut runs = 0;
        for _ in 0..10 {
            let until = guest.time() + 10;
            host += 1_000;
            let before = guest.guest(guest.seen);
            if guest.enter(host, until) {
                runs += 1;
                assert!(guest.time() < until || runs == 0);
                host += 10;
                guest.leave(host);
            } else {
                assert!(guest.time() >= until);
            }
            assert!(guest.guest(host) >= before, "the counter went back");
            assert_close(&guest, host);
        }
        assert_eq!(runs, 5);
    }

    #[test]
    fn setting_virtual_time_moves_the_counter_and_keeps_the_adjustment() {
        let (mut guest, mut host) = started(2_000_000, 2_000_000);
        host += 2_000;
        guest.leave(host);
        guest.write_counter(1 << 40, host);
        assert_eq!(guest.guest(host), 1 << 40);
        host += 1_000_000;
        guest.set(clock(guest.time(), 5_000_000), host);
        assert_eq!(guest.guest(host), 10_000_000 + guest.adjustment());
        guest.write_adjustment(0);
        assert_eq!(guest.guest(host), 10_000_000);
    }

    #[test]
    fn a_restored_clock_goes_on_where_the_other_was() {
        let (mut guest, host) = started(1_000_000, 1_000_000);
        guest.restore(u64::MAX / 2, clock(u64::MAX / 2, 123), 7, host);
        assert_eq!((guest.time(), guest.guest(host)), (u64::MAX / 2, 130));
        guest.leave(host - 50);
        assert_eq!(guest.time(), u64::MAX / 2, "time never goes back");
    }
}
