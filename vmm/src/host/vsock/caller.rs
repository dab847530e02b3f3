//! A client of the listening socket that has not said yet which port it wants.
//!
//! ```text
//! client: CONNECT 52\n        host, once the guest has accepted: OK 1073741824\n
//! ```

use std::io::{Error, ErrorKind};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::host::poll;

/// How long a client may take to say what it wants. People type it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the line at most.
const LINE_MAX: usize = 64;

/// A client that is still to name a port.
#[derive(Debug)]
pub struct Caller {
    /// Its socket.
    pub stream: UnixStream,
    /// Until when it may say what it wants.
    pub deadline: Instant,
    line: Vec<u8>,
}

/// What a client said so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Not all.
    Incomplete,
    /// It is gone, or what it said is no request.
    Hopeless,
    /// It wants this port, and sent these bytes already.
    Port(u32, Vec<u8>),
}

impl Caller {
    /// A new client.
    pub const fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self {
            stream,
            deadline,
            line: Vec::new(),
        }
    }

    /// Reads what the client has sent, without waiting.
    pub fn listen(&mut self) -> Call {
        let mut buffer = [0; LINE_MAX];
        match poll::receive_now(&self.stream, &mut buffer) {
            Ok(0) => Call::Hopeless,
            Ok(count) => {
                self.line.extend(&buffer[..count]);
                self.call()
            }
            Err(error) if is_transient(&error) => Call::Incomplete,
            Err(_) => Call::Hopeless,
        }
    }

    fn call(&mut self) -> Call {
        let Some(end) = self.line.iter().position(|byte| *byte == b'\n') else {
            return if self.line.len() < LINE_MAX {
                Call::Incomplete
            } else {
                Call::Hopeless
            };
        };
        let rest = self.line.split_off(end + 1);
        match port(&self.line) {
            Some(port) => Call::Port(port, rest),
            None => Call::Hopeless,
        }
    }
}

/// Whether an error says only that there is nothing to do now.
pub fn is_transient(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn port(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (command, port) = (words.next()?, words.next()?);
    let fits = command.eq_ignore_ascii_case("connect") && words.next().is_none();
    port.parse().ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_clients_say_is_understood_or_refused() {
        let table: [(&[u8], Call); 9] = [
            (b"CONNECT 52\n", Call::Port(52, vec![])),
            (b"connect 52\r\nmore", Call::Port(52, b"more".to_vec())),
            (b"CONNECT 4294967295\n", Call::Port(u32::MAX, vec![])),
            (b"CONNECT 5", Call::Incomplete),
            (b"CONNECT 4294967296\n", Call::Hopeless),
            (b"CONNECT -1\n", Call::Hopeless),
            (b"CONNECT 1 2\n", Call::Hopeless),
            (b"\xff\xfe\n", Call::Hopeless),
            (&[b'x'; LINE_MAX], Call::Hopeless),
        ];
        for (said, expected) in table {
            let (stream, mut client) = UnixStream::pair().unwrap();
            let mut caller = Caller::new(stream, Instant::now());
            assert_eq!(caller.listen(), Call::Incomplete);
            client.write_all(said).unwrap();
            assert_eq!(caller.listen(), expected, "{said:?}");
            drop(client);
            assert_eq!(caller.listen(), Call::Hopeless);
        }
    }
}
