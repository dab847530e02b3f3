//! Sections on their way: cut so that each message holds some, and put together at the other end.

use crate::codec::FieldReader;
use crate::machine::Section;
use crate::snapshot::{MAX_SECTION_BYTES, MAX_SECTIONS, read_sections};

/// Bytes of sections from which on a message takes no more of them; a larger section goes alone.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Most bytes of the sections of a machine.
const MAX_STAGED_BYTES: usize = 256 << 20;

/// Cuts sections into runs, each of which fits into a message; at least one, if only an empty one.
pub(crate) fn runs_of(sections: &[Section]) -> Vec<&[Section]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, section) in sections.iter().enumerate() {
        let weight = weight(section);
        if index > start && bytes + weight > MAX_MESSAGE_BYTES {
            runs.push(&sections[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += weight;
    }
    runs.push(&sections[start..]);
    runs
}

/// About how many bytes of a message a section takes; never too few.
fn weight(section: &Section) -> usize {
    section.name.len() + section.bytes.len() + 16
}

/// Sections that have come, until all of them are there.
#[derive(Debug, Default)]
pub(crate) struct SectionStage {
    sections: Option<Vec<Section>>,
    bytes: usize,
}

impl SectionStage {
    /// Takes the sections of a message.
    ///
    /// # Errors
    /// If they are malformed or more than a machine has.
    pub(crate) fn add(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut reader = FieldReader::new(payload);
        let fresh = read_sections(&mut reader).map_err(|error| error.to_string())?;
        reader
            .finish("sections")
            .map_err(|error| error.to_string())?;
        self.bytes += fresh.iter().map(weight).sum::<usize>();
        let staged = self.sections.get_or_insert_default();
        let count = staged.len() + fresh.len();
        if count > MAX_SECTIONS as usize || self.bytes > MAX_STAGED_BYTES {
            return Err(format!(
                "{count} sections of {} bytes; at most {MAX_SECTIONS} of {MAX_STAGED_BYTES} bytes \
                 are possible",
                self.bytes
            ));
        }
        staged.extend(fresh);
        Ok(())
    }

    /// Takes what has come; none if nothing has.
    pub(crate) fn take(&mut self) -> Option<Vec<Section>> {
        self.bytes = 0;
        self.sections.take()
    }
}

const _: () = assert!(MAX_SECTION_BYTES + (1 << 10) < crate::protocol::frame::MAX_BODY);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FieldWriter;
    use crate::snapshot::write_sections;

    fn section(name: &str, len: usize) -> Section {
        Section {
            name: name.into(),
            version: 1,
            bytes: vec![7; len],
        }
    }

    fn payload(sections: &[Section]) -> Vec<u8> {
        let mut writer = FieldWriter::new();
        write_sections(&mut writer, sections);
        writer.finish()
    }

    #[test]
    fn sections_are_cut_below_the_bound_of_a_message_and_put_together_again() {
        let mut sections = vec![section("cpu", 100), section("disk 0", MAX_SECTION_BYTES)];
        sections.extend((1..9).map(|disk| section(&format!("disk {disk}"), 3 << 20)));
        sections.push(section("rtc", 8));
        let runs = runs_of(&sections);
        assert!(runs.len() > 4, "{}", runs.len());
        let mut stage = SectionStage::default();
        for run in runs {
            let payload = payload(run);
            assert!(payload.len() <= MAX_SECTION_BYTES + 100);
            stage.add(&payload).unwrap();
        }
        assert_eq!(stage.take().as_ref(), Some(&sections));
        assert_eq!(stage.take(), None);
    }

    #[test]
    fn no_sections_are_one_empty_run() {
        assert_eq!(runs_of(&[]), [&[] as &[Section]]);
        let mut stage = SectionStage::default();
        stage.add(&payload(&[])).unwrap();
        assert_eq!(stage.take(), Some(Vec::new()));
    }

    #[test]
    fn more_sections_than_a_machine_has_are_refused() {
        let payload = payload(&vec![section("one", 1); 600]);
        let mut stage = SectionStage::default();
        stage.add(&payload).unwrap();
        let refused = stage.add(&payload).unwrap_err();
        assert!(refused.starts_with("1200 sections of"), "{refused}");
    }
}
