//! A request as its buffers: a readable part, then a writable part, each in pieces.

use serde::{Deserialize, Serialize};

use crate::dma::{GuestRam, RamError};

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// First address.
    pub gpa: u64,
    /// Length in bytes, not zero.
    pub len: u32,
}

/// The buffers of one request, as the driver described them when it was taken.
///
/// Every segment was memory then. Segments may overlap: they are written in order, so the last
/// write to a byte counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// First descriptor, which names the request in the used ring.
    pub head: u16,
    /// What the device may read, in order.
    pub readable: Vec<Segment>,
    /// What the device may write, in order.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// Bytes that the device may read.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        length(&self.readable)
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        length(&self.writable)
    }

    /// Copies from the readable part at `offset`; `Ok(false)` if it ends too early.
    ///
    /// # Errors
    /// If the buffers are not memory.
    pub fn read(&self, ram: &dyn GuestRam, offset: u64, into: &mut [u8]) -> Result<bool, RamError> {
        if !fits(self.readable_len(), offset, into.len()) {
            return Ok(false);
        }
        let mut done = 0;
        for (gpa, len) in pieces(&self.readable, offset, into.len()) {
            ram.read(gpa, &mut into[done..done + len])?;
            done += len;
        }
        Ok(true)
    }

    /// Copies to the writable part at `offset`; `Ok(false)`, and nothing written, if it ends too
    /// early.
    ///
    /// # Errors
    /// If the buffers are not memory.
    pub fn write(
        &self,
        ram: &mut dyn GuestRam,
        offset: u64,
        from: &[u8],
    ) -> Result<bool, RamError> {
        if !fits(self.writable_len(), offset, from.len()) {
            return Ok(false);
        }
        let mut done = 0;
        for (gpa, len) in pieces(&self.writable, offset, from.len()) {
            ram.write(gpa, &from[done..done + len])?;
            done += len;
        }
        Ok(true)
    }

    /// The readable part from `offset` on, if it is at most `limit` bytes; nothing if it ends
    /// before.
    ///
    /// # Errors
    /// If the buffers are not memory.
    pub fn read_from(
        &self,
        ram: &dyn GuestRam,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, RamError> {
        let len = self.readable_len().saturating_sub(offset);
        if len > limit as u64 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(len as usize);
        for (gpa, len) in pieces(&self.readable, offset, len as usize) {
            ram.append(gpa, len, &mut bytes)?;
        }
        Ok(Some(bytes))
    }
}

fn length(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

const fn fits(have: u64, offset: u64, len: usize) -> bool {
    match offset.checked_add(len as u64) {
        Some(end) => end <= have,
        None => false,
    }
}

/// The pieces of memory behind `len` bytes from `offset`.
fn pieces(segments: &[Segment], offset: u64, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let (mut skip, mut left) = (offset, len as u64);
    segments.iter().filter_map(move |segment| {
        let size = u64::from(segment.len);
        if skip >= size {
            skip -= size;
            return None;
        }
        let piece = (size - skip).min(left);
        let at = segment.gpa.wrapping_add(skip);
        skip = 0;
        left -= piece;
        (piece > 0).then_some((at, piece as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::VecRam;

    #[test]
    fn copies_cross_segments_and_stop_at_the_end() {
        let segment = |gpa, len| Segment { gpa, len };
        let mut ram = VecRam::new(0, 64);
        let chain = Chain {
            head: 0,
            readable: vec![segment(0, 3), segment(10, 5)],
            writable: vec![segment(20, 2), segment(30, 4)],
        };
        ram.write(0, &[1, 2, 3]).unwrap();
        ram.write(10, &[4, 5, 6, 7, 8]).unwrap();
        assert_eq!((chain.readable_len(), chain.writable_len()), (8, 6));
        let mut four = [0; 4];
        assert!(chain.read(&ram, 2, &mut four).unwrap());
        assert_eq!(four, [3, 4, 5, 6]);
        assert!(!chain.read(&ram, 5, &mut four).unwrap());
        assert!(!chain.read(&ram, u64::MAX, &mut four).unwrap());
        assert_eq!(
            chain.read_from(&ram, 0, 8).unwrap(),
            Some(vec![1, 2, 3, 4, 5, 6, 7, 8])
        );
        assert_eq!(chain.read_from(&ram, 0, 7).unwrap(), None);
        let from = |offset| chain.read_from(&ram, offset, 7).unwrap();
        assert_eq!(from(2), Some(vec![3, 4, 5, 6, 7, 8]));
        assert_eq!(from(4), Some(vec![5, 6, 7, 8]));
        assert_eq!(from(9), Some(vec![]));
        assert!(chain.write(&mut ram, 1, &[9, 9, 9]).unwrap());
        assert_eq!(
            (&ram.bytes()[20..22], &ram.bytes()[30..34]),
            (&[0, 9][..], &[9, 9, 0, 0][..])
        );
        let before = ram.clone();
        assert!(!chain.write(&mut ram, 3, &[1; 4]).unwrap());
        assert_eq!(ram, before);
    }

    #[test]
    fn where_segments_overlap_the_last_write_counts() {
        let segment = |gpa, len| Segment { gpa, len };
        let mut ram = VecRam::new(0, 8);
        let chain = Chain {
            head: 0,
            readable: Vec::new(),
            writable: vec![segment(2, 4), segment(0, 4)],
        };
        assert!(chain.write(&mut ram, 0, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap());
        assert_eq!(ram.bytes(), [5, 6, 7, 8, 3, 4, 0, 0]);
    }
}
