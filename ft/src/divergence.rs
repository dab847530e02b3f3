//! What differs between a primary and its backup, or between a log and its replay.

use std::fmt;

use serde::Serialize;

use crate::digest::{EpochDigest, PageDigest};
use crate::machine::{FieldDifference, Machine, Section};
use crate::output::OutputLedger;
use crate::time::{Epoch, LogicalTime};

/// The first logical time at which replay is known to differ, and in what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DivergenceReport {
    /// Epoch whose end digest differed, or in which replay met a contradiction.
    pub epoch: Epoch,
    /// Logical time of the comparison.
    pub at: LogicalTime,
    /// How it was found.
    pub cause: DivergenceCause,
    /// Sections that differ, by field.
    pub sections: Vec<SectionDifference>,
    /// Pages that differ.
    pub pages: Vec<PageDifference>,
    /// Outputs put out so far, if they differ: the primary's count and the backup's.
    pub outputs: Option<(u64, u64)>,
}

/// How a divergence was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum DivergenceCause {
    /// The digests at an epoch end differ.
    Digest,
    /// Replay could not do what the log says; the text names it.
    Contradiction(String),
}

/// A section that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionDifference {
    /// The section's name.
    pub section: String,
    /// The fields; `first` is the primary's value, `second` the backup's.
    pub fields: Vec<FieldDifference>,
}

/// A page that differs: digests of both sides, none where a side did not write the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PageDifference {
    /// Page number.
    pub page: u64,
    /// Digest at the primary, if it wrote or scrubbed the page.
    pub primary: Option<u64>,
    /// Digest at the backup, if it wrote or scrubbed the page.
    pub backup: Option<u64>,
}

impl DivergenceReport {
    /// Compares the primary's state at an epoch end with the backup's.
    #[must_use]
    pub fn compare(
        machine: &dyn Machine,
        place: (Epoch, LogicalTime),
        cause: DivergenceCause,
        primary: &EpochDigest,
        backup: &BackupState,
    ) -> Self {
        let differ = primary.outputs != backup.outputs;
        Self {
            epoch: place.0,
            at: place.1,
            cause,
            sections: differing_sections(machine, &primary.sections, &backup.sections),
            pages: differing_pages(&primary.pages, &backup.pages),
            outputs: differ.then_some((primary.outputs.count, backup.outputs.count)),
        }
    }
}

/// What a backup says of its own state when it has diverged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupState {
    /// Its sections.
    pub sections: Vec<Section>,
    /// Digests of the pages it wrote or scrubbed since the last verified epoch.
    pub pages: Vec<PageDigest>,
    /// Its outputs so far.
    pub outputs: OutputLedger,
}

/// Explains each section that is not the same on both sides.
fn differing_sections(
    machine: &dyn Machine,
    primary: &[Section],
    backup: &[Section],
) -> Vec<SectionDifference> {
    let mut differences = Vec::new();
    for ours in primary {
        let theirs = backup.iter().find(|theirs| theirs.name == ours.name);
        let fields = match theirs {
            Some(theirs) if theirs == ours => continue,
            Some(theirs) => explain(machine, ours, theirs),
            None => vec![presence("present", "missing")],
        };
        differences.push(SectionDifference {
            section: ours.name.clone(),
            fields,
        });
    }
    for theirs in backup {
        if !primary.iter().any(|ours| ours.name == theirs.name) {
            let fields = vec![presence("missing", "present")];
            differences.push(SectionDifference {
                section: theirs.name.clone(),
                fields,
            });
        }
    }
    differences
}

