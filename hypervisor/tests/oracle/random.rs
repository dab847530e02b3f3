//! A small seeded generator (SplitMix64), with the values that make instructions interesting.

/// The generator; equal seeds give equal sequences.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An integer that is often near an edge.
    pub fn integer(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(3).wrapping_sub(1),
            1 => 1 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(self.below(3)),
            3 => self.next() >> self.below(64),
            4 => (self.next() as i64 >> self.below(64)) as u64,
            5 => self.pick(&[
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
                0x7fff,
                0x8000,
                0x80,
                0x7f,
            ]),
            _ => self.next(),
        }
    }

    /// A binary32 value, special ones included.
    pub fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 0x8000_0000;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7f80_0000,
            2 => 0x7fc0_0000 | self.next() as u32 & 0x3f_ffff,
            3 => 0x7f80_0001 | self.next() as u32 & 0x3f_ffff,
            4 => 1 + self.below(0x7f_fffe) as u32,
            5 => 0x7f7f_ffff - self.below(4) as u32,
            6 => 0x80_0000 + self.below(4) as u32,
            7 => 0x3f80_0000,
            8 => (self.below(100_000) as f32).to_bits(),
            _ => 0x3f80_0000 + (self.below(0x1000_0000) as u32) - 0x0800_0000,
        }
    }

    /// A binary64 value, special ones included.
    pub fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7ff0 << 48,
            2 => 0x7ff8 << 48 | self.next() >> 13,
            3 => 0x7ff0 << 48 | 1 | self.next() >> 14,
            4 => 1 + (self.next() >> 13),
            5 => (0x7ff0 << 48) - 1 - self.below(4),
            6 => (1 << 52) + self.below(4),
            7 => 1.0f64.to_bits(),
            8 => (self.below(1 << 34) as f64 / 4.0).to_bits(),
            9 => f64::from(f32::from_bits(self.single() & 0x7fff_ffff)).to_bits(),
            _ => (0x3ff0 << 48) + self.below(1 << 57) - (1 << 56),
        }
    }

    /// An 80-bit value, special and odd ones included.
    pub fn extended(&mut self) -> [u8; 10] {
        let sign = (self.next() as u16) & 0x8000;
        let (exponent, significand): (u16, u64) = match self.below(14) {
            0 => (0, 0),
            1 => (0x7fff, 1 << 63),
            2 => (0x7fff, 3 << 62 | self.next() >> 2),
            3 => (0x7fff, 1 << 63 | 1 | self.next() >> 2),
            4 => (0, self.next() >> 1),
            5 => (self.next() as u16 & 0x7fff, self.next()),
            6 => (0x7ffe, u64::MAX - self.below(4)),
            7 => (1, 1 << 63),
            8 => (0x3fff, 1 << 63),
            9 => (0x3fff + self.below(64) as u16, 1 << 63 | self.next()),
            10 => (0x3fff + self.below(8) as u16, 1 << 63 | self.next() << 48),
            _ => (0x3f80 + self.below(0x100) as u16, 1 << 63 | self.next()),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        bytes
    }

    /// Eight bytes of integers or floating-point numbers.
    pub fn quadword(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from(self.single()) << 32 | u64::from(self.single()),
            1 => self.double(),
            2 => self.next() & 0x8080_8080_8080_8080 | self.integer(),
            _ => self.integer(),
        }
    }
}
