//! Saved state: named, versioned sections of canonical bytes.
//!
//! ```text
//! section = kind (string) | version (u16) | bytes (postcard encoding of FooStateV<version>)
//! ```
//!
//! Postcard writes each value in exactly one way, and saved types hold no maps, so equal states
//! give equal bytes and a digest of the bytes is a digest of the state. Decoding refuses bytes that
//! are left over. For reports meant for people, [`describe_as`] turns a section into
//! `(field path, value)` pairs.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// The saved form of one device, for one format version.
pub trait SavedState: Serialize + DeserializeOwned + Clone + PartialEq + Debug {
    /// Section name, unique on a board.
    const KIND: &'static str;
    /// Format version; rises whenever the fields or their meaning change.
    const VERSION: u16;
}

/// One component's saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Which component this is.
    pub kind: String,
    /// Format version of `bytes`.
    pub version: u16,
    /// Canonical encoding of the state.
    pub bytes: Vec<u8>,
}

impl Section {
    /// Encodes a saved state.
    #[must_use]
    pub fn encode<S: SavedState>(state: &S) -> Self {
        Self::encode_as(S::KIND.to_owned(), state)
    }

    /// Encodes a saved state under another name than its own, where there are several of its kind.
    #[must_use]
    pub fn encode_as<S: SavedState>(kind: String, state: &S) -> Self {
        // Postcard fails only on sequences of unknown length and on writer errors; saved types have
        // neither, and the writer is memory.
        let bytes = postcard::to_allocvec(state).expect("saved types always encode to memory");
        Self {
            kind,
            version: S::VERSION,
            bytes,
        }
    }

    /// Decodes the state that this section holds.
    ///
    /// # Errors
    /// If the section is of another kind or version, or its bytes are malformed.
    pub fn decode<S: SavedState>(&self) -> Result<S, RestoreError> {
        self.decode_as(S::KIND)
    }

    /// Decodes the state that this section holds under the name `kind`.
    ///
    /// # Errors
    /// If the section is of another kind or version, or its bytes are malformed.
    pub fn decode_as<S: SavedState>(&self, kind: &str) -> Result<S, RestoreError> {
        if self.kind != kind {
            return Err(RestoreError::WrongKind {
                expected: S::KIND,
                found: self.kind.clone(),
            });
        }
        if self.version != S::VERSION {
            return Err(RestoreError::UnsupportedVersion {
                kind: S::KIND,
                expected: S::VERSION,
                found: self.version,
            });
        }
        from_bytes(&self.bytes)
    }
}

/// Encodes a list of sections as one byte string.
#[must_use]
pub fn encode_sections(sections: &[Section]) -> Vec<u8> {
    postcard::to_allocvec(sections).expect("sections always encode to memory")
}

/// Decodes what [`encode_sections`] wrote.
///
/// # Errors
/// If the bytes are malformed or some are left over.
pub fn decode_sections(bytes: &[u8]) -> Result<Vec<Section>, RestoreError> {
    match postcard::take_from_bytes(bytes) {
        Ok((sections, [])) => Ok(sections),
        Ok((_, rest)) => Err(RestoreError::TrailingBytes {
            kind: "sections",
            count: rest.len(),
        }),
        Err(source) => Err(RestoreError::Malformed {
            kind: "sections",
            source,
        }),
    }
}

/// The fields of an encoded `S` as `(path, value)` pairs, in declaration order of nesting.
///
/// # Errors
/// If the bytes are malformed.
pub fn describe_as<S: SavedState>(bytes: &[u8]) -> Result<Vec<(String, String)>, RestoreError> {
    let state: S = from_bytes(bytes)?;
    let value = serde_json::to_value(&state).map_err(|source| RestoreError::Undescribable {
        kind: S::KIND,
        source,
    })?;
    let mut fields = Vec::new();
    flatten(String::new(), &value, &mut fields);
    Ok(fields)
}

fn from_bytes<S: SavedState>(bytes: &[u8]) -> Result<S, RestoreError> {
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(RestoreError::TrailingBytes {
            kind: S::KIND,
            count: rest.len(),
        }),
        Err(source) => Err(RestoreError::Malformed {
            kind: S::KIND,
            source,
        }),
    }
}

fn flatten(path: String, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(format!("{path}{dot}{name}"), inner, fields);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                flatten(format!("{path}[{index}]"), inner, fields);
            }
            // Without this an empty and an absent list could not be told apart in a report.
            fields.push((format!("{path}.length"), items.len().to_string()));
        }
        Value::String(text) => fields.push((path, text.clone())),
        Value::Number(number) => fields.push((path, describe_number(number))),
        Value::Null | Value::Bool(_) => fields.push((path, value.to_string())),
    }
}

