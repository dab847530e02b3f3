//! Loads a guest: kernel, initramfs, command line, boot structures, ACPI tables.
//!
//! ```text
//! 0x500    GDT                      0xa0000  RSDP and ACPI tables (up to 1 MiB)
//! 0x7000   zero page, or PVH info   0x100000 kernel (where its segments say)
//! 0x9000   page tables              ...      initramfs at the top of low memory
//! 0x20000  command line
//! ```
//!
//! A bzImage is entered by the 64-bit boot protocol, an ELF with a PVH note by PVH. Nothing runs
//! before the kernel: there is no firmware, and the kernel's own decompressor is not used.

pub mod acpi;
mod acpi_pci;
pub mod boot;
pub mod kernel;

use std::path::{Path, PathBuf};

use hypervisor::{CpuState, GuestAddress, GuestMemory, MemoryError};

use self::boot::{Boot, COMMAND_LINE_MOST};
use self::kernel::{Entry, Kernel, KernelError};

/// What the guest is told to have besides processor and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Platform {
    /// A serial port.
    pub serial: bool,
    /// A PCI bus.
    pub pci: bool,
}

/// What to load: the files' contents, so that a reset finds the same bytes again, whatever
/// became of the files, and on whichever host.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Payload {
    /// Where the kernel came from, for messages.
    pub kernel_path: PathBuf,
    /// A bzImage, or an ELF.
    pub kernel: Vec<u8>,
    /// Initial RAM disk.
    pub initramfs: Option<Vec<u8>>,
    /// Kernel command line.
    pub cmdline: String,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload")
            .field("kernel_path", &self.kernel_path)
            .field("kernel_len", &self.kernel.len())
            .field("initramfs_len", &self.initramfs.as_ref().map(Vec::len))
            .field("cmdline", &self.cmdline)
            .finish()
    }
}

impl Payload {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(kernel: &Path, initramfs: Option<&Path>, cmdline: &str) -> Result<Self, LoadError> {
        Ok(Self {
            kernel_path: kernel.to_owned(),
            kernel: read("kernel", kernel)?,
            initramfs: initramfs.map(|path| read("initramfs", path)).transpose()?,
            cmdline: cmdline.to_owned(),
        })
    }
}

/// Why a guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// Which file.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel is not one.
    #[error("cannot use kernel {path}")]
    Kernel {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// Command line too long, or with a zero byte.
    #[error("command line of {len} bytes: at most {COMMAND_LINE_MOST}, without zero bytes")]
    CommandLine {
        /// Its length.
        len: usize,
    },
    /// Not enough guest memory.
    #[error("{what} needs guest memory at {address:#x}+{len:#x}, the guest has {ram:#x} bytes")]
    NoRoom {
        /// What has no room.
        what: &'static str,
        /// First address.
        address: u64,
        /// Bytes.
        len: u64,
        /// Guest memory.
        ram: u64,
        /// The memory's own words.
        #[source]
        source: MemoryError,
    },
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Copies `bytes` to guest memory at `address`.
pub(crate) fn place(
    memory: &GuestMemory,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), LoadError> {
    memory
        .write(GuestAddress(address), bytes)
        .map_err(|source| LoadError::NoRoom {
            what,
            address,
            len: bytes.len() as u64,
            ram: memory.size(),
            source,
        })
}

/// Loads `payload` into `memory` and returns the state in which the first vCPU starts.
///
/// # Errors
/// When a file cannot be read or used, or does not fit.
pub fn load(
    memory: &GuestMemory,
    payload: &Payload,
    platform: Platform,
) -> Result<CpuState, LoadError> {
    let kernel = Kernel::parse(&payload.kernel).map_err(|source| LoadError::Kernel {
        path: payload.kernel_path.clone(),
        source,
    })?;
    for segment in &kernel.segments {
        place(memory, "the kernel", segment.address, &segment.bytes)?;
    }
    let initramfs = match &payload.initramfs {
        Some(bytes) => Some(place_initramfs(memory, bytes, kernel.end)?),
        None => None,
    };
    if payload.cmdline.len() >= COMMAND_LINE_MOST || payload.cmdline.contains('\0') {
        return Err(LoadError::CommandLine {
            len: payload.cmdline.len(),
        });
    }
    let rsdp = acpi::write_tables(memory, platform)?;
    let boot = Boot {
        cmdline: &payload.cmdline,
        initramfs,
        rsdp,
        pci: platform.pci,
    };
    match kernel.entry {
        Entry::Linux64 {
            entry,
            ref setup_header,
        } => boot.linux64(memory, entry, setup_header),
        Entry::Pvh { entry } => boot.pvh(memory, entry),
    }
}

/// Puts the initramfs at the top of low memory, page-aligned, above the kernel.
fn place_initramfs(
    memory: &GuestMemory,
    bytes: &[u8],
    kernel_end: u64,
) -> Result<(u64, u64), LoadError> {
    let len = bytes.len() as u64;
    let address = memory.low_end().saturating_sub(len) & !0xfff;
    if address < kernel_end {
        let source = MemoryError::Range {
            address: kernel_end,
            len,
        };
        let ram = memory.size();
        return Err(LoadError::NoRoom {
            what: "the initramfs",
            address,
            len,
            ram,
            source,
        });
    }
    place(memory, "the initramfs", address, bytes)?;
    Ok((address, len))
}
