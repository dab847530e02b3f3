//! A client of the test guest's line service: numbered requests, hash-chained replies.
//!
//! The client keeps its own chain, so it notices a request that was lost, taken twice or taken in
//! another order, across a failover too. The protocol is told in `tests/guests/README.md`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{HarnessError, chain, hex};

/// How long a reply may take before the connection is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// What the client has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Number of the last request whose reply was seen.
    pub acknowledged: u64,
    /// Chain value after it.
    pub head: [u8; 32],
    /// Requests that had to be sent again after a reconnection.
    pub resent: u64,
    /// Acknowledged requests that the service did not know any more.
    pub lost: u64,
    /// Reply times in microseconds.
    pub latencies_us: Vec<u64>,
    /// Longest time between two replies, in microseconds.
    pub longest_gap_us: u64,
}

/// A connection to a serial socket.
pub struct Line {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Line {
    /// Connects to the serial socket at `path`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Connects as soon as somebody listens.
    ///
    /// # Errors
    /// When nobody does within `timeout`.
    pub fn connect_within(path: &Path, timeout: Duration) -> Result<Self, HarnessError> {
        let deadline = Instant::now() + timeout;
        loop {
            match Self::connect(path) {
                Ok(line) => return Ok(line),
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    return Err(
                        HarnessError::host(format!("connect to {}", path.display()))(error),
                    );
                }
            }
        }
    }

    /// Sends one line.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, line: &str) -> std::io::Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes())
    }

    /// Receives one line, without its end.
    ///
    /// # Errors
    /// When the connection breaks or the time is over.
    pub fn receive(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line[..end]);
                return Ok(text.trim_end_matches('\r').to_owned());
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.received.extend(&buffer[..count]),
            }
        }
    }

    /// Receives lines until one starts with `start`; returns it.
    ///
    /// # Errors
    /// When the connection breaks or it does not come in time.
    pub fn receive_until(
        &mut self,
        start: &str,
        timeout: Duration,
    ) -> Result<String, HarnessError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receive() {
                Ok(line) if line.starts_with(start) => return Ok(line),
                Ok(_) => {}
                // Nothing for as long as a reply may take: only `timeout` ends this wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    return Err(HarnessError::host(format!("wait for {start:?}"))(error));
                }
            }
            if Instant::now() > deadline {
                let seconds = timeout.as_secs();
                return Err(HarnessError::Timeout {
                    what: format!("line {start:?}"),
                    seconds,
                });
            }
        }
    }
}

impl Ledger {
    /// Checks that the service behind `line` still knows every acknowledged request.
    ///
    /// # Errors
    /// When the connection breaks, or the service answers something else.
    pub fn resume(&mut self, line: &mut Line) -> Result<(), HarnessError> {
        let broken = HarnessError::host("greet the service");
        let greeted = line.send("!").and_then(|()| {
            loop {
                if line.receive()? == "ERR syntax" {
                    break line.send("HELLO").and_then(|()| line.receive());
                }
            }
        });
        let answer = greeted.map_err(broken)?;
        let mut words = answer.split(' ');
        let last = match (
            words.next(),
            words.next().and_then(|word| word.parse::<u64>().ok()),
        ) {
            (Some("HELLO"), Some(last)) => last,
            _ => {
                return Err(HarnessError::Broken(format!(
                    "the service greets with {answer:?}"
                )));
            }
        };
        if last < self.acknowledged {
            self.lost += self.acknowledged - last;
            return Err(HarnessError::Broken(format!(
                "request {} was acknowledged, the service knows only {last}",
                self.acknowledged
            )));
        }
        if last > self.acknowledged {
            // The reply to the request under way was lost with the connection.
            self.resent += 1;
        }
        let head = words.next().unwrap_or_default();
        if last == self.acknowledged && head != hex::encode(&self.head) {
            self.lost += 1;
            return Err(HarnessError::Broken(format!(
                "chain {head} at request {last} is another"
            )));
        }
        Ok(())
    }

    /// Sends the next request and checks its reply. `Ok(false)` when the connection broke.
    ///
    /// # Errors
    /// When the reply is not the one that the chain demands.
    pub fn request(&mut self, line: &mut Line) -> Result<bool, HarnessError> {
        let number = self.acknowledged + 1;
        let payload = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let expected = chain::link(&self.head, number, &payload);
        let begun = Instant::now();
        let text = format!("REQ {number} {}", hex::encode(&payload));
        let Ok(reply) = line.send(&text).and_then(|()| line.receive()) else {
            return Ok(false);
        };
        let wanted = format!("REP {number} {}", hex::encode(&expected));
        if reply != wanted {
            self.lost += 1;
            return Err(HarnessError::Broken(format!(
                "got {reply:?} where {wanted:?} is due"
            )));
        }
        let taken_us = begun.elapsed().as_micros() as u64;
        self.latencies_us.push(taken_us);
        self.longest_gap_us = self.longest_gap_us.max(taken_us);
        self.acknowledged = number;
        self.head = expected;
        Ok(true)
    }
}

/// The value below which `percent` of `values` lie; zero for none.
pub fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 50), 50);
        assert_eq!(percentile(&values, 99), 99);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile(&[], 50), 0);
    }
}
