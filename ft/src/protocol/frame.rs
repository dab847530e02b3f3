//! Frames: the envelope of every message.
//!
//! ```text
//!   varint(length of kind, generation and payload) · kind u8 · varint(generation) · payload
//!   · CRC-32C u32
//! ```
//!
//! The checksum begins with the number of the frame in its direction, which is not sent: a frame
//! that is lost, repeated or out of order fails it like one that is damaged. A heartbeat takes
//! seven bytes, a position marker ten.

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::protocol::message::kind;
use crate::time::Generation;

/// Largest frame body: a batch of pages or the sections of a machine, with room to spare.
pub const MAX_BODY: usize = 16 << 20;
/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 4;
/// Most bytes that the length may take.
const MAX_LENGTH_BYTES: usize = 4;

/// One frame, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What kind of message it holds.
    pub kind: u8,
    /// Generation of the sender.
    pub generation: Generation,
    /// The message.
    pub payload: Vec<u8>,
}

/// Seals frames for one direction of a link.
#[derive(Clone, Debug, Default)]
pub struct FrameEncoder {
    sequence: u64,
}

impl FrameEncoder {
    /// Appends a frame to `wire`; returns its size.
    ///
    /// # Errors
    /// If the payload is above [`MAX_BODY`].
    pub fn encode(
        &mut self,
        kind: u8,
        generation: Generation,
        payload: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<usize, FrameError> {
        let mut body = FieldWriter::new();
        body.u8(kind);
        body.varint(generation.0);
        body.raw(payload);
        if body.len() > MAX_BODY {
            return Err(FrameError::TooLarge {
                length: body.len() as u64,
                max: MAX_BODY as u64,
            });
        }
        let mut head = FieldWriter::new();
        head.varint(body.len() as u64);
        let before = wire.len();
        wire.extend_from_slice(head.as_slice());
        wire.extend_from_slice(body.as_slice());
        wire.extend_from_slice(&checksum(self.sequence, body.as_slice()).to_le_bytes());
        self.sequence += 1;
        Ok(wire.len() - before)
    }
}

/// Opens frames from one direction of a link, however its bytes are cut.
#[derive(Clone, Debug, Default)]
pub struct FrameDecoder {
    sequence: u64,
    bytes: Vec<u8>,
    taken: usize,
}

impl FrameDecoder {
    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame; none if it has not come yet.
    ///
    /// # Errors
    /// If the bytes are no frame; the link is then of no further use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let waiting = &self.bytes[self.taken..];
        let Some((length, head)) = read_length(waiting)? else {
            return Ok(None);
        };
        // A stranger is told at once, not when as many bytes have come as its first one says.
        if let Some(kind) = waiting
            .get(head)
            .filter(|kind| !(1..=kind::LAST).contains(*kind))
        {
            return Err(CodecError::unknown("kind", 0, u64::from(*kind)).into());
        }
        let whole = head + length + CHECKSUM_BYTES;
        if waiting.len() < whole {
            return Ok(None);
        }
        let body = &waiting[head..head + length];
        let mut found = [0; CHECKSUM_BYTES];
        found.copy_from_slice(&waiting[head + length..whole]);
        let (found, computed) = (u32::from_le_bytes(found), checksum(self.sequence, body));
        if found != computed {
            let frame = self.sequence;
            return Err(FrameError::Checksum {
                frame,
                found,
                computed,
            });
        }
        let mut reader = FieldReader::new(body);
        let kind = reader.u8("kind")?;
        let generation = Generation(reader.varint("generation")?);
        let payload = body[reader.offset()..].to_vec();
        self.sequence += 1;
        self.taken += whole;
        Ok(Some(Frame {
            kind,
            generation,
            payload,
        }))
    }

    /// Bytes that came but are no whole frame yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }
}

/// Reads the length of a frame and of the length itself; none if it has not come yet.
fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length = 0_u64;
    for (index, byte) in bytes.iter().take(MAX_LENGTH_BYTES).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if (2..=MAX_BODY as u64).contains(&length) {
                return Ok(Some((length as usize, index + 1)));
            }
            return Err(FrameError::TooLarge {
                length,
                max: MAX_BODY as u64,
            });
        }
    }
    if bytes.len() >= MAX_LENGTH_BYTES {
        return Err(FrameError::TooLarge {
            length,
            max: MAX_BODY as u64,
        });
    }
    Ok(None)
}

/// Checksum of the frame with this number.
fn checksum(sequence: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), body)
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is larger than any that is sent, or too small to be one.
    #[error("frame of {length} bytes; 2 to {max} are possible")]
    TooLarge {
        /// Its length.
        length: u64,
        /// The bound.
        max: u64,
    },
    /// Its checksum is wrong.
    #[error("frame {frame} is damaged: checksum {found:08x}, not {computed:08x}")]
    Checksum {
        /// Number of the frame in its direction.
        frame: u64,
        /// What it says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A field is malformed.
    #[error(transparent)]
    Field(#[from] CodecError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_of(payloads: &[&[u8]]) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut encoder = FrameEncoder::default();
        for payload in payloads {
            encoder
                .encode(7, Generation(3), payload, &mut wire)
                .unwrap();
        }
        wire
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let payloads: [&[u8]; 3] = [b"", b"abc", &[9; 300]];
        let wire = wire_of(&payloads);
        for chunk in [1, 2, 3, 7, 100, 1000] {
            let mut decoder = FrameDecoder::default();
            let mut found = Vec::new();
            for bytes in wire.chunks(chunk) {
                decoder.push(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    assert_eq!((frame.kind, frame.generation), (7, Generation(3)));
                    found.push(frame.payload);
                }
            }
            assert_eq!(found, payloads);
            assert_eq!(decoder.waiting(), 0);
        }
    }

    #[test]
    fn an_empty_frame_takes_seven_bytes_and_a_marker_ten() {
        assert_eq!(wire_of(&[b""]).len(), 7);
        assert_eq!(wire_of(&[b"abc"]).len(), 10);
    }

    #[test]
    fn every_flipped_bit_is_refused_or_waits_for_more() {
        let wire = wire_of(&[b"payload"]);
        for bit in 0..wire.len() * 8 {
            let mut damaged = wire.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = FrameDecoder::default();
            decoder.push(&damaged);
            assert!(!matches!(decoder.next_frame(), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_that_is_lost_or_repeated_is_refused() {
        let wire = wire_of(&[b"one", b"two"]);
        let (one, two) = wire.split_at(wire.len() / 2);
        let mut decoder = FrameDecoder::default();
        decoder.push(two);
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::Checksum { frame: 0, .. })
        ));
        let mut decoder = FrameDecoder::default();
        decoder.push(one);
        decoder.push(one);
        assert!(decoder.next_frame().unwrap().is_some());
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::Checksum { frame: 1, .. })
        ));
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_length_alone() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0x7f]);
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::TooLarge { .. })
        ));
        let mut decoder = FrameDecoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            decoder.next_frame(),
            Err(FrameError::TooLarge { .. })
        ));
    }
}
