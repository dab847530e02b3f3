//! Harness of the black-box tests: drives the built binaries through their sockets, talks to the
//! test guest's line service, and to servers in guests over a network of their own.
//!
//! What is here knows the programs only from outside: their command lines, their API, the bytes on
//! a serial socket and the frames on a tap.

pub mod backend;
pub mod capture;
pub mod command;
pub mod cores;
pub mod faults;
pub mod measure;
pub mod migration;
pub mod network;
pub mod process;
pub mod proxy;
pub mod random;
pub mod scenario;
pub mod servers;
pub mod service;
pub mod shell;

#[path = "../guests/guest/chain.rs"]
#[allow(
    dead_code,
    reason = "the guest's own file; the harness checks with one function of it"
)]
mod chain;
#[path = "../guests/guest/hex.rs"]
#[allow(dead_code, reason = "the guest's own file")]
mod hex;
#[path = "../guests/guest/sha256.rs"]
#[allow(dead_code, reason = "the guest's own file")]
mod sha256;

use std::io::Write;
use std::path::PathBuf;

/// Something went wrong in a test's surroundings or in what it drives.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// The host refused.
    #[error("{action}: {source}")]
    Host {
        /// What was tried.
        action: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The API refused or broke.
    #[error("{call}: {}", chain(source))]
    Api {
        /// The call.
        call: String,
        /// Why.
        #[source]
        source: api_client::ClientError,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s")]
    Timeout {
        /// What.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// What was promised does not hold.
    #[error("{0}")]
    Broken(String),
}

fn chain(error: &api_client::ClientError) -> String {
    let messages = error.messages();
    if messages.is_empty() {
        error.to_string()
    } else {
        messages.join(": ")
    }
}

impl HarnessError {
    /// The HTTP status with which the API refused, if that is what happened.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api {
                source: api_client::ClientError::Refused { status, .. },
                ..
            } => Some(status.0),
            _ => None,
        }
    }

    /// A host error with what was tried.
    pub fn host(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source }
    }
}

/// Tells that a test, or a part of it, cannot run here and why; `scripts/test` counts these lines.
///
/// The test harness of the language keeps what passing tests print with macros to itself, so this
/// writes to the standard error itself. It begins a line of its own: the dots that stand for tests
/// do not end theirs.
pub fn skip(reason: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nSKIP: {reason}");
}

/// Tells a figure that is worth seeing of a test that passes, too; `scripts/test` shows these lines
/// once more in the end. It is written as [`skip`] writes.
pub fn figure(text: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nFIGURE: {text}");
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map_or(manifest.clone(), std::path::Path::to_owned)
}

/// The folder of the built programs: that of the running one, or `CHFT_BIN_DIR`.
///
/// # Errors
/// When it has no `cloud-hypervisor`.
pub fn program(name: &str) -> Result<PathBuf, HarnessError> {
    let folder = match std::env::var_os("CHFT_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().map_err(HarnessError::host("find this program"))?;
            let mut folder = own.parent().map(PathBuf::from).unwrap_or_default();
            if folder.ends_with("deps") {
                folder.pop();
            }
            folder
        }
    };
    let path = folder.join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(HarnessError::Broken(format!(
        "{} is not built; `cargo build --release` makes it",
        path.display()
    )))
}

/// A file of the test guest, made by `scripts/guest-image`.
///
/// # Errors
/// When it is not there.
pub fn guest_file(name: &str) -> Result<PathBuf, HarnessError> {
    let folder = std::env::var_os("CHFT_GUESTS")
        .map_or_else(|| repository().join("target/guests"), PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(HarnessError::Broken(format!(
        "{} is missing; `scripts/guest-image` makes it",
        path.display()
    )))
}
