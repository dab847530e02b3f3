//! The connection to the peer: TCP or a Unix socket.
//!
//! The machine's thread writes without waiting; a thread per connection reads and puts what came
//! into the mailbox. TCP_NODELAY is set: an acknowledgement that waits for company costs 40 ms.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::mailbox::{Mailbox, Message};

/// Bytes read at once.
const READ_SIZE: usize = 256 << 10;
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
        let failed = |source| self.unreachable("connect to", source);
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix).map_err(failed),
            Self::Tcp(address) => {
                let mut last = std::io::Error::other("the name has no address");
                let addresses = address.to_socket_addrs().map_err(failed)?;
                let mut found = None;
                for candidate in addresses {
                    match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            found = Some(stream);
                            break;
                        }
                        Err(error) => last = error,
                    }
                }
                found.map(Stream::Tcp).ok_or_else(|| failed(last))
            }
        }
        .and_then(|stream| Connection::new(stream, self.to_string()).map_err(failed))
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
        use std::os::fd::AsRawFd;
        let fd = match &self.socket {
            ListeningSocket::Tcp(listener) => listener.as_raw_fd(),
            ListeningSocket::Unix(listener, _) => listener.as_raw_fd(),
        };
        if !crate::host::poll::wait_readable(fd, timeout)? {
            return Ok(None);
        }
        let (stream, peer) = match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                (Stream::Tcp(stream), format!("tcp:{peer}"))
            }
            ListeningSocket::Unix(listener, path) => (
                Stream::Unix(listener.accept()?.0),
                format!("unix:{}", path.display()),
            ),
        };
        Connection::new(stream, peer).map(Some)
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

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    fn shutdown(&self) {
        // A connection that is closed already needs no closing.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }

    /// Writes what the connection takes without waiting.
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => crate::host::poll::send_now(stream, from),
            Self::Unix(stream) => crate::host::poll::send_now(stream, from),
        }
    }
}

/// A connection to a peer.
pub struct Connection {
    number: u64,
    peer: String,
    stream: Stream,
    /// Taken from the protocol, not yet by the host.
    unsent: Vec<u8>,
    sent: usize,
    broken: bool,
}

impl Connection {
    fn new(stream: Stream, peer: String) -> std::io::Result<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        if let Stream::Tcp(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            number,
            peer,
            stream,
            unsent: Vec::new(),
            sent: 0,
            broken: false,
        })
    }

    /// Tells this connection's messages from those of others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The peer's address.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Starts the thread that reads.
    ///
    /// # Errors
    /// When the host has no descriptor or thread to give.
    pub fn start_reading(&self, mailbox: Mailbox) -> std::io::Result<()> {
        let mut stream = self.stream.try_clone()?;
        let number = self.number;
        std::thread::Builder::new()
            .name("ft-link".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; READ_SIZE];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) => mailbox.send(Message::Bytes(number, buffer[..count].to_vec())),
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => {
                            log::debug!("connection {number} ends: {error}");
                            break;
                        }
                    }
                }
                mailbox.send(Message::Closed(number));
            })?;
        Ok(())
    }

    /// Sends what `next` has, as far as the connection takes it; `next` is asked for at most the
    /// given number of bytes. True when everything went.
    pub fn transmit(&mut self, mut next: impl FnMut(usize) -> Option<Vec<u8>>) -> bool {
        const CHUNK: usize = 64 << 10;
        if self.broken {
            return true;
        }
        loop {
            if self.sent == self.unsent.len() {
                match next(CHUNK) {
                    Some(bytes) => (self.unsent, self.sent) = (bytes, 0),
                    None => return true,
                }
            }
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    // The reading thread sees the end and says so.
                    log::debug!("connection {} is broken: {error}", self.number);
                    self.broken = true;
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
