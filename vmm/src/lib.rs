//! The virtual machine monitor: composes CPU, devices and replication into a running VM.

pub mod loader;
pub mod machine;
pub mod control;
pub mod host;
pub mod vm;
pub mod event_monitor;
pub mod logging;
pub mod signals;
pub mod api;
pub mod config;
