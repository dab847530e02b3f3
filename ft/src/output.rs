//! The output gate: what the machine puts out waits here until it is safe to let go.
//!
//! ```text
//!   machine ──▶ [ number, position ] ──▶ queue ──(acknowledged up to position)──▶ ready ──▶ host
//!                                                                      ▲
//!                                                      ReleasePermit ──┘  lease, fence
//! ```
//!
//! Outputs are numbered over the whole life of a virtual machine, across failovers, so that a
//! backup knows which of its own the world may have seen.

use std::collections::VecDeque;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::event::Output;
use crate::histogram::{LatencyHistogram, LatencySummary};
use crate::time::{HostTime, LogPosition};

/// When an output may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleasePolicy {
    /// When the backup has received the log up to it.
    #[default]
    Received,
    /// When the backup has replayed the log up to it.
    Replayed,
    /// When the epoch it belongs to was verified.
    Verified,
}

/// Position of an output whose epoch is not closed yet: none that is acknowledged reaches it.
pub(crate) const UNSEALED: LogPosition = LogPosition(u64::MAX);

/// How many outputs there were, and a digest over all of them in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLedger {
    /// How many.
    pub count: u64,
    /// Digest over all.
    pub chain: u64,
}

impl OutputLedger {
    /// Counts an output and gives it its number; the first is number one.
    pub fn admit(&mut self, output: Output) -> NumberedOutput {
        let number = self.note(&output);
        NumberedOutput { number, output }
    }

    /// The ledger behind these outputs; none if the first is not the next, or one is missing.
    #[must_use]
    pub fn behind(mut self, outputs: &[NumberedOutput]) -> Option<Self> {
        let mut outputs = outputs.iter();
        let follow = outputs.all(|next| self.note(&next.output) == next.number);
        follow.then_some(self)
    }

    /// Counts an output; its number.
    fn note(&mut self, output: &Output) -> u64 {
        let mut hash = XxHash3_64::new();
        hash.write(&self.chain.to_le_bytes());
        hash.write(&output.device.0.to_le_bytes());
        hash.write(&output.payload);
        self.chain = hash.finish();
        self.count += 1;
        self.count
    }

    /// One number that stands for the ledger.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.chain ^ self.count.rotate_left(32)
    }
}

/// An output with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedOutput {
    /// One for the first output of the virtual machine's life.
    pub number: u64,
    /// What leaves.
    pub output: Output,
}

/// Leave to let outputs go, given for one moment. Made from a lease or by a machine that is alone.
#[must_use = "a permit that is not used releases nothing"]
#[derive(Debug)]
pub struct ReleasePermit {
    /// Made by whoever has checked.
    now: HostTime,
}

impl ReleasePermit {
    /// A permit for a machine without a peer that could take over.
    pub(crate) fn alone(now: HostTime) -> Self {
        Self { now }
    }
}

/// The time up to which this side may act as primary without asking anyone.
///
/// The backup acknowledges a frame only while it has not turned to taking over, and afterwards
/// waits for the lease length since its last acknowledgement. So an acknowledgement of a frame
/// sent at `s` allows release until `s + length`, whatever else is stopped, slow or cut off.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    length_ns: u64,
    renewed: Option<HostTime>,
}

impl Lease {
    /// A lease not yet granted.
    #[must_use]
    pub fn new(length_ms: u64) -> Self {
        Self {
            length_ns: length_ms.saturating_mul(crate::time::NS_PER_MS),
            renewed: None,
        }
    }

    /// The peer has proved that it had not turned at `sent`.
    pub fn renew(&mut self, sent: HostTime) {
        self.renewed = Some(self.renewed.map_or(sent, |renewed| renewed.max(sent)));
    }

    /// A permit, if the lease holds at `now`.
    pub fn permit(&self, now: HostTime) -> Option<ReleasePermit> {
        self.holds(now).then_some(ReleasePermit { now })
    }

    /// When the lease runs out; the beginning of time if it was never granted.
    #[must_use]
    pub fn until(&self) -> HostTime {
        let renewed = self.renewed;
        renewed.map_or(HostTime(0), |sent| sent.plus(self.length_ns))
    }

