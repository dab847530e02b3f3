//! Keeps the guest's clocks with the host's.
//!
//! Virtual time is a function of logical time (see [`ClockSync`]); this decides when to re-base it.
//! Each re-basing is a logged input, so they should be few:
//!
//! * a busy guest: when it is off by more than 300 µs and a millisecond has passed since the last;
//! * an idle guest: one when its next timer is due, or when an input wakes it;
//! * a guest that is *behind* is set right at once; one that is *ahead* is slowed until host time
//!   has caught up, for its clocks never go back.
//!
//! The speed is measured over stretches of execution, so that a steady guest needs almost none.
//!
//! A machine whose logical time counts nanoseconds has a clock of its own, the host processor's
//! counter, which the guest reads as it is. Its speed is known and cannot be changed: what it loses
//! while it does not execute is made up for, and where it runs ahead, as any two clocks come
//! apart, the host's time is followed from there.

use serde::{Deserialize, Serialize};

use crate::event::{ClockRate, ClockSync, SyncPoint};
use crate::machine::TimeUnit;
use crate::time::{HostTime, LogicalTime, NS_PER_MS};

/// Error below which a busy guest is left alone.
const TOLERANCE_NS: i128 = 300_000;
/// Error below which an input is not preceded by a re-basing.
const INPUT_TOLERANCE_NS: i128 = 50_000;
/// Least time between two re-basings of a busy guest.
const LEAST_INTERVAL_NS: u64 = NS_PER_MS;
/// Time in which a guest that is ahead is brought back.
const SLEW_HORIZON_NS: i128 = 8 * NS_PER_MS as i128;
/// Execution over which the speed is measured.
const MEASURE_NS: u64 = NS_PER_MS;
/// Error that counts as not following.
const LATE_NS: u64 = NS_PER_MS;
/// Weight of a slower measurement: one in four, since a slice that the host interrupted looks slow
/// and a guest that is behind is set right at once. A faster one counts in full: a guest whose
/// clock runs ahead takes long to bring back.
const SMOOTHING: u64 = 4;

/// What the guest is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It has been executing and goes on.
    Running,
    /// It is halted; the virtual time of its next timer, if one is armed.
    Idle(Option<u64>),
    /// It is halted and about to be given an input.
    Woken,
}

/// How well the guest's clock follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStats {
    /// Re-basings so far.
    pub syncs: u64,
    /// How often a running guest was found more than a millisecond off.
    pub late: u64,
    /// The most a running guest was found off, in nanoseconds.
    pub worst_error_ns: u64,
    /// Measured speed in nanoseconds per 65,536 instructions.
    pub rate: u32,
}

/// Decides when the virtual clock is re-based.
#[derive(Clone, Debug)]
pub struct ClockFollower {
    /// Virtual time minus host time, as it should be.
    offset_ns: i128,
    point: Option<SyncPoint>,
    last_sync: HostTime,
    slewing: bool,
    /// What logical time counts.
    unit: TimeUnit,
    speed: ClockRate,
    last_running: Option<(HostTime, LogicalTime)>,
    measured_ns: u64,
    measured_instructions: u64,
    stats: ClockStats,
}

impl ClockFollower {
    /// Follows host time from `now`, at which virtual time is to be `virtual_ns`.
    #[must_use]
    pub fn new(now: HostTime, virtual_ns: u64) -> Self {
        Self {
            offset_ns: i128::from(virtual_ns) - i128::from(now.0),
            point: None,
            last_sync: HostTime(0),
            slewing: false,
            unit: TimeUnit::Instructions,
            speed: ClockRate::INITIAL,
            last_running: None,
            measured_ns: 0,
            measured_instructions: 0,
            stats: ClockStats::default(),
        }
    }

