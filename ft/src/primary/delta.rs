//! Epochs that end with a delta: the copy, and its way to the backup.
//!
//! A step of the primary in which an epoch is closed executes nothing, so that the guest's pause is
//! what lies between that step and the next. See [`crate::checkpoint`].

use std::collections::VecDeque;

use crate::checkpoint::MAX_DELTA_PAGES;
use crate::checkpoint::capture::Capture;
use crate::checkpoint::interval::{Reason, Situation};
use crate::checkpoint::pages::{MAX_BATCH_PAGES, PageEncoder};
use crate::checkpoint::sections::changed;
use crate::checkpoint::status::CheckpointStatus;
use crate::codec::FieldWriter;
use crate::digest::{EpochDigest, PageDigest};
use crate::failover::Suspicion;
use crate::histogram::LatencyHistogram;
use crate::machine::{Machine, Page, Section};
use crate::mode::Mode;
use crate::output::NumberedOutput;
use crate::primary::Primary;
use crate::primary::clone::MAX_UNSENT;
use crate::primary::protection::{Phase, Protection};
use crate::protocol::{Base, Commit, Message};
use crate::record::EndedEpoch;
use crate::time::{HostTime, LogPosition, PageNumber};

/// Bytes of outputs from which on a message takes no more of them.
const MAX_HELD_BYTES: usize = 4 << 20;

/// How epochs are closed.
pub(super) enum Closing {
    /// By an entry of the log.
    Log,
    /// By a delta.
    Delta(Box<DeltaSender>),
}

impl Closing {
    /// What belongs to a mode, with a backup that has these sections and these outputs.
    pub(super) fn of(mode: Mode, sections: Vec<Section>, outputs: u64, now: HostTime) -> Self {
        match mode {
            Mode::Checkpoint => Self::Delta(Box::new(DeltaSender::new(sections, outputs, now))),
            Mode::Auto | Mode::Replay => Self::Log,
        }
    }
}

/// Sends deltas.
pub(super) struct DeltaSender {
    encoder: PageEncoder,
    /// As the backup has them.
    sections: Vec<Section>,
    under_way: Option<UnderWay>,
    last_end: HostTime,
    /// Number of the last output of a closed epoch.
    last_output: u64,
    /// Position of the last commit.
    last_commit: LogPosition,
    pausing: Option<HostTime>,
    pauses: LatencyHistogram,
    /// Commits that are not acknowledged, with the times at which their epochs ended.
    unacknowledged: VecDeque<(LogPosition, HostTime)>,
    commits: LatencyHistogram,
    counts: CheckpointStatus,
}

/// A delta that is being encoded.
struct UnderWay {
    capture: Capture,
    left: std::vec::IntoIter<(PageNumber, Box<Page>)>,
    digests: Vec<PageDigest>,
    ended: HostTime,
}

impl DeltaSender {
    fn new(sections: Vec<Section>, outputs: u64, now: HostTime) -> Self {
        Self {
            encoder: PageEncoder::default(),
            sections,
            under_way: None,
            last_end: now,
            last_output: outputs,
            last_commit: LogPosition(0),
            pausing: None,
            pauses: LatencyHistogram::default(),
            unacknowledged: VecDeque::new(),
            commits: LatencyHistogram::default(),
            counts: CheckpointStatus::default(),
        }
    }

    /// Whether the delta of the last epoch is not all sent yet.
    pub(super) fn is_sending(&self) -> bool {
        self.under_way.is_some()
    }

    /// The guest goes on at `now`.
    pub(super) fn note_resumed(&mut self, now: HostTime) {
        if let Some(since) = self.pausing.take() {
            self.pauses.add(now.since(since));
        }
    }

    /// The backup has everything up to `position`.
    pub(super) fn note_acknowledged(&mut self, position: LogPosition, now: HostTime) {
        while let Some((_, ended)) = self
            .unacknowledged
            .pop_front_if(|(commit, _)| *commit <= position)
        {
            self.commits.add(now.since(ended));
        }
    }

    /// Figures.
    pub(super) fn status(&self) -> CheckpointStatus {
        CheckpointStatus {
            pause: self.pauses.summary(),
            commit: self.commits.summary(),
            pages: self.encoder.pages,
            saved_bytes: self.encoder.saved,
            ..self.counts
        }
    }

