//! One virtual machine of a backend: its memory and its vCPUs.

use std::sync::Arc;

use crate::memory::GuestMemory;
use crate::vcpu::Vcpu;

/// One virtual machine of a backend.
pub trait Vm: Send {
    /// The guest's memory.
    fn memory(&self) -> &Arc<GuestMemory>;

    /// Takes the vCPUs out, in the order of their numbers. Empty on a second call.
    fn take_vcpus(&mut self) -> Vec<Box<dyn Vcpu>>;
}
