//! The connection to the peer: TCP or a Unix socket.
//!
//! The machine's thread reads and writes it without waiting: a thread of its own would be woken for
//! each message and take the processor from a busy guest. TCP_NODELAY is set: an acknowledgement
//! that waits for company costs 40 ms.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::host::poll;

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A peer's address as the API and the command line write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `tcp:HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not in one of the forms.
    #[error("{text:?} is not tcp:HOST:PORT or unix:PATH")]
    Form {
        /// What was given.
        text: String,
    },
    /// Cannot be listened on or connected to.
    #[error("cannot {action} {address}: {source}")]
    Unreachable {
        /// What was tried.
        action: &'static str,
        /// On which address.
        address: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(address) = text.strip_prefix("tcp:")
            && let Some((host, port)) = address.rsplit_once(':')
            && !host.is_empty()
            && port.parse::<u16>().is_ok()
        {
            return Ok(Self::Tcp(address.to_owned()));
        }
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err(AddressError::Form {
                text: text.to_owned(),
            }),
        }
    }
}

impl Address {
    fn unreachable(&self, action: &'static str, source: std::io::Error) -> AddressError {
        AddressError::Unreachable {
            action,
            address: self.to_string(),
            source,
        }
    }

    /// Connects to a listening peer.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self) -> Result<Connection, AddressError> {
        let connected = Connection::new(self.open()?, self.to_string());
        connected.map_err(|source| self.unreachable("connect to", source))
    }

    /// As [`Address::connect`], for somebody who waits for what comes and goes.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(&self) -> Result<Stream, AddressError> {
        let failed = |source| self.unreachable("connect to", source);
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix).map_err(failed),
            Self::Tcp(address) => {
                let mut last = std::io::Error::other("the name has no address");
                for candidate in address.to_socket_addrs().map_err(failed)? {
                    match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
                        Ok(stream) => return Ok(Stream::Tcp(stream)),
                        Err(error) => last = error,
                    }
                }
                Err(failed(last))
            }
        }
    }

    /// Listens for a peer.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn listen(&self) -> Result<Listening, AddressError> {
        let failed = |source| self.unreachable("listen on", source);
        let socket = match self {
            Self::Tcp(address) => {
                ListeningSocket::Tcp(TcpListener::bind(address.as_str()).map_err(failed)?)
            }
            Self::Unix(path) => {
                ListeningSocket::Unix(UnixListener::bind(path).map_err(failed)?, path.clone())
            }
        };
        Ok(Listening { socket })
    }
}

enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A socket that waits for a peer.
pub struct Listening {
    socket: ListeningSocket,
}

impl Listening {
    /// Waits for one peer for at most `timeout`; `None` when none came.
    ///
    /// # Errors
    /// What the host says.
    pub fn accept(&self, timeout: Duration) -> std::io::Result<Option<Connection>> {
        let accepted = self.accept_stream(timeout)?;
        let connection = accepted.map(|(stream, peer)| Connection::new(stream, peer));
        connection.transpose()
    }

    /// As [`Listening::accept`], for somebody who waits for what comes and goes: the stream, and
    /// the peer's address.
    ///
    /// # Errors
    /// What the host says.
    pub fn accept_stream(&self, timeout: Duration) -> std::io::Result<Option<(Stream, String)>> {
        let fd = match &self.socket {
            ListeningSocket::Tcp(listener) => listener.as_fd(),
            ListeningSocket::Unix(listener, _) => listener.as_fd(),
        };
        if !poll::wait_readable(fd, timeout)? {
            return Ok(None);
        }
        Ok(Some(match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                (Stream::Tcp(stream), format!("tcp:{peer}"))
            }
            ListeningSocket::Unix(listener, path) => (
                Stream::Unix(listener.accept()?.0),
                format!("unix:{}", path.display()),
            ),
        }))
    }

    /// The TCP port, when it was chosen by the host.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.local_addr().ok().map(|at| at.port()),
            ListeningSocket::Unix(..) => None,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let ListeningSocket::Unix(_, path) = &self.socket {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that leads to a peer.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// On this host.
    Unix(UnixStream),
}

impl Stream {
    /// Another handle of the same socket.
    ///
    /// # Errors
    /// What the host says.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Ends both directions, for whoever waits for them too.
    pub fn shutdown(&self) {
        // A connection that is closed already needs no closing.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connection to a peer.
pub struct Connection {
    peer: String,
    stream: Stream,
    /// Taken from the protocol, not yet by the host.
    unsent: Vec<u8>,
    sent: usize,
    closed: bool,
}

impl Connection {
    fn new(stream: Stream, peer: String) -> std::io::Result<Self> {
        if let Stream::Tcp(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        Ok(Self {
            peer,
            stream,
            unsent: Vec::new(),
            sent: 0,
            closed: false,
        })
    }

    /// The peer's address.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Takes what has come into `into`: how many bytes, or `None` when nothing has. Zero, once,
    /// when nothing more will come.
    pub fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        if self.closed {
            return None;
        }
        match poll::receive_now(&self.stream, into) {
            Ok(0) => {}
            Ok(count) => return Some(count),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return None;
            }
            Err(error) => log::debug!("connection to {} ends: {error}", self.peer),
        }
        self.closed = true;
        Some(0)
    }

    /// The descriptor to wait on; none when there is nothing to wait for any more.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.stream.as_fd())
    }

    /// Sends what `next` has, as far as the connection takes it; `next` is asked for at most the
    /// given number of bytes. True when everything went.
    pub fn transmit(&mut self, mut next: impl FnMut(usize) -> Option<Vec<u8>>) -> bool {
        const CHUNK: usize = 64 << 10;
        if self.closed {
            return true;
        }
        loop {
            if self.sent == self.unsent.len() {
                match next(CHUNK) {
                    Some(bytes) => (self.unsent, self.sent) = (bytes, 0),
                    None => return true,
                }
            }
            match poll::send_now(&self.stream, &self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    // What came before is still there to be read, and then the end.
                    log::debug!("connection to {} is broken: {error}", self.peer);
                    (self.unsent, self.sent) = (Vec::new(), 0);
                    self.stream.shutdown();
                    return true;
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stream.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["tcp:127.0.0.1:7000", "tcp:[::1]:7000", "unix:/run/ft.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "tcp:",
            "tcp:7000",
            "tcp::7000",
            "tcp:host:70000",
            "unix:",
            "udp:a:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn connecting_to_nobody_names_the_address() {
        let address: Address = "unix:/nonexistent/ft.sock".parse().unwrap();
        let Err(error) = address.connect() else {
            panic!("nobody listens")
        };
        assert!(
            error.to_string().contains("/nonexistent/ft.sock"),
            "{error}"
        );
    }
}
