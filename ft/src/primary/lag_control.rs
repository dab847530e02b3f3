//! Keeps the backup close: a primary that runs ahead rests, a little at first, in the end
//! altogether.
//!
//! Replay is about as fast as recording, so a backup that has fallen behind a busy guest (during
//! the clone, or because its host was busy) would stay behind, and a failover would take as much
//! longer. A few per cent of rest let it catch up.

use crate::status::Throttle;
use crate::time::{HostTime, NS_PER_MS};

/// Age of the oldest entry that is not replayed at which the guest rests a little. What a backup
/// has fallen behind is added to a failover, which may take 200 ms, so this is well below; it is
/// above what a busy host takes from a backup now and then, for which the backup makes up itself.
const LITTLE_NS: u64 = 60 * NS_PER_MS;
/// Age at which it rests noticeably.
const MUCH_NS: u64 = 90 * NS_PER_MS;
/// Age at which it rests as long as it executes.
const MOST_NS: u64 = 120 * NS_PER_MS;
/// Age at which it stops, like at a full window.
const STOP_NS: u64 = 250 * NS_PER_MS;
/// Shares of executing time: 2 %, an eighth, as much again.
const SHARES: [u64; 3] = [50, 8, 1];
/// Rests shorter than this are saved up: a host cannot sleep for less.
const LEAST_REST_NS: u64 = 200_000;
/// Longest time between two admissions that counts as execution.
const MOST_SLICE_NS: u64 = 2 * NS_PER_MS;
/// Bytes that may wait for the connection.
const MAX_UNSENT: usize = 16 << 20;
/// Bytes that wait for the connection of a primary that has more to say than that it is alive.
const BACKLOG: usize = 64 << 10;

/// How far the backup is behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Epochs not verified.
    pub(super) epochs: u64,
    /// Epochs that may be.
    pub(super) most_epochs: u64,
    /// Age of the oldest entry that is not replayed.
    pub(super) age_ns: u64,
    /// Bytes that wait for the connection.
    pub(super) unsent: usize,
    /// The epoch cannot be closed before the delta of the one before is sent.
    pub(super) overdue: bool,
}

/// Whether the guest may execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Go,
    /// It may not yet.
    Rest,
    /// It may not, for the first time since it did: the window is full.
    Full,
}

/// Slows the primary.
#[derive(Clone, Debug, Default)]
pub(super) struct LagControl {
    full_since: Option<HostTime>,
    overdue_since: Option<HostTime>,
    rest_until: Option<HostTime>,
    last_go: Option<HostTime>,
    debt_ns: u64,
    held_ns: u64,
    carried: u64,
    count: u64,
}

impl LagControl {
    /// Whether the guest may execute at `now`.
    pub(super) fn admit(&mut self, gap: Gap, now: HostTime) -> Admission {
        let full = gap.epochs >= gap.most_epochs || gap.age_ns >= STOP_NS;
        if full || gap.unsent > MAX_UNSENT {
            self.last_go = None;
            if self.full_since.is_some() {
                return Admission::Rest;
            }
            self.end_overdue(now);
            self.full_since = Some(now);
            self.count += 1;
            return Admission::Full;
        }
        if let Some(since) = self.full_since.take() {
            self.held_ns += now.since(since);
        }
        if gap.overdue {
            self.last_go = None;
            self.overdue_since.get_or_insert(now);
            return Admission::Rest;
        }
        self.end_overdue(now);
        if self.rest_until.is_some_and(|until| now < until) {
            return Admission::Rest;
        }
        self.rest_until = None;
        let share = if gap.epochs > gap.most_epochs / 2 || gap.age_ns > MOST_NS {
            SHARES[2]
        } else if gap.age_ns > MUCH_NS {
            SHARES[1]
        } else if gap.age_ns > LITTLE_NS {
            SHARES[0]
        } else {
            (self.debt_ns, self.last_go) = (0, Some(now));
            return Admission::Go;
        };
        if let Some(last) = self.last_go.replace(now) {
            self.debt_ns += now.since(last).min(MOST_SLICE_NS) / share;
        }
        if self.debt_ns < LEAST_REST_NS {
            return Admission::Go;
        }
        self.held_ns += self.debt_ns;
        self.rest_until = Some(now.plus(std::mem::take(&mut self.debt_ns)));
        self.last_go = None;
        Admission::Rest
    }

    /// The guest is kept for another reason at `now`; the window is looked at anew afterwards.
    pub(super) fn excuse(&mut self, now: HostTime) {
        if let Some(since) = self.full_since.take() {
            self.held_ns += now.since(since);
        }
        self.end_overdue(now);
        self.last_go = None;
    }

