//! Responses as bytes.
//!
//! The head is what clients of the interface were written against: no reason phrase but the blank
//! before it, these header names in this spelling and order, and no `Content-Length` where there is
//! no body, except with status 200.
//!
//! Bodies are ASCII: some clients decode what they receive in pieces, and a character that
//! straddles two pieces breaks them. JSON can escape anything.

use super::{Answer, ApiError};

/// `Server` header of everything that is sent.
const SERVER: &str = "Cloud Hypervisor API";

/// The response to a call that succeeded. `empty_status` is the status when there is no body.
pub(super) fn success(answer: Answer, empty_status: u16) -> Vec<u8> {
    match answer {
        Answer::Empty => bytes(empty_status, None),
        Answer::Json(value) => bytes(200, Some(&value.to_string())),
    }
}

/// The response to a call that was refused.
pub(super) fn refusal(error: &ApiError) -> Vec<u8> {
    let chain = (!error.chain.is_empty()).then(|| serde_json::json!(error.chain).to_string());
    bytes(error.status, chain.as_deref())
}

/// The interim response that asks for the body.
pub(super) fn go_on() -> Vec<u8> {
    bytes(100, None)
}

/// The response to bytes that are no HTTP request; the connection ends after it.
pub(super) fn unreadable(reason: &str) -> Vec<u8> {
    let text = format!("{reason}\nPrevious requests that are not answered yet are dropped.");
    bytes(400, Some(&serde_json::json!({ "error": text }).to_string()))
}

/// The response to one connection too many; the connection ends after it.
pub(super) fn too_many_connections() -> Vec<u8> {
    bytes(
        503,
        Some(&serde_json::json!(["Too many open connections"]).to_string()),
    )
}

fn bytes(status: u16, body: Option<&str>) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} \r\nServer: {SERVER}\r\nConnection: keep-alive\r\n");
    let body = body.map(ascii);
    if body.is_some() || status == 200 {
        let length = body.as_ref().map_or(0, String::len);
        text.push_str("Content-Type: application/json\r\n");
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(&body.unwrap_or_default());
    text.into_bytes()
}

/// Escapes what is not ASCII; in JSON that occurs only inside strings.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bodies_are_ascii_and_mean_the_same() {
        let value = json!({"k\u{e9}y": "\u{1f600} \u{20ac} \" \\"});
        let text = ascii(&value.to_string());
        assert!(text.is_ascii());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn heads_are_exact() {
        let head = "Server: Cloud Hypervisor API\r\nConnection: keep-alive\r\n";
        let typed = "Content-Type: application/json\r\n";
        let table = [
            (
                success(Answer::Empty, 204),
                format!("HTTP/1.1 204 \r\n{head}\r\n"),
            ),
            (
                success(Answer::Empty, 200),
                format!("HTTP/1.1 200 \r\n{head}{typed}Content-Length: 0\r\n\r\n"),
            ),
            (
                success(Answer::Json(json!({"a": 1})), 204),
                format!("HTTP/1.1 200 \r\n{head}{typed}Content-Length: 7\r\n\r\n{{\"a\":1}}"),
            ),
            (
                refusal(&ApiError::plain(404, ["Not Found"])),
                format!("HTTP/1.1 404 \r\n{head}{typed}Content-Length: 13\r\n\r\n[\"Not Found\"]"),
            ),
            (
                refusal(&ApiError::plain(400, [])),
                format!("HTTP/1.1 400 \r\n{head}\r\n"),
            ),
            (go_on(), format!("HTTP/1.1 100 \r\n{head}\r\n")),
        ];
        for (bytes, expected) in table {
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
    }
}
