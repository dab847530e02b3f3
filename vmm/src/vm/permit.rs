//! Leave to let go what a machine has released, for host sides that have to wait before they can.
//!
//! An output is released while this host may act for its machine, by a lease that its backup
//! grants or because there is no backup. A host side that writes it at once needs nothing else.
//! One that keeps it, because a client takes nothing or a disk is busy, must ask again when it
//! goes on: the process may have stood still, and another host may have taken the machine over.
//!
//! ```text
//!   machine's thread ──until──▶ Permit ◀──holds?── host side, just before it acts
//!          ▲                      │
//!          └──── wanted, wake ────┘   nothing renews a lease for what is not in the output gate
//! ```
//!
//! What remains open: between the question and the end of the call that acts, the host can stop
//! this process for as long as it likes, and a call that has begun cannot be taken back. The same
//! holds for what is written at once. Closing that takes a host that fences its own calls: storage
//! that refuses an older generation, a network that cuts off, a watchdog that kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ft::time::HostTime;

use super::mailbox::Waker;

/// How long a host side without leave waits before it looks again.
pub const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Until when this host may let things go; shared by the machine's thread and its host sides.
#[derive(Clone, Debug)]
pub struct Permit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Zero of the machine's thread's time.
    epoch: Instant,
    until_ns: AtomicU64,
    wanted: AtomicBool,
    waker: Option<Arc<Waker>>,
}

impl Permit {
    fn make(until: HostTime, waker: Option<Arc<Waker>>) -> Self {
        Self(Arc::new(Shared {
            epoch: Instant::now(),
            until_ns: AtomicU64::new(until.0),
            wanted: AtomicBool::new(false),
            waker,
        }))
    }

    /// One that always holds, for a machine that can have no backup.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::make(HostTime(u64::MAX), None)
    }

    /// One that does not hold yet, and wakes a thread when it is asked for.
    pub(super) fn none(waker: Arc<Waker>) -> Self {
        Self::make(HostTime(0), Some(waker))
    }

    /// The time in which it is given, now.
    #[must_use]
    pub fn now(&self) -> HostTime {
        HostTime(self.0.epoch.elapsed().as_nanos() as u64)
    }

    /// Gives it until a time, or takes it back.
    pub fn set(&self, until: HostTime) {
        self.0.until_ns.store(until.0, Ordering::Release);
    }

    /// Whether it holds. To be asked just before whatever it is for.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.now().0 < self.0.until_ns.load(Ordering::Acquire)
    }

    /// Says that something waits for it.
    pub fn ask(&self) {
        self.0.wanted.store(true, Ordering::Release);
        if let Some(waker) = &self.0.waker {
            waker.wake();
        }
    }

    /// Whether somebody has asked since the last call.
    pub(super) fn take_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed) && self.0.wanted.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_holds_until_its_time_and_not_after_it_was_taken_back() {
        let permit = Permit::unlimited();
        assert!(permit.holds());
        permit.set(HostTime(0));
        assert!(!permit.holds());
        permit.set(permit.now().plus_ms(30));
        assert!(permit.holds());
        std::thread::sleep(Duration::from_millis(40));
        assert!(!permit.holds());
    }

    #[test]
    fn asking_is_seen_once_by_all_who_share_it() {
        let permit = Permit::unlimited();
        assert!(!permit.take_wanted());
        permit.clone().ask();
        assert!(permit.take_wanted());
        assert!(!permit.take_wanted());
    }
}
