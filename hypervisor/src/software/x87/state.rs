//! The state of the x87, and how exceptions and stack faults enter the status word.
//!
//! ```text
//! status   15  14  13-11  10  9   8   7   6   5  4  3  2  1  0
//!          B   C3  TOP    C2  C1  C0  ES  SF  PE UE OE ZE DE IE
//! control  12  11-10  9-8   5  4  3  2  1  0
//!          X   RC     PC    PM UM OM ZM DM IM
//! ```

use crate::software::float::{Exceptions, F80, FloatEnv, Precision, RoundingMode};

/// Condition code bit 0.
pub(super) const C0: u16 = 1 << 8;
/// Condition code bit 1.
pub(super) const C1: u16 = 1 << 9;
/// Condition code bit 2.
pub(super) const C2: u16 = 1 << 10;
/// Condition code bit 3.
pub(super) const C3: u16 = 1 << 14;
/// Stack fault.
const STACK_FAULT: u16 = 1 << 6;
/// Exception summary and its copy, the busy bit.
pub(super) const SUMMARY: u16 = 1 << 7 | 1 << 15;
/// TOP within the status word.
pub(super) const TOP: u16 = 7 << 11;
/// The bits of the control word that can be written; bit 6 reads as one.
const CONTROL_WRITABLE: u16 = 0x1f3f;
/// The bit of the control word that is always set.
const CONTROL_FIXED: u16 = 0x0040;

/// A pending unmasked exception: `#MF` is due before the next waiting instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87Fault;

/// The x87 registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X87State {
    /// Physical registers R0 to R7; the low 64 bits are MM0 to MM7.
    pub registers: [F80; 8],
    /// Control word.
    pub control: u16,
    /// Status word without TOP, whose bits are zero here.
    pub status: u16,
    /// TOP, 0 to 7: the physical register that is ST(0).
    pub top: u8,
    /// Abridged tag word: bit `i` set if physical register `i` is not empty.
    pub occupied: u8,
    /// Last opcode, 11 bits.
    pub opcode: u16,
    /// Last instruction's offset.
    pub instruction_pointer: u64,
    /// Last instruction's code segment.
    pub instruction_selector: u16,
    /// Last memory operand's offset.
    pub data_pointer: u64,
    /// Last memory operand's segment.
    pub data_selector: u16,
}

impl Default for X87State {
    /// The state after FNINIT, with zeros in the registers.
    fn default() -> Self {
        Self {
            registers: [F80::ZERO; 8],
            control: 0x037f,
            status: 0,
            top: 0,
            occupied: 0,
            opcode: 0,
            instruction_pointer: 0,
            instruction_selector: 0,
            data_pointer: 0,
            data_selector: 0,
        }
    }
}

impl X87State {
    /// The state after power-up or RESET: all registers hold zero and are in use.
    pub fn power_up() -> Self {
        Self {
            control: 0x0040,
            occupied: 0xff,
            ..Self::default()
        }
    }

    /// The status word as FNSTSW gives it.
    #[inline]
    pub fn status_word(&self) -> u16 {
        self.status | u16::from(self.top) << 11
    }

    /// Sets status and TOP from a whole status word; ES and B follow from flags and masks.
    pub fn set_status_word(&mut self, word: u16) {
        self.status = word & !(TOP | SUMMARY);
        self.top = (word >> 11 & 7) as u8;
        self.update_summary();
    }

