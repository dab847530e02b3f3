//! The model's features by name, and which of them a real processor lacks.
//!
//! Names are those that Linux shows in `/proc/cpuinfo`, where it has one. Left out of the
//! comparison is what the machine around the processor provides on every backend (the local APIC
//! with its timer, the time-stamp counter's adjustment and its constant rate), and what only
//! tells software how fast an instruction is or that a field is always zero.

use super::CpuidLeaf;

/// A register of an answer.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// A feature register: leaf, subleaf, register, and the names of bits.
type Register = (u32, u32, usize, &'static [(u32, &'static str)]);

/// Bits that a processor must have for the model to run on it.
const NEEDED: [Register; 6] = [
    (
        1,
        0,
        ECX,
        &[
            (0, "sse3"),
            (9, "ssse3"),
            (13, "cx16"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (22, "movbe"),
            (23, "popcnt"),
            (26, "xsave"),
        ],
    ),
    (
        1,
        0,
        EDX,
        &[
            (0, "fpu"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
        ],
    ),
    (
        7,
        0,
        EBX,
        &[
            (0, "fsgsbase"),
            (3, "bmi1"),
            (7, "smep"),
            (8, "bmi2"),
            (20, "smap"),
        ],
    ),
    (0xd, 1, EAX, &[(0, "xsaveopt")]),
    (0x8000_0001, 0, ECX, &[(0, "lahf_lm"), (5, "abm")]),
    (
        0x8000_0001,
        0,
        EDX,
        &[
            (11, "syscall"),
            (20, "nx"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
        ],
    ),
];

/// Bits that the machine provides or that are advice.
#[cfg(test)]
const NOT_COMPARED: [Register; 5] = [
    (
        1,
        0,
        ECX,
        &[
            (21, "x2apic"),
            (24, "tsc_deadline_timer"),
            (31, "hypervisor"),
        ],
    ),
    (1, 0, EDX, &[(9, "apic")]),
    (6, 0, EAX, &[(2, "arat")]),
    (
        7,
        0,
        EBX,
        &[(1, "tsc_adjust"), (9, "erms"), (13, "zero_fcs_fds")],
    ),
    (0x8000_0007, 0, EDX, &[(8, "constant_tsc")]),
];

/// Names of the features that `wanted` has and `supported` lacks. Both are tables of CPUID; in
/// [`super::table()`]'s form or as a host tells what it supports.
pub fn missing(wanted: &[CpuidLeaf], supported: &[CpuidLeaf]) -> Vec<String> {
    let mut names = Vec::new();
    for (leaf, subleaf, register, bits) in NEEDED {
        let lacking =
            value(wanted, leaf, subleaf, register) & !value(supported, leaf, subleaf, register);
        let named = bits.iter().filter(|(bit, _)| lacking & 1 << bit != 0);
        names.extend(named.map(|(_, name)| (*name).to_owned()));
    }
    let bits = |table| value(table, 0x8000_0008, 0, EAX) & 0xff;
    let (needed, found) = (bits(wanted), bits(supported));
    if found < needed {
        names.push(format!(
            "{needed} bits of physical address (there are {found})"
        ));
    }
    names
}

fn value(table: &[CpuidLeaf], leaf: u32, subleaf: u32, register: usize) -> u32 {
    let found = table
        .iter()
        .find(|entry| entry.leaf == leaf && entry.subleaf.is_none_or(|own| own == subleaf));
    found.map_or(0, |entry| entry.answer[register])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_model::{DEFAULT_TSC_KHZ, table};

    #[test]
    fn nothing_is_missing_where_all_is_and_each_loss_is_named() {
        let wanted = table(DEFAULT_TSC_KHZ);
        assert!(missing(&wanted, &wanted).is_empty());
        for (leaf, subleaf, register, bits) in NEEDED {
            for (bit, name) in bits {
                let mut supported = wanted.clone();
                let entry = supported.iter_mut().find(|entry| {
                    entry.leaf == leaf && entry.subleaf.is_none_or(|own| own == subleaf)
                });
                let answer = &mut entry.unwrap().answer[register];
                assert_ne!(*answer & 1 << bit, 0, "the model has {name}");
                *answer &= !(1 << bit);
                assert_eq!(missing(&wanted, &supported), [*name]);
            }
        }
        assert!(missing(&wanted, &[]).len() > 40);
    }

    #[test]
    fn a_processor_with_fewer_address_bits_is_refused() {
        let wanted = table(DEFAULT_TSC_KHZ);
        let mut supported = wanted.clone();
        let entry = supported.iter_mut().find(|entry| entry.leaf == 0x8000_0008);
        entry.unwrap().answer[EAX] = 39 | 48 << 8;
        assert_eq!(
            missing(&wanted, &supported),
            ["46 bits of physical address (there are 39)"]
        );
    }

    #[test]
    fn every_bit_of_the_models_feature_registers_has_a_name() {
        let wanted = table(DEFAULT_TSC_KHZ);
        for (leaf, subleaf, register, _) in NEEDED.iter().chain(&NOT_COMPARED) {
            let all = NEEDED
                .iter()
                .chain(&NOT_COMPARED)
                .filter(|(l, s, r, _)| (l, s, r) == (leaf, subleaf, register));
            let named = all
                .flat_map(|(_, _, _, bits)| bits.iter())
                .fold(0, |mask, (bit, _)| mask | 1 << bit);
            let bits = value(&wanted, *leaf, *subleaf, *register);
            assert_eq!(bits & !named, 0, "leaf {leaf:#x} register {register}");
        }
    }
}
