//! The host side of an entropy source: a file that random bytes are read from.
//!
//! A thread reads, because a source may be slow: a hardware generator, or a pipe. A source that
//! fails later is tried again, so that the guest's requests are answered once it works.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::virtio::entropy::ENTROPY_MAX;
use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use super::offer::{Offer, offer_until_taken};
use super::poll;
use super::wake::Wake;

/// Requests that wait at most. The device has fewer than that.
const REQUESTS_MAX: usize = 1024;
/// How long the thread waits for something before it looks around, which it need not.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to leave a source alone that failed.
const FAILURE_INTERVAL: Duration = Duration::from_millis(100);

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EntropyError {
    /// It cannot be opened or read.
    #[error("cannot read the entropy source {path}", path = .path.display())]
    Source {
        /// Its path.
        path: PathBuf,
        /// What the host said.
        source: Error,
    },
    /// No thread or descriptor is to be had.
    #[error("cannot serve the entropy source")]
    Thread(#[from] Error),
}

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    id: u64,
    len: u32,
}

type Requests = Arc<Mutex<VecDeque<Request>>>;

struct Running {
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

/// The host side of an entropy source.
pub struct EntropyHost {
    source: PathBuf,
    offer: Offer,
    requests: Requests,
    running: Option<Running>,
}

impl EntropyHost {
    /// A host side that is not open yet.
    pub fn new(source: PathBuf, offer: Offer) -> Self {
        Self {
            source,
            offer,
            requests: Arc::default(),
            running: None,
        }
    }

    /// A host side like this one that is not open yet, without its requests.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self::new(self.source.clone(), self.offer.clone())
    }

    /// Opens the source; a second call does nothing. Requests made before are answered now.
    ///
    /// # Errors
    /// When the source cannot be opened or read.
    pub fn activate(&mut self) -> Result<(), EntropyError> {
        if self.running.is_some() {
            return Ok(());
        }
        let file = open(&self.source).map_err(|source| EntropyError::Source {
            path: self.source.clone(),
            source,
        })?;
        let wake = Arc::new(Wake::new()?);
        let source = Source {
            file,
            path: self.source.clone(),
            offer: self.offer.clone(),
            requests: self.requests.clone(),
            wake: wake.clone(),
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("entropy".to_owned())
            .spawn(move || serve(source))?;
        let thread = Some(thread);
        self.running = Some(Running { wake, thread });
        Ok(())
    }

    /// The guest wants `len` random bytes; the answer is offered later. Never waits.
    pub fn request(&self, id: u64, len: u32) {
        let mut requests = lock(&self.requests);
        if requests.len() >= REQUESTS_MAX {
            log::error!("entropy request {id} is lost: {REQUESTS_MAX} others wait");
            return;
        }
        requests.push_back(Request { id, len });
        drop(requests);
        if let Some(running) = &self.running {
            running.wake.call();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.wake.stop();
        // Never waits for long: the source is read without waiting.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the entropy source panicked");
        }
    }
}

/// What the thread works with.
struct Source {
    file: File,
    path: PathBuf,
    offer: Offer,
    requests: Requests,
    wake: Arc<Wake>,
    /// Whether the last read failed, which is said once.
    failing: bool,
}

fn lock(requests: &Requests) -> MutexGuard<'_, VecDeque<Request>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> Result<File, Error> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    match read(&mut file, &mut [0]) {
        Ok(_) => {
            if file.metadata()?.is_file() {
                file.rewind()?;
            }
            Ok(file)
        }
        // It has nothing yet.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(file),
        Err(error) => Err(error),
    }
}

/// Reads at least a byte; a file begins anew at its end.
fn read(file: &mut File, into: &mut [u8]) -> Result<usize, Error> {
    match file.read(into)? {
        0 => {}
        count => return Ok(count),
    }
    if file.metadata()?.is_file() {
        file.rewind()?;
        let count = file.read(into)?;
        return if count > 0 {
            Ok(count)
        } else {
            Err(Error::new(ErrorKind::UnexpectedEof, "it is empty"))
        };
    }
    // A pipe without a writer.
    Err(ErrorKind::WouldBlock.into())
}

/// The thread: answers requests until the host side is dropped.
fn serve(mut source: Source) {
    while !source.wake.is_stopped() {
        if let Err(error) = source.turn() {
            log::error!("the entropy source is not served any more: {error}");
            return;
        }
    }
}

