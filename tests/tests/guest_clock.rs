//! The guest's clock goes as the host's does: asleep, at work, and across a failover.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::{Duration, Instant};

use serde_json::json;
use tests::command::Scratch;
use tests::scenario::{Pair, Protection};
use tests::service::Line;

const LIMIT: Duration = Duration::from_secs(90);
/// How far the clocks may move apart between two looks, in nanoseconds.
const MOST_APART_NS: i64 = 1_000_000;
/// As [`MOST_APART_NS`], across a failover: a backup knows its guest's clock by when the log came.
const MOST_APART_FAILOVER_NS: i64 = 100_000_000;
/// Looks of which the one that took the least time counts.
const LOOKS: usize = 20;

/// What the guest's clock is ahead of the host's: at least and at most, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Ahead(i64, i64);

impl Ahead {
    /// How far apart the two are for certain.
    fn apart(self, other: Self) -> i64 {
        (self.0 - other.1).max(other.0 - self.1).max(0)
    }
}

/// Asks the guest's shell for its monotonic clock, between two looks at the host's.
fn ahead(line: &mut Line, base: Instant) -> Ahead {
    let look = |line: &mut Line| {
        let sent = base.elapsed().as_nanos() as i64;
        // The kernel's own words: "now at N nsecs". The echo of the command has none of them.
        line.send("grep -m 1 '^now' /proc/timer_list").unwrap();
        let text = line.receive_until("now at ", LIMIT).unwrap();
        let received = base.elapsed().as_nanos() as i64;
        let words = text.split("now at ").nth(1).unwrap();
        let guest: i64 = words.split(' ').next().unwrap().parse().unwrap();
        Ahead(guest - received, guest - sent)
    };
    let looks = (0..LOOKS).map(|_| look(line));
    looks.min_by_key(|ahead| ahead.1 - ahead.0).unwrap()
}

#[test]
fn the_guests_clock_keeps_within_a_millisecond_of_the_hosts() {
    let scratch = Scratch::new("guest-clock").unwrap();
    let folder = scratch.path().to_owned();
    let (mut pair, mut line, _) =
        Pair::boot(folder, "128M", "job=shell", "MARK begin shell").unwrap();
    let base = Instant::now();
    let first = ahead(&mut line, base);
    std::thread::sleep(Duration::from_secs(3));
    let asleep = ahead(&mut line, base);
    line.send("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo DO''NE")
        .unwrap();
    line.receive_until("DONE", LIMIT).unwrap();
    let worked = ahead(&mut line, base);
    for (what, later) in [("asleep", asleep), ("at work", worked)] {
        let apart = first.apart(later);
        assert!(
            apart <= MOST_APART_NS,
            "{what}: {apart} ns: {first:?} {later:?}"
        );
    }
    // It says when it could not follow.
    let clock = pair.primary.ft_status().unwrap()["clock"].clone();
    assert!(
        clock["late"].is_u64() && clock["worst_error_ns"].is_u64(),
        "{clock}"
    );

    let protection = Protection {
        start: json!({}),
        transport: "tcp",
    };
    pair.protect(&protection).unwrap();
    let before = ahead(&mut line, base);
    pair.kill_primary().unwrap();
    let mut line = Line::connect_within(pair.primary.serial(), LIMIT).unwrap();
    let after = ahead(&mut line, base);
    let apart = before.apart(after);
    assert!(
        apart <= MOST_APART_FAILOVER_NS,
        "{apart} ns: {before:?} {after:?}"
    );
}
