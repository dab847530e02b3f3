//! An instruction of a given encoding with random operands.
//!
//! Registers that hold addresses are written rarely, so that memory operands mostly hit the
//! arena: RBX, RBP, R13 and R14 point into the data, R12 is a small index, RSP the stack.

use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

use crate::layout::{DATA, DATA_SIZE, READ_ONLY};
use crate::random::Random;

/// Numbers of the registers that hold addresses into the data.
pub const POINTERS: [usize; 4] = [3, 5, 13, 14];
/// Number of the small index.
pub const INDEX: usize = 12;
/// Numbers of the registers that instructions write.
const FREE: [u8; 10] = [0, 1, 2, 6, 7, 8, 9, 10, 11, 15];

/// An instruction of encoding `code`; `None` when the draw cannot be encoded.
pub fn instruction(code: Code, random: &mut Random) -> Option<Instruction> {
    let mut i = Instruction::default();
    i.set_code(code);
    let kinds = code.op_code().op_kinds();
    let bit_string = matches!(
        code.mnemonic(),
        Mnemonic::Bt | Mnemonic::Btc | Mnemonic::Btr | Mnemonic::Bts
    );
    for (index, &kind) in kinds.iter().enumerate() {
        let index = index as u32;
        if bit_string && index == 1 && i.op0_kind() == OpKind::Memory {
            // The index reaches beyond the operand: it must be a small one.
            let register = match kind {
                OpCodeOperandKind::r16_reg => Register::R12W,
                OpCodeOperandKind::r32_reg => Register::R12D,
                OpCodeOperandKind::r64_reg => Register::R12,
                _ => {
                    operand(&mut i, index, kind, random)?;
                    continue;
                }
            };
            i.try_set_op_kind(index, OpKind::Register).ok()?;
            i.try_set_op_register(index, register).ok()?;
            continue;
        }
        operand(&mut i, index, kind, random)?;
    }
    if code.op_code().can_use_lock_prefix() && i.op0_kind() == OpKind::Memory && random.one_in(4) {
        i.set_has_lock_prefix(true);
    }
    (!is_disputed(&i)).then_some(i)
}

/// Forms in which AMD's processors, on which the oracle may run, are not as Intel's manual says.
fn is_disputed(i: &Instruction) -> bool {
    let in_register = i.op0_kind() == OpKind::Register;
    match i.code() {
        // Intel's writes the destination back in any case, which clears its upper half.
        Code::Cmpxchg_rm32_r32 => in_register,
        // Intel's enters MMX state, AMD's does not when the source is in memory.
        Code::Cvtpi2ps_xmm_mmm64 => i.op1_kind() == OpKind::Memory,
        _ => false,
    }
}

fn operand(
    i: &mut Instruction,
    index: u32,
    kind: OpCodeOperandKind,
    random: &mut Random,
) -> Option<()> {
    use OpCodeOperandKind as K;
    let writes = index == 0 || writes_all(i.mnemonic());
    let register = match kind {
        K::mem | K::mem_offs => return memory(i, index, kind == K::mem_offs, random),
        K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r64_or_mem
        | K::mm_or_mem
        | K::xmm_or_mem
            if random.one_in(2) =>
        {
            return memory(i, index, false, random);
        }
        K::r8_or_mem | K::r8_reg | K::r8_opcode => byte_register(writes, random),
        K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => {
            Register::AX + general(writes, random)
        }
        K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            Register::EAX + general(writes, random)
        }
        K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            Register::RAX + general(writes, random)
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + random.below(8) as u32,
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm => Register::XMM0 + random.below(16) as u32,
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST0 + random.below(8) as u32,
        _ => return immediate(i, index, kind, random),
    };
    i.try_set_op_kind(index, OpKind::Register).ok()?;
    i.try_set_op_register(index, register).ok()
}

/// Instructions that write more than their first operand.
fn writes_all(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Mulx)
}

fn general(written: bool, random: &mut Random) -> u32 {
    let free = if written {
        !random.one_in(100)
    } else {
        random.one_in(2)
    };
    if free {
        u32::from(random.pick(&FREE))
    } else {
        random.below(16) as u32
    }
}

fn byte_register(written: bool, random: &mut Random) -> Register {
    const HIGH: [Register; 3] = [Register::AH, Register::CH, Register::DH];
    const LOW: [Register; 16] = [
        Register::AL,
        Register::CL,
        Register::DL,
        Register::BL,
        Register::SPL,
        Register::BPL,
        Register::SIL,
        Register::DIL,
        Register::R8L,
        Register::R9L,
        Register::R10L,
        Register::R11L,
        Register::R12L,
        Register::R13L,
        Register::R14L,
        Register::R15L,
    ];
    if random.one_in(4) {
        return random.pick(&HIGH);
    }
    LOW[general(written, random) as usize]
}

