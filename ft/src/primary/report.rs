//! What a primary tells of itself.

use crate::machine::Machine;
use crate::mode::{Mode, ModeChoice};
use crate::primary::Primary;
use crate::primary::delta::DeltaSender;
use crate::primary::protection::{Phase, Protection};
use crate::status::{End, FtStatus, Lag, LogTraffic, OutputStatus, Positions, Role};
use crate::time::{HostTime, NS_PER_MS};

impl Primary {
    /// Protection, as it stands.
    #[must_use]
    pub fn status(&self, machine: &dyn Machine, now: HostTime) -> FtStatus {
        let protection = self.protection.as_deref();
        let role = match (&self.end, protection) {
            (Some(_), _) => Role::Ended,
            (None, Some(_)) => Role::Primary,
            (None, None) => Role::Unprotected,
        };
        let choice = mode_choice(protection, machine);
        FtStatus {
            role,
            state: self.state_name().into(),
            generation: self.generation,
            mode: choice.mode.name(),
            mode_reason: choice.reason,
            parameters: protection.map(|protection| protection.parameters.clone()),
            epoch: self.recorder.meter().epoch(),
            logical_time: machine.now(),
            positions: protection.map(positions).unwrap_or_default(),
            lag: protection
                .map(|protection| lag(protection, now))
                .unwrap_or_default(),
            log: protection
                .map(|p| LogTraffic::of(p.link.traffic()))
                .unwrap_or_default(),
            checkpoint: protection
                .and_then(Protection::deltas)
                .map(DeltaSender::status),
            outputs: OutputStatus {
                waiting: self.gate.len() as u64,
                released: self.gate.released(),
                added_latency: self.gate.latency(),
            },
            clock: self.recorder.clock_stats(),
            divergences: self.history.divergences,
            repairs: self.history.repairs,
            last_divergence: self.history.last_divergence.clone(),
            last_clone: self.history.last_clone,
            last_failover: self.history.last_failover.clone(),
            throttled: protection.map(|p| p.throttle(now)).unwrap_or_default(),
            error: self.error(),
        }
    }

    /// What keeps this side from going on, or why it ended.
    fn error(&self) -> Option<String> {
        match (
            &self.end,
            self.protection
                .as_deref()
                .map(|protection| &protection.phase),
        ) {
            (Some(End::Fenced(text) | End::Failed(text)), _) => Some(text.clone()),
            (_, Some(Phase::Fencing(attempt, _))) => attempt.error().map(str::to_owned),
            _ => None,
        }
    }
}

/// The mode of a protection, or what would be chosen for one.
fn mode_choice(protection: Option<&Protection>, machine: &dyn Machine) -> ModeChoice {
    let reason = protection.map(|protection| protection.mode_reason.clone());
    let mode = protection.map_or(Mode::Auto, |protection| protection.parameters.mode);
    match (reason, mode.choose(machine)) {
        (Some(reason), _) => ModeChoice { mode, reason },
        (None, Ok(choice)) => choice,
        (None, Err(error)) => ModeChoice {
            mode,
            reason: error.reason,
        },
    }
}

/// How far log and backup are.
fn positions(protection: &Protection) -> Positions {
    Positions {
        recorded: protection.position(),
        received: protection.ack.received,
        replayed: protection.ack.replayed,
        verified: protection.ack.verified,
        epochs_verified: protection.epochs_verified,
    }
}

/// How far the backup is behind.
fn lag(protection: &Protection, now: HostTime) -> Lag {
    Lag {
        epochs: protection.unverified.len() as u64,
        ms: protection.lag_ns(now) as f64 / NS_PER_MS as f64,
        replayed: protection.lag.summary(),
    }
}
