//! One decoded instruction, in the form that handlers execute and a translator can read.

use super::cpu::Cpu;
use super::width::REGISTER_MASK;

/// Why a handler did not simply fall through to the next instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// `Cpu::fault` has a fault or trap to deliver; the instruction did not retire.
    Fault,
    /// `Cpu::bus` has an access that the caller must answer; the instruction did not retire.
    Bus,
    /// The instruction would have overwritten decoded code; nothing was done, try it alone.
    CodeModified,
    /// The instruction retired and halted the processor.
    Halted,
    /// The instruction retired and changed the task priority.
    TaskPriority,
    /// The processor shut down (triple fault).
    Shutdown,
}

/// What a handler returns: `Ok` falls through to the next instruction of the block.
pub type Outcome = Result<(), Stop>;

/// Executes one decoded instruction. In the host's C convention, since translated code calls it.
#[expect(
    improper_ctypes_definitions,
    reason = "both sides are Rust of this crate; `translate` checks how an outcome is passed"
)]
pub type Handler = extern "C" fn(&mut Cpu, &Op) -> Outcome;

/// Number of the register that always reads as zero: an absent base or index.
pub const ZERO: u8 = 16;
/// Number of the pseudo-register that holds the FS base.
pub const FS_BASE: u8 = 17;
/// Number of the pseudo-register that holds the GS base.
pub const GS_BASE: u8 = 18;

/// Addresses are 64-bit sums over flat segments (FS and GS bases included).
pub const FLAT: u8 = 0;
/// 64-bit mode with 32-bit addresses.
pub const WRAP_32: u8 = 1;
/// Legacy mode with 32-bit addresses and a segment to check.
pub const LEGACY_32: u8 = 2;
/// Legacy mode with 16-bit addresses and a segment to check.
pub const LEGACY_16: u8 = 3;

/// No REP prefix.
pub const REP_NONE: u8 = 0;
/// REP or REPE.
pub const REP_EQUAL: u8 = 1;
/// REPNE.
pub const REP_NOT_EQUAL: u8 = 2;

/// What an instruction is to the translator: how it executes without its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing special: its handler is called.
    Other,
    /// Two operands; the places of both are told by [`Op::places`].
    Binary {
        /// What is done.
        work: Work,
        /// 8, 32 or 64.
        bits: u8,
    },
    /// A comparison fused with the jump behind it.
    CompareJump {
        /// [`Work::Compare`] or [`Work::Test`].
        work: Work,
        /// 8, 32 or 64.
        bits: u8,
        /// Condition code of the jump.
        code: u8,
    },
    /// INC or DEC of a register.
    Step {
        /// 32 or 64.
        bits: u8,
        /// DEC.
        down: bool,
    },
    /// MOVZX from memory to a 32- or 64-bit register.
    LoadExtended {
        /// 8 or 16.
        from: u8,
    },
    /// LEA, 64 bits.
    Address,
    /// PUSH of a 64-bit register.
    Push,
    /// POP to a 64-bit register.
    Pop,
    /// Direct JMP.
    Jump,
    /// Jcc with this condition code.
    JumpIf(u8),
    /// Direct CALL.
    Call,
    /// RET without an immediate.
    Return,
}

/// What a two-operand instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// MOV.
    Move,
    /// ADD.
    Add,
    /// SUB.
    Sub,
    /// AND.
    And,
    /// OR.
    Or,
    /// XOR.
    Xor,
    /// CMP.
    Compare,
    /// TEST.
    Test,
}

/// Where the two operands of a [`Kind::Binary`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// Two registers.
    Registers,
    /// A register and an immediate.
    RegisterImmediate,
    /// A register and memory.
    RegisterMemory,
    /// Memory and a register.
    MemoryRegister,
    /// Memory and an immediate.
    MemoryImmediate,
}

/// One decoded instruction.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// What executes it.
    pub run: Handler,
    /// What it is to the translator.
    pub kind: Kind,
    /// Where its operands are, for kinds with two.
    pub places: Places,
    /// Immediate operand (sign-extended), or the target of a direct branch.
    pub imm: u64,
    /// Displacement; absolute for RIP-relative operands.
    pub disp: u64,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Third register, or whatever the handler says.
    pub third: u8,
    /// Base register of the memory operand, or [`ZERO`].
    pub base: u8,
    /// Index register, or [`ZERO`].
    pub index: u8,
    /// Shift of the index, 0 to 3.
    pub scale: u8,
    /// In 64-bit mode the pseudo-register of the segment base ([`ZERO`], [`FS_BASE`] or
    /// [`GS_BASE`]).
    pub segment_base: u8,
    /// Segment register of the memory operand, for legacy modes.
    pub segment: u8,
    /// [`FLAT`], [`WRAP_32`], [`LEGACY_32`] or [`LEGACY_16`].
    pub addressing: u8,
    /// REP prefix of string instructions.
    pub rep: u8,
    /// Length in bytes.
    pub len: u8,
    /// Offset from the start of its block, in bytes.
    pub offset: u16,
}

impl Op {
    /// Address of the memory operand inside its segment, FS and GS bases of 64-bit mode included.
    #[inline(always)]
    pub fn sum(&self, cpu: &Cpu) -> u64 {
        let regs = &cpu.regs;
        regs[(self.base & REGISTER_MASK) as usize]
            .wrapping_add(regs[(self.index & REGISTER_MASK) as usize] << (self.scale & 3))
            .wrapping_add(self.disp)
    }
}

/// Register numbers of the general registers that instructions use implicitly.
pub mod reg {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
}