    /// The backup has been given the whole state anew: these sections, and pages of which nothing
    /// is kept.
    pub(super) fn restart(&mut self, sections: Vec<Section>, outputs: u64, position: LogPosition) {
        self.sections = sections;
        (self.last_output, self.last_commit) = (outputs, position);
        self.encoder.sent.clear();
        self.unacknowledged.clear();
    }

    /// Gives up what is under way, and what is known of the backup's pages; the pages that it does
    /// not have, in no order.
    fn give_up(&mut self) -> Vec<PageNumber> {
        self.encoder.sent.clear();
        self.unacknowledged.clear();
        let Some(UnderWay { left, digests, .. }) = self.under_way.take() else {
            return Vec::new();
        };
        let encoded = digests.into_iter().map(|page| page.page);
        encoded.chain(left.map(|(page, _)| page)).collect()
    }
}

impl Protection {
    /// What sends deltas, if they close epochs.
    pub(super) fn deltas(&self) -> Option<&DeltaSender> {
        match &self.closing {
            Closing::Log => None,
            Closing::Delta(sender) => Some(sender),
        }
    }

    /// What sends deltas, if they close epochs.
    pub(super) fn deltas_mut(&mut self) -> Option<&mut DeltaSender> {
        match &mut self.closing {
            Closing::Log => None,
            Closing::Delta(sender) => Some(sender),
        }
    }
}

impl Primary {
    /// What decides whether the epoch is closed by a delta; none if there is nothing to decide.
    pub(super) fn delta_situation(&self, now: HostTime) -> Option<Situation> {
        let protection = self.protection.as_deref()?;
        let sender = protection.deltas().filter(|sender| !sender.is_sending())?;
        if !protection.phase.is_logged() || protection.is_repairing() {
            return None;
        }
        let meter = self.recorder.meter();
        let draining = matches!(protection.phase, Phase::Draining)
            && (meter.has_progressed() || sender.last_commit < protection.position());
        Some(Situation {
            due: draining || meter.is_due(now),
            outputs_wait: self.recorder.ledger().count > sender.last_output,
            acknowledged: protection.ack.received >= sender.last_commit,
            last_end: sender.last_end,
            last_pages: sender.counts.last_pages,
            epoch_ms: protection.parameters.epoch_ms,
        })
    }

    /// Closes the epoch by a delta if it is to be closed; the guest executes nothing in this step
    /// then.
    pub(super) fn close_by_delta(&mut self, machine: &mut dyn Machine, now: HostTime) -> bool {
        let reason = self.delta_situation(now).and_then(|s| s.reason(now));
        let Some(reason) = reason else {
            return false;
        };
        self.recorder.hold_back();
        let written = machine.take_dirty_pages();
        if written.len() > MAX_DELTA_PAGES {
            self.suspect(Suspicion::DeltaTooLarge(written.len() as u64), now);
            return true;
        }
        let (point, ledger) = (self.recorder.point(), self.recorder.ledger());
        let epoch = self.recorder.meter().epoch();
        let Some(protection) = self.protection.as_deref_mut() else {
            return false;
        };
        let scrub_pages = protection.parameters.scrub_pages;
        let Closing::Delta(sender) = &mut protection.closing else {
            return false;
        };
        let pages = written.len();
        let sent = &mut sender.encoder.sent;
        let mut capture = Capture::take(machine, written, (epoch, scrub_pages), sent);
        if let Some(text) = machine.take_unreadable() {
            self.on_unreadable(text, now);
            return true;
        }
        (capture.point, capture.ledger) = (point, ledger);
        let fresh = |output: &&NumberedOutput| output.number > sender.last_output;
        capture.outputs = self.gate.waiting().filter(fresh).cloned().collect();
        sender.under_way = Some(UnderWay {
            left: std::mem::take(&mut capture.pages).into_iter(),
            digests: Vec::with_capacity(pages),
            capture,
            ended: now,
        });
        (sender.last_end, sender.last_output) = (now, ledger.count);
        sender.pausing = Some(now);
        sender.counts.last_pages = pages as u64;
        sender.counts.early += u64::from(reason == Reason::Outputs);
        self.recorder.meter_mut().next(now);
        // A small one goes at once.
        if pages <= self.pace.delta_pages {
            self.delta_step(now);
        }
        true
    }

