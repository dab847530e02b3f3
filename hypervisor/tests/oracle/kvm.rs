//! The sequences in a guest on KVM, next to both others.
//!
//! The guest's processor is the host's own, so it must end each sequence as the host itself does:
//! what differs is lost or invented by the backend on the way into the guest or out of it. It must
//! end it as the software processor does, too, wherever that one agrees with the host. On a real
//! processor of the model that is everywhere, which the oracle proper holds; an emulated one, as in
//! the KVM bench, executes some instructions differently, and then the two judge each other.

use std::io::Write;

use hypervisor::kvm::KvmHypervisor;
use hypervisor::software::vcpu::SoftwareVcpu;

use crate::compare::{differences, listing};
use crate::guest::Guest;
use crate::layout::{Ended, State};
use crate::native::Native;
use crate::random::Random;
use crate::sequence::Sequence;
use crate::{
    DEFAULT_SEED, MOST_REPORTS, catalogue, missing_feature, random_sequence, random_state, seed_of,
    setting,
};

/// Sequences, unless `CHFT_ORACLE_COUNT` says otherwise: an emulated host is slow.
const DEFAULT_COUNT: u64 = 1_000;

/// Tells why the test is left out, as `scripts/test` counts it.
fn skip(reason: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nSKIP: the oracle in a guest: {reason}");
}

/// Whether the processor notices in a guest that the instruction behind a store was changed by it,
/// as every real one does. QEMU's TCG (7.2) does so on its own, but not in a guest.
fn notices_stores_to_code(native: &mut Native, guest: &mut Guest) -> bool {
    let start = random_state(&mut Random::new(DEFAULT_SEED));
    let mut sequence = Sequence::default();
    // mov dword ptr [rip + 1], 0x11223344; mov eax, 0
    sequence.push_bytes(&[0xc7, 0x05, 1, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
    sequence.push_bytes(&[0xb8, 0, 0, 0, 0]);
    let code = sequence.code(sequence.marks.len());
    let real = native.run(&code, &start);
    assert_eq!(real.state.gpr[0], 0x1122_3344, "the host notices");
    // As often as not the first one is noticed.
    (0..4).all(|_| {
        let ended = guest.run(&code, &start, None);
        ended.is_ok_and(|ended| ended.state.gpr[0] == real.state.gpr[0])
    })
}

/// How a sequence ended in the three places.
struct Ends {
    real: Ended,
    guest: Result<Ended, String>,
    software: Result<Ended, String>,
}

impl Ends {
    fn of(places: (&mut Native, &mut Guest, &mut Guest), code: &[u8], start: &State) -> Self {
        let (native, guest, software) = places;
        Self {
            real: native.run(code, start),
            guest: guest.run(code, start, None),
            software: software.run(code, start, None),
        }
    }

    /// What the guest has otherwise than the host.
    fn other_than_host(&self, sequence: &Sequence) -> String {
        between(sequence, &self.guest, &self.real)
    }

    /// Whether software agrees with the host.
    fn host_is_the_model(&self, sequence: &Sequence) -> bool {
        between(sequence, &self.software, &self.real).is_empty()
    }

    /// What the guest has otherwise than software.
    fn other_than_software(&self, sequence: &Sequence) -> String {
        match &self.software {
            Ok(software) => between(sequence, &self.guest, software),
            Err(text) => format!("  the software processor stopped: {text}\n"),
        }
    }
}

fn between(sequence: &Sequence, ours: &Result<Ended, String>, other: &Ended) -> String {
    match ours {
        Ok(ended) => differences(sequence, ended, other),
        Err(text) => format!("  the processor stopped: {text}\n"),
    }
}

#[test]
fn random_sequences_end_in_a_guest_on_kvm_as_on_the_host_and_in_software() {
    let wanted = std::env::var_os("CHFT_KVM").is_some();
    let kvm = match KvmHypervisor::open() {
        Ok(kvm) => kvm,
        Err(error) if wanted => panic!("{error}"),
        Err(error) => return skip(&error.to_string()),
    };
    if let Some(feature) = missing_feature() {
        return skip(&format!("this host has no {feature}"));
    }
    let codes = catalogue::codes();
    let seed = setting("CHFT_ORACLE_SEED", DEFAULT_SEED);
    let count = setting("CHFT_ORACLE_COUNT", DEFAULT_COUNT);
    let (mut native, mut guest) = (Native::new().unwrap(), Guest::of(&kvm));
    let mut software = Guest::of_software(SoftwareVcpu::interpreting);
    let notices = notices_stores_to_code(&mut native, &mut guest);
    let (mut complete, mut alike, mut left_out) = (0, 0, 0);
    let mut reports = Vec::new();
    for index in 0..count {
        let mut random = Random::new(seed_of(seed, index));
        let start = random_state(&mut random);
        let sequence = random_sequence(&codes, &mut random);
        if !notices && sequence.modifies_itself() {
            left_out += 1;
            continue;
        }
        let code = sequence.code(sequence.marks.len());
        let ends = Ends::of((&mut native, &mut guest, &mut software), &code, &start);
        complete += u64::from(ends.real.rip == sequence.here());
        let mut text = ends.other_than_host(&sequence);
        if ends.host_is_the_model(&sequence) {
            alike += 1;
            text += &ends.other_than_software(&sequence);
        }
        if !text.is_empty() {
            let listing = listing(&sequence, None);
            reports.push(format!(
                "sequence {index}, ours in the guest:\n{listing}{text}"
            ));
        }
        if reports.len() == MOST_REPORTS {
            break;
        }
    }
    eprintln!(
        "seed {seed}: {count} sequences in a guest, {complete} complete, {alike} on a host that is \
         as the model, {left_out} left out because they change their own code"
    );
    assert!(
        reports.is_empty(),
        "CHFT_ORACLE_SEED={seed}\n{}",
        reports.join("\n")
    );
    // What was compared must have been worth comparing.
    let run = count - left_out;
    assert!(complete * 2 > run, "most of {run} sequences ended early");
    assert!(
        alike * 8 > run,
        "{alike} of {run}: this host is hardly of the model"
    );
}
