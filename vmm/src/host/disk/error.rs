//! Why an image cannot be served.

use std::io;
use std::path::PathBuf;

/// Why an image cannot be served. Every text names its path.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host does not let us open or look at the file.
    #[error("cannot open image {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("image {path} is a {kind}, not a file or block device")]
    Kind {
        /// The image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Somebody has it open in a way that excludes ours.
    #[error("image {path} is in use")]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// The file system has no locks.
    #[error("cannot lock image {path}")]
    Lock {
        /// The image.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("image {path} is empty")]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// Its size is not made of sectors.
    #[error("image {path} has {size} bytes, which is not a multiple of {multiple}{why}")]
    Size {
        /// The image.
        path: PathBuf,
        /// Bytes.
        size: u64,
        /// What it should be a multiple of.
        multiple: u64,
        /// Who asks for that; empty for what every disk needs.
        why: &'static str,
    },
    /// It says that it is the difference from another one.
    #[error("image {path} has the backing file {backing}, and backing_files is off")]
    BackingFile {
        /// The image.
        path: PathBuf,
        /// What it names.
        backing: String,
    },
    /// It is not well-formed, or uses what we do not have.
    #[error("image {path} cannot be used as qcow2: {reason}")]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl DiskError {
    pub(super) fn qcow2(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Qcow2 {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
