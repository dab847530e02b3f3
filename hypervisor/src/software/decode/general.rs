//! Handlers of the general-purpose instructions that every program uses.

use iced_x86::{Instruction, Mnemonic};

use super::Chosen;
use super::select::{by_condition, by_wide_width, by_width, in_memory, in_register, operand_bits};
use crate::software::execute::operand::{I, M, R0, R1, R2};
use crate::software::execute::{alu, bits, branch, data, exchange, multiply, shift, stack, string};
use crate::software::op::Handler;

/// The handler of a two-operand instruction whose operand 0 is written.
macro_rules! binary {
    ($i:expr, $bits:expr, $($path:ident)::+, [$($first:tt)*]) => {
        match (in_memory($i, 0), in_register($i, 1), in_memory($i, 1)) {
            (false, true, _) => by_width!($bits, $($path)::+, [$($first)* R0, R1]),
            (false, _, true) => by_width!($bits, $($path)::+, [$($first)* R0, M]),
            (false, _, _) => by_width!($bits, $($path)::+, [$($first)* R0, I]),
            (true, true, _) => by_width!($bits, $($path)::+, [$($first)* M, R1]),
            (true, _, _) => by_width!($bits, $($path)::+, [$($first)* M, I]),
        }
    };
}

/// The handler of an instruction whose only operand is written.
macro_rules! target {
    ($i:expr, $bits:expr, $($path:ident)::+) => {
        if in_memory($i, 0) {
            by_width!($bits, $($path)::+, [M])
        } else {
            by_width!($bits, $($path)::+, [R0])
        }
    };
}

/// The handler of an instruction that reads operand 1 from a register or memory.
macro_rules! source {
    ($i:expr, $bits:expr, $($path:ident)::+ $(, $extra:tt)?) => {
        if in_memory($i, 1) {
            by_wide_width!($bits, $($path)::+, [M $(, $extra)?])
        } else {
            by_wide_width!($bits, $($path)::+, [R1 $(, $extra)?])
        }
    };
}

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction) -> Option<Chosen> {
    moves(i)
        .or_else(|| arithmetic(i))
        .or_else(|| shifts(i))
        .or_else(|| bit_operations(i))
        .or_else(|| strings(i))
        .map(Chosen::next)
        .or_else(|| branches(i))
        .or_else(|| stack_operations(i))
}

fn moves(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    if i.op_count() == 2 && is_special_move(i) {
        return None;
    }
    let bits = if i.op_count() > 0 {
        operand_bits(i, 0)
    } else {
        0
    };
    Some(match i.mnemonic() {
        N::Mov => binary!(i, bits, data::mov, []),
        N::Movnti => by_wide_width!(bits, data::mov, [M, R1]),
        N::Movzx => widen(i, bits, false),
        N::Movsx | N::Movsxd => widen(i, bits, true),
        N::Lea => by_wide_width!(bits, data::lea),
        N::Xchg if in_memory(i, 0) => by_width!(bits, exchange::exchange, [M]),
        N::Xchg => by_width!(bits, exchange::exchange, [R0]),
        N::Xadd => target!(i, bits, exchange::exchange_add),
        N::Cmpxchg => target!(i, bits, exchange::compare_exchange),
        N::Cmpxchg8b => exchange::compare_exchange_8,
        N::Cmpxchg16b => exchange::compare_exchange_16,
        N::Bswap => by_wide_width!(bits, data::byte_swap),
        N::Movbe if in_memory(i, 0) => by_wide_width!(bits, data::store_swapped),
        N::Movbe => by_wide_width!(bits, data::load_swapped),
        N::Cbw => data::extend_accumulator::<u16>,
        N::Cwde => data::extend_accumulator::<u32>,
        N::Cdqe => data::extend_accumulator::<u64>,
        N::Cwd => data::spread_sign::<u16>,
        N::Cdq => data::spread_sign::<u32>,
        N::Cqo => data::spread_sign::<u64>,
        N::Nop | N::Pause | N::Endbr64 | N::Endbr32 | N::Lfence | N::Mfence | N::Sfence => {
            data::nothing
        }
        N::Prefetchnta | N::Prefetcht0 | N::Prefetcht1 | N::Prefetcht2 => data::nothing,
        // All of 0F 0D: hints to processors that take them, and reserved.
        N::Prefetch | N::Prefetchw | N::Prefetchwt1 => data::nothing,
        // Reserved hints; to other processors some of them mean something.
        N::Reservednop | N::Cldemote | N::Rdsspd | N::Rdsspq => data::nothing,
        N::Prefetchit0 | N::Prefetchit1 => data::nothing,
        _ => return conditional(i, bits),
    })
}

