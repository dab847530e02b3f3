//! The real machine, a Debian guest on the software processor, inside one process.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

mod deltas;
mod divergence;
mod faulty;
mod guest;
mod pair;
mod permit;
mod resize;
mod translation;
