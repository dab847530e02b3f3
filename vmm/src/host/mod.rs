//! The host side of devices: files, terminals, sockets.

pub mod poll;
