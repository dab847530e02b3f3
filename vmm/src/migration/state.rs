//! The state of a machine but for its pages, as JSON: a tree of the shape that Cloud Hypervisor's
//! has, with our sections in it.
//!
//! ```text
//!   { "snapshots": { section: { "snapshots": {}, "snapshot_data": { "state": SECTION } }, … },
//!     "snapshot_data": { "state": ROOT } }
//!
//!   SECTION   "{ version, checksum, data: base64 }"     JSON in a JSON string
//!   ROOT      "{ format, version, sections: [names in their order], checksum over all, extra }"
//! ```
//!
//! Nothing is taken from a tree whose checksums do not hold, or that another version wrote.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ft::digest::of_section;
use ft::machine::Section;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What the root says it is.
const FORMAT: &str = "cloud-hypervisor-ft";
/// Version of the tree.
const VERSION: u32 = 1;
/// Most sections of a machine.
const MOST_SECTIONS: usize = 1024;

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not read.
    #[error("the {part} of the state is malformed")]
    Malformed {
        /// Which part.
        part: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Something else wrote it.
    #[error("the state is not one of Cloud Hypervisor FT")]
    Foreign,
    /// Another version wrote it.
    #[error("the state has version {0}, this program reads {VERSION}")]
    Version(u32),
    /// A section is not there.
    #[error("section {0} of the state is missing")]
    Missing(String),
    /// A section is not what was written.
    #[error("section {0} of the state is damaged: its checksum is another")]
    Damaged(String),
    /// The sections are not those that were written.
    #[error("the state is damaged: the checksum of its sections is another")]
    Incomplete,
}

/// A node of the tree.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Node {
    #[serde(default)]
    snapshots: BTreeMap<String, Node>,
    #[serde(default)]
    snapshot_data: Option<Data>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Data {
    state: String,
}

/// What the root says.
#[derive(Debug, Serialize, Deserialize)]
struct Root<T> {
    format: String,
    version: u32,
    sections: Vec<String>,
    checksum: String,
    extra: T,
}

/// What a section's node says.
#[derive(Debug, Serialize, Deserialize)]
struct Leaf {
    version: u16,
    checksum: String,
    data: String,
}

fn text(number: u64) -> String {
    format!("{number:016x}")
}

/// One checksum over those of all sections.
fn checksum_of(sections: &[Section], extra: &str) -> String {
    let sums = sections
        .iter()
        .flat_map(|section| of_section(section).to_le_bytes());
    text(of_section(&Section {
        name: FORMAT.to_owned(),
        version: 0,
        bytes: sums.chain(extra.bytes()).collect(),
    }))
}

fn leaf(state: String, snapshots: BTreeMap<String, Node>) -> Node {
    Node {
        snapshots,
        snapshot_data: Some(Data { state }),
    }
}

fn malformed(part: &str) -> impl Fn(serde_json::Error) -> StateError + '_ {
    move |source| StateError::Malformed {
        part: part.to_owned(),
        source,
    }
}

/// The JSON of a state; `extra` is whatever else is to be known with it.
///
/// # Errors
/// When `extra` cannot be written as JSON.
pub fn write(sections: &[Section], extra: &impl Serialize) -> Result<Vec<u8>, StateError> {
    let mut snapshots = BTreeMap::new();
    for section in sections {
        let state = serde_json::to_string(&Leaf {
            version: section.version,
            checksum: text(of_section(section)),
            data: STANDARD.encode(&section.bytes),
        });
        let state = state.map_err(malformed(&section.name))?;
        snapshots.insert(section.name.clone(), leaf(state, BTreeMap::new()));
    }
    let told = serde_json::to_string(extra).map_err(malformed("root"))?;
    let root = serde_json::to_string(&Root {
        format: FORMAT.to_owned(),
        version: VERSION,
        sections: sections
            .iter()
            .map(|section| section.name.clone())
            .collect(),
        checksum: checksum_of(sections, &told),
        extra,
    });
    let root = root.map_err(malformed("root"))?;
    serde_json::to_vec(&leaf(root, snapshots)).map_err(malformed("root"))
}

