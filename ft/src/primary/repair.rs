//! Repair: a backup that has diverged is given what differs, and nothing else.
//!
//! The primary keeps its state digests of every epoch that is not verified. When the backup
//! reports that epoch `e` ended differently there, the pages that may differ are those whose
//! digests differ at `e`, those that the primary has written since, and those of which no digest
//! tells. They are shipped as of now, with the sections that are not what the backup has reported;
//! the backup skips the log up to here and replays on. The guest stands still meanwhile, and what
//! is shipped is bounded: a backup that differs in more is given up.
//!
//! Until the backup has confirmed the repair, nothing leaves: it could not stand in for it.

use std::collections::BTreeSet;

use crate::divergence::{BackupState, DivergenceCause, DivergenceReport, differing_pages};
use crate::failover::Suspicion;
use crate::machine::{Machine, Section};
use crate::primary::Primary;
use crate::primary::clone::{MAX_UNSENT, send_pages};
use crate::primary::protection::{Haste, Protection};
use crate::protocol::{Base, Divergence, Message};
use crate::snapshot::{MAX_BATCH_PAGES, MAX_REPAIR_PAGES};
use crate::status::FtEvent;
use crate::time::{HostTime, LogPosition, PageNumber};

/// Batches sent in one step: two mebibytes, while the guest stands still.
const BATCHES_PER_STEP: usize = 2;
/// A repair that is being shipped.
#[derive(Debug)]
pub(super) struct Shipment {
    pages: Vec<PageNumber>,
    done: usize,
    sections: Vec<Section>,
}

/// A repair that was shipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repair {
    /// The last log entry before it.
    position: LogPosition,
    pages: u64,
    sections: u64,
}

impl Primary {
    /// The backup reports that it has diverged.
    ///
    /// # Errors
    /// If the report is of an epoch that this side does not keep.
    pub(super) fn on_divergence(
        &mut self,
        machine: &mut dyn Machine,
        divergence: Divergence,
        now: HostTime,
    ) -> Result<(), String> {
        // What was written up to now belongs to an epoch that is kept.
        match self.closes_by_delta() {
            true => self.void_delta(machine, now),
            false => self.close_epoch(machine, now),
        }
        if self.end.is_some() {
            return Ok(());
        }
        let Some(protection) = self.protection.as_deref_mut() else {
            return Ok(());
        };
        let report = report(machine, protection, &divergence)?;
        if let Some(text) = machine.take_unreadable() {
            self.on_unreadable(text, now);
            return Ok(());
        }
        self.gate.block(true);
        self.history.divergences += 1;
        self.history.last_divergence = Some(report.clone());
        self.events.push(FtEvent::Diverged {
            report: Box::new(report.clone()),
        });
        protection.divergence = Some((divergence, report));
        Ok(())
    }

    /// Ships what differs, if the backup has diverged, some of it in each step. The machine is at a
    /// boundary and stays there. Whether there is more to send at once.
    pub(super) fn repair(&mut self, machine: &mut dyn Machine, now: HostTime) -> bool {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return false;
        };
        if let Some((divergence, report)) = protection.divergence.take() {
            let pages = suspect_pages(machine, protection, &divergence, &report);
            if pages.len() > MAX_REPAIR_PAGES {
                self.suspect(Suspicion::Unrepairable(pages.len() as u64), now);
                return false;
            }
            machine.synchronise();
            let sections = differing_sections(machine, &divergence);
            protection.shipment = Some(Shipment {
                pages,
                done: 0,
                sections,
            });
        }
        if !protection.phase.is_logged() {
            protection.shipment = None;
        }
        let Some(shipment) = &mut protection.shipment else {
            return false;
        };
        if protection.link.unsent() > MAX_UNSENT {
            return false;
        }
        for batch in shipment.pages[shipment.done..]
            .chunks(MAX_BATCH_PAGES)
            .take(BATCHES_PER_STEP)
        {
            if let Err(text) = send_pages(machine, batch, &mut protection.link, generation, now) {
                // The backup sets nothing of a repair that is not complete.
                self.on_unreadable(text, now);
                return false;
            }
            shipment.done += batch.len();
        }
        if shipment.done < shipment.pages.len() {
            return true;
        }
        self.complete_repair(machine, now);
        false
    }

    /// Sends the sections of a repair, and where the log goes on.
    fn complete_repair(&mut self, machine: &mut dyn Machine, now: HostTime) {
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let Some(shipment) = protection.shipment.take() else {
            return;
        };
        protection.flush(machine.now(), Haste::AtOnce, generation, now);
        let sections = &shipment.sections;
        protection.link.send_sections(sections, generation, now);
        let position = protection.position();
        let base = Base {
            epoch: self.recorder.meter().epoch(),
            at: machine.now(),
            position,
            point: self.recorder.point(),
            ledger: self.recorder.ledger(),
            held: self.gate.waiting().cloned().collect(),
        };
        let (outputs, at, point) = (base.ledger.count, base.at, base.point);
        protection
            .link
            .send(&Message::RepairState(Box::new(base)), generation, now);
        if let Some(sender) = protection.deltas_mut() {
            sender.restart(machine.sections(), outputs, position);
            protection.rebase_log(at, point);
            self.gate.seal(outputs, position);
        }
        protection.unverified.clear();
        protection.repair_at = Some(Repair {
            position,
            pages: shipment.pages.len() as u64,
            sections: shipment.sections.len() as u64,
        });
    }

    /// Lets outputs go again once the backup has confirmed a repair.
    pub(super) fn confirm_repair(&mut self) {
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let Some(repair) = protection.repair_at else {
            return;
        };
        if protection.ack.verified < repair.position || protection.divergence.is_some() {
            return;
        }
        protection.repair_at = None;
        self.gate.block(false);
        self.history.repairs += 1;
        let Repair {
            pages, sections, ..
        } = repair;
        self.events.push(FtEvent::Repaired { pages, sections });
    }
}

