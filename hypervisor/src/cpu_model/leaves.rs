//! What CPUID answers, leaf by leaf. Spec: Intel SDM vol. 2A, CPUID.

use crate::arch::x86_64::control::cr4;
use crate::arch::x86_64::cpuid::{LEAF1_EDX, leaf1_ecx, leaf7_ebx};
use crate::arch::x86_64::paging::PHYSICAL_BITS;

/// Family 6, model 28, stepping 10.
pub const SIGNATURE: u32 = 0x0001_06ca;
/// Frequency of the core crystal, which also drives the local APIC timer, in kHz.
pub const CRYSTAL_KHZ: u32 = 25_000;
/// Bits of CR4 that this model has.
pub const CR4_OFFERED: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::FSGSBASE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP;

const LEAF1_ECX: u32 = leaf1_ecx::SSE3
    | leaf1_ecx::SSSE3
    | leaf1_ecx::CX16
    | leaf1_ecx::SSE4_1
    | leaf1_ecx::SSE4_2
    | leaf1_ecx::X2APIC
    | leaf1_ecx::MOVBE
    | leaf1_ecx::POPCNT
    | leaf1_ecx::TSC_DEADLINE
    | leaf1_ecx::XSAVE
    | leaf1_ecx::HYPERVISOR;
const LEAF7_EBX: u32 = leaf7_ebx::FSGSBASE
    | leaf7_ebx::TSC_ADJUST
    | leaf7_ebx::BMI1
    | leaf7_ebx::SMEP
    | leaf7_ebx::BMI2
    | leaf7_ebx::ERMS
    | leaf7_ebx::NO_FCS_FDS
    | leaf7_ebx::SMAP;
/// LAHF in 64-bit mode, LZCNT.
const LEAF_8000_0001_ECX: u32 = 1 | 1 << 5;
/// SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
const LEAF_8000_0001_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
const BRAND: &[u8; 48] = b"Cloud Hypervisor FT deterministic processor\0\0\0\0\0";
const LAST_BASIC: u32 = 0x16;
pub(super) const LAST_EXTENDED: u32 = 0x8000_0008;

/// Bytes of an XSAVE area with x87 and SSE state.
pub const XSAVE_SIZE: u32 = 576;

