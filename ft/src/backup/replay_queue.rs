//! What a backup does to its machine: clone, replay, repair, in the order in which it came.

use crate::backup::work_queue::Item;
use crate::backup::{Backup, Phase, replay_base};
use crate::checkpoint::sections::replaced;
use crate::codec::FieldReader;
use crate::digest::PageDigest;
use crate::divergence::{BackupState, DivergenceCause};
use crate::event::Input;
use crate::failover::Suspicion;
use crate::log::{Entry, Event};
use crate::machine::{Machine, Section};
use crate::output::{OutputGate, ReleasePolicy};
use crate::protocol::{Base, Divergence, Message};
use crate::replay::{ReplayedEpoch, Replayer, Step};
use crate::snapshot::read_pages;
use crate::status::End;
use crate::time::{HostTime, LogPosition};

/// Items done in one step besides what the instruction budget allows: bounds the time spent on
/// entries that cost nothing.
const MAX_ITEMS: usize = 64;
/// Inputs of devices that are replayed in one step: each may make this host read or write as much
/// of a disk as a request has.
const MAX_DEVICE_INPUTS: usize = 4;
/// Pages of a machine that are looked at, or batches of a repair that are set, between two
/// heartbeats.
const MAX_STRAYS: usize = 1024;
const MAX_BATCHES: usize = 4;
/// Bytes that may wait for the connection before nothing more is compared for the primary.
const MAX_UNSENT: usize = 1 << 20;

/// What is to be done with an item that was looked at.
enum Done {
    /// It is done.
    Yes,
    /// It has to be looked at again.
    Not,
}

impl Backup {
    /// Works on what has come for about `slice_ns` of the guest's time. Whether there is more.
    pub(super) fn work(&mut self, machine: &mut dyn Machine, slice_ns: u64, now: HostTime) -> bool {
        if self.awaits_fence() {
            return false;
        }
        let mut budget = self.budget(slice_ns);
        let mut device_inputs = 0;
        for _ in 0..MAX_ITEMS {
            if self.end.is_some() || budget == 0 {
                break;
            }
            let unread = matches!(self.queue.first(), Some(Item::Compare(_)))
                && self.link.unsent() > MAX_UNSENT;
            if self.awaits_repair() || unread {
                return false;
            }
            let Some(item) = self.queue.pop() else {
                break;
            };
            // A batch of pages takes about a millisecond: heartbeats must go out in between.
            let is_batch = matches!(item, Item::Pages(_) | Item::Compare(_) | Item::Delta(_));
            device_inputs += usize::from(is_device_input(&item));
            if let Some(item) = self.work_on(machine, item, &mut budget, now) {
                self.queue.put_back(item);
                break;
            }
            if is_batch || device_inputs == MAX_DEVICE_INPUTS {
                break;
            }
        }
        if self.end.is_none() && self.queue.is_empty() {
            self.on_caught_up(now);
            return false;
        }
        self.end.is_none() && !matches!(self.phase, Phase::Diverged)
    }

    /// Works on one item; gives it back if it is not done.
    fn work_on(
        &mut self,
        machine: &mut dyn Machine,
        item: Item,
        budget: &mut u64,
        now: HostTime,
    ) -> Option<Item> {
        match item {
            Item::Pages(bytes) => {
                if let Err(text) = self.set_pages(machine, &bytes) {
                    self.give_up(&text, now);
                }
            }
            Item::Compare(pages) => {
                if let Err(text) = self.compare(machine, &pages, now) {
                    self.give_up(&text, now);
                }
            }
            Item::Cloned(sections, base) => {
                if !self.strays.clear(machine, MAX_STRAYS) {
                    return Some(Item::Cloned(sections, base));
                }
                self.start_replay(machine, &sections, &base, now);
            }
            Item::Entry(position, entry) => {
                if let Done::Not = self.replay(machine, position, &entry, budget, now) {
                    return Some(Item::Entry(position, entry));
                }
            }
            Item::Delta(delta) => return self.set_delta(machine, delta, now).map(Item::Delta),
            Item::Repair(mut batches, sections, base) => {
                let most = batches.len().min(MAX_BATCHES);
                for bytes in batches.drain(..most) {
                    if let Err(text) = self.set_pages(machine, &bytes) {
                        self.give_up(&text, now);
                        return None;
                    }
                }
                if !batches.is_empty() {
                    return Some(Item::Repair(batches, sections, base));
                }
                self.apply_repair(machine, &sections, &base, now);
            }
            Item::Failover(position) => self.on_failover(position, now),
        }
        None
    }

