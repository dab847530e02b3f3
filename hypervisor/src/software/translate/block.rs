//! One block: its entry, its ops, its end, and what lies out of its way.

use std::mem::offset_of;

use super::assembler::{Alu, Assembler, Hole, Mem, RAX, RBX, RCX, RDI, RDX, RSI, Size};
use super::template::{self, Next};
use super::{
    ATTENTION, Exits, FETCH_TABLE, JUMP_TABLE, JUMPS, Jump, KICK, OK, RETIRED, RIP, UNTIL,
};
use crate::software::code_cache::{Block, BlockId, CodeCache};
use crate::software::mmu::tlb::{FETCH_ENTRIES, FetchEntry};
use crate::software::op::Op;

/// Condition codes of the host's jumps.
const ABOVE: u8 = 7;
const NOT_EQUAL: u8 = 5;

/// A jump out of the way of the block: to the handler of the op at `index`, which ends up back
/// at `back`, or at the block's end.
struct Detour {
    index: usize,
    from: Vec<Hole>,
    back: Option<u64>,
}

/// A block being written.
pub struct Writer<'a> {
    pub a: &'a mut Assembler,
    exits: Exits,
    block: &'a Block,
    id: BlockId,
    /// Jumps that the current op takes where its template does not decide.
    pub slow: Vec<Hole>,
    detours: Vec<Detour>,
    /// Jumps to where a handler's outcome is not [`OK`], with the op.
    stops: Vec<(Hole, usize)>,
    /// Jumps that wait for their target to be translated.
    links: Vec<Hole>,
}

/// Writes the translation of block `id`.
pub fn write(a: &mut Assembler, exits: Exits, cache: &CodeCache, id: BlockId) {
    let block = cache.block(id);
    let mut writer = Writer {
        a,
        exits,
        block,
        id,
        slow: Vec::new(),
        detours: Vec::new(),
        stops: Vec::new(),
        links: Vec::new(),
    };
    writer.entry();
    let ops = cache.fast_ops(block);
    let mut next = Next::AtRip;
    for (index, op) in ops.iter().enumerate() {
        next = writer.op(op, index);
    }
    writer.end(next);
    writer.out_of_the_way(ops);
}

impl Writer<'_> {
    fn entry(&mut self) {
        let len = i32::from(self.block.len);
        self.a.load(Size::Quad, RAX, RETIRED);
        self.a.alu_immediate(Size::Quad, Alu::Add, RAX, len);
        self.a.alu_memory(Size::Quad, Alu::Cmp, RAX, UNTIL);
        let hole = self.a.jump_if(ABOVE);
        self.a.land_at(hole, self.exits.look);
        self.a.store_value(RIP, self.block.next_rip, RAX);
    }

    fn op(&mut self, op: &Op, index: usize) -> Next {
        assert!(self.slow.is_empty(), "every detour has been taken in");
        let Some(next) = template::write(self, op) else {
            self.call(op, index);
            return Next::AtRip;
        };
        let from = std::mem::take(&mut self.slow);
        if !from.is_empty() {
            // What a last op decides about the next block its handler leaves in RIP.
            let back = (next == Next::InOrder).then(|| self.a.here());
            self.detours.push(Detour { index, from, back });
        }
        next
    }

    fn call(&mut self, op: &Op, index: usize) {
        self.a.copy(Size::Quad, RDI, RBX);
        self.a.set(RSI, std::ptr::from_ref(op) as u64);
        self.a.call(op.run as usize as u64);
        self.a.compare_byte(RAX, OK);
        let hole = self.a.jump_if(NOT_EQUAL);
        self.stops.push((hole, index));
    }

    /// RIP after the block's last instruction.
    pub fn next_rip(&self) -> u64 {
        self.block.next_rip
    }

    /// Counts what retired. Only what ends a block and has nothing left that can stop.
    pub fn retire(&mut self) {
        let len = i8::try_from(self.block.len).expect("a block has at most 64 instructions");
        self.a
            .alu_memory_immediate(Size::Quad, Alu::Add, RETIRED, len);
    }

    /// Ends the block, RIP being known to be `target`.
    pub fn go_to(&mut self, target: u64) {
        self.a.store_value(RIP, target, RAX);
        self.retire();
        look_around(self.a, self.exits);
        if target >> 12 == self.block.rip() >> 12 {
            let hole = self.a.jump();
            self.links.push(hole);
        } else {
            dispatch(self.a, self.exits);
        }
    }

    fn end(&mut self, next: Next) {
        match next {
            Next::Written => {}
            Next::InOrder => self.go_to(self.block.next_rip),
            Next::AtRip if self.block.is_near => {
                self.retire();
                look_around(self.a, self.exits);
                dispatch(self.a, self.exits);
            }
            Next::AtRip => {
                self.retire();
                let hole = self.a.jump();
                self.a.land_at(hole, self.exits.miss);
            }
        }
    }

    fn out_of_the_way(&mut self, ops: &[Op]) {
        for Detour { index, from, back } in std::mem::take(&mut self.detours) {
            for hole in from {
                self.a.land(hole);
            }
            self.call(&ops[index], index);
            let target = back.unwrap_or_else(|| {
                self.retire();
                self.exits.end
            });
            let hole = self.a.jump();
            self.a.land_at(hole, target);
        }
        for (hole, index) in std::mem::take(&mut self.stops) {
            self.a.land(hole);
            self.a
                .set(RCX, u64::from(self.block.first_op()) + index as u64);
            self.a.set(RDX, u64::from(self.id.0));
            let hole = self.a.jump();
            self.a.land_at(hole, self.exits.stopped);
        }
        for link in std::mem::take(&mut self.links) {
            self.a.land(link);
            let place = self.a.place_of(link);
            self.a.set(RCX, place);
            let hole = self.a.jump();
            self.a.land_at(hole, self.exits.link);
        }
    }
}

