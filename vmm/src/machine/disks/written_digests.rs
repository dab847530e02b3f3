//! Digests of pages that were just written, from what was written: so that the end of an epoch need
//! not read them back.
//!
//! What the image really holds is looked at when a page is scrubbed, in an epoch in which it is not
//! written.

use devices::virtio::block::{BlockOperation, BlockRequest, SECTOR_SIZE};
use foldhash::HashMap;
use ft::machine::PAGE_SIZE;

use super::{covers, pages_of};

/// Most pages whose digests are kept: 256 MiB, far more than an epoch writes. More are read back.
const MOST: usize = 65_536;

/// Digests of one disk's pages.
#[derive(Default)]
pub(super) struct WrittenDigests {
    /// Of pages written since the last turn.
    new: HashMap<u64, u64>,
    /// Of pages written between the last two turns, and not since.
    old: HashMap<u64, u64>,
    /// So many were written without a turn that nobody seems to ask for any: none is kept until the
    /// next turn.
    idle: bool,
}

impl WrittenDigests {
    /// A request that modifies was completed.
    pub(super) fn note(&mut self, request: &BlockRequest, succeeded: bool) {
        if self.idle {
            return;
        }
        let writes = succeeded && request.operation == BlockOperation::Write;
        let start = request.sector * SECTOR_SIZE;
        for page in pages_of(request) {
            self.forget(page);
            if !writes || !covers(request, page) {
                continue;
            }
            let from = (page * PAGE_SIZE as u64 - start) as usize;
            let bytes = request.data.get(from..from + PAGE_SIZE);
            if let Some(bytes) = bytes.and_then(|bytes| bytes.try_into().ok()) {
                self.new.insert(page, ft::digest::of_page(bytes));
            }
        }
        if self.new.len() > MOST {
            *self = Self {
                idle: true,
                ..Self::default()
            };
        }
    }

    /// A page holds something else, or may.
    pub(super) fn forget(&mut self, page: u64) {
        self.new.remove(&page);
        self.old.remove(&page);
    }

    /// The pages written until now were taken: their digests are asked for next.
    pub(super) fn turn(&mut self) {
        self.old = std::mem::take(&mut self.new);
        self.idle = false;
    }

    /// Digest of a page, if it is known.
    pub(super) fn of(&self, page: u64) -> Option<u64> {
        self.new.get(&page).or_else(|| self.old.get(&page)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of a request.
    const PAGES: u64 = 256;

    fn write(first: u64) -> BlockRequest {
        let len = PAGES * PAGE_SIZE as u64;
        BlockRequest {
            id: 1,
            operation: BlockOperation::Write,
            sector: first * PAGE_SIZE as u64 / SECTOR_SIZE,
            len,
            durable: false,
            data: vec![7; len as usize].into(),
        }
    }

    #[test]
    fn digests_that_nobody_asks_for_are_not_kept_until_somebody_does() {
        let mut digests = WrittenDigests::default();
        let digest = Some(ft::digest::of_page(&[7; PAGE_SIZE]));
        digests.note(&write(0), true);
        assert_eq!(digests.of(0), digest);
        for first in (PAGES..=MOST as u64).step_by(PAGES as usize) {
            digests.note(&write(first), true);
        }
        assert_eq!([digests.of(0), digests.of(MOST as u64)], [None; 2]);
        digests.note(&write(0), true);
        assert_eq!(digests.of(0), None);
        digests.turn();
        assert_eq!(digests.of(0), None);
        digests.note(&write(0), true);
        digests.turn();
        assert_eq!(digests.of(PAGES - 1), digest);
    }
}
