//! Finds out what this host's `/dev/kvm` can do by running small guests, never by names.
//!
//! KVM is not the same everywhere: the processor may lack a feature, the kernel may be old, and
//! `/dev/kvm` may itself be emulated, with an interface that accepts what it does not do. So every
//! answer comes from a guest whose result is known. The probes share nothing but the deadline:
//! what one breaks or leaves changed in its VM, no other gets to see.
//!
//! ```text
//! probe() ──▶ thread: for each probe: guest ─ run ─ answer ──▶ findings ──▶ verdict, modes
//!    └── wakes every few ms, interrupts a run that is over its time
//! ```
//!
//! Spec: the KVM API of Linux 6.12.

mod debug;
mod dirty;
mod findings;
mod guest;
mod mix;
mod msr;
mod pmu;
mod program;
mod speed;
mod tsc;
mod watch;

use std::ffi::CStr;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvm_ioctls::Kvm;

use super::host::Offer;

pub use findings::{Finding, Findings, Probe};

use findings::Answer;
use guest::{Host, Ring, Stop};

/// All probes together take no longer, and a little for a thread that hangs.
const LIMIT: Duration = Duration::from_millis(1800);

/// Why a probe has no answer.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// KVM refused something.
    #[error("cannot {action}: {source}")]
    Kvm {
        /// What.
        action: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// The host refused something else.
    #[error("cannot {action}: {source}")]
    Host {
        /// What.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The guest stopped before it was done.
    #[error("the guest ends in {0}")]
    Stopped(Stop),
    /// There is no time left.
    #[error("there was no time left")]
    OutOfTime,
    /// Something that should not fail.
    #[error("{0}")]
    Unexpected(String),
}

impl ProbeError {
    /// An error of KVM, with what was tried.
    fn kvm(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { action, source }
    }

    /// The last error of the host, with what was tried.
    fn host(action: &'static str) -> Self {
        let source = io::Error::last_os_error();
        Self::Host { action, source }
    }
}

/// Why the KVM backend cannot be used on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no `/dev/kvm`, or this user may not open it.
    #[error("cannot open /dev/kvm: {0}")]
    Device(String),
    /// The probing itself failed.
    #[error("cannot probe /dev/kvm: {0}")]
    Failed(String),
    /// It opens, but does not carry a guest.
    #[error("this /dev/kvm does not run a stock kernel ({0})")]
    StockKernel(String),
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What decides whether a stock kernel can run, up to the first no.
    StockKernel,
    /// Everything.
    All,
}

type Ask = fn(&Host) -> Result<Answer, ProbeError>;

/// The first of these decide whether a stock kernel can run.
const DECIDING: usize = 3;
const PROBES: [(Probe, Ask); 17] = [
    (Probe::Interface, interface),
    (Probe::KernelSpeed, |host| speed::turns(host, Ring::Kernel)),
    (Probe::Instructions, mix::runs),
    (Probe::UserSpeed, |host| speed::turns(host, Ring::User)),
    (Probe::KernelExit, |host| speed::exits(host, Ring::Kernel)),
    (Probe::UserExit, |host| speed::exits(host, Ring::User)),
    (Probe::KernelBreakpoint, |host| {
        debug::breakpoint(host, Ring::Kernel)
    }),
    (Probe::UserBreakpoint, |host| {
        debug::breakpoint(host, Ring::User)
    }),
    (Probe::KernelStep, |host| debug::step(host, Ring::Kernel)),
    (Probe::UserStep, |host| debug::step(host, Ring::User)),
    (Probe::TscOffset, tsc::offset),
    (Probe::TscScaling, tsc::scaling),
    (Probe::BranchCounter, pmu::branches),
    (Probe::DirtyLog, dirty::bitmap),
    (Probe::DirtyRing, dirty::ring),
    (Probe::UserSpaceMsr, msr::user_space),
    (Probe::MsrFilter, msr::filter),
];

/// Asks this host's KVM. Takes less than two seconds, whatever it does.
///
/// # Errors
/// When there is nothing to ask.
pub fn probe(depth: Depth) -> Result<Findings, Unusable> {
    probe_at(c"/dev/kvm", depth)
}

