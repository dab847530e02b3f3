//! The protocol between a primary and its backup, without input or output of its own.
//!
//! ```text
//!   primary                                 backup
//!      │ Hello ───────────────────────────────▶│  versions, machine, parameters, config
//!      │◀─────────────────────────────── HelloAck │  or Error: refused, with both values
//!      │ Compare ──────────────────────────────▶│  digests of pages that the backup holds
//!      │◀────────────────────────────────── Differ │  which of them differ
//!      │ Pages* · Sections* · CloneDone ───────▶│  live clone; epoch 0 begins
//!      │ Log* · Released* ─────────────────────▶│
//!      │◀──────────────────────────────────── Ack │  received, replayed, verified
//!      │ ◀──────────── Heartbeat ──────────────▶ │  when there is nothing else to say
//!      │◀───────────────── Sections* · Divergence │
//!      │ Pages* · Sections* · RepairState ─────▶│
//!      │ Failover ─────────────────────────────▶│  planned; then TakenOver or Declined comes back
//!      │ Stop ─────────────────────────────────▶│  then StopAck comes back
//! ```
//!
//! Where a delta closes an epoch, the log holds markers only, and an epoch ends with
//!
//! ```text
//!      │ Delta* · Held* · DeltaSections* · Commit ─▶│  counts as one entry; then Ack, as ever
//! ```
//!
//! [`frame`] knows the envelope, [`message`] what is in it.

pub mod base;
pub mod comparison;
pub mod frame;
pub mod hello;
pub mod message;

pub use base::{Base, Commit};
pub use comparison::MAX_COMPARED_PAGES;
pub use frame::{Frame, FrameDecoder, FrameEncoder, FrameError};
pub use hello::{Hello, HelloAck, MachineFacts, Refusal};
pub use message::{Ack, Divergence, Message, StopReason};

/// Version of the protocol; both sides must have the same.
pub const PROTOCOL_VERSION: u16 = 5;
