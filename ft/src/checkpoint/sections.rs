//! The sections of a delta: those that have changed, packed.
//!
//! ```text
//!   payload:  varint(length) · LZ4 of sections as a clone has them
//! ```

use lz4_flex::block::{compress, decompress};

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::machine::Section;
use crate::protocol::frame::MAX_BODY;
use crate::section_stage::runs_of;
use crate::snapshot::write_sections;

/// The payloads that tell of the sections of `now` that are not in `before`; at least one, if only
/// an empty one.
pub(crate) fn changed(now: &[Section], before: &[Section]) -> Vec<Vec<u8>> {
    let changed = now.iter().filter(|section| !before.contains(section));
    let changed: Vec<Section> = changed.cloned().collect();
    let pack = |run: &&[Section]| {
        let mut plain = FieldWriter::new();
        write_sections(&mut plain, run);
        let mut payload = FieldWriter::new();
        payload.varint(plain.len() as u64);
        payload.raw(&compress(plain.as_slice()));
        payload.finish()
    };
    runs_of(&changed).iter().map(pack).collect()
}

/// The sections of a payload, as those of a clone come.
///
/// # Errors
/// If it is malformed, or longer than a message.
pub(crate) fn unpack(payload: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut reader = FieldReader::new(payload);
    let length = reader.bounded("length of sections", MAX_BODY as u64)? as usize;
    let offset = reader.offset();
    let packed = reader.raw("sections", reader.remaining())?;
    match decompress(packed, length) {
        Ok(plain) if plain.len() == length => Ok(plain),
        _ => Err(CodecError::unknown("sections", offset, packed.len() as u64)),
    }
}

/// Sections with some replaced by others of the same names.
pub(crate) fn replaced(mut sections: Vec<Section>, by: &[Section]) -> Vec<Section> {
    for fresh in by {
        match sections.iter_mut().find(|old| old.name == fresh.name) {
            Some(old) => old.clone_from(fresh),
            None => sections.push(fresh.clone()),
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::section_stage::SectionStage;

    fn section(name: &str, byte: u8) -> Section {
        Section {
            name: name.into(),
            version: 1,
            bytes: vec![byte; 500],
        }
    }

    #[test]
    fn only_sections_that_have_changed_are_sent_and_take_their_places() {
        let before = vec![section("cpu", 1), section("pit", 2), section("rtc", 3)];
        let now = vec![section("cpu", 1), section("pit", 9), section("rtc", 3)];
        let payloads = changed(&now, &before);
        let size: usize = payloads.iter().map(Vec::len).sum();
        assert!(size < 60, "{size}");
        let mut stage = SectionStage::default();
        for payload in payloads {
            stage.add(&unpack(&payload).unwrap()).unwrap();
        }
        assert_eq!(replaced(before, &stage.take().unwrap()), now);
        assert_eq!(changed(&now, &now).len(), 1);
    }

    #[test]
    fn a_length_that_is_not_that_of_what_is_packed_is_refused() {
        let payload = changed(&[section("cpu", 1)], &[]).remove(0);
        for at in 0..payload.len() {
            assert!(unpack(&payload[..at]).is_err(), "cut at {at}");
        }
        let mut longer = FieldWriter::new();
        longer.varint(MAX_BODY as u64 + 1);
        assert!(unpack(longer.as_slice()).is_err());
    }
}
