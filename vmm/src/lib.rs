//! The virtual machine monitor: composes CPU, devices and replication into a running VM.

pub mod loader;
pub mod machine;
pub mod control;
pub mod host;
pub mod vm;
