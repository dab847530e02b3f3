//! What a backend can do on this host, and which modes of protection follow.
//!
//! Capabilities are found out by trying, never assumed from a processor's name. The software
//! backend needs nothing of its host, so its answers are the same everywhere; the tests in
//! `hypervisor/tests` are what backs each of them.

use serde::Serialize;

/// How a backend tells the position in guest execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogicalClock {
    /// Every retired instruction is counted.
    Instructions,
    /// Retired branches, with the registers, tell instructions apart.
    Branches,
    /// Only exits are at a known position.
    Exits,
}

/// One thing a backend can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// What.
    pub name: &'static str,
    /// Whether it can.
    pub available: bool,
    /// How it is done, or what is missing.
    pub detail: String,
}

/// Whether a mode of protection can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModeAnswer {
    /// The mode.
    pub mode: &'static str,
    /// Whether it can be used.
    pub available: bool,
    /// Why, or what is missing.
    pub reason: String,
}

/// What a backend can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The backend.
    pub backend: &'static str,
    /// Its clock.
    pub logical_clock: LogicalClock,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// The modes that follow.
    pub modes: Vec<ModeAnswer>,
}

impl Capabilities {
    /// Those of the software backend.
    pub fn software() -> Self {
        let can = |name, detail: &str| Capability {
            name,
            available: true,
            detail: detail.into(),
        };
        let cannot = |name, detail: &str| Capability {
            name,
            available: false,
            detail: detail.into(),
        };
        Self {
            backend: "software",
            logical_clock: LogicalClock::Instructions,
            capabilities: vec![
                can("logical clock", "every retired instruction is counted"),
                can("stop at a logical time", "exact"),
                can("time-stamp counter control", "a function of logical time"),
                can("single step", "in every ring"),
                can("hardware breakpoints", "64 places, execute and write"),
                can("guest debug in ring 3", "as in ring 0"),
                can("dirty log", "4 KiB pages"),
                cannot(
                    "dirty ring",
                    "not needed: the log costs nothing while nobody asks",
                ),
                cannot("more than one vCPU", "one vCPU per machine"),
            ],
            modes: vec![
                ModeAnswer {
                    mode: "replay",
                    available: true,
                    reason: "the clock is exact and every source of nondeterminism is derived or \
                             recorded"
                        .into(),
                },
                ModeAnswer {
                    mode: "checkpoint",
                    available: true,
                    reason: "pages written and the whole state can be copied at any instruction"
                        .into(),
                },
            ],
        }
    }

    /// Those of KVM on a host whose counter runs at `host_khz` and can be scaled or not, as far as
    /// they follow from what this backend is.
    pub fn kvm(host_khz: u32, scales: bool) -> Self {
        let capability = |name, available, detail: String| Capability {
            name,
            available,
            detail,
        };
        let frequency = if scales {
            "any, the host's is scaled".to_owned()
        } else {
            format!("that of the host, {host_khz} kHz")
        };
        Self {
            backend: "kvm",
            logical_clock: LogicalClock::Exits,
            capabilities: vec![
                capability("logical clock", true, "host time spent in the guest".into()),
                capability("stop at a logical time", false, "at an exit near it".into()),
                capability("time-stamp counter frequency", true, frequency),
                capability("hardware breakpoints", true, "4 places".into()),
                capability("dirty log", true, "4 KiB pages".into()),
                capability("more than one vCPU", false, "one vCPU per machine".into()),
            ],
            modes: vec![
                ModeAnswer {
                    mode: "replay",
                    available: false,
                    reason: "KVM does not tell where a guest is at a logical time".into(),
                },
                ModeAnswer {
                    mode: "checkpoint",
                    available: false,
                    reason: "not built yet".into(),
                },
            ],
        }
    }

    /// The capabilities as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!("backend {}\n", self.backend);
        for Capability {
            name,
            available,
            detail,
        } in &self.capabilities
        {
            let mark = if *available { "yes" } else { "no" };
            text.push_str(&format!("  {name:<28} {mark:<4} {detail}\n"));
        }
        text.push_str("modes of protection\n");
        for ModeAnswer {
            mode,
            available,
            reason,
        } in &self.modes
        {
            let mark = if *available { "yes" } else { "no" };
            text.push_str(&format!("  {mode:<28} {mark:<4} {reason}\n"));
        }
        text
    }
}
