//! One life: what happens in order of time, and what must be true of it.

use ft::divergence::DivergenceReport;
use ft::event::{ControlOp, Input};
use ft::status::FtEvent;

use super::fence::FenceStore;
use super::host::Host;
use super::random::Random;
use super::scenario::{END_AT, Fault, MS, PROTECT_AT, QUIET_AT, Scenario, Victim};
use super::toy::Toy;
use super::wire::{Way, Wire};
use super::world::World;

/// Most hosts in a life.
const MAX_HOSTS: usize = 5;
/// When protection is begun for the last time.
const LAST_PROTECT: u64 = 300 * MS;
/// How often the operator looks.
const LOOK_EVERY: u64 = 10 * MS;

/// What was wrong with a life.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// When it was noticed, in simulated nanoseconds.
    pub at: u64,
    /// What it is.
    pub what: String,
    /// The plan.
    pub scenario: Scenario,
    /// What the hosts reported.
    pub events: Vec<String>,
}

/// What a life came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How far the survivor's clock is off, in milliseconds.
    pub clock_error_ms: i64,
    /// Requests that were answered.
    pub answered: u64,
    /// Frames that came to the survivor's machine.
    pub frames: u64,
    /// Requests of its disk that were done.
    pub disk_requests: u64,
    /// Outputs that the world saw twice.
    pub repeated: u64,
    /// Promotions of a backup.
    pub promotions: u64,
    /// Of those, ones that an operator asked for.
    pub planned: u64,
    /// Primaries that went on alone.
    pub alone: u64,
    /// Hosts that halted themselves.
    pub fenced: u64,
    /// Divergences found.
    pub divergences: u64,
    /// Divergences repaired.
    pub repairs: u64,
    /// Epochs verified.
    pub epochs: u64,
    /// Protections that were complete.
    pub protections: u64,
    /// What each divergence was.
    pub reports: Vec<DivergenceReport>,
    /// Why protections were not begun.
    pub start_failures: Vec<String>,
    /// How often a primary had to wait for its backup.
    pub throttled: u64,
    /// How long each failover took from the last sign of life, in milliseconds.
    pub failover_ms: Vec<f64>,
    /// What each host is at the end.
    pub states: Vec<String>,
    /// Whether the machine is gone, as it may be when its only host is.
    pub lost: bool,
}

/// Everything there is.
pub struct Life {
    pub(super) scenario: Scenario,
    random: Random,
    pub(super) hosts: Vec<Host>,
    wires: Vec<Wire>,
    pub(super) fences: FenceStore,
    pub(super) world: World,
    pub(super) now: u64,
    next_request: u64,
    next_look: u64,
    pending_faults: Vec<(u64, Fault)>,
    ends: Vec<(u64, Ending)>,
    protect: bool,
    pub(super) powered_off: bool,
    pub(super) flipped: bool,
    pub(super) rested: bool,
    /// Faults that can separate the sides or end one.
    pub(super) harms: u64,
    /// The first of them ended a host while the machine was said to be protected.
    pub(super) was_covered: bool,
}

/// Something that ends again.
#[derive(Clone, Debug)]
enum Ending {
    Block(usize, Way),
    Fence(String),
    Mute(String),
    Slow(usize),
    Rest(usize),
}

/// Lives through a seed, with a machine that can be replayed or with one that cannot.
///
/// # Errors
/// If anything was wrong.
pub fn run(seed: u64, exact: bool) -> Result<Summary, Box<Failure>> {
    let mut random = Random::new(seed);
    let mut scenario = Scenario {
        exact,
        ..Scenario::of(&mut random)
    };
    if !exact {
        // Outputs come later by their delta, and clients who were kept waiting for long ask again and
        // again: more than a busy guest can answer.
        scenario.request_every = scenario.request_every.max(4 * MS);
    }
    run_scenario(seed, scenario, random)
}

/// Lives through a plan.
///
/// # Errors
/// If anything was wrong.
pub fn run_scenario(
    seed: u64,
    scenario: Scenario,
    random: Random,
) -> Result<Summary, Box<Failure>> {
    let mut life = Life::new(scenario, random);
    let outcome = life.live().and_then(|()| life.judge());
    outcome.map_err(|what| {
        Box::new(Failure {
            seed,
            at: life.now,
            what,
            scenario: life.scenario.clone(),
            events: life.report(),
        })
    })
}

impl Life {
    fn new(scenario: Scenario, random: Random) -> Self {
        let primary = Host::primary(0, &scenario);
        let pending_faults = scenario.faults.clone();
        Self {
            scenario,
            random,
            hosts: vec![primary],
            wires: Vec::new(),
            fences: FenceStore::default(),
            world: World::default(),
            now: 0,
            next_request: 3 * MS,
            next_look: PROTECT_AT,
            pending_faults,
            ends: Vec::new(),
            protect: true,
            powered_off: false,
            flipped: false,
            rested: false,
            harms: 0,
            was_covered: false,
        }
    }

