//! Where the pages of a machine are among the addresses of a migration.
//!
//! ```text
//!   page       0 ... low | ... high | boot files
//!   address    0 ...     | 4 GiB ...| BOOT_FILES_AT ...
//! ```
//!
//! Memory is where the guest sees it. The boot files, from which a reset starts again, are pages of
//! the machine that no guest can see: they are put where no guest can have memory.

use ft::machine::PAGE_SIZE;
use ft::time::PageNumber;
use hypervisor::{HIGH_START, LOW_LIMIT};

use super::wire::MemoryRange;
use crate::machine::MachineConfig;

/// Address of the first page of the boot files: the first that no processor can have.
pub const BOOT_FILES_AT: u64 = 1 << 52;

const PAGE: u64 = PAGE_SIZE as u64;

/// The pages of a machine but for those of its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    low_pages: u64,
    memory_pages: u64,
    boot_pages: u64,
}

impl Layout {
    /// The pages of a machine that was checked.
    pub fn of(config: &MachineConfig) -> Self {
        Self {
            low_pages: config.memory_size.min(LOW_LIMIT) / PAGE,
            memory_pages: config.memory_size / PAGE,
            boot_pages: config.boot_pages,
        }
    }

    /// How many there are.
    pub const fn page_count(&self) -> u64 {
        self.memory_pages + self.boot_pages
    }

    /// How many of them are memory; they come first.
    pub const fn memory_pages(&self) -> u64 {
        self.memory_pages
    }

    /// First page, address and pages of each stretch, some of which may have none.
    const fn stretches(&self) -> [(u64, u64, u64); 3] {
        [
            (0, 0, self.low_pages),
            (
                self.low_pages,
                HIGH_START,
                self.memory_pages - self.low_pages,
            ),
            (self.memory_pages, BOOT_FILES_AT, self.boot_pages),
        ]
    }

    /// The ranges of addresses that there are, in the order of their pages.
    pub fn regions(&self) -> Vec<MemoryRange> {
        let stretches = self.stretches().into_iter();
        let there = stretches.filter(|(_, _, count)| *count > 0);
        let region = |(_, address, count)| MemoryRange {
            address,
            length: count * PAGE,
        };
        there.map(region).collect()
    }

    /// The address of a page that there is.
    pub const fn address(&self, page: PageNumber) -> u64 {
        if page.0 < self.low_pages {
            page.0 * PAGE
        } else if page.0 < self.memory_pages {
            HIGH_START + (page.0 - self.low_pages) * PAGE
        } else {
            BOOT_FILES_AT + (page.0 - self.memory_pages) * PAGE
        }
    }

    /// The page at an address, and how many bytes its stretch has from there on.
    pub fn find(&self, address: u64) -> Option<(PageNumber, u64)> {
        self.stretches()
            .into_iter()
            .find_map(|(first, start, count)| {
                let offset = address.checked_sub(start)?;
                let left = (count * PAGE)
                    .checked_sub(offset)
                    .filter(|left| *left > 0)?;
                Some((PageNumber(first + offset / PAGE), left))
            })
    }

    /// The ranges of pages that ascend.
    pub fn ranges(&self, pages: &[PageNumber]) -> Vec<MemoryRange> {
        let mut ranges: Vec<MemoryRange> = Vec::new();
        for page in pages {
            let address = self.address(*page);
            match ranges.last_mut() {
                Some(last) if last.address + last.length == address => last.length += PAGE,
                _ => ranges.push(MemoryRange {
                    address,
                    length: PAGE,
                }),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(memory_size: u64, boot_pages: u64) -> Layout {
        Layout::of(&MachineConfig {
            memory_size,
            serial: false,
            start_seconds: 0,
            boot_pages,
            tsc_khz: 1_000_000,
            virtio: Vec::new(),
        })
    }

    #[test]
    fn every_page_has_its_address_and_is_found_there() {
        let layout = layout(LOW_LIMIT + 3 * PAGE, 2);
        let low = LOW_LIMIT / PAGE;
        for (page, address) in [
            (0, 0),
            (low - 1, LOW_LIMIT - PAGE),
            (low, HIGH_START),
            (low + 2, HIGH_START + 2 * PAGE),
            (low + 3, BOOT_FILES_AT),
            (low + 4, BOOT_FILES_AT + PAGE),
        ] {
            assert_eq!(layout.address(PageNumber(page)), address);
            let found = layout.find(address + 7).unwrap();
            assert_eq!(found.0, PageNumber(page), "{address:#x}");
        }
        for address in [
            LOW_LIMIT,
            HIGH_START - 1,
            HIGH_START + 3 * PAGE,
            BOOT_FILES_AT - 1,
            BOOT_FILES_AT + 2 * PAGE,
            u64::MAX,
        ] {
            assert_eq!(layout.find(address), None, "{address:#x}");
        }
        assert_eq!(
            layout.find(HIGH_START + 1),
            Some((PageNumber(low), 3 * PAGE - 1))
        );
    }

    #[test]
    fn pages_beside_each_other_are_one_range_if_their_addresses_are() {
        let layout = layout(LOW_LIMIT + PAGE, 1);
        let low = LOW_LIMIT / PAGE;
        let pages = [0, 1, 3, low - 1, low, low + 1].map(PageNumber);
        let range = |address, count: u64| MemoryRange {
            address,
            length: count * PAGE,
        };
        assert_eq!(
            layout.ranges(&pages),
            [
                range(0, 2),
                range(3 * PAGE, 1),
                range(LOW_LIMIT - PAGE, 1),
                range(HIGH_START, 1),
                range(BOOT_FILES_AT, 1),
            ]
        );
        assert_eq!(layout.regions().len(), 3);
        assert_eq!(super::tests::layout(PAGE, 0).regions().len(), 1);
    }
}