    /// Instructions that take about `slice_ns` of the guest's time.
    fn budget(&self, slice_ns: u64) -> u64 {
        let rate = self
            .replayer
            .as_ref()
            .map(|replayer| replayer.point().sync.rate);
        rate.map_or(1, |rate| rate.instructions_for(slice_ns).max(1))
    }

    /// Sets the pages of a batch.
    fn set_pages(&mut self, machine: &mut dyn Machine, bytes: &[u8]) -> Result<(), String> {
        let mut reader = FieldReader::new(bytes);
        let strays = &mut self.strays;
        read_pages(&mut reader, machine.page_count(), |page, bytes| {
            machine.write_page(page, bytes);
            strays.settle(page);
        })
        .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Tells the primary which of its pages are not what they are here. The others stay.
    fn compare(
        &mut self,
        machine: &mut dyn Machine,
        pages: &[PageDigest],
        now: HostTime,
    ) -> Result<(), String> {
        let count = machine.page_count();
        let mut differing = Vec::new();
        for PageDigest { page, digest } in pages {
            if page.0 >= count {
                return Err(format!("page {page} to be compared; there are {count}"));
            }
            // A page that cannot be read is to be written anew, whatever it counts as.
            let equal = machine.page_digest(*page) == *digest;
            let readable = machine.take_unreadable().is_none();
            if equal && readable {
                self.strays.settle(*page);
            } else {
                differing.push(*page);
            }
        }
        let answer = Message::Differ(differing);
        self.link.send(&answer, self.generation, now);
        Ok(())
    }

    /// The clone is complete: the machine is what the primary was.
    fn start_replay(
        &mut self,
        machine: &mut dyn Machine,
        sections: &[Section],
        base: &Base,
        now: HostTime,
    ) {
        if let Err(error) = machine.restore(sections) {
            return self.give_up(&format!("the machine refuses the clone: {error}"), now);
        }
        if let Some(text) = machine.failure() {
            return self.give_up(&format!("the machine does not take the clone: {text}"), now);
        }
        self.keep_sections(sections.to_vec());
        self.settle(machine, base);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Replaying) {
            promoting @ Phase::Promoting(_) => promoting,
            _ => Phase::Replaying,
        };
    }

    /// Keeps the sections as they are now, if the next ones are to be told from them.
    fn keep_sections(&mut self, sections: Vec<Section>) {
        if self.follows_deltas() {
            self.sections = sections;
        }
    }

    /// Takes the base as the state that the machine is in.
    fn settle(&mut self, machine: &mut dyn Machine, base: &Base) {
        machine.synchronise();
        machine.take_dirty_pages();
        let scrub_pages = self.parameters.scrub_pages;
        self.replayer = Some(Replayer::new(replay_base(base), scrub_pages));
        self.released = self
            .released
            .max(base.ledger.count.saturating_sub(base.held.len() as u64));
        self.gate = OutputGate::new(self.released);
        for output in base
            .held
            .iter()
            .filter(|output| output.number > self.released)
        {
            self.gate.queue(output.clone(), LogPosition(0), HostTime(0));
        }
        (self.replayed, self.verified) = (base.position, base.position);
        self.ack_now = true;
    }

    /// Replays an entry, or a part of the way to it.
    fn replay(
        &mut self,
        machine: &mut dyn Machine,
        position: LogPosition,
        entry: &Entry,
        budget: &mut u64,
        now: HostTime,
    ) -> Done {
        let salvaging = self.salvaging();
        let Some(replayer) = &mut self.replayer else {
            return Done::Yes;
        };
        if salvaging {
            replayer.salvage(machine, entry);
            self.keep_outputs(now);
            self.replayed = position;
            return Done::Yes;
        }
        let step = replayer.step(machine, entry, budget);
        self.keep_outputs(now);
        match step {
            Step::Partial => {
                *budget = 0;
                return Done::Not;
            }
            Step::Done => {}
            Step::Epoch(ended) => self.on_epoch(position, *ended, now),
            Step::Contradiction(text) => {
                self.on_contradiction(machine, text, now);
                return if self.salvaging() {
                    Done::Not
                } else {
                    Done::Yes
                };
            }
            Step::Failed(text) => {
                self.give_up(&format!("the machine failed: {text}"), now);
                self.end = Some(End::Failed(text));
                return Done::Yes;
            }
        }
        if matches!(self.phase, Phase::Diverged) {
            return Done::Yes;
        }
        self.replayed = position;
        let counted = matches!(entry.event, Event::Outputs { .. });
        self.ack_now |= counted && self.releases_on(ReleasePolicy::Replayed);
        Done::Yes
    }

