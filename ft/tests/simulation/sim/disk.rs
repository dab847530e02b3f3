//! The toy machine's disk: pages behind its memory, and requests that complete by inputs.
//!
//! Whoever is live has the requests done by its host before their completions are inputs; at a
//! completion, whoever has not done the request does it. Until then nobody knows what a page that is
//! being written holds, so that it is digested as undecided. No two requests are under way for one
//! page.

use std::collections::BTreeMap;

use ft::codec::{CodecError, FieldReader, FieldWriter};
use ft::event::DeviceId;
use ft::machine::PAGE_SIZE;

use super::random::mix;

/// The disk.
pub const DISK: DeviceId = DeviceId(8);
/// Pages of the disk.
pub const DISK_PAGES: u64 = 6;
/// Digest of a page that is being written.
pub const UNDECIDED: u64 = 0x756e_6465_6369_6465;
/// Words in a page.
const WORDS: usize = PAGE_SIZE / 8;
/// Most requests under way.
const MOST_UNDER_WAY: usize = 4;

/// A request of the guest: to write a word, or to read one if the value is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    id: u64,
    word: u64,
    value: u64,
}

impl Request {
    fn page(&self) -> u64 {
        self.word / WORDS as u64
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A page of the disk was written.
    Written(u64),
    /// This was read.
    Read(u64),
}

/// A disk whose contents are a part of the machine.
#[derive(Clone, Debug)]
pub struct ToyDisk {
    words: Vec<u64>,
    next_id: u64,
    under_way: Vec<Request>,
    /// What the host has done already, and read.
    kept: BTreeMap<u64, u64>,
}

impl ToyDisk {
    /// A disk as it comes from the shop, half of it empty.
    pub fn new() -> Self {
        let words = DISK_PAGES * WORDS as u64;
        Self {
            words: (0..words)
                .map(|word| mix(word * 2 / words) * (word * 2 / words))
                .collect(),
            next_id: 1,
            under_way: Vec::new(),
            kept: BTreeMap::new(),
        }
    }

    /// The guest makes a request, to write `data` or to read, if the disk takes it.
    pub fn request(&mut self, random: u64, data: u64) {
        let word = (random >> 8) % self.words.len() as u64;
        let value = if random.is_multiple_of(3) {
            0
        } else {
            data | 1
        };
        let id = self.next_id;
        let fresh = Request { id, word, value };
        let mut others = self.under_way.iter();
        let taken = others.any(|request| request.page() == fresh.page());
        if !taken && self.under_way.len() < MOST_UNDER_WAY {
            self.under_way.push(fresh);
            self.next_id += 1;
        }
    }

    /// The requests that are under way.
    pub fn under_way(&self) -> impl Iterator<Item = u64> {
        self.under_way.iter().map(|request| request.id)
    }

    /// The host does a request whose completion is not an input yet.
    pub fn execute(&mut self, id: u64) {
        if let Some(request) = self.under_way.iter().find(|request| request.id == id) {
            let read = execute(&mut self.words, *request);
            self.kept.insert(id, read);
        }
    }

    /// What the host has done is no longer this machine's.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// A request is complete; none if there is no such request.
    pub fn complete(&mut self, id: u64) -> Option<Done> {
        let place = self.under_way.iter().position(|request| request.id == id)?;
        let request = self.under_way.remove(place);
        let kept = self.kept.remove(&id);
        let read = kept.unwrap_or_else(|| execute(&mut self.words, request));
        Some(match request.value {
            0 => Done::Read(read),
            _ => Done::Written(request.page()),
        })
    }

    /// Whether a page is being written.
    pub fn is_undecided(&self, page: u64) -> bool {
        let mut requests = self.under_way.iter();
        requests.any(|request| request.value != 0 && request.page() == page)
    }

    /// The words of a page.
    pub fn page(&self, page: u64) -> &[u64] {
        &self.words[page as usize * WORDS..][..WORDS]
    }

    /// The words of a page, to be set.
    pub fn page_mut(&mut self, page: u64) -> &mut [u64] {
        &mut self.words[page as usize * WORDS..][..WORDS]
    }

    /// Everything but the pages.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = FieldWriter::new();
        writer.u64(self.next_id);
        for Request { id, word, value } in &self.under_way {
            for field in [id, word, value] {
                writer.u64(*field);
            }
        }
        writer.finish()
    }

    /// Sets everything but the pages.
    ///
    /// # Errors
    /// If the bytes are no disk's.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let mut reader = FieldReader::new(bytes);
        self.kept.clear();
        self.under_way.clear();
        self.next_id = reader.u64("next request")?;
        while reader.remaining() > 0 {
            self.under_way.push(Request {
                id: reader.u64("request")?,
                word: reader.u64("word")?,
                value: reader.u64("value")?,
            });
        }
        Ok(())
    }
}

/// Does a request; the word before.
fn execute(words: &mut [u64], request: Request) -> u64 {
    let word = &mut words[request.word as usize];
    let before = *word;
    if request.value != 0 {
        *word = request.value;
    }
    before
}
