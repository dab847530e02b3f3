//! Repair: a backup that has diverged is given what differs, and nothing else.
//!
//! The primary keeps its state digests of every epoch that is not verified. When the backup
//! reports that epoch `e` ended differently there, the pages that may differ are those whose
//! digests differ at `e`, and those that the primary has written since. They are shipped with the
//! sections, as of now; the backup skips the log up to here and replays on.
//!
//! Until the backup has confirmed the repair, nothing leaves: it could not stand in for it.

use std::collections::BTreeSet;

use crate::divergence::{BackupState, DivergenceCause, DivergenceReport, differing_pages};
use crate::machine::Machine;
use crate::primary::Primary;
use crate::primary::clone::{send_pages, send_sections};
use crate::primary::protection::Protection;
use crate::protocol::{Base, Divergence, Message};
use crate::snapshot::MAX_BATCH_PAGES;
use crate::status::FtEvent;
use crate::time::{HostTime, PageNumber};

impl Primary {
    /// The backup reports that it has diverged.
    ///
    /// # Errors
    /// If the report is of an epoch that this side does not keep.
    pub(super) fn on_divergence(
        &mut self,
        machine: &dyn Machine,
        divergence: Divergence,
    ) -> Result<(), String> {
        let Some(protection) = self.protection.as_deref_mut() else {
            return Ok(());
        };
        let report = report(machine, protection, &divergence)?;
        self.gate.block(true);
        self.history.divergences += 1;
        self.history.last_divergence = Some(report.clone());
        self.events.push(FtEvent::Diverged {
            report: Box::new(report.clone()),
        });
        protection.divergence = Some((divergence, report));
        Ok(())
    }

    /// Ships what differs, if the backup has diverged. The machine is at a boundary.
    pub(super) fn repair(&mut self, machine: &mut dyn Machine, now: HostTime) {
        let found = self
            .protection
            .as_deref_mut()
            .and_then(|p| p.divergence.take());
        let Some((divergence, report)) = found else {
            return;
        };
        self.close_epoch(machine, now);
        let generation = self.generation;
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        protection.flush(machine.now(), true, generation, now);
        let pages = suspect_pages(protection, &divergence, &report);
        machine.synchronise();
        for batch in pages.chunks(MAX_BATCH_PAGES) {
            send_pages(machine, batch, &mut protection.link, generation, now);
        }
        send_sections(machine, &mut protection.link, generation, now);
        let position = protection.position();
        let base = Base {
            epoch: self.recorder.meter().epoch(),
            at: machine.now(),
            position,
            point: self.recorder.point(),
            ledger: self.recorder.ledger(),
            held: self.gate.waiting().cloned().collect(),
        };
        protection
            .link
            .send(&Message::RepairState(Box::new(base)), generation, now);
        protection.unverified.clear();
        protection.repair_at = Some((position, pages.len() as u64));
    }

    /// Lets outputs go again once the backup has confirmed a repair.
    pub(super) fn confirm_repair(&mut self) {
        let Some(protection) = self.protection.as_deref_mut() else {
            return;
        };
        let Some((position, pages)) = protection.repair_at else {
            return;
        };
        if protection.ack.verified < position || protection.divergence.is_some() {
            return;
        }
        protection.repair_at = None;
        self.gate.block(false);
        self.history.repairs += 1;
        self.events.push(FtEvent::Repaired { pages });
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
            Ok(DivergenceReport::compare(
                machine,
                place,
                cause,
                &ended.digest,
                state,
            ))
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

/// Pages in which the backup may differ from the primary as it is now, ascending.
fn suspect_pages(
    protection: &Protection,
    divergence: &Divergence,
    report: &DivergenceReport,
) -> Vec<PageNumber> {
    let BackupState { pages, .. } = &divergence.state;
    let mut suspects = BTreeSet::new();
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
