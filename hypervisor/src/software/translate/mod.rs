//! Hot blocks of 64-bit code as host code: the fast version of the interpreter's loop.
//!
//! Each op of a block becomes a direct call of its handler, or, for the commonest forms, the few
//! host instructions of a [`template`]. Everything that a template does not decide in its fast
//! path (a TLB miss, a device, decoded code, an address that is not canonical) is left to the
//! handler before anything has changed. So both versions go through the same states at every
//! instruction boundary; which one ran a block never shows.
//!
//! ```text
//!            ┌── entry: enough instructions left before `until`? ── no ─▶ LOOK
//!  enter ──▶ │   op, op, op …            a handler that stops ───────────▶ its Stop
//!            │   retired += len; attention or a kick? ── yes ────────────▶ LOOK
//!            └── next block: in the same page by a jump that is patched in once (LINK);
//!                elsewhere by the jump table and the fetch TLB, or else ─▶ MISS
//! ```
//!
//! A dropped block's entry is overwritten with a jump to the look-up, so links to it stay valid.
//!
//! UNSAFETY: calls generated code, which reads and writes the processor, its TLB and guest memory
//! by address. On the shell-loop guest of `scripts/bench cpu` it is more than twice as fast as the
//! interpreter, whose indirect calls the host cannot predict.
#![allow(unsafe_code)]

mod assembler;
mod block;
mod buffer;
mod template;

use std::mem::offset_of;

use self::assembler::{
    Alu, Assembler, Mem, R12, R13, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Size,
};
use self::buffer::{CAPACITY, CodeBuffer};
use super::code_cache::{Block, BlockId, CodeCache};
use super::cpu::Cpu;
use super::op::{Outcome, Stop};

/// Interpretations after which a block is translated. Boot code runs once; measured with
/// `scripts/bench cpu`, anything from 4 to 64 boots about equally fast.
pub const HOT: u8 = 16;
/// Room that one block needs at most.
const LARGEST_BLOCK: usize = 64 << 10;
/// Entries of the jump table; a power of two.
const JUMPS: usize = 4096;

/// What translated code shares with the run loop.
#[derive(Debug, Default)]
pub struct Shared {
    /// Logical time at which translated code stops at the latest.
    until: u64,
    /// Address of the byte that a kick sets.
    kick: u64,
    /// Fetch translations of the current privilege level.
    fetch_table: u64,
    /// The jump table.
    jump_table: u64,
    /// The block in which a handler stopped, or the place that wants to be linked.
    detail: u64,
}

/// Where a block that is reached by an indirect jump was last.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Jump {
    rip: u64,
    /// Guest physical address of its page.
    page: u64,
    code: u64,
    unused: u64,
}

impl Jump {
    const NONE: Self = Self {
        rip: u64::MAX,
        page: u64::MAX,
        code: 0,
        unused: 0,
    };
}

/// Why translated code came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The run loop must look: at `attention`, a kick, or at `until`.
    Look,
    /// The block at RIP is not known to translated code.
    Miss,
    /// As [`Left::Miss`], and the jump that led there can be linked.
    Link(LinkPlace),
    /// A handler stopped: the block, the number of the op among all ops, and why.
    Stopped(BlockId, u32, Stop),
}

/// A jump that can be made to lead to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkPlace {
    address: u64,
    /// How often all translations had been forgotten by then.
    clears: u64,
}

/// Numbers in the low half of what translated code returns, above every outcome.
const LOOK: u64 = 0x100;
const MISS: u64 = 0x101;
const LINK: u64 = 0x102;

/// How an outcome is passed in a register.
const fn code_of(outcome: Outcome) -> u8 {
    const { assert!(size_of::<Outcome>() == 1) };
    // SAFETY: one byte without padding, every value of which is a `u8`.
    unsafe { std::mem::transmute::<Outcome, u8>(outcome) }
}

/// What a handler returns when the next op may follow.
const OK: u8 = code_of(Ok(()));

fn stop_of(code: u8) -> Stop {
    let stops = [
        Stop::Fault,
        Stop::Bus,
        Stop::CodeModified,
        Stop::Halted,
        Stop::TaskPriority,
        Stop::Shutdown,
    ];
    let found = stops.into_iter().find(|&stop| code_of(Err(stop)) == code);
    found.expect("a handler returned Ok or one of the stops")
}