/// Leaves when something wants to be looked at.
pub fn look_around(a: &mut Assembler, exits: Exits) {
    a.alu_memory_immediate(Size::Byte, Alu::Cmp, ATTENTION, 0);
    let hole = a.jump_if(NOT_EQUAL);
    a.land_at(hole, exits.look);
    a.load(Size::Quad, RAX, KICK);
    a.alu_memory_immediate(Size::Byte, Alu::Cmp, Mem(RAX, 0), 0);
    let hole = a.jump_if(NOT_EQUAL);
    a.land_at(hole, exits.look);
}

/// Goes on with the block at RIP, if it is in the jump table and its page in the fetch TLB.
pub fn dispatch(a: &mut Assembler, exits: Exits) {
    let miss = |a: &mut Assembler| {
        let hole = a.jump_if(NOT_EQUAL);
        a.land_at(hole, exits.miss);
    };
    a.load(Size::Quad, RAX, RIP);
    // The entry of the jump table.
    a.copy(Size::Quad, RDX, RAX);
    a.shift_right(Size::Quad, RDX, 12);
    a.copy(Size::Double, RCX, RDX);
    a.alu(Size::Double, Alu::Xor, RCX, RAX);
    a.alu_immediate(Size::Double, Alu::And, RCX, JUMPS as i32 - 1);
    a.shift_left(Size::Double, RCX, size_of::<Jump>().trailing_zeros() as u8);
    a.alu_memory(Size::Quad, Alu::Add, RCX, JUMP_TABLE);
    a.alu_memory(
        Size::Quad,
        Alu::Cmp,
        RAX,
        Mem(RCX, offset_of!(Jump, rip) as i32),
    );
    miss(a);
    // The fetch translation of the page.
    a.copy(Size::Double, RSI, RDX);
    a.alu_immediate(Size::Double, Alu::And, RSI, FETCH_ENTRIES as i32 - 1);
    a.shift_left(
        Size::Double,
        RSI,
        size_of::<FetchEntry>().trailing_zeros() as u8,
    );
    a.alu_memory(Size::Quad, Alu::Add, RSI, FETCH_TABLE);
    a.shift_left(Size::Quad, RDX, 12);
    a.alu_memory(
        Size::Quad,
        Alu::Cmp,
        RDX,
        Mem(RSI, offset_of!(FetchEntry, tag) as i32),
    );
    miss(a);
    a.load(
        Size::Quad,
        RDX,
        Mem(RSI, offset_of!(FetchEntry, gpa) as i32),
    );
    a.alu_immediate(Size::Quad, Alu::And, RDX, -4096);
    a.alu_memory(
        Size::Quad,
        Alu::Cmp,
        RDX,
        Mem(RCX, offset_of!(Jump, page) as i32),
    );
    miss(a);
    a.jump_memory(Mem(RCX, offset_of!(Jump, code) as i32));
}
