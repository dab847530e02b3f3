//! A pseudoterminal: we have the controlling end, and whoever wants opens the other by its path.
//!
//! The other end is kept open here too. So reads do not fail while nobody else has it, and what is
//! written then waits in the kernel's buffer, and behind that in our queue.

use std::ffi::OsStr;
use std::io::{Read, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// A pseudoterminal in raw mode.
#[derive(Debug)]
pub struct Pty {
    control: Arc<OwnedFd>,
    path: PathBuf,
    _other_end: OwnedFd,
}

impl Pty {
    /// A new one.
    ///
    /// # Errors
    /// When the host has none to give.
    pub fn open() -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let control = openpt(flags)?;
        grantpt(&control)?;
        unlockpt(&control)?;
        let path = ptsname(&control, Vec::new())?;
        let path = PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let other_end = open(&path, flags, Mode::empty())?;
        // The guest's terminal driver edits lines and echoes; two would be one too many.
        let mut attributes = tcgetattr(&other_end)?;
        attributes.make_raw();
        tcsetattr(&other_end, OptionalActions::Now, &attributes)?;
        fcntl_setfl(&control, fcntl_getfl(&control)? | OFlags::NONBLOCK)?;
        Ok(Self {
            control: Arc::new(control),
            path,
            _other_end: other_end,
        })
    }

    /// The path of the other end.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end that output is written to. It does not wait.
    pub const fn control(&self) -> &Arc<OwnedFd> {
        &self.control
    }

    /// What is typed at the other end.
    pub fn input(&self) -> PtyInput {
        PtyInput(self.control.clone())
    }
}

/// What is typed at the other end of a pseudoterminal.
#[derive(Debug)]
pub struct PtyInput(Arc<OwnedFd>);

impl Read for PtyInput {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        Ok(rustix::io::read(&*self.0, into)?)
    }
}

impl AsFd for PtyInput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
