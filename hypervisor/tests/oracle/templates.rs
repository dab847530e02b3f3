//! Hand-picked pieces: instructions whose operands must be prepared, and control flow.

use iced_x86::{Code, Instruction, Register};

use crate::layout::{DATA, DATA_SIZE, IMAGES, READ_ONLY};
use crate::operands;
use crate::random::Random;
use crate::sequence::{Sequence, load};

/// A piece.
pub type Template = fn(&mut Sequence, &[Code], &mut Random);

/// All of them.
pub const ALL: [Template; 17] = [
    string,
    string,
    branch,
    branch,
    counted_loop,
    call_and_return,
    indirect_jump,
    division,
    shift_by_cl,
    short_double_shift,
    flags,
    control_words,
    images,
    masked_store,
    table_lookup,
    self_modification,
    refused,
];

fn anywhere(random: &mut Random) -> u64 {
    DATA + 0x1000 + random.below(DATA_SIZE - 0x2000)
}

/// A random instruction, appended.
pub fn plain(sequence: &mut Sequence, codes: &[Code], random: &mut Random) {
    for _ in 0..20 {
        let code = random.pick(codes);
        let drawn = operands::instruction(code, random);
        if drawn.is_some_and(|instruction| sequence.push(&instruction)) {
            return;
        }
    }
}

/// MOVS, STOS, LODS, SCAS, CMPS of each width, repeated or not, both ways.
fn string(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let from = anywhere(random);
    let to = if random.one_in(3) {
        // Overlapping, by a little.
        from.wrapping_add(random.below(33)).wrapping_sub(16)
    } else {
        anywhere(random)
    };
    sequence.push(&load(Register::RSI, from));
    sequence.push(&load(Register::RDI, to));
    let mut bytes = Vec::new();
    let repeat = random.below(3);
    if repeat > 0 {
        let count = if random.one_in(4) {
            random.below(900)
        } else {
            random.below(20)
        };
        sequence.push(&load(Register::RCX, count));
        bytes.push(if repeat == 1 { 0xf3 } else { 0xf2 });
    }
    let narrow_address = random.one_in(6);
    if random.one_in(4) {
        sequence.push_bytes(&[0xfd]);
    }
    if narrow_address {
        bytes.push(0x67);
    }
    let opcode = random.pick(&[0xa4u8, 0xa6, 0xaa, 0xac, 0xae]);
    match random.below(4) {
        0 => bytes.push(opcode),
        1 => bytes.extend([0x66, opcode | 1]),
        2 => bytes.push(opcode | 1),
        _ => bytes.extend([0x48, opcode | 1]),
    }
    sequence.push_bytes(&bytes);
    sequence.push_bytes(&[0xfc]);
}

/// Appends a random instruction with `jump` before it, which may skip it.
fn skip(sequence: &mut Sequence, jump: &[u8], codes: &[Code], random: &mut Random) {
    // The jump's distance is known once the instruction is: build it behind a jump by zero.
    let mut trial = sequence.clone();
    let with = |distance: u8| [jump, &[distance]].concat();
    if !trial.push_bytes(&with(0)) {
        return;
    }
    let behind = trial.bytes.len();
    let mut again = random.clone();
    plain(&mut trial, codes, random);
    let Ok(distance) = u8::try_from(trial.bytes.len() - behind) else {
        return;
    };
    sequence.push_bytes(&with(distance));
    let before = sequence.undefined();
    plain(sequence, codes, &mut again);
    sequence.also_undefined(before);
}

/// Jcc, JRCXZ and JECXZ over an instruction.
fn branch(sequence: &mut Sequence, codes: &[Code], random: &mut Random) {
    match random.below(10) {
        0 => skip(sequence, &[0xe3], codes, random),
        1 => skip(sequence, &[0x67, 0xe3], codes, random),
        2 => skip(sequence, &[0xeb], codes, random),
        _ => {
            let condition = 0x70 | random.below(16) as u8;
            skip(sequence, &[condition], codes, random);
        }
    }
}

/// LOOP, LOOPE, LOOPNE around `add rax, rdx`.
fn counted_loop(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    sequence.push(&load(Register::RCX, 1 + random.below(70)));
    sequence.push_bytes(&[0x48, 0x01, 0xd0]);
    let opcode = random.pick(&[0xe0u8, 0xe1, 0xe2]);
    sequence.push_bytes(&[opcode, 0xfb]);
}

