//! How a backup becomes primary.

use crate::backup::delta::DeltaStage;
use crate::backup::{Adoption, Backup, Phase};
use crate::clock::ClockFollower;
use crate::failover::{FenceAttempt, Progress, Promotion, Suspicion};
use crate::log::EntryCoder;
use crate::machine::Machine;
use crate::output::OutputGate;
use crate::primary::Promoted;
use crate::protocol::Message;
use crate::record::Recorder;
use crate::section_stage::SectionStage;
use crate::status::{End, FtEvent};
use crate::time::{HostTime, LogicalTime, NS_PER_MS};

/// Window in which the offset of the clocks is taken.
const OFFSET_WINDOW_NS: u64 = 5_000 * NS_PER_MS;

/// How far the guest's clock is ahead of this host's, as seen when log entries come.
///
/// They come late, so every sample is too low; the highest of the last seconds is the closest.
#[derive(Clone, Debug, Default)]
pub(super) struct ClockOffset {
    current: Option<i128>,
    previous: Option<i128>,
    began: HostTime,
    last_at: LogicalTime,
}

impl ClockOffset {
    /// The offset of a side that has kept the clock itself up to now.
    pub(super) fn known(offset_ns: i128, now: HostTime) -> Self {
        Self {
            current: Some(offset_ns),
            began: now,
            ..Self::default()
        }
    }

    /// Takes a sample from the last entry that has come, if the guest has executed since the one
    /// before: a guest that sleeps has a clock that stands still.
    pub(super) fn sample(&mut self, received: &EntryCoder, now: HostTime) {
        if received.at() <= self.last_at {
            return;
        }
        self.last_at = received.at();
        if now.since(self.began) >= OFFSET_WINDOW_NS {
            self.previous = self.current.take().or(self.previous);
            self.began = now;
        }
        let sample = i128::from(received.virtual_ns()) - i128::from(now.0);
        self.current = Some(self.current.map_or(sample, |current| current.max(sample)));
    }

    /// The offset, or what keeps the clock where it stands if nothing is known.
    fn get(&self, machine: &dyn Machine, now: HostTime) -> i128 {
        let known = self.current.max(self.previous);
        known.unwrap_or_else(|| i128::from(machine.virtual_ns()) - i128::from(now.0))
    }
}

impl Backup {
    /// Turns to taking over. From here on nothing is acknowledged.
    pub(super) fn turn(&mut self, cause: Option<Suspicion>, yield_ms: u64, now: HostTime) {
        if matches!(self.phase, Phase::Promoting(_)) {
            return;
        }
        let planned = cause.is_none();
        let attempt = match planned {
            true => FenceAttempt::to_relieve(self.generation, now),
            false => FenceAttempt::to_go_alone(self.generation, now),
        };
        let lease_ms = self.parameters.lease_ms;
        // A quarter more than the lease, for clocks that do not run alike. A primary that asks to
        // be relieved has let everything go.
        let lease_until = match self.told_at {
            Some(told) if !planned => told.plus(lease_ms * NS_PER_MS / 4 * 5),
            _ => now,
        };
        if let Some(cause) = &cause {
            self.link.close();
            self.events.push(FtEvent::Suspected {
                cause: cause.clone(),
            });
        }
        (self.staged_pages, self.staged_bytes) = Default::default();
        self.staged_sections = SectionStage::default();
        self.staged_delta = DeltaStage::default();
        self.phase = Phase::Promoting(Box::new(Promotion {
            degraded: matches!(self.phase, Phase::Diverged),
            cause,
            last_heard: self.detector.last_heard(),
            suspected: now,
            yield_until: now.plus_ms(yield_ms),
            lease_until,
            attempt,
            won: None,
            drained: None,
        }));
    }