    /// Lets everything happen, in order of time.
    fn live(&mut self) -> Result<(), String> {
        while self.now < END_AT {
            let host = (0..self.hosts.len())
                .filter_map(|index| {
                    self.hosts[index]
                        .next_event(&self.wires)
                        .map(|at| (at, index))
                })
                .min();
            let fault = self.pending_faults.first().map_or(u64::MAX, |(at, _)| *at);
            let ending = self
                .ends
                .iter()
                .map(|(at, _)| *at)
                .min()
                .unwrap_or(u64::MAX);
            let outside = fault.min(ending).min(self.next_request).min(self.next_look);
            match host {
                Some((at, index)) if at <= outside => {
                    self.now = self.now.max(at);
                    self.step_host(index)?;
                }
                _ => {
                    self.now = self.now.max(outside);
                    self.happen();
                }
            }
        }
        Ok(())
    }

    /// One host does something.
    fn step_host(&mut self, index: usize) -> Result<(), String> {
        let was_live = self.hosts[index].replica.is_live();
        let was_repairing = self.hosts[index].replica.state() == "repairing";
        let told = self.hosts[index].events.len();
        let round = self.hosts[index].step(&mut self.wires, &self.fences, self.now);
        let host = &mut self.hosts[index];
        if !was_live && host.replica.is_live() {
            self.world.forgiven |= host.tainted.is_some();
        }
        if let Some(repairs) = host.tainted
            && !host.replica.is_live()
            && host
                .status(self.now)
                .is_some_and(|status| status.repairs > repairs)
        {
            host.tainted = None;
        }
        let repairing = host.replica.state() == "repairing";
        host.repairing_since = repairing.then(|| host.repairing_since.unwrap_or(self.now));
        if let Some(wrong) = host.wrong.take() {
            return Err(wrong);
        }
        self.check_promise(index, told)?;
        let host = &self.hosts[index];
        let Some(round) = round else { return Ok(()) };
        let repairing = was_repairing && host.replica.state() == "repairing";
        if repairing && !round.outputs.is_empty() {
            return Err(format!(
                "{} put out while its backup was diverged",
                host.name
            ));
        }
        let generation = host.replica.generation();
        for output in &round.outputs {
            self.world.observe(index, generation, output)?;
        }
        Ok(())
    }

    /// When a host says that its machine is protected, its backup has the whole clone.
    fn check_promise(&self, index: usize, told: usize) -> Result<(), String> {
        let ours = self.hosts[index].replica.generation();
        // What is told of an earlier protection was true when it happened.
        let said = self.hosts[index].events[told..].iter().any(
            |event| matches!(event, FtEvent::Protected { generation, .. } if *generation == ours),
        );
        // The one at the other end of its connection; it may have ended since.
        let wire = self.hosts[index].wire.map(|(wire, _)| wire);
        let backup = self.hosts.iter().enumerate().find(|(other, host)| {
            let connected = host.wire.map(|(wire, _)| wire);
            *other != index && !host.dead && wire.is_some() && connected == wire
        });
        match backup.map(|(_, host)| host.replica.state()) {
            Some(state @ ("listening" | "handshake" | "cloning")) if said => {
                let name = &self.hosts[index].name;
                Err(format!(
                    "{name} is said to be protected by a backup that is {state}"
                ))
            }
            _ => Ok(()),
        }
    }

    /// The world, the operator or fate does something.
    fn happen(&mut self) {
        let now = self.now;
        while let Some((_, fault)) = self.pending_faults.first().filter(|(at, _)| *at <= now) {
            let fault = *fault;
            self.pending_faults.remove(0);
            self.strike(fault);
        }
        let (over, ends) = std::mem::take(&mut self.ends)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.ends = ends;
        let over: Vec<(u64, Ending)> = over;
        over.into_iter().for_each(|(_, ending)| self.end(&ending));
        if self.next_request <= now {
            let mut requests = self.world.ask_again(now);
            if now < QUIET_AT {
                requests.push(self.world.ask(now));
                requests.extend(self.world.frame(now));
            }
            self.next_request = now + self.scenario.request_every;
            self.offer(requests);
        }
        if self.next_look <= now {
            self.next_look = now + LOOK_EVERY;
            self.look();
        }
    }

