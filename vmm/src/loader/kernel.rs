//! Kernel images: a bzImage, whose payload is unpacked here, or an ELF.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst` (protocol 2.08 and later, for the payload
//! fields); ELF-64; Xen `docs/misc/pvh.pandoc` for the PVH note.

use std::io::Read;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;

/// Most bytes an unpacked kernel may have.
const MOST_UNPACKED: u64 = 1 << 30;
/// Offset of the setup header in a bzImage.
const SETUP_HEADER: usize = 0x1f1;
/// Type of the ELF note that holds the PVH entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u64 = 18;
/// Bytes of an LZ4 legacy block, unpacked.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Why bytes are not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither a bzImage nor an ELF.
    #[error("neither a bzImage nor an ELF file (it starts with {start})")]
    Unknown {
        /// The first bytes in hexadecimal.
        start: String,
    },
    /// A bzImage that is too old or cut short.
    #[error("bzImage: {0}")]
    BzImage(&'static str),
    /// The payload's compression is not known.
    #[error("bzImage payload starts with {start}, which is not gzip, xz, LZ4, zstd or ELF")]
    Compression {
        /// The first bytes in hexadecimal.
        start: String,
    },
    /// The payload does not unpack.
    #[error("{format} payload does not unpack")]
    Unpack {
        /// Its format.
        format: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ELF is malformed.
    #[error("malformed ELF")]
    Elf(#[source] elf::ParseError),
    /// The ELF is not one for this machine.
    #[error("ELF: {0}")]
    Unusable(&'static str),
}

/// A stretch of the kernel and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub address: u64,
    /// Its bytes; what follows them is zero.
    pub bytes: Vec<u8>,
}

/// How the kernel wants to be entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit boot protocol.
    Linux64 {
        /// Address of `startup_64`.
        entry: u64,
        /// The setup header of the bzImage, to be copied into the zero page.
        setup_header: Vec<u8>,
    },
    /// PVH: 32-bit protected mode.
    Pvh {
        /// Entry address.
        entry: u64,
    },
}

/// A kernel, ready to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What goes where.
    pub segments: Vec<Segment>,
    /// First address after the kernel and its zeroed data.
    pub end: u64,
    /// How to enter it.
    pub entry: Entry,
}

impl Kernel {
    /// Reads a kernel image.
    ///
    /// # Errors
    /// When it is not one, or one that cannot be started here.
    pub fn parse(bytes: &[u8]) -> Result<Self, KernelError> {
        if bytes.starts_with(b"\x7fELF") {
            let (segments, end, _) = parse_elf(bytes)?;
            let entry = pvh_entry(bytes)?.ok_or(KernelError::Unusable(
                "it has no PVH note, and is not a bzImage",
            ))?;
            return Ok(Self {
                segments,
                end,
                entry: Entry::Pvh { entry },
            });
        }
        if bytes.get(0x202..0x206) == Some(b"HdrS") {
            return Self::parse_bzimage(bytes);
        }
        Err(KernelError::Unknown { start: hex(bytes) })
    }

