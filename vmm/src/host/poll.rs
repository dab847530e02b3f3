//! Waiting for descriptors, and sending and receiving on sockets without waiting.

use std::io::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Waits until something happens on one of `entries`, for at most `timeout`; says on how many.
/// An interruption counts as nothing.
///
/// # Errors
/// What the host says.
pub fn wait(entries: &mut [PollFd<'_>], timeout: Duration) -> std::io::Result<usize> {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(entries, Some(&timeout)) {
        Ok(ready) => Ok(ready),
        Err(rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Waits until `fd` can be read, for at most `timeout`; says whether it can.
///
/// # Errors
/// What the host says.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> std::io::Result<bool> {
    Ok(wait(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], timeout)? > 0)
}

/// Sends what the socket takes without waiting.
///
/// # Errors
/// `WouldBlock` when it takes nothing now; otherwise what the host says.
pub fn send_now(socket: impl AsFd, bytes: &[u8]) -> std::io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    send(socket, bytes, flags).map_err(Error::from)
}

/// Receives what has come without waiting; zero when the other end has closed.
///
/// # Errors
/// `WouldBlock` when nothing has come; otherwise what the host says.
pub fn receive_now(socket: impl AsFd, into: &mut [u8]) -> std::io::Result<usize> {
    let (count, _) = recv(socket, into, RecvFlags::DONTWAIT).map_err(Error::from)?;
    Ok(count)
}
