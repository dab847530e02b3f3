//! Operands of a decoded instruction to the fields of an [`Op`].

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::arch::x86_64::segment::SS;
use crate::software::cpu::Mode;
use crate::software::op::{
    FLAT, FS_BASE, GS_BASE, Handler, Kind, LEGACY_16, LEGACY_32, Op, Places, REP_EQUAL, REP_NONE,
    REP_NOT_EQUAL, WRAP_32, ZERO,
};
use crate::software::width::HIGH_BYTE;

use super::select::{in_memory, in_register};

/// Fills an [`Op`].
pub fn lower(instruction: &Instruction, run: Handler, mode: Mode) -> Op {
    let mut op = Op {
        run,
        kind: Kind::Other,
        places: places(instruction),
        imm: immediate(instruction),
        disp: 0,
        dst: register_operand(instruction, 0),
        src: register_operand(instruction, 1),
        third: third(instruction),
        base: ZERO,
        index: ZERO,
        scale: 0,
        segment_base: ZERO,
        segment: 3,
        addressing: FLAT,
        rep: repeat(instruction),
        len: instruction.len() as u8,
        offset: 0,
    };
    if let Some(size) = string_address_size(instruction) {
        set_addressing(&mut op, size, mode);
        set_segment(&mut op, instruction.memory_segment());
    } else if has_memory(instruction) {
        lower_memory(&mut op, instruction, mode);
    } else if instruction.is_stack_instruction() {
        op.segment = SS as u8;
    }
    if matches!(
        instruction.op0_kind(),
        OpKind::FarBranch16 | OpKind::FarBranch32
    ) {
        op.disp = u64::from(instruction.far_branch_selector());
    }
    op
}

/// Where the first two operands are.
pub fn places(instruction: &Instruction) -> Places {
    let place = |index| {
        (
            in_memory(instruction, index),
            in_register(instruction, index),
        )
    };
    match (place(0), place(1)) {
        ((_, true), (_, true)) => Places::Registers,
        ((_, true), (true, _)) => Places::RegisterMemory,
        ((_, true), _) => Places::RegisterImmediate,
        (_, (_, true)) => Places::MemoryRegister,
        _ => Places::MemoryImmediate,
    }
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory)
}

fn lower_memory(op: &mut Op, instruction: &Instruction, mode: Mode) {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    op.disp = instruction.memory_displacement64();
    // RIP-relative displacements arrive as absolute addresses.
    if base != Register::None && base != Register::RIP && base != Register::EIP {
        op.base = number(base);
    }
    // The index of XLAT, AL, is left to its handler.
    if index != Register::None && !index.is_gpr8() {
        op.index = number(index);
        op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    }
    let size = if base != Register::None {
        base.size()
    } else if index != Register::None {
        index.size()
    } else {
        match instruction.memory_displ_size() {
            2 => 2,
            4 if mode != Mode::Long => 4,
            _ => 8,
        }
    };
    set_addressing(op, size, mode);
    set_segment(op, effective_segment(instruction, mode));
}

/// The segment of the memory operand: 64-bit mode ignores prefixes but those of FS and GS.
fn effective_segment(instruction: &Instruction, mode: Mode) -> Register {
    let named = instruction.memory_segment();
    if mode != Mode::Long || matches!(named, Register::FS | Register::GS) {
        return named;
    }
    match instruction.memory_base() {
        Register::RSP | Register::RBP | Register::ESP | Register::EBP => Register::SS,
        _ => Register::DS,
    }
}

fn set_addressing(op: &mut Op, size: usize, mode: Mode) {
    op.addressing = match (mode, size) {
        (Mode::Long, 4) => WRAP_32,
        (Mode::Long, _) => FLAT,
        (_, 2) => LEGACY_16,
        _ => LEGACY_32,
    };
}

fn set_segment(op: &mut Op, segment: Register) {
    op.segment = segment_number(segment).unwrap_or(3);
    op.segment_base = match segment {
        Register::FS => FS_BASE,
        Register::GS => GS_BASE,
        _ => ZERO,
    };
}

/// Number of a segment register in the encoding's order.
pub fn segment_number(register: Register) -> Option<u8> {
    match register {
        Register::ES => Some(0),
        Register::CS => Some(1),
        Register::SS => Some(2),
        Register::DS => Some(3),
        Register::FS => Some(4),
        Register::GS => Some(5),
        _ => None,
    }
}

/// Number of a general, MMX, XMM, x87, control or debug register.
fn number(register: Register) -> u8 {
    let plain = register.number() as u8;
    if register.is_gpr8() {
        // AL CL DL BL, AH CH DH BH, SPL to R15L.
        match plain {
            0..=3 => plain,
            4..=7 => (plain - 4) | HIGH_BYTE,
            _ => plain - 4,
        }
    } else {
        plain
    }
}

fn register_operand(instruction: &Instruction, index: u32) -> u8 {
    if index < instruction.op_count() && instruction.op_kind(index) == OpKind::Register {
        let register = instruction.op_register(index);
        if register.is_segment_register() {
            0
        } else {
            number(register)
        }
    } else {
        0
    }
}

/// Operand 2's register, or the number of a segment, control or debug register.
fn third(instruction: &Instruction) -> u8 {
    for index in 0..instruction.op_count().min(2) {
        if instruction.op_kind(index) != OpKind::Register {
            continue;
        }
        let register = instruction.op_register(index);
        if let Some(segment) = segment_number(register) {
            return segment;
        }
        if register.is_cr() || register.is_dr() {
            return register.number() as u8;
        }
    }
    match instruction.mnemonic() {
        Mnemonic::Les => 0,
        Mnemonic::Lss => 2,
        Mnemonic::Lds => 3,
        Mnemonic::Lfs => 4,
        Mnemonic::Lgs => 5,
        _ => register_operand(instruction, 2),
    }
}

fn repeat(instruction: &Instruction) -> u8 {
    if instruction.has_repne_prefix() {
        REP_NOT_EQUAL
    } else if instruction.has_rep_prefix() {
        REP_EQUAL
    } else {
        REP_NONE
    }
}

fn immediate(instruction: &Instruction) -> u64 {
    match instruction.mnemonic() {
        Mnemonic::Enter => {
            return u64::from(instruction.immediate16())
                | u64::from(instruction.immediate8_2nd()) << 16;
        }
        Mnemonic::Int3 => return 3,
        Mnemonic::Int1 => return 1,
        Mnemonic::Lgdt | Mnemonic::Lidt => {
            use iced_x86::Code::{Lgdt_m1632_16, Lidt_m1632_16};
            let short = matches!(instruction.code(), Lgdt_m1632_16 | Lidt_m1632_16);
            return if short { 16 } else { 0 };
        }
        _ => {}
    }
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                return instruction.near_branch_target();
            }
            OpKind::FarBranch16 => return u64::from(instruction.far_branch16()),
            OpKind::FarBranch32 => return u64::from(instruction.far_branch32()),
            _ => {
                if let Ok(value) = instruction.try_immediate(index) {
                    return value;
                }
            }
        }
    }
    0
}

/// Address size in bytes of a string instruction.
fn string_address_size(instruction: &Instruction) -> Option<usize> {
    (0..instruction.op_count()).find_map(|index| match instruction.op_kind(index) {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    })
}
