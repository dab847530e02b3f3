//! A protected guest under mixed load for as long as is asked: writes to a server that are on the
//! disk before they are acknowledged, files that are written, copied and compared, and a flood of
//! datagrams. At the end its primary is killed, and everything has to be there.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::HarnessError;
use tests::command::Scratch;
use tests::measure::number;
use tests::network::GUEST;
use tests::process::VmProcess;
use tests::scenario::{Pair, Protection};
use tests::servers::traffic::Traffic;
use tests::servers::{ServerGuest, disk, image_of_side, power_off, service, side_of};
use tests::service::Line;

use crate::rounds::network;
use crate::{LIFE_TIMEOUT, step};

const CONNECTIONS: usize = 2;
/// How long a peer may be silent: a lost backup would end the run, and a host may be busy.
const TIMEOUT_MS: u64 = 5000;
/// Between two looks at both sides.
const LOOK: Duration = Duration::from_secs(60);
/// Datagrams at once, and the pause behind them.
const BURST: u64 = 100;
const BURST_PAUSE: Duration = Duration::from_millis(200);
/// How much more a side may have resident of its own after the last three quarters of the time.
const MOST_GROWTH_MIB: f64 = 16.0;
const DATAGRAM: [u8; 800] = [0x5a; 800];
/// The port that discards what it gets; nobody has to listen.
const DISCARD: u16 = 9;
/// The word that the guest says when a file is not what was written. The quotes keep the echo of
/// the command from looking like it.
const DAMAGED: &str = "FILE DAMAGED";
const FILES: &str = "(while true; do dd if=/dev/urandom of=/root/x bs=64k count=48 2>/dev/null; \
     sync; cp /root/x /root/y; sync; cmp /root/x /root/y || echo FILE DAM''AGED; \
     rm /root/x /root/y; sleep 1; done) &";

/// Sends datagrams until it is dropped.
struct Flood {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    fn start() -> Result<Self, HarnessError> {
        let failed = HarnessError::host("flood the guest");
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
        let flood = Self {
            ended: Arc::default(),
            sent: Arc::default(),
        };
        let (ended, sent) = (flood.ended.clone(), flood.sent.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // What the guest has no room for is lost, as datagrams are.
                let sends = (0..BURST).map(|_| socket.send_to(&DATAGRAM, (GUEST, DISCARD)));
                let gone = sends.filter(Result::is_ok).count() as u64;
                sent.fetch_add(gone, Ordering::Relaxed);
                std::thread::sleep(BURST_PAUSE);
            }
        });
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Mebibytes of a process that are in memory.
#[derive(Clone, Copy, Debug)]
struct Resident {
    /// Of its largest mapping, which the guest's memory is in. The guest fills it: the data of its
    /// server grow.
    guest_mib: f64,
    /// Of all else.
    own_mib: f64,
}

impl Resident {
    fn of(process: &VmProcess) -> Result<Self, HarnessError> {
        let path = format!("/proc/{}/smaps", process.pid());
        let failed = HarnessError::host(format!("read {path}"));
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        let (mut size_kib, mut largest_kib, mut guest_kib, mut all_kib) = (0.0, 0.0, 0.0, 0.0);
        for line in text.lines() {
            if let Some(kib) = kib_of(line, "Size:") {
                size_kib = kib;
            } else if let Some(kib) = kib_of(line, "Rss:") {
                all_kib += kib;
                if size_kib > largest_kib {
                    (largest_kib, guest_kib) = (size_kib, kib);
                }
            }
        }
        if all_kib == 0.0 {
            return Err(HarnessError::Broken(format!("{path} tells of no memory")));
        }
        Ok(Self {
            guest_mib: guest_kib / 1024.0,
            own_mib: (all_kib - guest_kib) / 1024.0,
        })
    }
}

