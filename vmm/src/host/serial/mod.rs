//! The host side of a serial port or a virtio console: nowhere, a file, the terminal, a
//! pseudoterminal, or a listening Unix socket.
//!
//! Nothing is opened before [`SerialHost::activate`]: a backup has no terminal and no socket until
//! it goes live, and the primary on the same host may still have them.
//!
//! The machine's thread never waits here. What cannot be written at once is queued for a thread
//! of its own, up to [`QUEUE_LIMIT`] bytes, the newest of which are kept; what is lost is counted.
//! Terminals and pipes can stop taking bytes, so only that thread writes to them.
//!
//! Output that was queued leaves only while this host may act for its machine: each write asks its
//! [`Permit`] first, and a machine that was fenced has its queue thrown away. What a write has
//! begun with cannot be taken back: bytes that the kernel has, and a piece of at most
//! [`SLOW_PIECE`] bytes on its way to a terminal or pipe that takes none, may still come out after
//! another host has taken over.

mod input;
mod output;
mod pty;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;

use super::offer::Offer;
use super::socket::{ListenError, ListeningSocket};
use super::terminal::RawTerminal;
use crate::vm::Permit;

use input::{Receiver, accept_all, read_all};
use output::{Shared, Sink, Standing, drain};
use pty::Pty;

/// Bytes of output kept while they cannot be written.
pub const QUEUE_LIMIT: usize = 1 << 20;
/// How often threads look whether the port was closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long closing waits for queued output to be taken.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
const PTY_FLUSH_TIMEOUT: Duration = Duration::from_millis(50);
/// Bytes handed at once to a terminal or pipe, which can keep the writer waiting. A pipe that takes
/// any takes as many.
pub const SLOW_PIECE: usize = 4096;

/// Where a serial port or console leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SerialTarget {
    /// Output is discarded.
    #[default]
    Null,
    /// The process's standard input and output.
    Tty,
    /// A new pseudoterminal.
    Pty,
    /// A file; output only. Truncated when the machine begins, appended to when it goes on here.
    File(PathBuf),
    /// A listening Unix socket; one client at a time, a new one replaces the old.
    Socket(PathBuf),
}

