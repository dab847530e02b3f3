//! The guest's boot files as further pages of the machine, behind its memory.
//!
//! A reset boots again from the same bytes, whatever became of the files, on whichever host: so
//! the files are part of the machine's state. As pages they travel with a live clone and with a
//! recording, and are covered by digests, like memory; the guest cannot see them.
//!
//! ```text
//! page 0 ... memory ... | length (u64) | postcard(Payload) | zeroes to the page's end
//! ```

use ft::machine::{PAGE_SIZE, Page, ZERO_PAGE};

use crate::loader::Payload;

const LENGTH_BYTES: usize = 8;
/// Most pages of boot files, 1 GiB.
pub const MOST_PAGES: u64 = 1 << 18;

/// The pages of the boot files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootImage {
    pages: Vec<Page>,
}

impl BootImage {
    /// The pages that hold `payload`.
    pub fn of(payload: &Payload) -> Self {
        let body = postcard::to_allocvec(payload)
            .expect("a payload has no unsized sequences, and memory is the writer");
        let mut bytes = (body.len() as u64).to_le_bytes().to_vec();
        bytes.extend(body);
        let pages = bytes.chunks(PAGE_SIZE).map(|chunk| {
            let mut page = ZERO_PAGE;
            page[..chunk.len()].copy_from_slice(chunk);
            page
        });
        Self {
            pages: pages.collect(),
        }
    }

    /// `count` pages of zeroes, to be filled from elsewhere.
    pub fn blank(count: u64) -> Self {
        Self {
            pages: vec![ZERO_PAGE; count as usize],
        }
    }

    /// How many pages there are.
    pub fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// One page.
    pub fn page(&self, index: u64) -> &Page {
        &self.pages[index as usize]
    }

    /// One page, to be replaced.
    pub fn page_mut(&mut self, index: u64) -> &mut Page {
        &mut self.pages[index as usize]
    }

    /// The payload, or `None` when the pages do not hold one.
    pub fn payload(&self) -> Option<Payload> {
        let bytes = self.pages.concat();
        let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
        let body = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        postcard::from_bytes(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_survives_its_pages() {
        let payload = Payload {
            kernel_path: "/boot/vmlinuz".into(),
            kernel: (0..10_000u32).map(|n| n as u8).collect(),
            initramfs: Some(vec![7; 5000]),
            cmdline: "console=ttyS0".to_owned(),
        };
        let image = BootImage::of(&payload);
        let mut copy = BootImage::blank(image.page_count());
        for index in 0..image.page_count() {
            copy.page_mut(index).copy_from_slice(image.page(index));
        }
        assert_eq!(copy.payload(), Some(payload));
        assert_eq!(BootImage::blank(3).payload(), None);
        assert_eq!(BootImage::blank(0).payload(), None);
    }
}
