//! The checks of a qcow2 header that are made before anything else is believed.
//!
//! ```text
//!  0 magic   4 version          8 backing name at      16 its length   20 cluster bits
//! 24 size   32 encryption      36 L1 entries           40 L1 table at  48 refcount table at
//! 56 refcount table clusters   60 snapshots            64 their table  72 incompatible features
//! ```
//!
//! All numbers are big-endian. Names what we lack, bounds what a reader would allocate, and finds
//! tables that a truncated file does not have any more. The rest is checked by the reader.
//!
//! Spec: qcow2, "Header".

use super::file::ImageFile;
use super::{DiskError, SECTOR_SIZE};

const HEADER_SIZE_V2: usize = 72;
const HEADER_SIZE_V3: usize = 104;
/// QEMU's limit; with clusters of 64 KiB this is a disk of 2 PiB.
const L1_BYTES_MAX: u64 = 32 << 20;
const BACKING_NAME_MAX: usize = 1023;

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
/// Gives the bytes of a cluster.
///
/// # Errors
/// Says what is wrong with the image.
pub(super) fn check(image: &ImageFile, backing_files: bool) -> Result<u64, DiskError> {
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
    check_tables(image, &header, cluster_bits)?;
    if backing_files || header.u64(8) == 0 {
        return Ok(1 << cluster_bits);
    }
    Err(DiskError::BackingFile {
        path: image.path.clone(),
        backing: backing_name(image, &header, cluster_bits)?,
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

fn check_tables(
    image: &ImageFile,
    header: &Header<'_>,
    cluster_bits: u32,
) -> Result<(), DiskError> {
    let wrong = |reason: String| Err(DiskError::qcow2(&image.path, reason));
    let size = header.u64(24);
    let entries = u64::from(header.u32(36));
    let bytes = entries * 8;
    if bytes > L1_BYTES_MAX {
        return wrong(format!("its L1 table has {entries} entries"));
    }
    // An L1 entry stands for a cluster of entries of eight bytes, each for a cluster.
    let covered = u128::from(entries) << (2 * cluster_bits - 3);
    if covered < u128::from(size) {
        return wrong(format!(
            "its L1 table of {entries} entries is too short for {size} bytes"
        ));
    }
    let tables = [
        ("L1 table", header.u64(40), bytes),
        ("refcount table", header.u64(48), 8),
    ];
    for (name, at, bytes) in tables {
        if at == 0 || !at.is_multiple_of(1 << cluster_bits) {
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

fn backing_name(
    image: &ImageFile,
    header: &Header<'_>,
    cluster_bits: u32,
) -> Result<String, DiskError> {
    let (at, len) = (header.u64(8), header.u32(16) as usize);
    let cluster = image.front(1 << cluster_bits)?;
    let name = usize::try_from(at)
        .ok()
        .filter(|_| len <= BACKING_NAME_MAX)
        .and_then(|at| cluster.get(at..)?.get(..len));
    let Some(name) = name else {
        return Err(DiskError::qcow2(
            &image.path,
            format!("the name of its backing file has {len} bytes at {at}"),
        ));
    };
    Ok(String::from_utf8_lossy(name).into_owned())
}
