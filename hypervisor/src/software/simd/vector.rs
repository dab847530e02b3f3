//! The two register widths of the SIMD instructions, as values: `u64` (MMX) and `u128` (XMM).
//!
//! Lane 0 is the least significant one, as in the manuals. Every operation is a plain loop over
//! an array of lanes taken from the little-endian bytes; byte lanes, where that is slow, go through
//! [`super::swar`] by quadwords. One generic function serves the MMX and the SSE form of an
//! instruction.

use super::swar;

/// A vector register value seen as lanes of 8, 16, 32 or 64 bits.
pub trait Vector: Copy {
    /// Applies `f` to each pair of bytes.
    fn zip8(self, other: Self, f: impl Fn(u8, u8) -> u8) -> Self;
    /// Applies `f` to each pair of 16-bit lanes.
    fn zip16(self, other: Self, f: impl Fn(u16, u16) -> u16) -> Self;
    /// Applies `f` to each pair of 32-bit lanes.
    fn zip32(self, other: Self, f: impl Fn(u32, u32) -> u32) -> Self;
    /// Applies `f` to each pair of 64-bit lanes.
    fn zip64(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self;
    /// For each 16-bit lane, applies `f` to its two bytes in both operands: `(a0, a1, b0, b1)`.
    fn pairs8(self, other: Self, f: impl Fn(u8, u8, u8, u8) -> u16) -> Self;
    /// For each 32-bit lane, applies `f` to its two words in both operands: `(a0, a1, b0, b1)`.
    fn pairs16(self, other: Self, f: impl Fn(u16, u16, u16, u16) -> u32) -> Self;
    /// Narrows the words of `self`, then those of `other`, to bytes.
    fn narrow16(self, other: Self, f: impl Fn(u16) -> u8) -> Self;
    /// Saturates the signed words of `self`, then those of `other`, to unsigned bytes.
    fn narrow16_unsigned(self, other: Self) -> Self;
    /// Narrows the doublewords of `self`, then those of `other`, to words.
    fn narrow32(self, other: Self, f: impl Fn(u32) -> u16) -> Self;
    /// Combines neighbouring words: results of `self` in the low half, of `other` in the high one.
    fn horizontal16(self, other: Self, f: impl Fn(u16, u16) -> u16) -> Self;
    /// Combines neighbouring doublewords: `self` in the low half, `other` in the high one.
    fn horizontal32(self, other: Self, f: impl Fn(u32, u32) -> u32) -> Self;
    /// Interleaves the bytes of the low (`HIGH` false) or high halves.
    fn interleave8<const HIGH: bool>(self, other: Self) -> Self;
    /// Interleaves the words of the low or high halves.
    fn interleave16<const HIGH: bool>(self, other: Self) -> Self;
    /// Interleaves the doublewords of the low or high halves.
    fn interleave32<const HIGH: bool>(self, other: Self) -> Self;
    /// Selects bytes by the control bytes: bit 7 gives zero, the low bits an index.
    fn select8(self, control: Self) -> Self;
    /// Bytes `count..count + width` of `high:self`, zero beyond.
    fn align_right(self, high: Self, count: u8) -> Self;
    /// The most significant bit of each byte, byte 0 in bit 0.
    fn sign_bits8(self) -> u32;
    /// Word `index`, taken modulo the number of words.
    fn lane16(self, index: u8) -> u16;
    /// The value with word `index` (modulo the number of words) replaced.
    fn with_lane16(self, index: u8, value: u16) -> Self;
    /// The complement.
    fn not(self) -> Self;
    /// Bitwise and.
    fn and(self, other: Self) -> Self;
    /// Bitwise or.
    fn or(self, other: Self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;

    /// Applies `f` to each byte.
    #[inline(always)]
    fn map8(self, f: impl Fn(u8) -> u8) -> Self {
        self.zip8(self, |a, _| f(a))
    }

    /// Applies `f` to each 16-bit lane.
    #[inline(always)]
    fn map16(self, f: impl Fn(u16) -> u16) -> Self {
        self.zip16(self, |a, _| f(a))
    }

    /// Applies `f` to each 32-bit lane.
    #[inline(always)]
    fn map32(self, f: impl Fn(u32) -> u32) -> Self {
        self.zip32(self, |a, _| f(a))
    }

    /// Applies `f` to each 64-bit lane.
    #[inline(always)]
    fn map64(self, f: impl Fn(u64) -> u64) -> Self {
        self.zip64(self, |a, _| f(a))
    }
}

/// Conversions of a value into lanes and back for one width and lane size.
macro_rules! lane_conversion {
    ($to:ident, $from:ident, $vector:ty, $lane:ty, $count:expr) => {
        #[inline(always)]
        pub fn $to(value: $vector) -> [$lane; $count] {
            let bytes = value.to_le_bytes();
            let mut lanes = [0; $count];
            let (chunks, _) = bytes.as_chunks();
            for (lane, chunk) in lanes.iter_mut().zip(chunks) {
                *lane = <$lane>::from_le_bytes(*chunk);
            }
            lanes
        }

        #[inline(always)]
        pub fn $from(lanes: [$lane; $count]) -> $vector {
            const LANE: usize = size_of::<$lane>();
            let mut bytes = [0; LANE * $count];
            for (chunk, lane) in bytes.chunks_exact_mut(LANE).zip(lanes) {
                chunk.copy_from_slice(&lane.to_le_bytes());
            }
            <$vector>::from_le_bytes(bytes)
        }
    };
}

/// Lanes of a 64-bit value.
pub(super) mod lanes64 {
    lane_conversion!(to8, from8, u64, u8, 8);
    lane_conversion!(to16, from16, u64, u16, 4);
    lane_conversion!(to32, from32, u64, u32, 2);
    lane_conversion!(to64, from64, u64, u64, 1);
}

/// Lanes of a 128-bit value.
pub(super) mod lanes128 {
    lane_conversion!(to8, from8, u128, u8, 16);
    lane_conversion!(to16, from16, u128, u16, 8);
    lane_conversion!(to32, from32, u128, u32, 4);
    lane_conversion!(to64, from64, u128, u64, 2);
}

/// `zipN`: the same operation in every lane.
macro_rules! zip {
    ($name:ident, $lanes:ident, $to:ident, $from:ident, $lane:ty) => {
        #[inline(always)]
        fn $name(self, other: Self, f: impl Fn($lane, $lane) -> $lane) -> Self {
            let mut a = $lanes::$to(self);
            let b = $lanes::$to(other);
            for (a, b) in a.iter_mut().zip(b) {
                *a = f(*a, b);
            }
            $lanes::$from(a)
        }
    };
}

/// `pairsN`: two neighbouring lanes of both operands make one lane of twice the size.
macro_rules! pairs {
    ($name:ident, $lanes:ident, $to:ident, $to2:ident, $from2:ident, $lane:ty, $wide:ty) => {
        #[inline(always)]
        fn $name(self, other: Self, f: impl Fn($lane, $lane, $lane, $lane) -> $wide) -> Self {
            let a = $lanes::$to(self);
            let b = $lanes::$to(other);
            let mut wide = $lanes::$to2(self);
            for (i, lane) in wide.iter_mut().enumerate() {
                *lane = f(a[2 * i], a[2 * i + 1], b[2 * i], b[2 * i + 1]);
            }
            $lanes::$from2(wide)
        }
    };
}

/// `narrowN`: the lanes of both operands, each made half as wide.
macro_rules! narrow {
    ($name:ident, $lanes:ident, $to:ident, $half:ident, $from:ident, $lane:ty, $small:ty) => {
        #[inline(always)]
        fn $name(self, other: Self, f: impl Fn($lane) -> $small) -> Self {
            let a = $lanes::$to(self);
            let b = $lanes::$to(other);
            let mut small = $lanes::$half(self);
            for i in 0..a.len() {
                small[i] = f(a[i]);
                small[i + a.len()] = f(b[i]);
            }
            $lanes::$from(small)
        }
    };
}

/// `horizontalN`: neighbours within each operand.
macro_rules! horizontal {
    ($name:ident, $lanes:ident, $to:ident, $from:ident, $lane:ty) => {
        #[inline(always)]
        fn $name(self, other: Self, f: impl Fn($lane, $lane) -> $lane) -> Self {
            let a = $lanes::$to(self);
            let b = $lanes::$to(other);
            let mut result = a;
            let half = a.len() / 2;
            for i in 0..half {
                result[i] = f(a[2 * i], a[2 * i + 1]);
                result[i + half] = f(b[2 * i], b[2 * i + 1]);
            }
            $lanes::$from(result)
        }
    };
}

/// `interleaveN`: alternating lanes of the low or high halves.
macro_rules! interleave {
    ($name:ident, $lanes:ident, $to:ident, $from:ident) => {
        #[inline(always)]
        fn $name<const HIGH: bool>(self, other: Self) -> Self {
            let a = $lanes::$to(self);
            let b = $lanes::$to(other);
            let mut result = a;
            let half = a.len() / 2;
            let base = if HIGH { half } else { 0 };
            for i in 0..half {
                result[2 * i] = a[base + i];
                result[2 * i + 1] = b[base + i];
            }
            $lanes::$from(result)
        }
    };
}

macro_rules! implement_vector {
    ($vector:ty, $lanes:ident, $bytes:literal, { $($special:item)* }) => {
        impl Vector for $vector {
            $($special)*

            zip!(zip8, $lanes, to8, from8, u8);
            zip!(zip16, $lanes, to16, from16, u16);
            zip!(zip32, $lanes, to32, from32, u32);
            zip!(zip64, $lanes, to64, from64, u64);
            pairs!(pairs8, $lanes, to8, to16, from16, u8, u16);
            pairs!(pairs16, $lanes, to16, to32, from32, u16, u32);
            narrow!(narrow16, $lanes, to16, to8, from8, u16, u8);
            narrow!(narrow32, $lanes, to32, to16, from16, u32, u16);
            horizontal!(horizontal16, $lanes, to16, from16, u16);
            horizontal!(horizontal32, $lanes, to32, from32, u32);
            interleave!(interleave16, $lanes, to16, from16);
            interleave!(interleave32, $lanes, to32, from32);

            #[inline]
            fn select8(self, control: Self) -> Self {
                let source = $lanes::to8(self);
                let mut result = $lanes::to8(control);
                for byte in &mut result {
                    let chosen = source[usize::from(*byte) % $bytes];
                    *byte = if *byte & 0x80 != 0 { 0 } else { chosen };
                }
                $lanes::from8(result)
            }

            #[inline]
            fn align_right(self, high: Self, count: u8) -> Self {
                let bits = u32::from(count) * 8;
                let width = <$vector>::BITS;
                if bits == 0 {
                    self
                } else if bits < width {
                    (self >> bits) | (high << (width - bits))
                } else if bits < 2 * width {
                    high >> (bits - width)
                } else {
                    0
                }
            }

            #[inline(always)]
            fn lane16(self, index: u8) -> u16 {
                (self >> (16 * (u32::from(index) % ($bytes / 2)))) as u16
            }

            #[inline(always)]
            fn with_lane16(self, index: u8, value: u16) -> Self {
                let shift = 16 * (u32::from(index) % ($bytes / 2));
                (self & !(0xffff << shift)) | (Self::from(value) << shift)
            }

            #[inline(always)]
            fn not(self) -> Self {
                !self
            }

            #[inline(always)]
            fn and(self, other: Self) -> Self {
                self & other
            }

            #[inline(always)]
            fn or(self, other: Self) -> Self {
                self | other
            }

            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
        }
    };
}

implement_vector!(u64, lanes64, 8, {
    #[inline(always)]
    fn interleave8<const HIGH: bool>(self, other: Self) -> Self {
        let shift = if HIGH { 32 } else { 0 };
        swar::interleave_bytes(self >> shift, other >> shift)
    }

    #[inline(always)]
    fn narrow16_unsigned(self, other: Self) -> Self {
        swar::narrow_unsigned(self) | swar::narrow_unsigned(other) << 32
    }

    #[inline(always)]
    fn sign_bits8(self) -> u32 {
        swar::sign_bits(self)
    }
});

implement_vector!(u128, lanes128, 16, {
    #[inline(always)]
    fn interleave8<const HIGH: bool>(self, other: Self) -> Self {
        let half = usize::from(HIGH);
        let (a, b) = (lanes128::to64(self)[half], lanes128::to64(other)[half]);
        let low = swar::interleave_bytes(a, b);
        lanes128::from64([low, swar::interleave_bytes(a >> 32, b >> 32)])
    }

    #[inline(always)]
    fn narrow16_unsigned(self, other: Self) -> Self {
        let halves = |value| {
            let [low, high] = lanes128::to64(value).map(swar::narrow_unsigned);
            low | high << 32
        };
        lanes128::from64([halves(self), halves(other)])
    }

    #[inline(always)]
    fn sign_bits8(self) -> u32 {
        let [low, high] = lanes128::to64(self).map(swar::sign_bits);
        low | high << 8
    }
});
