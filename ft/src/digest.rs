//! Digests of machine state at an epoch end.
//!
//! ```text
//!   root = H( section digests · (page, page digest) of dirty and scrubbed pages · output ledger )
//! ```
//!
//! A page counts when it was written in the epoch. So that damage to a page that nobody writes is
//! found too, each epoch also *scrubs* a few further pages of each part of the machine, chosen by
//! its number and thus equal on both sides. The hash is XXH3 with 64 bits: for telling states
//! apart, not for secrecy.

use std::hash::Hasher;
use std::ops::Range;

use twox_hash::XxHash3_64;

use crate::machine::{Machine, Page, Section};
use crate::output::OutputLedger;
use crate::time::{Epoch, PageNumber};

/// Digest of one page.
#[must_use]
pub fn of_page(bytes: &Page) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Digest of one section: its name, version and bytes.
#[must_use]
pub fn of_section(section: &Section) -> u64 {
    let mut hash = XxHash3_64::new();
    hash.write(&(section.name.len() as u64).to_le_bytes());
    hash.write(section.name.as_bytes());
    hash.write(&section.version.to_le_bytes());
    hash.write(&section.bytes);
    hash.finish()
}

/// A page with its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageDigest {
    /// Which page.
    pub page: PageNumber,
    /// Its digest.
    pub digest: u64,
}

/// State at an epoch end: the sections themselves and digests of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochDigest {
    /// Everything that is not memory, in full, so that a difference can be explained.
    pub sections: Vec<Section>,
    /// Pages written or scrubbed in the epoch, ascending.
    pub pages: Vec<PageDigest>,
    /// Pages written in the epoch, ascending.
    pub written: Vec<PageNumber>,
    /// Outputs so far.
    pub outputs: OutputLedger,
    /// Digest of each section, the pages and the outputs, shortened: tells which part differs.
    pub parts: Vec<u32>,
    /// Digest of it all.
    pub root: u64,
}

impl EpochDigest {
    /// Takes the machine's dirty pages and digests its state.
    ///
    /// `scrub` is how many further pages of each part are read.
    pub fn take(
        machine: &mut dyn Machine,
        epoch: Epoch,
        scrub: u32,
        outputs: OutputLedger,
    ) -> Self {
        let written = machine.take_dirty_pages();
        let mut numbers = written.clone();
        numbers.extend(scrubbed_pages(machine, epoch, scrub));
        numbers.sort_unstable();
        numbers.dedup();
        let pages = numbers
            .into_iter()
            .map(|page| PageDigest {
                page,
                digest: machine.page_digest(page),
            })
            .collect();
        Self {
            written,
            ..Self::of(machine.sections(), pages, outputs)
        }
    }

    /// The digest of a delta: of the pages written, whose contents were digested on their way, and
    /// of those that were scrubbed; both ascending, and no page in both.
    pub(crate) fn of_delta(
        sections: Vec<Section>,
        written: Vec<PageDigest>,
        scrubbed: Vec<PageDigest>,
        outputs: OutputLedger,
    ) -> Self {
        let numbers = written.iter().map(|page| page.page).collect();
        let mut pages = written;
        pages.extend(scrubbed);
        pages.sort_unstable_by_key(|page| page.page);
        Self {
            written: numbers,
            ..Self::of(sections, pages, outputs)
        }
    }

    /// Digests state that was taken already, with no page known to be written.
    #[must_use]
    pub fn of(sections: Vec<Section>, pages: Vec<PageDigest>, outputs: OutputLedger) -> Self {
        let mut root = XxHash3_64::new();
        let mut parts = Vec::with_capacity(sections.len() + 2);
        for section in &sections {
            fold(&mut root, &mut parts, of_section(section));
        }
        let mut memory = XxHash3_64::new();
        for page in &pages {
            memory.write(&page.page.0.to_le_bytes());
            memory.write(&page.digest.to_le_bytes());
        }
        fold(&mut root, &mut parts, memory.finish());
        fold(&mut root, &mut parts, outputs.digest());
        let written = Vec::new();
        Self {
            sections,
            pages,
            written,
            outputs,
            parts,
            root: root.finish(),
        }
    }

