//! Simulates protected machines, one life per seed: `simulate --seeds N [--start S]`.
//!
//! Ends with a line of totals, or with the first seed whose life was wrong, what was wrong, and
//! the command that repeats it.

#[path = "../tests/simulation/sim/mod.rs"]
#[allow(dead_code)]
mod sim;

use std::process::ExitCode;

use sim::{Failure, Summary};

fn main() -> ExitCode {
    let (seeds, start, verbose) = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}\nusage: simulate --seeds N [--start S] [--verbose]");
            return ExitCode::from(2);
        }
    };
    let mut total = Summary::default();
    let mut lost = 0_u64;
    for seed in start..start.saturating_add(seeds) {
        match sim::run(seed) {
            Ok(summary) => {
                if verbose {
                    println!("seed {seed}: {summary:?}");
                }
                lost += u64::from(summary.lost);
                add(&mut total, &summary);
            }
            Err(failure) => {
                report(&failure);
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "{seeds} lives: {} answered, {} repeated, {} protections, {} promotions ({} planned), {} \
         went on alone, {} fenced, {} divergences, {} repaired, {} epochs verified, {lost} lost \
         with their only host",
        total.answered,
        total.repeated,
        total.protections,
        total.promotions,
        total.planned,
        total.alone,
        total.fenced,
        total.divergences,
        total.repairs,
        total.epochs,
    );
    ExitCode::SUCCESS
}

/// Reads the command line.
fn arguments() -> Result<(u64, u64, bool), String> {
    let (mut seeds, mut start, mut verbose) = (None, 0, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--verbose" {
            verbose = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a number"))?;
        let value = value
            .parse()
            .map_err(|_| format!("{word}: {value} is not a number"))?;
        match word.as_str() {
            "--seeds" => seeds = Some(value),
            "--start" => start = value,
            _ => return Err(format!("{word} is unknown")),
        }
    }
    Ok((seeds.ok_or("--seeds is missing")?, start, verbose))
}

/// Says what was wrong and how to see it again.
fn report(failure: &Failure) {
    eprintln!(
        "seed {} is wrong at {} us: {}",
        failure.seed,
        failure.at / 1000,
        failure.what
    );
    eprintln!("{:#?}", failure.scenario);
    for line in &failure.events {
        eprintln!("  {line}");
    }
    eprintln!(
        "again: cargo run --release -p ft --example simulate -- --seeds 1 --start {}",
        failure.seed
    );
}

/// Adds up what happened.
fn add(total: &mut Summary, summary: &Summary) {
    total.answered += summary.answered;
    total.repeated += summary.repeated;
    total.promotions += summary.promotions;
    total.planned += summary.planned;
    total.alone += summary.alone;
    total.fenced += summary.fenced;
    total.divergences += summary.divergences;
    total.repairs += summary.repairs;
    total.epochs += summary.epochs;
    total.protections += summary.protections;
}