/// Names the fields of one section, or at least the first byte that differs.
fn explain(machine: &dyn Machine, ours: &Section, theirs: &Section) -> Vec<FieldDifference> {
    if ours.version != theirs.version {
        return vec![FieldDifference {
            field: "version".into(),
            first: ours.version.to_string(),
            second: theirs.version.to_string(),
        }];
    }
    let fields = machine.describe_difference(&ours.name, &ours.bytes, &theirs.bytes);
    if !fields.is_empty() {
        return fields;
    }
    let offset = ours
        .bytes
        .iter()
        .zip(&theirs.bytes)
        .position(|(first, second)| first != second)
        .unwrap_or_else(|| ours.bytes.len().min(theirs.bytes.len()));
    vec![FieldDifference {
        field: format!("byte {offset}"),
        first: byte_at(&ours.bytes, offset),
        second: byte_at(&theirs.bytes, offset),
    }]
}

/// A byte in hexadecimal, or that there is none.
fn byte_at(bytes: &[u8], offset: usize) -> String {
    match bytes.get(offset) {
        Some(byte) => format!("{byte:#04x}"),
        None => "none".into(),
    }
}

/// A difference in whether a section exists at all.
fn presence(first: &str, second: &str) -> FieldDifference {
    FieldDifference {
        field: "section".into(),
        first: first.into(),
        second: second.into(),
    }
}

/// Pages whose digests differ, or that only one side has. Both lists ascend.
pub(crate) fn differing_pages(
    primary: &[PageDigest],
    backup: &[PageDigest],
) -> Vec<PageDifference> {
    let mut differences = Vec::new();
    let (mut left, mut right) = (primary.iter().peekable(), backup.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return differences,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(ours), Some(theirs)) => ours.page.cmp(&theirs.page),
        };
        let ours = if order.is_le() { left.next() } else { None };
        let theirs = if order.is_ge() { right.next() } else { None };
        let page = ours.or(theirs).map_or(0, |side| side.page.0);
        let difference = PageDifference {
            page,
            primary: ours.map(|side| side.digest),
            backup: theirs.map(|side| side.digest),
        };
        if difference.primary != difference.backup {
            differences.push(difference);
        }
    }
}

impl fmt::Display for DivergenceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "divergence at logical time {}, epoch {}",
            self.at, self.epoch
        )?;
        if let DivergenceCause::Contradiction(text) = &self.cause {
            write!(f, ", {text}")?;
        }
        for section in &self.sections {
            for field in &section.fields {
                let FieldDifference {
                    field,
                    first,
                    second,
                } = field;
                write!(
                    f,
                    "; {} {field}: {first} here, {second} there",
                    section.section
                )?;
            }
        }
        for page in &self.pages {
            write!(f, "; page {:#x}: ", page.page)?;
            write_digest(f, page.primary)?;
            f.write_str(" here, ")?;
            write_digest(f, page.backup)?;
            f.write_str(" there")?;
        }
        if let Some((primary, backup)) = self.outputs {
            write!(f, "; outputs: {primary} here, {backup} there")?;
        }
        Ok(())
    }
}

/// A page digest, or that the side did not write the page.
fn write_digest(f: &mut fmt::Formatter<'_>, digest: Option<u64>) -> fmt::Result {
    match digest {
        Some(digest) => write!(f, "{digest:016x}"),
        None => f.write_str("not written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::PageNumber;

    fn digests(pages: &[(u64, u64)]) -> Vec<PageDigest> {
        pages
            .iter()
            .map(|(page, digest)| PageDigest {
                page: PageNumber(*page),
                digest: *digest,
            })
            .collect()
    }

    #[test]
    fn pages_that_differ_or_that_one_side_lacks_are_named_and_equal_ones_are_not() {
        let primary = digests(&[(1, 10), (2, 20), (4, 40)]);
        let backup = digests(&[(1, 10), (2, 21), (3, 30)]);
        let found: Vec<_> = differing_pages(&primary, &backup)
            .into_iter()
            .map(|difference| (difference.page, difference.primary, difference.backup))
            .collect();
        let expected = [
            (2, Some(20), Some(21)),
            (3, None, Some(30)),
            (4, Some(40), None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn equal_pages_differ_in_nothing() {
        let pages = digests(&[(1, 10), (9, 90)]);
        assert!(differing_pages(&pages, &pages).is_empty());
    }
}