    /// The connection has taken so many bytes of deltas, and so many wait for it. As long as it
    /// takes some, a guest that is kept waits for a slow connection, and not in vain.
    pub(super) fn note_carried(&mut self, carried: u64, unsent: usize, now: HostTime) {
        let moves = carried > self.carried && unsent > BACKLOG;
        self.carried = carried;
        let kept = [&mut self.full_since, &mut self.overdue_since];
        for since in kept.into_iter().flatten().filter(|_| moves) {
            self.held_ns += now.since(std::mem::replace(since, now));
        }
    }

    /// A delta that kept the guest has gone, or something else keeps it from now on.
    fn end_overdue(&mut self, now: HostTime) {
        if let Some(since) = self.overdue_since.take() {
            self.held_ns += now.since(since);
        }
    }

    /// When a rest is over; none if there is none, or only the backup can end it.
    pub(super) fn rest_until(&self) -> Option<HostTime> {
        self.rest_until
    }

    /// How long the window has been full, or nothing has gone of a delta.
    pub(super) fn full_ns(&self, now: HostTime) -> u64 {
        let since = self.full_since.or(self.overdue_since);
        since.map_or(0, |since| now.since(since))
    }

    /// How often and how long the guest was kept.
    pub(super) fn throttle(&self, now: HostTime) -> Throttle {
        let total_ns = self.held_ns + self.full_ns(now);
        Throttle {
            count: self.count,
            total_ms: total_ns / NS_PER_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(epochs: u64, age_ms: u64) -> Gap {
        Gap {
            epochs,
            most_epochs: 10,
            age_ns: age_ms * NS_PER_MS,
            unsent: 0,
            overdue: false,
        }
    }

    /// Share of time in which the guest executes, in per mille.
    fn executing(gap: Gap) -> u64 {
        let mut control = LagControl::default();
        let (mut now, mut executed) = (HostTime(0), 0);
        while now < HostTime(0).plus_ms(1000) {
            if control.admit(gap, now) == Admission::Go {
                executed += 250_000;
            }
            now = now.plus(250_000);
        }
        executed / NS_PER_MS
    }

    #[test]
    fn a_backup_that_is_close_costs_nothing_and_one_that_is_not_costs_a_little() {
        assert_eq!(executing(gap(1, 5)), 1000);
        assert!(
            (960..=985).contains(&executing(gap(2, 80))),
            "{}",
            executing(gap(2, 80))
        );
        assert!(
            (800..=900).contains(&executing(gap(2, 110))),
            "{}",
            executing(gap(2, 110))
        );
        assert!(
            (400..=600).contains(&executing(gap(6, 5))),
            "{}",
            executing(gap(6, 5))
        );
    }

    #[test]
    fn a_delta_that_has_not_gone_keeps_the_guest_and_is_no_event() {
        let mut control = LagControl::default();
        let overdue = Gap {
            overdue: true,
            ..gap(1, 0)
        };
        for ms in 0..3 {
            let now = HostTime(0).plus_ms(ms);
            assert_eq!(control.admit(overdue, now), Admission::Rest);
        }
        assert_eq!(control.full_ns(HostTime(0).plus_ms(3)), 3 * NS_PER_MS);
        let now = HostTime(0).plus_ms(4);
        assert_eq!(control.admit(gap(1, 0), now), Admission::Go);
        let (count, total_ms) = (0, 4);
        assert_eq!(control.throttle(now), Throttle { count, total_ms });
    }

    #[test]
    fn a_connection_that_is_slow_keeps_the_guest_and_is_not_stuck() {
        let overdue = Gap {
            overdue: true,
            ..gap(1, 0)
        };
        for kept in [overdue, gap(10, 0)] {
            let mut control = LagControl::default();
            for ms in 0..30 {
                let now = HostTime(0).plus_ms(ms);
                control.note_carried(1 + ms, BACKLOG + 1, now);
                assert_ne!(control.admit(kept, now), Admission::Go);
            }
            // Nothing has gone, or a heartbeat.
            control.note_carried(30, BACKLOG + 1, HostTime(0).plus_ms(31));
            control.note_carried(37, 0, HostTime(0).plus_ms(32));
            let now = HostTime(0).plus_ms(32);
            assert_eq!(control.full_ns(now), 3 * NS_PER_MS);
            assert_eq!(control.throttle(now).total_ms, 32);
        }
    }

    #[test]
    fn a_full_window_stops_the_guest_and_is_counted_once() {
        let mut control = LagControl::default();
        assert_eq!(control.admit(gap(10, 0), HostTime(0)), Admission::Full);
        assert_eq!(
            control.admit(gap(10, 0), HostTime(0).plus_ms(5)),
            Admission::Rest
        );
        assert_eq!(control.full_ns(HostTime(0).plus_ms(5)), 5 * NS_PER_MS);
        assert_eq!(
            control.admit(gap(3, 0), HostTime(0).plus_ms(7)),
            Admission::Go
        );
        let throttle = control.throttle(HostTime(0).plus_ms(7));
        assert_eq!(
            throttle,
            Throttle {
                count: 1,
                total_ms: 7
            }
        );
    }
}
