//! Byte form of machine state: sections, and batches of pages.
//!
//! ```text
//!   sections: count · (name · version · bytes)*
//!   pages:    count · (gap to the previous page << 1 | holds data)* · packing · data
//! ```
//!
//! Pages of zeroes cost their number only; the others are packed with LZ4 where that helps. The
//! same form is used on the wire and at the head of an offline log.

use lz4_flex::block::{compress, decompress_into};

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::machine::{Machine, PAGE_SIZE, Page, Section, ZERO_PAGE};
use crate::time::PageNumber;

/// Most pages in one batch.
pub const MAX_BATCH_PAGES: usize = 256;
/// Most pages of a repair, which a backup keeps until it has all of them: 256 MiB.
pub const MAX_REPAIR_PAGES: usize = 64 << 10;
/// Most bytes of the batches of a repair.
pub const MAX_REPAIR_BYTES: usize = MAX_REPAIR_PAGES * (PAGE_SIZE + 16);
/// Most sections of a machine.
pub(crate) const MAX_SECTIONS: u64 = 1024;
/// Longest name of a section.
const MAX_SECTION_NAME: usize = 64;
/// Largest section.
pub(crate) const MAX_SECTION_BYTES: usize = 8 << 20;

/// The data follows as it is.
const PACKING_NONE: u8 = 0;
/// The data follows as one LZ4 block.
const PACKING_LZ4: u8 = 1;

/// Appends sections.
pub fn write_sections(writer: &mut FieldWriter, sections: &[Section]) {
    writer.varint(sections.len() as u64);
    for section in sections {
        writer.text(&section.name);
        writer.varint(u64::from(section.version));
        writer.bytes(&section.bytes);
    }
}

/// Takes sections.
///
/// # Errors
/// If they are malformed or above their bounds.
pub fn read_sections(reader: &mut FieldReader<'_>) -> Result<Vec<Section>, CodecError> {
    let count = reader.bounded("section count", MAX_SECTIONS)?;
    let mut sections = Vec::new();
    for _ in 0..count {
        let name = reader.text("section name", MAX_SECTION_NAME)?;
        let version = reader.bounded("section version", u64::from(u16::MAX))? as u16;
        let bytes = reader.bytes("section bytes", MAX_SECTION_BYTES)?.to_vec();
        sections.push(Section {
            name,
            version,
            bytes,
        });
    }
    Ok(sections)
}

/// Appends a batch of at most [`MAX_BATCH_PAGES`] pages, ascending, with what they hold now.
///
/// # Panics
/// If there are more pages or they do not ascend: the caller cuts and sorts them.
pub fn write_pages(writer: &mut FieldWriter, machine: &dyn Machine, pages: &[PageNumber]) {
    let mut data = vec![0; pages.len() * PAGE_SIZE];
    for (page, bytes) in pages.iter().zip(data.as_chunks_mut::<PAGE_SIZE>().0) {
        machine.read_page(*page, bytes);
    }
    encode_pages(writer, pages, data, Packing::Lz4);
}

/// Whether the data of a batch is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// It is not.
    None,
    /// It is, where that helps.
    Lz4,
}

/// Appends a batch of at most [`MAX_BATCH_PAGES`] pages, ascending, whose contents are in `data`,
/// one behind another.
///
/// # Panics
/// If there are more pages, they do not ascend, or `data` is of another size.
pub fn encode_pages(
    writer: &mut FieldWriter,
    pages: &[PageNumber],
    mut data: Vec<u8>,
    packing: Packing,
) {
    let count = pages.len();
    assert!(count <= MAX_BATCH_PAGES, "batch of {count} pages");
    assert_eq!(data.len(), count * PAGE_SIZE, "each page has its bytes");
    writer.varint(count as u64);
    let (mut next, mut kept) = (0, 0);
    for (index, page) in pages.iter().enumerate() {
        let gap = page.0.checked_sub(next).expect("pages of a batch ascend");
        let at = index * PAGE_SIZE..(index + 1) * PAGE_SIZE;
        let holds_data = data[at.clone()] != ZERO_PAGE;
        writer.varint(gap << 1 | u64::from(holds_data));
        if holds_data {
            data.copy_within(at, kept);
            kept += PAGE_SIZE;
        }
        next = page.0 + 1;
    }
    data.truncate(kept);
    if packing == Packing::Lz4 {
        let packed = compress(&data);
        if packed.len() < data.len() {
            writer.u8(PACKING_LZ4);
            return writer.raw(&packed);
        }
    }
    writer.u8(PACKING_NONE);
    writer.raw(&data);
}

/// Takes a batch of pages and gives each to `set`.
///
/// # Errors
/// If the batch is malformed or names a page at or above `page_count`; some pages may then have
/// been set.
pub fn read_pages(
    reader: &mut FieldReader<'_>,
    page_count: u64,
    mut set: impl FnMut(PageNumber, &Page),
) -> Result<usize, CodecError> {
    let count = reader.bounded("page count", MAX_BATCH_PAGES as u64)? as usize;
    let mut pages = Vec::with_capacity(count);
    let mut next = 0_u64;
    for _ in 0..count {
        let offset = reader.offset();
        let coded = reader.varint("page number")?;
        let page = next
            .checked_add(coded >> 1)
            .filter(|page| *page < page_count);
        let Some(page) = page else {
            return Err(CodecError::unknown("page number", offset, coded >> 1));
        };
        pages.push((PageNumber(page), coded & 1 == 1));
        next = page + 1;
    }
    let size = pages.iter().filter(|(_, holds_data)| *holds_data).count() * PAGE_SIZE;
    let data = unpack(reader, size)?;
    let mut chunks = data.chunks_exact(PAGE_SIZE);
    for (page, holds_data) in pages {
        let mut bytes = ZERO_PAGE;
        if holds_data && let Some(chunk) = chunks.next() {
            bytes.copy_from_slice(chunk);
        }
        set(page, &bytes);
    }
    Ok(count)
}

/// Takes the rest as packed data that must be `size` bytes long.
fn unpack(reader: &mut FieldReader<'_>, size: usize) -> Result<Vec<u8>, CodecError> {
    let offset = reader.offset();
    let packing = reader.u8("page packing")?;
    let packed = reader.raw("page data", reader.remaining())?;
    let wrong = |value: usize| CodecError::unknown("page data", offset, value as u64);
    match packing {
        PACKING_NONE if packed.len() == size => Ok(packed.to_vec()),
        PACKING_NONE => Err(wrong(packed.len())),
        PACKING_LZ4 => {
            let mut data = vec![0; size];
            let unpacked = decompress_into(packed, &mut data).map_err(|_| wrong(packed.len()))?;
            if unpacked == size {
                Ok(data)
            } else {
                Err(wrong(unpacked))
            }
        }
        other => Err(CodecError::unknown(
            "page packing",
            offset,
            u64::from(other),
        )),
    }
}
