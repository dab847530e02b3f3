//! A place given by path or by inherited descriptor: the API socket, the event monitor.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use api_client::options::{self, Key, Kind, OptionError};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// A place given by path or by inherited descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A path.
    Path(PathBuf),
    /// A descriptor that the parent process left open for this one.
    Fd(i32),
}

/// An inherited descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the inherited descriptor {fd}")]
pub struct EndpointError {
    /// Its number.
    pub fd: i32,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Endpoint {
    /// Reads `path=PATH`, `fd=N` or a bare path.
    ///
    /// # Errors
    /// Neither or both are given, or the number is none.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        const KEYS: &[Key] = &[
            Key::new("path", Kind::Text),
            Key::new("fd", Kind::Number(i32::MAX as u64)),
        ];
        let bare = !text.starts_with("path=") && !text.starts_with("fd=");
        if bare && !text.is_empty() {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let object = options::parse(text, KEYS)?;
        let path = object.get("path").and_then(|path| path.as_str());
        let fd = object.get("fd").and_then(serde_json::Value::as_i64);
        match (path, fd.map(i32::try_from)) {
            (Some(path), None) => Ok(Self::Path(PathBuf::from(path))),
            (None, Some(Ok(fd))) => Ok(Self::Fd(fd)),
            _ => Err(OptionError::InvalidValue(text.to_owned())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(formatter, "{}", path.display()),
            Self::Fd(fd) => write!(formatter, "fd={fd}"),
        }
    }
}

/// A duplicate of an inherited descriptor.
///
/// Who owns a descriptor number that comes from a command line is not known, so the number is not
/// wrapped: the kernel is asked, as one process asks for another's, for a duplicate.
///
/// # Errors
/// No such descriptor is open, or the kernel is older than 5.6.
pub fn inherited(fd: i32) -> Result<OwnedFd, EndpointError> {
    let failed = |error: rustix::io::Errno| EndpointError {
        fd,
        source: error.into(),
    };
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(failed)?;
    pidfd_getfd(own, fd, PidfdGetfdFlags::empty()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn endpoints_are_paths_or_descriptors() {
        let table = [
            ("/a/b", Some(Endpoint::Path("/a/b".into()))),
            ("path=/a/b", Some(Endpoint::Path("/a/b".into()))),
            ("fd=3", Some(Endpoint::Fd(3))),
            ("fd=x", None),
            ("fd=-1", None),
            ("fd=99999999999", None),
            ("path=/a,fd=3", None),
            ("path=", None),
            ("", None),
            ("path=/a,mode=1", None),
        ];
        for (text, expected) in table {
            assert_eq!(Endpoint::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn inherited_descriptors_are_duplicated() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let mut duplicate = UnixStream::from(inherited(other.as_raw_fd()).unwrap());
        drop(other);
        one.write_all(b"x").unwrap();
        let mut byte = [0];
        duplicate.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_closed_descriptor_is_an_error_that_names_it() {
        let error = inherited(987_654).unwrap_err();
        assert!(error.to_string().contains("987654"), "{error}");
    }
}
