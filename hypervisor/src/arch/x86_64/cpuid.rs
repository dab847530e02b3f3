//! Feature bits of CPUID that the common processor model uses. Spec: Intel SDM vol. 2A, CPUID.

/// Leaf 1, ECX.
pub mod leaf1_ecx {
    /// SSE3.
    pub const SSE3: u32 = 1 << 0;
    /// SSSE3.
    pub const SSSE3: u32 = 1 << 9;
    /// CMPXCHG16B.
    pub const CX16: u32 = 1 << 13;
    /// SSE4.1.
    pub const SSE4_1: u32 = 1 << 19;
    /// SSE4.2.
    pub const SSE4_2: u32 = 1 << 20;
    /// x2APIC.
    pub const X2APIC: u32 = 1 << 21;
    /// MOVBE.
    pub const MOVBE: u32 = 1 << 22;
    /// POPCNT.
    pub const POPCNT: u32 = 1 << 23;
    /// Local APIC timer deadline mode.
    pub const TSC_DEADLINE: u32 = 1 << 24;
    /// XSAVE.
    pub const XSAVE: u32 = 1 << 26;
    /// CR4.OSXSAVE as it stands.
    pub const OSXSAVE: u32 = 1 << 27;
    /// Runs under a hypervisor.
    pub const HYPERVISOR: u32 = 1 << 31;
}

/// Leaf 1, EDX: FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT,
/// PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2.
pub const LEAF1_EDX: u32 = 0x078b_fbfd;

/// Leaf 7 subleaf 0, EBX.
pub mod leaf7_ebx {
    /// RDFSBASE and its relatives.
    pub const FSGSBASE: u32 = 1 << 0;
    /// TSC_ADJUST.
    pub const TSC_ADJUST: u32 = 1 << 1;
    /// BMI1.
    pub const BMI1: u32 = 1 << 3;
    /// SMEP.
    pub const SMEP: u32 = 1 << 7;
    /// BMI2.
    pub const BMI2: u32 = 1 << 8;
    /// Fast REP MOVSB and STOSB.
    pub const ERMS: u32 = 1 << 9;
    /// Selectors of the last x87 instruction and operand are always zero.
    pub const NO_FCS_FDS: u32 = 1 << 13;
    /// SMAP.
    pub const SMAP: u32 = 1 << 20;
}
