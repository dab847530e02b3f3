//! Decoded blocks, found by where they start.
//!
//! A block is a run of instructions inside one page (the last may cross into the next) that is
//! entered at its start. It is kept under its linear and its physical address and the mode, so
//! RIP-relative operands and branch targets can be absolute. What is cached never shows: a block
//! is decoded again when it is not found, and dropped when its bytes are written.
//!
//! ```text
//!   key ──hash──▶ bucket of four (tag, block id) ──▶ blocks[id] ──▶ ops[first..]
//!                          followed by ──▶ links: where it went last time
//! ```
//!
//! Blocks and instructions lie in two arrays in the order in which they were first executed, which
//! is roughly the order in which they will be executed again; a dropped block stays as garbage
//! until the arrays are full and everything is dropped. A block remembers the two blocks that
//! followed it last, so that most turns of the run loop ask no hash table.

use super::cpu::Mode;
use super::mmu::CodePage;
use super::op::Op;

/// Most instructions in a block.
pub const MOST_OPS: usize = 64;
/// Places in a bucket.
const WAYS: usize = 4;
/// Buckets; a power of two.
const BUCKETS: usize = 1 << 13;
/// Blocks, garbage included, at which everything is dropped.
const MOST_BLOCKS: usize = 1 << 16;
/// Ops of all blocks, garbage included. The array never moves: translated code points into it.
const MOST_OPS_IN_ALL: usize = 1 << 19;
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

    /// Whether the block is 64-bit code.
    pub fn is_long(&self) -> bool {
        self.place >> MODE_SHIFT == Mode::Long as u64
    }

    /// Guest physical address of the first instruction.
    pub fn gpa(&self) -> u64 {
        self.place & ((1 << MODE_SHIFT) - 1)
    }

    /// Bucket, and what tells the key from most others there.
    fn hash(&self) -> (usize, u32) {
        let mixed = (self.rip ^ self.place.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 40) as usize % BUCKETS, (mixed >> 8) as u32)
    }
}

/// Number of a block in the cache, until the next [`CodeCache::clear`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId(pub u32);

impl BlockId {
    const NONE: Self = Self(u32::MAX);
}

/// A run of decoded instructions.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// What it is found by; no key once it is dropped.
    key: Key,
    /// RIP after the last instruction.
    pub next_rip: u64,
    first: u32,
    /// Guest instructions.
    pub len: u16,
    /// Ops of the fast path: one less when the last two instructions are one op.
    fast_len: u16,
    /// Whether nothing but RIP decides what follows it: no change of mode or rights.
    pub is_near: bool,
    /// Guest physical address of the second page of a block that crosses into one. Such a block is
    /// one instruction, is never translated, and has that page looked up each time it runs.
    pub second: Option<u64>,
    /// How often it was interpreted, up to a bound.
    pub heat: u8,
    /// What followed it last: by falling through, and by branching.
    links: [BlockId; 2],
    /// Address of its translation; 0 when there is none.
    pub code: u64,
}

impl Block {
    /// RIP of the first instruction.
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.key.rip
    }

    /// What it is found by.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Number of its first op among all ops.
    pub fn first_op(&self) -> u32 {
        self.first
    }
}

/// A block that was just decoded.
#[derive(Debug)]
pub struct NewBlock {
    /// What it is to be found by.
    pub key: Key,
    /// RIP after the last instruction.
    pub next_rip: u64,
    /// The instructions, one op each; at least one, at most [`MOST_OPS`].
    pub ops: Vec<Op>,
    /// The last two instructions as one op.
    pub fused: Option<Op>,
    /// Whether nothing but RIP decides what follows it.
    pub is_near: bool,
    /// Guest physical address of the second page of a block that crosses into one.
    pub second: Option<u64>,
    /// The pages of memory that hold its bytes.
    pub pages: Vec<CodePage>,
}

/// One place in a bucket.
#[derive(Debug, Clone, Copy)]
struct Place {
    tag: u32,
    id: BlockId,
}

impl Place {
    const EMPTY: Self = Self {
        tag: 0,
        id: BlockId::NONE,
    };
}

/// Decoded blocks.
#[derive(Debug)]
pub struct CodeCache {
    blocks: Vec<Block>,
    ops: Vec<Op>,
    buckets: Vec<[Place; WAYS]>,
    /// Per page of memory: the blocks with bytes in it.
    pages: Vec<Vec<BlockId>>,
}

impl CodeCache {
    /// An empty cache for a memory of `pages` pages.
    pub fn new(pages: u64) -> Self {
        Self {
            blocks: Vec::new(),
            ops: Vec::with_capacity(MOST_OPS_IN_ALL),
            buckets: vec![[Place::EMPTY; WAYS]; BUCKETS],
            pages: (0..pages).map(|_| Vec::new()).collect(),
        }
    }

