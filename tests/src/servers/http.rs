//! A client of nginx that downloads one large file again and again over one connection, and
//! compares the SHA-256 of every copy with the guest's own.
//!
//! Spec: RFC 9112, as far as a server sends a body of known length.

use std::io::{BufRead, Read};
use std::time::{Duration, Instant};

use super::traffic::{Connection, Service, Session, connect, send};
use crate::sha256::Sha256;
use crate::{HarnessError, hex};

const PORT: u16 = 80;
const FILE: &str = "/data";
const DIGEST: &str = "/data.sha256";
/// Most bytes that are looked at in one piece.
const PIECE: usize = 64 << 10;

/// nginx with a download for each request.
pub struct Nginx;

impl Service for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn prepare(&self) -> Result<(), HarnessError> {
        expected(&mut connect(PORT)?).map(drop)
    }

    fn connect(&self, _client: usize) -> Result<Box<dyn Session>, HarnessError> {
        let mut connection = connect(PORT)?;
        let expected = expected(&mut connection)?;
        Ok(Box::new(Reader {
            connection,
            expected,
            longest_silence: Duration::ZERO,
        }))
    }

    fn missing(&self, _acknowledged: &[u64]) -> Result<u64, HarnessError> {
        // Nothing is written. What was read was compared at once.
        let mut reader = self.connect(0)?;
        reader.request(0)?;
        Ok(0)
    }
}

struct Reader {
    connection: Connection,
    expected: String,
    longest_silence: Duration,
}

impl Session for Reader {
    fn request(&mut self, _number: u64) -> Result<(), HarnessError> {
        let mut digest = Sha256::new();
        let (mut last, mut silence) = (Instant::now(), Duration::ZERO);
        let length = get(&mut self.connection, FILE, |piece| {
            silence = silence.max(last.elapsed());
            digest.update(piece);
            last = Instant::now();
        })?;
        self.longest_silence = silence;
        let found = hex::encode(&digest.finish());
        if found == self.expected {
            return Ok(());
        }
        Err(HarnessError::Broken(format!(
            "{FILE}: the SHA-256 of {length} bytes is {found}, not {}",
            self.expected
        )))
    }

    fn longest_silence(&self) -> Option<Duration> {
        Some(self.longest_silence)
    }
}

/// The digest that the guest has of its file.
fn expected(connection: &mut Connection) -> Result<String, HarnessError> {
    let mut text = Vec::new();
    get(connection, DIGEST, |piece| text.extend_from_slice(piece))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let digest = text.split_whitespace().next();
    match digest {
        Some(digest) if digest.len() == 64 => Ok(digest.to_owned()),
        _ => Err(HarnessError::Broken(format!("{DIGEST} has {text:?}"))),
    }
}

/// Downloads `path`; gives its bytes to `take` piece by piece, and returns their number.
///
/// # Errors
/// When the connection breaks, or the server has no such file.
pub fn get(
    connection: &mut Connection,
    path: &str,
    mut take: impl FnMut(&[u8]),
) -> Result<u64, HarnessError> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: guest\r\n\r\n");
    send(connection, request.as_bytes())?;
    let length = head(connection, path)?;
    let mut left = length;
    let mut buffer = vec![0; PIECE];
    while left > 0 {
        let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let read = connection.read(&mut buffer[..most]);
        match read.map_err(HarnessError::host(format!(
            "download {path}, {left} bytes left"
        )))? {
            0 => {
                let text = format!("{path}: the connection was closed with {left} bytes left");
                return Err(HarnessError::Broken(text));
            }
            count => {
                take(&buffer[..count]);
                left -= count as u64;
            }
        }
    }
    Ok(length)
}

/// Reads a response's head; returns the length of its body.
fn head(connection: &mut Connection, path: &str) -> Result<u64, HarnessError> {
    let (mut status, mut length) = (String::new(), None);
    loop {
        let mut line = String::new();
        let read = connection.read_line(&mut line);
        if read.map_err(HarnessError::host("receive a response"))? == 0 {
            return Err(HarnessError::Broken("the connection was closed".to_owned()));
        }
        let line = line.trim_end();
        if status.is_empty() {
            status = line.to_owned();
        } else if line.is_empty() {
            break;
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    match length {
        Some(length) if status.split(' ').nth(1) == Some("200") => Ok(length),
        _ => Err(HarnessError::Broken(format!(
            "GET {path}: {status}, length {length:?}"
        ))),
    }
}
