//! Simulates protected machines, one life per seed:
//! `simulate --seeds N [--start S] [--jobs J] [--mode replay|checkpoint]`.
//!
//! Ends with a line of totals, or with the lowest seed whose life was wrong, what was wrong, and
//! the command that repeats it. Each life is lived in one thread; jobs only share out the seeds.

#[path = "../tests/simulation/sim/mod.rs"]
#[allow(dead_code)]
mod sim;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sim::runner::{Failure, Summary};

/// What the command line asks for.
#[derive(Clone, Copy)]
struct Arguments {
    seeds: u64,
    start: u64,
    jobs: u64,
    exact: bool,
    verbose: bool,
}

/// What some lives came to.
#[derive(Default)]
struct Tally {
    total: Summary,
    lost: u64,
    wrong: Option<Box<Failure>>,
}

fn main() -> ExitCode {
    let arguments = match read_arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!(
                "{text}\nusage: simulate --seeds N [--start S] [--jobs J] \
                 [--mode replay|checkpoint] [--verbose]"
            );
            return ExitCode::from(2);
        }
    };
    let next = AtomicU64::new(arguments.start);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let jobs: Vec<_> = (0..arguments.jobs)
            .map(|_| scope.spawn(|| work(arguments, &next)))
            .collect();
        jobs.into_iter()
            .map(|job| job.join().expect("a life never panics"))
            .collect()
    });
    let mut sum = Tally::default();
    for tally in tallies {
        add(&mut sum.total, &tally.total);
        sum.lost += tally.lost;
        let lowest = [sum.wrong, tally.wrong].into_iter().flatten();
        sum.wrong = lowest.min_by_key(|failure| failure.seed);
    }
    match &sum.wrong {
        Some(failure) => {
            report(failure);
            ExitCode::FAILURE
        }
        None => {
            print_totals(arguments.seeds, &sum);
            ExitCode::SUCCESS
        }
    }
}

/// Lives through seeds until none is left or one was wrong.
fn work(arguments: Arguments, next: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let end = arguments.start.saturating_add(arguments.seeds);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return tally;
        }
        match sim::runner::run(seed, arguments.exact) {
            Ok(summary) => {
                if arguments.verbose {
                    println!("seed {seed}: {summary:?}");
                }
                tally.lost += u64::from(summary.lost);
                add(&mut tally.total, &summary);
            }
            Err(failure) => {
                next.store(end, Ordering::Relaxed);
                tally.wrong = Some(failure);
                return tally;
            }
        }
    }
}

/// Reads the command line.
fn read_arguments() -> Result<Arguments, String> {
    let jobs = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut arguments = Arguments {
        seeds: 0,
        start: 0,
        jobs,
        exact: true,
        verbose: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--verbose" {
            arguments.verbose = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        if word == "--mode" {
            arguments.exact = match value.as_str() {
                "replay" => true,
                "checkpoint" => false,
                other => return Err(format!("--mode: {other} is neither replay nor checkpoint")),
            };
            continue;
        }
        let value = value
            .parse()
            .map_err(|_| format!("{word}: {value} is not a number"))?;
        match word.as_str() {
            "--seeds" => arguments.seeds = value,
            "--start" => arguments.start = value,
            "--jobs" => arguments.jobs = value,
            _ => return Err(format!("{word} is unknown")),
        }
    }
    match arguments.seeds {
        0 => Err("--seeds is missing".into()),
        _ => Ok(arguments),
    }
}

/// Says what happened in all lives.
fn print_totals(seeds: u64, sum: &Tally) {
    let Summary {
        answered,
        repeated,
        promotions,
        planned,
        alone,
        fenced,
        ..
    } = &sum.total;
    let Summary {
        divergences,
        repairs,
        epochs,
        protections,
        throttled,
        frames,
        disk_requests,
        ..
    } = &sum.total;
    println!(
        "{seeds} lives went right, {} of them lost with their only host",
        sum.lost
    );
    println!("  {answered} requests answered, {repeated} outputs seen twice at a failover");
    println!("  {frames} frames and {disk_requests} requests of disks in the survivors' lives");
    println!("  {protections} protections, {epochs} epochs verified, throttled {throttled} times");
    println!(
        "  {promotions} promotions ({planned} planned), {alone} went on alone, {fenced} fenced"
    );
    println!("  {divergences} divergences, {repairs} repaired");
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
    let seed = failure.seed;
    let mode = if failure.scenario.exact {
        "replay"
    } else {
        "checkpoint"
    };
    eprintln!(
        "again: cargo run --release -p ft --example simulate -- --seeds 1 --start {seed} \
         --mode {mode}"
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
    total.throttled += summary.throttled;
    total.frames += summary.frames;
    total.disk_requests += summary.disk_requests;
}
