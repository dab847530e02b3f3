//! What is copied aside at the end of an epoch, so that the guest can go on.

use crate::checkpoint::sent::SentPages;
use crate::digest::{self, EpochDigest, PageDigest};
use crate::event::SyncPoint;
use crate::machine::{Machine, Page, Section};
use crate::output::{NumberedOutput, OutputLedger};
use crate::record::EndedEpoch;
use crate::time::{Epoch, LogicalTime, PageNumber};

/// The state at the end of an epoch, as far as it may have changed in it.
#[derive(Debug)]
pub(crate) struct Capture {
    /// The epoch that has ended.
    pub(crate) epoch: Epoch,
    /// The logical time at which it ended.
    pub(crate) at: LogicalTime,
    /// The last re-basing of the clock.
    pub(crate) point: SyncPoint,
    /// Outputs so far.
    pub(crate) ledger: OutputLedger,
    /// Outputs of this epoch.
    pub(crate) outputs: Vec<NumberedOutput>,
    /// Everything that is not memory.
    pub(crate) sections: Vec<Section>,
    /// Pages written, ascending, as they were; taken away as they are sent.
    pub(crate) pages: Vec<(PageNumber, Box<Page>)>,
    /// Digests of pages that were scrubbed and not written.
    scrubbed: Vec<PageDigest>,
}

impl Capture {
    /// Copies pages, digests a few others, and saves the sections. Outputs and the clock are the
    /// caller's to add.
    pub(crate) fn take(
        machine: &mut dyn Machine,
        written: Vec<PageNumber>,
        (epoch, scrub): (Epoch, u32),
        sent: &mut SentPages,
    ) -> Self {
        let scrubbed = digest::scrub(machine, epoch, scrub, &written);
        let copy = |page: PageNumber| {
            let mut bytes = sent.spare();
            machine.read_page(page, &mut bytes);
            (page, bytes)
        };
        let pages = written.into_iter().map(copy).collect();
        Self {
            epoch,
            at: machine.now(),
            point: SyncPoint::start(),
            ledger: OutputLedger::default(),
            outputs: Vec::new(),
            sections: machine.sections(),
            pages,
            scrubbed,
        }
    }

    /// The epoch with its digest, once its pages were digested on their way.
    pub(crate) fn ended(self, written: Vec<PageDigest>) -> EndedEpoch {
        let digest = EpochDigest::of_delta(self.sections, written, self.scrubbed, self.ledger);
        EndedEpoch {
            epoch: self.epoch,
            at: self.at,
            digest,
        }
    }
}
