//! Runs of consecutive pages: a short form of large sets.

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::time::PageNumber;

/// Most runs of a set.
const MAX_RUNS: usize = 1 << 16;

/// A set of pages, as runs that ascend and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRuns {
    /// First page and the one behind the last.
    runs: Vec<(u64, u64)>,
}

impl PageRuns {
    /// The runs of pages that ascend. Of pages that make too many, the last are left out.
    #[must_use]
    pub fn of(pages: &[PageNumber]) -> Self {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for page in pages {
            let full = runs.len() == MAX_RUNS;
            match runs.last_mut() {
                Some((_, end)) if *end == page.0 => *end = page.0.saturating_add(1),
                _ if full => break,
                _ => runs.push((page.0, page.0.saturating_add(1))),
            }
        }
        Self { runs }
    }

    /// Splits pages that ascend into those of the set and the others, both ascending.
    #[must_use]
    pub fn split(&self, pages: Vec<PageNumber>) -> (Vec<PageNumber>, Vec<PageNumber>) {
        let mut runs = self.runs.iter().peekable();
        pages.into_iter().partition(|page| {
            while runs.next_if(|(_, end)| *end <= page.0).is_some() {}
            runs.peek().is_some_and(|(start, _)| *start <= page.0)
        })
    }

    /// Appends the byte form: count · (gap to the end of the run before · length)*.
    pub fn write(&self, writer: &mut FieldWriter) {
        writer.varint(self.runs.len() as u64);
        let mut last = 0;
        for (start, end) in &self.runs {
            writer.varint(start - last);
            writer.varint(end - start);
            last = *end;
        }
    }

    /// Takes the byte form.
    ///
    /// # Errors
    /// If it is malformed, or names more runs or pages than there can be.
    pub fn read(reader: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        let count = reader.bounded("runs of pages", MAX_RUNS as u64)?;
        let mut runs = Vec::new();
        let mut last = 0_u64;
        for _ in 0..count {
            let start = last.saturating_add(reader.varint("gap between runs")?);
            let length = reader.bounded("length of a run", u64::MAX - start)?;
            last = start + length;
            runs.push((start, last));
        }
        Ok(Self { runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(numbers: &[u64]) -> Vec<PageNumber> {
        numbers.iter().copied().map(PageNumber).collect()
    }

    #[test]
    fn pages_are_split_by_the_runs_they_lie_in() {
        let runs = PageRuns::of(&pages(&[2, 3, 4, 9, 11, 12]));
        let (inside, outside) = runs.split(pages(&[0, 2, 4, 5, 8, 9, 10, 12, 13]));
        assert_eq!(inside, pages(&[2, 4, 9, 12]));
        assert_eq!(outside, pages(&[0, 5, 8, 10, 13]));
        let (inside, outside) = PageRuns::default().split(pages(&[0, 1]));
        assert_eq!((inside, outside), (Vec::new(), pages(&[0, 1])));
    }

    #[test]
    fn runs_survive_the_way_there_and_back_and_too_many_are_cut() {
        let scattered: Vec<_> = (0..MAX_RUNS as u64 + 9)
            .map(|page| PageNumber(page * 2))
            .collect();
        for pages in [pages(&[]), pages(&[0, 1, 7]), scattered] {
            let runs = PageRuns::of(&pages);
            assert!(runs.runs.len() <= MAX_RUNS);
            let mut writer = FieldWriter::new();
            runs.write(&mut writer);
            let bytes = writer.finish();
            assert_eq!(PageRuns::read(&mut FieldReader::new(&bytes)), Ok(runs));
        }
    }

    #[test]
    fn a_run_that_goes_beyond_the_last_number_is_refused() {
        let mut writer = FieldWriter::new();
        for field in [1, 5, u64::MAX] {
            writer.varint(field);
        }
        let bytes = writer.finish();
        assert!(PageRuns::read(&mut FieldReader::new(&bytes)).is_err());
    }
}
