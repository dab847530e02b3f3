//! The software backend's hypervisor and virtual machine.

use std::sync::Arc;

use super::vcpu::SoftwareVcpu;
use crate::capabilities::Capabilities;
use crate::hypervisor_trait::{Hypervisor, HypervisorError};
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
        vcpus: u32,
    ) -> Result<Box<dyn Vm>, HypervisorError> {
        if vcpus != 1 {
            return Err(HypervisorError::TooManyVcpus {
                backend: self.name(),
                most: 1,
                wanted: vcpus,
            });
        }
        let vcpu: Box<dyn Vcpu> = Box::new(SoftwareVcpu::new(memory.clone()));
        Ok(Box::new(SoftwareVm {
            memory,
            vcpus: vec![vcpu],
        }))
    }
}

/// A virtual machine of the software backend.
struct SoftwareVm {
    memory: Arc<GuestMemory>,
    vcpus: Vec<Box<dyn Vcpu>>,
}

impl Vm for SoftwareVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn take_vcpus(&mut self) -> Vec<Box<dyn Vcpu>> {
        std::mem::take(&mut self.vcpus)
    }
}
