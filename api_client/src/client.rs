//! A blocking HTTP client over the monitor's Unix socket.
//!
//! One connection, kept open, one request at a time. Reads what HTTP/1.1 allows: header names in
//! any case, a reason phrase or none, interim responses; bodies have a `Content-Length`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::error::ClientError;

/// Longest response head taken.
const HEAD_LIMIT: usize = 64 << 10;
/// Longest response body taken.
const BODY_LIMIT: usize = 64 << 20;

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it may not be used.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Bounds how long a call waits for the server; `None` waits for ever.
    ///
    /// # Errors
    /// The bound is zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.stream.set_read_timeout(timeout)?;
        Ok(self.stream.set_write_timeout(timeout)?)
    }

    /// Calls `GET /api/v1/NAME` and returns the body.
    ///
    /// # Errors
    /// The connection broke, or the server refused.
    pub fn get(&mut self, name: &str) -> Result<Option<String>, ClientError> {
        self.call("GET", name, None)
    }

    /// Calls `PUT /api/v1/NAME` with a body or without, and returns the answer's body.
    ///
    /// # Errors
    /// The connection broke, or the server refused.
    pub fn put(&mut self, name: &str, body: Option<&str>) -> Result<Option<String>, ClientError> {
        self.call("PUT", name, body)
    }

    /// Calls `PUT /api/v1/NAME` with `body` as JSON.
    ///
    /// # Errors
    /// The connection broke, or the server refused.
    pub fn put_json<T: Serialize>(
        &mut self,
        name: &str,
        body: &T,
    ) -> Result<Option<String>, ClientError> {
        let text = serde_json::to_string(body)
            .map_err(|error| ClientError::Malformed(format!("cannot write the body: {error}")))?;
        self.call("PUT", name, Some(&text))
    }

    /// Calls `GET /api/v1/NAME` and returns the body as JSON.
    ///
    /// # Errors
    /// The connection broke, the server refused, or its answer is not JSON.
    pub fn get_json(&mut self, name: &str) -> Result<Value, ClientError> {
        let body = self.get(name)?.unwrap_or_default();
        serde_json::from_str(&body)
            .map_err(|error| ClientError::Malformed(format!("the body is not JSON: {error}")))
    }

    fn call(
        &mut self,
        method: &str,
        name: &str,
        body: Option<&str>,
    ) -> Result<Option<String>, ClientError> {
        let mut request =
            format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
        if let Some(body) = body {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        self.stream.write_all(request.as_bytes())?;
        let (status, body) = self.response()?;
        match status {
            200..=299 => Ok(body),
            _ => Err(ClientError::refused(status, body.as_deref())),
        }
    }

    /// Reads one final response; interim ones are passed over.
    fn response(&mut self) -> Result<(u16, Option<String>), ClientError> {
        loop {
            let head = self.head()?;
            let (status, length) = parse_head(&head)?;
            if (100..200).contains(&status) {
                continue;
            }
            let Some(length) = length else {
                return Ok((status, None));
            };
            while self.received.len() < length {
                self.receive()?;
            }
            let bytes = self.received.drain(..length).collect();
            let body = String::from_utf8(bytes)
                .map_err(|_| ClientError::Malformed("the body is not UTF-8".to_owned()))?;
            return Ok((status, Some(body)));
        }
    }

    /// Takes the bytes up to the blank line out of what was received.
    fn head(&mut self) -> Result<String, ClientError> {
        loop {
            if let Some(end) = self
                .received
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                let bytes = self.received.drain(..end + 4).collect();
                return String::from_utf8(bytes)
                    .map_err(|_| ClientError::Malformed("the head is not UTF-8".to_owned()));
            }
            if self.received.len() > HEAD_LIMIT {
                return Err(ClientError::Malformed("the head has no end".to_owned()));
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let mut chunk = [0; 4096];
        let count = match self.stream.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            read => read?,
        };
        if count == 0 {
            return Err(ClientError::Malformed(
                "the server closed the connection".to_owned(),
            ));
        }
        self.received.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}

/// Status and body length of a response head.
fn parse_head(head: &str) -> Result<(u16, Option<usize>), ClientError> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let bad = || ClientError::Malformed(format!("status line {first:?}"));
    let mut words = first.split(' ');
    if !words
        .next()
        .is_some_and(|version| version.starts_with("HTTP/1."))
    {
        return Err(bad());
    }
    let status = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(bad)?;
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            let value: usize = value.trim().parse().map_err(|_| {
                ClientError::Malformed(format!("content length {:?}", value.trim()))
            })?;
            if value > BODY_LIMIT {
                return Err(ClientError::Malformed(format!("a body of {value} bytes")));
            }
            length = Some(value);
        }
    }
    Ok((status, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_with_and_without_reason_and_in_any_case() {
        let table = [
            (
                "HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n",
                Some((200, Some(3))),
            ),
            (
                "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
                Some((204, None)),
            ),
            (
                "HTTP/1.0 404\r\ncontent-length:0\r\n\r\n",
                Some((404, Some(0))),
            ),
            ("HTTP/2 200\r\n\r\n", None),
            ("HTTP/1.1 abc\r\n\r\n", None),
            ("HTTP/1.1 200 \r\nContent-Length: x\r\n\r\n", None),
            ("HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", None),
        ];
        for (head, expected) in table {
            assert_eq!(parse_head(head).ok(), expected, "{head:?}");
        }
    }
}
