//! A machine on its way: to another host while it runs, or into a folder and out of it.
//!
//! ```text
//!   sender ── outlet ─▶ pages ─▶ channel ═══ wire ═══▶ channel ─▶ inlet ─▶ contents ◀─ restore
//!     │         description, state ──────────────────────▶ receiver       │           ▲
//!     ▼                                                        └── machine over them  │
//!   machine's thread (pages between two slices) ── snapshot ─▶ folder ────────────────┘
//! ```
//!
//! The wire protocol and the files are those of Cloud Hypervisor, with state of our own in them:
//! any machine of ours goes from any backend to any other. What goes along is what the guest can
//! notice, and the boot files; a disk's contents stay in its image, which both hosts must reach.
//!
//! A machine that is protected does not migrate: it has another host already.

pub mod channel;
pub mod contents;
pub mod description;
pub mod inlet;
pub mod layout;
pub mod outlet;
pub mod pages;
pub mod processor;
pub mod progress;
pub mod receiver;
pub mod restore;
pub mod sender;
pub mod snapshot;
pub mod state;
pub mod wire;

#[cfg(test)]
mod tests;