/// MOV with a segment, control or debug register.
fn is_special_move(i: &Instruction) -> bool {
    i.mnemonic() == Mnemonic::Mov
        && (0..2).any(|index| {
            let register = i.op_register(index);
            in_register(i, index)
                && (register.is_segment_register() || register.is_cr() || register.is_dr())
        })
}

fn widen(i: &Instruction, bits: u32, signed: bool) -> Handler {
    macro_rules! from {
        ($path:ident, $narrow:ty) => {
            if in_memory(i, 1) {
                by_wide_width!(bits, data::$path, [$narrow, M])
            } else {
                by_wide_width!(bits, data::$path, [$narrow, R1])
            }
        };
    }
    match (operand_bits(i, 1), signed) {
        (8, false) => from!(zero_extend, u8),
        (16, false) => from!(zero_extend, u16),
        (_, false) => from!(zero_extend, u32),
        (8, true) => from!(sign_extend, u8),
        (16, true) => from!(sign_extend, u16),
        (_, true) => from!(sign_extend, u32),
    }
}

/// Condition code of the encoding, for Jcc, SETcc and CMOVcc.
fn condition(i: &Instruction) -> Option<u8> {
    let code = i.condition_code() as u8;
    code.checked_sub(1)
}

fn conditional(i: &Instruction, bits: u32) -> Option<Handler> {
    let code = condition(i)?;
    if i.is_jcc_short_or_near() || i.op_count() == 0 {
        return None;
    }
    if i.op_count() == 1 {
        if operand_bits(i, 0) != 8 || !(in_memory(i, 0) || in_register(i, 0)) {
            return None;
        }
        return Some(if in_memory(i, 0) {
            by_condition!(code, data::set_condition, [M,])
        } else {
            by_condition!(code, data::set_condition, [R0,])
        });
    }
    let memory = in_memory(i, 1);
    if !in_register(i, 0) || !i.op_register(0).is_gpr() {
        return None;
    }
    Some(match (bits, memory) {
        (16, false) => by_condition!(code, data::conditional_move, [u16, R1,]),
        (16, true) => by_condition!(code, data::conditional_move, [u16, M,]),
        (32, false) => by_condition!(code, data::conditional_move, [u32, R1,]),
        (32, true) => by_condition!(code, data::conditional_move, [u32, M,]),
        (_, false) => by_condition!(code, data::conditional_move, [u64, R1,]),
        (_, true) => by_condition!(code, data::conditional_move, [u64, M,]),
    })
}

fn arithmetic(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    if i.op_count() == 0 {
        return None;
    }
    let bits = operand_bits(i, 0);
    Some(match i.mnemonic() {
        N::Add => binary!(i, bits, alu::binary, [alu::Add,]),
        N::Adc => binary!(i, bits, alu::binary, [alu::Adc,]),
        N::Sub => binary!(i, bits, alu::binary, [alu::Sub,]),
        N::Sbb => binary!(i, bits, alu::binary, [alu::Sbb,]),
        N::Cmp => binary!(i, bits, alu::binary, [alu::Cmp,]),
        N::And => binary!(i, bits, alu::binary, [alu::And,]),
        N::Or => binary!(i, bits, alu::binary, [alu::Or,]),
        N::Xor => binary!(i, bits, alu::binary, [alu::Xor,]),
        N::Test => binary!(i, bits, alu::binary, [alu::Test,]),
        N::Inc => target!(i, bits, alu::increment),
        N::Dec => target!(i, bits, alu::decrement),
        N::Neg => target!(i, bits, alu::negate),
        N::Not => target!(i, bits, alu::complement),
        N::Mul => target!(i, bits, multiply::multiply),
        N::Div => target!(i, bits, multiply::divide),
        N::Idiv => target!(i, bits, multiply::divide_signed),
        N::Imul => match i.op_count() {
            1 => target!(i, bits, multiply::multiply_signed),
            2 => source!(i, bits, multiply::multiply_into),
            _ => source!(i, bits, multiply::multiply_by_immediate),
        },
        _ => return None,
    })
}

