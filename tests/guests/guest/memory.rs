//! Dirties memory with a pattern and reads it back.
//!
//! Each pass writes every 8-byte word with a value made of the word's index and the pass, then
//! reads all of them and compares. A page that a clone, a checkpoint or a repair lost shows up as a
//! word of an earlier pass, named by its page.

use std::fmt;
use std::hint::black_box;

const WORDS_PER_MIB: usize = (1 << 20) / 8;
const WORDS_PER_PAGE: usize = 4096 / 8;

/// Why a run of the pattern failed.
#[derive(Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The guest does not have that much memory to give.
    NoMemory {
        /// What was asked for.
        mib: usize,
    },
    /// A word was not what was written there.
    Mismatch {
        /// The pass, from 1.
        pass: u64,
        /// The 4 KiB page, counted from the start of the area.
        page: usize,
        /// The word in the page.
        word: usize,
        /// What was written.
        expected: u64,
        /// What was read.
        found: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory { mib } => write!(f, "cannot allocate {mib} MiB"),
            Self::Mismatch {
                pass,
                page,
                word,
                expected,
                found,
            } => write!(
                f,
                "pass {pass} page {page} word {word}: expected {expected:016x}, found {found:016x}"
            ),
        }
    }
}

impl std::error::Error for MemoryError {}

/// An area of memory under test.
pub struct Area {
    words: Vec<u64>,
}

impl Area {
    /// An area of `mib` MiB, not yet touched by a pass.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoMemory`] if the system refuses the allocation.
    pub fn new(mib: usize) -> Result<Self, MemoryError> {
        let refused = MemoryError::NoMemory { mib };
        let Some(count) = mib.checked_mul(WORDS_PER_MIB) else {
            return Err(refused);
        };
        let mut words = Vec::new();
        if words.try_reserve_exact(count).is_err() {
            return Err(refused);
        }
        words.resize(count, 0);
        Ok(Self { words })
    }

    /// Writes and verifies one pass; returns a digest of what was read.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Mismatch`] for the first word that differs.
    pub fn pass(&mut self, pass: u64) -> Result<u64, MemoryError> {
        self.fill(pass);
        // The compiler must not carry written values over to the comparison in registers.
        black_box(&mut self.words);
        self.verify(pass)
    }

    fn fill(&mut self, pass: u64) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word = pattern(index as u64, pass);
        }
    }

    fn verify(&self, pass: u64) -> Result<u64, MemoryError> {
        let mut digest = 0u64;
        for (index, &found) in self.words.iter().enumerate() {
            let expected = pattern(index as u64, pass);
            if found != expected {
                let (page, word) = (index / WORDS_PER_PAGE, index % WORDS_PER_PAGE);
                return Err(MemoryError::Mismatch {
                    pass,
                    page,
                    word,
                    expected,
                    found,
                });
            }
            digest = digest.rotate_left(5) ^ found;
        }
        Ok(digest)
    }
}

/// A value in which each bit depends on the index and the pass: two multiply-and-fold rounds.
fn pattern(index: u64, pass: u64) -> u64 {
    let seed = index ^ pass.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let folded = (seed ^ (seed >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (folded ^ (folded >> 29)).wrapping_mul(0xa076_1d64_78bd_642f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_verify_and_differ_from_each_other() {
        let mut area = Area::new(1).unwrap();
        let first = area.pass(1).unwrap();
        let second = area.pass(2).unwrap();
        assert_ne!(first, second);
        assert_eq!(area.pass(1), Ok(first));
    }

    #[test]
    fn a_flipped_bit_is_found_and_named() {
        let mut area = Area::new(1).unwrap();
        area.fill(7);
        let index = 3 * WORDS_PER_PAGE + 5;
        area.words[index] ^= 1 << 40;
        let expected = pattern(index as u64, 7);
        let found = expected ^ (1 << 40);
        let mismatch = MemoryError::Mismatch {
            pass: 7,
            page: 3,
            word: 5,
            expected,
            found,
        };
        assert_eq!(area.verify(7), Err(mismatch));
    }

    #[test]
    fn a_page_left_from_the_pass_before_is_found() {
        let mut area = Area::new(1).unwrap();
        area.fill(1);
        let stale: Vec<u64> = area.words[..WORDS_PER_PAGE].to_vec();
        area.fill(2);
        area.words[..WORDS_PER_PAGE].copy_from_slice(&stale);
        let error = area.verify(2).unwrap_err();
        assert!(
            matches!(
                error,
                MemoryError::Mismatch {
                    page: 0,
                    word: 0,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn an_impossible_size_is_refused() {
        for mib in [usize::MAX, 1 << 43] {
            assert_eq!(Area::new(mib).err(), Some(MemoryError::NoMemory { mib }));
        }
    }
}
