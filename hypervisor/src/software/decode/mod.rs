//! Instruction bytes to [`Op`]s. iced-x86 decodes; this folder chooses handlers.

mod general;
mod operands;
mod select;
mod system;

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
        Self { run, flow: Flow::Next }
    }

    /// Ends its block.
    pub fn end(run: Handler) -> Self {
        Self { run, flow: Flow::End }
    }

    /// Is alone in its block.
    pub fn alone(run: Handler) -> Self {
        Self { run, flow: Flow::Alone }
    }
}

/// One instruction, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Decoded {
    /// What to execute.
    pub op: Op,
    /// Its place in a block.
    pub flow: Flow,
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
        .or_else(|| super::execute::choose_extension(&instruction))
        .unwrap_or(Chosen::end(branch::undefined));
    let op = operands::lower(&instruction, chosen.run, mode);
    Some(Decoded { op, flow: chosen.flow })
}

/// #UD, whatever the bytes are.
fn undefined() -> Decoded {
    let op = operands::lower(&Instruction::default(), branch::undefined, Mode::Long);
    Decoded { op: Op { len: 1, ..op }, flow: Flow::End }
}
