//! When an epoch ends.
//!
//! After `epoch_ms` of *execution*, so that a guest that mostly sleeps does not fill the log with
//! digests; yet after ten times that of host time if it ran at all; at a bound of log bytes or of
//! pages written, which all have to be digested at once; and behind a control operation.

use crate::time::{Epoch, HostTime, NS_PER_MS};

/// Log bytes after which an epoch ends early.
const MAX_LOG_BYTES: u64 = 256 << 10;
/// Pages written after which an epoch ends early: 32 MiB.
const MAX_WRITTEN_PAGES: u64 = 8192;
/// Epoch lengths of host time after which an epoch ends although little was executed in it.
const STRETCH: u64 = 10;

/// Measures the epoch that is under way.
#[derive(Clone, Debug)]
pub struct EpochMeter {
    epoch: Epoch,
    length_ns: u64,
    started: HostTime,
    executed_ns: u64,
    log_bytes: u64,
    written_pages: u64,
    progressed: bool,
    forced: bool,
}

impl EpochMeter {
    /// Begins epoch zero at `now`, with epochs of `epoch_ms`.
    #[must_use]
    pub fn new(epoch_ms: u64, now: HostTime) -> Self {
        Self::starting_at(Epoch(0), epoch_ms, now)
    }

    /// Begins a given epoch at `now`.
    #[must_use]
    pub fn starting_at(epoch: Epoch, epoch_ms: u64, now: HostTime) -> Self {
        Self {
            epoch,
            length_ns: epoch_ms.saturating_mul(NS_PER_MS),
            started: now,
            executed_ns: 0,
            log_bytes: 0,
            written_pages: 0,
            progressed: false,
            forced: false,
        }
    }

    /// The epoch that is under way.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The guest executed for `ns` of host time.
    pub fn executed(&mut self, ns: u64) {
        self.executed_ns = self.executed_ns.saturating_add(ns);
        self.progressed = true;
    }

    /// An entry of `bytes` was logged.
    pub fn logged(&mut self, bytes: u64) {
        self.log_bytes += bytes;
        self.progressed = true;
    }

    /// Something happened that is not logged.
    pub fn progressed(&mut self) {
        self.progressed = true;
    }

    /// So many pages were written since the epoch began.
    pub fn wrote(&mut self, pages: u64) {
        self.written_pages = pages;
    }

    /// The epoch is to end at the next chance, if anything happened in it.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// Whether something happened since the epoch began.
    #[must_use]
    pub fn has_progressed(&self) -> bool {
        self.progressed
    }

    /// Whether the epoch is to end now.
    #[must_use]
    pub fn is_due(&self, now: HostTime) -> bool {
        self.progressed
            && (self.forced
                || self.executed_ns >= self.length_ns
                || self.log_bytes >= MAX_LOG_BYTES
                || self.written_pages >= MAX_WRITTEN_PAGES
                || now.since(self.started) >= self.length_ns.saturating_mul(STRETCH))
    }

    /// Whether the epoch should have ended long ago: it has twice its length, or twice the pages or
    /// bytes at which one ends.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.executed_ns >= self.length_ns.saturating_mul(2)
            || self.log_bytes >= 2 * MAX_LOG_BYTES
            || self.written_pages >= 2 * MAX_WRITTEN_PAGES
    }

    /// When the epoch will be due even if the guest sleeps on; none if nothing happened in it.
    #[must_use]
    pub fn latest_end(&self) -> Option<HostTime> {
        let end = self.started.plus(self.length_ns.saturating_mul(STRETCH));
        self.progressed.then_some(end)
    }

    /// Begins the next epoch.
    pub fn next(&mut self, now: HostTime) {
        let length_ns = self.length_ns;
        *self = Self {
            length_ns,
            ..Self::starting_at(self.epoch.plus(1), 0, now)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> HostTime {
        HostTime(0).plus_ms(ms)
    }

    #[test]
    fn an_epoch_in_which_nothing_happened_never_ends() {
        let meter = EpochMeter::new(10, at_ms(0));
        assert!(!meter.is_due(at_ms(100_000)));
        assert_eq!(meter.latest_end(), None);
    }

    #[test]
    fn an_epoch_ends_after_its_length_of_execution() {
        let mut meter = EpochMeter::new(10, at_ms(0));
        meter.executed(9 * NS_PER_MS);
        assert!(!meter.is_due(at_ms(50)));
        meter.executed(NS_PER_MS);
        assert!(meter.is_due(at_ms(50)));
        meter.next(at_ms(50));
        assert_eq!(meter.epoch(), Epoch(1));
        assert!(!meter.is_due(at_ms(500)));
    }

    #[test]
    fn an_epoch_of_a_sleepy_guest_ends_after_ten_lengths_of_host_time() {
        let mut meter = EpochMeter::new(10, at_ms(0));
        meter.executed(1);
        assert!(!meter.is_due(at_ms(99)));
        assert!(meter.is_due(at_ms(100)));
        assert_eq!(meter.latest_end(), Some(at_ms(100)));
    }

    #[test]
    fn an_epoch_ends_at_the_bound_of_written_pages() {
        let mut meter = EpochMeter::new(10, at_ms(0));
        meter.executed(1);
        meter.wrote(MAX_WRITTEN_PAGES - 1);
        assert!(!meter.is_due(at_ms(1)));
        meter.wrote(MAX_WRITTEN_PAGES);
        assert!(meter.is_due(at_ms(1)));
        meter.next(at_ms(1));
        meter.executed(1);
        assert!(!meter.is_due(at_ms(1)));
    }

    #[test]
    fn an_epoch_ends_at_the_bound_of_log_bytes_and_when_forced() {
        let mut meter = EpochMeter::new(10, at_ms(0));
        meter.logged(MAX_LOG_BYTES);
        assert!(meter.is_due(at_ms(0)));
        let mut meter = EpochMeter::new(10, at_ms(0));
        meter.force();
        assert!(!meter.is_due(at_ms(1)));
        meter.executed(1);
        assert!(meter.is_due(at_ms(1)));
    }
}
