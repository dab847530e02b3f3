//! The `ch-remote` command: one call to a running monitor per invocation.
//!
//! Exit codes: 0 done; 1 the call failed, or an argument could not be understood; 2 wrong usage.

mod commands;
mod requests;
mod watch;

use std::process::ExitCode;

use api_client::error::chain_report;
use clap::Parser;

use commands::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match requests::perform(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", chain_report("ch-remote", &error));
            ExitCode::FAILURE
        }
    }
}
