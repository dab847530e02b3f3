//! The shapes of x87 instructions: when they may run, where memory operands are, what they record.
//! What is computed is in [`crate::software::x87`].
//!
//! The decoder leaves the opcode (11 bits) and the instruction's address (48 bits) in the
//! immediate; the register of a register form is the opcode's low three bits. Faults of all: #NM
//! (CR0.EM, CR0.TS), #MF for the waiting ones, those of memory. A store that memory refuses
//! leaves the x87 as it was.
//! Spec: Intel SDM vol. 1 §8.1.8 and §8.3; vol. 2.

use super::operand::{R0, Target};
use crate::arch::x86_64::control::cr0;
use crate::arch::x86_64::control::rflags::{CF, PF, ZF};
use crate::arch::x86_64::segment::CS;
use crate::software::cpu::{Cpu, Mode};
use crate::software::float::F80;
use crate::software::mmu::fast::Scalar;
use crate::software::op::{FLAT, Op, Outcome, Stop};
use crate::software::x87::{CompareFlags, EnvironmentFormat, X87State};

/// Shift of the opcode in the immediate; the instruction's address lies below.
pub const OPCODE_SHIFT: u32 = 48;

#[inline(always)]
fn index(op: &Op) -> u8 {
    (op.imm >> OPCODE_SHIFT) as u8 & 7
}

/// Notes opcode and address of the instruction, for exception handlers to see.
#[inline(always)]
fn record(cpu: &mut Cpu, op: &Op) {
    let mut pointer = ((op.imm << 16) as i64 >> 16) as u64;
    if cpu.mode == Mode::Real {
        pointer = pointer.wrapping_add(cpu.segments[CS].base) & 0xffff_ffff;
    }
    cpu.fpu
        .x87
        .record_instruction((op.imm >> OPCODE_SHIFT) as u16, 0, pointer);
}

/// As [`record`], and the offset of the memory operand in its segment; in real mode its linear
/// address.
#[inline(always)]
fn record_operand(cpu: &mut Cpu, op: &Op, linear: u64) {
    record(cpu, op);
    let offset = match cpu.mode {
        Mode::Long if op.addressing == FLAT => op.sum(cpu),
        Mode::Long => op.sum(cpu) & 0xffff_ffff,
        Mode::Real => linear,
        _ => linear.wrapping_sub(cpu.segments[usize::from(op.segment) % 6].base) & 0xffff_ffff,
    };
    cpu.fpu.x87.record_operand(0, offset);
}

/// An instruction on registers alone.
pub trait OnRegisters {
    /// Executes it; `index` is the register that the opcode names.
    fn apply(x87: &mut X87State, index: u8);
}

/// Registers alone.
pub extern "C" fn registers<I: OnRegisters>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    record(cpu, op);
    I::apply(&mut cpu.fpu.x87, index(op));
    Ok(())
}

/// FCMOVcc: moves when condition `CODE` of the flags holds.
pub extern "C" fn conditional_move<const CODE: u8>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    record(cpu, op);
    let met = cpu.flags.condition(CODE);
    cpu.fpu.x87.fcmov(index(op), met);
    Ok(())
}

/// A comparison into the flags.
pub trait IntoFlags {
    /// Executes it.
    fn apply(x87: &mut X87State, index: u8) -> CompareFlags;
}

/// FCOMI and relatives: OF, SF and AF are cleared.
pub extern "C" fn compare<I: IntoFlags>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    record(cpu, op);
    let CompareFlags {
        zero,
        parity,
        carry,
    } = I::apply(&mut cpu.fpu.x87, index(op));
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    cpu.flags
        .set_bits(flag(zero, ZF) | flag(parity, PF) | flag(carry, CF));
    Ok(())
}

/// A memory operand: its bits.
pub trait InMemory: Sized {
    /// Bytes.
    const SIZE: usize;
    /// Reads it.
    fn read(cpu: &mut Cpu, linear: u64) -> Result<Self, Stop>;
    /// Writes it.
    fn write(self, cpu: &mut Cpu, linear: u64) -> Outcome;
}

macro_rules! in_memory {
    ($($type:ty as $bits:ty),*) => {$(
        impl InMemory for $type {
            const SIZE: usize = size_of::<$type>();
            #[inline(always)]
            fn read(cpu: &mut Cpu, linear: u64) -> Result<Self, Stop> {
                Ok(cpu.load::<$bits>(linear)? as $type)
            }
            #[inline(always)]
            fn write(self, cpu: &mut Cpu, linear: u64) -> Outcome {
                cpu.store(linear, self as $bits)
            }
        }
    )*};
}
in_memory!(u32 as u32, u64 as u64, i16 as u16, i32 as u32, i64 as u64);

impl InMemory for [u8; 10] {
    const SIZE: usize = 10;
    fn read(cpu: &mut Cpu, linear: u64) -> Result<Self, Stop> {
        let mut bytes = [0; 10];
        let low: u64 = cpu.load(linear)?;
        let high: u16 = cpu.load(linear.wrapping_add(8))?;
        bytes[..8].copy_from_slice(&low.to_bytes()[..8]);
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        Ok(bytes)
    }
    fn write(self, cpu: &mut Cpu, linear: u64) -> Outcome {
        cpu.write_bytes(linear, &self)
    }
}

