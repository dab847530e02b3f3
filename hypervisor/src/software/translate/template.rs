//! The commonest instructions as host instructions.
//!
//! A template leaves registers, flags and memory exactly as the handler does, in the same form
//! (see [`crate::software::flags`]), or jumps to the handler before it has changed anything.
//! RAX, RCX, RDX, RSI and RDI are scratch.

use std::mem::offset_of;

use super::assembler::{Alu, Mem, RAX, RCX, RDI, RDX, RSI, Reg, Size};
use super::block::Writer;
use super::{FLAGS_AUX, FLAGS_BITS, FLAGS_RESULT, RIP, TLB_TABLE, guest};
use crate::software::mmu::tlb::{ENTRIES, Entry};
use crate::software::op::{FLAT, Kind, Op, Places, Work, ZERO, reg};

/// What follows an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next op of the block, or the next block in order.
    InOrder,
    /// The last op of a block has left in RIP what follows.
    AtRip,
    /// The block's end has been written with the op.
    Written,
}

const CARRY: u8 = 2;
const NOT_EQUAL: u8 = 5;
const EQUAL: u8 = 4;
const OVERFLOW: u8 = 0;
const SIGN: u8 = 8;

/// Writes the op, if there is a template for it.
pub fn write(w: &mut Writer<'_>, op: &Op) -> Option<Next> {
    let has_memory = match op.kind {
        Kind::Binary { .. } | Kind::CompareJump { .. } => {
            !matches!(op.places, Places::Registers | Places::RegisterImmediate)
        }
        Kind::LoadExtended { .. } | Kind::Address => true,
        _ => false,
    };
    if has_memory && op.addressing != FLAT {
        return None;
    }
    match op.kind {
        Kind::Other => return None,
        Kind::Binary { work, bits } => binary(w, op, work, size(bits), op.imm),
        Kind::CompareJump { work, bits, code } => {
            return Some(compare_and_jump(w, op, work, size(bits), code));
        }
        Kind::Step { bits, down } => step(w, op, size(bits), down),
        Kind::LoadExtended { from } => load_extended(w, op, from),
        Kind::Address => {
            sum(w, op, false);
            w.a.store(Size::Quad, guest(op.dst), RAX);
        }
        Kind::Push => push(w, Some(op.dst)),
        Kind::Pop => pop(w, op),
        Kind::Jump => {
            w.go_to(op.imm);
            return Some(Next::Written);
        }
        Kind::JumpIf(code) => return jump_if(w, op, code),
        Kind::Call => {
            push(w, None);
            w.go_to(op.imm);
            return Some(Next::Written);
        }
        Kind::Return => {
            ret(w);
            return Some(Next::AtRip);
        }
    }
    Some(Next::InOrder)
}

fn size(bits: u8) -> Size {
    match bits {
        8 => Size::Byte,
        32 => Size::Double,
        _ => Size::Quad,
    }
}

fn bytes(size: Size) -> i32 {
    match size {
        Size::Byte => 1,
        Size::Double => 4,
        Size::Quad => 8,
    }
}

/// Address of the memory operand in RAX; spoils RCX.
fn sum(w: &mut Writer<'_>, op: &Op, with_segment: bool) {
    let short = i32::try_from(op.disp as i64);
    if op.base == ZERO && op.index == ZERO {
        w.a.set(RAX, op.disp);
    } else {
        if op.base == ZERO {
            w.a.load(Size::Quad, RAX, guest(op.index));
            if op.scale != 0 {
                w.a.shift_left(Size::Quad, RAX, op.scale);
            }
        } else {
            w.a.load(Size::Quad, RAX, guest(op.base));
            if op.index != ZERO {
                w.a.load(Size::Quad, RCX, guest(op.index));
                if op.scale != 0 {
                    w.a.shift_left(Size::Quad, RCX, op.scale);
                }
                w.a.alu(Size::Quad, Alu::Add, RAX, RCX);
            }
        }
        match short {
            Ok(0) => {}
            Ok(short) => w.a.alu_immediate(Size::Quad, Alu::Add, RAX, short),
            Err(_) => {
                w.a.set(RCX, op.disp);
                w.a.alu(Size::Quad, Alu::Add, RAX, RCX);
            }
        }
    }
    if with_segment && op.segment_base != ZERO {
        w.a.alu_memory(Size::Quad, Alu::Add, RAX, guest(op.segment_base));
    }
}

