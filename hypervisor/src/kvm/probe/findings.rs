//! What the probes found, and what follows from it.

use crate::capabilities::{Capabilities, Capability, Figure, LogicalClock, ModeAnswer};

use super::Unusable;

/// One question that a small guest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The parts of KVM's interface that the backend is built on.
    Interface,
    /// Does code in ring 0 run at speed?
    KernelSpeed,
    /// Do the instructions run that a stock kernel executes?
    Instructions,
    /// Does code in ring 3 run at speed?
    UserSpeed,
    /// What does an exit cost in ring 0?
    KernelExit,
    /// What does an exit cost in ring 3?
    UserExit,
    /// Does a hardware breakpoint stop ring 0?
    KernelBreakpoint,
    /// Does a hardware breakpoint stop ring 3?
    UserBreakpoint,
    /// Does a single step stop ring 0?
    KernelStep,
    /// Does a single step stop ring 3?
    UserStep,
    /// Does the time-stamp counter take a value?
    TscOffset,
    /// Does the time-stamp counter take a rate?
    TscScaling,
    /// Can the host count the guest's branches, and with which skid?
    BranchCounter,
    /// Does the bitmap of dirty pages work?
    DirtyLog,
    /// Does the ring of dirty pages work?
    DirtyRing,
    /// Do accesses to unknown registers come to us?
    UserSpaceMsr,
    /// Do accesses to filtered registers come to us?
    MsrFilter,
}

impl Probe {
    /// What it asks for, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::KernelSpeed => "ring 0 at speed",
            Self::Instructions => "a stock kernel's instructions",
            Self::UserSpeed => "ring 3 at speed",
            Self::KernelExit => "port exit in ring 0",
            Self::UserExit => "port exit in ring 3",
            Self::KernelBreakpoint => "breakpoint in ring 0",
            Self::UserBreakpoint => "breakpoint in ring 3",
            Self::KernelStep => "single step in ring 0",
            Self::UserStep => "single step in ring 3",
            Self::TscOffset => "TSC offset",
            Self::TscScaling => "TSC scaling",
            Self::BranchCounter => "guest branch counter",
            Self::DirtyLog => "dirty log",
            Self::DirtyRing => "dirty ring",
            Self::UserSpaceMsr => "user-space MSRs",
            Self::MsrFilter => "MSR filter",
        }
    }
}

/// What a probe says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) works: bool,
    pub(super) detail: String,
    pub(super) figure: Option<Figure>,
}