impl Source {
    /// Waits for a request, or answers the first.
    ///
    /// # Errors
    /// When the host cannot wait.
    fn turn(&mut self) -> Result<(), Error> {
        self.wake.clear()?;
        let Some(Request { id, len }) = lock(&self.requests).front().copied() else {
            poll::wait_readable(self.wake.as_fd(), POLL_TIMEOUT)?;
            return Ok(());
        };
        let mut bytes = vec![0; len.clamp(1, ENTROPY_MAX) as usize];
        match read(&mut self.file, &mut bytes) {
            Ok(count) => {
                self.failing = false;
                bytes.truncate(count);
                let bytes = Payload::from(bytes);
                let answer = VirtioInput::Entropy { id, bytes };
                if offer_until_taken(&self.offer, &answer, &self.wake)? {
                    lock(&self.requests).pop_front();
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_bytes()?,
            Err(error) => {
                if !self.failing {
                    let path = self.path.display();
                    log::warn!("cannot read the entropy source {path}: {error}");
                    self.failing = true;
                }
                self.wake.wait(FAILURE_INTERVAL)?;
            }
        }
        Ok(())
    }

    fn wait_for_bytes(&self) -> Result<(), Error> {
        let mut entries = [
            PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        poll::wait(&mut entries, POLL_TIMEOUT)?;
        let hung_up = entries[0].revents();
        if hung_up.contains(PollFlags::HUP) && !hung_up.contains(PollFlags::IN) {
            // A pipe without a writer would be reported at once again.
            self.wake.wait(FAILURE_INTERVAL)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A host whose machine refuses every second input.
    fn host(source: &Path) -> (EntropyHost, Receiver<(u64, Vec<u8>)>) {
        let (sender, receiver) = channel();
        let (sender, count) = (Mutex::new(sender), AtomicU32::new(0));
        let offer: Offer = Arc::new(move |input| {
            let VirtioInput::Entropy { id, bytes } = input else {
                panic!("{input:?}");
            };
            if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                return false;
            }
            sender
                .lock()
                .unwrap()
                .send((id, bytes.into_bytes()))
                .unwrap();
            true
        });
        (EntropyHost::new(source.to_owned(), offer), receiver)
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("entropy-{name}-{}", std::process::id()))
    }

    #[test]
    fn requests_are_answered_in_order_even_those_from_before() {
        let (mut host, answers) = host(Path::new("/dev/urandom"));
        host.request(3, 32);
        host.activate().unwrap();
        host.request(4, u32::MAX);
        host.request(5, 1);
        let answers: Vec<_> = (0..3)
            .map(|_| answers.recv_timeout(PATIENCE).unwrap())
            .collect();
        let shape: Vec<_> = answers
            .iter()
            .map(|(id, bytes)| (*id, bytes.len()))
            .collect();
        assert_eq!(shape, [(3, 32), (4, 65_536), (5, 1)]);
        assert_ne!(answers[0].1, vec![0; 32]);
        let before = Instant::now();
        drop(host);
        assert!(before.elapsed() < Duration::from_millis(100));
    }

    #[test]
    fn source_that_cannot_be_read_is_named() {
        let empty = scratch("empty");
        std::fs::write(&empty, "").unwrap();
        for path in [Path::new("/no/such/source"), Path::new("/tmp"), &empty] {
            let (mut host, _answers) = host(path);
            let error = host.activate().unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        std::fs::remove_file(&empty).unwrap();
    }

    #[test]
    fn file_begins_anew_at_its_end() {
        let path = scratch("file");
        std::fs::write(&path, "abc").unwrap();
        let (mut host, answers) = host(&path);
        host.activate().unwrap();
        for id in 0..3 {
            host.request(id, 100);
        }
        let found: Vec<_> = (0..3)
            .map(|_| answers.recv_timeout(PATIENCE).unwrap().1)
            .collect();
        assert_eq!(found, [b"abc"; 3]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn pipe_that_is_silent_holds_up_nobody() {
        let path = scratch("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (mut host, answers) = host(&path);
        host.activate().unwrap();
        host.request(9, 4);
        assert!(answers.recv_timeout(Duration::from_millis(50)).is_err());
        let mut writer = File::options().write(true).open(&path).unwrap();
        writer.write_all(b"1234").unwrap();
        let answer = answers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(answer, (9, b"1234".to_vec()));
        host.request(10, 4);
        drop(host);
        std::fs::remove_file(&path).unwrap();
    }
}