    /// Takes over a clock last set at `point`, whose virtual time should be host time plus
    /// `offset_ns`, but is `virtual_ns` now: it goes on from the later of the two.
    #[must_use]
    pub fn take_over(now: HostTime, virtual_ns: u64, offset_ns: i128, point: SyncPoint) -> Self {
        let should_be = i128::from(now.0) + offset_ns;
        let from = should_be.max(i128::from(virtual_ns));
        Self {
            offset_ns: from - i128::from(now.0),
            point: Some(point),
            speed: point.sync.rate,
            ..Self::new(now, virtual_ns)
        }
    }

    /// Follows a machine whose logical time counts this.
    pub fn set_unit(&mut self, unit: TimeUnit) {
        self.unit = unit;
        if unit == TimeUnit::Nanoseconds {
            self.speed = ClockRate::INITIAL;
        }
    }

    /// Goes on from `virtual_ns` at `now`, as after a pause in which guest time stood still.
    pub fn rebase(&mut self, now: HostTime, virtual_ns: u64) {
        self.offset_ns = i128::from(virtual_ns) - i128::from(now.0);
        self.last_running = None;
    }

    /// The guest was kept from executing; the time since does not count for its speed.
    pub fn held_back(&mut self) {
        self.last_running = None;
    }

    /// Whether and how to re-base the clock before the guest goes on. What is returned has to be
    /// injected at `at`.
    pub fn poll(
        &mut self,
        now: HostTime,
        at: LogicalTime,
        virtual_ns: u64,
        activity: Activity,
    ) -> Option<ClockSync> {
        self.measure(now, at, activity);
        let mut error = i128::from(now.0) + self.offset_ns - i128::from(virtual_ns);
        if self.unit == TimeUnit::Nanoseconds && error < 0 {
            self.offset_ns -= error;
            error = 0;
        }
        let target = i128::from(virtual_ns) + error;
        if activity == Activity::Running {
            self.judge(error);
        }
        let rested = now.since(self.last_sync) >= LEAST_INTERVAL_NS;
        let due = match activity {
            _ if self.point.is_none_or(|point| self.is_foreign(point)) => true,
            Activity::Running => {
                rested && (error.abs() > TOLERANCE_NS || (self.slewing && error >= 0))
            }
            Activity::Idle(Some(wake_ns)) => target >= i128::from(wake_ns),
            Activity::Idle(None) => false,
            Activity::Woken => error > INPUT_TOLERANCE_NS,
        };
        due.then(|| self.sync(now, at, virtual_ns, error))
    }

    /// Host time at which a guest that sleeps until `wake_ns` is due.
    #[must_use]
    pub fn wake_at(&self, wake_ns: u64) -> HostTime {
        let due = i128::from(wake_ns) - self.offset_ns;
        HostTime(u64::try_from(due.max(0)).unwrap_or(u64::MAX))
    }

    /// About how many instructions the guest executes in `ns` of host time; at least one.
    #[must_use]
    pub fn instructions_in(&self, ns: u64) -> u64 {
        self.speed.instructions_for(ns).max(1)
    }

    /// The last re-basing.
    #[must_use]
    pub fn point(&self) -> Option<SyncPoint> {
        self.point
    }

    /// Virtual time minus host time, as it should be.
    #[must_use]
    pub fn offset_ns(&self) -> i128 {
        self.offset_ns
    }

    /// How well it follows.
    #[must_use]
    pub fn stats(&self) -> ClockStats {
        ClockStats {
            rate: self.speed.0,
            ..self.stats
        }
    }

    /// Whether a point is of a machine on which logical time counted something else.
    fn is_foreign(&self, point: SyncPoint) -> bool {
        self.unit == TimeUnit::Nanoseconds && point.sync.rate != ClockRate::INITIAL
    }

    /// Learns the speed from stretches in which the guest did nothing but execute.
    fn measure(&mut self, now: HostTime, at: LogicalTime, activity: Activity) {
        if self.unit == TimeUnit::Nanoseconds {
            return;
        }
        if activity != Activity::Running {
            self.last_running = None;
            return;
        }
        if let Some((then, from)) = self.last_running.replace((now, at)) {
            self.measured_ns += now.since(then);
            self.measured_instructions += at.since(from);
        }
        if self.measured_ns < MEASURE_NS || self.measured_instructions == 0 {
            return;
        }
        let fresh = ClockRate::measured(self.measured_ns, self.measured_instructions).0;
        let old = self.speed.0;
        let smoothed = (u64::from(old) * (SMOOTHING - 1) + u64::from(fresh)) / SMOOTHING;
        self.speed = ClockRate(if fresh < old { fresh } else { smoothed as u32 });
        (self.measured_ns, self.measured_instructions) = (0, 0);
    }

