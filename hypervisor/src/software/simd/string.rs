//! SSE4.2 string comparison (PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM) and CRC32.
//!
//! The four comparisons share one engine: elements of both operands are compared in all pairs,
//! pairs beyond the end of either string are overridden by the aggregation's rule, and one result
//! bit per element of the second operand comes out. Spec: Intel SDM vol. 2B, section 4.1.

use super::vector::lanes128;

/// Result of a string comparison before it is delivered to ECX or XMM0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringComparison {
    /// One bit for each element of the second operand (`IntRes2`).
    pub bits: u16,
    /// CF: any bit is set.
    pub carry: bool,
    /// ZF: the second operand ends within the register.
    pub zero: bool,
    /// SF: the first operand ends within the register.
    pub sign: bool,
    /// OF: bit 0 is set.
    pub overflow: bool,
    control: StringControl,
}

impl StringComparison {
    /// The index form (xSTRI): the value of ECX. Without a set bit, the number of elements.
    pub fn index(&self) -> u32 {
        if self.bits == 0 {
            self.control.count() as u32
        } else if self.control.0 & 0x40 != 0 {
            self.bits.ilog2()
        } else {
            self.bits.trailing_zeros()
        }
    }

    /// The mask form (xSTRM): the value of XMM0, a bit mask or a mask of whole elements.
    pub fn mask(&self) -> u128 {
        if self.control.0 & 0x40 == 0 {
            return u128::from(self.bits);
        }
        let count = self.control.count();
        let width = 128 / count;
        let element = if width == 8 { 0xff } else { 0xffff };
        (0..count)
            .filter(|i| self.bits >> i & 1 != 0)
            .fold(0u128, |mask, i| mask | element << (i * width))
    }
}

/// The immediate byte of a string comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StringControl(u8);

impl StringControl {
    fn words(self) -> bool {
        self.0 & 1 != 0
    }

    fn signed(self) -> bool {
        self.0 & 2 != 0
    }

    fn aggregation(self) -> u8 {
        self.0 >> 2 & 3
    }

    fn count(self) -> usize {
        if self.words() { 8 } else { 16 }
    }
}

/// PCMPESTRI and PCMPESTRM: lengths in EAX/RAX and EDX/RDX, sign-extended by the caller.
pub fn pcmpestr(a: u128, a_length: i64, b: u128, b_length: i64, control: u8) -> StringComparison {
    let control = StringControl(control);
    let count = control.count();
    let clamp = |length: i64| {
        usize::try_from(length.unsigned_abs())
            .unwrap_or(count)
            .min(count)
    };
    compare(a, clamp(a_length), b, clamp(b_length), control)
}

/// PCMPISTRI and PCMPISTRM: a string ends at its first zero element.
pub fn pcmpistr(a: u128, b: u128, control: u8) -> StringComparison {
    let control = StringControl(control);
    let length = |value| {
        let elements = elements(value, control);
        let count = control.count();
        elements[..count]
            .iter()
            .position(|&element| element == 0)
            .unwrap_or(count)
    };
    compare(a, length(a), b, length(b), control)
}

/// The elements of an operand, widened by the control's signedness; unused ones are zero.
fn elements(value: u128, control: StringControl) -> [i32; 16] {
    let mut result = [0; 16];
    if control.words() {
        for (element, word) in result.iter_mut().zip(lanes128::to16(value)) {
            *element = if control.signed() {
                i32::from(word as i16)
            } else {
                i32::from(word)
            };
        }
    } else {
        for (element, byte) in result.iter_mut().zip(lanes128::to8(value)) {
            *element = if control.signed() {
                i32::from(byte as i8)
            } else {
                i32::from(byte)
            };
        }
    }
    result
}

/// The comparison engine, for strings of known lengths.
fn compare(
    a: u128,
    a_length: usize,
    b: u128,
    b_length: usize,
    control: StringControl,
) -> StringComparison {
    let count = control.count();
    let set = elements(a, control);
    let text = elements(b, control);
    let mut bits: u16 = 0;
    for j in 0..count {
        let hit = match control.aggregation() {
            0 => j < b_length && set[..a_length].contains(&text[j]),
            1 => j < b_length && in_ranges(&set[..a_length], text[j]),
            2 => match (j < a_length, j < b_length) {
                (true, true) => set[j] == text[j],
                (false, false) => true,
                _ => false,
            },
            _ => starts_at(&set[..a_length], &text[..b_length], j, count),
        };
        bits |= u16::from(hit) << j;
    }
    let all = if count == 16 { 0xffff } else { 0xff };
    bits ^= match control.0 >> 4 & 3 {
        1 => all,
        3 => ((1u32 << b_length) - 1) as u16,
        _ => 0,
    };
    StringComparison {
        bits,
        carry: bits != 0,
        zero: b_length < count,
        sign: a_length < count,
        overflow: bits & 1 != 0,
        control,
    }
}

/// Ranges: `set` holds pairs of lower and upper bounds; an unpaired lower bound is ignored.
fn in_ranges(set: &[i32], element: i32) -> bool {
    set.chunks_exact(2)
        .any(|range| (range[0]..=range[1]).contains(&element))
}

/// Equal ordered: `needle` is found at `start`, or runs past the end of the register.
///
/// Past the end of the text within the register a needle element does not match; past the end of
/// the register there is nothing left to compare.
fn starts_at(needle: &[i32], text: &[i32], start: usize, count: usize) -> bool {
    needle
        .iter()
        .zip(start..count)
        .all(|(element, k)| text.get(k) == Some(element))
}

/// The CRC-32C polynomial, bit-reversed.
const CRC32C: u32 = 0x82f6_3b78;

/// Remainders of one byte, for CRC32.
const CRC32C_TABLE: [u32; 256] = crc32c_table();

const fn crc32c_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 != 0 { CRC32C } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

/// CRC32 over the little-endian bytes of an operand of 1, 2, 4 or 8 bytes.
#[inline]
pub fn crc32(initial: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(initial, |crc, byte| {
        crc >> 8 ^ CRC32C_TABLE[usize::from(crc as u8 ^ byte)]
    })
}