    /// Clients reach whoever is live; a request to a host that is stopped waits there.
    fn offer(&mut self, requests: Vec<Input>) {
        let live = self.hosts.iter_mut().filter(|host| !host.dead);
        let live = live.filter(|host| host.replica.is_live() && host.replica.end().is_none());
        for host in live {
            for request in &requests {
                // A full inbox is like a connection that takes no more: the client asks again.
                let _full = host.inbox.offer(request.clone());
            }
        }
    }

    /// The operator protects a machine that is alone.
    fn look(&mut self) {
        if !self.protect || self.now > LAST_PROTECT || self.hosts.len() >= MAX_HOSTS {
            return;
        }
        if self.hosts.len() > 1 && !self.scenario.protect_again {
            return;
        }
        let now = self.now;
        let Some(index) = self.hosts.iter().position(|host| {
            !host.dead && host.paused_until <= now && host.replica.state() == "unprotected"
        }) else {
            return;
        };
        let host = &mut self.hosts[index];
        let fence = self.fences.fence(&host.name);
        let parameters = self.scenario.parameters.clone();
        let time = host.host_time(now);
        let started = host
            .replica
            .protect(&host.machine, parameters, fence, b"toy".to_vec(), time);
        if started.is_err() {
            return;
        }
        let wire = self.wires.len();
        self.wires.push(Wire::new(self.scenario.latency_ns));
        host.connect(wire, Way::Forth);
        let count = self.hosts.len();
        let mut backup = Host::backup(count, &self.scenario, now);
        backup.connect(wire, Way::Back);
        self.hosts.push(backup);
    }

    /// The live host and its backup, if they are connected.
    fn pair(&self) -> (Option<usize>, Option<usize>) {
        let live =
            |host: &Host| !host.dead && host.replica.is_live() && host.replica.end().is_none();
        let primary = self.hosts.iter().rposition(live);
        let backup = self.hosts.iter().rposition(|host| {
            !host.dead && !host.replica.is_live() && host.replica.end().is_none()
        });
        (primary, backup)
    }

    /// Who a fault strikes.
    fn victim(&self, victim: Victim) -> Option<usize> {
        let (primary, backup) = self.pair();
        match victim {
            Victim::Primary => primary,
            Victim::Backup => backup,
            Victim::Host(index) => (self.hosts.len() > index).then_some(index),
        }
    }

    /// Counts what can separate the sides or end one, and notes whether the machine has to live on.
    fn note_harm(&mut self, fault: Fault) {
        if !harms(fault) {
            return;
        }
        self.harms += 1;
        let ends_host = matches!(fault, Fault::Kill(_) | Fault::PowerLoss(_));
        if ends_host && self.harms == 1 {
            self.was_covered = self.hosts.iter().any(|host| {
                let state = host.replica.state();
                let covered = ["protected", "repairing", "draining for failover"];
                host.replica.is_live() && (covered.contains(&state) || state == "handing over")
            });
        }
    }

    /// Something goes wrong.
    fn strike(&mut self, fault: Fault) {
        self.note_harm(fault);
        let now = self.now;
        let wire = self.wires.len().checked_sub(1);
        match fault {
            Fault::Kill(victim) => self.kill(victim),
            Fault::PowerLoss(victim) => {
                if let Some(index) = self.victim(victim) {
                    self.hosts[index].lose_power(&mut self.wires);
                }
            }
            Fault::Pause(victim, span) => {
                if let Some(index) = self.victim(victim) {
                    self.hosts[index].paused_until = now + span;
                }
            }
            Fault::Close => wire
                .into_iter()
                .for_each(|wire| self.wires[wire].close(now)),
            Fault::CloseWay(way) => {
                wire.into_iter()
                    .for_each(|wire| self.wires[wire].close_way(way, now));
            }
            Fault::Block(way, span) => self.block(wire, &[way], span),
            Fault::Partition(span) => self.block(wire, &[Way::Forth, Way::Back], span),
            Fault::Damage(way, damage) => {
                let random = self.random.next();
                wire.into_iter()
                    .for_each(|wire| self.wires[wire].damage(way, damage, random));
            }
            Fault::FlipMemory(silent) => {
                self.flip(|machine, random| machine.flip_memory(random, silent));
                // A page that nobody knows to be damaged is found by scrubbing, some time: a
                // repair in between does not mean that it was.
                let silent = silent || !self.scenario.exact;
                if let Some(index) = self.victim(Victim::Backup).filter(|_| silent) {
                    let tainted = &mut self.hosts[index].tainted;
                    *tainted = tainted.map(|_| u64::MAX);
                }
            }
            Fault::Unreadable(Victim::Backup, from, to) => {
                self.flip(|machine, _| machine.spoil(from..to));
            }
            Fault::Unreadable(victim, from, to) => {
                if let Some(index) = self.victim(victim) {
                    let repairs = self.hosts[index].status(now).map_or(0, |s| s.repairs);
                    let host = &mut self.hosts[index];
                    host.machine.spoil(from..to);
                    // It may be a backup by the time that the page is looked at.
                    host.tainted = Some(host.tainted.unwrap_or(repairs));
                    self.flipped = true;
                }
            }
            Fault::RefusePages(victim) => {
                if let Some(index) = self.victim(victim) {
                    self.hosts[index].machine.refuse_pages();
                }
            }
            Fault::FlipRegister => self.flip(Toy::flip_register),
            Fault::FlipClock => self.flip(Toy::flip_clock),
            Fault::FlipAndKill => {
                self.flip(Toy::flip_register);
                self.kill(Victim::Primary);
            }
            Fault::Slow(factor) => {
                if let Some(index) = self.victim(Victim::Backup) {
                    self.hosts[index].slowness = factor;
                    self.ends.push((now + 80 * MS, Ending::Slow(index)));
                }
            }
            Fault::FenceFails(victim, span) => {
                if let Some(index) = self.victim(victim) {
                    let name = self.hosts[index].name.clone();
                    self.fences.set_unreachable(&name, true);
                    self.ends.push((now + span, Ending::Fence(name)));
                }
            }
            Fault::FenceMute(victim, span) => {
                if let Some(index) = self.victim(victim) {
                    let name = self.hosts[index].name.clone();
                    self.fences.set_mute(&name, true);
                    self.ends.push((now + span, Ending::Mute(name)));
                }
            }
            Fault::Failover | Fault::Stop | Fault::Rest(_) | Fault::PowerOff => self.operate(fault),
        }
    }

