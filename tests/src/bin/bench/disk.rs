//! What protection costs a guest's disk: large writes and reads past its page cache, and small
//! writes that are on the disk one by one. Each side has a core of its own, as if on its own host;
//! the storage is one and the same.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::HarnessError;
use tests::command::Scratch;
use tests::cores;
use tests::measure::cpu_s;
use tests::scenario::Pair;
use tests::servers::ServerGuest;
use tests::service::Line;

use crate::rounds::{Figure, Plan, Rounds, network};
use crate::{LIFE_TIMEOUT, step};

const POLICIES: &[&str] = &["received"];
const FIGURES: &[Figure] = &[
    Figure {
        name: "write_mib_s",
        more_is_better: true,
    },
    Figure {
        name: "read_mib_s",
        more_is_better: true,
    },
    Figure {
        name: "synced_writes_per_s",
        more_is_better: true,
    },
    // What it costs the primary's own host, whatever else there is on this one.
    Figure {
        name: "write_mib_per_cpu_s",
        more_is_better: true,
    },
    Figure {
        name: "read_mib_per_cpu_s",
        more_is_better: true,
    },
    Figure {
        name: "synced_writes_per_cpu_s",
        more_is_better: true,
    },
];
/// Mebibytes of a large write or read.
const LARGE_MIB: u32 = 256;
/// Small writes.
const SMALL_COUNT: u32 = 1000;
/// By its path: the shell has one of its own, which knows less.
const DD: &str = "/usr/bin/dd";
const WORK_TIMEOUT: Duration = Duration::from_secs(120);

/// Costs for the disk.
///
/// # Errors
/// When the guest or its protection fails.
pub fn disk(scratch: &Scratch, count: u32) -> Result<Value, HarnessError> {
    let _network = network()?;
    step("boot the guest");
    let guest = ServerGuest {
        job: "shell".to_owned(),
        serial_socket: true,
        ..ServerGuest::with("")
    };
    let mut pair = cores::on_one(0, || guest.boot(scratch.path()))?;
    let mut line = Line::connect_within(pair.primary.serial(), LIFE_TIMEOUT)?;
    line.receive_until("MARK begin shell", LIFE_TIMEOUT)?;
    let mib = f64::from(LARGE_MIB);
    let large = format!("bs=1M count={LARGE_MIB}");
    let write = format!("{DD} if=/dev/zero of=/var/tmp/large {large} oflag=direct conv=notrunc");
    let read = format!("{DD} if=/var/tmp/large of=/dev/null {large} iflag=direct");
    let small = format!(
        "{DD} if=/dev/zero of=/var/tmp/small bs=4k count={SMALL_COUNT} oflag=direct,dsync \
         conv=notrunc"
    );
    // What counts is written over: finding room for a file is the guest's and the image's work.
    for command in [&write, &small] {
        time(&mut line, command)?;
    }
    let plan = Plan {
        count,
        policies: POLICIES,
        figures: FIGURES,
        backup_core: Some(1),
    };
    let rounds = Rounds::go_through(&mut pair, plan, |pair: &Pair| {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for (amount, command) in [
            (mib, &write),
            (mib, &read),
            (f64::from(SMALL_COUNT), &small),
        ] {
            let before = cpu_s(&pair.primary)?;
            rates.push(amount / time(&mut line, command)?);
            costs.push(amount / (cpu_s(&pair.primary)? - before));
        }
        rates.append(&mut costs);
        Ok(rates)
    })?;
    Ok(rounds.report())
}

/// Seconds that the guest's shell takes for `command`, and for the sync before the end.
fn time(line: &mut Line, command: &str) -> Result<f64, HarnessError> {
    // The quotes keep the terminal's echo from looking like the marks.
    let text = format!(
        "sync; echo MA''RK begin work; {command} 2> /dev/null && sync; echo MA''RK end work $?"
    );
    line.send(&text)
        .map_err(HarnessError::host("give the guest work"))?;
    line.receive_until("MARK begin work", WORK_TIMEOUT)?;
    let begun = Instant::now();
    let end = line.receive_until("MARK end work", WORK_TIMEOUT)?;
    match end.trim() {
        "MARK end work 0" => Ok(begun.elapsed().as_secs_f64()),
        other => Err(HarnessError::Broken(format!("{command}: {other:?}"))),
    }
}
