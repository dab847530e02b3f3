//! Kernel images made here: bzImages in every compression, ELFs with and without a PVH note, and
//! all of them damaged.

use std::io::Write;

use super::*;

const LOAD_AT: u64 = 0x100_0000;
const LINKED_AT: u64 = 0xffff_ffff_8100_0000;
const PVH_ENTRY: u32 = 0x100_0040;
const SEGMENT: &[u8] = b"the kernel's first bytes";

/// A 64-bit ELF with one loadable segment, and a PVH note if asked for.
fn elf(note: bool) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let word = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    word(&mut bytes, LINKED_AT + 8);
    word(&mut bytes, 64);
    word(&mut bytes, 0);
    bytes.extend([
        0,
        0,
        0,
        0,
        64,
        0,
        56,
        0,
        if note { 2 } else { 1 },
        0,
        64,
        0,
        0,
        0,
        0,
        0,
    ]);
    // PT_LOAD, readable and executable: offset, linked and physical address, sizes, alignment.
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let size = SEGMENT.len() as u64;
    for value in [HEADERS, LINKED_AT, LOAD_AT, size, size + 100, 4096] {
        word(&mut bytes, value);
    }
    bytes.extend([4, 0, 0, 0, 4, 0, 0, 0]);
    for value in [HEADERS + size, 0, 0, 20, 20, 4] {
        word(&mut bytes, value);
    }
    assert_eq!(bytes.len() as u64, HEADERS);
    bytes.extend(SEGMENT);
    // Name and description of four bytes each; PHYS32_ENTRY.
    bytes.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    bytes.extend(b"Xen\0");
    bytes.extend(PVH_ENTRY.to_le_bytes());
    bytes
}

/// A bzImage of protocol 2.15 around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[SETUP_HEADER] = 1;
    bytes[0x201] = 0x6a;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x236] = 1;
    // The payload lies some way into the protected-mode code, with its unpacked size behind it.
    bytes[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    let len = payload.len() as u32 + 4;
    bytes[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
    bytes.extend([0xcc; 16]);
    bytes.extend(payload);
    bytes.extend((elf(true).len() as u32).to_le_bytes());
    bytes
}

fn lz4_legacy(data: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::block::compress(data);
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    frame.extend((packed.len() as u32).to_le_bytes());
    frame.extend(&packed);
    frame
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn payloads() -> [(&'static str, Vec<u8>); 5] {
    let kernel = elf(true);
    let zstd = zstd::stream::encode_all(&kernel[..], 19).unwrap();
    [
        ("LZ4", lz4_legacy(&kernel)),
        ("gzip", gzip(&kernel)),
        ("xz", xz(&kernel)),
        ("zstd", zstd),
        ("ELF", kernel),
    ]
}

#[test]
fn a_bzimage_in_every_compression_is_the_same_kernel() {
    for (format, payload) in payloads() {
        let kernel = Kernel::parse(&bzimage(&payload)).unwrap();
        assert_eq!(kernel.end, LOAD_AT + SEGMENT.len() as u64 + 100, "{format}");
        let segment = Segment {
            address: LOAD_AT,
            bytes: SEGMENT.to_vec(),
        };
        assert_eq!(kernel.segments, [segment], "{format}");
        let Entry::Linux64 {
            entry,
            setup_header,
        } = kernel.entry
        else {
            panic!("{format}");
        };
        // Where the entry point was linked, seen from where the segment is loaded.
        assert_eq!(entry, LOAD_AT + 8, "{format}");
        assert_eq!(setup_header[0x202 - SETUP_HEADER..][..4], *b"HdrS");
    }
}

#[test]
fn an_elf_is_entered_by_its_pvh_note_and_refused_without_one() {
    let kernel = Kernel::parse(&elf(true)).unwrap();
    let entry = u64::from(PVH_ENTRY);
    assert_eq!(kernel.entry, Entry::Pvh { entry });
    let error = Kernel::parse(&elf(false)).unwrap_err();
    assert!(error.to_string().contains("no PVH note"), "{error}");
}

#[test]
fn payloads_cut_short_anywhere_are_refused_or_still_whole() {
    for (format, payload) in payloads() {
        for len in 0..payload.len() {
            // No panic; what unpacks all the same has lost nothing but its checksum.
            if let Ok(unpacked) = unpack(&payload[..len]) {
                let whole = elf(true);
                assert!(whole.starts_with(&unpacked), "{format} at {len}");
            }
        }
    }
    let whole = bzimage(&gzip(&elf(true)));
    for len in 0..whole.len() - 4 {
        assert!(Kernel::parse(&whole[..len]).is_err(), "{len}");
    }
}

#[test]
fn what_is_no_kernel_is_refused_by_what_it_starts_with() {
    let error = Kernel::parse(b"#!/bin/sh\necho").unwrap_err();
    assert!(error.to_string().contains("23 21 2f 62"), "{error}");
    assert!(Kernel::parse(b"").is_err());
    assert!(Kernel::parse(b"\x7fELF").is_err());
    let error = Kernel::parse(&bzimage(b"BZh9 is bzip2")).unwrap_err();
    assert!(error.to_string().contains("42 5a 68 39"), "{error}");
}

#[test]
fn lz4_legacy_frames_unpack_and_leave_the_size_over() {
    let text = vec![7u8; 100_000];
    let mut frame = lz4_legacy(&text);
    frame.extend((text.len() as u32).to_le_bytes());
    assert_eq!(unpack(&frame).unwrap(), text);
    frame.truncate(20);
    assert!(unpack(&frame).is_err());
}
