//! The host side of devices: files, terminals, sockets.

pub mod disk;
pub mod poll;
pub mod serial;
pub mod terminal;
