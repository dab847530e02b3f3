//! Byte form of the pages of a delta.
//!
//! ```text
//!   batch:  count · (gap to the page before << 3 | form)* · data of each page in turn
//!   form 0  same    –                     it is what the backup has
//!        1  zero    –
//!        2  xor     varint(length) · LZ4  difference from what the backup has
//!        3  lz4     varint(length) · LZ4
//!        4  raw     4096 bytes
//! ```
//!
//! The shortest form is taken. A difference that packs to a quarter of a page is taken without
//! looking whether the page itself would pack better still. Pages ascend over all batches of a
//! delta.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::checkpoint::MAX_DELTA_PAGES;
use crate::checkpoint::sent::SentPages;
use crate::checkpoint::status::{DeltaPages, DeltaSavings};
use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::digest::{self, PageDigest};
use crate::machine::{PAGE_SIZE, Page, ZERO_PAGE};
use crate::time::PageNumber;

/// Most pages of a batch.
pub(crate) const MAX_BATCH_PAGES: usize = 256;
/// Length up to which a packed difference is short enough.
const SHORT: usize = PAGE_SIZE / 4;
/// Bits of the head that hold the form.
const FORM_BITS: u32 = 3;

const SAME: u64 = 0;
const ZERO: u64 = 1;
const XOR: u64 = 2;
const LZ4: u64 = 3;
const RAW: u64 = 4;

/// Encodes pages and counts what that saves.
#[derive(Debug, Default)]
pub(crate) struct PageEncoder {
    /// What the backup has.
    pub(crate) sent: SentPages,
    /// Pages so far.
    pub(crate) pages: DeltaPages,
    /// Bytes saved so far.
    pub(crate) saved: DeltaSavings,
    difference: Vec<u8>,
    packed: Vec<u8>,
}

impl PageEncoder {
    /// Appends a batch of at most [`MAX_BATCH_PAGES`] pages, ascending; returns their digests. The
    /// backup has them from then on.
    pub(crate) fn write_batch(
        &mut self,
        writer: &mut FieldWriter,
        batch: Vec<(PageNumber, Box<Page>)>,
    ) -> Vec<PageDigest> {
        writer.varint(batch.len() as u64);
        let mut data = FieldWriter::new();
        let mut digests = Vec::with_capacity(batch.len());
        let mut next = 0;
        for (page, bytes) in batch {
            digests.push(PageDigest {
                page,
                digest: digest::of_page(&bytes),
            });
            let form = self.write_page(&mut data, page, &bytes);
            writer.varint((page.0 - next) << FORM_BITS | form);
            next = page.0 + 1;
            match form {
                SAME => self.sent.keep_spare(bytes),
                _ => self.sent.put(page, bytes),
            }
        }
        writer.raw(data.as_slice());
        digests
    }

    /// Appends a page's data; returns its form.
    fn write_page(&mut self, data: &mut FieldWriter, page: PageNumber, bytes: &Page) -> u64 {
        let whole = PAGE_SIZE as u64;
        self.pages.written += 1;
        let previous = self.sent.get(page);
        if previous == Some(bytes) {
            self.pages.skipped += 1;
            self.saved.skip += whole;
            return SAME;
        }
        if *bytes == ZERO_PAGE {
            self.pages.zero += 1;
            self.saved.zero += whole;
            return ZERO;
        }
        let mut shortest = None;
        if let Some(previous) = previous {
            let mut mixed = *bytes;
            mix(&mut mixed, previous);
            let length = pack(&mixed, &mut self.difference);
            shortest = (length < PAGE_SIZE).then_some(length);
        }
        if shortest.is_none_or(|length| length > SHORT) {
            let length = pack(bytes, &mut self.packed);
            if length < shortest.unwrap_or(PAGE_SIZE) {
                data.bytes(&self.packed[..length]);
                self.pages.lz4 += 1;
                self.saved.lz4 += whole - length as u64;
                return LZ4;
            }
        }
        match shortest {
            Some(length) => {
                data.bytes(&self.difference[..length]);
                self.pages.xor += 1;
                self.saved.xor += whole - length as u64;
                XOR
            }
            None => {
                data.raw(bytes);
                self.pages.raw += 1;
                RAW
            }
        }
    }
}