    /// Sets the control word (FLDCW); pending flags that become unmasked set ES.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_WRITABLE | CONTROL_FIXED;
        self.update_summary();
    }

    /// Whether an unmasked exception is pending. Ask before every waiting instruction.
    ///
    /// # Errors
    /// `#MF` (or FERR#) is due.
    #[inline]
    pub fn check_pending(&self) -> Result<(), X87Fault> {
        if self.status & SUMMARY == 0 {
            Ok(())
        } else {
            Err(X87Fault)
        }
    }

    /// Records opcode and address of a non-control instruction.
    #[inline]
    pub fn record_instruction(&mut self, opcode: u16, selector: u16, pointer: u64) {
        self.opcode = opcode & 0x7ff;
        self.instruction_selector = selector;
        self.instruction_pointer = pointer;
    }

    /// Records the address of a memory operand.
    #[inline]
    pub fn record_operand(&mut self, selector: u16, pointer: u64) {
        self.data_selector = selector;
        self.data_pointer = pointer;
    }

    /// ST(`index`), whether empty or not.
    #[inline]
    pub fn st(&self, index: u8) -> F80 {
        self.registers[self.physical(index)]
    }

    /// The physical register of ST(`index`).
    #[inline]
    pub(super) fn physical(&self, index: u8) -> usize {
        usize::from((self.top + index) & 7)
    }

    /// Whether ST(`index`) is empty.
    #[inline]
    pub fn is_empty(&self, index: u8) -> bool {
        self.occupied >> self.physical(index) & 1 == 0
    }

    /// Writes ST(`index`) and marks it in use.
    #[inline]
    pub(super) fn set_st(&mut self, index: u8, value: F80) {
        let physical = self.physical(index);
        self.registers[physical] = value;
        self.occupied |= 1 << physical;
    }

    /// Marks ST(`index`) empty.
    #[inline]
    pub(super) fn free(&mut self, index: u8) {
        self.occupied &= !(1 << self.physical(index));
    }

    /// Frees ST(0) and moves TOP up.
    #[inline]
    pub(super) fn pop(&mut self) {
        self.free(0);
        self.top = (self.top + 1) & 7;
    }

    /// Moves TOP down and writes ST(0).
    #[inline]
    pub(super) fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    /// The environment of one operation under the control word.
    #[inline]
    pub(super) fn env(&self) -> FloatEnv {
        FloatEnv {
            rounding: RoundingMode::from_field((self.control >> 10) as u8),
            precision: Precision::from_field((self.control >> 8) as u8),
            masks: self.masks(),
            ..FloatEnv::default()
        }
    }

    #[inline]
    pub(super) fn masks(&self) -> Exceptions {
        Exceptions::from_bits(self.control as u8)
    }

    /// Whether masked invalid operations get their default response.
    #[inline]
    pub(super) fn invalid_is_masked(&self) -> bool {
        self.masks().intersects(Exceptions::INVALID)
    }

    /// Sets or clears a condition code.
    #[inline]
    pub(super) fn set_code(&mut self, code: u16, value: bool) {
        self.status = if value {
            self.status | code
        } else {
            self.status & !code
        };
    }

    /// A source register is empty: IE, SF, C1 clear. True if the response is the masked one.
    pub(super) fn stack_underflow(&mut self) -> bool {
        self.set_code(C1, false);
        self.stack_fault()
    }

    /// There is no room for a push: IE, SF, C1 set. True if the response is the masked one.
    pub(super) fn stack_overflow(&mut self) -> bool {
        self.set_code(C1, true);
        self.stack_fault()
    }

    fn stack_fault(&mut self) -> bool {
        self.status |= STACK_FAULT | u16::from(Exceptions::INVALID.bits());
        self.update_summary();
        self.invalid_is_masked()
    }

    /// Enters the outcome of an operation into the status word, C1 included.
    ///
    /// False if an unmasked exception found before computing leaves the destination alone.
    pub(super) fn signal(&mut self, env: &FloatEnv) -> bool {
        let mut flags = env.flags;
        let delivered = !(flags & !env.masks).intersects(Exceptions::BEFORE);
        if !delivered {
            flags = flags & Exceptions::BEFORE;
        }
        self.status |= u16::from(flags.bits());
        let rounded = flags.intersects(Exceptions::PRECISION);
        self.set_code(C1, rounded && env.rounded_up);
        self.update_summary();
        delivered
    }

    /// As [`Self::signal`], for loads and comparisons, which only an unmasked IE prevents.
    pub(super) fn signal_unless_invalid(&mut self, env: &FloatEnv) -> bool {
        self.signal(env);
        !(env.flags & !env.masks).intersects(Exceptions::INVALID)
    }

    /// As [`Self::signal`], for a memory destination: nothing is stored either on an unmasked
    /// overflow or underflow.
    pub(super) fn signal_store(&mut self, env: &FloatEnv) -> bool {
        let range = Exceptions::OVERFLOW | Exceptions::UNDERFLOW;
        let mut env = *env;
        let out_of_range = (env.flags & !env.masks).intersects(range);
        if out_of_range {
            env.flags = env.flags & !Exceptions::PRECISION;
        }
        self.signal(&env) && !out_of_range
    }

    /// Makes ES and B follow from the flags and masks.
    pub(super) fn update_summary(&mut self) {
        let pending = !(Exceptions::from_bits(self.status as u8) & !self.masks()).is_empty();
        self.set_code(SUMMARY, pending);
    }
}
