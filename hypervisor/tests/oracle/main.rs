//! The oracle: instruction sequences on the real processor and on the software processor must
//! end alike, in registers, flags, memory and faults; and in a guest on KVM, where there is one.
//!
//! `CHFT_ORACLE_SEED` chooses the seed and `CHFT_ORACLE_COUNT` the number of sequences. A failure
//! prints the seed, the sequence, and the first instruction after which the two differ.
//!
//! The host must be an x86-64 Linux with every instruction set that the model offers; elsewhere
//! the test says why it is skipped.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod catalogue;
mod compare;
mod guest;
mod kvm;
mod layout;
mod native;
mod operands;
mod random;
mod sequence;
mod templates;

use std::collections::BTreeSet;

use iced_x86::Code;

use guest::Guest;
use hypervisor::software::vcpu::SoftwareVcpu;
use layout::{DATA, DATA_SIZE, FLAGS, PAGE, STACK, STACK_SIZE, State};
use native::Native;
use random::Random;
use sequence::Sequence;

const DEFAULT_SEED: u64 = 0x0c4f_7000;
const DEFAULT_COUNT: u64 = 10_000;
/// Failures to print before giving up.
const MOST_REPORTS: usize = 12;

#[allow(clippy::disallowed_methods, reason = "the developer chooses the seed")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Why this host cannot be the oracle.
fn missing_feature() -> Option<&'static str> {
    macro_rules! lacking {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let features = lacking!(
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "lzcnt",
        "bmi1",
        "bmi2",
        "movbe",
        "xsave",
        "cmpxchg16b"
    );
    features
        .iter()
        .find(|(_, present)| !present)
        .map(|(name, _)| *name)
}

fn random_state(random: &mut Random) -> State {
    let mut gpr = [0; 16].map(|_: u64| random.quadword());
    for pointer in operands::POINTERS {
        gpr[pointer] = DATA + 0x3000 + random.below(0x80) * 64;
    }
    gpr[operands::INDEX] = random.below(512).wrapping_sub(256) & !15;
    gpr[4] = STACK + STACK_SIZE / 2 + random.below(64) * 8;
    let fill = |random: &mut Random, len: u64| {
        let mut bytes = Vec::with_capacity(len as usize);
        while (bytes.len() as u64) < len {
            bytes.extend_from_slice(&random.quadword().to_le_bytes());
        }
        bytes
    };
    State {
        gpr,
        flags: random.next() & FLAGS & !0x400,
        fxsave: random_fxsave(random),
        data: fill(random, DATA_SIZE),
        stack: fill(random, STACK_SIZE),
        images: random_images(random),
    }
}

/// Registers with values; exceptions masked but for one time in sixteen.
fn random_fxsave(random: &mut Random) -> [u8; 416] {
    let mut image = [0; 416];
    let unmasked = random.one_in(16);
    let control = if unmasked {
        random.next() & 0x1f3f
    } else {
        0x3f | random.next() & 0xf00
    };
    image[..2].copy_from_slice(&(control as u16 | 0x40).to_le_bytes());
    let status = random.next() as u16 & 0x7f3f & if unmasked { !0x3f } else { 0x7fff };
    image[2..4].copy_from_slice(&status.to_le_bytes());
    image[4] = if random.one_in(2) {
        0
    } else {
        random.next() as u8
    };
    let mxcsr = if unmasked {
        random.next() & 0xffc0
    } else {
        0x1f80 | random.next() & 0xe07f
    };
    image[24..28].copy_from_slice(&(mxcsr as u32).to_le_bytes());
    for slot in image[32..160].chunks_exact_mut(16) {
        slot[..10].copy_from_slice(&random.extended());
    }
    for slot in image[160..].chunks_exact_mut(8) {
        slot.copy_from_slice(&random.quadword().to_le_bytes());
    }
    image
}

/// Images that FXRSTOR and XRSTOR take: MXCSR and header are valid.
fn random_images(random: &mut Random) -> Vec<u8> {
    let mut page = vec![0; PAGE as usize];
    for start in [0, 1024, 2048, 3072] {
        page[start..start + 416].copy_from_slice(&random_fxsave(random));
        page[start + 512] = random.below(4) as u8;
    }
    page
}