    /// Encodes and sends some of a delta, if one is under way. Whether there is more to do at once.
    pub(super) fn delta_step(&mut self, now: HostTime) -> bool {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return false;
        };
        let Protection { link, closing, .. } = protection;
        let Closing::Delta(sender) = closing else {
            return false;
        };
        let DeltaSender {
            encoder,
            under_way,
            counts,
            ..
        } = sender.as_mut();
        let Some(delta) = under_way else {
            return false;
        };
        if !protection.phase.is_logged() || link.unsent() > MAX_UNSENT {
            return false;
        }
        let most = match delta.capture.outputs.is_empty() {
            true => self.pace.delta_pages,
            false => self.pace.delta_pages.saturating_mul(2),
        };
        let most = most.clamp(1, MAX_BATCH_PAGES);
        let batch: Vec<_> = delta.left.by_ref().take(most).collect();
        if !batch.is_empty() {
            let mut payload = FieldWriter::new();
            delta
                .digests
                .extend(encoder.write_batch(&mut payload, batch));
            let payload = payload.finish();
            counts.sent_bytes += payload.len() as u64;
            link.send(&Message::Delta(payload), generation, now);
        }
        if delta.left.len() > 0 {
            return true;
        }
        self.commit(now);
        false
    }

    /// Sends what is left of a delta once its pages are sent; its outputs wait for this position.
    fn commit(&mut self, now: HostTime) {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let Some(delta) = protection
            .deltas_mut()
            .and_then(|sender| sender.under_way.take())
        else {
            return;
        };
        let UnderWay {
            capture,
            digests,
            ended,
            ..
        } = delta;
        let Some(position) = protection.count_commit(capture.at, capture.point, now) else {
            return;
        };
        let base = Base {
            epoch: capture.epoch.plus(1),
            at: capture.at,
            position,
            point: capture.point,
            ledger: capture.ledger,
            held: Vec::new(),
        };
        let Protection { link, closing, .. } = protection;
        let Closing::Delta(sender) = closing else {
            return;
        };
        for held in runs_of_outputs(&capture.outputs) {
            link.send(&Message::Held(held.to_vec()), generation, now);
        }
        for payload in changed(&capture.sections, &sender.sections) {
            sender.counts.sent_bytes += payload.len() as u64;
            link.send(&Message::DeltaSections(payload), generation, now);
        }
        sender.sections.clone_from(&capture.sections);
        sender.unacknowledged.push_back((position, ended));
        sender.last_commit = position;
        sender.counts.deltas += 1;
        self.gate.seal(capture.ledger.count, position);
        let epoch = capture.ended(digests);
        let root = epoch.digest.root;
        protection.unverified.push_back((position, epoch));
        let commit = Message::Commit(Box::new(Commit { root, base }));
        protection.link.send(&commit, generation, now);
    }

    /// The backup has diverged: what is under way is void, and a repair has to bring what was
    /// written since the last commit.
    pub(super) fn void_delta(&mut self, machine: &mut dyn Machine, now: HostTime) {
        let ledger = self.recorder.ledger();
        let epoch = self.recorder.meter().epoch();
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let position = protection.position();
        let Some(sender) = protection.deltas_mut() else {
            return;
        };
        let mut written = sender.give_up();
        written.extend(machine.take_dirty_pages());
        written.sort_unstable();
        written.dedup();
        let digest = EpochDigest {
            written,
            ..EpochDigest::of(Vec::new(), Vec::new(), ledger)
        };
        let at = machine.now();
        let ended = EndedEpoch { epoch, at, digest };
        protection.unverified.push_back((position, ended));
        self.recorder.meter_mut().next(now);
    }
}

/// Cuts outputs into runs, each of which fits into a message.
fn runs_of_outputs(outputs: &[NumberedOutput]) -> Vec<&[NumberedOutput]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, numbered) in outputs.iter().enumerate() {
        bytes += numbered.output.payload.len();
        if bytes >= MAX_HELD_BYTES {
            runs.push(&outputs[start..=index]);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < outputs.len() {
        runs.push(&outputs[start..]);
    }
    runs
}
