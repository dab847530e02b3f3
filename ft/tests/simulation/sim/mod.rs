//! Deterministic simulation of protected machines: hosts, links, a fence, clients and faults in
//! one thread under one seed. [`run`] is one life; it ends with a summary or with what was wrong.

pub mod core;
pub mod disk;
pub mod fence;
pub mod host;
pub mod judge;
pub mod random;
pub mod runner;
pub mod scenario;
pub mod tap;
pub mod toy;
pub mod wire;
pub mod world;
