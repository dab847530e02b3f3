//! The host side of the serial port: nowhere, a file, the terminal, or a listening Unix socket.
//!
//! Nothing is opened before [`SerialHost::activate`]: a backup has no terminal and no socket until
//! it goes live, and the primary on the same host may still have them.
//!
//! The machine's thread never waits here. What cannot be written at once is queued for a thread
//! of its own, up to [`QUEUE_LIMIT`] bytes, the newest of which are kept; what is lost is counted.
//! Terminals and pipes can stop taking bytes, so only that thread writes to them.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::poll;
use super::terminal::RawTerminal;

/// Bytes of output kept while they cannot be written.
pub const QUEUE_LIMIT: usize = 1 << 20;
/// How often threads look whether the port was closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long closing waits for queued output to be taken.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

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
    file: Option<Arc<File>>,
    /// Whether a write to the file never waits, because it is a regular one.
    direct: bool,
    /// Whether the last write to the file failed, which is said once.
    failing: bool,
    lost: u64,
    /// Set when the port is closed: until when queued output may still be written.
    closed: Option<Instant>,
    /// Whether there is a thread that writes what is queued.
    draining: bool,
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
        let written = match (&self.client, &self.file) {
            (Some(client), _) => poll::send_now(&**client, bytes),
            (None, Some(file)) if self.direct => {
                let written = file.as_ref().write(bytes);
                self.note(&written);
                return written.unwrap_or(0);
            }
            _ => return 0,
        };
        match written {
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
            Err(error) => {
                log::debug!("serial port: the client is gone: {error}");
                self.client = None;
                0
            }
        }
    }

    /// Says that the file cannot be written, once until it can again.
    fn note<T>(&mut self, written: &std::io::Result<T>) {
        match written {
            Err(error) if !self.failing && error.kind() != ErrorKind::Interrupted => {
                log::warn!("serial port: output cannot be written: {error}");
                self.failing = true;
            }
            Err(_) => {}
            Ok(_) => self.failing = false,
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
    /// Device and inode of the socket that was made.
    made: Option<(u64, u64)>,
    active: bool,
}

impl SerialHost {
    /// A host side that is not open yet.
    pub fn new(target: SerialTarget, input: Input) -> Self {
        Self {
            target,
            input,
            shared: Arc::default(),
            terminal: None,
            made: None,
            active: false,
        }
    }

    /// A host side like this one that is not open yet.
    pub fn successor(&self) -> Self {
        Self::new(self.target.clone(), self.input.clone())
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
                let file = file.map_err(|source| SerialError::Open {
                    what: "file",
                    path,
                    source,
                })?;
                self.use_file(file)?;
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

    fn use_file(&self, file: File) -> std::io::Result<()> {
        let direct = file.metadata()?.is_file();
        let mut state = self.shared.lock();
        state.file = Some(Arc::new(file));
        state.direct = direct;
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
        self.use_file(output)?;
        self.terminal = RawTerminal::of_standard_input()?;
        if self.terminal.is_some() {
            let (shared, input) = (self.shared.clone(), self.input.clone());
            spawn("serial-in", move || {
                read_all(&shared, std::io::stdin(), |bytes| input(bytes));
            })?;
        }
        Ok(())
    }

    fn open_socket(&mut self, path: &Path) -> Result<(), SerialError> {
        let failed = |source| SerialError::Open {
            what: "socket",
            path: path.to_owned(),
            source,
        };
        let stale = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
            && UnixStream::connect(path).is_err();
        if stale {
            // Nobody listens on it any more.
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        self.made = Some(identity(&std::fs::symlink_metadata(path).map_err(failed)?));
        let (shared, input) = (self.shared.clone(), self.input.clone());
        spawn("serial-accept", move || {
            accept_all(&shared, &listener, &input)
        })?;
        Ok(())
    }

    /// Output of the machine. Never waits.
    pub fn write(&self, bytes: &[u8]) {
        if self.target == SerialTarget::Null {
            return;
        }
        let mut state = self.shared.lock();
        let done = if state.queue.is_empty() {
            state.write_now(bytes)
        } else {
            0
        };
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
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        state.closed = Some(deadline);
        self.shared.changed.notify_all();
        while state.draining && Instant::now() < deadline {
            let waited = self.shared.changed.wait_timeout(state, FLUSH_TIMEOUT);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(client) = state.client.take() {
            // A client that has gone needs no farewell.
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        drop(state);
        if let (Some(made), SerialTarget::Socket(path)) = (self.made, &self.target) {
            // Another monitor may have put its own socket there: a peer that went live.
            let same = std::fs::symlink_metadata(path).is_ok_and(|file| identity(&file) == made);
            if same && let Err(error) = std::fs::remove_file(path) {
                log::warn!(
                    "cannot remove the serial port's socket {}: {error}",
                    path.display()
                );
            }
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), SerialError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)?;
    Ok(())
}

/// Reads to the end of `source`, looking now and then whether the port was closed.
fn read_all(shared: &Shared, mut source: impl Read + AsFd, take: impl Fn(&[u8])) {
    let mut buffer = [0; 4096];
    while shared.lock().closed.is_none() {
        match poll::wait_readable(source.as_fd(), LOOK_INTERVAL) {
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
    while shared.lock().closed.is_none() {
        if !poll::wait_readable(listener.as_fd(), LOOK_INTERVAL).unwrap_or(false) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let client = Arc::new(stream);
        let Ok(reading) = client.try_clone() else {
            continue;
        };
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
            if state
                .client
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &client))
            {
                state.client = None;
            }
        };
        if let Err(error) = spawn("serial-in", serve) {
            log::error!("serial port: a client cannot be served: {error}");
        }
    }
}

/// Writes what is queued as the other end takes it; after closing, as long as it is taken.
fn drain(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let bytes: Vec<u8> = state.queue.iter().copied().take(64 << 10).collect();
        let over = state
            .closed
            .is_some_and(|deadline| Instant::now() >= deadline);
        let idle = bytes.is_empty() || (state.client.is_none() && state.file.is_none());
        if over || (idle && state.closed.is_some()) {
            break;
        }
        if let (Some(file), false, false) = (state.file.clone(), state.direct, bytes.is_empty()) {
            state.queue.drain(..bytes.len());
            drop(state);
            let written = file.as_ref().write_all(&bytes);
            state = shared.lock();
            state.note(&written);
            if written.is_err() {
                state.lost += bytes.len() as u64;
            }
            continue;
        }
        let done = if bytes.is_empty() {
            0
        } else {
            state.write_now(&bytes)
        };
        state.queue.drain(..done);
        if done == 0 {
            let wait = if idle {
                LOOK_INTERVAL
            } else {
                Duration::from_millis(2)
            };
            let waited = shared.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    state.draining = false;
    drop(state);
    shared.changed.notify_all();
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
        (
            SerialHost::new(SerialTarget::Socket(path.clone()), input),
            path,
            receiver,
        )
    }

    #[test]
    fn output_before_the_first_client_is_kept_for_it() {
        let (mut host, path, received) = socket_host("early");
        host.activate().unwrap();
        host.write(b"early ");
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(
            received.recv_timeout(Duration::from_secs(5)).unwrap(),
            b"hello"
        );
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
        assert_eq!(
            first.read(&mut byte).unwrap(),
            0,
            "the old client is closed"
        );
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

    fn output_host(target: SerialTarget) -> SerialHost {
        let mut host = SerialHost::new(target, Arc::new(|_: &[u8]| {}));
        host.activate().unwrap();
        host
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("serial-{name}-{}", std::process::id()))
    }

    #[test]
    fn file_is_truncated_and_has_everything_when_the_host_is_gone() {
        let path = scratch("file");
        std::fs::write(&path, "old old old").unwrap();
        let host = output_host(SerialTarget::File(path.clone()));
        host.write(b"one ");
        host.write(b"two");
        drop(host);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn pipe_that_nobody_empties_holds_up_nobody() {
        let path = scratch("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader_path = path.clone();
        let reader = std::thread::spawn(move || File::open(reader_path).unwrap());
        let host = output_host(SerialTarget::File(path.clone()));
        let mut reader = reader.join().unwrap();
        let before = Instant::now();
        for _ in 0..4 {
            host.write(&vec![b'x'; 64 << 10]);
        }
        assert!(
            before.elapsed() < Duration::from_millis(400),
            "{:?}",
            before.elapsed()
        );
        let mut all = vec![0; 4 * (64 << 10)];
        reader.read_exact(&mut all).unwrap();
        drop(host);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn file_where_the_socket_should_be_is_left_alone() {
        let path = scratch("precious");
        std::fs::write(&path, "precious").unwrap();
        let target = SerialTarget::Socket(path.clone());
        let mut host = SerialHost::new(target, Arc::new(|_: &[u8]| {}));
        let error = host.activate().unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        drop(host);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn socket_that_a_peer_put_there_since_stays() {
        let path = scratch("taken-over");
        let host = output_host(SerialTarget::Socket(path.clone()));
        std::fs::remove_file(&path).unwrap();
        let peer = output_host(SerialTarget::Socket(path.clone()));
        drop(host);
        assert!(path.exists());
        UnixStream::connect(&path).unwrap();
        drop(peer);
        assert!(!path.exists());
    }
}
