//! A connection of a migration: frames that go and come while somebody waits for them.
//!
//! TCP_NODELAY is set and each frame is one write, head and payload together: a payload that waits
//! behind its head for an acknowledgement costs 40 ms, which would be more than half of a guest's
//! pause. A connection that is cut without a word is noticed by keepalive.
//!
//! Whoever waits looks every now and then whether it is still wanted.

mod descriptors;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::wire::{Command, HEAD_BYTES, MOST_REASON, Request, Response, WireError};
use crate::vm::Stream;

/// How often somebody who waits looks whether it is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Silence after which the host asks whether the peer is there, as often as it repeats that, and
/// how long it waits for acknowledgements of what was sent.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
const USER_TIMEOUT_MS: u32 = 120_000;

/// Why a migration's connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Somebody here does not want it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// The other end has closed it.
    #[error("the peer has closed the connection")]
    Closed,
    /// Nothing came in time.
    #[error("the peer was silent for {0} s")]
    Silent(u64),
    /// What came is no frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What was asked for was not done.
    #[error("the peer refused {command:?}: {reason}")]
    Refused {
        /// What that was.
        command: Command,
        /// Why, if it said so.
        reason: String,
    },
    /// The host failed.
    #[error("the connection is broken")]
    Host(#[source] io::Error),
}

/// Ends a migration from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Refuses to go on when it was ended.
    ///
    /// # Errors
    /// When it was.
    pub fn check(&self) -> Result<(), ChannelError> {
        if self.is_cancelled() {
            return Err(ChannelError::Cancelled);
        }
        Ok(())
    }
}

/// A connection of a migration.
#[derive(Debug)]
pub struct Channel {
    stream: Stream,
    cancel: Cancel,
    /// How long the peer may be silent, if that matters.
    patience: Option<Duration>,
    /// It broke off in the middle of a frame.
    torn: bool,
}

impl Channel {
    /// A channel over a socket.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(stream: Stream, cancel: Cancel) -> io::Result<Self> {
        match &stream {
            Stream::Tcp(tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_read_timeout(Some(LOOK_INTERVAL))?;
                tcp.set_write_timeout(Some(LOOK_INTERVAL))?;
                sockopt::set_socket_keepalive(tcp, true)?;
                sockopt::set_tcp_keepidle(tcp, KEEPALIVE)?;
                sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
                sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
                sockopt::set_tcp_user_timeout(tcp, USER_TIMEOUT_MS)?;
            }
            Stream::Unix(unix) => {
                unix.set_read_timeout(Some(LOOK_INTERVAL))?;
                unix.set_write_timeout(Some(LOOK_INTERVAL))?;
            }
        }
        Ok(Self {
            stream,
            cancel,
            patience: None,
            torn: false,
        })
    }

    /// Bounds how long the peer may be silent, or does not.
    pub const fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// Whether the last frame that was sent or received is whole, so that another can follow.
    pub const fn is_whole(&self) -> bool {
        !self.torn
    }

    /// Goes on although the migration was cancelled, for a farewell that must not take long.
    pub fn take_leave(&mut self, patience: Duration) {
        self.cancel = Cancel::default();
        self.patience = Some(patience);
    }

    /// The socket, for what has to go beside the bytes.
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn read(&mut self, into: &mut [u8]) -> Result<(), ChannelError> {
        let mut filled = 0;
        let begun = Instant::now();
        while filled < into.len() {
            let result = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut into[filled..]),
                Stream::Unix(stream) => stream.read(&mut into[filled..]),
            };
            match result {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(count) => filled += count,
                Err(error) => self.bear(error, begun)?,
            }
        }
        Ok(())
    }

    /// Whether an error is only that nothing has happened yet.
    fn bear(&self, error: io::Error, begun: Instant) -> Result<(), ChannelError> {
        match error.kind() {
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
                return Err(ChannelError::Closed);
            }
            _ => return Err(ChannelError::Host(error)),
        }
        self.cancel.check()?;
        match self.patience {
            Some(patience) if begun.elapsed() > patience => {
                Err(ChannelError::Silent(patience.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Sends all parts, one behind another.
    ///
    /// # Errors
    /// When they cannot all be sent.
    pub fn write(&mut self, parts: &[&[u8]]) -> Result<(), ChannelError> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        // Empty parts would look like a peer that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        self.torn = true;
        let mut begun = Instant::now();
        while !left.is_empty() {
            let result = match &mut self.stream {
                Stream::Tcp(stream) => stream.write_vectored(left),
                Stream::Unix(stream) => stream.write_vectored(left),
            };
            match result {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(count) => {
                    IoSlice::advance_slices(&mut left, count);
                    begun = Instant::now();
                }
                Err(error) => self.bear(error, begun)?,
            }
        }
        self.torn = false;
        Ok(())
    }

    /// Sends a request with its payload, and what follows it.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&mut self, request: &Request, payload: &[&[u8]]) -> Result<(), ChannelError> {
        let head = request.encode();
        let mut parts: Vec<&[u8]> = vec![&head];
        parts.extend(payload);
        self.write(&parts)
    }

    /// Waits for the response to `command`.
    ///
    /// # Errors
    /// When it is an error, or none comes.
    pub fn answer(&mut self, command: Command) -> Result<Response, ChannelError> {
        let response = Response::decode(&self.head()?)?;
        let allowed = if response.ok { 0 } else { MOST_REASON };
        if response.length > allowed {
            return Err(WireError::Length {
                command,
                found: response.length,
                allowed,
            }
            .into());
        }
        if response.ok {
            return Ok(response);
        }
        let reason = match response.length {
            0 => "it does not say why".to_owned(),
            length => printable(&self.payload(length)?),
        };
        Err(ChannelError::Refused { command, reason })
    }

    /// Sends a request and waits for its response.
    ///
    /// # Errors
    /// When it is an error, or none comes.
    pub fn ask(&mut self, request: &Request, payload: &[&[u8]]) -> Result<Response, ChannelError> {
        self.send(request, payload)?;
        self.answer(request.command)
    }

    /// Waits for a request; its payload is still to be read.
    ///
    /// # Errors
    /// When none comes, or it is none.
    pub fn request(&mut self) -> Result<Request, ChannelError> {
        Ok(Request::decode(&self.head()?)?)
    }

    /// Reads answers that nobody waits for any more until the peer closes: a connection that is
    /// closed with some of them unread loses what was sent last.
    ///
    /// # Errors
    /// When the peer does not close it.
    pub fn run_dry(&mut self) -> Result<(), ChannelError> {
        loop {
            match self.head() {
                Err(ChannelError::Closed) => return Ok(()),
                head => head?,
            };
        }
    }

    /// Sends a response.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn respond(&mut self, response: &Response) -> Result<(), ChannelError> {
        self.write(&[&response.encode()])
    }

    /// Says that something was not done, and why if the peer is to know.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn refuse(&mut self, reason: Option<&str>) -> Result<(), ChannelError> {
        let reason = reason.unwrap_or_default().as_bytes();
        let reason = &reason[..reason.len().min(MOST_REASON as usize)];
        let response = Response {
            length: reason.len() as u64,
            ..Response::ERROR
        };
        self.write(&[&response.encode(), reason])
    }

    /// Reads a payload of `length` bytes. Memory for it is taken as it comes, not as announced.
    ///
    /// # Errors
    /// When it does not come.
    pub fn payload(&mut self, length: u64) -> Result<Vec<u8>, ChannelError> {
        const STEP: usize = 1 << 20;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let from = bytes.len();
            let step = usize::try_from(length - from as u64).map_or(STEP, |left| left.min(STEP));
            bytes.resize(from + step, 0);
            self.read(&mut bytes[from..])?;
        }
        Ok(bytes)
    }

    fn head(&mut self) -> Result<[u8; HEAD_BYTES], ChannelError> {
        let mut head = [0; HEAD_BYTES];
        self.read(&mut head)?;
        Ok(head)
    }
}

