//! A listening Unix socket at a path: a stale one is replaced, one in use is not, and what this
//! process made goes away with it.

use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Bytes of a socket's path at most: `sun_path` less the zero at its end.
pub const SOCKET_PATH_MAX: usize = 107;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("the socket {path} is in use", path = .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{path} exists and is not a socket", path = .0.display())]
    NotASocket(PathBuf),
    /// The address of a Unix socket has room for fewer bytes.
    #[error("the socket path {path} has {len} bytes, more than {SOCKET_PATH_MAX}", path = .path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The host refused.
    #[error("cannot listen on the socket {path}", path = .path.display())]
    Host {
        /// The path.
        path: PathBuf,
        /// What the host said.
        source: Error,
    },
}

/// A listening socket that this process made.
#[derive(Debug)]
pub struct ListeningSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    made: (u64, u64),
}

impl ListeningSocket {
    /// Listens at `path`. A socket there on which nobody listens is replaced.
    ///
    /// # Errors
    /// When the path is too long or taken, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let len = path.as_os_str().as_bytes().len();
        if len > SOCKET_PATH_MAX {
            let path = path.to_owned();
            return Err(ListenError::TooLong { path, len });
        }
        let failed = |source| ListenError::Host {
            path: path.to_owned(),
            source,
        };
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => ListenError::InUse(path.to_owned()),
            _ => failed(error),
        })?;
        let made = identity(&std::fs::symlink_metadata(path).map_err(failed)?);
        let path = path.to_owned();
        Ok(Self {
            listener,
            path,
            made,
        })
    }

    /// The socket.
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        // Another monitor may have put its own socket there: a peer that went live.
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| identity(&metadata) == self.made);
        if same && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

/// Removes the socket that a killed process left.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Host {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(ListenError::NotASocket(path.to_owned()))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)
            }
            // Also when the connection is refused for another reason: somebody is there.
            _ => Err(ListenError::InUse(path.to_owned())),
        },
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("socket-{name}-{}", std::process::id()))
    }

    #[test]
    fn socket_in_use_is_refused_and_a_stale_one_replaced() {
        let path = scratch("use");
        let first = ListeningSocket::bind(&path).unwrap();
        let error = ListeningSocket::bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        drop(first);
        assert!(!path.exists());
        // What a killed process leaves.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = ListeningSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn path_that_cannot_be_a_socket_is_named() {
        let file = scratch("file");
        std::fs::write(&file, "precious").unwrap();
        let long = scratch(&"x".repeat(SOCKET_PATH_MAX));
        let missing = scratch("no-folder").join("socket");
        for path in [&file, &long, &missing] {
            let error = ListeningSocket::bind(path).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        std::fs::remove_file(&file).unwrap();
    }
}
