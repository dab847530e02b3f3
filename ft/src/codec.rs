//! Bytes to fields and back: little-endian base-128 integers, length-prefixed byte strings.
//!
//! Used by the event log and by the wire protocol. Reading never panics and never allocates more
//! than the caller allows; every error names the field and the offset at which it was met.

use std::fmt;

/// Longest coding of a 64-bit value: ten groups of seven bits.
const MAX_VARINT_BYTES: usize = 10;

/// Appends fields to a growing byte string.
#[derive(Clone, Debug, Default)]
pub struct FieldWriter {
    bytes: Vec<u8>,
}

impl FieldWriter {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends an unsigned integer in as few seven-bit groups as it needs.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Appends a signed integer; small magnitudes of either sign are short.
    pub fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// Appends a byte string with its length in front.
    pub fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// Appends text with its length in front.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Ends writing.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields off a byte string.
#[derive(Clone, Debug)]
pub struct FieldReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> FieldReader<'a> {
    /// Reads `bytes` from their start.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// How many bytes were taken.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// If none is left.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        Ok(self.raw(field, 1)?[0])
    }

    /// Takes four bytes, little-endian.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        let mut value = [0; 4];
        value.copy_from_slice(self.raw(field, 4)?);
        Ok(u32::from_le_bytes(value))
    }

    /// Takes eight bytes, little-endian.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, CodecError> {
        let mut value = [0; 8];
        value.copy_from_slice(self.raw(field, 8)?);
        Ok(u64::from_le_bytes(value))
    }

    /// Takes an unsigned integer.
    ///
    /// # Errors
    /// If it is cut short or does not fit 64 bits.
    pub fn varint(&mut self, field: &'static str) -> Result<u64, CodecError> {
        let start = self.at;
        let mut value = 0_u64;
        for index in 0..MAX_VARINT_BYTES {
            let byte = self.u8(field)?;
            let group = u64::from(byte & 0x7f);
            if index == MAX_VARINT_BYTES - 1 && group > 1 {
                break;
            }
            value |= group << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError {
            field,
            offset: start,
            reason: CodecReason::Overlong,
        })
    }

    /// Takes an unsigned integer of at most `max`.
    ///
    /// # Errors
    /// As [`Self::varint`], and if it is larger.
    pub fn bounded(&mut self, field: &'static str, max: u64) -> Result<u64, CodecError> {
        let offset = self.at;
        let value = self.varint(field)?;
        if value > max {
            return Err(CodecError {
                field,
                offset,
                reason: CodecReason::TooLarge { value, max },
            });
        }
        Ok(value)
    }

    /// Takes a signed integer.
    ///
    /// # Errors
    /// As [`Self::varint`].
    pub fn signed(&mut self, field: &'static str) -> Result<i64, CodecError> {
        let value = self.varint(field)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Takes a byte string that has its length in front, of at most `max` bytes.
    ///
    /// # Errors
    /// If the length is above `max` or more than is left.
    pub fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], CodecError> {
        let length = self.bounded(field, max as u64)?;
        self.raw(field, length as usize)
    }

    /// Takes text that has its length in front, of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::bytes`], and if it is not UTF-8.
    pub fn text(&mut self, field: &'static str, max: usize) -> Result<String, CodecError> {
        let offset = self.at;
        let bytes = self.bytes(field, max)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(CodecError {
                field,
                offset,
                reason: CodecReason::NotText,
            }),
        }
    }

    /// Takes `length` bytes as they are.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn raw(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], CodecError> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(CodecError {
                field,
                offset: self.at,
                reason: CodecReason::Truncated,
            });
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// If bytes are left over.
    pub fn finish(self, field: &'static str) -> Result<(), CodecError> {
        match self.remaining() {
            0 => Ok(()),
            count => {
                let reason = CodecReason::Trailing { count };
                Err(CodecError {
                    field,
                    offset: self.at,
                    reason,
                })
            }
        }
    }
}

/// Bytes that are not what the field should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field} at offset {offset}: {reason}")]
pub struct CodecError {
    /// Which field.
    pub field: &'static str,
    /// Where in the byte string it began.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: CodecReason,
}

impl CodecError {
    /// A value that the field cannot have.
    #[must_use]
    pub fn unknown(field: &'static str, offset: usize, value: u64) -> Self {
        Self {
            field,
            offset,
            reason: CodecReason::Unknown { value },
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecReason {
    /// The bytes end before the field does.
    Truncated,
    /// An integer has more than 64 bits.
    Overlong,
    /// A number or a length is above its bound.
    TooLarge {
        /// What was found.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// Text is not UTF-8.
    NotText,
    /// A value that means nothing here.
    Unknown {
        /// What was found.
        value: u64,
    },
    /// Bytes follow where none should.
    Trailing {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for CodecReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "the bytes end before it does"),
            Self::Overlong => write!(f, "an integer of more than 64 bits"),
            Self::TooLarge { value, max } => write!(f, "{value} is above the limit of {max}"),
            Self::NotText => write!(f, "not UTF-8"),
            Self::Unknown { value } => write!(f, "the value {value} is unknown"),
            Self::Trailing { count } => write!(f, "{count} bytes are left over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_size_survive_the_way_there_and_back() {
        let values = [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ];
        for value in values {
            let mut writer = FieldWriter::new();
            writer.varint(value);
            writer.signed(value as i64);
            let bytes = writer.finish();
            let mut reader = FieldReader::new(&bytes);
            assert_eq!(reader.varint("value"), Ok(value));
            assert_eq!(reader.signed("value"), Ok(value as i64));
            assert_eq!(reader.finish("end"), Ok(()));
        }
    }

    #[test]
    fn small_magnitudes_of_either_sign_take_one_byte() {
        for value in [-64, -1, 0, 63] {
            let mut writer = FieldWriter::new();
            writer.signed(value);
            assert_eq!(writer.len(), 1, "{value}");
        }
    }

    #[test]
    fn an_integer_of_more_than_64_bits_is_refused() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let error = FieldReader::new(&bytes).varint("value").unwrap_err();
        assert_eq!(error.reason, CodecReason::Overlong);
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_anything_is_taken() {
        let mut writer = FieldWriter::new();
        writer.varint(1 << 40);
        let bytes = writer.finish();
        let error = FieldReader::new(&bytes).bytes("payload", 1024).unwrap_err();
        assert_eq!(
            error.reason,
            CodecReason::TooLarge {
                value: 1 << 40,
                max: 1024
            }
        );
        assert_eq!(error.field, "payload");
    }

    #[test]
    fn a_string_cut_short_names_its_field() {
        let error = FieldReader::new(&[5, b'a', b'b'])
            .text("name", 64)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "field name at offset 1: the bytes end before it does"
        );
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused() {
        let error = FieldReader::new(&[1, 0xff]).text("name", 64).unwrap_err();
        assert_eq!(error.reason, CodecReason::NotText);
    }
}
