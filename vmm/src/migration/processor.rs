//! What a guest's CPUID tells, as it is said to the destination, and whether that has it all.

use hypervisor::cpu_model::{self, CpuidLeaf};
use serde::{Deserialize, Serialize};

/// Flag of an answer that depends on ECX of the question.
const DEPENDS_ON_INDEX: u32 = 1;

/// One answer of CPUID, as the kernel's interface has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// EAX of the question.
    pub function: u32,
    /// ECX of the question, if it matters.
    pub index: u32,
    /// One if it matters.
    pub flags: u32,
    /// EAX of the answer.
    pub eax: u32,
    /// EBX of the answer.
    pub ebx: u32,
    /// ECX of the answer.
    pub ecx: u32,
    /// EDX of the answer.
    pub edx: u32,
}

impl From<CpuidLeaf> for CpuidEntry {
    fn from(leaf: CpuidLeaf) -> Self {
        let [eax, ebx, ecx, edx] = leaf.answer;
        Self {
            function: leaf.leaf,
            index: leaf.subleaf.unwrap_or(0),
            flags: leaf.subleaf.map_or(0, |_| DEPENDS_ON_INDEX),
            eax,
            ebx,
            ecx,
            edx,
        }
    }
}

impl From<CpuidEntry> for CpuidLeaf {
    fn from(entry: CpuidEntry) -> Self {
        Self {
            leaf: entry.function,
            subleaf: (entry.flags & DEPENDS_ON_INDEX != 0).then_some(entry.index),
            answer: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        }
    }
}

/// What the processor of a machine tells.
pub fn table(tsc_khz: u32) -> Vec<CpuidEntry> {
    let leaves = cpu_model::table(tsc_khz).into_iter();
    leaves.map(CpuidEntry::from).collect()
}

/// A register of feature bits: leaf, subleaf, register, and the names of bits that the model does
/// not have and others do, as Linux has them.
type FeatureRegister = (u32, u32, usize, &'static [(u32, &'static str)]);

const FEATURES: [FeatureRegister; 8] = [
    (
        1,
        0,
        2,
        &[
            (1, "pclmulqdq"),
            (12, "fma"),
            (25, "aes"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
    ),
    (1, 0, 3, &[(28, "ht")]),
    (
        7,
        0,
        1,
        &[
            (5, "avx2"),
            (16, "avx512f"),
            (18, "rdseed"),
            (19, "adx"),
            (29, "sha_ni"),
        ],
    ),
    (7, 0, 2, &[(3, "pku"), (16, "la57")]),
    (7, 0, 3, &[]),
    (0xd, 1, 0, &[(1, "xsavec"), (3, "xsaves")]),
    (0x8000_0001, 0, 2, &[(6, "sse4a")]),
    (0x8000_0001, 0, 3, &[]),
];
/// Bit of leaf 1, ECX that follows a control register: it is no feature of its own.
const OSXSAVE: u32 = 1 << 27;

/// The features that a guest was promised and that this program's processor does not have. Whether
/// the host's can be made to look like that is the backend's affair.
pub fn missing(promised: &[CpuidEntry], tsc_khz: u32) -> Vec<String> {
    let promised: Vec<CpuidLeaf> = promised.iter().copied().map(CpuidLeaf::from).collect();
    let ours = cpu_model::table(tsc_khz);
    let mut names = cpu_model::missing(&promised, &ours);
    for (leaf, subleaf, register, known) in FEATURES {
        let bits = |table| answer(table, leaf, subleaf)[register];
        let mut beyond = bits(&promised) & !bits(&ours);
        if (leaf, register) == (1, 2) {
            beyond &= !OSXSAVE;
        }
        for bit in (0..32).filter(|bit| beyond & 1 << bit != 0) {
            let name = known.iter().find(|(named, _)| *named == bit);
            names.push(match name {
                Some((_, name)) => (*name).to_owned(),
                None => {
                    let register = ["eax", "ebx", "ecx", "edx"][register];
                    format!("bit {bit} of {register} of leaf {leaf:#x}.{subleaf}")
                }
            });
        }
    }
    names
}

fn answer(table: &[CpuidLeaf], leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut entries = table.iter();
    let found =
        entries.find(|entry| entry.leaf == leaf && entry.subleaf.is_none_or(|own| own == subleaf));
    found.map_or([0; 4], |entry| entry.answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSC_KHZ: u32 = cpu_model::DEFAULT_TSC_KHZ;

    #[test]
    fn our_own_table_has_all_that_it_promises() {
        let table = table(TSC_KHZ);
        assert!(table.len() > 10);
        assert_eq!(missing(&table, TSC_KHZ), Vec::<String>::new());
        for entry in table {
            assert_eq!(CpuidEntry::from(CpuidLeaf::from(entry)), entry);
        }
    }

    #[test]
    fn a_feature_that_is_not_there_is_named() {
        for (function, bit, text) in [
            (1, 28, "avx"),
            (1, 27, ""),
            (7, 27, "bit 27 of ecx of leaf 0x7.0"),
            (0x8000_0001, 6, "sse4a"),
        ] {
            let mut promised = table(TSC_KHZ);
            let features = promised.iter_mut().find(|entry| entry.function == function);
            features.unwrap().ecx |= 1 << bit;
            assert_eq!(missing(&promised, TSC_KHZ).join(", "), text);
        }
    }
}