/// Turns the linear address in RAX into a host address; spoils RCX and RDX. Whatever the TLB does
/// not answer at once is left to the handler.
fn host_address(w: &mut Writer<'_>, len: i32, write: bool) {
    w.a.copy(Size::Quad, RCX, RAX);
    w.a.shift_right(Size::Quad, RCX, 12);
    w.a.alu_immediate(Size::Double, Alu::And, RCX, ENTRIES as i32 - 1);
    w.a.shift_left(Size::Double, RCX, size_of::<Entry>().trailing_zeros() as u8);
    w.a.alu_memory(Size::Quad, Alu::Add, RCX, TLB_TABLE);
    if len == 1 {
        w.a.copy(Size::Quad, RDX, RAX);
    } else {
        w.a.address(RDX, Mem(RAX, len - 1));
    }
    w.a.alu_immediate(Size::Quad, Alu::And, RDX, -4096);
    let tag = if write {
        offset_of!(Entry, write)
    } else {
        offset_of!(Entry, read)
    };
    w.a.alu_memory(Size::Quad, Alu::Cmp, RDX, Mem(RCX, tag as i32));
    let miss = w.a.jump_if(NOT_EQUAL);
    w.slow.push(miss);
    let addend = offset_of!(Entry, addend) as i32;
    w.a.alu_memory(Size::Quad, Alu::Add, RAX, Mem(RCX, addend));
}

/// The first operand in RAX and the second in RCX, those that are read.
fn operands(w: &mut Writer<'_>, op: &Op, size: Size, reads_first: bool, immediate: u64) {
    match op.places {
        Places::Registers => w.a.load(Size::Quad, RCX, guest(op.src)),
        Places::RegisterImmediate => w.a.set(RCX, narrow(immediate, size)),
        Places::RegisterMemory | Places::MemoryRegister | Places::MemoryImmediate => {
            sum(w, op, true);
            host_address(w, bytes(size), false);
            let into = if op.places == Places::RegisterMemory {
                RCX
            } else {
                RAX
            };
            w.a.load(size, into, Mem(RAX, 0));
        }
    }
    match op.places {
        Places::MemoryRegister => w.a.load(Size::Quad, RCX, guest(op.src)),
        Places::MemoryImmediate => w.a.set(RCX, narrow(immediate, size)),
        _ if reads_first => w.a.load(Size::Quad, RAX, guest(op.dst)),
        _ => {}
    }
}

fn narrow(value: u64, size: Size) -> u64 {
    match size {
        Size::Byte => value & 0xff,
        Size::Double => value & 0xffff_ffff,
        Size::Quad => value,
    }
}

fn binary(w: &mut Writer<'_>, op: &Op, work: Work, size: Size, immediate: u64) {
    if work == Work::Move {
        return move_value(w, op, size);
    }
    operands(w, op, size, true, immediate);
    compute(w, work, size);
    if !matches!(work, Work::Compare | Work::Test) {
        // A 32-bit result has zeroes above it.
        w.a.store(Size::Quad, guest(op.dst), RDX);
    }
}