    /// Keeps what was put out and has not left the primary for certain.
    fn keep_outputs(&mut self, now: HostTime) {
        let Some(replayer) = &mut self.replayer else {
            return;
        };
        for output in replayer.take_outputs() {
            if output.number > self.released {
                self.gate.queue(output, LogPosition(0), now);
            }
        }
    }

    /// An epoch has ended on this side as well.
    pub(super) fn on_epoch(&mut self, position: LogPosition, ended: ReplayedEpoch, now: HostTime) {
        if ended.is_equal() {
            self.verified = position;
            self.epochs_verified += 1;
            self.ack_now |= self.releases_on(ReleasePolicy::Verified);
            return;
        }
        let state = BackupState {
            sections: ended.digest.sections,
            pages: ended.digest.pages,
            outputs: ended.digest.outputs,
        };
        let (epoch, at) = (ended.epoch, ended.at);
        self.diverge(
            Divergence {
                epoch,
                at,
                cause: DivergenceCause::Digest,
                state,
            },
            now,
        );
    }

    /// The machine cannot do what the log says.
    fn on_contradiction(&mut self, machine: &mut dyn Machine, text: String, now: HostTime) {
        let Some(replayer) = &self.replayer else {
            return;
        };
        let digest = replayer.digest(machine);
        let state = BackupState {
            sections: digest.sections,
            pages: digest.pages,
            outputs: digest.outputs,
        };
        let cause = DivergenceCause::Contradiction(text);
        let divergence = Divergence {
            epoch: replayer.epoch(),
            at: machine.now(),
            cause,
            state,
        };
        self.diverge(divergence, now);
    }

    /// This side is not what the primary is. The primary is told and will repair it; if there is
    /// no primary any more, this side goes live as it is, and says so.
    fn diverge(&mut self, divergence: Divergence, now: HostTime) {
        self.history.divergences += 1;
        if let Phase::Promoting(promotion) = &mut self.phase {
            promotion.degraded |= true;
            return;
        }
        self.reported.clone_from(&divergence.state.sections);
        self.link
            .send_sections(&self.reported, self.generation, now);
        self.link.send(
            &Message::Divergence(Box::new(divergence)),
            self.generation,
            now,
        );
        self.phase = Phase::Diverged;
    }

    /// A machine that has diverged and is to be live follows the log no longer.
    fn salvaging(&self) -> bool {
        matches!(&self.phase, Phase::Promoting(promotion) if promotion.degraded)
    }

    /// Whether this side has diverged and the repair is not here yet.
    pub(super) fn awaits_repair(&self) -> bool {
        matches!(self.phase, Phase::Diverged)
            && !matches!(self.queue.first(), Some(Item::Repair(..)))
    }

    /// Sets the sections that differ, as the pages are set; the machine is what the primary was.
    fn apply_repair(
        &mut self,
        machine: &mut dyn Machine,
        sections: &[Section],
        base: &Base,
        now: HostTime,
    ) {
        let sections = replaced(std::mem::take(&mut self.reported), sections);
        if let Err(error) = machine.restore(&sections) {
            return self.give_up(&format!("the machine refuses the repair: {error}"), now);
        }
        if let Some(text) = machine.failure() {
            return self.give_up(
                &format!("the machine does not take the repair: {text}"),
                now,
            );
        }
        self.keep_sections(sections);
        self.settle(machine, base);
        self.history.repairs += 1;
        match &mut self.phase {
            Phase::Promoting(promotion) => promotion.degraded = false,
            phase => *phase = Phase::Replaying,
        }
    }

    /// The primary wants this side to take over.
    fn on_failover(&mut self, position: LogPosition, now: HostTime) {
        if matches!(self.phase, Phase::Promoting(_)) {
            return;
        }
        if self.verified != position || self.received != position {
            let text = format!("a failover at {position}, verified {}", self.verified);
            return self.suspect(Suspicion::Protocol(text), self.parameters.timeout_ms, now);
        }
        self.turn(None, 0, now);
    }

    /// Everything that has come is done.
    fn on_caught_up(&mut self, now: HostTime) {
        if let Phase::Promoting(promotion) = &mut self.phase
            && promotion.won.is_some()
        {
            promotion.drained.get_or_insert(now);
        }
    }
}

/// Whether an item is something that a device's host side has brought.
fn is_device_input(item: &Item) -> bool {
    let Item::Entry(_, entry) = item else {
        return false;
    };
    matches!(entry.event, Event::Input(Input::Device { .. }))
}