impl InMemory for F80 {
    const SIZE: usize = 10;
    fn read(cpu: &mut Cpu, linear: u64) -> Result<Self, Stop> {
        <[u8; 10]>::read(cpu, linear).map(Self::from_le_bytes)
    }
    fn write(self, cpu: &mut Cpu, linear: u64) -> Outcome {
        self.to_le_bytes().write(cpu, linear)
    }
}

/// An instruction that reads memory.
pub trait Load<T> {
    /// Executes it.
    fn apply(x87: &mut X87State, value: T);
}

/// A memory source.
pub extern "C" fn load<T: InMemory, I: Load<T>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    let linear = cpu.linear(op, T::SIZE as u64, false)?;
    let value = T::read(cpu, linear)?;
    record_operand(cpu, op, linear);
    I::apply(&mut cpu.fpu.x87, value);
    Ok(())
}

/// An instruction that writes memory.
pub trait Store<T> {
    /// Executes it; `None` when an unmasked exception prevents the store.
    fn apply(x87: &mut X87State) -> Option<T>;
}

/// A memory destination.
pub extern "C" fn store<T: InMemory, I: Store<T>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    let linear = cpu.linear(op, T::SIZE as u64, true)?;
    // A fault of memory comes before an exception that prevents the store.
    cpu.probe_write(linear, T::SIZE)?;
    let before = cpu.fpu.x87.clone();
    record_operand(cpu, op, linear);
    let written = match I::apply(&mut cpu.fpu.x87) {
        Some(value) => value.write(cpu, linear),
        None => Ok(()),
    };
    if written.is_err() {
        cpu.fpu.x87 = before;
    }
    written
}

/// FWAIT: #NM only when CR0.MP asks for it too.
pub extern "C" fn wait(cpu: &mut Cpu, _: &Op) -> Outcome {
    let both = cr0::MP | cr0::TS;
    if cpu.cr0 & both == both {
        return Err(cpu.not_available());
    }
    cpu.require_no_pending()
}

/// FNOP: waits, does nothing, and counts as an instruction for the pointers.
pub extern "C" fn no_operation(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    record(cpu, op);
    Ok(())
}

/// FNENI, FNDISI, FNSETPM: commands to processors of the past.
pub extern "C" fn forgotten(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_x87()
}

/// FNINIT.
pub extern "C" fn initialise(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_x87()?;
    cpu.fpu.x87.fninit();
    Ok(())
}

/// FNCLEX.
pub extern "C" fn clear_exceptions(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_x87()?;
    cpu.fpu.x87.fnclex();
    Ok(())
}

/// FLDCW.
pub extern "C" fn load_control(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_waiting_x87()?;
    let control: u16 = cpu.load_operand(op)?;
    cpu.fpu.x87.fldcw(control);
    Ok(())
}

/// FNSTCW.
pub extern "C" fn store_control(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_x87()?;
    let control = cpu.fpu.x87.fnstcw();
    cpu.store_operand(op, control)
}

/// FNSTSW to memory or AX.
pub extern "C" fn store_status<D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_x87()?;
    let status = cpu.fpu.x87.fnstsw();
    D::put(cpu, op, status)
}

/// FNSTSW AX.
pub extern "C" fn store_status_in_ax(cpu: &mut Cpu, op: &Op) -> Outcome {
    store_status::<R0>(cpu, op)
}

fn format(cpu: &Cpu, wide: bool) -> EnvironmentFormat {
    match (cpu.mode == Mode::Real, wide) {
        (false, true) => EnvironmentFormat::Protected32,
        (false, false) => EnvironmentFormat::Protected16,
        (true, true) => EnvironmentFormat::Real32,
        (true, false) => EnvironmentFormat::Real16,
    }
}

fn image_size(format: EnvironmentFormat, registers: bool) -> usize {
    if registers {
        format.save_size()
    } else {
        format.environment_size()
    }
}

/// FNSTENV, FNSAVE (`REGISTERS`); `WIDE` with 32-bit fields.
pub extern "C" fn store_environment<const REGISTERS: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_x87()?;
    let format = format(cpu, WIDE);
    let size = image_size(format, REGISTERS);
    let linear = cpu.linear(op, size as u64, true)?;
    let mut x87 = cpu.fpu.x87.clone();
    let image = if REGISTERS {
        x87.fnsave(format)
    } else {
        x87.fnstenv(format)
    };
    cpu.write_bytes(linear, &image[..size])?;
    cpu.fpu.x87 = x87;
    Ok(())
}

/// FLDENV, FRSTOR (`REGISTERS`); `WIDE` with 32-bit fields.
pub extern "C" fn load_environment<const REGISTERS: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_waiting_x87()?;
    let format = format(cpu, WIDE);
    let size = image_size(format, REGISTERS);
    let linear = cpu.linear(op, size as u64, false)?;
    let mut image = [0; 108];
    cpu.read_bytes(linear, &mut image[..size])?;
    let x87 = &mut cpu.fpu.x87;
    if REGISTERS {
        x87.frstor(format, &image);
    } else {
        x87.fldenv(format, &image);
    }
    // Selectors do not exist in this model; see `software::fpu`.
    (x87.instruction_selector, x87.data_selector) = (0, 0);
    Ok(())
}
