//! What a seed decides: settings, and which faults come when.

use ft::mode::Mode;
use ft::output::ReleasePolicy;
use ft::parameters::Parameters;

use super::random::Random;
use super::toy::ALL_PAGES;
use super::wire::{Damage, Way};

/// A millisecond of simulated time.
pub const MS: u64 = 1_000_000;
/// When protection is first asked for.
pub const PROTECT_AT: u64 = 10 * MS;
/// When the last fault comes at the latest.
const LAST_FAULT: u64 = 180 * MS;
/// When clients stop asking.
pub const QUIET_AT: u64 = 420 * MS;
/// When the life ends.
pub const END_AT: u64 = 640 * MS;

/// Who a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Whoever is live.
    Primary,
    /// Its backup.
    Backup,
    /// A host by its number, whatever it is.
    Host(usize),
}

/// One thing that goes wrong, or that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Victim),
    /// The plug is pulled: what was under way is lost, and nothing says that it ended.
    PowerLoss(Victim),
    /// SIGSTOP, and SIGCONT after so long.
    Pause(Victim, u64),
    /// The connection closes for both.
    Close,
    /// The connection closes for one direction only.
    CloseWay(Way),
    /// Nothing gets through one way, for so long.
    Block(Way, u64),
    /// Nothing gets through either way, for so long.
    Partition(u64),
    /// The next bytes are damaged.
    Damage(Way, Damage),
    /// A bit of the backup's memory flips; the page is not even counted as written.
    FlipMemory(bool),
    /// A bit of a register of the backup flips.
    FlipRegister,
    /// The host of one side cannot read some pages any more: from the first to before the second.
    Unreadable(Victim, u64, u64),
    /// The host of one side cannot set pages any more.
    RefusePages(Victim),
    /// The backup's clock reads otherwise.
    FlipClock,
    /// The backup's state is damaged and the primary killed before it is repaired.
    FlipAndKill,
    /// The backup is slower by this factor for a while.
    Slow(u64),
    /// The fence cannot be asked by one side, for so long.
    FenceFails(Victim, u64),
    /// What the fence is asked is done, but one side gets an error for an answer, for so long.
    FenceMute(Victim, u64),
    /// The operator asks for a failover.
    Failover,
    /// The operator ends protection.
    Stop,
    /// The operator pauses the machine for so long.
    Rest(u64),
    /// The operator presses the power button.
    PowerOff,
}

/// A life, planned.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Whether the machine does the same on every host, so that its log can be replayed; the state
    /// of one that does not is replicated by deltas.
    pub exact: bool,
    /// Settings of each protection.
    pub parameters: Parameters,
    /// Delay of the link.
    pub latency_ns: u64,
    /// Host time an instruction takes.
    pub ns_per_instruction: u64,
    /// How busy the machine is in tenths.
    pub busy: u64,
    /// Time between two requests.
    pub request_every: u64,
    /// Whether the operator protects the machine again when it is alone.
    pub protect_again: bool,
    /// Faults, in order of time.
    pub faults: Vec<(u64, Fault)>,
}

impl Scenario {
    /// A life in which only these faults happen, with settings as an operator would leave them.
    pub fn plain(faults: Vec<(u64, Fault)>) -> Self {
        let parameters = Parameters {
            heartbeat_ms: 10,
            timeout_ms: 50,
            lease_ms: 20,
            scrub_pages: 2,
            fence: "simulated".into(),
            ..Parameters::default()
        };
        Self {
            exact: true,
            parameters,
            latency_ns: 100_000,
            ns_per_instruction: 4_000,
            busy: 3,
            request_every: 5 * MS,
            protect_again: false,
            faults,
        }
    }