/// EAX, EBX, ECX, EDX of `leaf` and `subleaf` on a processor whose time-stamp counter runs at
/// `tsc_khz`, given CR4.OSXSAVE.
pub fn leaf(leaf: u32, subleaf: u32, tsc_khz: u32, osxsave: bool) -> [u32; 4] {
    let leaf = match leaf {
        // Beyond the last leaf the answer is that of the last basic one.
        0x17..=0x3fff_ffff | 0x4000_0001..=0x7fff_ffff | 0x8000_0009.. => LAST_BASIC,
        leaf => leaf,
    };
    match leaf {
        0 => vendor(LAST_BASIC, b"GenuineIntel"),
        1 => {
            let dynamic = if osxsave { leaf1_ecx::OSXSAVE } else { 0 };
            // One logical processor, 64-byte cache lines, initial APIC id 0.
            [SIGNATURE, 1 << 16 | 8 << 8, LEAF1_ECX | dynamic, LEAF1_EDX]
        }
        // Descriptors that send software to leaf 4.
        2 => [0x00ff_ff01, 0, 0, 0],
        4 => cache(subleaf),
        // The local APIC timer runs in every sleep state (ARAT): without this bit Linux neither
        // stops its tick when idle nor uses high-resolution timers.
        6 => [1 << 2, 0, 0, 0],
        7 if subleaf == 0 => [0, LEAF7_EBX, 0, 0],
        0xb => topology(subleaf),
        0xd => xsave(subleaf),
        0x15 => counter_ratio(tsc_khz),
        0x16 => [tsc_khz / 1000, tsc_khz / 1000, CRYSTAL_KHZ / 1000, 0],
        0x4000_0000 => vendor(0x4000_0000, b"CloudHypFT\0\0"),
        0x8000_0000 => [LAST_EXTENDED, 0, 0, 0],
        0x8000_0001 => [0, 0, LEAF_8000_0001_ECX, LEAF_8000_0001_EDX],
        0x8000_0002..=0x8000_0004 => brand(leaf - 0x8000_0002),
        // 256 KiB of level-2 cache, 8 ways, 64-byte lines.
        0x8000_0006 => [0, 0, 256 << 16 | 6 << 12 | 64, 0],
        // The time-stamp counter runs at a constant rate in every state.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => [PHYSICAL_BITS | 48 << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

/// The counter's frequency as a fraction of the crystal's. Software multiplies crystal and
/// numerator in 32 bits (Linux: in kHz), so of the fractions that this allows it is the nearest.
fn counter_ratio(tsc_khz: u32) -> [u32; 4] {
    let crystal = u64::from(CRYSTAL_KHZ);
    let scaled = |denominator: u64| u64::from(tsc_khz) * denominator;
    let nearest = |denominator: u64| (scaled(denominator) + crystal / 2) / crystal;
    // The error of the product, for comparison: cross-multiplied, so that all of it is exact.
    let error = |denominator: u64| (nearest(denominator) * crystal).abs_diff(scaled(denominator));
    let most = (u64::from(u32::MAX) - crystal) / u64::from(tsc_khz.max(1));
    let mut best = 1;
    for denominator in 2..=most.min(crystal) {
        if error(denominator) * best < error(best) * denominator {
            best = denominator;
        }
    }
    [best as u32, nearest(best) as u32, CRYSTAL_KHZ * 1000, 0]
}

fn word(bytes: &[u8], index: usize) -> u32 {
    bytes[index * 4..index * 4 + 4]
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// The twelve letters go to EBX, EDX, ECX for leaf 0, and to EBX, ECX, EDX for hypervisors.
fn vendor(last: u32, name: &[u8; 12]) -> [u32; 4] {
    let (first, second, third) = (word(name, 0), word(name, 1), word(name, 2));
    if last == LAST_BASIC {
        [last, first, third, second]
    } else {
        [last, first, second, third]
    }
}

fn brand(part: u32) -> [u32; 4] {
    let from = part as usize * 4;
    [0, 1, 2, 3].map(|index| word(BRAND, from + index))
}

/// Level-1 data and instruction caches of 32 KiB, level 2 of 256 KiB; 8 ways, 64-byte lines.
fn cache(subleaf: u32) -> [u32; 4] {
    let (kind, level, sets) = match subleaf {
        0 => (1, 1, 64),
        1 => (2, 1, 64),
        2 => (3, 2, 512),
        _ => return [0; 4],
    };
    [kind | level << 5 | 1 << 8, 7 << 22 | 63, sets - 1, 0]
}

fn topology(subleaf: u32) -> [u32; 4] {
    match subleaf {
        0 => [0, 1, 1 << 8, 0],
        1 => [0, 1, 1 | 2 << 8, 0],
        other => [0, 0, other & 0xff, 0],
    }
}

fn xsave(subleaf: u32) -> [u32; 4] {
    match subleaf {
        // The legacy area, which holds both components, is there whichever is enabled.
        0 => [3, XSAVE_SIZE, XSAVE_SIZE, 0],
        // XSAVEOPT.
        1 => [1, 0, 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_model::DEFAULT_TSC_KHZ;

    #[test]
    fn vendor_reads_genuine_intel() {
        let [_, ebx, ecx, edx] = leaf(0, 0, DEFAULT_TSC_KHZ, false);
        let text: Vec<u8> = [ebx, edx, ecx]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(text, b"GenuineIntel");
    }

    #[test]
    fn crystal_times_ratio_is_the_counter_frequency() {
        // As Linux computes it, in 32 bits.
        for tsc_khz in [1000, 999_999, 1_000_000, 2_399_998, 2_893_437, 4_200_001] {
            let [denominator, numerator, crystal, _] = leaf(0x15, 0, tsc_khz, false);
            let found = (crystal / 1000).checked_mul(numerator).unwrap() / denominator;
            // A step of the numerator, halved, over the largest denominator that fits.
            let most = (u32::MAX / tsc_khz).max(1);
            let step = CRYSTAL_KHZ / (2 * most) + 1;
            assert!(found.abs_diff(tsc_khz) <= step, "{tsc_khz}: {found}");
        }
        assert_eq!(leaf(0x15, 0, 1_000_000, false), [1, 40, 25_000_000, 0]);
    }

    #[test]
    fn no_leaf_offers_what_cannot_be_replayed() {
        assert_eq!(leaf(1, 0, DEFAULT_TSC_KHZ, true)[2] & 1 << 30, 0, "RDRAND");
        assert_eq!(leaf(7, 0, DEFAULT_TSC_KHZ, true)[1] & 1 << 18, 0, "RDSEED");
    }
}
