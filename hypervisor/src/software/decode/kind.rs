//! What an instruction is to the translator: the plain 64-bit forms of the commonest
//! instructions. All others are calls of their handlers.

use iced_x86::{Instruction, Mnemonic};

use super::select::{in_memory, in_register, operand_bits};
use crate::software::op::{Kind, Work};

/// The kind of `instruction` in 64-bit mode.
pub fn of(i: &Instruction) -> Kind {
    if i.is_jcc_short_or_near() {
        return match (i.condition_code() as u8).checked_sub(1) {
            Some(code) if i.op0_kind() == iced_x86::OpKind::NearBranch64 => Kind::JumpIf(code),
            _ => Kind::Other,
        };
    }
    match i.op_count() {
        0 => match i.code() {
            iced_x86::Code::Retnq => Kind::Return,
            _ => Kind::Other,
        },
        1 => of_one(i),
        2 => of_two(i),
        _ => Kind::Other,
    }
}

fn of_one(i: &Instruction) -> Kind {
    let plain = in_register(i, 0) && i.op_register(0).is_gpr64();
    match i.mnemonic() {
        Mnemonic::Push if plain => Kind::Push,
        Mnemonic::Pop if plain => Kind::Pop,
        Mnemonic::Inc if in_register(i, 0) => stepped(i, false),
        Mnemonic::Dec if in_register(i, 0) => stepped(i, true),
        Mnemonic::Jmp if i.op0_kind() == iced_x86::OpKind::NearBranch64 => Kind::Jump,
        Mnemonic::Call if i.op0_kind() == iced_x86::OpKind::NearBranch64 => Kind::Call,
        _ => Kind::Other,
    }
}

fn stepped(i: &Instruction, down: bool) -> Kind {
    match operand_bits(i, 0) {
        bits @ (32 | 64) => Kind::Step {
            bits: bits as u8,
            down,
        },
        _ => Kind::Other,
    }
}

fn of_two(i: &Instruction) -> Kind {
    use Mnemonic as N;
    let general = |index| {
        let register = i.op_register(index);
        // The second bytes of the first four registers are left to the handlers.
        register.is_gpr() && !(register.is_gpr8() && (4..8).contains(&register.number()))
    };
    if (0..2).any(|index| in_register(i, index) && !general(index)) {
        return Kind::Other;
    }
    let bits = operand_bits(i, 0) as u8;
    match i.mnemonic() {
        N::Lea if bits == 64 => return Kind::Address,
        N::Movzx if bits >= 32 => {
            return match operand_bits(i, 1) {
                from @ (8 | 16) if in_memory(i, 1) => Kind::LoadExtended { from: from as u8 },
                _ => Kind::Other,
            };
        }
        _ => {}
    }
    let work = match i.mnemonic() {
        N::Mov => Work::Move,
        N::Add => Work::Add,
        N::Sub => Work::Sub,
        N::And => Work::And,
        N::Or => Work::Or,
        N::Xor => Work::Xor,
        N::Cmp => Work::Compare,
        N::Test => Work::Test,
        _ => return Kind::Other,
    };
    let reads_only = matches!(work, Work::Move | Work::Compare | Work::Test);
    if bits == 16 || (bits == 8 && !reads_only) || (in_memory(i, 0) && !reads_only) {
        return Kind::Other;
    }
    Kind::Binary { work, bits }
}
