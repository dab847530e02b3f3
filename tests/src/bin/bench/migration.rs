//! Live migration over loopback of a guest with 256 MiB of memory that dirties 64 MiB of it all the
//! time, as Cloud Hypervisor was measured with: 78 to 86 ms of downtime as it is, and 36 to 40 ms
//! without the delay of its small writes (on KVM, where the guest writes faster than it does here).

use std::time::Duration;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::measure::median;
use tests::migration::{Figures, Receiver, figures, free_url, send, start_guest, wait_for_end};
use tests::process::VmProcess;
use tests::service::Line;

const BOOT_LIMIT: Duration = Duration::from_secs(300);
const JOBS: &str = "job=load memory_mib=64";

/// A way of migrating.
struct Variant {
    name: &'static str,
    options: fn() -> Value,
    unix: bool,
}

const VARIANTS: [Variant; 3] = [
    Variant {
        name: "tcp",
        options: || json!({}),
        unix: false,
    },
    Variant {
        name: "tcp_3_connections",
        options: || json!({"connections": 3}),
        unix: false,
    },
    Variant {
        name: "unix",
        options: || json!({}),
        unix: true,
    },
];

/// Migrates the guest of `source` to a new process, which is returned.
fn migrate(
    scratch: &Scratch,
    source: &mut VmProcess,
    variant: &Variant,
    number: u32,
) -> Result<(VmProcess, Figures), HarnessError> {
    let name = format!("vmm-{number}");
    let monitor = scratch.file(&format!("{name}.events"));
    let arguments = [
        "--event-monitor".to_owned(),
        format!("path={}", monitor.display()),
    ];
    let destination = VmProcess::start(scratch.path(), &name, &arguments)?;
    let url = match variant.unix {
        true => json!(format!(
            "unix:{}",
            scratch.file(&format!("{name}.mig")).display()
        )),
        false => free_url()?,
    };
    let receiver = Receiver::start(&destination, url);
    send(source, receiver.url(), &(variant.options)())?;
    receiver.finish()?;
    wait_for_end(source)?;
    let figures = figures(source)?;
    Ok((destination, figures))
}

/// Migrates a guest there and on, `rounds` times each way.
///
/// # Errors
/// When the guest does not boot, or does not migrate.
pub fn migration(scratch: &Scratch, rounds: u32) -> Result<Value, HarnessError> {
    crate::step("boot the guest");
    let mut vm = start_guest(scratch.path(), "vmm-0", "256M", JOBS)?;
    let mut line = Line::connect_within(vm.serial(), BOOT_LIMIT)?;
    line.receive_until("MARK begin service", BOOT_LIMIT)?;
    drop(line);
    let mut report = json!({});
    let mut number = 0;
    for variant in &VARIANTS {
        let mut taken = Vec::new();
        for round in 1..=rounds {
            crate::step(&format!("{}: round {round} of {rounds}", variant.name));
            number += 1;
            // The guest dirties its memory again meanwhile.
            std::thread::sleep(Duration::from_secs(1));
            let (destination, figures) = migrate(scratch, &mut vm, variant, number)?;
            vm = destination;
            taken.push(figures);
        }
        let name = variant.name;
        let column = |get: fn(&Figures) -> f64| taken.iter().map(get).collect::<Vec<f64>>();
        let downtime = column(|figures| figures.downtime_ms);
        report[format!("downtime_ms_{name}")] = json!(median(&downtime));
        let worst = downtime.iter().copied().fold(0.0, f64::max);
        report[format!("downtime_ms_{name}_max")] = json!(worst);
        report[format!("total_ms_{name}")] = json!(median(&column(|figures| figures.total_ms)));
        let mib = median(&column(|figures| figures.bytes / 1_048_576.0));
        report[format!("wire_mib_{name}")] = json!(mib);
        let count = median(&column(|figures| figures.rounds as f64));
        report[format!("rounds_{name}")] = json!(count);
    }
    report["downtime_ms_cloud_hypervisor_low"] = json!(36.0);
    report["downtime_ms_cloud_hypervisor_high"] = json!(86.0);
    Ok(report)
}
