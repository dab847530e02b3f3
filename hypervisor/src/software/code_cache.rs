//! Decoded blocks, found by where they start.
//!
//! A block is a run of instructions inside one page (the last may cross into the next) that is
//! entered at its start. It is kept under its linear and its physical address and the mode, so
//! RIP-relative operands and branch targets can be absolute. What is cached never shows: a block
//! is decoded again when it is not found, and dropped when its bytes are written.
//!
//! Keys and blocks lie in the table itself, so that a hit costs one cache line besides the
//! instructions.

use super::cpu::Mode;
use super::mmu::CodePage;
use super::op::Op;

/// Most instructions in a block.
pub const MOST_OPS: usize = 64;
/// Places for blocks; a power of two.
const SLOTS: usize = 1 << 15;
/// Bits of a guest physical address below the mode in [`Key`].
const MODE_SHIFT: u32 = 60;

/// What a block is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// RIP of the first instruction.
    pub rip: u64,
    /// Its guest physical address, and the mode it is decoded in.
    place: u64,
}

impl Key {
    /// No block has it: guest physical addresses are shorter.
    const NONE: Self = Self {
        rip: 0,
        place: u64::MAX,
    };

    /// The key of the block that starts at `rip`, which lies at `gpa`.
    #[inline(always)]
    pub fn new(rip: u64, gpa: u64, mode: Mode) -> Self {
        Self {
            rip,
            place: gpa | (mode as u64) << MODE_SHIFT,
        }
    }

    /// Guest physical address of the first instruction.
    pub fn gpa(&self) -> u64 {
        self.place & ((1 << MODE_SHIFT) - 1)
    }
}

/// A run of decoded instructions.
#[derive(Debug)]
pub struct Block {
    /// What it is found by.
    pub key: Key,
    /// RIP after the last instruction.
    pub next_rip: u64,
    /// The instructions; empty only in an empty slot.
    pub ops: Box<[Op]>,
}

impl Block {
    fn none() -> Self {
        Self {
            key: Key::NONE,
            next_rip: 0,
            ops: Box::default(),
        }
    }
}

/// Decoded blocks, one per slot.
#[derive(Debug)]
pub struct CodeCache {
    slots: Box<[Block]>,
    /// Per page of memory: the slots that held a block with bytes in it.
    pages: Vec<Vec<u32>>,
}

impl CodeCache {
    /// An empty cache for a memory of `pages` pages.
    pub fn new(pages: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Block::none()).collect(),
            pages: (0..pages).map(|_| Vec::new()).collect(),
        }
    }

    #[inline(always)]
    fn index(key: &Key) -> usize {
        (key.rip ^ key.rip >> 15 ^ key.place >> 12) as usize % SLOTS
    }

    /// The block that starts at `key`; `build` makes it, with the pages of memory that hold its
    /// bytes, when it is not there.
    ///
    /// # Errors
    /// Those of `build`.
    #[inline(always)]
    pub fn get_or_insert<E>(
        &mut self,
        key: &Key,
        build: impl FnOnce() -> Result<(Block, Vec<CodePage>), E>,
    ) -> Result<&Block, E> {
        let index = Self::index(key);
        if self.slots[index].key != *key {
            let (block, pages) = build()?;
            self.insert(index, block, &pages);
        }
        Ok(&self.slots[index])
    }

    /// Keeps `block`, whose bytes lie in `pages` of memory, in place of what was in its slot.
    #[cold]
    fn insert(&mut self, index: usize, block: Block, pages: &[CodePage]) {
        for page in pages {
            let list = &mut self.pages[page.0 as usize];
            if list.last() != Some(&(index as u32)) {
                list.push(index as u32);
            }
            if list.len() > SLOTS {
                list.sort_unstable();
                list.dedup();
            }
        }
        self.slots[index] = block;
    }

    /// Drops every block with bytes in `page`. Slots that have since been given to other pages
    /// are emptied too, which only costs decoding them again.
    pub fn drop_page(&mut self, page: CodePage) {
        for index in std::mem::take(&mut self.pages[page.0 as usize]) {
            self.slots[index as usize] = Block::none();
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.slots.fill_with(Block::none);
        self.pages.fill_with(Vec::new);
    }
}