fn probe_at(path: &CStr, depth: Depth) -> Result<Findings, Unusable> {
    let kvm = Kvm::new_with_path(path).map_err(|error| Unusable::Device(error.to_string()))?;
    let asked = match depth {
        Depth::StockKernel => &PROBES[..DECIDING],
        Depth::All => &PROBES[..],
    };
    // Shared, so that the answers outlive a thread that hangs.
    let findings = Arc::new(Mutex::new(Vec::new()));
    let filled = findings.clone();
    let ended = watch::run_within(LIMIT, move |watch| {
        let host = Host::new(kvm, watch.clone());
        for (probe, ask) in asked {
            let answer = match &host {
                _ if watch.is_over() => Err(ProbeError::OutOfTime),
                Ok(host) => ask(host),
                Err(error) => Err(ProbeError::Unexpected(error.to_string())),
            };
            let finding = finding(*probe, answer);
            log::debug!("KVM probe: {finding:?} after {:?}", watch.elapsed());
            let decided = depth == Depth::StockKernel && !finding.works;
            lock(&filled).push(finding);
            if decided {
                break;
            }
        }
    });
    let mut findings = std::mem::take(&mut *lock(&findings));
    match ended {
        Ok(()) => {}
        Err(ProbeError::OutOfTime) => {
            for (probe, _) in &asked[findings.len()..] {
                findings.push(finding(*probe, Err(ProbeError::OutOfTime)));
            }
        }
        Err(error) => return Err(Unusable::Failed(error.to_string())),
    }
    Ok(Findings(findings))
}

fn lock(findings: &Mutex<Vec<Finding>>) -> std::sync::MutexGuard<'_, Vec<Finding>> {
    // A list of answers is whole at any time.
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finding(probe: Probe, answer: Result<Answer, ProbeError>) -> Finding {
    let answer = answer.unwrap_or_else(|error| Answer {
        works: false,
        detail: error.to_string(),
        figure: None,
    });
    Finding {
        probe,
        works: answer.works,
        detail: answer.detail,
        figure: answer.figure,
    }
}

/// Whether this host's KVM runs a stock kernel.
///
/// # Errors
/// Why it does not.
pub fn stock_kernel() -> Result<(), Unusable> {
    probe(Depth::StockKernel)?.stock_kernel()
}

/// Whether KVM has what the backend asks of it, and its processor what our guests' model has.
fn interface(host: &Host) -> Result<Answer, ProbeError> {
    let (works, detail) = match Offer::of(&host.kvm) {
        Ok(offer) => {
            let scaled = if offer.scales { ", scaled" } else { "" };
            (
                true,
                format!("all there; the counter has {} kHz{scaled}", offer.host_khz),
            )
        }
        Err(error) => (false, error.to_string()),
    };
    Ok(Answer {
        works,
        detail,
        figure: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_device_says_so() {
        let error = probe_at(c"/dev/kvm-is-not-here", Depth::All).unwrap_err();
        assert!(matches!(error, Unusable::Device(_)), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn a_device_that_is_no_kvm_answers_no_to_everything() {
        let findings = probe_at(c"/dev/null", Depth::All).unwrap();
        assert!(findings.stock_kernel().is_err());
        for (probe, _) in PROBES {
            let finding = findings.get(probe).unwrap();
            assert!(!finding.works, "{finding:?}");
        }
        let quick = probe_at(c"/dev/null", Depth::StockKernel).unwrap();
        assert_eq!(quick.0.len(), 1, "{quick:?}");
        assert!(quick.stock_kernel().is_err());
    }

    #[test]
    fn the_deciding_probes_come_first() {
        let deciding = PROBES[..DECIDING].iter().map(|(probe, _)| *probe);
        let all = deciding.map(|probe| finding(probe, yes()));
        assert_eq!(Findings(all.collect()).stock_kernel(), Ok(()));
    }

    fn yes() -> Result<Answer, ProbeError> {
        Ok(Answer {
            works: true,
            detail: String::new(),
            figure: None,
        })
    }
}