/// `RDX = RAX OP RCX`, with the flags; RAX and RCX stay.
fn compute(w: &mut Writer<'_>, work: Work, size: Size) {
    let (operation, is_logic) = match work {
        Work::Add => (Alu::Add, false),
        Work::Sub | Work::Compare | Work::Move => (Alu::Sub, false),
        Work::And | Work::Test => (Alu::And, true),
        Work::Or => (Alu::Or, true),
        Work::Xor => (Alu::Xor, true),
    };
    w.a.copy(Size::Quad, RDX, RAX);
    w.a.alu(size, operation, RDX, RCX);
    if is_logic {
        w.a.store_immediate(Size::Byte, FLAGS_BITS, 0);
        w.a.store_immediate(Size::Quad, FLAGS_AUX, 0);
        store_extended(w, size, FLAGS_RESULT, RDX);
        return;
    }
    w.a.store_condition(CARRY, FLAGS_BITS);
    store_extended(w, size, FLAGS_RESULT, RDX);
    w.a.copy(Size::Quad, RSI, RAX);
    w.a.alu(Size::Quad, Alu::Xor, RSI, RCX);
    w.a.alu(Size::Quad, Alu::Xor, RSI, RDX);
    store_extended(w, size, FLAGS_AUX, RSI);
}

/// `[mem] = reg`, sign-extended; spoils RDI, and RSI when that is `reg`.
fn store_extended(w: &mut Writer<'_>, size: Size, mem: Mem, reg: Reg) {
    match size {
        Size::Quad => w.a.store(Size::Quad, mem, reg),
        Size::Double => {
            w.a.extend_double(RDI, reg);
            w.a.store(Size::Quad, mem, RDI);
        }
        Size::Byte => {
            w.a.extend_byte(RDI, reg);
            w.a.store(Size::Quad, mem, RDI);
        }
    }
}

fn move_value(w: &mut Writer<'_>, op: &Op, size: Size) {
    match op.places {
        Places::MemoryRegister | Places::MemoryImmediate => {
            sum(w, op, true);
            host_address(w, bytes(size), true);
            if op.places == Places::MemoryRegister {
                w.a.load(Size::Quad, RDX, guest(op.src));
                w.a.store(size, Mem(RAX, 0), RDX);
            } else {
                w.a.set(RDX, narrow(op.imm, size));
                w.a.store(size, Mem(RAX, 0), RDX);
            }
        }
        Places::RegisterImmediate if size != Size::Byte => {
            w.a.store_value(guest(op.dst), narrow(op.imm, size), RCX);
        }
        _ => {
            operands(w, op, size, false, op.imm);
            match size {
                Size::Byte => w.a.store(Size::Byte, guest(op.dst), RCX),
                Size::Double => {
                    w.a.copy(Size::Double, RCX, RCX);
                    w.a.store(Size::Quad, guest(op.dst), RCX);
                }
                Size::Quad => w.a.store(Size::Quad, guest(op.dst), RCX),
            }
        }
    }
}

fn compare_and_jump(w: &mut Writer<'_>, op: &Op, work: Work, size: Size, code: u8) -> Next {
    let immediate = i64::from(op.imm as u32 as i32) as u64;
    operands(w, op, size, true, immediate);
    compute(w, work, size);
    if work == Work::Test {
        w.a.test(size, RDX);
    } else {
        w.a.alu(size, Alu::Cmp, RAX, RCX);
    }
    let next = w.next_rip();
    let taken = w.a.jump_if(code);
    w.go_to(next);
    w.a.land(taken);
    w.go_to(next.wrapping_add((op.imm as i64 >> 32) as u64));
    Next::Written
}

/// Jcc by the flags as they are kept, for the conditions that one look decides.
fn jump_if(w: &mut Writer<'_>, op: &Op, code: u8) -> Option<Next> {
    let negated = code & 1;
    let taken = match code >> 1 {
        1 => {
            w.a.test_memory(FLAGS_BITS, 1);
            w.a.jump_if(NOT_EQUAL ^ negated)
        }
        2 => {
            w.a.alu_memory_immediate(Size::Quad, Alu::Cmp, FLAGS_RESULT, 0);
            w.a.jump_if(EQUAL ^ negated)
        }
        4 => {
            w.a.load_byte_extended(RAX, FLAGS_BITS);
            w.a.shift_left(Size::Quad, RAX, 56);
            w.a.alu_memory(Size::Quad, Alu::Xor, RAX, FLAGS_RESULT);
            w.a.jump_if(SIGN ^ negated)
        }
        _ => return None,
    };
    let next = w.next_rip();
    w.go_to(next);
    w.a.land(taken);
    w.go_to(op.imm);
    Some(Next::Written)
}