fn describe_number(number: &serde_json::Number) -> String {
    match number.as_u64() {
        Some(small @ 0..=9) => small.to_string(),
        Some(value) => format!("{value} ({value:#x})"),
        None => number.to_string(),
    }
}

/// Why a saved state was refused.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The section belongs to another component.
    #[error("saved state of {expected} expected, found {found}")]
    WrongKind {
        /// Kind that was asked for.
        expected: &'static str,
        /// Kind in the section.
        found: String,
    },
    /// The section was written by another version of this program.
    #[error("saved state of {kind} has version {found}, this program reads version {expected}")]
    UnsupportedVersion {
        /// Component.
        kind: &'static str,
        /// Version this program reads.
        expected: u16,
        /// Version in the section.
        found: u16,
    },
    /// The bytes are not an encoding of this state.
    #[error("saved state of {kind} is malformed")]
    Malformed {
        /// Component.
        kind: &'static str,
        /// The decoder's reason.
        #[source]
        source: postcard::Error,
    },
    /// The bytes go on after the end of the state.
    #[error("saved state of {kind} is followed by {count} stray bytes")]
    TrailingBytes {
        /// Component.
        kind: &'static str,
        /// How many bytes are left over.
        count: usize,
    },
    /// A field holds a value that the device can never reach.
    #[error("saved state of {kind}: {field} cannot be {value}")]
    InvalidField {
        /// Component.
        kind: &'static str,
        /// Field name.
        field: &'static str,
        /// The refused value.
        value: String,
    },
    /// A section that the board needs is not there.
    #[error("saved state of {kind} is missing")]
    Missing {
        /// Component.
        kind: &'static str,
    },
    /// A section is there twice, or nothing on the board has this kind.
    #[error("saved state of {kind} is not expected here")]
    Unexpected {
        /// Kind in the section.
        kind: String,
    },
    /// The state has no readable form.
    #[error("saved state of {kind} cannot be described")]
    Undescribable {
        /// Component.
        kind: &'static str,
        /// The formatter's reason.
        #[source]
        source: serde_json::Error,
    },
}

/// `Ok` if `valid`, else an [`RestoreError::InvalidField`] naming the field and its value.
pub(crate) fn check(
    valid: bool,
    kind: &'static str,
    field: &'static str,
    value: impl Debug,
) -> Result<(), RestoreError> {
    if valid {
        Ok(())
    } else {
        Err(RestoreError::InvalidField {
            kind,
            field,
            value: format!("{value:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct ToyStateV1 {
        level: bool,
        counts: [u16; 2],
        inner: Option<Inner>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        name: String,
    }

    impl SavedState for ToyStateV1 {
        const KIND: &'static str = "toy";
        const VERSION: u16 = 1;
    }

    fn toy() -> ToyStateV1 {
        let inner = Some(Inner {
            name: "x".to_owned(),
        });
        ToyStateV1 {
            level: true,
            counts: [3, 500],
            inner,
        }
    }

    #[test]
    fn a_section_decodes_to_what_was_encoded() {
        let section = Section::encode(&toy());
        assert_eq!(section.decode::<ToyStateV1>().unwrap(), toy());
        let list = vec![section.clone(), section];
        assert_eq!(decode_sections(&encode_sections(&list)).unwrap(), list);
    }

    #[test]
    fn wrong_kind_version_and_bytes_are_refused_with_both_values_named() {
        let good = Section::encode(&toy());
        let cases = [
            (
                Section {
                    kind: "pit".to_owned(),
                    ..good.clone()
                },
                "toy expected, found pit",
            ),
            (
                Section {
                    version: 2,
                    ..good.clone()
                },
                "version 2, this program reads version 1",
            ),
            (
                Section {
                    bytes: vec![1],
                    ..good.clone()
                },
                "malformed",
            ),
            (
                Section {
                    bytes: [good.bytes.clone(), vec![0; 3]].concat(),
                    ..good
                },
                "3 stray bytes",
            ),
        ];
        for (section, text) in cases {
            let error = section.decode::<ToyStateV1>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(decode_sections(&[200, 1]).is_err());
    }

    #[test]
    fn describe_names_every_field() {
        let fields = describe_as::<ToyStateV1>(&Section::encode(&toy()).bytes).unwrap();
        let get = |path: &str| {
            fields
                .iter()
                .find(|(p, _)| p == path)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(get("level"), Some("true"));
        assert_eq!(get("counts[1]"), Some("500 (0x1f4)"));
        assert_eq!(get("counts.length"), Some("2"));
        assert_eq!(get("inner.name"), Some("x"));
    }
}
