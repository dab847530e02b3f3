//! Frames that arrived and wait for a buffer of the guest: first in, first out, bounded.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::saved::{RestoreError, check};

use super::payload::Payload;

/// Frames that wait at most.
pub const BACKLOG_FRAMES: usize = 256;
/// Bytes that wait at most.
pub const BACKLOG_BYTES: usize = 1024 * 1024;

/// Frames for which there is still a place when [`Backlog::room`] says that there is room: so many
/// may be on their way at once.
pub const BACKLOG_RESERVE: usize = 32;

/// The waiting frames; its state is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    frames: VecDeque<Payload>,
}

impl Backlog {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of the frames that would be taken now, at most [`BACKLOG_RESERVE`] of them and `limit`
    /// bytes; zero when so many might be too many.
    #[must_use]
    pub fn room(&self, limit: usize) -> usize {
        if self.frames.len() + BACKLOG_RESERVE > BACKLOG_FRAMES {
            return 0;
        }
        limit.min(BACKLOG_BYTES - self.bytes())
    }

    /// Appends a frame. Whether there was room.
    #[must_use]
    pub fn push(&mut self, frame: Payload) -> bool {
        let bytes_left = BACKLOG_BYTES - self.bytes();
        let taken = self.frames.len() < BACKLOG_FRAMES && frame.len() <= bytes_left;
        if taken {
            self.frames.push_back(frame);
        }
        taken
    }

    /// The frame that is next.
    #[must_use]
    pub fn first(&self) -> Option<&Payload> {
        self.frames.front()
    }

    /// The waiting frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = &Payload> {
        self.frames.iter()
    }

    /// Puts what is left of the frame that was next in its place.
    pub fn replace_first(&mut self, rest: Payload) {
        if let Some(first) = self.frames.front_mut() {
            *first = rest;
        }
    }

    /// Forgets the frame that was next.
    pub fn remove_first(&mut self) {
        self.frames.pop_front();
    }

    /// Forgets the frames longer than `limit`; returns how many.
    pub fn remove_longer(&mut self, limit: u64) -> usize {
        let before = self.frames.len();
        self.frames.retain(|frame| frame.len() as u64 <= limit);
        before - self.frames.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.frames.clear();
    }

    /// Checks a decoded state: each frame within `lengths`, all within the bounds.
    ///
    /// # Errors
    /// If it is not so.
    pub fn validate(
        &self,
        kind: &'static str,
        lengths: std::ops::RangeInclusive<usize>,
    ) -> Result<(), RestoreError> {
        let count = self.frames.len();
        check(count <= BACKLOG_FRAMES, kind, "backlog.length", count)?;
        let bytes = self.bytes();
        check(bytes <= BACKLOG_BYTES, kind, "backlog.bytes", bytes)?;
        for frame in &self.frames {
            check(lengths.contains(&frame.len()), kind, "backlog", frame)?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_frames_and_in_bytes() {
        let mut small = Backlog::default();
        for _ in 0..BACKLOG_FRAMES {
            assert!(small.push(Payload::from(vec![1])));
        }
        assert_eq!(small.room(100), 0);
        assert!(!small.push(Payload::from(vec![1])));
        small.remove_first();
        assert!(small.push(Payload::from(vec![1])));

        let mut large = Backlog::default();
        assert!(large.push(Payload::from(vec![1; BACKLOG_BYTES - 10])));
        assert_eq!(large.room(100), 10);
        assert!(!large.push(Payload::from(vec![1; 11])));
        assert!(large.push(Payload::from(vec![2; 10])));
        assert_eq!(large.room(100), 0);
        assert_eq!((large.remove_longer(10), large.remove_longer(10)), (1, 0));
        assert_eq!(large.first(), Some(&Payload::from(vec![2; 10])));
        assert!(large.validate("toy", 1..=10).is_ok());
        assert!(large.validate("toy", 1..=9).is_err());
    }
}
