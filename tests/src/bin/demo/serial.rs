//! The demo of a guest with a line service on its serial port. Its client connects to the other
//! host after a failover, and checks the chain of replies.

use std::path::PathBuf;
use std::time::Duration;

use tests::HarnessError;
use tests::random::Random;
use tests::scenario::{Client, Pair};

use crate::figures::{Figures, Samples, SerialFigures, log_rate};
use crate::{Arguments, step};

/// Size of the guest's memory if none is asked for.
const MEMORY: &str = "256M";

/// Runs it, with the files in `folder`.
///
/// # Errors
/// What went wrong; `figures` has what was measured up to there.
pub fn run(
    arguments: &Arguments,
    folder: PathBuf,
    figures: &mut Figures,
) -> Result<(), HarnessError> {
    let protection = arguments.protection();
    let mut samples = Samples::default();
    step("boot the guest");
    let memory = arguments.memory.as_deref().unwrap_or(MEMORY);
    let (mut pair, line, boot_s) = Pair::boot(folder, memory, "job=service", "MARK begin service")?;
    figures.boot_s = boot_s;
    step("protect it");
    pair.protect(&protection)?;
    samples.take_clone(&pair.primary.ft_status()?);
    step(&format!("let it idle for {} s", arguments.idle_s));
    figures.log_kbit_s_idle = log_rate(&pair, arguments.idle_s)?;

    let mut client = Client::start(line, pair.primary.serial().to_owned())?;
    let gone = rounds(arguments, &mut pair, &client, &mut samples, figures);
    samples.sum_up(figures);
    let finished = client.finish();
    let ledger = client.ledger();
    figures.take_requests(&ledger.latencies_us, ledger.longest_gap_us);
    figures.serial = Some(SerialFigures {
        requests: ledger.acknowledged,
        replies_lost: ledger.lost,
        replies_resent: ledger.resent,
    });
    gone.and(finished.map(|_| ()))
}

fn rounds(
    arguments: &Arguments,
    pair: &mut Pair,
    client: &Client,
    samples: &mut Samples,
    figures: &mut Figures,
) -> Result<(), HarnessError> {
    let protection = arguments.protection();
    let mut random = Random::new(figures.seed);
    for round in 1..=arguments.rounds {
        step(&format!(
            "round {round}: requests, then SIGKILL to the primary"
        ));
        samples.busy.push(log_rate(pair, 1)?);
        std::thread::sleep(Duration::from_micros(random.number() % 1_000_000));
        samples.take_protected(&pair.primary.ft_status()?);
        if let Some(backup) = &pair.backup {
            client.follow(backup.serial().to_owned());
        }
        pair.kill_primary()?;
        samples.take_failover(&pair.primary.ft_status()?);
        figures.rounds = round;
        let before = client.ledger().acknowledged;
        tests::process::wait_until("further replies", Duration::from_secs(10), || {
            Ok(client.ledger().acknowledged > before || client.has_ended())
        })?;
        if client.has_ended() {
            break;
        }
        if round < arguments.rounds {
            pair.protect(&protection)?;
            samples.take_clone(&pair.primary.ft_status()?);
        }
    }
    Ok(())
}