/// The kibibytes of a line that begins with `name`.
fn kib_of(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// What a side has resident of its own must not grow once it has settled, after a quarter of the
/// time.
fn check_growth(resident: &[[Resident; 2]]) -> Result<(), HarnessError> {
    let settled = resident.get(resident.len() / 4);
    let (Some(settled), Some(last)) = (settled, resident.last()) else {
        return Ok(());
    };
    for (before, after) in settled.iter().zip(last) {
        if after.own_mib > before.own_mib + MOST_GROWTH_MIB {
            let text = format!("a side's own memory grew: {before:?}, then {after:?}");
            return Err(HarnessError::Broken(text));
        }
    }
    Ok(())
}

/// Runs it for so many minutes.
///
/// # Errors
/// When the guest or its protection fails, or anything is lost.
pub fn soak(scratch: &Scratch, minutes: u64) -> Result<Value, HarnessError> {
    let _network = network()?;
    step("boot the guest");
    let guest = ServerGuest {
        job: "shell".to_owned(),
        serial_socket: true,
        ..ServerGuest::with("redis")
    };
    let mut pair = guest.boot(scratch.path())?;
    let mut line = Line::connect_within(pair.primary.serial(), LIFE_TIMEOUT)?;
    line.receive_until("MARK begin shell", LIFE_TIMEOUT)?;
    let service = service("redis").ok_or_else(|| HarnessError::Broken("no redis".to_owned()))?;
    service.prepare()?;
    let traffic = Traffic::start(service.as_ref(), CONNECTIONS)?;
    step("protect it");
    pair.protect(&Protection::patient(TIMEOUT_MS))?;
    traffic.go();
    let flood = Flood::start()?;
    line.send(FILES)
        .map_err(HarnessError::host("give the guest work"))?;
    let reader = std::thread::spawn(move || damages(&mut line));
    let (resident, status) = watch(&pair, &traffic, Duration::from_secs(minutes * 60))?;
    check_growth(&resident)?;
    step("SIGKILL to the primary");
    pair.kill_primary()?;
    traffic.more(10, LIFE_TIMEOUT)?;
    let sent = flood.sent.load(Ordering::Relaxed);
    drop(flood);
    let seen = traffic.finish();
    if let Some(reason) = seen.iter().find_map(|seen| seen.lost.clone()) {
        return Err(HarnessError::Broken(format!(
            "a connection was lost: {reason}"
        )));
    }
    let acknowledged: Vec<u64> = seen.iter().map(|seen| seen.acknowledged).collect();
    let lost = service.missing(&acknowledged)?;
    let damaged = reader.join().unwrap_or(u64::MAX);
    power_off(&mut pair.primary)?;
    disk::check_file_system(&image_of_side(pair.folder(), side_of(&pair.primary)))?;
    if lost > 0 || damaged > 0 {
        let text = format!("{lost} writes are lost, {damaged} files were damaged");
        return Err(HarnessError::Broken(text));
    }
    Ok(json!({
        "minutes": minutes,
        "epochs_verified": number(&status, "/positions/epochs_verified"),
        "divergences": number(&status, "/divergences"),
        "repairs": number(&status, "/repairs"),
        "throttled_ms": number(&status, "/throttled/total_ms"),
        "writes_acknowledged": acknowledged.iter().sum::<u64>(),
        "writes_lost": lost,
        "datagrams": sent,
        "resident_guest_mib": column(&resident, |side| side.guest_mib),
        "resident_own_mib": column(&resident, |side| side.own_mib),
        "file_system_clean": true,
    }))
}

/// One figure of both sides, minute by minute.
fn column(resident: &[[Resident; 2]], figure: fn(Resident) -> f64) -> Vec<[f64; 2]> {
    resident.iter().map(|sides| sides.map(figure)).collect()
}

/// How often the guest said that a file is damaged, until the process at the other end is gone.
fn damages(line: &mut Line) -> u64 {
    let mut count = 0;
    loop {
        match line.receive() {
            Ok(text) => count += u64::from(text.contains(DAMAGED)),
            // It has nothing to say for a while.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return count,
        }
    }
}

/// Looks at both sides until the time is over. Gives what primary and backup had resident, minute
/// by minute, and the last status.
///
/// # Errors
/// When the guest is protected no longer, or has diverged.
fn watch(
    pair: &Pair,
    traffic: &Traffic,
    time: Duration,
) -> Result<(Vec<[Resident; 2]>, Value), HarnessError> {
    let backup = pair.backup.as_ref();
    let backup = backup.ok_or_else(|| HarnessError::Broken("there is no backup".to_owned()))?;
    let (begun, mut resident) = (Instant::now(), Vec::new());
    loop {
        std::thread::sleep(LOOK.min(time.saturating_sub(begun.elapsed())));
        let status = pair.primary.ft_status()?;
        let sides = [Resident::of(&pair.primary)?, Resident::of(backup)?];
        resident.push(sides);
        let (verified, diverged) = (
            number(&status, "/positions/epochs_verified"),
            number(&status, "/divergences"),
        );
        step(&format!(
            "{:.0} s: {verified} epochs verified, {diverged} divergences, resident {:?} MiB and \
             {:?} of the guest's, {} writes",
            begun.elapsed().as_secs_f64(),
            sides.map(|side| side.own_mib.round()),
            sides.map(|side| side.guest_mib.round()),
            traffic.acknowledged().iter().sum::<u64>(),
        ));
        if status["state"] != "protected" || diverged > 0.0 {
            return Err(HarnessError::Broken(format!("no longer well: {status}")));
        }
        traffic.check()?;
        if begun.elapsed() >= time {
            return Ok((resident, status));
        }
    }
}
