//! Backend-neutral state of one vCPU at an instruction boundary.
//!
//! What a backend keeps for speed (translations, decoded code, lazily computed flags) is not
//! here. Two vCPUs with equal states and equal memory go on equally.

mod check;
mod reset;

use serde::{Deserialize, Serialize};

pub use reset::reset_state;

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Last valid offset, in bytes.
    pub limit: u32,
    /// Access rights as in [`crate::arch::x86_64::segment::access`].
    pub access: u32,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Last valid offset, in bytes.
    pub limit: u16,
}

/// Model-specific registers that belong to the processor itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the register of that name")]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub tsc_adjust: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub mcg_status: u64,
}

/// x87, SSE and XSAVE state. The FXSAVE image is the 64-bit form with REX.W.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FpuState {
    /// 512 bytes. Spec: Intel SDM vol. 1 §10.5.1.
    pub fxsave: Vec<u8>,
    /// Enabled state components.
    pub xcr0: u64,
}

/// What waits to be delivered at the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PendingEvents {
    /// An injected interrupt.
    pub interrupt: Option<u8>,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// A non-maskable interrupt is being handled; further ones wait for IRET.
    pub nmi_blocked: bool,
    /// STI or a load of SS holds interrupts back for one instruction.
    pub interrupt_shadow: bool,
    /// HLT retired and no interrupt came yet.
    pub halted: bool,
    /// A single-step trap waits.
    pub debug_trap: bool,
}

/// State of one vCPU at an instruction boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// Instructions retired since the machine was made.
    pub logical_time: u64,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Address of the next instruction, without the code segment's base.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8, 0 to 15.
    pub cr8: u8,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// Model-specific registers.
    pub msrs: Msrs,
    /// Floating point.
    pub fpu: FpuState,
    /// What waits.
    pub pending: PendingEvents,
    /// How the time-stamp counter follows logical time.
    pub tsc: crate::vcpu::TscClock,
}

/// Why a state is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// A field holds a value that no processor of this model can have.
    #[error("{field} holds {value:#x}, which this processor cannot have")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}