    /// The operator does something; what is refused in the state at hand is refused.
    fn operate(&mut self, fault: Fault) {
        let now = self.now;
        let (Some(index), _) = self.pair() else {
            return;
        };
        let host = &mut self.hosts[index];
        if host.paused_until > now {
            return;
        }
        let time = host.host_time(now);
        match fault {
            Fault::Failover => {
                let _refused = host.replica.fail_over();
            }
            Fault::Stop => {
                let stopped = host.replica.stop_protection(time).is_ok();
                self.protect &= !stopped;
            }
            Fault::Rest(span) => {
                if host.replica.set_paused(&host.machine, true, time).is_ok() {
                    self.ends.push((now + span, Ending::Rest(index)));
                    self.rested = true;
                }
            }
            _ => {
                self.powered_off = host
                    .inbox
                    .offer(Input::Control(ControlOp::PowerButton))
                    .is_ok();
                self.protect = false;
            }
        }
    }

    /// Holds some lanes of the last wire for a while.
    fn block(&mut self, wire: Option<usize>, ways: &[Way], span: u64) {
        let Some(wire) = wire else { return };
        for way in ways {
            self.wires[wire].block(*way, true, self.now);
            self.ends.push((self.now + span, Ending::Block(wire, *way)));
        }
    }

    /// Something is over.
    fn end(&mut self, ending: &Ending) {
        match ending {
            Ending::Block(wire, way) => self.wires[*wire].block(*way, false, self.now),
            Ending::Fence(name) => self.fences.set_unreachable(name, false),
            Ending::Mute(name) => self.fences.set_mute(name, false),
            Ending::Slow(index) => self.hosts[*index].slowness = 1,
            Ending::Rest(index) => {
                let host = &mut self.hosts[*index];
                let time = host.host_time(self.now);
                let _backup_now = host.replica.set_paused(&host.machine, false, time);
            }
        }
    }

    fn kill(&mut self, victim: Victim) {
        if let Some(index) = self.victim(victim) {
            self.hosts[index].kill(&mut self.wires, self.now);
        }
    }

    /// Damages the state of a backup that replays.
    fn flip(&mut self, damage: impl FnOnce(&mut Toy, u64)) {
        let random = self.random.next();
        let Some(index) = self.victim(Victim::Backup) else {
            return;
        };
        let now = self.now;
        let host = &mut self.hosts[index];
        if ["replaying", "following"].contains(&host.replica.state()) {
            let repairs = host.status(now).map_or(0, |status| status.repairs);
            host.tainted = Some(host.tainted.unwrap_or(repairs));
            self.flipped = true;
            damage(&mut host.machine, random);
        }
    }
}

/// Whether a fault can separate the sides or end one.
fn harms(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Kill(_)
            | Fault::PowerLoss(_)
            | Fault::Pause(..)
            | Fault::Close
            | Fault::CloseWay(_)
            | Fault::Block(..)
            | Fault::Partition(_)
            | Fault::Damage(..)
            | Fault::FlipAndKill
            | Fault::Unreadable(Victim::Primary, ..)
    )
}