    fn parse_bzimage(bytes: &[u8]) -> Result<Self, KernelError> {
        let short = KernelError::BzImage("it is cut short");
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n])) as usize;
        if bytes.len() < 0x268 {
            return Err(short);
        }
        if u16::from_le_bytes([bytes[0x206], bytes[0x207]]) < 0x20c {
            return Err(KernelError::BzImage("its boot protocol is older than 2.12"));
        }
        if bytes[0x236] & 1 == 0 {
            return Err(KernelError::BzImage("it is not a 64-bit kernel"));
        }
        let setup_sectors = if bytes[SETUP_HEADER] == 0 {
            4
        } else {
            bytes[SETUP_HEADER]
        };
        let code = (usize::from(setup_sectors) + 1) * 512;
        let from = code
            .checked_add(word(0x248))
            .ok_or(KernelError::BzImage("bad payload"))?;
        let to = from
            .checked_add(word(0x24c))
            .ok_or(KernelError::BzImage("bad payload"))?;
        let payload = bytes.get(from..to).ok_or(short)?;
        let unpacked = unpack(payload)?;
        let (segments, end, entry) = parse_elf(&unpacked)?;
        // The header ends where the jump over it leads.
        let header_end = (0x202 + usize::from(bytes[0x201]))
            .min(0x290)
            .min(bytes.len());
        let setup_header = bytes[SETUP_HEADER..header_end].to_vec();
        Ok(Self {
            segments,
            end,
            entry: Entry::Linux64 {
                entry,
                setup_header,
            },
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    let text: Vec<String> = bytes
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    text.join(" ")
}

/// Unpacks a bzImage payload by its magic. The four bytes of the unpacked size that the kernel's
/// build appends are left over by every format.
fn unpack(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    match payload {
        [0x7f, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        [0x1f, 0x8b, ..] => read_all("gzip", flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            read_all("xz", liblzma::read::XzDecoder::new(payload))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::new(payload).map_err(|source| {
                KernelError::Unpack {
                    format: "zstd",
                    source,
                }
            })?;
            read_all("zstd", decoder.single_frame())
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => unpack_lz4_legacy(blocks),
        _ => Err(KernelError::Compression {
            start: hex(payload),
        }),
    }
}

fn read_all(format: &'static str, reader: impl Read) -> Result<Vec<u8>, KernelError> {
    let mut unpacked = Vec::new();
    let read = reader.take(MOST_UNPACKED).read_to_end(&mut unpacked);
    read.map_err(|source| KernelError::Unpack { format, source })?;
    Ok(unpacked)
}

/// The legacy LZ4 frame: blocks of at most 8 MiB unpacked, each after its packed length.
fn unpack_lz4_legacy(mut blocks: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut unpacked = Vec::new();
    while let Some((len, rest)) = blocks.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        if rest.is_empty() {
            break;
        }
        let block = rest
            .get(..len)
            .ok_or_else(|| lz4_error("a block is cut short"))?;
        let data = lz4_flex::block::decompress(block, LZ4_LEGACY_BLOCK)
            .map_err(|error| lz4_error(&error.to_string()))?;
        unpacked.extend_from_slice(&data);
        if unpacked.len() as u64 > MOST_UNPACKED {
            return Err(lz4_error("it is larger than 1 GiB"));
        }
        blocks = &rest[len..];
    }
    Ok(unpacked)
}

fn lz4_error(text: &str) -> KernelError {
    KernelError::Unpack {
        format: "LZ4",
        source: std::io::Error::other(text.to_owned()),
    }
}

/// Loadable segments, the first address after them, and the physical entry address.
fn parse_elf(bytes: &[u8]) -> Result<(Vec<Segment>, u64, u64), KernelError> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(KernelError::Elf)?;
    if file.ehdr.class != elf::file::Class::ELF64 || file.ehdr.e_machine != EM_X86_64 {
        return Err(KernelError::Unusable("it is not for x86-64"));
    }
    let headers = file
        .segments()
        .ok_or(KernelError::Unusable("it has no segments"))?;
    let (mut segments, mut end) = (Vec::new(), 0);
    let mut entry = file.ehdr.e_entry;
    for header in headers.iter().filter(|header| header.p_type == PT_LOAD) {
        let data = file.segment_data(&header).map_err(KernelError::Elf)?;
        if (data.len() as u64) > header.p_memsz || header.p_memsz > MOST_UNPACKED {
            return Err(KernelError::Unusable("a segment has an impossible size"));
        }
        end = header
            .p_paddr
            .checked_add(header.p_memsz)
            .ok_or(KernelError::Unusable("a segment leaves the address space"))?
            .max(end);
        let inside = file.ehdr.e_entry.wrapping_sub(header.p_vaddr);
        if header.p_vaddr != header.p_paddr && inside < header.p_memsz {
            entry = header.p_paddr + inside;
        }
        segments.push(Segment {
            address: header.p_paddr,
            bytes: data.to_vec(),
        });
    }
    if segments.is_empty() {
        return Err(KernelError::Unusable("it has nothing to load"));
    }
    Ok((segments, end, entry))
}

fn pvh_entry(bytes: &[u8]) -> Result<Option<u64>, KernelError> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(KernelError::Elf)?;
    let Some(headers) = file.segments() else {
        return Ok(None);
    };
    for header in headers.iter().filter(|header| header.p_type == PT_NOTE) {
        let notes = file
            .segment_data_as_notes(&header)
            .map_err(KernelError::Elf)?;
        for note in notes {
            if let elf::note::Note::Unknown(note) = note
                && note.n_type == XEN_ELFNOTE_PHYS32_ENTRY
                && note.name.starts_with(b"Xen")
                && let Some(low) = note.desc.first_chunk::<4>()
            {
                return Ok(Some(u64::from(u32::from_le_bytes(*low))));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
