//! Sets of vectors: IRR, ISR and TMR.

/// One 256-bit register: 8 words of 32 vectors.
pub(super) type VectorSet = [u32; 8];

/// The highest vector in the set.
pub(super) fn highest(vectors: &VectorSet) -> Option<u8> {
    let word = vectors.iter().rposition(|word| *word != 0)?;
    Some((word as u8) << 5 | (31 - vectors[word].leading_zeros()) as u8)
}

pub(super) fn set(vectors: &mut VectorSet, vector: u8) {
    vectors[usize::from(vector >> 5)] |= 1 << (vector & 31);
}

pub(super) fn clear(vectors: &mut VectorSet, vector: u8) {
    vectors[usize::from(vector >> 5)] &= !(1 << (vector & 31));
}

pub(super) fn contains(vectors: &VectorSet, vector: u8) -> bool {
    vectors[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
}
