//! The checks of a qcow2 header that are made before anything else is believed.
//!
//! ```text
//!  0 magic   4 version          8 backing name at      16 its length   20 cluster bits
//! 24 size   32 encryption      36 L1 entries           40 L1 table at  48 refcount table at
//! 56 refcount table clusters   60 snapshots            64 their table  72 incompatible features
//! 96 refcount order           100 header length
//! ```
//!
//! All numbers are big-endian. Names what we lack, and bounds what a reader would allocate.
//!
//! Spec: qcow2, "Header" and "Header extensions".

use super::file::ImageFile;
use super::qcow2_check::Layout;
use super::{DiskError, SECTOR_SIZE};

const HEADER_SIZE_V2: usize = 72;
const HEADER_SIZE_V3: usize = 104;
/// QEMU's limit; with clusters of 64 KiB this is a disk of 2 PiB.
const L1_BYTES_MAX: u64 = 32 << 20;
/// QEMU's limit, too.
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
const BACKING_NAME_MAX: usize = 1023;
/// Type and length, before each extension.
const EXTENSION_HEADER_SIZE: usize = 8;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME_SIZE: usize = 48;

/// Bits of features without which an image must not be opened.
const INCOMPATIBLE: [(u64, &str); 5] = [
    (
        1 << 0,
        "it was not closed, and its reference counts are out of date",
    ),
    (1 << 1, "it is marked as corrupt"),
    (
        1 << 2,
        "its data is in an external file, which is not supported",
    ),
    (
        1 << 3,
        "its compression is not deflate, which is not supported",
    ),
    (
        1 << 4,
        "it has extended L2 entries, which are not supported",
    ),
];

/// The part of the header that is looked at.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn u32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_be_bytes(bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_be_bytes(bytes)
    }
}

/// Refuses images that cannot be served, and, unless `backing_files`, those with a backing file.
/// Gives where its tables are.
///
/// # Errors
/// Says what is wrong with the image.
pub(super) fn check(image: &ImageFile, backing_files: bool) -> Result<Layout, DiskError> {
    let wrong = |reason: String| DiskError::qcow2(&image.path, reason);
    let front = image.front(HEADER_SIZE_V3)?;
    if !front.starts_with(b"QFI\xfb") {
        return Err(wrong(
            "it does not begin with the format's magic number".into(),
        ));
    }
    let needed = |size| {
        if front.len() < size {
            return Err(wrong(format!("it ends after {} bytes", front.len())));
        }
        Ok(())
    };
    needed(HEADER_SIZE_V2)?;
    let header = Header(&front);
    match header.u32(4) {
        2 => {}
        3 => needed(HEADER_SIZE_V3)?,
        version => return Err(wrong(format!("version {version} is not supported"))),
    }
    let cluster_bits = header.u32(20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(wrong(format!("its clusters have 2^{cluster_bits} bytes")));
    }
    if header.u32(32) != 0 {
        return Err(wrong("it is encrypted, which is not supported".into()));
    }
    if header.u32(4) == 3 {
        let features = header.u64(72);
        if let Some((_, what)) = INCOMPATIBLE.iter().find(|(bit, _)| features & bit != 0) {
            return Err(wrong((*what).to_owned()));
        }
    }
    check_size(image, header.u64(24))?;
    let layout = layout(&header, cluster_bits).map_err(wrong)?;
    check_tables(image, &layout)?;
    let first_cluster = image.front(1 << cluster_bits)?;
    if header.u32(4) == 3 {
        check_extensions(&first_cluster, header.u32(100)).map_err(wrong)?;
    }
    if backing_files || header.u64(8) == 0 {
        return Ok(layout);
    }
    Err(DiskError::BackingFile {
        path: image.path.clone(),
        backing: backing_name(&first_cluster, &header).map_err(wrong)?,
    })
}

fn check_size(image: &ImageFile, size: u64) -> Result<(), DiskError> {
    let path = image.path.clone();
    if size == 0 {
        return Err(DiskError::Empty { path });
    }
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(DiskError::Size {
            path,
            size,
            multiple: SECTOR_SIZE,
            why: "",
        });
    }
    Ok(())
}

fn layout(header: &Header<'_>, cluster_bits: u32) -> Result<Layout, String> {
    let refcount_order = match header.u32(4) {
        2 => 4,
        _ => header.u32(96),
    };
    if refcount_order > 6 {
        return Err(format!("its refcounts have 2^{refcount_order} bits"));
    }
    Ok(Layout {
        size: header.u64(24),
        cluster_bits,
        refcount_order,
        l1_at: header.u64(40),
        l1_entries: header.u32(36).into(),
        refcounts_at: header.u64(48),
        refcounts_clusters: header.u32(56).into(),
    })
}

fn check_tables(image: &ImageFile, layout: &Layout) -> Result<(), DiskError> {
    let wrong = |reason: String| Err(DiskError::qcow2(&image.path, reason));
    let (size, entries) = (layout.size, layout.l1_entries);
    if entries * 8 > L1_BYTES_MAX {
        return wrong(format!("its L1 table has {entries} entries"));
    }
    // An L1 entry stands for a cluster of entries of eight bytes, each for a cluster.
    let covered = u128::from(entries) << (2 * layout.cluster_bits - 3);
    if covered < u128::from(size) {
        return wrong(format!(
            "its L1 table of {entries} entries is too short for {size} bytes"
        ));
    }
    let clusters = layout.refcounts_clusters;
    if clusters == 0 || clusters * layout.cluster_size() > REFCOUNT_TABLE_BYTES_MAX {
        return wrong(format!("its refcount table has {clusters} clusters"));
    }
    let tables = [
        ("L1 table", layout.l1_at, entries * 8),
        ("refcount table", layout.refcounts_at, 8),
    ];
    for (name, at, bytes) in tables {
        if at == 0 || !at.is_multiple_of(layout.cluster_size()) {
            return wrong(format!("its {name} is at byte {at}"));
        }
        if at.checked_add(bytes).is_none_or(|end| end > image.len) {
            let len = image.len;
            return wrong(format!(
                "the file has {len} bytes and the {name} is at byte {at}: it is truncated"
            ));
        }
    }
    Ok(())
}

/// Looks for a table of features that ends within an entry, which the reader would stumble over
/// (imago 0.2.6).
fn check_extensions(first_cluster: &[u8], header_len: u32) -> Result<(), String> {
    let mut rest = first_cluster.get(header_len as usize..).unwrap_or_default();
    while let Some(extension) = rest.get(..EXTENSION_HEADER_SIZE) {
        let extension = Header(extension);
        let (kind, len) = (extension.u32(0), extension.u32(4) as usize);
        if kind == 0 {
            break;
        }
        if kind == EXTENSION_FEATURE_NAMES && !len.is_multiple_of(FEATURE_NAME_SIZE) {
            return Err(format!("its table of features has {len} bytes"));
        }
        let next = EXTENSION_HEADER_SIZE + len.next_multiple_of(8);
        rest = rest.get(next..).unwrap_or_default();
    }
    Ok(())
}

fn backing_name(first_cluster: &[u8], header: &Header<'_>) -> Result<String, String> {
    let (at, len) = (header.u64(8), header.u32(16) as usize);
    let name = usize::try_from(at)
        .ok()
        .filter(|_| len <= BACKING_NAME_MAX)
        .and_then(|at| first_cluster.get(at..)?.get(..len))
        .ok_or_else(|| format!("the name of its backing file has {len} bytes at {at}"))?;
    Ok(String::from_utf8_lossy(name).into_owned())
}
