//! The three storage formats: taking apart and putting together, without rounding.

use super::unpacked::{Class, QUIET, Unpacked};

/// An x87 extended value: sign, 15-bit exponent, and a significand with an explicit integer bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct F80 {
    /// Significand; bit 63 is the integer bit.
    pub significand: u64,
    /// Sign in bit 15, biased exponent below.
    pub sign_exponent: u16,
}

impl F80 {
    /// Positive zero.
    pub const ZERO: Self = Self {
        significand: 0,
        sign_exponent: 0,
    };
    /// One.
    pub const ONE: Self = Self {
        significand: 1 << 63,
        sign_exponent: 0x3fff,
    };
    /// The quiet NaN of masked invalid operations.
    pub const INDEFINITE: Self = Self {
        significand: 3 << 62,
        sign_exponent: 0xffff,
    };

    /// The value of ten little-endian bytes.
    pub fn from_le_bytes(bytes: [u8; 10]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, e0, e1] = bytes;
        Self {
            significand: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sign_exponent: u16::from_le_bytes([e0, e1]),
        }
    }

    /// The ten bytes in memory.
    pub fn to_le_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.significand.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// Whether the sign bit is set, whatever the class.
    #[inline]
    pub const fn sign(self) -> bool {
        self.sign_exponent & 0x8000 != 0
    }
}

/// A storage format.
pub trait Format: Copy + PartialEq + std::fmt::Debug {
    /// Significand bits, the integer bit included.
    const PRECISION: u32;
    /// Exponent of the largest finite values; the smallest normal ones have `1 - MAX_EXPONENT`.
    const MAX_EXPONENT: i32;
    /// Exponent adjustment of results that overflow or underflow unmasked.
    const WRAP: i32;
    /// The x87 format: precision control applies, and NaNs are selected by its rule.
    const EXTENDED: bool;

    /// Takes the value apart.
    fn unpack(self) -> Unpacked;

    /// Puts a value together from its biased exponent and left-aligned significand.
    ///
    /// The integer bit (bit 63) must be clear if and only if the biased exponent stands for a
    /// denormal or zero.
    fn assemble(sign: bool, biased_exponent: u32, significand: u64) -> Self;

    /// The biased exponent of infinities and NaNs.
    #[inline]
    fn special_exponent() -> u32 {
        2 * Self::MAX_EXPONENT as u32 + 1
    }

    /// A zero.
    #[inline]
    fn zero(sign: bool) -> Self {
        Self::assemble(sign, 0, 0)
    }

    /// An infinity.
    #[inline]
    fn infinity(sign: bool) -> Self {
        Self::assemble(sign, Self::special_exponent(), 1 << 63)
    }

    /// A quiet NaN with the payload of `nan` as far as it fits.
    #[inline]
    fn quiet(nan: Unpacked) -> Self {
        Self::assemble(nan.sign, Self::special_exponent(), nan.significand | QUIET)
    }

    /// The quiet NaN of masked invalid operations.
    #[inline]
    fn indefinite() -> Self {
        Self::assemble(true, Self::special_exponent(), 3 << 62)
    }
}

/// Implements [`Format`] for the bits of an interchange format with a hidden integer bit.
macro_rules! interchange_format {
    ($bits:ty, $precision:literal, $max_exponent:literal, $wrap:literal) => {
        impl Format for $bits {
            const PRECISION: u32 = $precision;
            const MAX_EXPONENT: i32 = $max_exponent;
            const WRAP: i32 = $wrap;
            const EXTENDED: bool = false;

            #[inline]
            fn unpack(self) -> Unpacked {
                const FRACTION_BITS: u32 = $precision - 1;
                const SPECIAL: i32 = 2 * $max_exponent + 1;
                let sign = self >> (<$bits>::BITS - 1) != 0;
                let biased = (self << 1 >> ($precision)) as i32;
                let fraction = u64::from(self & ((1 << FRACTION_BITS) - 1)) << (63 - FRACTION_BITS);
                if biased == 0 {
                    let mut value = Unpacked::finite(sign, 1 - $max_exponent, fraction);
                    value.denormal = fraction != 0;
                    return value;
                }
                let significand = fraction | 1 << 63;
                if biased == SPECIAL {
                    return match fraction {
                        0 => Unpacked::infinity(sign),
                        _ => Unpacked::nan(sign, significand),
                    };
                }
                let exponent = biased - $max_exponent;
                Unpacked {
                    sign,
                    class: Class::Finite,
                    exponent,
                    significand,
                    denormal: false,
                }
            }

            #[inline]
            fn assemble(sign: bool, biased_exponent: u32, significand: u64) -> Self {
                const FRACTION_BITS: u32 = $precision - 1;
                let fraction = (significand << 1 >> (64 - FRACTION_BITS)) as $bits;
                let sign = <$bits>::from(sign) << (<$bits>::BITS - 1);
                sign | (biased_exponent as $bits) << FRACTION_BITS | fraction
            }
        }
    };
}

interchange_format!(u32, 24, 127, 192);
interchange_format!(u64, 53, 1023, 1536);

impl Format for F80 {
    const PRECISION: u32 = 64;
    const MAX_EXPONENT: i32 = 16383;
    const WRAP: i32 = 24576;
    const EXTENDED: bool = true;

    #[inline]
    fn unpack(self) -> Unpacked {
        let sign = self.sign();
        let biased = i32::from(self.sign_exponent & 0x7fff);
        let significand = self.significand;
        if biased == 0 {
            let mut value = Unpacked::finite(sign, 1 - Self::MAX_EXPONENT, significand);
            value.denormal = significand != 0;
            return value;
        }
        if significand >> 63 == 0 {
            let class = Class::Unsupported;
            return Unpacked {
                sign,
                class,
                exponent: 0,
                significand,
                denormal: false,
            };
        }
        if biased == 0x7fff {
            return match significand << 1 {
                0 => Unpacked::infinity(sign),
                _ => Unpacked::nan(sign, significand),
            };
        }
        let exponent = biased - Self::MAX_EXPONENT;
        Unpacked {
            sign,
            class: Class::Finite,
            exponent,
            significand,
            denormal: false,
        }
    }

    #[inline]
    fn assemble(sign: bool, biased_exponent: u32, significand: u64) -> Self {
        let sign_exponent = u16::from(sign) << 15 | biased_exponent as u16;
        Self {
            significand,
            sign_exponent,
        }
    }
}