    /// Names the parts in which this differs from `recorded` parts: sections, then `memory`, then
    /// `outputs`. Empty when the recording has no parts or as many of them differ in number.
    #[must_use]
    pub fn differing_parts(&self, recorded: &[u32]) -> Vec<String> {
        if recorded.len() != self.parts.len() {
            return Vec::new();
        }
        let names = self.sections.iter().map(|section| section.name.as_str());
        names
            .chain(["memory", "outputs"])
            .zip(self.parts.iter().zip(recorded))
            .filter(|(_, (ours, theirs))| ours != theirs)
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

/// Digests of the pages that an epoch scrubs, ascending, without those in `written`.
pub(crate) fn scrub(
    machine: &dyn Machine,
    epoch: Epoch,
    scrub: u32,
    written: &[PageNumber],
) -> Vec<PageDigest> {
    let mut numbers = scrubbed_pages(machine, epoch, scrub);
    numbers.retain(|page| written.binary_search(page).is_err());
    numbers.sort_unstable();
    numbers.dedup();
    let digested = |page| PageDigest {
        page,
        digest: machine.page_digest(page),
    };
    numbers.into_iter().map(digested).collect()
}

/// The pages that an epoch scrubs, part by part.
fn scrubbed_pages(machine: &dyn Machine, epoch: Epoch, scrub: u32) -> Vec<PageNumber> {
    parts(&machine.scrub_parts(), machine.page_count())
        .flat_map(|part| scrubbed(epoch, scrub, part))
        .collect()
}

/// Adds one part's digest to the root and, shortened, to the list.
fn fold(root: &mut XxHash3_64, parts: &mut Vec<u32>, digest: u64) {
    root.write(&digest.to_le_bytes());
    parts.push((digest >> 32) as u32 ^ digest as u32);
}

/// The parts that begin at these pages; none is empty or goes beyond the last page.
fn parts(starts: &[u64], page_count: u64) -> impl Iterator<Item = Range<u64>> {
    let ends = starts.iter().skip(1).copied().chain([page_count]);
    let parts = starts.iter().zip(ends);
    parts
        .map(move |(start, end)| *start..end.min(page_count))
        .filter(|part| !part.is_empty())
}

/// The pages of a part that an epoch scrubs: a window that moves round it.
fn scrubbed(epoch: Epoch, scrub: u32, part: Range<u64>) -> impl Iterator<Item = PageNumber> {
    let page_count = part.end - part.start;
    let count = u64::from(scrub).min(page_count);
    let start = match page_count {
        0 => 0,
        _ => epoch.0.wrapping_mul(u64::from(scrub)) % page_count,
    };
    (0..count).map(move |index| PageNumber(part.start + (start + index) % page_count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, bytes: &[u8]) -> Section {
        Section {
            name: name.into(),
            version: 1,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn one_flipped_bit_in_a_section_changes_the_root_and_names_the_section() {
        let ledger = OutputLedger::default();
        let pages = vec![PageDigest {
            page: PageNumber(3),
            digest: 7,
        }];
        let one = EpochDigest::of(
            vec![section("cpu", &[1, 2]), section("pit", &[3])],
            pages.clone(),
            ledger,
        );
        let two = EpochDigest::of(
            vec![section("cpu", &[1, 2]), section("pit", &[2])],
            pages,
            ledger,
        );
        assert_ne!(one.root, two.root);
        assert_eq!(two.differing_parts(&one.parts), ["pit"]);
    }

    #[test]
    fn a_page_that_only_one_side_wrote_changes_the_root() {
        let ledger = OutputLedger::default();
        let one = EpochDigest::of(Vec::new(), Vec::new(), ledger);
        let page = PageDigest {
            page: PageNumber(0),
            digest: 0,
        };
        let two = EpochDigest::of(Vec::new(), vec![page], ledger);
        assert_ne!(one.root, two.root);
        assert_eq!(two.differing_parts(&one.parts), ["memory"]);
    }

    #[test]
    fn scrubbing_visits_every_page_within_one_round() {
        let mut seen = [false; 10];
        for epoch in 0..4 {
            for page in scrubbed(Epoch(epoch), 3, 0..10) {
                seen[page.0 as usize] = true;
            }
        }
        assert_eq!(seen, [true; 10]);
    }

    #[test]
    fn each_part_is_scrubbed_at_its_own_pace() {
        let mut seen = [0; 104];
        for epoch in 0..50 {
            for part in parts(&[0, 4, 4, 200], 104) {
                for page in scrubbed(Epoch(epoch), 2, part) {
                    seen[page.0 as usize] += 1;
                }
            }
        }
        assert_eq!(seen[..4], [25; 4]);
        assert_eq!(seen[4..], [1; 100]);
        assert_eq!(parts(&[0], 7).last(), Some(0..7));
        assert_eq!(parts(&[0], 0).count(), 0);
    }

    #[test]
    fn scrubbing_more_than_there_is_visits_each_page_once() {
        assert_eq!(scrubbed(Epoch(5), 100, 0..3).count(), 3);
        assert_eq!(scrubbed(Epoch(5), 100, 0..0).count(), 0);
    }
}
