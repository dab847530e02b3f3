//! Option strings: `key=value,key=value`, as the command lines take them.
//!
//! A table of keys says which there are, how each value reads and which JSON member it becomes, so
//! that an option string and the API's JSON object are two spellings of one configuration.
//!
//! ```text
//! size=1G,shared=on          pairs, split at commas
//! serial="a,b ""c"""         quotes keep commas; a doubled quote is one quote
//! queue_affinity=[0@[1,2]]   brackets keep commas
//! off                        a key without value, where the table allows it
//! key=                       counts as not given; a later duplicate wins
//! ```

mod devices;
mod ft;
mod migration;
mod value;
mod vm;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use devices::{
    DEVICE, DISK, DISK_OVERRIDE, FS, GENERIC_VHOST_USER, NET, NET_OVERRIDE, PMEM, RNG, USER_DEVICE,
    VDPA, VSOCK,
};
pub use ft::FT_START;
pub use migration::{RECEIVE_MIGRATION, RESTORE, SEND_MIGRATION};
pub use value::{parse_bytes, parse_toggle};
pub use vm::{CONSOLE, CPUS, MEMORY, PLATFORM, SERIAL, parse_console, parse_serial};

/// The names of the backends.
const HYPERVISOR: Kind =
    Kind::Choice(&[("auto", "auto"), ("kvm", "kvm"), ("software", "software")]);

/// How the value of a key reads.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A decimal integer up to this bound.
    Number(u64),
    /// An integer with an optional suffix K, M or G.
    Bytes,
    /// on, off, true or false.
    Toggle,
    /// `[0,2-4]`; the brackets may be left out. Each up to this bound.
    Integers(u64),
    /// `[a,b]`.
    Texts,
    /// `[k@v,k@v]`, each an object with these two members.
    Pairs((&'static str, Item), (&'static str, Item)),
    /// One of these words, in any case, and what it is in JSON.
    Choice(&'static [(&'static str, &'static str)]),
    /// One of these words exactly, and what it is in JSON.
    ExactChoice(&'static [(&'static str, &'static str)]),
    /// `threads:cores:dies:packages`.
    Topology,
    /// `[name,name]`: an object in which each of these names may be true.
    Switches(&'static [&'static str]),
    /// One of these words or a number; words with 0 are refused.
    Named(&'static [(&'static str, u64)]),
    /// A key without value.
    Flag,
}

/// How one side of a pair reads.
#[derive(Debug, Clone, Copy)]
pub enum Item {
    /// Any text.
    Text,
    /// An integer up to this bound.
    Number(u64),
    /// One integer, or several in brackets.
    Integers,
}

/// One key of an option string.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the option string.
    pub name: &'static str,
    /// The JSON member it becomes; dots lead into objects.
    pub member: &'static str,
    /// How its value reads.
    pub kind: Kind,
    /// Whether it must be given.
    pub required: bool,
}

impl Key {
    /// A key of the same name in JSON.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            member: name,
            kind,
            required: false,
        }
    }

    /// A key that becomes a member of another name.
    #[must_use]
    pub const fn renamed(name: &'static str, member: &'static str, kind: Kind) -> Self {
        Self {
            name,
            member,
            kind,
            required: false,
        }
    }

    /// A key that must be given.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            member: name,
            kind,
            required: true,
        }
    }
}

/// Why an option string was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such key.
    #[error("Unknown option: {0}")]
    UnknownOption(String),
    /// Brackets or quotes that do not match, or a key without a value.
    #[error("Invalid syntax: {0}")]
    InvalidSyntax(String),
    /// The value does not read as what the key takes.
    #[error("Unable to convert {value} for {key}")]
    Conversion {
        /// The key.
        key: String,
        /// The text given.
        value: String,
    },
    /// The value reads, but is not allowed.
    #[error("Invalid value: {0}")]
    InvalidValue(String),
    /// A key that must be given is missing.
    #[error("Missing option: {0}")]
    Missing(&'static str),
}

/// Reads `input` into a JSON object.
///
/// # Errors
/// The first key or value that is wrong.
pub fn parse(input: &str, keys: &[Key]) -> Result<Map<String, Value>, OptionError> {
    let mut object = Map::new();
    let mut given = Vec::new();
    for part in split(input, ',')? {
        if part.is_empty() {
            continue;
        }
        let (name, text) = match part.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (part, None),
        };
        let key = keys
            .iter()
            .find(|key| key.name == name)
            .ok_or_else(|| OptionError::UnknownOption(name.to_owned()))?;
        let value = match (key.kind, text) {
            (Kind::Flag, None) => Value::Bool(true),
            (Kind::Flag, Some(_)) | (_, None) => {
                return Err(OptionError::InvalidSyntax(part.to_owned()));
            }
            (_, Some("")) => {
                remove(&mut object, key.member);
                given.retain(|member| *member != key.member);
                continue;
            }
            (_, Some(text)) => value::convert(key, text)?,
        };
        given.push(key.member);
        insert(&mut object, key.member, value);
    }
    match keys
        .iter()
        .find(|key| key.required && !given.contains(&key.member))
    {
        Some(missing) => Err(OptionError::Missing(missing.name)),
        None => Ok(object),
    }
}

/// Reads `input` into the configuration object that the table describes.
///
/// # Errors
/// The first key or value that is wrong, or what the object lacks.
pub fn parse_into<T: DeserializeOwned>(input: &str, keys: &[Key]) -> Result<T, OptionError> {
    let object = parse(input, keys)?;
    serde_json::from_value(Value::Object(object))
        .map_err(|error| OptionError::InvalidValue(error.to_string()))
}

/// Splits at a separator outside quotes and brackets.
fn split(input: &str, separator: char) -> Result<Vec<&str>, OptionError> {
    let mut parts = Vec::new();
    let (mut depth, mut quoted, mut start) = (0_usize, false, 0);
    for (index, character) in input.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| OptionError::InvalidSyntax(input.to_owned()))?;
            }
            _ if character == separator && !quoted && depth == 0 => {
                parts.push(&input[start..index]);
                start = index + character.len_utf8();
            }
            _ => {}
        }
    }
    if quoted || depth != 0 {
        return Err(OptionError::InvalidSyntax(input.to_owned()));
    }
    parts.push(&input[start..]);
    Ok(parts)
}

/// Sets a member, making the objects on the way.
fn insert(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = object
                .entry(head)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Removes a member, and the objects on the way that it leaves empty.
fn remove(object: &mut Map<String, Value>, path: &str) {
    match path.split_once('.') {
        None => {
            object.remove(path);
        }
        Some((head, rest)) => {
            let Some(Value::Object(inner)) = object.get_mut(head) else {
                return;
            };
            remove(inner, rest);
            if inner.is_empty() {
                object.remove(head);
            }
        }
    }
}

#[cfg(test)]
mod tests;