fn shifts(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    if i.op_count() < 2 {
        return None;
    }
    let bits = operand_bits(i, 0);
    macro_rules! double {
        ($name:ident) => {
            match (in_memory(i, 0), in_register(i, 2)) {
                (false, true) => by_wide_width!(bits, shift::$name, [R0, true]),
                (false, false) => by_wide_width!(bits, shift::$name, [R0, false]),
                (true, true) => by_wide_width!(bits, shift::$name, [M, true]),
                (true, false) => by_wide_width!(bits, shift::$name, [M, false]),
            }
        };
    }
    Some(match i.mnemonic() {
        N::Shl | N::Sal => binary!(i, bits, shift::shift, [shift::Left,]),
        N::Shr => binary!(i, bits, shift::shift, [shift::Right,]),
        N::Sar => binary!(i, bits, shift::shift, [shift::Arithmetic,]),
        N::Rol => binary!(i, bits, shift::shift, [shift::RotateLeft,]),
        N::Ror => binary!(i, bits, shift::shift, [shift::RotateRight,]),
        N::Rcl => binary!(i, bits, shift::shift, [shift::RotateCarryLeft,]),
        N::Rcr => binary!(i, bits, shift::shift, [shift::RotateCarryRight,]),
        N::Shld => double!(double_left),
        N::Shrd => double!(double_right),
        N::Sarx => source!(i, bits, bits::shift_plain, 0),
        N::Shlx => source!(i, bits, bits::shift_plain, 1),
        N::Shrx => source!(i, bits, bits::shift_plain, 2),
        N::Rorx => source!(i, bits, bits::rotate_plain),
        _ => return None,
    })
}

fn bit_operations(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    if i.op_count() < 2 {
        return None;
    }
    let bits = operand_bits(i, 0);
    macro_rules! test {
        ($change:ident) => {
            match (in_memory(i, 0), in_register(i, 1)) {
                (true, true) => by_wide_width!(bits, bits::bit_test_string, [bits::$change]),
                (true, false) => by_wide_width!(bits, bits::bit_test, [bits::$change, M, I]),
                (false, true) => by_wide_width!(bits, bits::bit_test, [bits::$change, R0, R1]),
                (false, false) => by_wide_width!(bits, bits::bit_test, [bits::$change, R0, I]),
            }
        };
    }
    macro_rules! last {
        ($name:ident) => {
            if in_memory(i, 2) {
                by_wide_width!(bits, bits::$name, [M])
            } else {
                by_wide_width!(bits, bits::$name, [R2])
            }
        };
    }
    Some(match i.mnemonic() {
        N::Bt => test!(Keep),
        N::Bts => test!(Set),
        N::Btr => test!(Reset),
        N::Btc => test!(Complement),
        N::Bsf => source!(i, bits, bits::scan_forward),
        N::Bsr => source!(i, bits, bits::scan_reverse),
        N::Popcnt => source!(i, bits, bits::count_ones),
        N::Lzcnt => source!(i, bits, bits::leading_zeros),
        N::Tzcnt => source!(i, bits, bits::trailing_zeros),
        N::Andn => last!(and_not),
        N::Bextr => source!(i, bits, bits::extract_field),
        N::Blsi => source!(i, bits, bits::lowest_bit, 0),
        N::Blsmsk => source!(i, bits, bits::lowest_bit, 1),
        N::Blsr => source!(i, bits, bits::lowest_bit, 2),
        N::Bzhi => source!(i, bits, bits::zero_high),
        N::Mulx => last!(multiply_plain),
        N::Pdep => last!(deposit),
        N::Pext => last!(extract),
        N::Crc32 if in_memory(i, 1) => by_width!(operand_bits(i, 1), bits::crc32, [M]),
        N::Crc32 => by_width!(operand_bits(i, 1), bits::crc32, [R1]),
        _ => return None,
    })
}

fn strings(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Movsb => string::movs::<u8>,
        N::Movsw => string::movs::<u16>,
        N::Movsd if i.is_string_instruction() => string::movs::<u32>,
        N::Movsq => string::movs::<u64>,
        N::Stosb => string::stos::<u8>,
        N::Stosw => string::stos::<u16>,
        N::Stosd => string::stos::<u32>,
        N::Stosq => string::stos::<u64>,
        N::Lodsb => string::lods::<u8>,
        N::Lodsw => string::lods::<u16>,
        N::Lodsd => string::lods::<u32>,
        N::Lodsq => string::lods::<u64>,
        N::Scasb => string::scas::<u8>,
        N::Scasw => string::scas::<u16>,
        N::Scasd => string::scas::<u32>,
        N::Scasq => string::scas::<u64>,
        N::Cmpsb => string::cmps::<u8>,
        N::Cmpsw => string::cmps::<u16>,
        N::Cmpsd if i.is_string_instruction() => string::cmps::<u32>,
        N::Cmpsq => string::cmps::<u64>,
        _ => return None,
    })
}

