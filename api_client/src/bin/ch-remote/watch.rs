//! `ft-status --watch`: the state of the protection, again and again.
//!
//! On a terminal the view is redrawn in place; elsewhere each look is a block of lines followed by
//! an empty one. Whatever the monitor reports is shown, so that the view needs no change when the
//! report grows. Ends with an error when the monitor stops answering.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use api_client::client::Client;
use serde_json::Value;

use crate::requests::RemoteError;

/// Longest array shown on one line; longer ones are cut.
const LONGEST_VALUE: usize = 100;

/// Shows the state every `interval` until the monitor stops answering.
///
/// # Errors
/// The call failed, or the view could not be written.
pub fn watch(client: &mut Client, interval: Duration) -> Result<(), RemoteError> {
    let terminal = io::stdout().is_terminal();
    loop {
        let status = client.get_json("vm.ft-status")?;
        let mut out = io::stdout().lock();
        if terminal {
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        for line in lines(&status) {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
        out.flush()?;
        drop(out);
        thread::sleep(interval);
    }
}

/// One line per value, the names aligned; a group of values under its own heading.
fn lines(status: &Value) -> Vec<String> {
    let mut rows = Vec::new();
    collect(status, 0, &mut rows);
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    rows.into_iter()
        .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned())
        .collect()
}

fn collect(value: &Value, depth: usize, rows: &mut Vec<(String, String)>) {
    let Value::Object(members) = value else {
        rows.push((String::new(), text(value)));
        return;
    };
    for (name, member) in members {
        let name = format!("{:indent$}{name}", "", indent = depth * 2);
        match member {
            Value::Object(inner) if !inner.is_empty() => {
                rows.push((name, String::new()));
                collect(member, depth + 1, rows);
            }
            plain => rows.push((name, text(plain))),
        }
    }
}

fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number
            .as_f64()
            .map_or_else(|| number.to_string(), |number| format!("{number:.3}")),
        other => other.to_string(),
    };
    // Escape sequences in a value must not reach the terminal.
    let shown: String = text
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    match shown.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}...", &shown[..end]),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_aligned_and_groups_are_indented() {
        let status = json!({
            "role": "primary",
            "lag": {"epochs": 2, "ms": 1.25},
            "peer": null,
            "histogram": vec![1_000_000; 40],
        });
        let lines = lines(&status);
        assert!(
            lines.contains(&"role       primary".to_owned()),
            "{lines:?}"
        );
        assert!(lines.contains(&"lag".to_owned()), "{lines:?}");
        assert!(lines.contains(&"  epochs   2".to_owned()), "{lines:?}");
        assert!(lines.contains(&"  ms       1.250".to_owned()), "{lines:?}");
        assert!(lines.contains(&"peer       -".to_owned()), "{lines:?}");
        assert!(lines.iter().any(|line| line.ends_with("...")), "{lines:?}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(text(&json!("a\u{1b}[2Jb")), "a[2Jb");
    }
}
