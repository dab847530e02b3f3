//! Model-specific register numbers. Spec: Intel SDM vol. 4, table 2-2; AMD APM vol. 2 app. A.

/// Time-stamp counter.
pub const TSC: u32 = 0x10;
/// Platform identification.
pub const PLATFORM_ID: u32 = 0x17;
/// Local APIC base and enables.
pub const APIC_BASE: u32 = 0x1b;
/// Feature control (locked, all features off).
pub const FEATURE_CONTROL: u32 = 0x3a;
/// Adjustment added to the time-stamp counter.
pub const TSC_ADJUST: u32 = 0x3b;
/// Speculation control.
pub const SPEC_CTRL: u32 = 0x48;
/// Predictor commands.
pub const PRED_CMD: u32 = 0x49;
/// Microcode revision.
pub const BIOS_SIGN_ID: u32 = 0x8b;
/// Memory-type range capabilities.
pub const MTRR_CAP: u32 = 0xfe;
/// Architectural capabilities.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// SYSENTER code segment.
pub const SYSENTER_CS: u32 = 0x174;
/// SYSENTER stack pointer.
pub const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER instruction pointer.
pub const SYSENTER_EIP: u32 = 0x176;
/// Machine-check capabilities.
pub const MCG_CAP: u32 = 0x179;
/// Machine-check status.
pub const MCG_STATUS: u32 = 0x17a;
/// Miscellaneous enables.
pub const MISC_ENABLE: u32 = 0x1a0;
/// Debug control.
pub const DEBUGCTL: u32 = 0x1d9;
/// First variable-range MTRR base; pairs up to 0x20f.
pub const MTRR_VARIABLE_FIRST: u32 = 0x200;
/// Last variable-range MTRR mask.
pub const MTRR_VARIABLE_LAST: u32 = 0x20f;
/// Fixed-range MTRRs (64 KiB, two of 16 KiB, eight of 4 KiB).
pub const MTRR_FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
/// Page-attribute table.
pub const PAT: u32 = 0x277;
/// Default memory type.
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Local APIC timer deadline in TSC ticks.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// First x2APIC register.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last x2APIC register.
pub const X2APIC_LAST: u32 = 0x8ff;
/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// SYSCALL selectors.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL target in 64-bit mode.
pub const LSTAR: u32 = 0xc000_0082;
/// SYSCALL target in compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// RFLAGS bits that SYSCALL clears.
pub const FMASK: u32 = 0xc000_0084;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;
/// The GS base that SWAPGS brings in.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Value that RDTSCP and RDPID return.
pub const TSC_AUX: u32 = 0xc000_0103;
