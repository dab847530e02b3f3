//! The listening socket: made and locked at a path, or inherited.
//!
//! ```text
//! PATH        the socket, mode 0600; a stale one is replaced; removed at the end
//! PATH.lock   locked for as long as the monitor runs; stays
//! ```
//!
//! The lock, not the socket, says whether a monitor is alive: a socket outlives a killed process.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::Mode;
use rustix::net::sockopt::socket_acceptconn;

use crate::config::{Endpoint, EndpointError, inherited};

/// The listening socket.
#[derive(Debug)]
pub struct ApiSocket {
    pub(super) listener: UnixListener,
    /// The file that this process made; none if the socket was inherited.
    made: Option<MadeSocket>,
}

#[derive(Debug)]
struct MadeSocket {
    path: PathBuf,
    /// Device and inode, to know it again.
    identity: (u64, u64),
    /// Locked until this is dropped.
    _lock: File,
}

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another monitor runs on this path.
    #[error("the API socket {path} is already in use by another running instance", path = .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{path} exists and is not a socket", path = .0.display())]
    NotASocket(PathBuf),
    /// The host refused.
    #[error("cannot {action} {path}", path = path.display())]
    Host {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The inherited descriptor cannot be used.
    #[error(transparent)]
    Inherited(#[from] EndpointError),
    /// The inherited descriptor is something else.
    #[error("the inherited descriptor {0} is not a listening socket")]
    NotListening(i32),
}

impl ApiSocket {
    /// Opens the socket.
    ///
    /// # Errors
    /// Another instance has it, or the host refuses.
    pub fn open(endpoint: &Endpoint) -> Result<Self, SocketError> {
        match endpoint {
            Endpoint::Path(path) => Self::make(path),
            Endpoint::Fd(fd) => Self::inherit(*fd),
        }
    }

    fn inherit(fd: i32) -> Result<Self, SocketError> {
        let descriptor: OwnedFd = inherited(fd)?;
        if !socket_acceptconn(&descriptor).unwrap_or(false) {
            return Err(SocketError::NotListening(fd));
        }
        Ok(Self {
            listener: UnixListener::from(descriptor),
            made: None,
        })
    }

    fn make(path: &Path) -> Result<Self, SocketError> {
        let lock = lock(path)?;
        remove_stale(path)?;
        let failed = |action| {
            move |source| SocketError::Host {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let before = rustix::process::umask(Mode::from_raw_mode(0o077));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(failed("listen on"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed("look at"))?;
        let made = MadeSocket {
            path: path.to_owned(),
            identity: identity(&metadata),
            _lock: lock,
        };
        Ok(Self {
            listener,
            made: Some(made),
        })
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let Some(made) = &self.made else { return };
        // Only what this process made: somebody may have put another socket there since.
        let same = std::fs::symlink_metadata(&made.path)
            .is_ok_and(|metadata| identity(&metadata) == made.identity);
        if same && let Err(error) = std::fs::remove_file(&made.path) {
            log::warn!(
                "cannot remove the API socket {}: {error}",
                made.path.display()
            );
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn lock(path: &Path) -> Result<File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |action, source| SocketError::Host {
        action,
        path: lock_path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|source| failed("open the lock file", source))?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(file),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
            Err(SocketError::InUse(path.to_owned()))
        }
        Err(errno) => Err(failed("lock", errno.into())),
    }
}

/// Removes the socket that a killed monitor left.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let host = |action, source| SocketError::Host {
        action,
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(host("look at", source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(SocketError::NotASocket(path.to_owned()))
        }
        Ok(_) => std::fs::remove_file(path).map_err(|source| host("remove the stale", source)),
    }
}
