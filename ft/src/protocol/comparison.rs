//! Byte form of what is said about pages that a backup may have already.
//!
//! ```text
//!   compare:  count · (gap to the page before · digest, 8 bytes)*
//!   differ:   count · (gap to the page before)*
//! ```

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::digest::PageDigest;
use crate::time::PageNumber;

/// Most pages that are compared at once.
pub const MAX_COMPARED_PAGES: usize = 1024;

/// Appends pages, ascending, with their digests.
pub(super) fn write_compare(writer: &mut FieldWriter, pages: &[PageDigest]) {
    writer.varint(pages.len() as u64);
    let mut next = 0;
    for PageDigest { page, digest } in pages {
        writer.varint(page.0 - next);
        writer.u64(*digest);
        next = page.0 + 1;
    }
}

/// Takes pages with their digests.
pub(super) fn read_compare(reader: &mut FieldReader<'_>) -> Result<Vec<PageDigest>, CodecError> {
    let count = reader.bounded("compared pages", MAX_COMPARED_PAGES as u64)?;
    let mut next = 0;
    let mut pages = Vec::new();
    for _ in 0..count {
        let page = read_page(reader, &mut next)?;
        let digest = reader.u64("page digest")?;
        pages.push(PageDigest { page, digest });
    }
    Ok(pages)
}

/// Appends pages, ascending.
pub(super) fn write_differ(writer: &mut FieldWriter, pages: &[PageNumber]) {
    writer.varint(pages.len() as u64);
    let mut next = 0;
    for page in pages {
        writer.varint(page.0 - next);
        next = page.0 + 1;
    }
}

/// Takes pages.
pub(super) fn read_differ(reader: &mut FieldReader<'_>) -> Result<Vec<PageNumber>, CodecError> {
    let count = reader.bounded("differing pages", MAX_COMPARED_PAGES as u64)?;
    let mut next = 0;
    (0..count).map(|_| read_page(reader, &mut next)).collect()
}

/// Takes a page number that is at least `next`, and moves that behind it.
fn read_page(reader: &mut FieldReader<'_>, next: &mut u64) -> Result<PageNumber, CodecError> {
    let gap = reader.bounded("page number", (u64::MAX - 1).saturating_sub(*next))?;
    let page = *next + gap;
    *next = page + 1;
    Ok(PageNumber(page))
}
