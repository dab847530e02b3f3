//! A VM from a snapshot.
//!
//! Everything is checked before a machine is made of it: whether the files are there and whole,
//! whether this program can make such a machine, whether the disks are those that it had.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use api_client::types::VmConfig;
use ft::machine::{PAGE_SIZE, Page};
use ft::time::PageNumber;

use super::contents::{Contents, ContentsError};
use super::description::{Description, DescriptionError, MemoryData};
use super::receiver::{Destination, Failure};
use super::snapshot::{CONFIG_FILE, DiskFacts, Facts, MEMORY_FILE, PageLedger, STATE_FILE};
use super::state::{self, StateError};
use super::wire::{MOST_CONFIG, MOST_STATE};
use crate::config::memory_kind;

/// Pages read at once.
const PIECE_PAGES: usize = 256;

/// Why there is no VM from a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file is not there, or cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A file that has more bytes than it can have.
    #[error("{path} has more than {most} bytes", path = .path.display())]
    Large {
        /// The file.
        path: PathBuf,
        /// Most bytes.
        most: u64,
    },
    /// The configuration does not read.
    #[error("{path} is malformed", path = .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The state cannot be used.
    #[error("the state cannot be used")]
    State(#[from] StateError),
    /// What is described cannot be had.
    #[error("the VM cannot be had here")]
    Description(#[from] DescriptionError),
    /// The pages are not as many as the machine has.
    #[error("{path} has {found} bytes, the machine has {expected}", path = .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes of the machine.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The runs of pages are none of the machine.
    #[error("the state names pages that the machine does not have, or not in their order")]
    Runs,
    /// The pages are not what was written.
    #[error("{path} is damaged: its checksum is another", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There is no memory to be had.
    #[error("the machine's memory cannot be had")]
    Contents(#[from] ContentsError),
    /// The machine cannot be made, or go on.
    #[error("the VM cannot be had here")]
    Machine(#[source] Failure),
}

/// Makes the machine of the snapshot in `folder`, and lets it go on if it is `resumed`.
///
/// # Errors
/// When the snapshot cannot be used; there is no VM then.
pub fn restore(
    folder: &Path,
    destination: &mut dyn Destination,
    resumed: bool,
) -> Result<(), RestoreError> {
    let path = folder.join(CONFIG_FILE);
    let config = read(&path, MOST_CONFIG)?;
    let vm_config: VmConfig =
        serde_json::from_slice(&config).map_err(|source| RestoreError::Config { path, source })?;
    let (sections, facts) = state::read::<Facts>(&read(&folder.join(STATE_FILE), MOST_STATE)?)?;
    let described = Description {
        vm_config,
        common_cpuid: facts.common_cpuid.clone(),
        memory_manager_data: MemoryData::default(),
        format_version: facts.format_version,
        machine: facts.machine.clone(),
    };
    let (machine, vm) = described.accept()?;
    let memory = memory_kind(&vm);
    destination
        .check(&machine, vm)
        .map_err(RestoreError::Machine)?;
    warn_of_disks(&facts.disks);
    let contents = Contents::new(&machine, memory)?;
    read_pages(&folder.join(MEMORY_FILE), &facts, &contents)?;
    let made = destination.make(&contents, &sections);
    made.map_err(RestoreError::Machine)?;
    destination.go_on(!resumed).map_err(RestoreError::Machine)
}

fn open(path: &Path) -> Result<File, RestoreError> {
    File::open(path).map_err(|source| RestoreError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, RestoreError> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    let taken = file.take(most + 1).read_to_end(&mut bytes);
    let path = path.to_owned();
    match taken {
        Err(source) => Err(RestoreError::Read { path, source }),
        Ok(count) if count as u64 > most => Err(RestoreError::Large { path, most }),
        Ok(_) => Ok(bytes),
    }
}

fn read_pages(path: &Path, facts: &Facts, contents: &Contents) -> Result<(), RestoreError> {
    let file = open(path)?;
    let failed = |source| RestoreError::Read {
        path: path.to_owned(),
        source,
    };
    let layout = *contents.layout();
    let expected = layout.page_count() * PAGE_SIZE as u64;
    let found = file.metadata().map_err(failed)?.len();
    if found != expected {
        let path = path.to_owned();
        return Err(RestoreError::Length {
            path,
            expected,
            found,
        });
    }
    let mut ledger = PageLedger::default();
    let mut buffer = vec![0; PIECE_PAGES * PAGE_SIZE];
    let mut next = 0;
    for &(first, count) in &facts.memory.runs {
        let end = first.checked_add(count).filter(|_| first >= next);
        let end = end.filter(|end| *end <= layout.page_count());
        let end = end.ok_or(RestoreError::Runs)?;
        for start in (first..end).step_by(PIECE_PAGES) {
            let pages = (end - start).min(PIECE_PAGES as u64) as usize;
            let piece = &mut buffer[..pages * PAGE_SIZE];
            let offset = start * PAGE_SIZE as u64;
            file.read_exact_at(piece, offset).map_err(failed)?;
            let bytes: &[Page] = piece.as_chunks().0;
            for (page, bytes) in (start..).zip(bytes) {
                let page = PageNumber(page);
                ledger.add(page, bytes);
                contents.write(layout.address(page), bytes)?;
            }
        }
        next = end;
    }
    if ledger.finish().checksum != facts.memory.checksum {
        let path = path.to_owned();
        return Err(RestoreError::Damaged { path });
    }
    Ok(())
}

/// When a file was last written, in nanoseconds since 1970.
pub fn modified_ns(path: &Path) -> Option<u64> {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    let since = modified.ok()?.duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.ok()?.as_nanos()).ok()
}

/// A disk that was written since has other contents than the guest remembers. It may be a copy, so
/// that is no error.
fn warn_of_disks(disks: &[DiskFacts]) {
    for disk in disks {
        let now = modified_ns(&disk.path);
        if now.is_some() && now != disk.modified_ns {
            log::warn!(
                "disk {}: {} was written after the snapshot; the guest may find other contents \
                 than it remembers",
                disk.id,
                disk.path.display()
            );
        }
    }
}
