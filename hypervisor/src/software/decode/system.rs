//! Handlers of system instructions, port I/O, far transfers and rarities.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::select::{by_wide_width, by_width, in_memory, in_register, operand_bits};
use super::{Chosen, Flow};
use crate::software::cpu::Mode;
use crate::software::execute::operand::{M, R0, R1};
use crate::software::execute::{
    branch, control, data, decimal, far, io, processor, string, syscall,
};
use crate::software::op::Handler;

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction, mode: Mode) -> Option<Chosen> {
    ports(i)
        .or_else(|| segments(i))
        .or_else(|| transfers(i))
        .or_else(|| control_registers(i))
        .or_else(|| tables(i, mode))
        .or_else(|| processor_state(i))
        .or_else(|| legacy(i))
}

fn alone(run: Handler) -> Option<Chosen> {
    Some(Chosen {
        run,
        flow: Flow::Alone,
    })
}

fn ports(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    match i.mnemonic() {
        N::In => {
            let bits = operand_bits(i, 0);
            if in_register(i, 1) {
                alone(by_width!(bits, io::input, [true]))
            } else {
                alone(by_width!(bits, io::input, [false]))
            }
        }
        N::Out => {
            let bits = operand_bits(i, 1);
            if in_register(i, 0) {
                alone(by_width!(bits, io::output, [true]))
            } else {
                alone(by_width!(bits, io::output, [false]))
            }
        }
        N::Insb => alone(string::ins::<u8>),
        N::Insw => alone(string::ins::<u16>),
        N::Insd => alone(string::ins::<u32>),
        N::Outsb => alone(string::outs::<u8>),
        N::Outsw => alone(string::outs::<u16>),
        N::Outsd => alone(string::outs::<u32>),
        _ => None,
    }
}

fn segments(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    if i.mnemonic() == N::Mov && in_register(i, 0) && i.op_register(0).is_segment_register() {
        return Some(Chosen::end(if in_memory(i, 1) {
            data::mov_to_segment::<M>
        } else {
            data::mov_to_segment::<R1>
        }));
    }
    if i.mnemonic() == N::Mov && in_register(i, 1) && i.op_register(1).is_segment_register() {
        return Some(Chosen::next(if in_memory(i, 0) {
            data::mov_from_segment::<u16, M>
        } else {
            by_wide_width!(operand_bits(i, 0), data::mov_from_segment, [R0])
        }));
    }
    match i.mnemonic() {
        N::Lds | N::Les | N::Lss | N::Lfs | N::Lgs => Some(Chosen::end(by_wide_width!(
            operand_bits(i, 0),
            data::load_far_pointer
        ))),
        _ => None,
    }
}

fn far_bits(i: &Instruction) -> u32 {
    use iced_x86::Code::{
        Call_m1616, Call_m1632, Call_ptr1616, Call_ptr1632, Iretd, Iretw, Jmp_m1616, Jmp_m1632,
        Retfd, Retfd_imm16, Retfw, Retfw_imm16,
    };
    match i.code() {
        Call_ptr1616 | Call_m1616 | Jmp_m1616 | Retfw | Retfw_imm16 | Iretw => 16,
        Call_ptr1632 | Call_m1632 | Jmp_m1632 | Retfd | Retfd_imm16 | Iretd => 32,
        _ => 64,
    }
}

fn transfers(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    let immediate = matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32);
    Some(Chosen::end(match i.mnemonic() {
        N::Jmp if immediate => far::jump_immediate,
        N::Jmp => by_wide_width!(far_bits(i), far::jump_memory),
        N::Call if immediate => by_wide_width!(far_bits(i), far::call_immediate),
        N::Call => by_wide_width!(far_bits(i), far::call_memory),
        N::Retf => by_wide_width!(far_bits(i), far::ret),
        N::Iret | N::Iretd | N::Iretq => by_wide_width!(far_bits(i), far::iret),
        N::Int | N::Int3 | N::Int1 => far::interrupt,
        N::Into => far::interrupt_on_overflow,
        N::Bound => by_wide_width!(operand_bits(i, 0), far::bound),
        N::Syscall => syscall::syscall,
        N::Sysret => syscall::sysret::<false>,
        N::Sysretq => syscall::sysret::<true>,
        N::Sysenter => syscall::sysenter,
        N::Sysexit => syscall::sysexit::<false>,
        N::Sysexitq => syscall::sysexit::<true>,
        N::Swapgs => syscall::swap_gs,
        N::Ud0 | N::Ud1 | N::Ud2 => branch::undefined,
        _ => return None,
    }))
}

