//! The virtual machine monitor: composes CPU, devices and replication into a running VM.
//!
//! ```text
//! main ─ cli ─ config ─┬─ api ──▶ control ──▶ vm (thread) ──▶ machine ──▶ hypervisor, devices
//!                      └─ offline              │   └──▶ ft (recording, replaying, failing over)
//!                                              └──▶ host (serial), connection to the peer
//! ```

pub mod api;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod event_monitor;
pub mod host;
pub mod loader;
pub mod logging;
pub mod machine;
pub mod migration;
pub mod offline;
pub mod signals;
pub mod vm;

/// Tells why a test cannot run here, as `scripts/test` counts it: on the standard error itself,
/// because what passing tests print with macros is not shown, and on a line of its own.
#[cfg(test)]
fn skip(reason: impl std::fmt::Display) {
    use std::io::Write;
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nSKIP: {reason}");
}
