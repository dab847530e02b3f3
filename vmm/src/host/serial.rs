//! The host side of the serial port: nowhere, a file, the terminal, or a listening Unix socket.
//!
//! Nothing is opened before [`SerialHost::activate`]: a backup has no terminal and no socket until
//! it goes live, and the primary on the same host may still have them.
//!
//! The machine's thread never waits here. What cannot be written at once is queued for a thread
//! of its own, up to [`QUEUE_LIMIT`] bytes, the newest of which are kept; what is lost is counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::poll;
use super::terminal::RawTerminal;

/// Bytes of output kept while they cannot be written.
pub const QUEUE_LIMIT: usize = 1 << 20;
/// How often threads look whether the port was closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Where the serial port leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SerialTarget {
    /// Output is discarded.
    #[default]
    Null,
    /// The process's standard input and output.
    Tty,
    /// A file, created or truncated; output only.
    File(PathBuf),
    /// A listening Unix socket; one client at a time, a new one replaces the old.
    Socket(PathBuf),
}

/// Why the host side cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// The file or socket cannot be made.
    #[error("cannot open the serial port's {what} {path}")]
    Open {
        /// File or socket.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The terminal cannot be switched to raw mode, or no thread is to be had.
    #[error("cannot serve the serial port")]
    Host(#[from] std::io::Error),
}

/// Takes bytes that came in.
pub type Input = Arc<dyn Fn(&[u8]) + Send + Sync>;

#[derive(Default)]
struct State {
    queue: VecDeque<u8>,
    client: Option<Arc<UnixStream>>,
    file: Option<File>,
    lost: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes what goes at once.
    fn write_now(&mut self, bytes: &[u8]) -> usize {
        let written = match (&self.client, &mut self.file) {
            (Some(client), _) => poll::send_now(client.as_ref(), bytes),
            (None, Some(file)) => file.write(bytes),
            (None, None) => return 0,
        };
        match written {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                0
            }
            Err(error) => {
                log::debug!("serial port: the client is gone: {error}");
                self.client = None;
                0
            }
        }
    }

    fn enqueue(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
        let excess = self.queue.len().saturating_sub(QUEUE_LIMIT);
        self.queue.drain(..excess);
        self.lost += excess as u64;
    }
}

/// The host side of a serial port.
pub struct SerialHost {
    target: SerialTarget,
    input: Input,
    shared: Arc<Shared>,
    terminal: Option<RawTerminal>,
    active: bool,
}

impl SerialHost {
    /// A host side that is not open yet.
    pub fn new(target: SerialTarget, input: Input) -> Self {
        Self { target, input, shared: Arc::default(), terminal: None, active: false }
    }

    /// Opens it; a second call does nothing.
    ///
    /// # Errors
    /// When file, socket or terminal cannot be had.
    pub fn activate(&mut self) -> Result<(), SerialError> {
        if self.active {
            return Ok(());
        }
        match self.target.clone() {
            SerialTarget::Null => {}
            SerialTarget::Tty => self.open_terminal()?,
            SerialTarget::File(path) => {
                let file = File::create(&path);
                let file = file
                    .map_err(|source| SerialError::Open { what: "file", path, source })?;
                self.shared.lock().file = Some(file);
            }
            SerialTarget::Socket(path) => self.open_socket(&path)?,
        }
        if self.target != SerialTarget::Null {
            let shared = self.shared.clone();
            spawn("serial-out", move || drain(&shared))?;
        }
        self.active = true;
        Ok(())
    }

    fn open_terminal(&mut self) -> Result<(), SerialError> {
        let output = File::options().append(true).open("/dev/stdout").or_else(|_| {
            // A closed standard output must not stop the guest.
            File::options().write(true).open("/dev/null")
        })?;
        self.shared.lock().file = Some(output);
        self.terminal = RawTerminal::of_standard_input()?;
        if self.terminal.is_some() {
            let (shared, input) = (self.shared.clone(), self.input.clone());
            spawn("serial-in", move || {
                read_all(&shared, std::io::stdin(), |bytes| input(bytes));
            })?;
        }
        Ok(())
    }