    /// How long the acknowledgement that renewed it last has taken, if it came just now.
    #[must_use]
    pub fn age_ns(&self, now: HostTime) -> u64 {
        self.renewed.map_or(0, |sent| now.since(sent))
    }

    /// Whether the lease holds at `now`.
    #[must_use]
    pub fn holds(&self, now: HostTime) -> bool {
        now < self.until()
    }
}

/// An output that waits.
#[derive(Clone, Debug)]
struct Waiting {
    numbered: NumberedOutput,
    position: LogPosition,
    since: HostTime,
}

/// Queues outputs and lets them go.
#[derive(Debug, Default)]
pub struct OutputGate {
    waiting: VecDeque<Waiting>,
    acknowledged: LogPosition,
    blocked: bool,
    latency: LatencyHistogram,
    released: u64,
}

impl OutputGate {
    /// An empty gate; outputs up to number `released` have left before.
    #[must_use]
    pub fn new(released: u64) -> Self {
        Self {
            released,
            ..Self::default()
        }
    }

    /// Queues an output that may leave once `position` is acknowledged.
    pub fn queue(&mut self, numbered: NumberedOutput, position: LogPosition, now: HostTime) {
        self.waiting.push_back(Waiting {
            numbered,
            position,
            since: now,
        });
    }

    /// The log is safe up to `position`.
    pub fn acknowledge(&mut self, position: LogPosition) {
        self.acknowledged = self.acknowledged.max(position);
    }

    /// Outputs up to `number` whose epoch was not closed may leave once `position` is acknowledged.
    pub(crate) fn seal(&mut self, number: u64, position: LogPosition) {
        for waiting in &mut self.waiting {
            if waiting.numbered.number <= number && waiting.position == UNSEALED {
                waiting.position = position;
            }
        }
    }

    /// Starts counting positions anew, as a new log begins; what waits belongs before it.
    pub fn rebase(&mut self) {
        self.acknowledged = LogPosition(0);
        for waiting in &mut self.waiting {
            waiting.position = LogPosition(0);
        }
    }

    /// Nothing more has to be waited for: there is no backup.
    pub fn open(&mut self) {
        self.blocked = false;
        for waiting in &mut self.waiting {
            waiting.position = LogPosition(0);
        }
    }

    /// Holds everything, whatever is acknowledged, or lifts that again.
    pub fn block(&mut self, blocked: bool) {
        self.blocked = blocked;
    }