fn immediate(
    i: &mut Instruction,
    index: u32,
    kind: OpCodeOperandKind,
    random: &mut Random,
) -> Option<()> {
    use OpCodeOperandKind as K;
    let (kind, value) = match kind {
        K::imm8 if index == 1 && i.op_count() == 2 && i.mnemonic() == Mnemonic::Enter => {
            (OpKind::Immediate8_2nd, random.below(4))
        }
        K::imm8 => (OpKind::Immediate8, random.next() & 0xff),
        K::imm8_const_1 => (OpKind::Immediate8, 1),
        K::imm8sex16 => (OpKind::Immediate8to16, random.next() as i8 as u64),
        K::imm8sex32 => (OpKind::Immediate8to32, random.next() as i8 as u64),
        K::imm8sex64 => (OpKind::Immediate8to64, random.next() as i8 as u64),
        K::imm16 if i.mnemonic() == Mnemonic::Enter => (OpKind::Immediate16, random.below(256)),
        K::imm16 => (OpKind::Immediate16, random.integer() & 0xffff),
        K::imm32 => (OpKind::Immediate32, random.integer() & 0xffff_ffff),
        K::imm32sex64 => (OpKind::Immediate32to64, random.integer() as i32 as u64),
        K::imm64 => (OpKind::Immediate64, random.integer()),
        _ => return None,
    };
    i.try_set_op_kind(index, kind).ok()?;
    match kind {
        OpKind::Immediate8 => i.set_immediate8(value as u8),
        OpKind::Immediate8_2nd => i.set_immediate8_2nd(value as u8),
        OpKind::Immediate8to16 => i.set_immediate8to16(value as i16),
        OpKind::Immediate8to32 => i.set_immediate8to32(value as i32),
        OpKind::Immediate8to64 => i.set_immediate8to64(value as i64),
        OpKind::Immediate16 => i.set_immediate16(value as u16),
        OpKind::Immediate32 => i.set_immediate32(value as u32),
        OpKind::Immediate32to64 => i.set_immediate32to64(value as i64),
        _ => i.set_immediate64(value),
    }
    Some(())
}

/// An address in the data; rarely one where an access faults.
fn address(alignment: u64, random: &mut Random) -> u64 {
    if random.one_in(60) {
        // The last bytes of the data, of the read-only page, and beyond.
        let start = random.pick(&[DATA, READ_ONLY, READ_ONLY + 4096, READ_ONLY + 0x2000]);
        return start.wrapping_add(random.below(16)).wrapping_sub(8);
    }
    let inside = if random.one_in(8) {
        // Across two pages.
        DATA + 4096 * (1 + random.below(6)) - random.below(16)
    } else {
        DATA + 0x1000 + random.below(DATA_SIZE - 0x2000)
    };
    if random.one_in(24) {
        inside
    } else {
        inside & !(alignment - 1)
    }
}

fn alignment(i: &Instruction, random: &mut Random) -> u64 {
    let size = i.memory_size().size() as u64;
    let locked = i.op_code().can_use_lock_prefix();
    match size {
        16 => 16,
        _ if locked || random.one_in(2) => size.next_power_of_two().clamp(1, 64),
        _ => 1,
    }
}

fn memory(i: &mut Instruction, index: u32, absolute: bool, random: &mut Random) -> Option<()> {
    i.try_set_op_kind(index, OpKind::Memory).ok()?;
    let alignment = alignment(i, random);
    i.set_memory_index_scale(1);
    if absolute {
        i.set_memory_displ_size(8);
        i.set_memory_displacement64(address(alignment, random));
        return Some(());
    }
    let narrow = random.one_in(8);
    let number = random.pick(&POINTERS) as u32;
    let base = if narrow { Register::EAX } else { Register::RAX } + number;
    // Pointers are multiples of 64 a page inside the data; so is what is left here.
    let displacement = (random.below(0x800) as i64 - 0x400) & -(alignment as i64);
    match random.below(8) {
        0 | 1 => {
            i.set_memory_base(Register::RIP);
            i.set_memory_displ_size(8);
            i.set_memory_displacement64(address(alignment, random));
        }
        2 => {
            i.set_memory_displ_size(8);
            i.set_memory_displacement64(address(alignment, random));
        }
        3 | 4 => {
            i.set_memory_base(base);
            let index = if narrow {
                Register::R12D
            } else {
                Register::R12
            };
            i.set_memory_index(index);
            i.set_memory_index_scale(1 << random.below(4));
            i.set_memory_displ_size(8);
            i.set_memory_displacement64(displacement as u64);
        }
        _ => {
            i.set_memory_base(base);
            i.set_memory_displ_size(8);
            i.set_memory_displacement64(displacement as u64);
        }
    }
    if narrow && i.memory_base() != Register::RIP && i.memory_base() != Register::None {
        i.set_memory_displ_size(4);
        i.set_memory_displacement64(displacement as u32 as u64);
    }
    if random.one_in(16) {
        i.set_segment_prefix(random.pick(&[Register::GS, Register::DS, Register::ES]));
    }
    Some(())
}
