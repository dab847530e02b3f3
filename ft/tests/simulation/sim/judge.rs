//! What must be true of a life at its end, and what is told of it.

use ft::fence::{Claim, ClaimKind};
use ft::log::Event;
use ft::machine::Machine;
use ft::status::{End, FtEvent, FtStatus};
use ft::time::{Generation, LogicalTime};

use super::disk::DISK;
use super::runner::{Life, Summary};
use super::scenario::{Fault, MS};
use super::toy::{NET, Toy};
use super::wire::Damage;

/// How far a clock may be off: the guest sleeps for up to four milliseconds.
const ALLOWED_CLOCK_MS: i64 = 6;
/// What each failover may add: a backup knows its primary's clock to within the replay's lag.
const ALLOWED_FAILOVER_CLOCK_MS: i64 = 12;
/// How far a backup may be behind at the end: a little more than makes the primary rest noticeably.
const ALLOWED_LAG_MS: f64 = 100.0;

/// How long a repair may take: some times the way there and back.
const MOST_REPAIR: u64 = 60 * MS;

impl Life {
    /// What must be true at the end.
    pub(super) fn judge(&mut self) -> Result<Summary, String> {
        let mut summary = self.summary();
        if summary.divergences > 0 && !self.flipped {
            return Err("the backup has diverged and nothing was damaged".into());
        }
        self.judge_fenced()?;
        if self.powered_off {
            return Ok(summary);
        }
        let live: Vec<usize> = (0..self.hosts.len())
            .filter(|index| self.is_live(*index))
            .collect();
        match live.as_slice() {
            [] => {
                self.judge_loss()?;
                Ok(Summary {
                    lost: true,
                    ..summary
                })
            }
            [index] => {
                self.judge_survivor(*index)?;
                let machine = &self.hosts[*index].machine;
                summary.frames = machine.inputs_of(NET);
                summary.disk_requests = machine.inputs_of(DISK);
                summary.clock_error_ms = self.judge_clock(*index, &summary)?;
                Ok(summary)
            }
            _ => Err(format!("hosts {live:?} are live at the end")),
        }
    }

    /// Whether a host executes for real and may let outputs go.
    fn is_live(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        !host.dead
            && host.replica.is_live()
            && host.replica.end().is_none()
            && host.replica.state() != "fencing"
    }

    /// Whoever relieves its peer is not live by itself: the peer does not halt because of it.
    fn judge_fenced(&self) -> Result<(), String> {
        for host in &self.hosts {
            let pair = host.replica.generation();
            let halted = host.events.iter().any(|event| {
                matches!(event, FtEvent::Fenced { generation, .. }
                    if *generation == pair.plus(1) && self.fences.is_relief(*generation))
            });
            if halted {
                return Err(format!("{} has halted because of a relief", host.name));
            }
        }
        Ok(())
    }