/// Addresses of the code that all blocks share.
#[derive(Debug, Clone, Copy, Default)]
struct Exits {
    /// Leaves with LOOK.
    look: u64,
    /// Leaves with MISS.
    miss: u64,
    /// Leaves with LINK, the place in RCX.
    link: u64,
    /// Leaves with the outcome in AL, the op in ECX and the block in EDX.
    stopped: u64,
    /// Finds the block at RIP.
    dispatch: u64,
    /// Ends a block: attention, kick, then dispatch.
    end: u64,
}

/// Translates blocks and runs them.
#[derive(Debug)]
pub struct Translator {
    buffer: CodeBuffer,
    used: usize,
    start: usize,
    clears: u64,
    enter: u64,
    exits: Exits,
    jumps: Box<[Jump; JUMPS]>,
    assembler: Assembler,
}

impl Translator {
    /// A translator without translations; `None` where the host is not x86-64 Linux or refuses
    /// executable memory. The interpreter then does everything.
    pub fn new() -> Option<Self> {
        if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            return None;
        }
        let text = Self::new as fn() -> Option<Self> as usize as u64;
        let buffer = match CodeBuffer::new(text) {
            Ok(buffer) => buffer,
            Err(error) => {
                log::warn!("no executable memory for translated code, interpreting: {error}");
                return None;
            }
        };
        let mut translator = Self {
            buffer,
            used: 0,
            start: 0,
            clears: 0,
            enter: 0,
            exits: Exits::default(),
            jumps: Box::new([Jump::NONE; JUMPS]),
            assembler: Assembler::default(),
        };
        translator.write_shared();
        Some(translator)
    }

    /// The entrance, and the code that all blocks share.
    fn write_shared(&mut self) {
        let a = &mut self.assembler;
        a.start(self.buffer.address(0));
        self.enter = a.here();
        let saved = [RBX, RBP, R12, R13];
        saved.into_iter().for_each(|reg| a.push(reg));
        a.alu_immediate(Size::Quad, Alu::Sub, RSP, 8);
        a.copy(Size::Quad, RBX, RDI);
        a.jump_register(RSI);
        let leave = a.here();
        a.alu_immediate(Size::Quad, Alu::Add, RSP, 8);
        saved.into_iter().rev().for_each(|reg| a.pop(reg));
        a.ret();
        let leave_with = |a: &mut Assembler, value| {
            let here = a.here();
            a.set(RAX, value);
            let hole = a.jump();
            a.land_at(hole, leave);
            here
        };
        self.exits.look = leave_with(a, LOOK);
        self.exits.miss = leave_with(a, MISS);
        self.exits.link = a.here();
        a.store(Size::Quad, DETAIL, RCX);
        leave_with(a, LINK);
        self.exits.stopped = a.here();
        a.store(Size::Quad, DETAIL, RDX);
        a.zero_extend_byte(RAX, RAX);
        a.shift_left(Size::Quad, RCX, 32);
        a.alu(Size::Quad, Alu::Or, RAX, RCX);
        let hole = a.jump();
        a.land_at(hole, leave);
        self.exits.end = a.here();
        block::look_around(a, self.exits);
        self.exits.dispatch = a.here();
        block::dispatch(a, self.exits);
        let code = std::mem::take(&mut a.code);
        self.buffer.write(0, &code);
        self.start = code.len();
        self.used = self.start;
        self.assembler.code = code;
    }

    /// Forgets all translations.
    pub fn clear(&mut self) {
        self.used = self.start;
        self.clears += 1;
        self.jumps.fill(Jump::NONE);
    }

    /// Whether another block fits.
    pub fn has_room(&self) -> bool {
        self.used + LARGEST_BLOCK <= CAPACITY
    }

    /// Translates a block of 64-bit code; gives the address of its translation.
    ///
    /// # Panics
    /// When there is no room.
    pub fn translate(&mut self, cache: &CodeCache, id: BlockId) -> u64 {
        assert!(self.has_room(), "the caller has cleared a full buffer");
        let address = self.buffer.address(self.used);
        self.assembler.start(address);
        block::write(&mut self.assembler, self.exits, cache, id);
        self.buffer.write(self.used, &self.assembler.code);
        self.used += self.assembler.code.len().next_multiple_of(16);
        address
    }

    /// Makes every jump to a block that is being dropped look its target up instead.
    pub fn drop_block(&mut self, block: &Block) {
        let code = block.code;
        let jump = &mut self.jumps[Self::jump_index(block.rip())];
        if jump.code == code {
            *jump = Jump::NONE;
        }
        let mut jump = [0xe9, 0, 0, 0, 0];
        jump[1..].copy_from_slice(&assembler::distance(code + 5, self.exits.dispatch));
        self.patch(code, &jump);
    }

    /// Lets the jump at `place` lead to `code`.
    pub fn link(&mut self, place: LinkPlace, code: u64) {
        // The jump may be gone.
        if place.clears == self.clears {
            let bytes = assembler::distance(place.address, code);
            self.patch(place.address - 4, &bytes);
        }
    }

    fn patch(&mut self, address: u64, bytes: &[u8]) {
        let offset = address - self.buffer.address(0);
        self.buffer.write(offset as usize, bytes);
    }

    /// As [`block::dispatch`] computes it.
    fn jump_index(rip: u64) -> usize {
        (rip ^ rip >> 12) as usize % JUMPS
    }

    /// Notes where the block lies, for indirect jumps to it.
    pub fn note_jump(&mut self, block: &Block) {
        let rip = block.rip();
        self.jumps[Self::jump_index(rip)] = Jump {
            rip,
            page: block.key().gpa() & !0xfff,
            code: block.code,
            unused: 0,
        };
    }

    /// Runs translated code from `code` on, at most up to logical time `until`.
    pub fn run(&self, cpu: &mut Cpu, code: u64, until: u64, kick: u64) -> Left {
        cpu.shared = Shared {
            until,
            kick,
            fetch_table: cpu.mmu.fetch_table(cpu.cpl == 3),
            jump_table: self.jumps.as_ptr() as u64,
            detail: 0,
        };
        // SAFETY: `enter` is the entrance that `write_shared` wrote, which has this signature.
        let enter = unsafe {
            std::mem::transmute::<usize, extern "C" fn(&mut Cpu, u64) -> u64>(self.enter as usize)
        };
        // `code` is what `translate` gave and nobody has cleared since: the run loop drops blocks
        // and their code together.
        let left = enter(cpu, code);
        match left & 0xffff_ffff {
            LOOK => Left::Look,
            MISS => Left::Miss,
            LINK => Left::Link(LinkPlace {
                address: cpu.shared.detail,
                clears: self.clears,
            }),
            code => Left::Stopped(
                BlockId(cpu.shared.detail as u32),
                (left >> 32) as u32,
                stop_of(code as u8),
            ),
        }
    }
}

