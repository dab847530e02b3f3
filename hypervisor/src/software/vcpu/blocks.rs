//! Whole blocks, interpreted or translated, one after the other, for as long as nothing wants to be
//! looked at.

use super::super::code_cache::{Block, BlockId, CodeCache, Key, MOST_OPS};
use super::super::cpu::Cpu;
use super::super::op::Stop;
use super::super::translate::{Left, LinkPlace};
use super::{SoftwareVcpu, Turn};

/// Where and why a block stopped: the offset of the instruction in the block, the reason.
type Stopped = (u16, Stop);

impl SoftwareVcpu {
    /// The block at RIP, which `from` may have led to.
    #[inline(always)]
    fn block_at_rip(&mut self, from: Option<BlockId>) -> Result<BlockId, Stop> {
        let gpa = self.cpu.fetch_address(self.cpu.linear_rip())?;
        let key = Key::new(self.cpu.rip, gpa, self.cpu.mode);
        let found = match from {
            Some(from) => self.cache.follow(from, &key),
            None => self.cache.find(&key),
        };
        if let Some(id) = found {
            let second = self.cache.block(id).second;
            if second.is_none() || second == Some(self.cpu.fetch_second_page()?) {
                return Ok(id);
            }
            // Its last bytes are others now.
            self.cache.drop_block(id);
        }
        let block = self.cpu.build_block(&key)?;
        if !self.cache.has_room() {
            self.drop_code();
        }
        Ok(self.cache.insert(block))
    }

    /// Drops everything decoded and translated.
    pub(super) fn drop_code(&mut self) {
        self.cache.clear();
        if let Some(translator) = &mut self.translator {
            translator.clear();
        }
    }

    /// Executes at most `limit` instructions of the block at RIP.
    pub(super) fn run_block(&mut self, limit: u64) -> Turn {
        let rip = self.cpu.rip;
        let id = match self.block_at_rip(None) {
            Ok(id) => id,
            Err(stop) => return self.finish(rip, stop),
        };
        self.cpu.bus.rewind();
        let block = self.cache.block(id);
        match execute_part(&mut self.cpu, &self.cache, block, limit) {
            Ok(()) => Turn::Again,
            Err((offset, stop)) => self.finish(rip.wrapping_add(u64::from(offset)), stop),
        }
    }

    /// Executes whole blocks, one after the other, until something wants to be looked at.
    pub(super) fn run_blocks(&mut self, until: u64) -> Turn {
        let mut from = None;
        let mut link = None;
        self.cpu.bus.rewind();
        loop {
            let rip = self.cpu.rip;
            let id = match self.block_at_rip(from) {
                Ok(id) => id,
                Err(stop) => return self.finish(rip, stop),
            };
            let block = self.cache.block_mut(id);
            if until - self.cpu.retired < u64::from(block.len) {
                return self.run_block(until - self.cpu.retired);
            }
            let is_hot = block.heat >= self.hot
                && self.translator.is_some()
                && block.key().is_long()
                && block.second.is_none();
            if is_hot {
                let left = self.run_translated(id, until, link.take());
                match left {
                    Left::Look => return Turn::Again,
                    Left::Miss => from = None,
                    Left::Link(place) => (from, link) = (None, Some(place)),
                    Left::Stopped(id, op, stop) => return self.stopped_at(id, op, stop),
                }
            } else {
                block.heat = block.heat.saturating_add(1);
                from = Some(id);
                link = None;
                let block = self.cache.block(id);
                if let Err((offset, stop)) = execute(&mut self.cpu, &self.cache, block) {
                    return self.finish(rip.wrapping_add(u64::from(offset)), stop);
                }
            }
            if self.cpu.attention || self.cpu.retired == until || self.kicker.is_kicked() {
                return Turn::Again;
            }
        }
    }

    /// Runs the translation of a block and what it leads to; translates it first if need be, and
    /// links the jump at `link` to it.
    fn run_translated(&mut self, id: BlockId, until: u64, link: Option<LinkPlace>) -> Left {
        let Some(translator) = &mut self.translator else {
            unreachable!("without a translator no block becomes hot");
        };
        if self.cache.block(id).code == 0 {
            if !translator.has_room() {
                // The block goes too, and is found cold again.
                self.drop_code();
                return Left::Miss;
            }
            let code = translator.translate(&self.cache, id);
            self.cache.block_mut(id).code = code;
        }
        let block = self.cache.block(id);
        translator.note_jump(block);
        if let Some(place) = link {
            translator.link(place, block.code);
        }
        translator.run(&mut self.cpu, block.code, until, self.kicker.address())
    }

    /// Turns a stop in translated code into what it is in the interpreter.
    fn stopped_at(&mut self, id: BlockId, op: u32, stop: Stop) -> Turn {
        let block = self.cache.block(id);
        let (rip, retired) = (block.rip(), op - block.first_op());
        let op = *self.cache.op(op);
        self.cpu.retired += u64::from(retired);
        self.cpu.attribute_fault(op.segment);
        self.finish(rip.wrapping_add(u64::from(op.offset)), stop)
    }
}

/// Executes all of `block`.
#[inline(always)]
fn execute(cpu: &mut Cpu, cache: &CodeCache, block: &Block) -> Result<(), Stopped> {
    cpu.rip = block.next_rip;
    for (index, op) in cache.fast_ops(block).iter().enumerate() {
        if let Err(stop) = (op.run)(cpu, op) {
            cpu.retired += index as u64;
            cpu.attribute_fault(op.segment);
            return Err((op.offset, stop));
        }
    }
    cpu.retired += u64::from(block.len);
    Ok(())
}

/// Executes at most `limit` instructions of `block`.
#[inline(never)]
fn execute_part(
    cpu: &mut Cpu,
    cache: &CodeCache,
    block: &Block,
    limit: u64,
) -> Result<(), Stopped> {
    for op in cache.single_ops(block, limit.min(MOST_OPS as u64) as usize) {
        let rip = block.rip().wrapping_add(u64::from(op.offset));
        // RIP is the next instruction while a handler runs.
        cpu.rip = cpu.wrap_rip(rip.wrapping_add(u64::from(op.len)));
        if let Err(stop) = (op.run)(cpu, op) {
            cpu.attribute_fault(op.segment);
            return Err((op.offset, stop));
        }
        cpu.retired += 1;
    }
    Ok(())
}
