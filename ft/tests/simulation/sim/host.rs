//! A simulated host: one side of the machine, its clock, its loop and what may happen to it.

use std::collections::BTreeMap;

use ft::event::{Input, Output};
use ft::inbox::Inbox;
use ft::log::Event;
use ft::machine::Machine;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{FtEvent, FtStatus, Next};
use ft::time::HostTime;

use super::disk::DISK;
use super::fence::FenceStore;
use super::random::mix;
use super::scenario::Scenario;
use super::tap::Tap;
use super::toy::Toy;
use super::wire::{Arrival, Way, Wire};

/// Time that one round of the loop takes besides the guest.
const ROUND_NS: u64 = 4_000;

/// Most time that a request of the disk takes, about.
const MOST_DISK_NS: u64 = 3_000_000;

/// Instructions that a round can execute.
const MOST_EXECUTED: u64 = 400;

/// One host.
pub struct Host {
    /// Its name at fences.
    pub name: String,
    /// Its side of the machine.
    pub replica: Replica,
    /// The machine; on a backup that was not accepted yet, a spare one.
    pub machine: Toy,
    /// What the host side offers.
    pub inbox: Inbox,
    /// The connection it uses, and the way its bytes go.
    pub wire: Option<(usize, Way)>,
    /// Killed.
    pub dead: bool,
    /// Stopped until then.
    pub paused_until: u64,
    /// Slower by this factor.
    pub slowness: u64,
    /// Its state was damaged; the repairs it had seen then.
    pub tainted: Option<u64>,
    /// Since when it waits for its backup to be repaired.
    pub repairing_since: Option<u64>,
    /// What it did that no host may.
    pub wrong: Option<String>,
    /// Everything that it reported.
    pub events: Vec<FtEvent>,
    heard: Tap,
    said: Tap,
    clock_offset: u64,
    next_round: u64,
    finishing: Option<(u64, Next)>,
    ns_per_instruction: u64,
    /// When the disk's requests are complete that the host has done.
    disk_queue: BTreeMap<u64, u64>,
    ended: bool,
}

/// What a finished round brought.
pub struct Round {
    /// Outputs that left.
    pub outputs: Vec<Output>,
}

impl Host {
    /// The host on which the machine starts.
    pub fn primary(index: usize, scenario: &Scenario) -> Self {
        let machine = toy(index, scenario);
        let offset = clock_offset(index);
        let name = host_name(index);
        let replica = Replica::primary(name, pace(), &machine, HostTime(offset));
        Self::with(index, replica, machine, scenario.ns_per_instruction, 0)
    }

    /// A host that waits for a primary at `now`.
    pub fn backup(index: usize, scenario: &Scenario, now: u64) -> Self {
        let host_time = HostTime(now + clock_offset(index));
        let replica = Replica::backup(host_name(index), pace(), host_time);
        let machine = toy(index, scenario);
        Self::with(index, replica, machine, scenario.ns_per_instruction, now)
    }

    fn with(
        index: usize,
        replica: Replica,
        machine: Toy,
        ns_per_instruction: u64,
        now: u64,
    ) -> Self {
        Self {
            name: host_name(index),
            replica,
            machine,
            inbox: Inbox::new(1 << 16),
            wire: None,
            dead: false,
            paused_until: 0,
            slowness: 1,
            tainted: None,
            repairing_since: None,
            wrong: None,
            events: Vec::new(),
            heard: Tap::default(),
            said: Tap::default(),
            clock_offset: clock_offset(index),
            next_round: now,
            finishing: None,
            ns_per_instruction,
            disk_queue: BTreeMap::new(),
            ended: false,
        }
    }

    /// The host's clock.
    pub fn host_time(&self, now: u64) -> HostTime {
        HostTime(now + self.clock_offset)
    }

    /// Its status.
    pub fn status(&self, now: u64) -> Option<FtStatus> {
        self.replica
            .status(Some(&self.machine), self.host_time(now))
    }

