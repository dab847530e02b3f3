//! Simulation of protected machines: planned lives, lives at random, and lives that once failed.

#[allow(dead_code)]
mod sim;

mod checkpoint;
mod clone;
mod deltas;
mod handshake;
mod planned;
mod scenarios;
mod seeds;
mod staging;
mod unreadable;
