//! Looks through the tables of a qcow2 image before it is used.
//!
//! ```text
//! header ─┬─▶ L1 table ─▶ L2 tables ─▶ clusters of data
//!         └─▶ refcount table ─▶ refcount blocks: how often each cluster of the file is used
//! ```
//!
//! What is used must be inside of the file, used once, and counted. Otherwise the image was
//! truncated or damaged, and the first allocation could take its header for a free cluster. Tables
//! are a few bytes for each 64 KiB of data, so this takes a fraction of a second for a terabyte.
//!
//! Left out: internal snapshots' tables, clusters that are counted without being used, and
//! cross-checks of the flags that only make a write slower or a cluster be copied.
//!
//! Spec: qcow2, "Host cluster management" and "Cluster mapping".

use std::io;

use imago::file::File as ImagoFile;
use imago::{Storage, StorageExt};

/// Where the tables are, as the header says and its checks found possible.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bytes that the guest sees.
    pub size: u64,
    /// Bytes of a cluster, as a power of two.
    pub cluster_bits: u32,
    /// Bits of a refcount, as a power of two.
    pub refcount_order: u32,
    /// Where the L1 table is.
    pub l1_at: u64,
    /// Its entries.
    pub l1_entries: u64,
    /// Where the refcount table is.
    pub refcounts_at: u64,
    /// Its clusters.
    pub refcounts_clusters: u64,
}

impl Layout {
    /// Bytes of a cluster.
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Clusters of a file that can be looked through; 128 TiB with clusters of 64 KiB.
const CLUSTERS_MAX: u64 = 1 << 31;
const ENTRY_SIZE: u64 = 8;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const SECTOR: u64 = 512;

/// A set of clusters.
struct ClusterSet(Vec<u64>);

impl ClusterSet {
    fn new(clusters: u64) -> Self {
        Self(vec![0; clusters.div_ceil(64) as usize])
    }

    fn contains(&self, cluster: u64) -> bool {
        let word = self.0.get((cluster / 64) as usize);
        word.is_some_and(|word| word & 1 << (cluster % 64) != 0)
    }

    /// Whether it was not in the set.
    fn insert(&mut self, cluster: u64) -> bool {
        let new = !self.contains(cluster);
        if let Some(word) = self.0.get_mut((cluster / 64) as usize) {
            *word |= 1 << (cluster % 64);
        }
        new
    }
}

struct Check<'a> {
    file: &'a ImagoFile,
    len: u64,
    layout: Layout,
    /// Clusters whose refcount is not zero.
    counted: ClusterSet,
    /// Clusters that have one user.
    used: ClusterSet,
    /// Clusters that compressed data is in, which can be many pieces' one.
    packed: ClusterSet,
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Looks through the tables.
///
/// # Errors
/// They cannot be read, or are damaged.
pub(super) fn check(file: &ImagoFile, layout: Layout) -> io::Result<()> {
    let len = file.size()?;
    let clusters = len.div_ceil(layout.cluster_size());
    if clusters > CLUSTERS_MAX {
        let size = layout.cluster_size();
        return Err(damaged(format!(
            "a file of {len} bytes is too long for clusters of {size} bytes"
        )));
    }
    let mut check = Check {
        file,
        len,
        layout,
        counted: ClusterSet::new(clusters),
        used: ClusterSet::new(clusters),
        packed: ClusterSet::new(clusters),
    };
    check.count()?;
    check.use_once("header", 0, 1)?;
    check.use_once("L1 table", layout.l1_at, layout.l1_entries * ENTRY_SIZE)?;
    check.mappings()
}

impl Check<'_> {
    fn read_table(&self, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let mut table = vec![0; bytes as usize];
        self.file.read(table.as_mut_slice(), at)?;
        Ok(table)
    }

    /// Reads which clusters are counted.
    fn count(&mut self) -> io::Result<()> {
        let Layout { refcounts_at, .. } = self.layout;
        let cluster_size = self.layout.cluster_size();
        let bytes = self.layout.refcounts_clusters * cluster_size;
        let table = self.read_table(refcounts_at, bytes)?;
        let mut blocks = Vec::new();
        for (index, entry) in entries(&table).enumerate() {
            let at = entry & !(SECTOR - 1);
            if at != 0 {
                self.must_be_inside("refcount block", at, cluster_size)?;
                blocks.push(at);
                let block = self.read_table(at, cluster_size)?;
                self.count_block(index as u64, &block);
            }
        }
        // Only now it is known whether they are counted themselves.
        for at in blocks {
            self.use_once("refcount block", at, cluster_size)?;
        }
        // It ends with the file if that was not filled up.
        self.use_once(
            "refcount table",
            refcounts_at,
            bytes.min(self.len - refcounts_at),
        )
    }