/// What a peer says, without what could confuse a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Channel, UnixStream, Cancel) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = Cancel::default();
        let channel = Channel::new(Stream::Unix(ours), cancel.clone()).unwrap();
        (channel, theirs, cancel)
    }

    #[test]
    fn a_request_goes_out_with_its_payload_and_its_answer_comes_back() {
        let (mut channel, mut peer, _) = pair();
        let request = Request::with(Command::Config, 5);
        peer.write_all(&Response::OK.encode()).unwrap();
        channel.ask(&request, &[b"ab", b"", b"cde"]).unwrap();
        let mut bytes = [0; 21];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..16], request.encode());
        assert_eq!(&bytes[16..], b"abcde");
        peer.write_all(&Response::ERROR.encode()).unwrap();
        let mut told = Response {
            length: 4,
            ..Response::ERROR
        }
        .encode()
        .to_vec();
        told.extend(b"no\x1bw");
        peer.write_all(&told).unwrap();
        for reason in ["Complete: it does not say why", "Complete: now"] {
            let refused = channel.ask(&Request::bare(Command::Complete), &[]);
            let text = refused.unwrap_err().to_string();
            assert!(text.ends_with(reason), "{text}");
        }
        let endless = Response {
            length: u64::MAX,
            ..Response::ERROR
        };
        peer.write_all(&endless.encode()).unwrap();
        let refused = channel.answer(Command::Complete);
        assert!(matches!(refused, Err(ChannelError::Wire(_))), "{refused:?}");
    }

    #[test]
    fn whoever_waits_notices_a_closed_end_a_cancel_and_a_silence() {
        let (mut channel, peer, _) = pair();
        drop(peer);
        assert!(matches!(channel.request(), Err(ChannelError::Closed)));

        let (mut channel, _peer, cancel) = pair();
        std::thread::spawn(move || cancel.cancel());
        assert!(matches!(channel.request(), Err(ChannelError::Cancelled)));

        let (mut channel, _peer, _) = pair();
        channel.set_patience(Some(Duration::from_millis(10)));
        assert!(matches!(channel.request(), Err(ChannelError::Silent(0))));
    }

    #[test]
    fn answers_that_nobody_waits_for_are_read_until_the_peer_closes() {
        let (mut channel, mut peer, _) = pair();
        for _ in 0..3 {
            peer.write_all(&Response::OK.encode()).unwrap();
        }
        channel.set_patience(Some(Duration::from_millis(10)));
        assert!(matches!(channel.run_dry(), Err(ChannelError::Silent(0))));
        peer.write_all(&Response::OK.encode()).unwrap();
        drop(peer);
        channel.run_dry().unwrap();
    }

    #[test]
    fn an_announced_payload_takes_memory_only_as_it_comes() {
        let (mut channel, mut peer, _) = pair();
        peer.write_all(&[7; 100]).unwrap();
        drop(peer);
        let begun = channel.payload(u64::MAX);
        assert!(matches!(begun, Err(ChannelError::Closed)));
    }
}
