//! Habits that a machine can check: which crate may use which, a module comment on every file,
//! lengths of files, functions and lines, and one word per idea.
//!
//! Lengths are a ratchet: a limit is lowered when the tree allows it, never raised for one file.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines a file may have without its test module.
const FILE_LINES: usize = 800;
/// Lines a function may have; flat match tables are longer and are exempt by name.
const FUNCTION_LINES: usize = 70;
/// Characters a line may have.
const LINE_CHARACTERS: usize = 100;
/// Functions that are one flat table.
const TABLES: [&str; 0] = [];

/// Crates and the crates of ours that each may use.
const ARROWS: [(&str, &[&str]); 6] = [
    ("hypervisor", &[]),
    ("devices", &[]),
    ("ft", &[]),
    ("api_client", &[]),
    ("vmm", &["hypervisor", "devices", "ft", "api_client"]),
    ("tests", &["api_client"]),
];

/// Words that are not used, and what is said instead.
const WORDS: [(&str, &str); 3] = [
    ("slave", "backup, or the manual's term in the 8259"),
    ("icount", "logical time"),
    ("secondary", "backup"),
];
/// Files in which a manual's own term is one of those words.
const MANUAL_TERMS: [&str; 4] = ["pic.rs", "tidy.rs", "wiring.rs", "addresses.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (package, _) in ARROWS {
        collect(&root().join(package), &mut found);
    }
    assert!(found.len() > 50, "only {} source files found", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// The file without its `mod tests` at the end.
fn product_part(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap()
}

fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problem(s):\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn crates_use_only_what_the_design_allows() {
    let mut problems = Vec::new();
    for (package, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        for (other, _) in ARROWS {
            let used = manifest.lines().any(|line| {
                line.starts_with(&format!("{other} =")) || line.starts_with(&format!("{other}."))
            });
            if used && !allowed.contains(&other) {
                problems.push(format!("{package} may not use {other}"));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let silent = sources()
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| path.display().to_string());
    report(&silent.collect::<Vec<_>>());
}

#[test]
fn files_functions_and_lines_stay_short() {
    let mut problems = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.display();
        let product = product_part(&text);
        let lines = product.lines().count();
        if lines > FILE_LINES {
            problems.push(format!("{name}: {lines} lines"));
        }
        if is_test(&path) {
            continue;
        }
        for (index, line) in product.lines().enumerate() {
            if line.chars().count() > LINE_CHARACTERS && !may_be_long(line) {
                problems.push(format!(
                    "{name}:{}: {} characters",
                    index + 1,
                    line.chars().count()
                ));
            }
        }
        problems.extend(long_functions(product).map(|found| format!("{name}: {found}")));
    }
    report(&problems);
}

/// Whether a file holds only tests: their tables and expected texts may be long.
fn is_test(path: &Path) -> bool {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    let tests = inside.iter().filter(|part| *part == "tests").count();
    // The harness of the `tests` package is not itself a test.
    inside.ends_with("tests.rs") || tests > usize::from(inside.starts_with("tests"))
}

/// Lines that cannot be broken: addresses, and the text of an error.
fn may_be_long(line: &str) -> bool {
    line.contains("://") || line.trim_start().starts_with("#[error(")
}

/// Functions over the limit, found by their indentation as rustfmt leaves it.
fn long_functions(text: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if line.ends_with(';') {
            continue;
        }
        let Some(name) = function_name(line.trim_start()) else {
            continue;
        };
        let closing = format!("{}}}", " ".repeat(indent));
        let Some(len) = lines[start..].iter().position(|line| *line == closing) else {
            continue;
        };
        if len + 1 > FUNCTION_LINES && !TABLES.contains(&name) {
            found.push(format!("fn {name} has {} lines", len + 1));
        }
    }
    found.into_iter()
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line;
    for word in ["pub ", "pub(crate) ", "pub(super) ", "const ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

#[test]
fn one_word_for_one_idea() {
    let mut problems = Vec::new();
    for path in sources() {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if MANUAL_TERMS.contains(&file.as_str()) || path.to_string_lossy().contains("board/tests") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap().to_lowercase();
        for (word, instead) in WORDS {
            if text.contains(word) {
                problems.push(format!("{}: says {word:?}; say {instead}", path.display()));
            }
        }
    }
    report(&problems);
}

#[test]
fn forbidden_marks_are_absent() {
    let marks = [
        "FIX".to_owned() + "ME",
        "XX".to_owned() + "X",
        "HA".to_owned() + "CK",
    ];
    let mut problems = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in &marks {
            if text.contains(mark.as_str()) {
                problems.push(format!("{}: {mark}", path.display()));
            }
        }
    }
    report(&problems);
}