    fn count_block(&mut self, index: u64, block: &[u8]) {
        let bits = 1u64 << self.layout.refcount_order;
        let first = index * (block.len() as u64 * 8 / bits);
        if bits < 8 {
            let in_byte = 8 / bits;
            for at in 0..block.len() as u64 * in_byte {
                let shift = at % in_byte * bits;
                if block[(at / in_byte) as usize] >> shift & ((1 << bits) - 1) != 0 {
                    self.counted.insert(first + at);
                }
            }
        } else {
            let refcounts = block.chunks_exact(bits as usize / 8);
            for (at, refcount) in refcounts.enumerate() {
                if refcount.iter().any(|byte| *byte != 0) {
                    self.counted.insert(first + at as u64);
                }
            }
        }
    }

    /// Goes from the L1 table to all clusters of data.
    fn mappings(&mut self) -> io::Result<()> {
        let Layout { l1_at, .. } = self.layout;
        let cluster_size = self.layout.cluster_size();
        let guest_bytes = cluster_size / ENTRY_SIZE * cluster_size;
        let l1 = self.read_table(l1_at, self.layout.l1_entries * ENTRY_SIZE)?;
        for (index, entry) in entries(&l1).enumerate() {
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            self.use_once("L2 table", at, cluster_size)?;
            // It may be of a part that was cut off; its clusters still have users.
            let first = index as u64 * guest_bytes;
            let l2 = self.read_table(at, cluster_size)?;
            for (index, entry) in entries(&l2).enumerate() {
                self.mapping(first + index as u64 * cluster_size, entry)?;
            }
        }
        Ok(())
    }

    /// Looks at what the guest's cluster at `guest` is mapped to.
    fn mapping(&mut self, guest: u64, entry: u64) -> io::Result<()> {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.layout.cluster_bits - 8);
            let at = entry & ((1 << offset_bits) - 1);
            let sectors = 1 + ((entry & (COMPRESSED - 1)) >> offset_bits);
            return self.use_packed(at, sectors * SECTOR - at % SECTOR);
        }
        let at = entry & OFFSET;
        if at == 0 || entry & ZERO != 0 && at >= self.len {
            return Ok(());
        }
        // Where the disk ends, its last cluster need not be whole.
        let bytes = if entry & ZERO != 0 {
            1
        } else {
            let rest = self.layout.size.saturating_sub(guest).max(1);
            rest.min(self.layout.cluster_size())
        };
        self.use_once("data", at, bytes)
    }

    fn must_be_inside(&self, what: &str, at: u64, bytes: u64) -> io::Result<()> {
        if !at.is_multiple_of(self.layout.cluster_size()) {
            return Err(damaged(format!("{what} is at byte {at}, not at a cluster")));
        }
        let len = self.len;
        if at.checked_add(bytes).is_none_or(|end| end > len) {
            return Err(damaged(format!(
                "the file has {len} bytes and {what} is at byte {at}: it is truncated"
            )));
        }
        Ok(())
    }

    fn use_once(&mut self, what: &str, at: u64, bytes: u64) -> io::Result<()> {
        self.must_be_inside(what, at, bytes)?;
        for cluster in self.clusters(at, bytes) {
            if !self.used.insert(cluster) || self.packed.contains(cluster) {
                return Err(damaged(format!(
                    "{what} is in cluster {cluster}, as is something else"
                )));
            }
            self.must_be_counted(what, cluster)?;
        }
        Ok(())
    }

    fn use_packed(&mut self, at: u64, bytes: u64) -> io::Result<()> {
        const WHAT: &str = "compressed data";
        if at >= self.len {
            let len = self.len;
            return Err(damaged(format!(
                "the file has {len} bytes and {WHAT} is at byte {at}: it is truncated"
            )));
        }
        // It is counted in sectors, the last of which need not be there.
        for cluster in self.clusters(at, bytes.min(self.len - at)) {
            if self.used.contains(cluster) {
                return Err(damaged(format!(
                    "{WHAT} is in cluster {cluster}, as is something else"
                )));
            }
            self.packed.insert(cluster);
            self.must_be_counted(WHAT, cluster)?;
        }
        Ok(())
    }

    fn must_be_counted(&self, what: &str, cluster: u64) -> io::Result<()> {
        if self.counted.contains(cluster) {
            return Ok(());
        }
        Err(damaged(format!(
            "{what} is in cluster {cluster}, which is not counted as used"
        )))
    }

    fn clusters(&self, at: u64, bytes: u64) -> std::ops::Range<u64> {
        let bits = self.layout.cluster_bits;
        at >> bits..(at + bytes).div_ceil(1 << bits)
    }
}

/// The entries of a table.
fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    let (entries, _) = table.as_chunks::<{ ENTRY_SIZE as usize }>();
    entries.iter().map(|entry| u64::from_be_bytes(*entry))
}