/// Reads a state: the sections in their order, and what else was written with them.
///
/// # Errors
/// When it does not read, is damaged, or is not of our kind and version.
pub fn read<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
) -> Result<(Vec<Section>, T), StateError> {
    let Node {
        mut snapshots,
        snapshot_data,
    } = serde_json::from_slice(bytes).map_err(malformed("root"))?;
    let root = snapshot_data.ok_or(StateError::Foreign)?.state;
    // Other programs' roots have other members.
    let format: Root<serde_json::Value> =
        serde_json::from_str(&root).map_err(|_| StateError::Foreign)?;
    if format.format != FORMAT || format.sections.len() > MOST_SECTIONS {
        return Err(StateError::Foreign);
    }
    if format.version != VERSION {
        return Err(StateError::Version(format.version));
    }
    let root: Root<T> = serde_json::from_str(&root).map_err(malformed("root"))?;
    let mut sections = Vec::new();
    for name in root.sections {
        let node = snapshots.remove(&name).and_then(|node| node.snapshot_data);
        let Some(data) = node else {
            return Err(StateError::Missing(name));
        };
        sections.push(read_section(name, &data.state)?);
    }
    let told = serde_json::to_string(&root.extra).map_err(malformed("root"))?;
    if checksum_of(&sections, &told) != root.checksum {
        return Err(StateError::Incomplete);
    }
    Ok((sections, root.extra))
}

fn read_section(name: String, state: &str) -> Result<Section, StateError> {
    let leaf: Leaf = serde_json::from_str(state).map_err(malformed(&name))?;
    let Ok(bytes) = STANDARD.decode(leaf.data) else {
        return Err(StateError::Damaged(name));
    };
    let section = Section {
        name,
        version: leaf.version,
        bytes,
    };
    if text(of_section(&section)) != leaf.checksum {
        return Err(StateError::Damaged(section.name));
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Extra {
        colour: u32,
    }

    fn sections() -> Vec<Section> {
        let section = |name: &str, version, bytes: &[u8]| Section {
            name: name.to_owned(),
            version,
            bytes: bytes.to_vec(),
        };
        // Not in the order of the alphabet.
        vec![section("machine", 2, &[1, 2, 250]), section("cpu", 1, &[])]
    }

    fn written() -> String {
        String::from_utf8(write(&sections(), &Extra { colour: 7 }).unwrap()).unwrap()
    }

    #[test]
    fn a_state_reads_as_it_was_written() {
        let (read, extra) = super::read::<Extra>(written().as_bytes()).unwrap();
        assert_eq!((read, extra), (sections(), Extra { colour: 7 }));
        let tree: serde_json::Value = serde_json::from_str(&written()).unwrap();
        let cpu = tree["snapshots"]["cpu"]["snapshot_data"]["state"].as_str();
        let cpu: serde_json::Value = serde_json::from_str(cpu.unwrap()).unwrap();
        assert_eq!((&cpu["version"], &cpu["data"]), (&1.into(), &"".into()));
    }

    #[test]
    fn what_is_damaged_foreign_or_of_another_version_is_named() {
        let table = [
            ("cloud-hypervisor-ft", "cloud-hypervisor", "not one of"),
            (
                r#"\"version\":1,\"sections"#,
                r#"\"version\":9,\"sections"#,
                "version 9",
            ),
            ("AQL6", "AQL7", "section machine of the state is damaged"),
            ("AQL6", "A-.!", "section machine of the state is damaged"),
            (
                r#""cpu":{"#,
                r#""cqu":{"#,
                "section cpu of the state is missing",
            ),
            (
                r#"[\"machine\",\"cpu\"]"#,
                r#"[\"cpu\"]"#,
                "checksum of its sections",
            ),
            (
                r#"\"colour\":7"#,
                r#"\"colour\":8"#,
                "checksum of its sections",
            ),
            (
                r#"\"colour\":7"#,
                r#"\"color\":7"#,
                "root of the state is malformed",
            ),
            (
                r#"\"version\":2"#,
                r#"\"version\":3"#,
                "section machine of the state is damaged",
            ),
        ];
        for (from, to, text) in table {
            let bad = written().replacen(from, to, 1);
            assert_ne!(bad, written(), "{from}");
            let error = read::<Extra>(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(text), "{to}: {error}");
        }
        let whole = written();
        for len in 0..whole.len() {
            assert!(read::<Extra>(&whole.as_bytes()[..len]).is_err(), "{len}");
        }
        // A root of Cloud Hypervisor's.
        let foreign = r#"{"snapshots":{},"snapshot_data":{"state":"{\"clock\":null}"}}"#;
        let error = read::<Extra>(foreign.as_bytes()).unwrap_err();
        assert!(matches!(error, StateError::Foreign), "{error}");
    }
}