fn control_registers(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    if i.mnemonic() == N::Mov && i.op_count() == 2 {
        let (target, source) = (i.op_register(0), i.op_register(1));
        return if in_register(i, 0) && target.is_cr() {
            alone(control::write_control)
        } else if in_register(i, 1) && source.is_cr() {
            Some(Chosen::next(control::read_control))
        } else if in_register(i, 0) && target.is_dr() {
            alone(control::write_debug)
        } else if in_register(i, 1) && source.is_dr() {
            Some(Chosen::next(control::read_debug))
        } else {
            None
        };
    }
    Some(match i.mnemonic() {
        N::Clts => Chosen::end(control::clear_task_switched),
        N::Lmsw if in_memory(i, 0) => Chosen::end(control::load_status_word::<M>),
        N::Lmsw => Chosen::end(control::load_status_word::<R0>),
        N::Smsw if in_memory(i, 0) => Chosen::next(control::store_status_word::<u16, M>),
        N::Smsw => Chosen::next(by_wide_width!(
            operand_bits(i, 0),
            control::store_status_word,
            [R0]
        )),
        N::Cli => Chosen::next(control::clear_interrupts),
        N::Sti => Chosen::end(control::set_interrupts),
        N::Cld => Chosen::next(control::set_direction::<false>),
        N::Std => Chosen::next(control::set_direction::<true>),
        N::Clc => Chosen::next(control::change_carry::<0>),
        N::Stc => Chosen::next(control::change_carry::<1>),
        N::Cmc => Chosen::next(control::change_carry::<2>),
        N::Lahf => Chosen::next(control::load_flags),
        N::Sahf => Chosen::next(control::store_flags),
        N::Clac => Chosen::next(control::set_access_override::<false>),
        N::Stac => Chosen::next(control::set_access_override::<true>),
        N::Hlt => Chosen::alone(control::halt),
        N::Invlpg => Chosen::end(control::invalidate_page),
        N::Invd | N::Wbinvd | N::Wbnoinvd => Chosen::next(control::invalidate_caches),
        N::Clflush => Chosen::next(control::flush_line),
        _ => return None,
    })
}

fn tables(i: &Instruction, mode: Mode) -> Option<Chosen> {
    use Mnemonic as N;
    let memory = i.op_count() > 0 && in_memory(i, 0);
    let bits = if i.op_count() == 0 || memory {
        16
    } else {
        operand_bits(i, 0)
    };
    macro_rules! store {
        ($name:ident) => {
            if memory {
                control::$name::<u16, M> as Handler
            } else {
                by_wide_width!(bits, control::$name, [R0])
            }
        };
    }
    macro_rules! selector {
        ($name:ident $(, $extra:tt)?) => {
            if memory {
                control::$name::<M $(, $extra)?>
            } else {
                control::$name::<R0 $(, $extra)?>
            }
        };
    }
    macro_rules! rights {
        ($limit:literal) => {
            if in_memory(i, 1) {
                by_wide_width!(operand_bits(i, 0), control::load_rights, [M, $limit])
            } else {
                by_wide_width!(operand_bits(i, 0), control::load_rights, [R1, $limit])
            }
        };
    }
    let protected = mode != Mode::Real;
    Some(Chosen::next(match i.mnemonic() {
        N::Lgdt => control::load_gdt,
        N::Lidt => control::load_idt,
        N::Sgdt => control::store_gdt,
        N::Sidt => control::store_idt,
        N::Lldt if protected => selector!(load_ldt),
        N::Ltr if protected => selector!(load_task),
        N::Sldt if protected => store!(store_ldt),
        N::Str if protected => store!(store_task),
        N::Lar if protected => rights!(false),
        N::Lsl if protected => rights!(true),
        N::Verr if protected => selector!(verify, false),
        N::Verw if protected => selector!(verify, true),
        N::Arpl if protected && memory => control::adjust_privilege::<M>,
        N::Arpl if protected => control::adjust_privilege::<R0>,
        _ => return None,
    }))
}

fn processor_state(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Cpuid => Chosen::next(processor::cpuid),
        N::Rdtsc => Chosen::alone(processor::read_time_stamp::<false>),
        N::Rdtscp => Chosen::alone(processor::read_time_stamp::<true>),
        N::Rdpmc => Chosen::next(processor::read_counter),
        N::Rdmsr => Chosen::alone(processor::read_msr),
        N::Wrmsr => Chosen::alone(processor::write_msr),
        N::Xgetbv => Chosen::next(processor::read_extended_control),
        N::Xsetbv => Chosen::end(processor::write_extended_control),
        N::Rdfsbase => base(i, true, true),
        N::Rdgsbase => base(i, true, false),
        N::Wrfsbase => base(i, false, true),
        N::Wrgsbase => base(i, false, false),
        _ => return None,
    })
}

fn base(i: &Instruction, read: bool, fs: bool) -> Chosen {
    let bits = operand_bits(i, 0);
    Chosen::next(match (read, fs) {
        (true, true) => by_wide_width!(bits, control::read_base, [true]),
        (true, false) => by_wide_width!(bits, control::read_base, [false]),
        (false, true) => by_wide_width!(bits, control::write_base, [true]),
        (false, false) => by_wide_width!(bits, control::write_base, [false]),
    })
}

fn legacy(i: &Instruction) -> Option<Chosen> {
    use Mnemonic as N;
    Some(Chosen::next(match i.mnemonic() {
        N::Xlatb => data::translate,
        N::Salc => data::set_al_from_carry,
        N::Daa => decimal::adjust_packed::<false>,
        N::Das => decimal::adjust_packed::<true>,
        N::Aaa => decimal::adjust_unpacked::<false>,
        N::Aas => decimal::adjust_unpacked::<true>,
        N::Aam => decimal::split_digits,
        N::Aad => decimal::join_digits,
        _ => return None,
    }))
}