    /// Asks the fence, if a claim is under way.
    pub(super) fn poll_fence(&mut self, now: HostTime) {
        let Phase::Promoting(promotion) = &mut self.phase else {
            return;
        };
        let Some(fence) = &mut self.fence else { return };
        if promotion.won.is_some() || now < promotion.yield_until {
            return;
        }
        match promotion.attempt.poll(fence.as_mut(), &self.owner, now) {
            Progress::Won(generation) => {
                promotion.won = Some(now);
                self.generation = generation;
            }
            Progress::Lost(claim) => {
                let text = format!(
                    "generation {} was claimed by {}",
                    claim.generation, claim.owner
                );
                self.events.push(FtEvent::fenced(&claim));
                self.link.close();
                self.end = Some(End::Fenced(text));
            }
            Progress::Unavailable(error) => {
                if promotion.cause.is_none() {
                    return self.decline(error, now);
                }
                self.events.push(FtEvent::FenceUnavailable { error });
            }
            Progress::Waiting(_) => {}
        }
    }

    /// Whether a claim is under way that is not won yet.
    pub(super) fn awaits_fence(&self) -> bool {
        matches!(&self.phase, Phase::Promoting(promotion) if promotion.won.is_none())
    }

    /// When a promotion wants to be looked after.
    pub(super) fn promotion_deadline(&self, promotion: &Promotion, now: HostTime) -> HostTime {
        match (promotion.won, promotion.drained) {
            (None, _) => promotion.attempt.next_try().max(promotion.yield_until),
            (Some(_), None) => now,
            (Some(_), Some(_)) => promotion.lease_until,
        }
    }

    /// What this side is as primary, once nothing stands in the way.
    pub(super) fn promoted(
        &mut self,
        machine: &dyn Machine,
        now: HostTime,
    ) -> Option<(Promoted, Option<Adoption>)> {
        let Phase::Promoting(promotion) = &self.phase else {
            return None;
        };
        if self.end.is_some() || promotion.drained.is_none() || now < promotion.lease_until {
            return None;
        }
        let replayer = self.replayer.as_ref()?;
        let phases = promotion.phases(now);
        let planned = phases.planned;
        let offset = self.offset.get(machine, now);
        let clock = ClockFollower::take_over(now, machine.virtual_ns(), offset, replayer.point());
        let recorder = Recorder::new(clock, replayer.ledger(), now);
        let mut gate = std::mem::replace(&mut self.gate, OutputGate::new(0));
        gate.forget(self.released);
        gate.reset_latency();
        self.history.last_failover = Some(phases.clone());
        self.events.push(FtEvent::Promoted {
            generation: self.generation,
            phases,
        });
        let fence = self.fence.take();
        let adoption = fence.filter(|_| planned).map(|fence| Adoption {
            link: std::mem::replace(&mut self.link, crate::link::Link::new(now)),
            link_closed: self.link_closed,
            parameters: self.parameters.clone(),
            fence,
        });
        let promoted = Promoted {
            owner: self.owner.clone(),
            recorder,
            gate,
            generation: self.generation,
            history: self.history.clone(),
            events: std::mem::take(&mut self.events),
        };
        Some((promoted, adoption))
    }

    /// Stays what it is: the fence cannot be asked, and the primary can go on.
    fn decline(&mut self, error: String, now: HostTime) {
        self.phase = Phase::Replaying;
        self.link
            .send(&Message::Declined(error), self.generation, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ClockRate, ClockSync, SyncPoint};

    #[test]
    fn entries_of_a_guest_that_sleeps_for_long_do_not_wear_the_offset_away() {
        let sync = ClockSync {
            virtual_ns: 9_000_000,
            rate: ClockRate::INITIAL,
        };
        let at = LogicalTime(700);
        let coder = EntryCoder::new(at, SyncPoint { at, sync });
        let mut offset = ClockOffset::default();
        for seconds in 1..60 {
            offset.sample(&coder, HostTime(0).plus_ms(seconds * 1_000));
        }
        let known = offset.current.max(offset.previous);
        assert_eq!(known, Some(9_000_000 - 1_000_000_000));
    }
}
