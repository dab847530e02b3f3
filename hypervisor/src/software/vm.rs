//! The software backend's hypervisor and virtual machine.

use std::sync::Arc;

use super::vcpu::SoftwareVcpu;
use crate::capabilities::Capabilities;
use crate::hypervisor_trait::{Hypervisor, HypervisorError, VmSpec};
use crate::memory::GuestMemory;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// Makes virtual machines that run on the software processor.
#[derive(Debug, Default)]
pub struct SoftwareHypervisor;

impl Hypervisor for SoftwareHypervisor {
    fn name(&self) -> &'static str {
        "software"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::software()
    }

    fn create_vm(
        &self,
        memory: Arc<GuestMemory>,
        spec: VmSpec,
    ) -> Result<Box<dyn Vm>, HypervisorError> {
        require_one_processor(self.name(), spec.vcpus)?;
        let vcpu = SoftwareVcpu::new(memory.clone()).with_tsc_khz(spec.tsc_khz);
        Ok(SoftwareVm::boxed(memory, vcpu))
    }
}

/// As [`SoftwareHypervisor`], but every instruction is interpreted: the plain version, which
/// translation is tested against.
#[derive(Debug, Default)]
pub struct InterpretingHypervisor;

impl Hypervisor for InterpretingHypervisor {
    fn name(&self) -> &'static str {
        SoftwareHypervisor.name()
    }

    fn capabilities(&self) -> Capabilities {
        SoftwareHypervisor.capabilities()
    }

    fn create_vm(
        &self,
        memory: Arc<GuestMemory>,
        spec: VmSpec,
    ) -> Result<Box<dyn Vm>, HypervisorError> {
        require_one_processor(self.name(), spec.vcpus)?;
        let vcpu = SoftwareVcpu::interpreting(memory.clone()).with_tsc_khz(spec.tsc_khz);
        Ok(SoftwareVm::boxed(memory, vcpu))
    }
}

/// Refuses machines of more than one processor, which no backend runs yet.
pub(crate) fn require_one_processor(
    backend: &'static str,
    wanted: u32,
) -> Result<(), HypervisorError> {
    if wanted == 1 {
        return Ok(());
    }
    Err(HypervisorError::TooManyVcpus {
        backend,
        most: 1,
        wanted,
    })
}

/// A virtual machine of the software backend.
struct SoftwareVm {
    memory: Arc<GuestMemory>,
    vcpus: Vec<Box<dyn Vcpu>>,
}

impl SoftwareVm {
    fn boxed(memory: Arc<GuestMemory>, vcpu: SoftwareVcpu) -> Box<dyn Vm> {
        Box::new(Self {
            memory,
            vcpus: vec![Box::new(vcpu)],
        })
    }
}

impl Vm for SoftwareVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn take_vcpus(&mut self) -> Vec<Box<dyn Vcpu>> {
        std::mem::take(&mut self.vcpus)
    }
}
