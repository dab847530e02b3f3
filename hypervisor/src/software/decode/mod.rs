//! Instruction bytes to [`Op`]s. iced-x86 decodes; this folder chooses handlers.

mod fpu_state;
pub mod fusion;
mod general;
mod kind;
mod operands;
mod select;
mod sse_float;
mod sse_integer;
mod sse_move;
mod system;
mod x87;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::cpu::Mode;
use super::execute::branch;
use super::op::{Handler, Op};

/// Longest instruction, in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// How an instruction sits in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next instruction may follow in the same block.
    Next,
    /// Ends its block, changing RIP and nothing that translation or fetch depends on.
    Branch,
    /// Ends its block: it may change RIP, the mode, or what the run loop must look at.
    End,
    /// Must be the only one of its block: it asks for the exact logical time, or stops.
    Alone,
}

/// A handler and how its instruction sits in a block.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// What executes the instruction.
    pub run: Handler,
    /// Its place in a block.
    pub flow: Flow,
}

impl Chosen {
    /// The next instruction may follow.
    pub fn next(run: Handler) -> Self {
        Self {
            run,
            flow: Flow::Next,
        }
    }

    /// Ends its block as a near branch does.
    pub fn branch(run: Handler) -> Self {
        Self {
            run,
            flow: Flow::Branch,
        }
    }

    /// Ends its block.
    pub fn end(run: Handler) -> Self {
        Self {
            run,
            flow: Flow::End,
        }
    }

    /// Is alone in its block.
    pub fn alone(run: Handler) -> Self {
        Self {
            run,
            flow: Flow::Alone,
        }
    }
}

/// One instruction, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Decoded {
    /// What to execute.
    pub op: Op,
    /// Its place in a block.
    pub flow: Flow,
    /// How many bytes decided what it is: its length, or more when it is none.
    pub seen: u8,
}

/// Decodes the instruction at the start of `bytes`, which lies at `rip`. `None` when the bytes
/// end before the instruction does.
pub fn decode(bytes: &[u8], rip: u64, mode: Mode) -> Option<Decoded> {
    let mut decoder = Decoder::with_ip(mode.bitness(), bytes, rip, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if instruction.is_invalid() {
        if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
            && bytes.len() < MAX_INSTRUCTION
        {
            return None;
        }
        return Some(undefined());
    }
    let chosen = general::choose(&instruction)
        .or_else(|| system::choose(&instruction, mode))
        .or_else(|| choose_extension(&instruction))
        .unwrap_or(Chosen::end(branch::undefined));
    let mut op = operands::lower(&instruction, chosen.run, mode);
    if mode == Mode::Long {
        op.kind = kind::of(&instruction);
    }
    if let Some(immediate) = x87::immediate(bytes, rip, mode) {
        op.imm = immediate;
    }
    Some(Decoded {
        seen: op.len,
        op,
        flow: chosen.flow,
    })
}

/// The handler of an x87, MMX or SSE instruction.
fn choose_extension(instruction: &Instruction) -> Option<Chosen> {
    let vector = sse_move::choose(instruction)
        .or_else(|| sse_integer::choose(instruction))
        .or_else(|| sse_float::choose(instruction));
    vector
        .map(Chosen::next)
        .or_else(|| x87::choose(instruction))
        .or_else(|| fpu_state::choose(instruction))
}

/// #UD, whatever the bytes are.
fn undefined() -> Decoded {
    let op = operands::lower(&Instruction::default(), branch::undefined, Mode::Long);
    Decoded {
        op: Op { len: 1, ..op },
        flow: Flow::End,
        seen: MAX_INSTRUCTION as u8,
    }
}
