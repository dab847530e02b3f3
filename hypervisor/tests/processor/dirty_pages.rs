//! Which pages a guest on KVM wrote: told by the dirty log, by the dirty ring, and by a ring that is
//! full again and again, it is the same pages.

// One test times a guest.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use hypervisor::kvm::{DirtyTracking, KvmHypervisor};
use hypervisor::memory::PAGE_SIZE;
use iced_x86::code_asm::{CodeAssembler, byte_ptr, ecx, rdi, rsi};

use crate::conformance::{halt, is_bench, kvm, skip};
use crate::guest::{CODE, Guest};

const MEMORY: u64 = 16 << 20;
const LARGE_PAGE: u64 = 2 << 20;
/// Where the written pages are: behind the system's own.
const FIRST: u64 = 2 * LARGE_PAGE / PAGE_SIZE;
/// So many that a small ring is full twice.
const MANY: u64 = 2560;
/// A guest whose written pages nobody collects is not slower by so much because a small ring is full
/// again and again. Protecting the pages each time makes it 17 times as slow in the bench.
const MOST_SLOWDOWN: u32 = 5;
/// The smallest ring that KVM takes on every processor.
const SMALL: u32 = 1024;

/// Writes a byte of each of ECX pages from RDI on, RSI bytes apart.
fn sweep(a: &mut CodeAssembler) {
    let mut again = a.create_label();
    a.set_label(&mut again).unwrap();
    a.inc(byte_ptr(rdi)).unwrap();
    a.add(rdi, rsi).unwrap();
    a.dec(ecx).unwrap();
    a.jne(again).unwrap();
    a.hlt().unwrap();
}

/// Pages that a sweep writes: the first of them, how many, and how far apart.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    first: u64,
    count: u64,
    apart: u64,
}

impl Sweep {
    const fn new(first: u64, count: u64, apart: u64) -> Self {
        Self {
            first,
            count,
            apart,
        }
    }

    fn pages(self) -> Vec<u64> {
        (0..self.count)
            .map(|page| self.first + page * self.apart)
            .collect()
    }

    fn run(self, guest: &mut Guest) {
        guest.set_state(|state| {
            state.gpr[1] = self.count;
            state.gpr[6] = self.apart * PAGE_SIZE;
            state.gpr[7] = self.first * PAGE_SIZE;
            state.rip = CODE;
        });
        halt(guest);
    }
}

/// Rounds of sweeps; after each round the pages are collected.
const ROUNDS: [&[Sweep]; 6] = [
    &[Sweep::new(FIRST, MANY, 1)],
    // All of it again, twice: what was written between two fillings counts once.
    &[Sweep::new(FIRST, MANY, 1), Sweep::new(FIRST, MANY, 1)],
    &[Sweep::new(FIRST + 1, 100, 7)],
    &[Sweep::new(FIRST, 1, 1)],
    &[
        Sweep::new(FIRST, MANY / 2, 2),
        Sweep::new(FIRST + 5, 9, 200),
    ],
    &[Sweep::new(FIRST, MANY, 1)],
];

fn guest(kvm: KvmHypervisor, tracking: DirtyTracking) -> Guest {
    let guest = Guest::of_size(&kvm.tracking_by(tracking), MEMORY, sweep);
    for large in 1..MEMORY / LARGE_PAGE {
        guest.map_large(large * LARGE_PAGE);
    }
    guest
}

/// The pages from [`FIRST`] on that KVM tells of after each round.
fn told(kvm: KvmHypervisor, tracking: DirtyTracking) -> Vec<Vec<u64>> {
    let mut guest = guest(kvm, tracking);
    let take = |guest: &Guest| -> Vec<u64> {
        guest.vcpu.collect_written();
        let pages = guest.memory.take_dirty().into_iter();
        pages.filter(|page| *page >= FIRST).collect()
    };
    assert_eq!(take(&guest), [0; 0], "nothing has run");
    let mut all = Vec::new();
    for round in ROUNDS {
        round.iter().for_each(|sweep| sweep.run(&mut guest));
        all.push(take(&guest));
        assert_eq!(take(&guest), [0; 0], "nothing has run since");
    }
    all
}

fn expected() -> Vec<Vec<u64>> {
    let pages = |round: &&[Sweep]| {
        let mut pages: Vec<u64> = round.iter().flat_map(|sweep| sweep.pages()).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    };
    ROUNDS.iter().map(pages).collect()
}

/// The shortest of a few sweeps whose pages nobody collects.
fn uncollected(kvm: KvmHypervisor, tracking: DirtyTracking) -> Duration {
    let mut guest = guest(kvm, tracking);
    let sweep = || {
        let begun = Instant::now();
        Sweep::new(FIRST, MANY, 1).run(&mut guest);
        begun.elapsed()
    };
    let sweeps: Vec<Duration> = std::iter::repeat_with(sweep).take(20).collect();
    let shortest = sweeps.into_iter().min().unwrap();
    eprintln!("a sweep that nobody collects, by {tracking:?}: {shortest:?}");
    shortest
}

fn open() -> Option<KvmHypervisor> {
    kvm()
        .map_err(|reason| skip(&format!("dirty pages on KVM: {reason}")))
        .ok()
}

#[test]
fn the_dirty_log_tells_of_every_written_page_once() {
    if let Some(kvm) = open() {
        assert_eq!(told(kvm, DirtyTracking::Log), expected());
    }
}

#[test]
fn the_dirty_ring_tells_of_the_same_pages_however_small_it_is() {
    let Some(kvm) = open() else {
        return;
    };
    let DirtyTracking::Ring(entries) = kvm.dirty_tracking() else {
        assert!(!is_bench(), "the bench's KVM has a ring");
        skip("dirty ring of KVM: this one has none that works");
        return;
    };
    assert!(u64::from(SMALL) < MANY && MANY < u64::from(entries));
    assert_eq!(told(kvm, DirtyTracking::Ring(entries)), expected());
    let kvm = KvmHypervisor::open().unwrap();
    assert_eq!(told(kvm, DirtyTracking::Ring(SMALL)), expected());
}

#[test]
fn a_full_ring_does_not_slow_a_guest_down_whose_pages_nobody_collects() {
    let (Some(kvm), Some(other)) = (open(), open()) else {
        return;
    };
    if kvm.dirty_tracking() == DirtyTracking::Log {
        skip("full dirty ring of KVM: this one has none that works");
        return;
    }
    let by_log = uncollected(kvm, DirtyTracking::Log);
    let by_ring = uncollected(other, DirtyTracking::Ring(SMALL));
    assert!(by_ring < by_log * MOST_SLOWDOWN, "{by_ring:?}, {by_log:?}");
}