    /// When it does something next; none if never.
    pub fn next_event(&self, wires: &[Wire]) -> Option<u64> {
        if self.dead || self.ended {
            return None;
        }
        let mut at = match &self.finishing {
            Some((at, _)) => *at,
            None => {
                let arrival = self
                    .wire
                    .and_then(|(wire, way)| wires[wire].next_arrival(way.other()))
                    .unwrap_or(u64::MAX);
                let offered = !self.inbox.is_empty() && self.replica.is_live();
                let disk = self.disk_queue.values().min().copied();
                if offered {
                    0
                } else {
                    let disk = disk.unwrap_or(u64::MAX);
                    self.next_round.min(arrival).min(disk)
                }
            }
        };
        at = at.max(self.paused_until);
        (at < u64::MAX / 2).then_some(at)
    }

    /// Does what is to be done at `now`; what left, if a round was finished.
    pub fn step(&mut self, wires: &mut [Wire], fences: &FenceStore, now: u64) -> Option<Round> {
        match self.finishing.take() {
            None => {
                self.begin_round(wires, fences, now);
                None
            }
            Some((_, next)) => Some(self.finish_round(wires, next, now)),
        }
    }

    /// Takes what has come and drives the machine.
    fn begin_round(&mut self, wires: &mut [Wire], fences: &FenceStore, now: u64) {
        let time = self.host_time(now);
        if let Some((wire, way)) = self.wire {
            while let Some(arrival) = wires[wire].receive(way.other(), now) {
                match arrival {
                    Arrival::Bytes(bytes) => {
                        if !self.is_turning() {
                            self.heard.hear(&bytes);
                        }
                        self.replica.on_bytes(&bytes, time);
                    }
                    Arrival::Closed => self.replica.on_link_closed(),
                }
            }
        }
        if self.replica.hello().is_some() {
            let fence = fences.fence(&self.name);
            // A refusal ends the backup and reaches the primary; both are looked at later.
            let _refused = self.replica.accept(&self.machine, fence, time);
        }
        self.serve_disk(now);
        let before = self.machine.now();
        let advances = self.machine.advances();
        let was_live = self.replica.is_live();
        let next = match self.replica.state() {
            "listening" | "handshake" if !self.replica.is_live() => self.replica.tick(time),
            _ => self.replica.drive(&mut self.machine, &mut self.inbox, time),
        };
        if !was_live && self.replica.is_live() {
            self.check_inputs();
        }
        let repeated = !was_live && self.machine.advances() != advances;
        if repeated && self.machine.replayable().is_err() {
            self.wrong = Some(format!("{} executes what it cannot repeat", self.name));
        }
        // A restored machine has not executed what it jumped over.
        let executed = self.machine.now().since(before).min(MOST_EXECUTED);
        let cost = ROUND_NS + executed * self.ns_per_instruction * self.slowness;
        self.finishing = Some((now + cost, next));
    }

    /// The host does what the guest asks of the disk at once; it is complete some time later.
    fn serve_disk(&mut self, now: u64) {
        if !self.replica.is_live() || self.replica.end().is_some() {
            self.disk_queue.clear();
            self.machine.disk().forget();
            return;
        }
        let disk = self.machine.disk();
        let under_way: Vec<u64> = disk.under_way().collect();
        self.disk_queue.retain(|id, _| under_way.contains(id));
        for id in under_way {
            let due = self.disk_queue.entry(id).or_insert_with(|| {
                disk.execute(id);
                now + 50_000 + mix(id ^ now) % MOST_DISK_NS
            });
            let completion = Input::Device {
                device: DISK,
                payload: id.to_le_bytes().to_vec(),
            };
            if *due <= now && self.inbox.offer(completion).is_ok() {
                *due = u64::MAX;
            }
        }
    }

