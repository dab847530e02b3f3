//! The host side of devices: files, images, taps, terminals, sockets.
//!
//! A host side only *offers* inputs; the machine's thread takes them at a logical time of its
//! choice. Nothing is open before `activate`, because a backup must not have what its primary
//! uses, and dropping a host side closes all of it. Images are the exception: a backup keeps the
//! contents of its machine's own disks from the start.

pub mod devices;
pub mod disk;
mod disk_flush;
pub mod disk_host;
pub mod disk_quiet;
pub mod disk_store;
pub mod entropy;
pub mod offer;
pub mod poll;
pub mod serial;
pub mod socket;
pub mod tap;
pub mod terminal;
pub mod vsock;
pub mod wake;