fn step(w: &mut Writer<'_>, op: &Op, size: Size, down: bool) {
    w.a.load(Size::Quad, RAX, guest(op.dst));
    w.a.copy(size, RDX, RAX);
    let operation = if down { Alu::Sub } else { Alu::Add };
    w.a.alu_immediate(size, operation, RDX, 1);
    w.a.set_condition(OVERFLOW, RCX);
    w.a.store(Size::Quad, guest(op.dst), RDX);
    store_extended(w, size, FLAGS_RESULT, RDX);
    // Bit 4 of `aux` is the carry out of bit 3, bit 63 tells overflow from carry.
    w.a.alu(Size::Double, Alu::Xor, RAX, RDX);
    w.a.alu_immediate(Size::Double, Alu::Xor, RAX, 1);
    w.a.alu_immediate(Size::Double, Alu::And, RAX, 16);
    w.a.load_byte_extended(RSI, FLAGS_BITS);
    w.a.alu_immediate(Size::Double, Alu::And, RSI, 1);
    w.a.zero_extend_byte(RCX, RCX);
    w.a.alu(Size::Double, Alu::Xor, RCX, RSI);
    w.a.shift_left(Size::Quad, RCX, 63);
    w.a.alu(Size::Quad, Alu::Or, RAX, RCX);
    w.a.store(Size::Quad, FLAGS_AUX, RAX);
    w.a.copy(Size::Double, RCX, RSI);
    w.a.store(Size::Byte, FLAGS_BITS, RCX);
}

fn load_extended(w: &mut Writer<'_>, op: &Op, from: u8) {
    sum(w, op, true);
    host_address(w, i32::from(from / 8), false);
    if from == 8 {
        w.a.load_byte_extended(RAX, Mem(RAX, 0));
    } else {
        w.a.load_word_extended(RAX, Mem(RAX, 0));
    }
    w.a.store(Size::Quad, guest(op.dst), RAX);
}

/// Pushes a register, or else the address of the next block.
fn push(w: &mut Writer<'_>, register: Option<u8>) {
    w.a.load(Size::Quad, RAX, guest(reg::RSP as u8));
    w.a.alu_immediate(Size::Quad, Alu::Sub, RAX, 8);
    w.a.copy(Size::Quad, RDI, RAX);
    host_address(w, 8, true);
    match register {
        Some(register) => w.a.load(Size::Quad, RDX, guest(register)),
        None => {
            let next = w.next_rip();
            w.a.set(RDX, next);
        }
    }
    w.a.store(Size::Quad, Mem(RAX, 0), RDX);
    w.a.store(Size::Quad, guest(reg::RSP as u8), RDI);
}

fn pop(w: &mut Writer<'_>, op: &Op) {
    w.a.load(Size::Quad, RAX, guest(reg::RSP as u8));
    host_address(w, 8, false);
    w.a.load(Size::Quad, RDX, Mem(RAX, 0));
    w.a.alu_memory_immediate(Size::Quad, Alu::Add, guest(reg::RSP as u8), 8);
    w.a.store(Size::Quad, guest(op.dst), RDX);
}

fn ret(w: &mut Writer<'_>) {
    w.a.load(Size::Quad, RAX, guest(reg::RSP as u8));
    host_address(w, 8, false);
    w.a.load(Size::Quad, RDX, Mem(RAX, 0));
    // Canonical when bits 63 to 47 are equal: then adding one leaves bits 1 to 16 clear.
    w.a.copy(Size::Quad, RCX, RDX);
    w.a.shift_right(Size::Quad, RCX, 47);
    w.a.alu_immediate(Size::Double, Alu::Add, RCX, 1);
    w.a.alu_immediate(Size::Double, Alu::And, RCX, 0x1_fffe);
    let odd = w.a.jump_if(NOT_EQUAL);
    w.slow.push(odd);
    w.a.alu_memory_immediate(Size::Quad, Alu::Add, guest(reg::RSP as u8), 8);
    w.a.store(Size::Quad, RIP, RDX);
}