    /// Hands on what came of it.
    fn finish_round(&mut self, wires: &mut [Wire], next: Next, now: u64) -> Round {
        if let Some((wire, way)) = self.wire {
            while let Some(bytes) = self.replica.poll_transmit(1 << 16) {
                self.said.hear(&bytes);
                wires[wire].send(way, bytes, now);
            }
            self.check_promises();
            if !self.replica.wants_link() && !matches!(self.replica.state(), "listening") {
                wires[wire].close_way(way, now);
                self.wire = None;
            }
        }
        let outputs = self.replica.take_released(self.host_time(now));
        let permitted = self.host_time(now) < self.replica.permitted_until();
        assert!(
            outputs.is_empty() || permitted,
            "outputs leave as permitted"
        );
        self.events.extend(self.replica.take_events());
        self.next_round = match next {
            Next::Run => now,
            Next::Wait(None) => u64::MAX,
            Next::Wait(Some(at)) => at.0.saturating_sub(self.clock_offset).max(now + 1_000),
            Next::Ended(_) => {
                self.ended = true;
                u64::MAX
            }
        };
        Round { outputs }
    }

    /// Connects it.
    pub fn connect(&mut self, wire: usize, way: Way) {
        self.wire = Some((wire, way));
        (self.heard, self.said) = (Tap::default(), Tap::default());
    }

    /// Whether it takes over, or has ended: it does not listen to its peer any more.
    fn is_turning(&self) -> bool {
        let state = self.replica.state();
        self.replica.end().is_some() || matches!(state, "fencing" | "draining" | "going live")
    }

    /// A backup that goes live has given its machine every input that it was sent, even if it has
    /// to leave the log.
    fn check_inputs(&mut self) {
        let mut taken: Vec<&[u8]> = Vec::new();
        for entry in self.machine.history() {
            if let Event::Input(Input::Device { payload, .. }) = &entry.event {
                taken.push(payload);
            }
        }
        let count = |list: &mut dyn Iterator<Item = &[u8]>, input: &[u8]| {
            list.filter(|other| *other == input).count()
        };
        let lost = self.heard.inputs.iter().find(|input| {
            let heard = count(&mut self.heard.inputs.iter().map(Vec::as_slice), input);
            heard > count(&mut taken.iter().copied(), input)
        });
        if let Some(input) = lost {
            let name = &self.name;
            self.wrong = Some(format!("{name} went live and had lost input {input:?}"));
        }
    }

    /// A backup that is not what its primary is promises nothing.
    fn check_promises(&mut self) {
        if self.replica.state() != "diverged" {
            self.said.repaired();
        } else if self.said.unfounded > 0 {
            self.wrong = Some(format!("{} has diverged and acknowledges", self.name));
        }
    }

    /// The host dies: nothing that was not handed on leaves.
    pub fn kill(&mut self, wires: &mut [Wire], now: u64) {
        self.dead = true;
        if let Some((wire, way)) = self.wire.take() {
            wires[wire].close_way(way, now);
        }
    }

    /// The host loses its power: what was under way from it is lost.
    pub fn lose_power(&mut self, wires: &mut [Wire]) {
        self.dead = true;
        if let Some((wire, way)) = self.wire.take() {
            wires[wire].lose(way);
        }
    }
}

/// The machine of a host.
fn toy(index: usize, scenario: &Scenario) -> Toy {
    match scenario.exact {
        true => Toy::new(scenario.busy),
        false => Toy::inexact(scenario.busy, index as u64),
    }
}

/// Slices of half a millisecond: fewer rounds to simulate. Deltas take several steps: the machine
/// writes a few pages all the time.
fn pace() -> Pace {
    Pace {
        slice_ns: 500_000,
        least_ns: 0,
        linger_ns: 20_000,
        max_instructions: 150,
        delta_pages: 2,
    }
}

/// A host's name at fences.
fn host_name(index: usize) -> String {
    format!("host {index}")
}

/// No two hosts' clocks have the same zero.
fn clock_offset(index: usize) -> u64 {
    (index as u64 + 1) * 7_777_777_777_777
}
