//! Runs guest CPUs: the backend-neutral traits, x86-64 facts, and the backends behind them.
//!
//! A backend implements [`Hypervisor`], [`Vm`] and [`Vcpu`]. The vCPU contract is *run, exit,
//! complete*: [`Vcpu::run`] returns an [`Exit`], the caller completes it, and runs again. No
//! callback is fired from inside `run`, so everything that reaches a guest enters between two
//! calls, at a known logical time.

pub mod arch;
pub mod capabilities;
pub mod cpu_model;
pub mod exit;
#[path = "hypervisor.rs"]
mod hypervisor_trait;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod kvm;
pub mod memory;
pub mod software;
pub mod state;
pub mod vcpu;
pub mod vm;

pub use capabilities::{Capabilities, HostCapabilities};
pub use exit::Exit;
pub use hypervisor_trait::{Hypervisor, HypervisorError, VmSpec};
pub use memory::{GuestAddress, GuestMemory, HIGH_START, LOW_LIMIT, MemoryError, MemoryKind};
pub use state::CpuState;
pub use vcpu::{Kicker, TscClock, Vcpu, VcpuError};
pub use vm::Vm;
