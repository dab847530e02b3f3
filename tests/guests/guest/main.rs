//! The program that test guests run beside busybox: `guest service` and `guest memory MIB PASSES`.
//!
//! `scripts/guest-image` builds it with `rustc` alone, statically linked, for an initramfs. It uses
//! the standard library only and no unsafe code; what needs a terminal or a mark with the guest's
//! clock is done by `/init` around it.

#![forbid(unsafe_code)]
#![deny(missing_docs, unused_must_use)]

mod chain;
mod hex;
mod memory;
mod service;
mod sha256;

use std::io::{self, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: guest service | guest memory MIB PASSES (0 passes: for ever)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|text| text.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["service"] => run_service(),
        ["memory", mib, passes] => run_memory(mib, passes),
        _ => Err(USAGE.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("guest: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run_service() -> Result<(), String> {
    service::serve(io::stdin().lock(), io::stdout().lock())
        .map_err(|error| format!("service: {error}"))
}

/// Prints the digest of the last pass.
fn run_memory(mib: &str, passes: &str) -> Result<(), String> {
    let mib = mib
        .parse()
        .map_err(|_| format!("memory: \"{mib}\" is not a number of MiB"))?;
    let passes: u64 = passes
        .parse()
        .map_err(|_| format!("memory: \"{passes}\" is not a number of passes"))?;
    let mut area = memory::Area::new(mib).map_err(|error| format!("memory: {error}"))?;
    let mut digest = 0;
    let mut pass = 0;
    while passes == 0 || pass < passes {
        pass += 1;
        digest = area
            .pass(pass)
            .map_err(|error| format!("memory: {error}"))?;
    }
    writeln!(io::stdout(), "{digest:016x}").map_err(|error| format!("memory: {error}"))
}
