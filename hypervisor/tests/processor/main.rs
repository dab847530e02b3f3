//! The software processor as a machine sees it: faults, events, devices, exact stops.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accesses;
mod code;
mod events;
mod fpu;
mod guest;
mod paging;
