//! The whole CPUID table of the model, for processors that look answers up in one.

use super::leaf;

/// One answer of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question, where the answer depends on it.
    pub subleaf: Option<u32>,
    /// EAX, EBX, ECX, EDX of the answer.
    pub answer: [u32; 4],
}

/// Leaves whose answer depends on ECX, and how many subleaves differ from zeroes.
const INDEXED: [(u32, u32); 4] = [(4, 4), (7, 1), (0xb, 2), (0xd, 2)];
/// All other leaves.
const PLAIN: [u32; 17] = [
    0,
    1,
    2,
    5,
    6,
    0x15,
    0x16,
    0x4000_0000,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
];

/// What a processor whose time-stamp counter runs at `tsc_khz` answers to each leaf that it has,
/// in rising order. Bits that follow other registers (OSXSAVE) are zero.
pub fn table(tsc_khz: u32) -> Vec<CpuidLeaf> {
    let plain = PLAIN.iter().map(|&number| (number, None));
    let indexed = INDEXED
        .iter()
        .flat_map(|&(number, count)| (0..count).map(move |subleaf| (number, Some(subleaf))));
    let mut leaves: Vec<CpuidLeaf> = plain
        .chain(indexed)
        .map(|(number, subleaf)| CpuidLeaf {
            leaf: number,
            subleaf,
            answer: leaf(number, subleaf.unwrap_or(0), tsc_khz, false),
        })
        .collect();
    leaves.sort_by_key(|leaf| (leaf.leaf, leaf.subleaf));
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_model::DEFAULT_TSC_KHZ;

    #[test]
    fn the_table_has_every_answer_that_is_not_zero() {
        let table = table(DEFAULT_TSC_KHZ);
        let ranges = [
            0..=0x16,
            0x4000_0000..=0x4000_0000,
            0x8000_0000..=0x8000_0008,
        ];
        for number in ranges.into_iter().flatten() {
            for subleaf in 0..64 {
                let answer = leaf(number, subleaf, DEFAULT_TSC_KHZ, false);
                let found = table.iter().find(|entry| {
                    entry.leaf == number && entry.subleaf.is_none_or(|own| own == subleaf)
                });
                // Levels of a topology that are not there answer with their number alone.
                let empty = [0, 0, if number == 0xb { subleaf } else { 0 }, 0];
                let listed = found.map_or(empty, |entry| entry.answer);
                assert_eq!(listed, answer, "leaf {number:#x} subleaf {subleaf}");
            }
        }
        assert!(table.is_sorted_by_key(|entry| (entry.leaf, entry.subleaf)));
    }
}