/// Packs a page into `packed`; the length.
fn pack(bytes: &Page, packed: &mut Vec<u8>) -> usize {
    packed.resize(get_maximum_output_size(PAGE_SIZE), 0);
    compress_into(bytes, packed).expect("there is room for the longest that a page can become")
}

/// Mixes one page into another: the difference, or what it was made from.
pub(crate) fn mix(bytes: &mut Page, other: &Page) {
    for (byte, other) in bytes.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// A page of a delta, as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StagedPage {
    /// It is what this side has.
    Same,
    /// It is all zeroes.
    Zero,
    /// The difference from what this side has.
    Difference(Box<Page>),
    /// It is this.
    Whole(Box<Page>),
}

/// Takes a batch and appends its pages. All that can be wrong with the bytes shows here: what is
/// appended can be set.
///
/// # Errors
/// If the batch is malformed, names a page at or above `page_count` or below one of those before
/// it, or makes more than a delta has.
pub(crate) fn read_batch(
    payload: &[u8],
    page_count: u64,
    staged: &mut Vec<(PageNumber, StagedPage)>,
) -> Result<(), CodecError> {
    let mut reader = FieldReader::new(payload);
    let room = MAX_DELTA_PAGES - staged.len().min(MAX_DELTA_PAGES);
    let count = reader.bounded("delta page count", room.min(MAX_BATCH_PAGES) as u64)?;
    let least = staged.last().map_or(0, |(page, _)| page.0 + 1);
    let mut heads = Vec::new();
    let mut next = 0_u64;
    for _ in 0..count {
        let offset = reader.offset();
        let head = reader.varint("delta page")?;
        let gap = head >> FORM_BITS;
        let page = next
            .checked_add(gap)
            .filter(|page| (least..page_count).contains(page));
        let Some(page) = page else {
            return Err(CodecError::unknown("delta page", offset, gap));
        };
        heads.push((PageNumber(page), head & ((1 << FORM_BITS) - 1)));
        next = page + 1;
    }
    for (page, form) in heads {
        staged.push((page, read_page(&mut reader, form)?));
    }
    reader.finish("delta pages")
}

/// Takes a page's data.
fn read_page(reader: &mut FieldReader<'_>, form: u64) -> Result<StagedPage, CodecError> {
    let offset = reader.offset();
    Ok(match form {
        SAME => StagedPage::Same,
        ZERO => StagedPage::Zero,
        XOR => StagedPage::Difference(unpack(reader)?),
        LZ4 => StagedPage::Whole(unpack(reader)?),
        RAW => {
            let mut page = Box::new(ZERO_PAGE);
            page.copy_from_slice(reader.raw("delta page data", PAGE_SIZE)?);
            StagedPage::Whole(page)
        }
        other => return Err(CodecError::unknown("delta page form", offset, other)),
    })
}