    /// Nobody is live: that is right only if whoever could be is dead.
    fn judge_loss(&self) -> Result<(), String> {
        if self.was_covered && self.harms == 1 {
            return Err("the machine is lost, although it was protected and one host died".into());
        }
        let latest = self.fences.latest();
        let live = latest.filter(|claim| claim.kind == ClaimKind::Live);
        let owner = live.map(|claim| claim.owner);
        for host in self.hosts.iter().filter(|host| !host.dead) {
            match host.replica.end() {
                // Nothing of its primary's opening has come; it waits for longer than a life is.
                None if host.replica.state() == "listening" => {}
                // A page may be found to be unreadable at the very end.
                None if host.replica.state() == "going live" => {}
                None => {
                    let state = host.replica.state();
                    return Err(format!(
                        "{} is not live, but {state}, and nobody else is",
                        host.name
                    ));
                }
                Some(End::Failed(text)) if text.contains("unreadable") => {}
                Some(End::Failed(text)) if !text.contains("clone") && host.name == "host 0" => {
                    return Err(format!("{} failed: {text}", host.name));
                }
                Some(_) if owner.as_deref() == Some(&host.name) => {
                    return Err(format!("{} has won the fence and ended", host.name));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The one that is live: it tells the truth, has answered everybody, and its life is one that
    /// a machine can have.
    fn judge_survivor(&mut self, index: usize) -> Result<(), String> {
        let now = self.now;
        let host = &self.hosts[index];
        let status = host.status(now).ok_or("no status")?;
        if let Some(claim) = self.fences.latest()
            && !allows(&claim, &host.name, status.generation)
        {
            let generation = status.generation;
            return Err(format!(
                "{} is live in {generation}, the fence says {claim:?}",
                host.name
            ));
        }
        if !self.world.forgiven && !self.may_be_held_up() && self.world.open_requests() > 0 {
            return Err(format!(
                "{} requests have no answer",
                self.world.open_requests()
            ));
        }
        self.judge_protection(&status)?;
        if self.world.forgiven {
            return Ok(());
        }
        self.judge_history(index)
    }

    /// A frame whose length was damaged holds up what is behind it until as many bytes have come,
    /// or until the primary gives its backup up, which takes longer than a life is.
    fn may_be_held_up(&self) -> bool {
        let mut faults = self.scenario.faults.iter();
        faults.any(|(_, fault)| matches!(fault, Fault::Damage(_, Damage::Flip)))
    }

    /// The survivor's clock shows the time since the machine was started, whoever ran it meanwhile.
    fn judge_clock(&self, index: usize, summary: &Summary) -> Result<i64, String> {
        let shown = self.hosts[index].machine.virtual_ns() as i64;
        let error_ms = (shown - self.now as i64) / MS as i64;
        let allowed = ALLOWED_CLOCK_MS + summary.promotions as i64 * ALLOWED_FAILOVER_CLOCK_MS;
        // A backup that was cut off or stopped knows less of its primary's clock.
        let unhindered = !self
            .scenario
            .faults
            .iter()
            .any(|(_, fault)| hinders(*fault));
        let unhindered = unhindered && !self.may_be_held_up();
        let judged = unhindered && !self.rested && !self.world.forgiven;
        if judged && error_ms.abs() > allowed {
            return Err(format!("the survivor's clock is off by {error_ms} ms"));
        }
        Ok(error_ms)
    }

    /// A protected survivor has a backup that follows, with every divergence repaired.
    fn judge_protection(&self, status: &FtStatus) -> Result<(), String> {
        // Damage that nobody writes may be found at the very end.
        let unrepaired = self.hosts.iter().any(|host| {
            let since = host.repairing_since.filter(|_| !host.dead);
            since.is_some_and(|since| self.now - since > MOST_REPAIR)
        });
        if status.state == "repairing" && unrepaired {
            return Err("a divergence is not repaired".into());
        }
        if status.state != "protected" {
            return Ok(());
        }
        // Damage that nobody writes may be found at the very end.
        let follows = self.hosts.iter().any(|host| {
            let state = host.replica.state();
            state == "replaying" || state == "following" || (self.flipped && state == "diverged")
        });
        if !follows {
            return Err("the survivor says it is protected, and nobody replays".into());
        }
        let behind = status.lag.epochs > 10 && status.lag.ms > ALLOWED_LAG_MS;
        let behind = behind && !self.may_be_held_up();
        // Damage that is found late may spoil every epoch of a guest that sleeps a lot.
        let none_verified = status.positions.epochs_verified == 0 && !self.flipped;
        if none_verified || behind {
            return Err(format!(
                "the backup does not follow: {:?}",
                status.positions
            ));
        }
        Ok(())
    }

    /// A fresh machine, given the survivor's inputs, puts out what the world has seen and ends in
    /// the survivor's state.
    fn judge_history(&self, index: usize) -> Result<(), String> {
        let survivor = &self.hosts[index].machine;
        let mut reference = Toy::new(self.scenario.busy);
        let mut outputs = Vec::new();
        let mut reach = |machine: &mut Toy, at: LogicalTime| {
            while machine.now() < at {
                let before = machine.now();
                machine.advance(at);
                let fresh = machine.take_outputs();
                if machine.now() == before && fresh.is_empty() {
                    return Err(format!("the reference stands still at {before}"));
                }
                outputs.extend(fresh);
            }
            Ok(())
        };
        for entry in survivor.history() {
            reach(&mut reference, entry.at)?;
            if let Event::Input(input) = &entry.event {
                reference.inject(input).map_err(|error| error.to_string())?;
            }
        }
        reach(&mut reference, survivor.now())?;
        for (number, seen) in self.world.outputs().enumerate() {
            if outputs
                .get(number)
                .is_none_or(|output| output.payload != seen)
            {
                return Err(format!("output {} is not the reference's", number + 1));
            }
        }
        if reference.sections() != survivor.sections() {
            return Err("the survivor's state is not the reference's".into());
        }
        if let Some(page) = survivor.differing_page(&reference) {
            return Err(format!("the survivor's page {page} is not the reference's"));
        }
        Ok(())
    }

    /// Counts what happened.
    fn summary(&self) -> Summary {
        let mut summary = Summary {
            answered: self.world.answered,
            repeated: self.world.repeated,
            ..Summary::default()
        };
        for host in &self.hosts {
            summary.states.push(match host.dead {
                true => "dead".into(),
                false => host.replica.state().into(),
            });
            for event in &host.events {
                match event {
                    FtEvent::Promoted { phases, .. } => {
                        summary.promotions += 1;
                        summary.planned += u64::from(phases.planned);
                        summary.failover_ms.push(phases.total_ms);
                    }
                    FtEvent::ProtectionLost { .. } => summary.alone += 1,
                    FtEvent::Fenced { .. } => summary.fenced += 1,
                    FtEvent::Diverged { report } => {
                        summary.divergences += 1;
                        summary.reports.push(report.as_ref().clone());
                    }
                    FtEvent::Throttled { .. } => summary.throttled += 1,
                    FtEvent::Repaired { .. } => summary.repairs += 1,
                    FtEvent::StartFailed { reason } => summary.start_failures.push(reason.clone()),
                    FtEvent::Protected { .. } => summary.protections += 1,
                    _ => {}
                }
            }
            if let Some(status) = host.status(self.now) {
                summary.epochs += status.positions.epochs_verified;
            }
        }
        summary
    }

    /// What the hosts reported, for whoever looks into a failure.
    pub(super) fn report(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for host in &self.hosts {
            let (name, dead, state) = (&host.name, host.dead, host.replica.state());
            let generation = host.replica.generation();
            let at = host.machine.now();
            let end = host.replica.end();
            lines.push(format!(
                "{name}: {state}, generation {generation}, at {at}, dead {dead}, end {end:?}"
            ));
            if let Some(status) = host.status(self.now) {
                lines.push(format!(
                    "{name}: {:?} {:?}",
                    status.positions, status.outputs
                ));
                lines.push(format!("{name}: {:?} {:?}", status.lag, status.clock));
            }
            lines.extend(host.events.iter().map(|event| format!("{name}: {event:?}")));
        }
        lines.push(format!("fence: {:?}", self.fences.latest()));
        lines
    }
}

/// Whether the latest claim lets a host be live in this generation: it is the host's own, or a
/// relief that came to nothing. A start that failed may have left a later one of the host's own.
fn allows(claim: &Claim, host: &str, generation: Generation) -> bool {
    let own = claim.owner == host && claim.generation >= generation;
    let relief = claim.kind == ClaimKind::Relief && claim.generation == generation.plus(1);
    own || relief
}

/// Whether a fault keeps a host from hearing of its peer in time.
fn hinders(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Pause(..) | Fault::Block(..) | Fault::Partition(_) | Fault::Slow(_)
    )
}
