//! Figures of several rounds, in each of which every state is measured once: medians, the worst,
//! and ratios to the unprotected state of the same round.

use std::time::Instant;

use serde_json::{Value, json};
use tests::HarnessError;
use tests::cores;
use tests::measure::{median, number};
use tests::network::Network;
use tests::scenario::{Pair, Protection};

use crate::ratio;

/// How long a peer may be silent: the hosts are one machine here, which may be busy.
const TIMEOUT_MS: u64 = 2000;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name, with its unit last.
    pub name: &'static str,
    /// Whether more of it is better.
    pub more_is_better: bool,
}

/// What is measured, how often, and where.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds.
    pub count: u32,
    /// Release policies; a state for each, beside the unprotected one.
    pub policies: &'static [&'static str],
    /// What `measure` gives.
    pub figures: &'static [Figure],
    /// The one core on which backups run, if they are to have one.
    pub backup_core: Option<usize>,
}

/// One state of the guest's protection, and its measurements: a row for each round, with a value
/// for each figure.
pub struct State {
    name: &'static str,
    rows: Vec<Vec<f64>>,
    log: Vec<Value>,
}

/// Goes through the rounds.
pub struct Rounds {
    figures: &'static [Figure],
    states: Vec<State>,
}

/// The name of the first state: no protection.
const UNPROTECTED: &str = "unprotected";

impl Rounds {
    /// Measures unprotected and under each policy, as `plan` says.
    ///
    /// # Errors
    /// When the guest cannot be protected, or `measure` fails.
    pub fn go_through(
        pair: &mut Pair,
        plan: Plan,
        mut measure: impl FnMut(&Pair) -> Result<Vec<f64>, HarnessError>,
    ) -> Result<Self, HarnessError> {
        let Plan { count, figures, .. } = plan;
        let names = [UNPROTECTED].iter().chain(plan.policies);
        let states = names.map(|&name| State {
            name,
            rows: Vec::new(),
            log: Vec::new(),
        });
        let mut rounds = Self {
            figures,
            states: states.collect(),
        };
        for round in 1..=count {
            for state in &mut rounds.states {
                crate::step(&format!("round {round} of {count}: {}", state.name));
                if state.name == UNPROTECTED {
                    settle();
                    state.rows.push(measure(pair)?);
                    continue;
                }
                let start = json!({"release": state.name, "timeout_ms": TIMEOUT_MS});
                let protection = Protection {
                    start,
                    ..Protection::default()
                };
                let mut protect = || pair.protect(&protection);
                match plan.backup_core {
                    Some(core) => cores::on_one(core, protect)?,
                    None => protect()?,
                }
                settle();
                let (begun, before) = (Instant::now(), pair.primary.ft_status()?);
                state.rows.push(measure(pair)?);
                let after = pair.primary.ft_status()?;
                let seconds = begun.elapsed().as_secs_f64();
                state.log.push(log_by_kind(&before, &after, seconds));
                pair.primary.put("vm.ft-stop", &Value::Null)?;
                drop(pair.backup.take());
            }
        }
        Ok(rounds)
    }

    /// Everything as members of one object.
    pub fn report(&self) -> Value {
        let mut report = json!({});
        for (index, figure) in self.figures.iter().enumerate() {
            let column = |state: &State| -> Vec<f64> {
                state
                    .rows
                    .iter()
                    .filter_map(|row| row.get(index).copied())
                    .collect()
            };
            let Some(base) = self.states.first().map(column) else {
                continue;
            };
            for state in &self.states {
                let values = column(state);
                let key = format!("{}_{}", figure.name, state.name);
                let worst = if figure.more_is_better { "min" } else { "max" };
                report[format!("{key}_{worst}")] = json!(figure.worst(&values));
                report[key] = json!(median(&values));
                if state.name != UNPROTECTED {
                    let pairs = base.iter().zip(&values);
                    let ratios: Vec<f64> =
                        pairs.map(|(base, value)| ratio(*value, *base)).collect();
                    report[format!("{}_ratio_{}", figure.name, state.name)] =
                        json!(median(&ratios));
                }
            }
        }
        for state in &self.states {
            for (kind, value) in log_medians(&state.log) {
                report[format!("log_kbit_s_{}_{kind}", state.name)] = json!(value);
            }
        }
        report
    }
}

impl Figure {
    fn worst(&self, values: &[f64]) -> f64 {
        let pick = if self.more_is_better {
            f64::min
        } else {
            f64::max
        };
        values.iter().copied().reduce(pick).unwrap_or(0.0)
    }
}

/// Log rates by kind between two statuses, in kbit/s.
fn log_by_kind(before: &Value, after: &Value, seconds: f64) -> Value {
    let kinds = after["log"]["bytes_by_kind"].as_object();
    let mut rates = json!({});
    for kind in kinds.into_iter().flat_map(|kinds| kinds.keys()) {
        let pointer = format!("/log/bytes_by_kind/{kind}");
        let bytes = number(after, &pointer) - number(before, &pointer);
        rates[kind] = json!(bytes * 8.0 / 1000.0 / seconds);
    }
    rates
}

fn log_medians(rates: &[Value]) -> Vec<(String, f64)> {
    let kinds = rates.first().and_then(Value::as_object);
    let kinds = kinds.into_iter().flat_map(|kinds| kinds.keys());
    let medians = kinds.map(|kind| {
        let values: Vec<f64> = rates
            .iter()
            .filter_map(|rate| rate[kind].as_f64())
            .collect();
        (kind.clone(), median(&values))
    });
    medians.filter(|(_, value)| *value > 0.0).collect()
}

/// Waits until the host has written what it has in memory, as the disks that were just copied: a
/// moment later it would do so beside what is measured.
fn settle() {
    nix::unistd::sync();
}

/// A network for the guest.
///
/// # Errors
/// When there is none to be had.
pub fn network() -> Result<Network, HarnessError> {
    Network::try_enter()?.map_err(|reason| {
        HarnessError::Broken(format!(
            "the guest needs a network, which takes root: {reason}"
        ))
    })
}
