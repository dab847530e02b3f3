//! A backend: makes virtual machines.

use std::sync::Arc;

use crate::capabilities::Capabilities;
use crate::cpu_model::DEFAULT_TSC_KHZ;
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
    /// The host has no such backend, or what it has lacks something that it needs.
    #[error("{backend} cannot be used here: {reason}")]
    Unavailable {
        /// Name of the backend.
        backend: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A request to the host failed.
    #[error("{backend} cannot {request}")]
    Host {
        /// Name of the backend.
        backend: &'static str,
        /// What was asked for.
        request: &'static str,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The processor does not take its first state.
    #[error("{backend} cannot set up a processor")]
    Vcpu {
        /// Name of the backend.
        backend: &'static str,
        /// Why.
        #[source]
        source: Box<crate::vcpu::VcpuError>,
    },
    /// The host's processor lacks features of the common model.
    #[error("the host's processor lacks what the guest's has: {}", .missing.join(", "))]
    Features {
        /// The features by name.
        missing: Vec<String>,
    },
    /// The machine's time-stamp counter runs at a frequency that this host's cannot be brought to.
    #[error(
        "the {backend} backend's time-stamp counter runs at {offered} kHz here, the machine's at \
         {wanted} kHz"
    )]
    TscFrequency {
        /// Name of the backend.
        backend: &'static str,
        /// Frequency of this host's counter, in kHz.
        offered: u32,
        /// Frequency of the machine's, in kHz.
        wanted: u32,
    },
}

/// What a VM is to have, besides its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSpec {
    /// Processors.
    pub vcpus: u32,
    /// Frequency of their time-stamp counters, in kHz.
    pub tsc_khz: u32,
}

/// A backend that runs guest CPUs.
pub trait Hypervisor: Send + Sync {
    /// Name as the command line has it.
    fn name(&self) -> &'static str;

    /// What it can do on this host.
    fn capabilities(&self) -> Capabilities;

    /// Frequency that the time-stamp counters of new machines should have here, in kHz: the usual
    /// one wherever the backend can give it.
    fn tsc_khz(&self) -> u32 {
        DEFAULT_TSC_KHZ
    }

    /// Makes a VM over `memory`.
    ///
    /// # Errors
    /// When the backend cannot run such a VM.
    fn create_vm(
        &self,
        memory: Arc<GuestMemory>,
        spec: VmSpec,
    ) -> Result<Box<dyn Vm>, HypervisorError>;
}