    /// Keeps the score.
    fn judge(&mut self, error: i128) {
        let off = u64::try_from(error.unsigned_abs()).unwrap_or(u64::MAX);
        self.stats.worst_error_ns = self.stats.worst_error_ns.max(off);
        self.stats.late += u64::from(off > LATE_NS);
    }

    /// Re-bases: forward at once, backward by running slower for a while.
    fn sync(&mut self, now: HostTime, at: LogicalTime, virtual_ns: u64, error: i128) -> ClockSync {
        let forward = u64::try_from(error.max(0)).unwrap_or(u64::MAX);
        self.slewing = error < 0;
        let rate = if self.slewing {
            let kept = (SLEW_HORIZON_NS + error).max(SLEW_HORIZON_NS / 4);
            let slowed = i128::from(self.speed.0) * kept / SLEW_HORIZON_NS;
            ClockRate(u32::try_from(slowed).unwrap_or(self.speed.0).max(1))
        } else {
            self.speed
        };
        let sync = ClockSync {
            virtual_ns: virtual_ns.saturating_add(forward),
            rate,
        };
        self.point = Some(SyncPoint { at, sync });
        self.last_sync = now;
        self.stats.syncs += 1;
        sync
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest with a clock, for judging the follower from outside.
    struct Guest {
        point: SyncPoint,
        at: LogicalTime,
        host: HostTime,
        follower: ClockFollower,
        syncs: u64,
    }

    impl Guest {
        fn new() -> Self {
            let host = HostTime(77_000_000_000);
            let follower = ClockFollower::new(host, 0);
            Self {
                point: SyncPoint::start(),
                at: LogicalTime(0),
                host,
                follower,
                syncs: 0,
            }
        }

        fn virtual_ns(&self) -> u64 {
            self.point.virtual_ns(self.at)
        }

        fn poll(&mut self, activity: Activity) {
            let before = self.virtual_ns();
            if let Some(sync) = self.follower.poll(self.host, self.at, before, activity) {
                assert!(sync.virtual_ns >= before, "the clock went back");
                self.point = SyncPoint { at: self.at, sync };
                self.syncs += 1;
            }
        }

        fn run(&mut self, instructions: u64, ns: u64) {
            self.poll(Activity::Running);
            self.at = self.at.plus(instructions);
            self.host = self.host.plus(ns);
        }

        fn error_ns(&self) -> i128 {
            let elapsed = i128::from(self.host.0) - 77_000_000_000;
            elapsed - i128::from(self.virtual_ns())
        }
    }

    #[test]
    fn a_steady_guest_stays_within_a_millisecond_and_needs_few_syncs() {
        for instructions in [2_500, 25_000, 60_000, 250_000] {
            let mut guest = Guest::new();
            for slice in 0..40_000 {
                guest.run(instructions, 250_000);
                if slice > 40 {
                    assert!(guest.error_ns().abs() < 1_000_000, "{}", guest.error_ns());
                }
            }
            assert!(guest.syncs < 100, "{} syncs in ten seconds", guest.syncs);
        }
    }

    #[test]
    fn a_guest_whose_speed_changes_stays_within_a_millisecond() {
        let mut guest = Guest::new();
        for slice in 0..40_000_u64 {
            let instructions = if slice / 400 % 2 == 0 { 25_000 } else { 15_000 };
            guest.run(instructions, 250_000);
            if slice > 40 {
                assert!(guest.error_ns().abs() < 1_000_000, "{}", guest.error_ns());
            }
        }
        assert!(guest.syncs < 3_000, "{} syncs in ten seconds", guest.syncs);
    }

    #[test]
    fn an_idle_guest_is_woken_once_and_at_its_time() {
        let mut guest = Guest::new();
        guest.run(25_000, 250_000);
        guest.poll(Activity::Running);
        let syncs = guest.syncs;
        let wake_ns = guest.virtual_ns() + 20_000_000;
        guest.poll(Activity::Idle(Some(wake_ns)));
        assert_eq!(guest.syncs, syncs);
        guest.host = guest.follower.wake_at(wake_ns);
        guest.poll(Activity::Idle(Some(wake_ns)));
        assert_eq!(guest.syncs, syncs + 1);
        assert!(guest.virtual_ns() >= wake_ns);
        assert!(guest.error_ns().abs() < 1_000);
    }

    #[test]
    fn a_guest_that_was_stopped_jumps_forward_once_and_the_error_is_counted() {
        let mut guest = Guest::new();
        for _ in 0..100 {
            guest.run(25_000, 250_000);
        }
        guest.host = guest.host.plus_ms(500);
        guest.follower.held_back();
        guest.poll(Activity::Running);
        assert!(guest.error_ns().abs() < 1_000);
        assert!(guest.follower.stats().worst_error_ns >= 499_000_000);
        assert!(guest.follower.stats().late >= 1);
    }

    #[test]
    fn a_clock_that_is_taken_over_never_goes_back_and_jumps_over_the_outage() {
        let sync = ClockSync {
            virtual_ns: 5_000_000,
            rate: ClockRate::INITIAL,
        };
        let point = SyncPoint {
            at: LogicalTime(9),
            sync,
        };
        let now = HostTime(100_000_000);
        let mut ahead = ClockFollower::take_over(now, 6_000_000, -99_000_000, point);
        assert_eq!(
            ahead.poll(now, LogicalTime(9), 6_000_000, Activity::Running),
            None
        );
        let mut behind = ClockFollower::take_over(now, 6_000_000, -20_000_000, point);
        let sync = behind
            .poll(now, LogicalTime(9), 6_000_000, Activity::Running)
            .unwrap();
        assert_eq!(sync.virtual_ns, 80_000_000);
    }

    #[test]
    fn a_clock_of_the_guests_own_is_set_forward_and_never_slowed() {
        let mut guest = Guest::new();
        guest.follower.set_unit(TimeUnit::Nanoseconds);
        // A host that is now and then away from the guest, and a clock a little fast.
        for slice in 0..40_000_u64 {
            guest.run(250_010, 250_000);
            guest.host = HostTime(guest.host.0 + u64::from(slice % 1000 == 0) * 700_000);
            assert_eq!(guest.point.sync.rate, ClockRate::INITIAL);
        }
        assert!(guest.error_ns().abs() < 1_000_000, "{}", guest.error_ns());
        assert!(guest.syncs < 60, "{} syncs", guest.syncs);
        assert_eq!(guest.follower.instructions_in(250_000), 250_000);
    }

    #[test]
    fn a_rate_of_another_unit_is_replaced_before_anything_runs() {
        let sync = ClockSync {
            virtual_ns: 5_000_000,
            rate: ClockRate(9_000),
        };
        let point = SyncPoint {
            at: LogicalTime(9),
            sync,
        };
        let now = HostTime(5_000_000);
        let mut follower = ClockFollower::take_over(now, 5_000_000, 0, point);
        follower.set_unit(TimeUnit::Nanoseconds);
        let sync = follower.poll(now, LogicalTime(9), 5_000_000, Activity::Running);
        assert_eq!(sync.unwrap().rate, ClockRate::INITIAL);
    }

    #[test]
    fn the_first_poll_sets_the_clock() {
        let mut follower = ClockFollower::new(HostTime(5), 42);
        let sync = follower
            .poll(HostTime(5), LogicalTime(0), 0, Activity::Running)
            .unwrap();
        assert_eq!(
            sync,
            ClockSync {
                virtual_ns: 42,
                rate: ClockRate::INITIAL
            }
        );
    }
}