    fn open_socket(&self, path: &PathBuf) -> Result<(), SerialError> {
        let failed =
            |source| SerialError::Open { what: "socket", path: path.clone(), source };
        if path.exists() && UnixStream::connect(path).is_err() {
            // Nobody listens on it any more.
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let (shared, input) = (self.shared.clone(), self.input.clone());
        spawn("serial-accept", move || accept_all(&shared, &listener, &input))?;
        Ok(())
    }

    /// Output of the machine. Never waits.
    pub fn write(&self, bytes: &[u8]) {
        if self.target == SerialTarget::Null {
            return;
        }
        let mut state = self.shared.lock();
        let done = if state.queue.is_empty() { state.write_now(bytes) } else { 0 };
        if done < bytes.len() {
            state.enqueue(&bytes[done..]);
            self.shared.changed.notify_all();
        }
    }

    /// Bytes of output that were lost because nobody took them in time.
    pub fn lost_bytes(&self) -> u64 {
        self.shared.lock().lost
    }
}

impl Drop for SerialHost {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        if let Some(client) = state.client.take() {
            // A client that has gone needs no farewell.
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        if let (true, SerialTarget::Socket(path)) = (self.active, &self.target) {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), SerialError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}

/// Reads to the end of `source`, looking now and then whether the port was closed.
fn read_all(shared: &Shared, mut source: impl Read + AsRawFd, take: impl Fn(&[u8])) {
    let mut buffer = [0; 4096];
    while !shared.lock().closed {
        match poll::wait_readable(source.as_raw_fd(), LOOK_INTERVAL) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => return,
        }
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &UnixListener, input: &Input) {
    while !shared.lock().closed {
        if !poll::wait_readable(listener.as_raw_fd(), LOOK_INTERVAL).unwrap_or(false) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let client = Arc::new(stream);
        let Ok(reading) = client.try_clone() else { continue };
        let old = shared.lock().client.replace(client.clone());
        if let Some(old) = old {
            // The replaced client may be gone already.
            let _ = old.shutdown(std::net::Shutdown::Both);
        }
        shared.changed.notify_all();
        let (shared, input) = (shared.clone(), input.clone());
        let serve = move || {
            read_all(&shared, reading, |bytes| input(bytes));
            let mut state = shared.lock();
            if state.client.as_ref().is_some_and(|current| Arc::ptr_eq(current, &client)) {
                state.client = None;
            }
        };
        if let Err(error) = spawn("serial-in", serve) {
            log::error!("serial port: a client cannot be served: {error}");
        }
    }
}

/// Writes what is queued as the other end takes it.
fn drain(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closed {
        let bytes: Vec<u8> = state.queue.iter().copied().take(64 << 10).collect();
        let done = if bytes.is_empty() { 0 } else { state.write_now(&bytes) };
        state.queue.drain(..done);
        if done == 0 {
            let wait = if bytes.is_empty() || state.client.is_none() {
                LOOK_INTERVAL
            } else {
                Duration::from_millis(2)
            };
            let waited = shared.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn socket_host(name: &str) -> (SerialHost, PathBuf, mpsc::Receiver<Vec<u8>>) {
        let path = std::env::temp_dir().join(format!("serial-{name}-{}", std::process::id()));
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let input: Input = Arc::new(move |bytes: &[u8]| {
            sender.lock().unwrap().send(bytes.to_vec()).unwrap();
        });
        (SerialHost::new(SerialTarget::Socket(path.clone()), input), path, receiver)
    }

    #[test]
    fn output_before_the_first_client_is_kept_for_it() {
        let (mut host, path, received) = socket_host("early");
        host.activate().unwrap();
        host.write(b"early ");
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(received.recv_timeout(Duration::from_secs(5)).unwrap(), b"hello");
        host.write(b"late");
        let mut all = [0; 10];
        client.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"early late");
    }

    #[test]
    fn new_client_replaces_the_old_and_the_socket_goes_with_the_host() {
        let (mut host, path, received) = socket_host("replace");
        host.activate().unwrap();
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(b"1").unwrap();
        received.recv_timeout(Duration::from_secs(5)).unwrap();
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"2").unwrap();
        received.recv_timeout(Duration::from_secs(5)).unwrap();
        host.write(b"x");
        let mut byte = [0; 1];
        second.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(first.read(&mut byte).unwrap(), 0, "the old client is closed");
        drop(host);
        assert!(!path.exists());
    }

    #[test]
    fn queue_keeps_the_newest_and_counts_the_rest() {
        let (host, ..) = socket_host("full");
        host.write(&vec![1; QUEUE_LIMIT]);
        host.write(&[2; 10]);
        assert_eq!(host.lost_bytes(), 10);
        assert_eq!(host.shared.lock().queue.back(), Some(&2));
    }
}