fn random_sequence(codes: &[Code], random: &mut Random) -> Sequence {
    let mut sequence = Sequence::default();
    if random.one_in(4) {
        sequence.start_at((PAGE - 8 - random.below(60)) as usize);
    }
    let wanted = 6 + random.below(14) as usize;
    while sequence.marks.len() < wanted {
        if random.one_in(5) {
            random.pick(&templates::ALL)(&mut sequence, codes, random);
        } else {
            templates::plain(&mut sequence, codes, random);
        }
    }
    sequence
}

/// The real processor, and ours in both of its ways.
struct Processors {
    interpreted: Guest,
    translated: Guest,
    native: Native,
    /// Sequences that ran to their end.
    complete: u64,
}

impl Processors {
    fn new() -> Self {
        Self {
            interpreted: Guest::of_software(SoftwareVcpu::interpreting),
            translated: Guest::of_software(|memory| SoftwareVcpu::translating_after(memory, 0)),
            native: Native::new().unwrap(),
            complete: 0,
        }
    }

    /// Runs the first `count` instructions on all; the differences from the real one.
    fn differences(&mut self, sequence: &Sequence, start: &State, count: usize) -> String {
        let code = sequence.code(count);
        let real = self.native.run(&code, start);
        self.complete += u64::from(real.rip == sequence.here());
        let ways = [
            ("interpreted", &mut self.interpreted),
            ("translated", &mut self.translated),
        ];
        let mut differences = String::new();
        for (way, software) in ways {
            let slices = (start.gpr[0] & 1 != 0).then(|| Random::new(start.gpr[0]));
            let text = match software.run(&code, start, slices) {
                Ok(ours) => compare::differences(sequence, &ours, &real),
                Err(text) => format!("  the software processor stopped: {text}\n"),
            };
            if !text.is_empty() {
                differences.push_str(&format!("  {way}:\n{text}"));
            }
        }
        differences
    }

    /// The sequence, the first instruction after which the two differ, and the differences.
    fn report(&mut self, sequence: &Sequence, start: &State) -> String {
        let all = sequence.marks.len();
        let (first, text) = (1..=all)
            .map(|count| (count, self.differences(sequence, start, count)))
            .find(|(_, text)| !text.is_empty())
            .unwrap_or((all, "  only the whole sequence differs\n".to_owned()));
        compare::listing(sequence, Some(first - 1)) + &text
    }
}

/// Seed of the sequence with number `index`.
fn seed_of(seed: u64, index: u64) -> u64 {
    seed ^ index.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn random_sequences_end_as_on_the_real_processor() {
    if let Some(feature) = missing_feature() {
        println!("skipped: this host has no {feature}, so it cannot judge the model");
        return;
    }
    let codes = catalogue::codes();
    let seed = setting("CHFT_ORACLE_SEED", DEFAULT_SEED);
    let count = setting("CHFT_ORACLE_COUNT", DEFAULT_COUNT);
    let mut processors = Processors::new();
    let mut drawn = BTreeSet::new();
    let mut reports = Vec::new();
    for index in 0..count {
        let mut random = Random::new(seed_of(seed, index));
        let start = random_state(&mut random);
        let sequence = random_sequence(&codes, &mut random);
        drawn.extend(sequence.codes());
        if !processors
            .differences(&sequence, &start, sequence.marks.len())
            .is_empty()
        {
            reports.push(format!(
                "sequence {index}:\n{}",
                processors.report(&sequence, &start)
            ));
        }
        if reports.len() == MOST_REPORTS {
            break;
        }
    }
    let complete = processors.complete;
    println!(
        "seed {seed}: {count} sequences, {complete} complete, {} encodings",
        drawn.len()
    );
    assert!(
        reports.is_empty(),
        "CHFT_ORACLE_SEED={seed}\n{}",
        reports.join("\n")
    );
    // What was compared must have been worth comparing.
    assert!(complete * 2 > count, "most sequences ended early");
    assert!(
        count < DEFAULT_COUNT || drawn.len() > 1100,
        "only {} encodings",
        drawn.len()
    );
}
