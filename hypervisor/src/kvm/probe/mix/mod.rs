//! Whether the instructions run that a stock kernel executes in ring 0, as it is compiled: small
//! programs, each with a known result. An emulator lacks some of them; hardware runs all.

mod plain;
mod system;

use super::ProbeError;
use super::findings::Answer;
use super::guest::{Guest, Host, Ring, Stop};

/// What reads of ports and device registers are answered with.
const ANSWER: u64 = 0x0123_4567_89ab_cdef;

/// A program's name, and what came instead of what should.
type Failure = (&'static str, String);

/// A program and what should come of it.
struct Case {
    name: &'static str,
    code: &'static [u8],
    /// Exits on the way.
    stops: Vec<Stop>,
    /// RAX in the end; none if it does not get there.
    result: Option<u64>,
}

impl Case {
    /// A program that runs to its end.
    fn computes(name: &'static str, code: &'static [u8], result: u64) -> Self {
        Self {
            name,
            code,
            stops: Vec::new(),
            result: Some(result),
        }
    }

    /// A program that stops there.
    fn stops(name: &'static str, code: &'static [u8], stop: Stop) -> Self {
        Self {
            name,
            code,
            stops: vec![stop],
            result: None,
        }
    }

    /// Runs it; says what came instead of what should.
    fn run(&self, guest: &mut Guest) -> Result<Option<String>, ProbeError> {
        guest.load(self.code, Ring::Kernel, 0)?;
        guest.answer = ANSWER;
        for wanted in &self.stops {
            let stop = guest.run()?;
            if stop != *wanted {
                return Ok(Some(format!("{stop} instead of {wanted}")));
            }
        }
        let Some(result) = self.result else {
            return Ok(None);
        };
        let stop = guest.run()?;
        if stop != Stop::Done {
            return Ok(Some(stop.to_string()));
        }
        let value = guest.rax()?;
        Ok((value != result).then(|| format!("{value:#x} instead of {result:#x}")))
    }
}

/// Runs all programs.
pub(super) fn runs(host: &Host) -> Result<Answer, ProbeError> {
    let mut cases = plain::cases();
    if host.has_xsave() {
        cases.push(plain::xsave());
    }
    cases.extend(system::cases());
    let failures = host.with_guest(|guest| failures(host, guest, &cases))?;
    Ok(Answer {
        works: failures.is_empty(),
        detail: if failures.is_empty() {
            format!("{} programs with a kernel's instructions ran", cases.len())
        } else {
            Answer::grouped(&failures)
        },
        figure: None,
    })
}

fn failures(host: &Host, guest: &mut Guest, cases: &[Case]) -> Result<Vec<Failure>, ProbeError> {
    let mut failures = Vec::new();
    for case in cases {
        let failure = match case.run(guest) {
            Ok(None) => continue,
            Ok(Some(failure)) => failure,
            Err(ProbeError::OutOfTime) => return Err(ProbeError::OutOfTime),
            Err(error) => error.to_string(),
        };
        failures.push((case.name, failure));
        // What KVM gave up on may not run again.
        *guest = Guest::new(host)?;
    }
    Ok(failures)
}