/// CALL to the next instruction, and RET from a pushed address to the one after it.
fn call_and_return(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    if random.one_in(2) {
        sequence.push_bytes(&[0xe8, 0, 0, 0, 0]);
        return;
    }
    let drop = random.below(3) * 8;
    // lea rax, [rip + 4]; push rax; ret drop
    let distance = 1 + if drop == 0 { 1 } else { 3 };
    sequence.push_bytes(&[0x48, 0x8d, 0x05, distance, 0, 0, 0]);
    sequence.push_bytes(&[0x50]);
    if drop == 0 {
        sequence.push_bytes(&[0xc3]);
    } else {
        sequence.push_bytes(&[0xc2, drop as u8, 0]);
    }
}

/// JMP and CALL through a register, to the next instruction or where no code is.
fn indirect_jump(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    if random.one_in(12) {
        let target = random.pick(&[DATA, 0x8000_0000_0000, READ_ONLY + 0x4000]);
        sequence.push(&load(Register::RAX, target));
    } else {
        sequence.push_bytes(&[0x48, 0x8d, 0x05, 2, 0, 0, 0]);
    }
    sequence.push_bytes(&[0xff, if random.one_in(2) { 0xe0 } else { 0xd0 }]);
}

/// DIV and IDIV that mostly do not fault.
fn division(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let high = if random.one_in(2) {
        0
    } else {
        random.below(16)
    };
    sequence.push(&load(Register::RDX, high));
    sequence.push(&load(Register::RAX, random.integer()));
    sequence.push(&load(
        Register::R8,
        random.integer() | 1 << random.below(64),
    ));
    if random.one_in(2) {
        sequence.push_bytes(&[0x48, 0x99]);
    }
    let modrm = 0xf0 | (random.below(2) as u8) << 3;
    match random.below(4) {
        0 => sequence.push_bytes(&[0x41, 0xf6, modrm]),
        1 => sequence.push_bytes(&[0x66, 0x41, 0xf7, modrm]),
        2 => sequence.push_bytes(&[0x41, 0xf7, modrm]),
        _ => sequence.push_bytes(&[0x49, 0xf7, modrm]),
    };
}

/// Shifts and rotates with a count around the operand's width in CL.
fn shift_by_cl(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let count = random.pick(&[0u64, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]);
    sequence.push(&load(Register::RCX, count | random.next() << 8));
    // RCL and RCR take CF in, so it must be defined.
    sequence.push_bytes(&[0x38, 0xc2]);
    let modrm = 0xc0 | (random.below(8) as u8) << 3 | random.pick(&[0u8, 2, 6, 7]);
    match random.below(4) {
        0 => sequence.push_bytes(&[0x40, 0xd2, modrm]),
        1 => sequence.push_bytes(&[0x66, 0xd3, modrm]),
        2 => sequence.push_bytes(&[0xd3, modrm]),
        _ => sequence.push_bytes(&[0x48, 0xd3, modrm]),
    };
}

/// SHLD and SHRD of 16 bits, by counts up to 16 as far as they are defined.
fn short_double_shift(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let count = random.below(16) as u8;
    let modrm = 0xc0 | random.pick(&[0u8, 2, 6, 7]) << 3 | random.pick(&[0u8, 2, 6, 7]);
    let opcode = random.pick(&[0xa4u8, 0xac]);
    if random.one_in(2) {
        sequence.push_bytes(&[
            0x66,
            0x0f,
            opcode,
            modrm,
            count | (random.below(8) as u8) << 5,
        ]);
    } else {
        sequence.push(&load(Register::RCX, u64::from(count)));
        sequence.push_bytes(&[0x66, 0x0f, opcode | 1, modrm]);
    }
}

/// POPF of flags that a user may have, and PUSHF.
fn flags(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let value = random.next() as i32 & 0xcd5 | 0x202;
    let push = Instruction::with1(Code::Pushq_imm32, value).expect("an immediate");
    sequence.push(&push);
    sequence.push_bytes(&[0x9d]);
    if random.one_in(2) {
        sequence.push_bytes(&[0x9c]);
    }
    sequence.push_bytes(&[0xfc]);
}

/// FLDCW and LDMXCSR of values with everything masked, and rarely of others.
fn control_words(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let loose = random.one_in(8);
    if random.one_in(2) {
        let word = if loose {
            random.next()
        } else {
            0x3f | random.next() & 0xf00
        };
        // mov word ptr [rbx], imm16; fldcw [rbx]
        sequence.push_bytes(&[0x66, 0xc7, 0x03, word as u8, (word >> 8) as u8]);
        sequence.push_bytes(&[0xd9, 0x2b]);
    } else {
        let word = if loose {
            random.next() & 0x1_ffff
        } else {
            0x1f80 | random.next() & 0xe07f
        };
        let bytes = (word as u32).to_le_bytes();
        sequence.push_bytes(&[0xc7, 0x03, bytes[0], bytes[1], bytes[2], bytes[3]]);
        sequence.push_bytes(&[0x0f, 0xae, 0x13]);
        sequence.push_bytes(&[0x0f, 0xae, 0x5b, 0x40]);
    }
}

