//! Input for the guest: what is typed, and the size of the terminal it is typed at.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use rustix::termios::{Winsize, tcgetwinsize};

use super::LOOK_INTERVAL;
use super::output::{Shared, Sink};
use crate::host::offer::RETRY_INTERVAL;
use crate::host::poll;

/// Takes bytes that came in; `false` if they have to be kept for later.
pub type Take = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;
/// Takes columns and lines; `false` if they have to be told again later.
pub type Resize = Arc<dyn Fn(u16, u16) -> bool + Send + Sync>;

/// Takes what comes in.
#[derive(Clone)]
pub struct Receiver {
    /// Takes bytes.
    pub take: Take,
    /// Takes the size of the terminal, if the guest can be told.
    pub resize: Option<Resize>,
}

impl Receiver {
    /// Gives bytes until they are taken, or the port is closed.
    fn give(&self, shared: &Shared, bytes: &[u8]) {
        while !(self.take)(bytes) && !shared.is_closed() {
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

/// Looks at the size of a terminal now and then. That needs no signal, which would go to the
/// process and not to one of its ports.
struct SizeWatch {
    told: Option<(u16, u16)>,
    next: Instant,
}

impl SizeWatch {
    fn look(&mut self, terminal: BorrowedFd<'_>, resize: &Resize) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + LOOK_INTERVAL;
        // What is no terminal has no size; one that nobody has set is zero.
        let Ok(Winsize { ws_col, ws_row, .. }) = tcgetwinsize(terminal) else {
            return;
        };
        let size = (ws_col, ws_row);
        if size != (0, 0) && self.told != Some(size) && resize(ws_col, ws_row) {
            self.told = Some(size);
        }
    }
}

/// Reads to the end of `source`, looking now and then whether the port was closed.
pub fn read_all(shared: &Shared, mut source: impl Read + AsFd, receiver: &Receiver) {
    let mut buffer = [0; 4096];
    let mut watch = SizeWatch {
        told: None,
        next: Instant::now(),
    };
    while !shared.is_closed() {
        if let Some(resize) = &receiver.resize {
            watch.look(source.as_fd(), resize);
        }
        match poll::wait_readable(source.as_fd(), LOOK_INTERVAL) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => return,
        }
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => receiver.give(shared, &buffer[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// Serves clients, one at a time, until the port is closed.
pub fn accept_all(shared: &Arc<Shared>, listener: &UnixListener, receiver: &Receiver) {
    while !shared.is_closed() {
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
        let old = shared.lock().sink.replace(Sink::Client(client.clone()));
        if let Some(Sink::Client(old)) = old {
            // The replaced client may be gone already.
            let _ = old.shutdown(std::net::Shutdown::Both);
        }
        shared.changed.notify_all();
        let (shared, receiver) = (shared.clone(), receiver.clone());
        let serve = move || {
            read_all(&shared, reading, &receiver);
            let mut state = shared.lock();
            if state
                .sink
                .as_ref()
                .is_some_and(|sink| sink.is_client(&client))
            {
                state.sink = None;
            }
        };
        if let Err(error) = super::spawn("serial-in", serve) {
            log::error!("a client of a serial port or console cannot be served: {error}");
        }
    }
}
