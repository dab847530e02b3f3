//! Requests as bytes: from a stream, one after the other, to method, path and body.
//!
//! Takes HTTP/1.0 and 1.1 with `Content-Length` bodies. Limits: heads of 16 KiB and 64 headers,
//! bodies of 4 MiB. File descriptors may come with any byte of a request; they belong to the
//! request under way.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Longest request line with headers.
const HEAD_LIMIT: usize = 16 << 10;
/// Most headers.
const HEADER_LIMIT: usize = 64;
/// Longest body.
const BODY_LIMIT: usize = 4 << 20;
/// Most descriptors with one request.
pub(super) const FD_LIMIT: usize = 253;

/// What a request wants to do with its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Ask.
    Get,
    /// Do.
    Put,
    /// Known to HTTP, and to no path here.
    Other,
}

/// One request.
#[derive(Debug)]
pub(super) struct HttpRequest {
    pub method: Method,
    /// Absolute path, without scheme and authority.
    pub path: String,
    pub body: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Why there is no next request.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// The client has gone, between two requests.
    #[error("the client closed the connection")]
    Closed,
    /// The connection broke.
    #[error("cannot read from the client")]
    Io(#[from] io::Error),
    /// The bytes are no request that is taken.
    #[error("{0}")]
    Unreadable(String),
}

/// What a request head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: Method,
    path: String,
    body_length: usize,
    expects_continue: bool,
    /// Bytes of the head itself.
    length: usize,
}

/// Reads requests from a connection.
pub(super) struct RequestReader<'a> {
    stream: &'a UnixStream,
    received: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl<'a> RequestReader<'a> {
    pub(super) fn new(stream: &'a UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// The next request. `ask_for_body` is called when the client waits to be asked for it.
    pub(super) fn next(
        &mut self,
        mut ask_for_body: impl FnMut() -> io::Result<()>,
    ) -> Result<HttpRequest, HttpError> {
        let head = loop {
            // Empty lines before a request are allowed (RFC 9112, section 2.2).
            while self.received.starts_with(b"\r\n") {
                self.received.drain(..2);
            }
            if let Some(head) = parse_head(&self.received)? {
                break head;
            }
            let between = self.received.is_empty() && self.fds.is_empty();
            if !self.receive()? {
                return Err(if between {
                    HttpError::Closed
                } else {
                    cut_short()
                });
            }
        };
        let end = head.length + head.body_length;
        if head.expects_continue && self.received.len() < end {
            ask_for_body()?;
        }
        while self.received.len() < end {
            if !self.receive()? {
                return Err(cut_short());
            }
        }
        let body = self.received[head.length..end].to_vec();
        self.received.drain(..end);
        let fds = std::mem::take(&mut self.fds);
        Ok(HttpRequest {
            method: head.method,
            path: head.path,
            body,
            fds,
        })
    }

    /// Receives more bytes and descriptors; false at the end of the stream.
    fn receive(&mut self) -> Result<bool, HttpError> {
        let mut chunk = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut chunk)];
        let received = loop {
            match recvmsg(
                self.stream,
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.map_err(io::Error::from)?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > FD_LIMIT {
            return Err(unreadable("too many file descriptors with one request"));
        }
        self.received.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes > 0)
    }
}

fn unreadable(reason: impl Into<String>) -> HttpError {
    HttpError::Unreadable(reason.into())
}

fn cut_short() -> HttpError {
    unreadable("the connection ended inside a request")
}

