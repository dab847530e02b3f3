//! Request bodies: JSON into the types of the interface, and refusals that name the field.
//!
//! A value that does not fit its field is refused with the field's path, as in
//! `memory.size: invalid type: string "x", expected u64 at line 1 column 21`. What is wrong with
//! the body as a whole has no field; it is refused with its position alone.

use serde::de::DeserializeOwned;
use serde_json::Deserializer;

use super::ApiError;

/// Reads a body.
///
/// # Errors
/// It is no JSON, has more behind it, or does not fit the type.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| refuse(&error.path().to_string(), error.inner()))?;
    match deserializer.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(refuse("", &error)),
    }
}

/// A refusal of what stands at `path`.
fn refuse(path: &str, error: &serde_json::Error) -> ApiError {
    // The body itself is a dot, and a field whose name did not end yet a question mark.
    let path = path.trim_end_matches(['.', '?']);
    let reason = if path.is_empty() {
        error.to_string()
    } else {
        format!("{path}: {error}")
    };
    ApiError::plain(400, ["Failed to deserialize JSON", &reason])
}

#[cfg(test)]
mod tests {
    use api_client::types::{FtReceiveConfig, FtStartConfig, VmConfig};

    use super::*;

    fn reason<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> String {
        let error = read::<T>(body.as_bytes()).unwrap_err();
        assert_eq!(error.status, 400, "{body}");
        assert_eq!(error.chain[0], "Failed to deserialize JSON", "{body}");
        assert_eq!(error.chain.len(), 2, "{body}");
        error.chain[1].clone()
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_by_the_path_of_its_field() {
        let table = [
            (
                r#"{"memory":{"size":"x"}}"#,
                "memory.size: invalid type: string \"x\", expected u64 at line 1 column 21",
            ),
            (
                r#"{"payload":{"kernel":5}}"#,
                "payload.kernel: invalid type: integer `5`, expected ",
            ),
            (
                r#"{"disks":[{"path":"/a"},{"num_queues":-1}]}"#,
                "disks[1].num_queues: invalid value: integer `-1`, expected u16",
            ),
            (
                r#"{"disks":[{"image_type":"Floppy"}]}"#,
                "disks[0].image_type: unknown variant `Floppy`, expected one of ",
            ),
            (r#"{"cpus":[]}"#, "cpus: invalid length 0, expected struct "),
            (r#"{"memory":{}}"#, "memory: missing field `size`"),
            (r#"{"colour":1}"#, "colour: unknown field `colour`"),
            (
                r#"{"memory":{"size":1,"colour":1}}"#,
                "memory.colour: unknown field `colour`",
            ),
            (
                r#"{"memory":{"size":1,"size":2}}"#,
                "memory: duplicate field `size`",
            ),
            (r#"{"watchdog":"on"}"#, "watchdog: invalid type: string"),
            (r#"{"memory":{"size":1,}}"#, "memory: trailing comma"),
        ];
        for (body, expected) in table {
            let found = reason::<VmConfig>(body);
            assert!(found.starts_with(expected), "{body}: {found}");
        }
        let start = |more: &str| {
            let body = format!(r#"{{"destination_url":"tcp:h:1","fence":"none",{more}}}"#);
            reason::<FtStartConfig>(&body)
        };
        assert!(start(r#""epoch_ms":-3"#).starts_with("epoch_ms: invalid value: integer `-3`"));
        assert!(start(r#""release":"whenever""#).starts_with("release: unknown variant"));
        let receive = r#"{"receiver_url":"tcp:h:1","config_overrides":{"serial":{"mode":7}}}"#;
        let found = reason::<FtReceiveConfig>(receive);
        assert!(
            found.starts_with("config_overrides.serial.mode: "),
            "{found}"
        );
    }

    #[test]
    fn a_body_that_is_wrong_as_a_whole_has_no_path() {
        let table = [
            ("{", "EOF while parsing an object at line 1 column 1"),
            ("nonsense", "expected ident at line 1 column 2"),
            ("{} {}", "trailing characters at line 1 column 4"),
            (
                "7",
                "invalid type: integer `7`, expected struct VmConfig at ",
            ),
            (
                r#"{"memory":{"size":1},}"#,
                "trailing comma at line 1 column 22",
            ),
        ];
        for (body, expected) in table {
            let found = reason::<VmConfig>(body);
            assert!(found.starts_with(expected), "{body}: {found}");
        }
        let missing = reason::<FtStartConfig>(r#"{"destination_url":"tcp:h:1"}"#);
        assert!(missing.starts_with("missing field `fence`"), "{missing}");
    }
}
