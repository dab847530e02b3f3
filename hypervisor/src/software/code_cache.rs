//! Decoded blocks, found by where they start.
//!
//! A block is a run of instructions inside one page (the last may cross into the next) that is
//! entered at its start. It is kept under its linear and its physical address and the mode, so
//! RIP-relative operands and branch targets can be absolute. What is cached never shows: a block
//! is decoded again when it is not found, and dropped when its bytes are written.

use super::cpu::Mode;
use super::mmu::CodePage;
use super::op::Op;

/// Most instructions in a block.
pub const MOST_OPS: usize = 64;
/// Places for blocks; a power of two.
const SLOTS: usize = 1 << 15;

/// What a block is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// RIP of the first instruction.
    pub rip: u64,
    /// Its guest physical address.
    pub gpa: u64,
    /// The mode it was decoded in.
    pub mode: Mode,
}

/// A run of decoded instructions.
#[derive(Debug)]
pub struct Block {
    /// RIP of the first instruction.
    pub rip: u64,
    /// RIP after the last instruction.
    pub next_rip: u64,
    /// The instructions; never empty.
    pub ops: Box<[Op]>,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    block: Block,
}

/// Decoded blocks, one per slot.
#[derive(Debug)]
pub struct CodeCache {
    slots: Box<[Option<Box<Slot>>]>,
    /// Per page of memory: the slots that held a block with bytes in it.
    pages: Vec<Vec<u32>>,
}

impl CodeCache {
    /// An empty cache for a memory of `pages` pages.
    pub fn new(pages: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| None).collect(),
            pages: (0..pages).map(|_| Vec::new()).collect(),
        }
    }

    #[inline(always)]
    fn index(key: &Key) -> usize {
        (key.rip ^ key.rip >> 15 ^ key.gpa >> 12) as usize % SLOTS
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
        let hit = self.slots[index].as_deref().is_some_and(|slot| slot.key == *key);
        if !hit {
            let (block, pages) = build()?;
            self.insert(*key, block, &pages);
        }
        let slot = self.slots[index].as_deref().expect("the slot was just found or filled");
        Ok(&slot.block)
    }

    /// Keeps `block`, whose bytes lie in `pages` of memory, in place of what was in its slot.
    fn insert(&mut self, key: Key, block: Block, pages: &[CodePage]) {
        let index = Self::index(&key);
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
        self.slots[index] = Some(Box::new(Slot { key, block }));
    }

    /// Drops every block with bytes in `page`. Slots that have since been given to other pages
    /// are emptied too, which only costs decoding them again.
    pub fn drop_page(&mut self, page: CodePage) {
        for index in std::mem::take(&mut self.pages[page.0 as usize]) {
            self.slots[index as usize] = None;
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.slots.fill_with(|| None);
        self.pages.fill_with(Vec::new);
    }
}