/// Reads a head from the start of `bytes`; `None` if its end is not there yet.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request
        .parse(bytes)
        .map_err(|error| unreadable(format!("not an HTTP request: {error}")))?;
    let length = match parsed {
        httparse::Status::Complete(length) if length <= HEAD_LIMIT => length,
        httparse::Status::Partial if bytes.len() <= HEAD_LIMIT => return Ok(None),
        _ => return Err(unreadable("the request's head is too long")),
    };
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("PUT") => Method::Put,
        Some("PATCH" | "DELETE") => Method::Other,
        other => {
            return Err(unreadable(format!(
                "unknown method {}",
                other.unwrap_or("")
            )));
        }
    };
    let path = absolute_path(request.path.unwrap_or_default()).to_owned();
    let (mut body_length, mut expects_continue) = (None, false);
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let length = content_length(header.value)?;
            if body_length.is_some_and(|before| before != length) {
                return Err(unreadable("two different Content-Length headers"));
            }
            body_length = Some(length);
        } else if is("transfer-encoding") {
            return Err(unreadable("Transfer-Encoding is not supported"));
        } else if is("expect") {
            if !header.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(unreadable("unknown expectation"));
            }
            expects_continue = true;
        }
    }
    let body_length = body_length.unwrap_or(0);
    Ok(Some(Head {
        method,
        path,
        body_length,
        expects_continue,
        length,
    }))
}

fn content_length(value: &[u8]) -> Result<usize, HttpError> {
    let text = std::str::from_utf8(value).unwrap_or_default().trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = if digits { text.parse().ok() } else { None };
    let length: usize =
        length.ok_or_else(|| unreadable(format!("malformed Content-Length {text:?}")))?;
    if length > BODY_LIMIT {
        return Err(unreadable(format!(
            "a body of {length} bytes is over the {BODY_LIMIT} taken"
        )));
    }
    Ok(length)
}

/// The path of a request target, which may be a whole URI.
fn absolute_path(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("", |start| &rest[start..]),
        None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, String> {
        parse_head(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn heads_that_are_taken() {
        let table = [
            ("GET /a HTTP/1.1\r\n\r\n", Method::Get, "/a", 0, false),
            (
                "PUT /a HTTP/1.0\r\ncontent-LENGTH:  7 \r\n\r\n",
                Method::Put,
                "/a",
                7,
                false,
            ),
            (
                "PATCH http://h:1/a/b HTTP/1.1\r\nHost: h\r\n\r\n",
                Method::Other,
                "/a/b",
                0,
                false,
            ),
            ("GET http://h HTTP/1.1\r\n\r\n", Method::Get, "", 0, false),
            (
                "PUT /a?b HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
                Method::Put,
                "/a?b",
                1,
                true,
            ),
        ];
        for (text, method, path, body_length, expects_continue) in table {
            let path = path.to_owned();
            let length = text.len();
            let expected = Head {
                method,
                path,
                body_length,
                expects_continue,
                length,
            };
            assert_eq!(head(text), Ok(Some(expected)), "{text:?}");
        }
    }

    #[test]
    fn heads_that_are_refused() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_LIMIT));
        let endless = format!("GET /{}", "a".repeat(HEAD_LIMIT + 1));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(HEADER_LIMIT + 1)
        );
        let table = [
            ("POST /a HTTP/1.1\r\n\r\n", "unknown method POST"),
            ("get /a HTTP/1.1\r\n\r\n", "unknown method get"),
            ("GET /a HTTP/2\r\n\r\n", "not an HTTP request"),
            ("\u{1}\u{2}", "not an HTTP request"),
            (
                "PUT /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                "malformed Content-Length",
            ),
            (
                "PUT /a HTTP/1.1\r\nContent-Length: \r\n\r\n",
                "malformed Content-Length",
            ),
            (
                "PUT /a HTTP/1.1\r\nContent-Length: 4194305\r\n\r\n",
                "4194305",
            ),
            (
                "PUT /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "two different",
            ),
            (
                "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "Transfer-Encoding",
            ),
            ("PUT /a HTTP/1.1\r\nExpect: tea\r\n\r\n", "expectation"),
            (&long, "too long"),
            (&endless, "too long"),
            (&many, "not an HTTP request"),
        ];
        for (text, reason) in table {
            let error = head(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_head_cut_anywhere_is_not_there_yet() {
        let text = "PUT /a HTTP/1.1\r\nContent-Length: 7\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(head(&text[..end]), Ok(None), "{end}");
        }
    }
}
