//! Why a vCPU stopped.

/// Why [`crate::Vcpu::run`] returned.
///
/// Reads are answered with [`crate::Vcpu::complete_read`]; writes need no answer. Either way the
/// instruction retires inside the *next* `run`, which must be asked to go at least one
/// instruction further before state is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The logical time asked for was reached.
    Reached,
    /// A [`crate::Kicker`] asked the vCPU to come back; nothing else happened.
    Kicked,
    /// HLT retired. Only an interrupt makes the vCPU go on.
    Halted,
    /// An interrupt can be injected now, as was asked by `request_interrupt_window`.
    InterruptWindow,
    /// Guest reads `size` (1, 2 or 4) bytes from an I/O port.
    PioRead {
        /// Port number.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// Guest writes `size` (1, 2 or 4) bytes to an I/O port.
    PioWrite {
        /// Port number.
        port: u16,
        /// Bytes.
        size: u8,
        /// The bytes, zero-extended.
        value: u32,
    },
    /// Guest reads `size` (1 to 8) bytes from an address that is not memory.
    MmioRead {
        /// Guest physical address.
        gpa: u64,
        /// Bytes.
        size: u8,
    },
    /// Guest writes `size` (1 to 8) bytes to an address that is not memory.
    MmioWrite {
        /// Guest physical address.
        gpa: u64,
        /// Bytes.
        size: u8,
        /// The bytes, little-endian, zero-extended.
        value: u64,
    },
    /// Guest reads a model-specific register that belongs to the interrupt controller.
    MsrRead {
        /// Register number.
        index: u32,
    },
    /// Guest writes a model-specific register that belongs to the interrupt controller.
    MsrWrite {
        /// Register number.
        index: u32,
        /// New value.
        value: u64,
    },
    /// CR8 (the task priority) was written; the write has retired.
    TaskPriority,
    /// A host-side breakpoint or watchpoint was hit, or a single step ended.
    Debug,
    /// Triple fault: the processor shut down.
    Shutdown,
}