/// Takes a packed page, which has to be a page's length.
fn unpack(reader: &mut FieldReader<'_>) -> Result<Box<Page>, CodecError> {
    let offset = reader.offset();
    let packed = reader.bytes("delta page data", PAGE_SIZE)?;
    let mut page = Box::new(ZERO_PAGE);
    match decompress_into(packed, page.as_mut_slice()) {
        Ok(PAGE_SIZE) => Ok(page),
        Ok(other) => Err(CodecError::unknown("delta page data", offset, other as u64)),
        Err(_) => Err(CodecError::unknown(
            "delta page data",
            offset,
            packed.len() as u64,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page that does not pack.
    fn noise(seed: u64) -> Box<Page> {
        let mut page = Box::new(ZERO_PAGE);
        let mut word = seed | 1;
        for chunk in page.chunks_exact_mut(8) {
            word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ seed;
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    fn encoded(encoder: &mut PageEncoder, batch: Vec<(PageNumber, Box<Page>)>) -> Vec<u8> {
        let mut writer = FieldWriter::new();
        encoder.write_batch(&mut writer, batch);
        writer.finish()
    }

    fn staged(payload: &[u8]) -> Result<Vec<(PageNumber, StagedPage)>, CodecError> {
        let mut staged = Vec::new();
        read_batch(payload, 1_000, &mut staged).map(|()| staged)
    }

    #[test]
    fn each_page_takes_its_shortest_form_and_comes_back() {
        let mut encoder = PageEncoder::default();
        let text = Box::new([b'x'; PAGE_SIZE]);
        let first = vec![
            (PageNumber(3), noise(1)),
            (PageNumber(4), text.clone()),
            (PageNumber(9), Box::new(ZERO_PAGE)),
        ];
        let whole = staged(&encoded(&mut encoder, first)).unwrap();
        assert_eq!(
            whole,
            [
                (PageNumber(3), StagedPage::Whole(noise(1))),
                (PageNumber(4), StagedPage::Whole(text.clone())),
                (PageNumber(9), StagedPage::Zero),
            ]
        );
        let mut changed = noise(1);
        changed[77] ^= 5;
        let second = vec![
            (PageNumber(3), changed.clone()),
            (PageNumber(4), text),
            (PageNumber(9), noise(2)),
        ];
        let payload = encoded(&mut encoder, second);
        assert!(payload.len() < PAGE_SIZE + 200, "{}", payload.len());
        let again = staged(&payload).unwrap();
        let StagedPage::Difference(difference) = &again[0].1 else {
            panic!("{again:?}");
        };
        let mut bytes = difference.clone();
        mix(&mut bytes, &noise(1));
        assert_eq!(bytes, changed);
        assert_eq!(again[1], (PageNumber(4), StagedPage::Same));
        assert_eq!(again[2], (PageNumber(9), StagedPage::Whole(noise(2))));
        let DeltaPages {
            written,
            skipped,
            zero,
            xor,
            lz4,
            raw,
        } = encoder.pages;
        assert_eq!((written, skipped, zero, xor, lz4, raw), (6, 1, 1, 1, 1, 2));
        assert_eq!(encoder.saved.skip, PAGE_SIZE as u64);
    }

    #[test]
    fn a_page_out_of_range_out_of_order_or_of_no_form_is_refused() {
        let batch = |heads: &[u64]| {
            let mut writer = FieldWriter::new();
            writer.varint(heads.len() as u64);
            heads.iter().for_each(|head| writer.varint(*head));
            writer.finish()
        };
        assert!(staged(&batch(&[999 << 3 | ZERO])).is_ok());
        assert!(staged(&batch(&[1000 << 3 | ZERO])).is_err());
        assert!(staged(&batch(&[5 << 3 | ZERO, u64::MAX])).is_err());
        assert!(staged(&batch(&[5 << 3 | 5])).is_err());
        let mut before = vec![(PageNumber(7), StagedPage::Zero)];
        let refused = read_batch(&batch(&[7 << 3 | ZERO]), 1_000, &mut before);
        assert!(refused.is_err(), "{before:?}");
    }

    #[test]
    fn cut_and_damaged_batches_are_errors_or_pages_and_never_more() {
        let mut encoder = PageEncoder::default();
        let pages = |seed: u64| {
            (0..6)
                .map(|page| (PageNumber(page * 7), noise(page % 3 + seed)))
                .collect()
        };
        encoded(&mut encoder, pages(0));
        let mut almost: Vec<(PageNumber, Box<Page>)> = pages(0);
        almost.iter_mut().for_each(|(_, bytes)| bytes[5] ^= 9);
        let payload = encoded(&mut encoder, almost);
        for cut in 0..payload.len() {
            assert!(staged(&payload[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..payload.len() {
            for bit in 0..8 {
                let mut damaged = payload.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(pages) = staged(&damaged) {
                    assert!(pages.iter().all(|(page, _)| page.0 < 1_000));
                }
            }
        }
    }

    #[test]
    fn more_pages_than_a_delta_has_are_refused() {
        let mut before: Vec<_> = (0..MAX_DELTA_PAGES as u64)
            .map(|page| (PageNumber(page), StagedPage::Same))
            .collect();
        let mut writer = FieldWriter::new();
        writer.varint(1);
        writer.varint(70_000 << 3);
        let refused = read_batch(writer.as_slice(), 100_000, &mut before);
        assert!(refused.is_err_and(|error| error.to_string().contains("delta page count")));
    }
}
