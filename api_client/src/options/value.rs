//! Values of option strings: text to JSON.

use serde_json::{Map, Value, json};

use super::{Item, Key, Kind, OptionError, split};

/// Reads a number of bytes: an integer with an optional suffix K, M or G (powers of 1024).
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

/// Reads on, off, true or false, in any case.
#[must_use]
pub fn parse_toggle(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" => Some(true),
        "off" | "false" => Some(false),
        _ => None,
    }
}

/// Reads the value of `key`.
pub(super) fn convert(key: &Key, text: &str) -> Result<Value, OptionError> {
    let plain = unquote(text);
    let value = match key.kind {
        Kind::Text => Some(json!(plain)),
        Kind::Number(most) => bounded(&plain, most).map(Value::from),
        Kind::Bytes => parse_bytes(&plain).map(Value::from),
        Kind::Toggle => parse_toggle(&plain).map(Value::from),
        Kind::Integers(most) => integers(&plain, most).map(Value::from),
        Kind::Texts => {
            bracketed(text).map(|parts| parts.into_iter().map(unquote).collect::<Value>())
        }
        Kind::Pairs(first, second) => pairs(text, first, second),
        Kind::Choice(words) => choice(words, &plain, false),
        Kind::ExactChoice(words) => choice(words, &plain, true),
        Kind::Topology => topology(&plain),
        Kind::Switches(names) => switches(names, text),
        Kind::Named(names) => named(names, &plain)?,
        Kind::Flag => Some(Value::Bool(true)),
    };
    value.ok_or_else(|| OptionError::Conversion {
        key: key.name.to_owned(),
        value: text.to_owned(),
    })
}

/// Removes the quotes around text and inside it; a doubled quote inside quotes stays as one.
fn unquote(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '"' {
            plain.push(character);
        } else if quoted && characters.peek() == Some(&'"') {
            characters.next();
            plain.push('"');
        } else {
            quoted = !quoted;
        }
    }
    plain
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn bounded(text: &str, most: u64) -> Option<u64> {
    number(text).filter(|value| *value <= most)
}

/// The parts of `[a,b]`; the brackets are required.
fn bracketed(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    if inner.is_empty() {
        Some(Vec::new())
    } else {
        split(inner, ',').ok()
    }
}

/// Integers and ascending ranges, in brackets or not.
fn integers(text: &str, most: u64) -> Option<Vec<u64>> {
    /// A range longer than this is a typing error, not a list.
    const LONGEST: usize = 65_536;
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => text,
    };
    let mut list = Vec::new();
    for part in inner.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (bounded(first, most)?, bounded(last, most)?),
            None => (bounded(part, most)?, bounded(part, most)?),
        };
        let length = usize::try_from(last.checked_sub(first)?).ok()?;
        if length >= LONGEST.saturating_sub(list.len()) {
            return None;
        }
        list.extend(first..=last);
    }
    Some(list)
}

fn item(item: Item, text: &str) -> Option<Value> {
    match item {
        Item::Text if text.is_empty() => None,
        Item::Text => Some(json!(unquote(text))),
        Item::Number(most) => bounded(text, most).map(Value::from),
        Item::Integers => integers(text, u64::from(u32::MAX)).map(Value::from),
    }
}

fn pairs(text: &str, first: (&str, Item), second: (&str, Item)) -> Option<Value> {
    bracketed(text)?
        .into_iter()
        .map(|part| {
            let (left, right) = part.split_once('@')?;
            let mut object = Map::new();
            object.insert(first.0.to_owned(), item(first.1, left)?);
            object.insert(second.0.to_owned(), item(second.1, right)?);
            Some(Value::Object(object))
        })
        .collect()
}

fn choice(words: &[(&str, &str)], text: &str, exact: bool) -> Option<Value> {
    let equal = |word: &str| {
        if exact {
            word == text
        } else {
            word.eq_ignore_ascii_case(text)
        }
    };
    words
        .iter()
        .find(|(word, _)| equal(word))
        .map(|(_, json)| json!(json))
}

fn topology(text: &str) -> Option<Value> {
    let parts = text
        .split(':')
        .map(|part| bounded(part, u64::from(u16::MAX)))
        .collect::<Option<Vec<_>>>()?;
    let [threads, cores, dies, packages] = parts[..] else {
        return None;
    };
    Some(json!({
        "threads_per_core": threads,
        "cores_per_die": cores,
        "dies_per_package": dies,
        "packages": packages,
    }))
}

fn switches(names: &[&str], text: &str) -> Option<Value> {
    let mut object = Map::new();
    for name in bracketed(text)? {
        object.insert(
            (*names.iter().find(|known| **known == name)?).to_owned(),
            json!(true),
        );
    }
    Some(Value::Object(object))
}

fn named(names: &[(&str, u64)], text: &str) -> Result<Option<Value>, OptionError> {
    let word = names
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    match word {
        Some((_, 0)) => Err(OptionError::InvalidValue(text.to_owned())),
        Some((_, number)) => Ok(Some(json!(number))),
        None => Ok(bounded(text, u64::from(u32::MAX)).map(Value::from)),
    }
}
