//! Suspects a peer that has been silent for too long.
//!
//! Silence is measured by this side's own loop. A loop that was itself stopped (SIGSTOP, a stalled
//! host) cannot blame the peer for what it did not listen to, so after such a gap the measure
//! starts anew, and so it does behind a time in which this side had no room for what the peer says;
//! what the gap means for this side's right to act is the lease's affair
//! ([`crate::output::Lease`]).

use crate::time::{HostTime, NS_PER_MS};

/// How many times the usual silence both sides bear while the backup is being cloned. Nobody's life
/// hangs on the other yet, and a host that takes gigabytes in may stand still for a while, as when
/// its disk does.
pub const CLONE_PATIENCE: u64 = 5;

/// Judges a peer by the time since it was last heard.
#[derive(Clone, Debug)]
pub struct FaultDetector {
    timeout_ns: u64,
    last_heard: HostTime,
    last_loop: HostTime,
}

impl FaultDetector {
    /// A detector that starts its measure at `now`.
    #[must_use]
    pub fn new(timeout_ms: u64, now: HostTime) -> Self {
        let timeout_ns = timeout_ms.saturating_mul(NS_PER_MS);
        Self {
            timeout_ns,
            last_heard: now,
            last_loop: now,
        }
    }

    /// Uses another timeout from now on.
    pub fn set_timeout(&mut self, timeout_ms: u64) {
        self.timeout_ns = timeout_ms.saturating_mul(NS_PER_MS);
    }

    /// Bytes came from the peer.
    pub fn heard(&mut self, now: HostTime) {
        self.last_heard = self.last_heard.max(now);
    }

    /// This side has not listened up to `now`.
    pub fn excuse(&mut self, now: HostTime) {
        self.heard(now);
    }

    /// The loop of this side has come round. The length of its own stop, if it was one.
    pub fn looped(&mut self, now: HostTime) -> Option<u64> {
        let gap = now.since(self.last_loop);
        self.last_loop = now;
        if gap <= self.timeout_ns / 2 {
            return None;
        }
        self.last_heard = self.last_heard.max(now);
        Some(gap)
    }

    /// Whether the peer is to be suspected.
    #[must_use]
    pub fn is_silent(&self, now: HostTime) -> bool {
        now.since(self.last_heard) >= self.timeout_ns
    }

    /// When the peer will be suspected if nothing is heard.
    #[must_use]
    pub fn deadline(&self) -> HostTime {
        self.last_heard.plus(self.timeout_ns)
    }

    /// When the peer was last heard.
    #[must_use]
    pub fn last_heard(&self) -> HostTime {
        self.last_heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> HostTime {
        HostTime(0).plus_ms(ms)
    }

    #[test]
    fn silence_of_the_timeout_is_suspect_and_less_is_not() {
        let mut detector = FaultDetector::new(200, at_ms(0));
        for ms in 1..=300 {
            assert_eq!(detector.looped(at_ms(ms)), None);
            if ms == 100 {
                detector.heard(at_ms(ms));
            }
            assert_eq!(detector.is_silent(at_ms(ms)), ms >= 300, "{ms}");
        }
        assert_eq!(detector.deadline(), at_ms(300));
    }

    #[test]
    fn a_loop_that_was_stopped_itself_starts_its_measure_anew() {
        let mut detector = FaultDetector::new(200, at_ms(0));
        assert_eq!(detector.looped(at_ms(5000)), Some(5000 * NS_PER_MS));
        assert!(!detector.is_silent(at_ms(5000)));
        assert!(detector.is_silent(at_ms(5200)));
    }
}