    /// The block `id`, which must be one that this cache gave and has not dropped since.
    #[inline(always)]
    pub fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.0 as usize]
    }

    /// As [`CodeCache::block`], to be changed.
    #[inline(always)]
    pub fn block_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }

    /// The op at `index` of all ops, as translated code names it.
    pub fn op(&self, index: u32) -> &Op {
        &self.ops[index as usize]
    }

    /// What the fast path executes: `block.len` instructions in as many ops or one less.
    #[inline(always)]
    pub fn fast_ops(&self, block: &Block) -> &[Op] {
        let first = block.first as usize;
        &self.ops[first..first + usize::from(block.fast_len)]
    }

    /// The instructions of a block one by one, at most `limit` of them.
    pub fn single_ops(&self, block: &Block, limit: usize) -> impl Iterator<Item = &Op> {
        let (first, fused_at) = (block.first as usize, usize::from(block.fast_len));
        // A fused op is followed by the two that it stands for.
        let fused = block.fast_len < block.len;
        (0..limit.min(usize::from(block.len))).map(move |index| {
            let skip = usize::from(fused && index + 1 >= fused_at);
            &self.ops[first + index + skip]
        })
    }

    /// The block with `key` that followed `from` last time, or else the one in the hash table,
    /// which is then remembered.
    #[inline(always)]
    pub fn follow(&mut self, from: BlockId, key: &Key) -> Option<BlockId> {
        let block = &self.blocks[from.0 as usize];
        let side = usize::from(key.rip != block.next_rip);
        let linked = block.links[side];
        if let Some(next) = self.blocks.get(linked.0 as usize)
            && next.key == *key
        {
            return Some(linked);
        }
        let found = self.find(key)?;
        self.blocks[from.0 as usize].links[side] = found;
        Some(found)
    }

    /// The block with `key`.
    #[inline(never)]
    pub fn find(&self, key: &Key) -> Option<BlockId> {
        let (bucket, tag) = key.hash();
        let places = self.buckets[bucket].iter();
        let mut candidates = places
            .filter(|place| place.tag == tag)
            .map(|place| place.id);
        candidates.find(|id| {
            let block = self.blocks.get(id.0 as usize);
            block.is_some_and(|block| block.key == *key)
        })
    }

    /// Whether another block fits.
    pub fn has_room(&self) -> bool {
        self.blocks.len() < MOST_BLOCKS && self.ops.len() + MOST_OPS < MOST_OPS_IN_ALL
    }

    /// Keeps a block.
    ///
    /// # Panics
    /// When there is no room left.
    #[cold]
    pub fn insert(&mut self, new: NewBlock) -> BlockId {
        assert!(self.has_room(), "the caller has cleared a full cache");
        let id = BlockId(self.blocks.len() as u32);
        for page in &new.pages {
            self.pages[page.0 as usize].push(id);
        }
        let (first, len) = (self.ops.len() as u32, new.ops.len() as u16);
        let split = new.ops.len() - if new.fused.is_some() { 2 } else { 0 };
        self.ops.extend_from_slice(&new.ops[..split]);
        self.ops.extend(new.fused);
        self.ops.extend_from_slice(&new.ops[split..]);
        self.blocks.push(Block {
            key: new.key,
            next_rip: new.next_rip,
            first,
            len,
            fast_len: len - u16::from(new.fused.is_some()),
            is_near: new.is_near,
            second: new.second,
            heat: 0,
            links: [BlockId::NONE; 2],
            code: 0,
        });
        let (bucket, tag) = new.key.hash();
        let places = &mut self.buckets[bucket];
        // The newest comes first; the oldest falls out.
        places.rotate_right(1);
        places[0] = Place { tag, id };
        id
    }

    /// Drops one block, which is not translated.
    pub fn drop_block(&mut self, id: BlockId) {
        self.blocks[id.0 as usize].key = Key::NONE;
    }

    /// Drops every block with bytes in `page`, and tells `dropped` of each that was translated.
    pub fn drop_page(&mut self, page: CodePage, mut dropped: impl FnMut(&Block)) {
        for id in std::mem::take(&mut self.pages[page.0 as usize]) {
            let block = &mut self.blocks[id.0 as usize];
            if block.code != 0 {
                dropped(block);
            }
            block.key = Key::NONE;
            block.code = 0;
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.ops.clear();
        self.buckets.fill([Place::EMPTY; WAYS]);
        self.pages.fill_with(Vec::new);
    }
}
