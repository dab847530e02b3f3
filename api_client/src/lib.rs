//! The API as a client sees it: request and response types, option strings, a blocking client.
//!
//! `ch-remote` is built on this crate, and so is anything else that talks to a monitor over its
//! socket. The server uses the same types, so the two cannot drift apart; `openapi.yaml` beside
//! this crate describes them and is tested against them.

pub mod client;
pub mod error;
pub mod options;
pub mod types;

pub use client::Client;
pub use error::{ClientError, chain_report};
