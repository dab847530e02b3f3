//! Stock Linux KVM as a backend: the same machine on the host's own processor.
//!
//! ```text
//!   vcpu (run, exits, events) ──── access    the port, memory or MSR access an exit stands for
//!     │    │    │    │
//!     │    │    │    └─ state (registers, fpu, events)    CpuState to and from KVM
//!     │    │    └────── clock     logical and virtual time from the host's counter
//!     │    └─────────── wake      the signal and the timer that end KVM_RUN
//!   vm (memory slots, MSR filter, written pages) ◀── host (what this KVM can do)
//!    └─ dirty_ring                                    trial, probe (what it really does)
//! ```
//!
//! No interrupt controller, timer or device is in the kernel: all of them are the machine's, so
//! every interrupt enters between two calls of `run`, and everything a guest asks leaves as an
//! exit. Model-specific registers are refused to KVM but for those that the processor itself
//! acts upon; the others are answered here as on the software processor.
//!
//! *The logical clock* is host time spent in the guest, in nanoseconds: it moves only across
//! `run`, but where a guest is at a logical time cannot be told. So what happens at a logical
//! time happens at an exit, and a run cannot be replayed.
//!
//! Left out: more than one vCPU, nested virtualisation, and everything that injects by itself
//! (irqfd, ioeventfd, the in-kernel irqchip).
//!
//! Spec: Linux's `Documentation/virt/kvm/api.rst` of 6.12, here "KVM API".

mod access;
mod clock;
mod counter;
mod debug;
mod dirty_ring;
mod events;
mod failure;
mod fpu;
mod host;
mod ioctl;
pub mod probe;
mod registers;
mod state;
mod trial;
mod vcpu;
mod vm;
mod wake;

pub use dirty_ring::DirtyTracking;
pub use host::KvmHypervisor;

/// Name of the backend, as the command line has it.
pub(crate) const NAME: &str = "kvm";