    /// The life of a seed.
    pub fn of(random: &mut Random) -> Self {
        let timeout_ms = random.between(30, 80);
        let parameters = Parameters {
            mode: Mode::Auto,
            release: random.pick(&[
                ReleasePolicy::Received,
                ReleasePolicy::Received,
                ReleasePolicy::Replayed,
                ReleasePolicy::Verified,
            ]),
            epoch_ms: random.between(2, 15),
            heartbeat_ms: random.between(3, 12),
            timeout_ms,
            lease_ms: random.between(8, timeout_ms / 2),
            scrub_pages: random.between(1, 4) as u32,
            max_lag_epochs: random.between(4, 40),
            fence: "simulated".into(),
        };
        let mut faults = Vec::new();
        for _ in 0..random.pick(&[0, 1, 1, 1, 1, 2, 2, 3]) {
            let at = random.between(PROTECT_AT, LAST_FAULT);
            faults.push((at, pick_fault(random)));
        }
        // A plain kill in most lives, whatever else happens.
        if random.chance(30) {
            let at = random.between(PROTECT_AT, LAST_FAULT);
            faults.push((at, Fault::Kill(Victim::Primary)));
        }
        // Drawn aside, so that what else a seed decides stays as it is.
        let planned = planned_failover(&mut random.clone(), parameters.timeout_ms);
        // One more outage leaves a guest that is busy as it is less time for its requests.
        let least_ms = if planned.is_empty() { 0 } else { 4 };
        faults.extend(planned);
        faults.extend(unreadable_pages(&mut random.clone()));
        faults.sort_by_key(|(at, _)| *at);
        Self {
            exact: true,
            parameters,
            latency_ns: random.between(10_000, 2_000_000),
            ns_per_instruction: random.between(3_000, 6_000),
            busy: random.pick(&[0, 1, 3, 10, 10, 40]),
            request_every: random.between(2, 12).max(least_ms) * MS,
            protect_again: random.chance(60),
            faults,
        }
    }
}

/// In some lives, a planned failover in the midst of which a host dies, or the fence stutters.
fn planned_failover(random: &mut Random, timeout_ms: u64) -> Vec<(u64, Fault)> {
    if !random.chance(25) {
        return Vec::new();
    }
    let at = random.between(PROTECT_AT + 20 * MS, LAST_FAULT - 20 * MS);
    let victim = Victim::Host(random.between(0, 1) as usize);
    let within = random.pick(&[MS, 5 * MS, 20 * MS]);
    let strike = (
        at + random.between(0, within),
        random.pick(&[Fault::Kill(victim), Fault::PowerLoss(victim)]),
    );
    let mute = (
        at,
        Fault::FenceMute(Victim::Backup, random.between(1, 2 * timeout_ms) * MS),
    );
    let failover = (at, Fault::Failover);
    match random.between(0, 3) {
        0 | 1 => vec![failover, strike],
        2 => vec![mute, failover, strike],
        _ => vec![mute, failover],
    }
}

/// In some lives, a page that a host cannot read.
fn unreadable_pages(random: &mut Random) -> Option<(u64, Fault)> {
    // Not the draws that plan a failover.
    let mut random = Random::new(random.next() ^ random.next());
    let victim = random.pick(&[Victim::Primary, Victim::Primary, Victim::Backup]);
    let at = random.between(PROTECT_AT, LAST_FAULT);
    let page = random.between(0, ALL_PAGES - 1);
    let fault = (at, Fault::Unreadable(victim, page, page + 1));
    random.chance(12).then_some(fault)
}

/// One fault of any kind.
fn pick_fault(random: &mut Random) -> Fault {
    let victim = random.pick(&[Victim::Primary, Victim::Backup]);
    let way = random.pick(&[Way::Forth, Way::Back]);
    let damage = random.pick(&[Damage::Flip, Damage::Truncate, Damage::Oversize]);
    let span = random.pick(&[2, 10, 30, 90, 200]) * MS;
    match random.between(0, 21) {
        0 | 1 => Fault::Kill(victim),
        2 => Fault::PowerLoss(victim),
        3 | 4 => Fault::Pause(victim, span),
        5 => Fault::Close,
        6 => Fault::CloseWay(way),
        7 | 8 => Fault::Block(way, span),
        9 => Fault::Partition(span),
        10 | 11 => Fault::Damage(way, damage),
        12 => Fault::FlipMemory(random.chance(50)),
        13 => Fault::FlipRegister,
        14 => Fault::FlipClock,
        15 => Fault::FlipAndKill,
        16 => Fault::Slow(random.between(2, 6)),
        17 => Fault::FenceFails(victim, span),
        18 | 19 => Fault::Failover,
        20 => random.pick(&[Fault::Stop, Fault::Rest(span)]),
        _ => random.pick(&[Fault::PowerOff, Fault::Failover, Fault::Rest(span)]),
    }
}
