//! Instruction fetch: from RIP to decoded blocks.

use super::code_cache::{Key, MOST_OPS, NewBlock};
use super::cpu::{Cpu, Mode};
use super::decode::fusion::fuse;
use super::decode::{self, Decoded, Flow, MAX_INSTRUCTION};
use super::exception::Fault;
use super::mmu::CodePage;
use super::op::Stop;
use crate::arch::x86_64::exception;
use crate::arch::x86_64::paging::PAGE_SIZE;
use crate::arch::x86_64::segment::CS;
use crate::memory::GuestAddress;

/// Most bytes that a block is decoded from; a block ends before an instruction that is cut.
const BLOCK_BYTES: usize = 512;

impl Cpu {
    /// Linear address of the next instruction.
    #[inline(always)]
    pub(super) fn linear_rip(&self) -> u64 {
        match self.mode {
            Mode::Long => self.rip,
            _ => u64::from(self.segments[CS].base.wrapping_add(self.rip) as u32),
        }
    }

    /// Keeps of RIP what the mode has.
    #[inline(always)]
    pub(super) fn wrap_rip(&self, rip: u64) -> u64 {
        match self.mode {
            Mode::Long => rip,
            _ => rip & 0xffff_ffff,
        }
    }

    /// Guest physical address of the instruction byte at `linear`. A fault is noted as a
    /// handler's is.
    #[inline(always)]
    pub(super) fn fetch_address(&mut self, linear: u64) -> Result<u64, Stop> {
        let page = linear & !(PAGE_SIZE - 1);
        match self.mmu.cached_fetch_page(page, self.cpl == 3) {
            Some(gpa) => Ok(gpa | (linear & (PAGE_SIZE - 1))),
            None => self.fetch_address_slow(linear),
        }
    }

    #[cold]
    fn fetch_address_slow(&mut self, linear: u64) -> Result<u64, Stop> {
        if self.mode == Mode::Long && !self.is_canonical(linear) {
            return Err(self.raise(Fault::with_code(exception::GP, 0)));
        }
        let page = linear & !(PAGE_SIZE - 1);
        let found = self.mmu.fetch_page(page, self.cpl == 3);
        self.attention |= self.mmu.has_stale();
        match found {
            Ok(gpa) => Ok(gpa | (linear & (PAGE_SIZE - 1))),
            Err(error) => Err(self.raise(Fault::page(error.0, linear))),
        }
    }

    /// Guest physical address of the page behind the one with the next instruction, on whose
    /// first bytes that instruction ends. A fault is noted as a handler's is.
    pub(super) fn fetch_second_page(&mut self) -> Result<u64, Stop> {
        let next_page = (self.linear_rip() | (PAGE_SIZE - 1)).wrapping_add(1);
        let next_page = match self.mode {
            Mode::Long => next_page,
            _ => next_page & 0xffff_ffff,
        };
        self.fetch_address(next_page)
    }

    /// Reads instruction bytes up to the end of the page at `gpa`.
    fn fetch_bytes(&self, gpa: u64, most: usize) -> Vec<u8> {
        let room = (PAGE_SIZE - gpa % PAGE_SIZE) as usize;
        let mut bytes = vec![0; room.min(most)];
        // Code in device memory reads as all ones, which is not an instruction anyone wants.
        if self
            .mmu
            .memory()
            .read(GuestAddress(gpa), &mut bytes)
            .is_err()
        {
            bytes.fill(0xff);
        }
        bytes
    }

    /// Decodes the instruction at RIP, which starts at `gpa`; says in which second page its
    /// last bytes lie, if in any.
    pub(super) fn decode_one(&mut self, gpa: u64) -> Result<(Decoded, Option<u64>), Stop> {
        let (rip, mode) = (self.rip, self.mode);
        let mut bytes = self.fetch_bytes(gpa, MAX_INSTRUCTION);
        if let Some(decoded) = decode::decode(&bytes, rip, mode) {
            return Ok((decoded, None));
        }
        let second = self.fetch_second_page()?;
        let rest = MAX_INSTRUCTION - bytes.len();
        bytes.extend(self.fetch_bytes(second, rest));
        let decoded = decode::decode(&bytes, rip, mode)
            .expect("the decoder never wants more than the longest instruction");
        Ok((decoded, Some(second)))
    }

    /// Decodes the block at RIP, and notes which pages hold its bytes.
    #[cold]
    pub(super) fn build_block(&mut self, key: &Key) -> Result<NewBlock, Stop> {
        let bytes = self.fetch_bytes(key.gpa(), BLOCK_BYTES);
        let mut block = NewBlock {
            key: *key,
            next_rip: 0,
            ops: Vec::with_capacity(16),
            fused: None,
            is_near: true,
            second: None,
            pages: Vec::new(),
        };
        let mut at = 0usize;
        // Bytes that decided the decoding: more than `at` behind what is no instruction.
        let mut noted = 0usize;
        while block.ops.len() < MOST_OPS {
            let rip = key.rip.wrapping_add(at as u64);
            let Some(Decoded { mut op, flow, seen }) = decode::decode(&bytes[at..], rip, self.mode)
            else {
                break;
            };
            if flow == Flow::Alone && !block.ops.is_empty() {
                break;
            }
            op.offset = at as u16;
            noted = at + usize::from(seen);
            at += usize::from(op.len);
            if let Some(before) = block.ops.last() {
                block.fused = fuse(before, &op, key.rip.wrapping_add(at as u64));
            }
            block.ops.push(op);
            if flow != Flow::Next {
                block.is_near = flow == Flow::Branch;
                break;
            }
        }
        if block.ops.is_empty() {
            let (Decoded { op, flow, seen }, second) = self.decode_one(key.gpa())?;
            block.is_near = matches!(flow, Flow::Next | Flow::Branch);
            block.second = second;
            at = usize::from(op.len);
            noted = usize::from(seen);
            block.ops.push(op);
            if let Some(second) = second {
                let there = noted.saturating_sub(bytes.len()).max(1);
                self.note_code(second, there as u64, &mut block.pages);
            }
        }
        self.note_code(key.gpa(), noted.min(bytes.len()) as u64, &mut block.pages);
        block.next_rip = self.wrap_rip(key.rip.wrapping_add(at as u64));
        Ok(block)
    }

    fn note_code(&mut self, gpa: u64, len: u64, pages: &mut Vec<CodePage>) {
        self.mmu.note_code(gpa, len);
        if let Some(offset) = self.mmu.memory().offset_of(gpa) {
            pages.push(CodePage(offset / PAGE_SIZE));
        }
    }
}
