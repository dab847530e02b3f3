//! What the backends can do on this host, as `cloud-hypervisor --capabilities` tells.

use std::time::Duration;

use serde_json::Value;

use crate::command::{Finished, Scratch, run};
use crate::{HarnessError, skip};

/// More than asking may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks for the capabilities as JSON.
///
/// # Errors
/// When the program does not run or does not print JSON.
pub fn capabilities(scratch: &Scratch) -> Result<Value, HarnessError> {
    ask(scratch, &["--capabilities", "--json"])?.json()
}

/// Runs the program with these arguments to its end, which must come soon.
///
/// # Errors
/// When it does not run, or not to its end.
pub fn ask(scratch: &Scratch, arguments: &[&str]) -> Result<Finished, HarnessError> {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    run(scratch, &arguments, LIMIT)
}

/// Why KVM cannot be used here, in the program's words; nothing if it can.
///
/// # Errors
/// As [`capabilities`], or when it does not mention KVM.
pub fn kvm_refusal(scratch: &Scratch) -> Result<Option<String>, HarnessError> {
    let all = capabilities(scratch)?;
    let kvm = backend(&all, "kvm")?;
    if kvm["usable"] == true {
        return Ok(None);
    }
    Ok(Some(kvm["reason"].as_str().unwrap_or_default().to_owned()))
}

/// A folder for a test that needs KVM; none, after saying why, where KVM cannot be used. The bench
/// sets `CHFT_KVM`: there it must be.
///
/// # Errors
/// As [`kvm_refusal`], or when the bench has no KVM.
pub fn scratch_with_kvm(name: &str) -> Result<Option<Scratch>, HarnessError> {
    let scratch = Scratch::new(name)?;
    match kvm_refusal(&scratch)? {
        None => Ok(Some(scratch)),
        Some(reason) if std::env::var_os("CHFT_KVM").is_some() => Err(HarnessError::Broken(reason)),
        Some(reason) => {
            skip(&format!("{name} on KVM: {reason}"));
            Ok(None)
        }
    }
}

/// What a figure of this host's KVM is worth, in words: the bench tells how it runs in `CHFT_KVM`.
pub fn kvm_place() -> &'static str {
    match std::env::var("CHFT_KVM").as_deref() {
        Ok("qemu") => "in the KVM bench, whose processor is emulated",
        _ => "on this host's KVM",
    }
}

/// The part of the capabilities that is about a backend.
///
/// # Errors
/// When there is none.
pub fn backend<'a>(capabilities: &'a Value, name: &str) -> Result<&'a Value, HarnessError> {
    let backends = capabilities["backends"].as_array();
    backends
        .and_then(|all| all.iter().find(|backend| backend["backend"] == name))
        .ok_or_else(|| HarnessError::Broken(format!("no backend {name} in {capabilities}")))
}