/// A field of the processor, which RBX points to.
const fn field(offset: usize) -> Mem {
    assert!(offset < i32::MAX as usize);
    Mem(RBX, offset as i32)
}

const RIP: Mem = field(offset_of!(Cpu, rip));
const RETIRED: Mem = field(offset_of!(Cpu, retired));
const ATTENTION: Mem = field(offset_of!(Cpu, attention));
const UNTIL: Mem = field(offset_of!(Cpu, shared.until));
const KICK: Mem = field(offset_of!(Cpu, shared.kick));
const FETCH_TABLE: Mem = field(offset_of!(Cpu, shared.fetch_table));
const JUMP_TABLE: Mem = field(offset_of!(Cpu, shared.jump_table));
const DETAIL: Mem = field(offset_of!(Cpu, shared.detail));
const TLB_TABLE: Mem = field(offset_of!(Cpu, mmu.tlb.table_address));
const FLAGS_RESULT: Mem = field(offset_of!(Cpu, flags.result));
const FLAGS_AUX: Mem = field(offset_of!(Cpu, flags.aux));
const FLAGS_BITS: Mem = field(offset_of!(Cpu, flags.bits));

/// A guest register, or one of the pseudo-registers.
fn guest(register: u8) -> Mem {
    field(offset_of!(Cpu, regs) + 8 * usize::from(register))
}
