//! The one place that chooses the backend which runs a guest's processor.

use std::sync::Arc;

use api_client::types::HypervisorChoice;
use hypervisor::software::SoftwareHypervisor;
use hypervisor::{Hypervisor, HypervisorError};

/// A backend, as a configuration asks for one. `auto` takes KVM where that can really run a stock
/// kernel, which is found out by small guests.
///
/// # Errors
/// When the one that is asked for by name cannot be had here.
pub fn choose(choice: HypervisorChoice) -> Result<Arc<dyn Hypervisor>, HypervisorError> {
    match choice {
        HypervisorChoice::Auto => Ok(kvm().unwrap_or_else(|error| {
            log::info!("hypervisor=auto takes software: {error}");
            Arc::new(SoftwareHypervisor)
        })),
        HypervisorChoice::Software => Ok(Arc::new(SoftwareHypervisor)),
        HypervisorChoice::Kvm => kvm(),
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn kvm() -> Result<Arc<dyn Hypervisor>, HypervisorError> {
    use hypervisor::kvm::{KvmHypervisor, probe};

    probe::stock_kernel().map_err(|error| HypervisorError::Unavailable {
        backend: "kvm",
        reason: error.to_string(),
    })?;
    Ok(Arc::new(KvmHypervisor::open()?))
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn kvm() -> Result<Arc<dyn Hypervisor>, HypervisorError> {
    Err(HypervisorError::Unavailable {
        backend: "kvm",
        reason: "this build is for another kind of host".to_owned(),
    })
}

/// The choice that takes the backend of this name.
pub fn named(name: &str) -> HypervisorChoice {
    match name {
        "kvm" => HypervisorChoice::Kvm,
        _ => HypervisorChoice::Software,
    }
}