    /// Whether everything is held.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether an output could leave, given a permit.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.blocked
            && self
                .waiting
                .front()
                .is_some_and(|first| first.position <= self.acknowledged)
    }

    /// Lets go what is safe, oldest first.
    pub fn release(&mut self, permit: ReleasePermit) -> Vec<NumberedOutput> {
        let mut released = Vec::new();
        while self.is_ready() {
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            self.latency.add(permit.now.since(first.since));
            self.released = first.numbered.number;
            released.push(first.numbered);
        }
        released
    }

    /// Forgets outputs up to `number`: someone else has let them go.
    pub fn forget(&mut self, number: u64) {
        while self
            .waiting
            .front()
            .is_some_and(|first| first.numbered.number <= number)
        {
            self.waiting.pop_front();
        }
        self.released = self.released.max(number);
    }

    /// Gives up everything that waits: another machine is live.
    pub fn discard(&mut self) -> usize {
        let count = self.waiting.len();
        self.waiting.clear();
        count
    }

    /// What waits, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &NumberedOutput> {
        self.waiting.iter().map(|waiting| &waiting.numbered)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Number of the last output that left.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released
    }

    /// How long outputs waited.
    #[must_use]
    pub fn latency(&self) -> LatencySummary {
        self.latency.summary()
    }

    /// Starts measuring waits anew.
    pub fn reset_latency(&mut self) {
        self.latency = LatencyHistogram::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DeviceId;

    fn output(byte: u8) -> Output {
        Output {
            device: DeviceId(0),
            payload: vec![byte],
        }
    }

    fn gate_with(positions: &[u64]) -> OutputGate {
        let mut ledger = OutputLedger::default();
        let mut gate = OutputGate::new(0);
        for position in positions {
            let numbered = ledger.admit(output(*position as u8));
            gate.queue(numbered, LogPosition(*position), HostTime(1000));
        }
        gate
    }

    fn numbers(released: &[NumberedOutput]) -> Vec<u64> {
        released.iter().map(|numbered| numbered.number).collect()
    }

    #[test]
    fn a_ledger_follows_outputs_of_which_none_is_missing_or_another() {
        let before = OutputLedger::default();
        let mut after = before;
        let outputs: Vec<_> = (1..=3).map(|byte| after.admit(output(byte))).collect();
        assert_eq!(before.behind(&outputs), Some(after));
        assert_eq!(before.behind(&outputs[1..]), None);
        assert_ne!(before.behind(&outputs[..2]), Some(after));
        let mut other = outputs;
        other[1].output.payload[0] ^= 1;
        assert_ne!(before.behind(&other), Some(after));
    }

    #[test]
    fn outputs_leave_in_order_up_to_the_acknowledged_position_and_not_beyond() {
        let mut gate = gate_with(&[1, 1, 3]);
        assert!(
            gate.release(ReleasePermit::alone(HostTime(2000)))
                .is_empty()
        );
        gate.acknowledge(LogPosition(2));
        let released = gate.release(ReleasePermit::alone(HostTime(2000)));
        assert_eq!(numbers(&released), [1, 2]);
        gate.acknowledge(LogPosition(3));
        assert_eq!(
            numbers(&gate.release(ReleasePermit::alone(HostTime(2500)))),
            [3]
        );
        assert_eq!(gate.released(), 3);
        assert_eq!(gate.latency().count, 3);
    }

    #[test]
    fn outputs_of_an_open_epoch_wait_until_it_is_closed_whatever_is_acknowledged() {
        let mut gate = gate_with(&[UNSEALED.0, UNSEALED.0]);
        gate.acknowledge(LogPosition(1 << 60));
        assert!(!gate.is_ready());
        gate.seal(1, LogPosition(7));
        let released = gate.release(ReleasePermit::alone(HostTime(0)));
        assert_eq!(numbers(&released), [1]);
    }

    #[test]
    fn a_blocked_gate_holds_what_is_acknowledged() {
        let mut gate = gate_with(&[1]);
        gate.acknowledge(LogPosition(9));
        gate.block(true);
        assert!(gate.release(ReleasePermit::alone(HostTime(0))).is_empty());
        gate.block(false);
        assert_eq!(gate.release(ReleasePermit::alone(HostTime(0))).len(), 1);
    }

    #[test]
    fn an_acknowledgement_that_goes_back_changes_nothing() {
        let mut gate = gate_with(&[2]);
        gate.acknowledge(LogPosition(2));
        gate.acknowledge(LogPosition(1));
        assert!(gate.is_ready());
    }

    #[test]
    fn a_lease_holds_for_its_length_since_the_frame_was_sent_and_is_never_shortened() {
        let mut lease = Lease::new(20);
        assert!(lease.permit(HostTime(0)).is_none());
        lease.renew(HostTime(0).plus_ms(100));
        lease.renew(HostTime(0).plus_ms(90));
        assert!(lease.holds(HostTime(0).plus_ms(119)));
        assert!(!lease.holds(HostTime(0).plus_ms(120)));
    }

    #[test]
    fn outputs_that_another_side_let_go_are_forgotten() {
        let mut gate = gate_with(&[1, 2, 3]);
        gate.forget(2);
        gate.open();
        assert_eq!(
            numbers(&gate.release(ReleasePermit::alone(HostTime(0)))),
            [3]
        );
    }

    #[test]
    fn ledgers_of_the_same_outputs_in_another_order_differ() {
        let (mut one, mut two) = (OutputLedger::default(), OutputLedger::default());
        one.admit(output(1));
        one.admit(output(2));
        two.admit(output(2));
        two.admit(output(1));
        assert_ne!(one.digest(), two.digest());
        assert_eq!(one.count, two.count);
    }
}