/// Why the host side cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// The file cannot be made.
    #[error("cannot open the serial port's or console's file {path}", path = .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] ListenError),
    /// No pseudoterminal is to be had.
    #[error("cannot open a pseudoterminal")]
    Pty(#[source] std::io::Error),
    /// The terminal cannot be switched to raw mode, or no thread is to be had.
    #[error("cannot serve the serial port or console")]
    Host(#[from] std::io::Error),
}

/// Takes bytes that came in.
pub type Input = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What is kept open until the host side is dropped.
enum Open {
    Terminal {
        /// Restores the terminal.
        _raw: RawTerminal,
    },
    Pty(Pty),
    Socket {
        /// Removes the socket.
        _socket: ListeningSocket,
    },
}

/// The host side of a serial port or console.
pub struct SerialHost {
    target: SerialTarget,
    receiver: Receiver,
    shared: Arc<Shared>,
    open: Option<Open>,
    active: bool,
}

impl SerialHost {
    /// A serial port's host side that is not open yet.
    pub fn new(target: SerialTarget, input: Input) -> Self {
        let take = move |bytes: &[u8]| {
            input(bytes);
            true
        };
        let receiver = Receiver {
            take: Arc::new(take),
            resize: None,
        };
        Self::with_receiver(target, receiver)
    }

    /// A virtio console's host side that is not open yet. What the machine does not take is
    /// offered again, and nothing more is read meanwhile.
    pub fn for_console(target: SerialTarget, offer: Offer) -> Self {
        let again = offer.clone();
        let take =
            move |bytes: &[u8]| offer(VirtioInput::ConsoleInput(Payload::from(bytes.to_vec())));
        let resize = move |columns, rows| again(VirtioInput::ConsoleResize { columns, rows });
        let receiver = Receiver {
            take: Arc::new(take),
            resize: Some(Arc::new(resize)),
        };
        Self::with_receiver(target, receiver)
    }

    fn with_receiver(target: SerialTarget, receiver: Receiver) -> Self {
        Self {
            target,
            receiver,
            shared: Arc::new(Shared::new(Permit::unlimited())),
            open: None,
            active: false,
        }
    }

    /// A host side like this one that is not open yet.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self::with_receiver(self.target.clone(), self.receiver.clone())
    }

    /// The same, but what is queued leaves only under `permit`.
    #[must_use]
    pub fn under(mut self, permit: Permit) -> Self {
        self.shared = Arc::new(Shared::new(permit));
        self
    }

    /// Opens it, for a machine that begins, or for one that goes on here after it was elsewhere; a
    /// second call does nothing.
    ///
    /// # Errors
    /// When file, socket or terminal cannot be had.
    pub fn activate(&mut self, goes_on: bool) -> Result<(), SerialError> {
        if self.active {
            return Ok(());
        }
        match self.target.clone() {
            SerialTarget::Null => {}
            SerialTarget::Tty => self.open_terminal()?,
            SerialTarget::Pty => self.open_pty()?,
            SerialTarget::File(path) => {
                let mut options = File::options();
                let file = match goes_on {
                    // What a primary on the same host has written stays.
                    true => options.append(true).create(true).open(&path),
                    false => File::create(&path),
                };
                let file = file.map_err(|source| SerialError::File { path, source })?;
                self.shared.lock().sink = Some(Sink::file(file)?);
            }
            SerialTarget::Socket(path) => self.open_socket(&path)?,
        }
        if self.target != SerialTarget::Null {
            let shared = self.shared.clone();
            spawn("serial-out", move || drain(&shared))?;
            self.shared.lock().draining = true;
        }
        self.active = true;
        Ok(())
    }

    fn open_terminal(&mut self) -> Result<(), SerialError> {
        let output = File::options()
            .append(true)
            .open("/dev/stdout")
            .or_else(|_| {
                // A closed standard output must not stop the guest.
                File::options().write(true).open("/dev/null")
            })?;
        self.shared.lock().sink = Some(Sink::file(output)?);
        if let Some(raw) = RawTerminal::of_standard_input()? {
            self.open = Some(Open::Terminal { _raw: raw });
            let (shared, receiver) = (self.shared.clone(), self.receiver.clone());
            spawn("serial-in", move || {
                read_all(&shared, std::io::stdin(), &receiver);
            })?;
        }
        Ok(())
    }

    fn open_pty(&mut self) -> Result<(), SerialError> {
        let pty = Pty::open().map_err(SerialError::Pty)?;
        self.shared.lock().sink = Some(Sink::Pty(pty.control().clone()));
        let (shared, receiver, input) = (self.shared.clone(), self.receiver.clone(), pty.input());
        spawn("serial-in", move || read_all(&shared, input, &receiver))?;
        self.open = Some(Open::Pty(pty));
        Ok(())
    }

    fn open_socket(&mut self, path: &Path) -> Result<(), SerialError> {
        let socket = ListeningSocket::bind(path)?;
        let listener = socket.listener().try_clone()?;
        let (shared, receiver) = (self.shared.clone(), self.receiver.clone());
        spawn("serial-accept", move || {
            accept_all(&shared, &listener, &receiver);
        })?;
        self.open = Some(Open::Socket { _socket: socket });
        Ok(())
    }

    /// The path at which a pseudoterminal can be opened; `None` before it is open, and for other
    /// targets.
    pub fn pty_path(&self) -> Option<&Path> {
        match &self.open {
            Some(Open::Pty(pty)) => Some(pty.path()),
            _ => None,
        }
    }

    /// Output of the machine. Never waits.
    pub fn write(&self, bytes: &[u8]) {
        if self.target == SerialTarget::Null {
            return;
        }
        let mut state = self.shared.lock();
        let may_leave = self.shared.may_write(&state);
        state.write(bytes, may_leave);
        if !state.queue.is_empty() {
            self.shared.changed.notify_all();
        }
    }

    /// Lets queued output leave whenever it can: the machine was handed over in order, with nobody
    /// left to repeat it.
    pub fn let_go(&self) {
        self.shared.lock().standing = Standing::Handed;
        self.shared.changed.notify_all();
    }

    /// Throws away what is queued and what still comes: the machine was fenced.
    pub fn discard(&self) {
        self.shared.lock().discard();
        self.shared.changed.notify_all();
    }

    /// Bytes of output that were lost because nobody took them in time.
    pub fn lost_bytes(&self) -> u64 {
        self.shared.lock().lost
    }
}

impl Drop for SerialHost {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let patience = match &state.sink {
            // Mostly nobody has it open, and there is no telling.
            Some(Sink::Pty(_)) => PTY_FLUSH_TIMEOUT,
            _ => FLUSH_TIMEOUT,
        };
        let deadline = Instant::now() + patience;
        state.closed = Some(deadline);
        self.shared.changed.notify_all();
        while let Some(rest) = deadline.checked_duration_since(Instant::now())
            && state.draining
        {
            let waited = self.shared.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(Sink::Client(client)) = state.sink.take() {
            // A client that has gone needs no farewell.
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)?;
    Ok(())
}