/// Compares the backup's state with what the primary kept of the same epoch.
fn report(
    machine: &dyn Machine,
    protection: &Protection,
    divergence: &Divergence,
) -> Result<DivergenceReport, String> {
    let place = (divergence.epoch, divergence.at);
    let cause = divergence.cause.clone();
    let kept = protection
        .unverified
        .iter()
        .find(|(_, ended)| ended.epoch == divergence.epoch);
    match (&cause, kept) {
        (DivergenceCause::Digest, Some((_, ended))) => {
            let state = &divergence.state;
            let mut report = DivergenceReport::compare(machine, place, cause, &ended.digest, state);
            complete(&mut report, machine, protection);
            Ok(report)
        }
        (DivergenceCause::Digest, None) => Err(format!(
            "a divergence in epoch {}, which is not open",
            divergence.epoch
        )),
        // In the midst of an epoch there is no state of this side's to compare with.
        (DivergenceCause::Contradiction(_), _) => Ok(DivergenceReport {
            epoch: place.0,
            at: place.1,
            cause,
            sections: Vec::new(),
            pages: Vec::new(),
            outputs: None,
        }),
    }
}

/// Gives pages that only the backup had written the digests that they have here, as far as this
/// side has not written them since.
fn complete(report: &mut DivergenceReport, machine: &dyn Machine, protection: &Protection) {
    let later = |page: PageNumber| {
        let mut epochs = protection.unverified.iter().map(|(_, ended)| ended);
        epochs.any(|ended| {
            ended.epoch > report.epoch && ended.digest.written.binary_search(&page).is_ok()
        })
    };
    for found in &mut report.pages {
        let page = PageNumber(found.page);
        if found.primary.is_some() || page.0 >= protection.facts.page_count || later(page) {
            continue;
        }
        found.primary = Some(machine.page_digest(page)).filter(|ours| found.backup != Some(*ours));
    }
}

/// Sections that are not what the backup has, as they are now.
fn differing_sections(machine: &dyn Machine, divergence: &Divergence) -> Vec<Section> {
    let mut sections = machine.sections();
    sections.retain(|section| !divergence.state.sections.contains(section));
    sections
}

/// Pages in which the backup may differ from the primary as it is now, ascending.
fn suspect_pages(
    machine: &dyn Machine,
    protection: &Protection,
    divergence: &Divergence,
    report: &DivergenceReport,
) -> Vec<PageNumber> {
    let BackupState { pages, .. } = &divergence.state;
    // Equal digests of pages that are being written do not tell that the pages are equal.
    let mut suspects = BTreeSet::from_iter(machine.undecided_pages());
    match report.cause {
        DivergenceCause::Digest => {
            suspects.extend(report.pages.iter().map(|page| PageNumber(page.page)));
        }
        DivergenceCause::Contradiction(_) => {
            suspects.extend(
                differing_pages(&[], pages)
                    .iter()
                    .map(|page| PageNumber(page.page)),
            );
        }
    }
    let compared = report.cause == DivergenceCause::Digest;
    for (_, ended) in &protection.unverified {
        if ended.epoch > divergence.epoch || !compared {
            suspects.extend(&ended.digest.written);
        }
    }
    suspects
        .into_iter()
        .filter(|page| page.0 < protection.facts.page_count)
        .collect()
}