impl Answer {
    /// Failures in words, those of one kind together: `KIND (NAME, NAME); KIND (NAME)`.
    pub(super) fn grouped(failures: &[(&'static str, String)]) -> String {
        let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, kind) in failures {
            match kinds.iter_mut().find(|(known, _)| known == kind) {
                Some((_, names)) => names.push(name),
                None => kinds.push((kind, vec![name])),
            }
        }
        let texts: Vec<String> = kinds
            .iter()
            .map(|(kind, names)| format!("{kind} ({})", names.join(", ")))
            .collect();
        texts.join("; ")
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The question.
    pub probe: Probe,
    /// Whether the answer is yes.
    pub works: bool,
    /// How, or why not.
    pub detail: String,
    /// What was measured, if something was.
    pub figure: Option<Figure>,
}

/// All answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(pub(super) Vec<Finding>);

/// What a stock Linux kernel needs to run.
const KERNEL_NEEDS: [Probe; 3] = [Probe::Interface, Probe::KernelSpeed, Probe::Instructions];
/// What replay with a count of branches needs.
const REPLAY_NEEDS: [Probe; 7] = [
    Probe::BranchCounter,
    Probe::KernelBreakpoint,
    Probe::UserBreakpoint,
    Probe::KernelStep,
    Probe::UserStep,
    Probe::TscOffset,
    Probe::MsrFilter,
];

impl Findings {
    /// The answer to a question, if it was asked.
    pub fn get(&self, probe: Probe) -> Option<&Finding> {
        self.0.iter().find(|finding| finding.probe == probe)
    }

    /// Whether the answer to a question is yes.
    pub fn has(&self, probe: Probe) -> bool {
        self.get(probe).is_some_and(|finding| finding.works)
    }

    /// What is missing of these, in words; nothing if all are there. What was not asked counts as
    /// missing, but is not worth telling beside a no.
    fn missing(&self, needs: &[Probe]) -> Option<String> {
        let found = needs.iter().filter_map(|probe| self.get(*probe));
        let mut texts: Vec<String> = found
            .filter(|finding| !finding.works)
            .map(|finding| format!("{}: {}", finding.probe.name(), finding.detail))
            .collect();
        if texts.is_empty() {
            let absent = needs.iter().filter(|probe| self.get(**probe).is_none());
            texts.extend(absent.map(|probe| format!("{}: not probed", probe.name())));
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Whether a stock kernel can run.
    ///
    /// # Errors
    /// What is missing for that.
    pub fn stock_kernel(&self) -> Result<(), Unusable> {
        match self.missing(&KERNEL_NEEDS) {
            None => Ok(()),
            Some(missing) => Err(Unusable::StockKernel(missing)),
        }
    }

    /// The answers as capabilities, and the modes of protection that follow.
    pub fn capabilities(&self) -> Capabilities {
        let usable = self.stock_kernel();
        let capabilities = self.0.iter().map(|finding| Capability {
            name: finding.probe.name(),
            available: finding.works,
            detail: finding.detail.clone(),
            figure: finding.figure,
        });
        Capabilities {
            backend: "kvm",
            usable: usable.is_ok(),
            reason: match &usable {
                Ok(()) => "/dev/kvm runs a stock kernel".into(),
                Err(error) => error.to_string(),
            },
            logical_clock: LogicalClock::Exits,
            capabilities: own_capabilities().into_iter().chain(capabilities).collect(),
            modes: vec![self.replay(), self.checkpoint(usable.is_ok())],
        }
    }

    fn replay(&self) -> ModeAnswer {
        ModeAnswer {
            mode: "replay",
            available: false,
            reason: self.missing(&REPLAY_NEEDS).unwrap_or_else(|| {
                "the host has what it takes, but this build has no branch clock on KVM".into()
            }),
        }
    }

    fn checkpoint(&self, usable: bool) -> ModeAnswer {
        let answer = |available, reason| ModeAnswer {
            mode: "checkpoint",
            available,
            reason,
        };
        if !usable {
            return answer(false, "this KVM does not run a stock kernel".into());
        }
        let told_by = [Probe::DirtyRing, Probe::DirtyLog];
        match told_by.into_iter().find(|probe| self.has(*probe)) {
            Some(probe) => {
                let by = probe.name();
                let reason =
                    format!("a delta of the state and the pages in the {by} closes each epoch");
                answer(true, reason)
            }
            None => answer(false, self.missing(&told_by).unwrap_or_default()),
        }
    }
}

/// What the backend is, wherever it runs.
fn own_capabilities() -> [Capability; 3] {
    let capability = |name, available, detail: &str| Capability {
        name,
        available,
        detail: detail.into(),
        figure: None,
    };
    [
        capability("logical clock", true, "host time spent in the guest"),
        capability("stop at a logical time", false, "at an exit near it"),
        capability("more than one vCPU", false, "one vCPU per machine"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(answers: &[(Probe, bool)]) -> Findings {
        let finding = |(probe, works): &(Probe, bool)| Finding {
            probe: *probe,
            works: *works,
            detail: format!("{works}"),
            figure: None,
        };
        Findings(answers.iter().map(finding).collect())
    }

    #[test]
    fn what_is_missing_for_a_stock_kernel_is_named() {
        let good = KERNEL_NEEDS.map(|probe| (probe, true));
        assert_eq!(found(&good).stock_kernel(), Ok(()));
        for place in 0..good.len() {
            let mut answers = good;
            answers[place].1 = false;
            let error = found(&answers).stock_kernel().unwrap_err().to_string();
            assert!(error.contains(answers[place].0.name()), "{error}");
        }
        let error = found(&good[1..]).stock_kernel().unwrap_err().to_string();
        assert!(error.contains("interface: not probed"), "{error}");
    }

    #[test]
    fn failures_of_one_kind_are_told_together() {
        let failures = [("a", "x"), ("b", "y"), ("c", "x")];
        let failures = failures.map(|(name, kind)| (name, kind.to_owned()));
        assert_eq!(Answer::grouped(&failures), "x (a, c); y (b)");
    }

    #[test]
    fn checkpoints_take_the_ring_or_the_log() {
        let told = |ring, log| {
            let mut answers = KERNEL_NEEDS.map(|probe| (probe, true)).to_vec();
            answers.extend([(Probe::DirtyLog, log), (Probe::DirtyRing, ring)]);
            let mode = found(&answers).capabilities().modes.remove(1);
            (mode.available, mode.reason)
        };
        for (ring, log, available, text) in [
            (true, true, true, "in the dirty ring"),
            (false, true, true, "in the dirty log"),
            (false, false, false, "dirty ring: false; dirty log: false"),
        ] {
            let (is, reason) = told(ring, log);
            assert!(is == available && reason.contains(text), "{reason}");
        }
    }

    #[test]
    fn each_mode_that_is_not_there_says_what_is_missing() {
        let all = found(&REPLAY_NEEDS.map(|probe| (probe, probe != Probe::UserStep)));
        let modes = all.capabilities().modes;
        assert_eq!(modes[0].mode, "replay");
        assert_eq!(modes[0].reason, "single step in ring 3: false");
        assert!(modes[1].reason.contains("does not run"), "{modes:?}");
    }
}
