//! A backend: makes virtual machines.

use std::sync::Arc;

use crate::capabilities::Capabilities;
use crate::memory::GuestMemory;
use crate::vm::Vm;

/// Why a backend could not make a VM.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The backend cannot run as many vCPUs as were asked for.
    #[error("the {backend} backend runs at most {most} vCPU(s), {wanted} were asked for")]
    TooManyVcpus {
        /// Name of the backend.
        backend: &'static str,
        /// The most it can run.
        most: u32,
        /// What was asked for.
        wanted: u32,
    },
}

/// A backend that runs guest CPUs.
pub trait Hypervisor: Send + Sync {
    /// Name as the command line has it.
    fn name(&self) -> &'static str;

    /// What it can do on this host.
    fn capabilities(&self) -> Capabilities;

    /// Makes a VM over `memory` with `vcpus` processors.
    ///
    /// # Errors
    /// When the backend cannot run such a VM.
    fn create_vm(
        &self,
        memory: Arc<GuestMemory>,
        vcpus: u32,
    ) -> Result<Box<dyn Vm>, HypervisorError>;
}