/// FXSAVE, FXRSTOR, XSAVE, XRSTOR, FNSTENV, FLDENV, FNSAVE, FRSTOR on their own page.
fn images(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let kind = random.below(4);
    // Mostly at places that fit; #GP otherwise.
    let misplaced = kind < 2 && random.one_in(16);
    let at = IMAGES + 1024 * kind + if misplaced { 8 } else { 0 };
    sequence.push(&load(Register::RDI, at));
    let rex = random.one_in(2);
    let escape = |opcode: [u8; 2]| {
        if rex {
            vec![0x48, opcode[0], opcode[1]]
        } else {
            opcode.to_vec()
        }
    };
    let (save, restore) = match kind {
        0 => ((escape([0x0f, 0xae]), 0x07), (escape([0x0f, 0xae]), 0x0f)),
        1 => ((escape([0x0f, 0xae]), 0x27), (escape([0x0f, 0xae]), 0x2f)),
        2 => ((vec![0xd9], 0x37), (vec![0xd9], 0x27)),
        _ => ((vec![0xdd], 0x37), (vec![0xdd], 0x27)),
    };
    if kind == 1 {
        sequence.push(&load(
            Register::RAX,
            if random.one_in(4) { random.below(4) } else { 3 },
        ));
        sequence.push(&load(Register::RDX, 0));
    }
    let emit = |sequence: &mut Sequence, (mut bytes, modrm): (Vec<u8>, u8)| {
        bytes.push(modrm);
        sequence.push_bytes(&bytes)
    };
    if random.one_in(4) {
        emit(sequence, restore);
        return;
    }
    emit(sequence, save);
    if random.one_in(2) {
        sequence.push_bytes(random.pick(&[&[0x0f, 0x77][..], &[0xdb, 0xe3], &[0x0f, 0x57, 0xc0]]));
        emit(sequence, restore);
    }
}

/// MASKMOVQ and MASKMOVDQU.
fn masked_store(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    sequence.push(&load(Register::RDI, anywhere(random)));
    let modrm = 0xc0 | random.below(64) as u8;
    if random.one_in(2) {
        sequence.push_bytes(&[0x66, 0x0f, 0xf7, modrm]);
    } else {
        sequence.push_bytes(&[0x0f, 0xf7, modrm]);
    }
}

/// XLAT.
fn table_lookup(sequence: &mut Sequence, _: &[Code], _: &mut Random) {
    sequence.push_bytes(&[0xd7]);
}

/// A store into the immediate of the instruction behind it, or into one that has run already
/// and runs again.
fn self_modification(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    let value = (random.next() as u32).to_le_bytes();
    if random.one_in(2) {
        // mov dword ptr [rip + 1], value; mov eax, 0
        sequence.push_bytes(&[&[0xc7, 0x05, 1, 0, 0, 0], &value[..]].concat());
        sequence.push_bytes(&[0xb8, 0, 0, 0, 0]);
        return;
    }
    // again: mov eax, 0; add [rip - 9], edx: the immediate; loop again
    sequence.push(&load(Register::RCX, 1 + random.below(5)));
    sequence.push_bytes(&[0xb8, 0, 0, 0, 0]);
    sequence.push_bytes(&[0x01, 0x15, 0xf6, 0xff, 0xff, 0xff]);
    sequence.push_bytes(&[0xe2, 0xf3]);
}

/// Instructions that ring 3 may not execute, breakpoints, and undefined ones.
fn refused(sequence: &mut Sequence, _: &[Code], random: &mut Random) {
    if !random.one_in(6) {
        return;
    }
    const REFUSED: [&[u8]; 14] = [
        &[0xfa],
        &[0xfb],
        &[0xf4],
        &[0xe4, 0x60],
        &[0xec],
        &[0xee],
        &[0x6c],
        &[0x0f, 0x06],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xd8],
        &[0x0f, 0x32],
        &[0xcc],
        &[0xcd, 0x20],
        &[0x06],
    ];
    let bytes = random.pick(&REFUSED);
    if !sequence.push_bytes(bytes) {
        // Not an instruction in 64-bit mode, which is the point.
        sequence.push_bytes(&[0x0f, 0x0b]);
    }
}
