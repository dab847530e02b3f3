//! What a backend can do on this host, and which modes of protection follow.
//!
//! Capabilities are found out by trying, never assumed from a processor's name. The software
//! backend needs nothing of its host, so its answers are the same everywhere; the tests in
//! `hypervisor/tests` are what backs each of them. Those of KVM are what its probes find.

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

/// A measured value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// The value.
    pub value: u64,
    /// Its unit.
    pub unit: &'static str,
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
    /// What was measured, if something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figure: Option<Figure>,
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
    /// Whether it can run a stock kernel here.
    pub usable: bool,
    /// Why, or what is missing.
    pub reason: String,
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
            figure: None,
        };
        let cannot = |name, detail: &str| Capability {
            name,
            available: false,
            detail: detail.into(),
            figure: None,
        };
        Self {
            backend: "software",
            usable: true,
            reason: "needs nothing of the host".into(),
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

    /// Those of the KVM backend where it cannot be asked for more.
    fn no_kvm(reason: String) -> Self {
        let answer = |mode| ModeAnswer {
            mode,
            available: false,
            reason: reason.clone(),
        };
        Self {
            backend: "kvm",
            usable: false,
            logical_clock: LogicalClock::Exits,
            capabilities: Vec::new(),
            modes: vec![answer("replay"), answer("checkpoint")],
            reason,
        }
    }

    /// The capabilities as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "backend {}: {}, {}\n",
            self.backend,
            if self.usable { "usable" } else { "not usable" },
            self.reason
        );
        for capability in &self.capabilities {
            let Capability { name, detail, .. } = capability;
            let mark = if capability.available { "yes" } else { "no" };
            text.push_str(&format!("  {name:<30} {mark:<4} {detail}"));
            if let Some(Figure { value, unit }) = capability.figure {
                text.push_str(&format!(" ({value} {unit})"));
            }
            text.push('\n');
        }
        text.push_str("  modes of protection\n");
        for ModeAnswer {
            mode,
            available,
            reason,
        } in &self.modes
        {
            let mark = if *available { "yes" } else { "no" };
            text.push_str(&format!("    {mode:<28} {mark:<4} {reason}\n"));
        }
        text
    }
}

/// The backend that `hypervisor=auto` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Its name.
    pub backend: &'static str,
    /// Why this one.
    pub reason: String,
}

/// What all backends can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostCapabilities {
    /// A backend each.
    pub backends: Vec<Capabilities>,
    /// What follows.
    pub auto: Choice,
}

impl HostCapabilities {
    /// Asks this host. Takes less than two seconds.
    pub fn probe() -> Self {
        Self::of(vec![Capabilities::software(), kvm()])
    }

    /// KVM, if it is usable; software, which always is, otherwise.
    fn of(backends: Vec<Capabilities>) -> Self {
        let kvm = backends.iter().find(|backend| backend.backend == "kvm");
        let auto = match kvm {
            Some(kvm) if kvm.usable => Choice {
                backend: "kvm",
                reason: kvm.reason.clone(),
            },
            Some(kvm) => Choice {
                backend: "software",
                reason: kvm.reason.clone(),
            },
            None => Choice {
                backend: "software",
                reason: "there is no other backend".into(),
            },
        };
        Self { backends, auto }
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let tables: Vec<String> = self.backends.iter().map(Capabilities::table).collect();
        format!(
            "{}\nhypervisor=auto takes {}: {}\n",
            tables.join("\n"),
            self.auto.backend,
            self.auto.reason
        )
    }
}

/// Asks KVM, if there is one.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn kvm() -> Capabilities {
    use crate::kvm::probe::{Depth, probe};
    match probe(Depth::All) {
        Ok(findings) => findings.capabilities(),
        Err(error) => Capabilities::no_kvm(error.to_string()),
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn kvm() -> Capabilities {
    Capabilities::no_kvm("this host is not Linux on x86-64".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_kvm_only_where_it_is_usable() {
        let mut kvm = Capabilities::no_kvm("it is broken".into());
        let host = HostCapabilities::of(vec![Capabilities::software(), kvm.clone()]);
        assert_eq!(host.auto.backend, "software");
        assert_eq!(host.auto.reason, "it is broken");
        let table = host.table();
        assert!(
            table.contains("backend kvm: not usable, it is broken"),
            "{table}"
        );
        assert!(
            table.ends_with("hypervisor=auto takes software: it is broken\n"),
            "{table}"
        );
        kvm.usable = true;
        let host = HostCapabilities::of(vec![Capabilities::software(), kvm]);
        assert_eq!(host.auto.backend, "kvm");
    }
}
