//! SHA-256 over byte slices, as the service chain needs it.
//!
//! Plain integer code on purpose: the guest program runs on CPUs under test, so its result must not
//! depend on optional instructions. Streaming input; no secrets, so no constant-time claim.
//!
//! Spec: FIPS 180-4, sections 4.1.2, 5.1.1, 5.3.3 and 6.2.

/// A finished SHA-256 value.
pub type Digest = [u8; 32];

const BLOCK_SIZE: usize = 64;

/// First 32 bits of the fractional parts of the square roots of the first eight primes.
const INITIAL_STATE: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// First 32 bits of the fractional parts of the cube roots of the first sixty-four primes.
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// A SHA-256 computation that takes its message in pieces.
pub struct Sha256 {
    state: [u32; 8],
    block: [u8; BLOCK_SIZE],
    filled: usize,
    message_bytes: u64,
}

impl Sha256 {
    /// Starts with the empty message.
    pub fn new() -> Self {
        Self {
            state: INITIAL_STATE,
            block: [0; BLOCK_SIZE],
            filled: 0,
            message_bytes: 0,
        }
    }

    /// Appends `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        // The standard counts the length modulo 2^64 bits.
        self.message_bytes = self.message_bytes.wrapping_add(bytes.len() as u64);
        for &byte in bytes {
            self.push(byte);
        }
    }

    /// Pads the message and returns its digest.
    pub fn finish(mut self) -> Digest {
        let message_bits = self.message_bytes.wrapping_mul(8);
        self.push(0x80);
        while self.filled != BLOCK_SIZE - 8 {
            self.push(0);
        }
        for byte in message_bits.to_be_bytes() {
            self.push(byte);
        }
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    fn push(&mut self, byte: u8) {
        self.block[self.filled] = byte;
        self.filled += 1;
        if self.filled == BLOCK_SIZE {
            self.compress();
            self.filled = 0;
        }
    }

    fn compress(&mut self) {
        let schedule = message_schedule(&self.block);
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = self.state;
        for (constant, word) in ROUND_CONSTANTS.into_iter().zip(schedule) {
            let sigma_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choose = (e & f) ^ (!e & g);
            let first = h
                .wrapping_add(sigma_e)
                .wrapping_add(choose)
                .wrapping_add(constant)
                .wrapping_add(word);
            let sigma_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & b) ^ (a & c) ^ (b & c);
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(sigma_a).wrapping_add(majority));
        }
        for (state, add) in self.state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *state = state.wrapping_add(add);
        }
    }
}

fn message_schedule(block: &[u8; BLOCK_SIZE]) -> [u32; 64] {
    let mut words = [0u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for at in 16..64 {
        let near = words[at - 2];
        let far = words[at - 15];
        let sigma_near = near.rotate_right(17) ^ near.rotate_right(19) ^ (near >> 10);
        let sigma_far = far.rotate_right(7) ^ far.rotate_right(18) ^ (far >> 3);
        words[at] = words[at - 16]
            .wrapping_add(sigma_far)
            .wrapping_add(words[at - 7])
            .wrapping_add(sigma_near);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    fn digest_hex(message: &[u8]) -> String {
        let mut sha = Sha256::new();
        sha.update(message);
        hex::encode(&sha.finish())
    }

    #[test]
    fn known_messages_have_their_published_digests() {
        // The empty message, then the one- and two-block examples published with the standard.
        let table: [(&[u8], &str); 3] = [
            (
                b"",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                b"abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
        ];
        for (message, digest) in table {
            assert_eq!(
                digest_hex(message),
                digest,
                "message of {} bytes",
                message.len()
            );
        }
    }

    #[test]
    fn a_million_letters_cross_many_blocks() {
        let expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(digest_hex(&vec![b'a'; 1_000_000]), expected);
    }

    #[test]
    fn how_the_message_is_cut_does_not_matter() {
        let message: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        let whole = digest_hex(&message);
        for cut in [1, 55, 56, 63, 64, 65, 128, 299] {
            let mut sha = Sha256::new();
            sha.update(&message[..cut]);
            sha.update(&message[cut..]);
            assert_eq!(hex::encode(&sha.finish()), whole, "cut at {cut}");
        }
    }
}
