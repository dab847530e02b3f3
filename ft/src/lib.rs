//! Records, replays, replicates and fails over any deterministic machine.

#![forbid(unsafe_code)]

pub mod backup;
pub mod checkpoint;
pub mod clock;
pub mod codec;
pub mod digest;
pub mod divergence;
pub mod epoch;
pub mod event;
pub mod failover;
pub mod fault_detector;
pub mod fence;
pub mod histogram;
pub mod inbox;
pub mod link;
pub mod log;
pub mod machine;
pub mod mode;
pub mod output;
pub mod parameters;
pub mod precopy;
pub mod primary;
pub mod protocol;
pub mod record;
pub mod replay;
pub mod replica;
pub mod runs;
mod section_stage;
pub mod snapshot;
pub mod status;
mod stray;
pub mod throttle;
pub mod time;
pub mod verify;