fn branches(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    if i.is_jcc_short_or_near() {
        let code = condition(i)?;
        return Some(Chosen::branch(by_condition!(code, branch::jump_if, [])));
    }
    let near = i.op_count() > 0 && !in_register(i, 0) && !in_memory(i, 0);
    let bits = if i.op_count() == 0 {
        0
    } else {
        operand_bits(i, 0)
    };
    Some(Chosen::branch(match i.mnemonic() {
        N::Jmp if i.is_jmp_far() || i.is_jmp_far_indirect() => return None,
        N::Call if i.is_call_far() || i.is_call_far_indirect() => return None,
        N::Jmp if near => branch::jump,
        N::Jmp if in_memory(i, 0) => by_wide_width!(bits, branch::jump_indirect, [M]),
        N::Jmp => by_wide_width!(bits, branch::jump_indirect, [R0]),
        N::Call if near => by_wide_width!(near_bits(i), branch::call),
        N::Call if in_memory(i, 0) => by_wide_width!(bits, branch::call_indirect, [M]),
        N::Call => by_wide_width!(bits, branch::call_indirect, [R0]),
        N::Ret => by_wide_width!(return_bits(i), branch::ret),
        N::Loop => by_wide_width!(counter_bits(i), branch::repeat, [0]),
        N::Loope => by_wide_width!(counter_bits(i), branch::repeat, [1]),
        N::Loopne => by_wide_width!(counter_bits(i), branch::repeat, [2]),
        N::Jcxz => branch::jump_if_no_count::<u16>,
        N::Jecxz => branch::jump_if_no_count::<u32>,
        N::Jrcxz => branch::jump_if_no_count::<u64>,
        _ => return None,
    }))
}

fn near_bits(i: &Instruction) -> u32 {
    match i.op0_kind() {
        iced_x86::OpKind::NearBranch16 => 16,
        iced_x86::OpKind::NearBranch32 => 32,
        _ => 64,
    }
}

fn return_bits(i: &Instruction) -> u32 {
    use iced_x86::Code::{Retnd, Retnd_imm16, Retnw, Retnw_imm16};
    match i.code() {
        Retnw | Retnw_imm16 => 16,
        Retnd | Retnd_imm16 => 32,
        _ => 64,
    }
}

/// The counter's width of LOOP and its relatives.
fn counter_bits(i: &Instruction) -> u32 {
    let name = format!("{:?}", i.code());
    if name.ends_with("_RCX") {
        64
    } else if name.ends_with("_ECX") {
        32
    } else {
        16
    }
}

fn stack_operations(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    if i.op_count() > 0 && in_register(i, 0) && i.op_register(0).is_segment_register() {
        let bits = i.stack_pointer_increment().unsigned_abs() * 8;
        return match i.mnemonic() {
            N::Push => Some(Chosen::next(by_wide_width!(bits, stack::push_segment))),
            N::Pop => Some(Chosen::end(by_wide_width!(bits, stack::pop_segment))),
            _ => None,
        };
    }
    let bits = i.stack_pointer_increment().unsigned_abs() * 8;
    Some(Chosen::next(match i.mnemonic() {
        N::Push => match (in_memory(i, 0), in_register(i, 0)) {
            (true, _) => by_wide_width!(bits, stack::push, [M]),
            (_, true) => by_wide_width!(bits, stack::push, [R0]),
            _ => by_wide_width!(bits, stack::push, [I]),
        },
        N::Pop if in_memory(i, 0) => by_wide_width!(bits, stack::pop, [M]),
        N::Pop => by_wide_width!(bits, stack::pop, [R0]),
        N::Pushf => stack::push_flags::<u16>,
        N::Pushfd => stack::push_flags::<u32>,
        N::Pushfq => stack::push_flags::<u64>,
        N::Popf => return Some(Chosen::end(stack::pop_flags::<u16>)),
        N::Popfd => return Some(Chosen::end(stack::pop_flags::<u32>)),
        N::Popfq => return Some(Chosen::end(stack::pop_flags::<u64>)),
        N::Pusha => stack::push_all::<u16>,
        N::Pushad => stack::push_all::<u32>,
        N::Popa => stack::pop_all::<u16>,
        N::Popad => stack::pop_all::<u32>,
        N::Enter => by_wide_width!(enter_bits(i), stack::enter),
        N::Leave => by_wide_width!(enter_bits(i), stack::leave),
        _ => return None,
    }))
}

fn enter_bits(i: &Instruction) -> u32 {
    use iced_x86::Code::{Enterd_imm16_imm8, Enterw_imm16_imm8, Leaved, Leavew};
    match i.code() {
        Enterw_imm16_imm8 | Leavew => 16,
        Enterd_imm16_imm8 | Leaved => 32,
        _ => 64,
    }
}
