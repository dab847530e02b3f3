//! A snapshot: a paused VM in a folder.
//!
//! ```text
//!   config.json      the VM as its operator described it
//!   state.json       the tree of [`super::state`]; its root says what the machine consists of,
//!                    what its disks are, and which pages there are
//!   memory-ranges    memory, then the boot files, page behind page; holes where there are zeroes
//! ```
//!
//! The files are made, never replaced, for their owner alone, and durable when the call returns. A
//! snapshot that fails leaves none. Disks are not in it: whoever takes one copies their images
//! before the VM is resumed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api_client::types::VmConfig;
use ft::digest::{of_page, of_section};
use ft::machine::{PAGE_SIZE, Page, Section, ZERO_PAGE};
use ft::time::PageNumber;
use serde::{Deserialize, Serialize};

use super::description::Description;
use super::layout::Layout;
use super::processor::CpuidEntry;
use super::sender::Source;
use super::state::{self, StateError};
use crate::machine::MachineConfig;
use crate::vm::VmError;
use crate::vm::departure::{MOST_PAGES_READ, Outline};

/// The VM as its operator described it.
pub const CONFIG_FILE: &str = "config.json";
/// All state but pages.
pub const STATE_FILE: &str = "state.json";
/// The pages.
pub const MEMORY_FILE: &str = "memory-ranges";

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not the address of a folder.
    #[error("{0:?} is not file:// and the absolute path of a folder")]
    Address(String),
    /// A file is there already, or cannot be made.
    #[error("cannot make {path}", path = .path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The machine does not go along.
    #[error("the machine cannot be saved")]
    Machine(#[from] VmError),
    /// The state cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The configuration cannot be written.
    #[error("the configuration cannot be written")]
    Config(#[from] serde_json::Error),
}

/// What a snapshot says of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// The device's name.
    pub id: String,
    /// Bytes that the guest knows.
    pub bytes: u64,
    /// Where its image was.
    pub path: PathBuf,
    /// When that was last written, in nanoseconds since 1970, if the host tells.
    pub modified_ns: Option<u64>,
}

/// What the root of a snapshot's state says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the description.
    pub format_version: Option<u32>,
    /// What the machine consists of.
    pub machine: Option<MachineConfig>,
    /// What its CPUID tells.
    pub common_cpuid: Vec<CpuidEntry>,
    /// The backend that ran it.
    pub hypervisor: String,
    /// Its disks.
    pub disks: Vec<DiskFacts>,
    /// Its pages.
    pub memory: PageFacts,
}

/// Which pages a snapshot has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFacts {
    /// First page and count of each run of pages that are not zeroes, ascending.
    pub runs: Vec<(u64, u64)>,
    /// Over all of them.
    pub checksum: String,
}

/// Collects the facts of pages that come in their order.
#[derive(Debug, Default)]
pub struct PageLedger {
    runs: Vec<(u64, u64)>,
    digests: Vec<u8>,
}

impl PageLedger {
    /// Takes down a page.
    pub fn add(&mut self, page: PageNumber, bytes: &Page) {
        match self.runs.last_mut() {
            Some((first, count)) if *first + *count == page.0 => *count += 1,
            _ => self.runs.push((page.0, 1)),
        }
        self.digests.extend(page.0.to_le_bytes());
        self.digests.extend(of_page(bytes).to_le_bytes());
    }

    /// The facts.
    pub fn finish(self) -> PageFacts {
        let all = Section {
            name: MEMORY_FILE.to_owned(),
            version: 1,
            bytes: self.digests,
        };
        PageFacts {
            runs: self.runs,
            checksum: format!("{:016x}", of_section(&all)),
        }
    }
}

/// The folder that a `file://` address names.
///
/// # Errors
/// When it names none.
pub fn folder(url: &str) -> Result<PathBuf, SnapshotError> {
    let path = url.strip_prefix("file://").map(PathBuf::from);
    let path = path.filter(|path| path.is_absolute());
    path.ok_or_else(|| SnapshotError::Address(url.to_owned()))
}

/// The files of a snapshot that is being taken; those that were made go if it fails.
struct Files<'a> {
    folder: &'a Path,
    made: Vec<PathBuf>,
    keep: bool,
}

impl Files<'_> {
    fn create(&mut self, name: &str) -> Result<(File, PathBuf), SnapshotError> {
        let path = self.folder.join(name);
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = made.map_err(|source| SnapshotError::Create {
            path: path.clone(),
            source,
        })?;
        self.made.push(path.clone());
        Ok((file, path))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (mut file, path) = self.create(name)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|source| SnapshotError::Write { path, source })
    }

    /// The folder's entries are durable, too.
    fn finish(mut self) -> Result<(), SnapshotError> {
        let synced = File::open(self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| SnapshotError::Write {
            path: self.folder.to_owned(),
            source,
        })?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        let made = if self.keep { &[] } else { self.made.as_slice() };
        for path in made {
            if let Err(error) = std::fs::remove_file(path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// Takes a snapshot of a paused machine, a copy of which was begun. `disks` tells of its disks.
///
/// # Errors
/// When it cannot be taken; nothing is left of it then.
pub fn take(
    (source, outline): (&dyn Source, Outline),
    vm: VmConfig,
    disks: impl FnOnce(&MachineConfig) -> Vec<DiskFacts>,
    folder: &Path,
) -> Result<(), SnapshotError> {
    let mut files = Files {
        folder,
        made: Vec::new(),
        keep: false,
    };
    let layout = Layout::of(&outline.config);
    let memory = write_pages(&mut files, source, &layout, &outline.pages)?;
    let sections = source.save()?;
    let disks = disks(&outline.config);
    let described = Description::new(vm, outline.config);
    let facts = Facts {
        format_version: described.format_version,
        machine: described.machine,
        common_cpuid: described.common_cpuid,
        hypervisor: outline.hypervisor.to_owned(),
        disks,
        memory,
    };
    let config = serde_json::to_vec_pretty(&described.vm_config)?;
    files.write(CONFIG_FILE, &config)?;
    files.write(STATE_FILE, &state::write(&sections, &facts)?)?;
    files.finish()
}

fn write_pages(
    files: &mut Files<'_>,
    source: &dyn Source,
    layout: &Layout,
    pages: &[PageNumber],
) -> Result<PageFacts, SnapshotError> {
    let (file, path) = files.create(MEMORY_FILE)?;
    let failed = |source| SnapshotError::Write {
        path: path.clone(),
        source,
    };
    let offset = |page: PageNumber| page.0 * PAGE_SIZE as u64;
    file.set_len(layout.page_count() * PAGE_SIZE as u64)
        .map_err(failed)?;
    let mut ledger = PageLedger::default();
    for batch in pages.chunks(MOST_PAGES_READ) {
        let data = source.read(batch.to_vec()).recv();
        let data = data.map_err(|_| VmError::Gone)??;
        let contents: &[Page] = data.as_chunks().0;
        let mut filled: Vec<(PageNumber, usize)> = Vec::new();
        for (index, page) in batch.iter().enumerate() {
            if contents[index] != ZERO_PAGE {
                ledger.add(*page, &contents[index]);
                filled.push((*page, index));
            }
        }
        for run in filled.chunk_by(|one, next| one.0.0 + 1 == next.0.0) {
            let (first, start) = run[0];
            let bytes = &data[start * PAGE_SIZE..(start + run.len()) * PAGE_SIZE];
            file.write_all_at(bytes, offset(first)).map_err(failed)?;
        }
    }
    file.sync_all().map_err(failed)?;
    Ok(ledger.finish())
}
