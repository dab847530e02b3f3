//! The processor as a machine sees it: faults, events, devices, exact stops. `conformance` is what
//! every backend has to pass; the rest is the software processor's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accesses;
mod code;
mod conformance;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod dirty_pages;
mod events;
mod fpu;
mod guest;
mod modes;
mod paging;
mod translations;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[test]
fn the_oracle_is_skipped_here() {
    println!("skipped: the oracle compares with the real processor, which is no x86-64 on Linux");
}
