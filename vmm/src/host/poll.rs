//! The two host calls that the standard library lacks: wait for a descriptor, and send without
//! waiting on a socket whose other end is read with waiting.
//!
//! UNSAFETY: plain calls of the C library with descriptors that their owners keep open.
#![allow(unsafe_code)]

use std::io::Error;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Waits until `fd` can be read, for at most `timeout`; says whether it can.
///
/// # Errors
/// What the host says, interruptions aside.
pub fn wait_readable(fd: RawFd, timeout: Duration) -> std::io::Result<bool> {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one entry, which lives through the call.
    let ready = unsafe { libc::poll(&mut entry, 1, timeout_ms) };
    if ready >= 0 {
        return Ok(ready > 0);
    }
    let error = Error::last_os_error();
    if error.kind() == std::io::ErrorKind::Interrupted {
        Ok(false)
    } else {
        Err(error)
    }
}

/// Sends what the socket takes without waiting.
///
/// # Errors
/// `WouldBlock` when it takes nothing now; otherwise what the host says.
pub fn send_now(socket: &impl AsRawFd, bytes: &[u8]) -> std::io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer lives through the call, and its length is given.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
    if sent < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(sent as usize)
    }
}
