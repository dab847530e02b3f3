//! The hash chain that makes a lost, repeated or reordered request visible.
//!
//! `chain_0` is 32 zero bytes; `chain_n = SHA-256(chain_{n-1} || n as 8 bytes, little-endian ||
//! payload_n)`. A reply therefore commits to every request before it. The last [`HISTORY_LENGTH`]
//! values are kept, so that a client that lost a reply can ask again without moving the chain.
//!
//! Uses the standard library only: a host-side checker can include this file as it is.

use std::collections::VecDeque;

use crate::sha256::{Digest, Sha256};

/// How many answered requests can be asked for again.
pub const HISTORY_LENGTH: usize = 4096;

/// A hash chain and its recent values.
pub struct Chain {
    last: u64,
    head: Digest,
    /// Values for the requests up to and including `last`, oldest first.
    history: VecDeque<Digest>,
}

/// What became of an offered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The request is part of the chain, now or since earlier: its chain value.
    Value(Digest),
    /// Requests are missing before this one; nothing changed.
    Gap {
        /// The number the chain would take next.
        expected: u64,
    },
    /// The request was answered so long ago that its value is no longer kept.
    Forgotten,
}

impl Chain {
    /// A chain that has seen no request.
    pub fn new() -> Self {
        Self {
            last: 0,
            head: [0; 32],
            history: VecDeque::with_capacity(HISTORY_LENGTH),
        }
    }

    /// Number of the last request taken, 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Value of the chain after [`Chain::last`].
    pub fn head(&self) -> Digest {
        self.head
    }

    /// Takes request `number` if it is the next one, or looks it up if it was taken before.
    ///
    /// The payload of a request that was taken before is not looked at: the first one counts.
    pub fn offer(&mut self, number: u64, payload: &[u8]) -> Offered {
        if number <= self.last {
            return self.recall(number);
        }
        // `last < number`, so the next number exists.
        let expected = self.last + 1;
        if number != expected {
            return Offered::Gap { expected };
        }
        self.head = link(&self.head, number, payload);
        self.last = number;
        if self.history.len() == HISTORY_LENGTH {
            self.history.pop_front();
        }
        self.history.push_back(self.head);
        Offered::Value(self.head)
    }

    fn recall(&self, number: u64) -> Offered {
        let age = self.last - number;
        let mut newest_first = self.history.iter().rev();
        let kept = usize::try_from(age)
            .ok()
            .and_then(|age| newest_first.nth(age));
        kept.map_or(Offered::Forgotten, |value| Offered::Value(*value))
    }
}

/// The chain value after `previous` when request `number` carries `payload`.
pub fn link(previous: &Digest, number: u64, payload: &[u8]) -> Digest {
    let mut sha = Sha256::new();
    sha.update(previous);
    sha.update(&number.to_le_bytes());
    sha.update(payload);
    sha.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    fn value(offered: Offered) -> String {
        match offered {
            Offered::Value(digest) => hex::encode(&digest),
            other => panic!("no value: {other:?}"),
        }
    }

    #[test]
    fn first_links_equal_digests_computed_elsewhere() {
        // Computed with Python's hashlib over the concatenation that the module's text defines.
        let mut chain = Chain::new();
        assert_eq!(hex::encode(&chain.head()), "0".repeat(64));
        assert_eq!(
            value(chain.offer(1, b"hello")),
            "20a09b555e4cef60c8a743a6317fe8772e683b5d18a7cc00c874052b7e8d6d19"
        );
        assert_eq!(
            value(chain.offer(2, b"")),
            "f5e426f0a764d10e36af4b06f6d876641f9c10fdbfd2fe0b1d829bd9c13b24e2"
        );
        assert_eq!(chain.last(), 2);
    }

    #[test]
    fn a_repeated_request_gets_its_first_answer_and_leaves_the_chain_alone() {
        let mut chain = Chain::new();
        let first = chain.offer(1, b"one");
        let second = chain.offer(2, b"two");
        let head = chain.head();
        assert_eq!(chain.offer(1, b"one"), first);
        assert_eq!(chain.offer(2, b"another payload"), second);
        assert_eq!((chain.last(), chain.head()), (2, head));
    }

    #[test]
    fn a_gap_names_the_expected_number_and_leaves_the_chain_alone() {
        let mut chain = Chain::new();
        assert_eq!(chain.offer(2, b""), Offered::Gap { expected: 1 });
        chain.offer(1, b"");
        let head = chain.head();
        assert_eq!(chain.offer(u64::MAX, b""), Offered::Gap { expected: 2 });
        assert_eq!((chain.last(), chain.head()), (1, head));
    }

    #[test]
    fn exactly_the_last_values_are_kept() {
        let mut chain = Chain::new();
        let total = HISTORY_LENGTH as u64 + 10;
        let values: Vec<Offered> = (1..=total)
            .map(|n| chain.offer(n, &n.to_be_bytes()))
            .collect();
        assert_eq!(chain.offer(10, b""), Offered::Forgotten);
        assert_eq!(chain.offer(11, b""), values[10]);
        assert_eq!(chain.offer(total, b""), values[values.len() - 1]);
        assert_eq!(chain.offer(1, b""), Offered::Forgotten);
    }

    #[test]
    fn any_change_before_changes_every_value_after() {
        let run = |payloads: [&[u8]; 3]| {
            let mut chain = Chain::new();
            payloads.map(|payload| value(chain.offer(chain.last() + 1, payload)))
        };
        let plain = run([b"a", b"b", b"c"]);
        let changed = run([b"x", b"b", b"c"]);
        let swapped = run([b"b", b"a", b"c"]);
        for at in 0..3 {
            assert_ne!(plain[at], changed[at], "value {at}");
            assert_ne!(plain[at], swapped[at], "value {at}");
        }
    }
}
