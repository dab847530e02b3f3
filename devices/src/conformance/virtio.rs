//! One suite that every virtio device passes.
//!
//! * Under a driver that keeps to the protocol, with requests, inputs, resets and restarts in any
//!   order: a device saved and restored at any point goes on exactly as the original does (state,
//!   memory, interrupts, events), memory outside of offered buffers and used rings stays as it was,
//!   and the device finds nothing wrong.
//! * Under one that writes random bytes into rings, registers and configuration space: nothing
//!   panics, the restored device still equals the original, and a restart makes it work again.
//! * Each fault of [`Hostile`] in each queue sets `NEEDS_RESET`, raises a configuration interrupt,
//!   writes nothing but the notification fields, and is over after a reset.
//!
//! # Panics
//! On every violation: this is test code, public so that other crates can run it on their devices.

use crate::conformance::Random;
use crate::conformance::virtio_driver::{RAM_BASE, RAM_SIZE, Rig};
use crate::device::Device;
use crate::dma::GuestRam;
use crate::pci::PciFunction;
use crate::saved::Section;
use crate::virtio::device::VirtioDevice;
use crate::virtio::event::VirtioEvent;
use crate::virtio::input::VirtioInput;
use crate::virtio::queue::{FEATURE_EVENT_INDEX, FEATURE_INDIRECT};
use crate::virtio::transport::{BAR_SIZE, STATUS_NEEDS_RESET, VirtioPci};

/// Steps in one random sequence.
const SEQUENCE_LENGTH: u32 = 250;

/// What the suite needs to know of a device.
pub trait VirtioSubject: VirtioDevice {
    /// A device to test.
    fn make() -> Self;

    /// A sound request for a queue: bytes to read, and how many to write.
    fn request(queue: usize, random: &mut Random) -> (Vec<u8>, u32);

    /// An input that the host side could give, after these events that it did not answer yet.
    fn host_input(random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput;

    /// An input that makes the device look at a queue, if a notification does not.
    fn provoke(queue: usize) -> Option<VirtioInput>;
}

/// Runs the suite for `rounds` seeds.
///
/// # Panics
/// On the first violation.
pub fn run<S: VirtioSubject>(rounds: u64) {
    let mut served = 0;
    for seed in 1..=rounds {
        served += check_sequence::<S>(seed, false);
        check_sequence::<S>(seed, true);
    }
    assert!(served as u64 >= rounds, "only {served} requests came back");
    for queue in 0..S::make().queue_sizes().len() {
        for hostile in Hostile::ALL {
            check_fault::<S>(queue, hostile);
        }
    }
    check_rings::<S>();
}

fn reload<S: VirtioSubject>(rig: &Rig<S>, seed: u64) -> Rig<S> {
    let section = Section::encode(&rig.function.save());
    let saved = section
        .decode()
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let function = VirtioPci::restore(saved).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let mut copy = rig.clone();
    copy.function = function;
    copy
}

/// One step of a sequence, the same for an original and its copy.
#[derive(Clone, Debug)]
enum Step {
    Request {
        queue: usize,
        readable: Vec<Vec<u8>>,
        writable: Vec<u32>,
        indirect: bool,
    },
    Collect,
    Input(VirtioInput),
    Start(u64),
    Read(u64, u8),
    Scribble(u64, Vec<u8>),
    Write(u64, u8, u64),
    Config(u8, u8, u32),
    Notify(usize),
}

struct Sequence {
    random: Random,
    asked: Vec<VirtioEvent>,
    hostile: bool,
}

impl Sequence {
    fn next<S: VirtioSubject>(&mut self, rig: &Rig<S>) -> Step {
        let hostile = self.hostile;
        let random = &mut self.random;
        if rig.queue_count() == 0 || random.below(60) == 0 {
            return Step::Start(optional(random));
        }
        let queue = random.below(rig.queue_count() as u64) as usize;
        match random.below(if hostile { 14 } else { 10 }) {
            0..=4 if rig.free(queue) >= 8 => {
                let (bytes, len) = S::request(queue, random);
                let mut rest = &bytes[..];
                let mut readable = Vec::new();
                for piece in Rig::<S>::pieces(bytes.len() as u32, random) {
                    let (now, later) = rest.split_at(piece as usize);
                    readable.push(now.to_vec());
                    rest = later;
                }
                Step::Request {
                    queue,
                    readable,
                    writable: Rig::<S>::pieces(len, random),
                    indirect: rig.features() & FEATURE_INDIRECT != 0 && random.below(2) == 0,
                }
            }
            0..=5 => Step::Collect,
            6 => Step::Read(random.below(BAR_SIZE), 1 << random.below(4)),
            7 => Step::Read(random.below(0x38), 1 << random.below(4)),
            8 | 9 => Step::Input(S::host_input(random, &mut self.asked)),
            10 => {
                let count = 1 + random.below(16) as usize;
                let bytes = (0..count).map(|_| random.next() as u8).collect();
                let at = RAM_BASE + random.below(0x1_0000 - 16);
                // Often where it hurts: descriptors, heads and indices at the front of a ring.
                let mask = if random.below(2) == 0 { !0 } else { !0xf80 };
                Step::Scribble(at & mask, bytes)
            }
            11 => {
                let offset = match random.below(4) {
                    0 => random.below(BAR_SIZE + 16),
                    1 => 0x6000 + random.below(16),
                    2 => 0x8000 + random.below(0x60),
                    _ => random.below(0x3a),
                };
                Step::Write(
                    offset,
                    random.below(12) as u8,
                    random.next() >> random.below(64),
                )
            }
            12 => {
                let size = 1 << random.below(3);
                let offset = random.below(256) as u8 & !(size - 1);
                Step::Config(offset, size, random.next() as u32)
            }
            _ => Step::Notify(random.below(5) as usize),
        }
    }
}

/// Feature bits to do without: none, some of the transport's, or a few of any.
fn optional(random: &mut Random) -> u64 {
    match random.below(3) {
        0 => 0,
        1 => random.next() & (FEATURE_INDIRECT | FEATURE_EVENT_INDEX),
        _ => random.next() & random.next() & random.next() & 0x3fff_ffff,
    }
}

fn apply<S: VirtioSubject>(rig: &mut Rig<S>, step: &Step) -> String {
    match step {
        Step::Request {
            queue,
            readable,
            writable,
            indirect,
        } => {
            let readable: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
            if *indirect {
                rig.post_indirect(*queue, &readable, writable);
            } else {
                rig.post(*queue, &readable, writable);
            }
            let before = rig.clone();
            let kicked = rig.kick(*queue, 1);
            if rig.function.fault().is_none() {
                check_untouched(&before, rig, "after a notification");
            }
            kicked.to_string()
        }
        Step::Collect => {
            let queues = 0..rig.queue_count();
            let returned = queues.map(|queue| {
                let mut all = Vec::new();
                while let Some(returned) = rig.returned(queue) {
                    all.push(returned);
                }
                all
            });
            format!("{:?}", returned.collect::<Vec<_>>())
        }
        Step::Input(input) => format!("{:?}", rig.input(input.clone())),
        Step::Start(without) => {
            if !rig.start(*without) {
                assert!(rig.start(0), "all features are refused");
            }
            String::new()
        }
        Step::Read(offset, size) => rig.function.bar_read(0, *offset, *size).to_string(),
        Step::Scribble(at, bytes) => format!("{:?}", rig.ram.write(*at, bytes)),
        Step::Write(offset, size, value) => {
            rig.bar_write(*offset, *size, *value);
            String::new()
        }
        Step::Config(offset, size, value) => {
            rig.config_write(*offset, *size, *value);
            rig.function.config_read(*offset, *size).to_string()
        }
        Step::Notify(queue) => {
            rig.notify(*queue);
            String::new()
        }
    }
}

/// Returns how many requests came back.
fn check_sequence<S: VirtioSubject>(seed: u64, hostile: bool) -> usize {
    let mut sequence = Sequence {
        random: Random::new(seed),
        asked: Vec::new(),
        hostile,
    };
    let mut rig = Rig::new(S::make());
    let mut copy = rig.clone();
    let mut served = 0;
    for count in 0..SEQUENCE_LENGTH {
        let place = || format!("seed {seed}, hostile {hostile}, step {count}");
        if sequence.random.below(15) == 0 {
            copy = reload(&rig, seed);
            assert_eq!(rig, copy, "{}: restored state", place());
        }
        let step = sequence.next(&rig);
        // A driver whose rings were scribbled over cannot read its used ring.
        if hostile && matches!(step, Step::Collect) {
            continue;
        }
        let before = rig.clone();
        let (answer, copied) = (apply(&mut rig, &step), apply(&mut copy, &step));
        assert_eq!(answer, copied, "{}: {step:?}", place());
        served += answer.matches("Returned {").count();
        assert!(rig == copy, "{}: {step:?}", place());
        if !hostile {
            assert_eq!(rig.function.fault(), None, "{}: {step:?}", place());
            if matches!(step, Step::Input(_)) {
                check_untouched(&before, &rig, &place());
            }
        }
        let fresh = rig.take_events();
        copy.take_events();
        rig.messages.clear();
        copy.messages.clear();
        sequence.asked.extend(fresh);
    }
    assert!(rig.start(0), "seed {seed}: no restart");
    assert_eq!(rig.function.fault(), None, "seed {seed}: after a restart");
    served
}

/// Memory differs only where the device may write.
fn check_untouched<S: VirtioSubject>(before: &Rig<S>, after: &Rig<S>, place: &str) {
    let mut shadow = before.ram.clone();
    for (gpa, len) in before.writable_areas() {
        let mut bytes = vec![0; len as usize];
        after.ram.read(gpa, &mut bytes).expect("an area in memory");
        shadow.write(gpa, &bytes).expect("an area in memory");
    }
    assert!(shadow == after.ram, "{place}: memory outside of buffers");
}

/// What a driver can do wrong in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostile {
    /// A chain that comes back to its head.
    Loop,
    /// A head past the end of the table.
    HeadOutOfRange,
    /// A next descriptor past the end of the table.
    NextOutOfRange,
    /// A buffer outside of memory.
    OutOfMemory,
    /// A buffer that wraps around the end of the address space.
    Wrapping,
    /// Nearly 4 GiB, twice.
    Huge,
    /// No bytes.
    Empty,
    /// A buffer to be read after one to be written.
    WrongOrder,
    /// A buffer to be written over the used ring.
    OverRing,
    /// An indirect table in an indirect table.
    NestedIndirect,
    /// An indirect table with a next descriptor.
    ChainedIndirect,
    /// An indirect table with half a descriptor.
    RaggedIndirect,
    /// An indirect table outside of memory.
    IndirectOutOfMemory,
    /// An indirect table with more descriptors than the queue has.
    LongIndirect,
    /// An available index far ahead.
    IndexAhead,
    /// An available index that went back.
    IndexBack,
}

impl Hostile {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Loop,
        Self::HeadOutOfRange,
        Self::NextOutOfRange,
        Self::OutOfMemory,
        Self::Wrapping,
        Self::Huge,
        Self::Empty,
        Self::WrongOrder,
        Self::OverRing,
        Self::NestedIndirect,
        Self::ChainedIndirect,
        Self::RaggedIndirect,
        Self::IndirectOutOfMemory,
        Self::LongIndirect,
        Self::IndexAhead,
        Self::IndexBack,
    ];
}

const END: u64 = RAM_BASE + RAM_SIZE as u64;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Offers something wrong.
fn post_hostile<S: VirtioSubject>(rig: &mut Rig<S>, queue: usize, hostile: Hostile) {
    let [table, _, used] = rig.rings(queue);
    let size = rig.free(queue) as u16;
    let buffer = rig.buffer(64);
    let list = rig.buffer(16 * (u32::from(size) + 2)).next_multiple_of(16);
    let mut put = |index, fields| rig.put_descriptor(table, index, fields);
    match hostile {
        Hostile::Loop => {
            put(0, (buffer, 1, NEXT, 1));
            put(1, (buffer, 1, NEXT, 0));
        }
        Hostile::HeadOutOfRange => return rig.offer_head(queue, size),
        Hostile::NextOutOfRange => put(0, (buffer, 1, NEXT, size)),
        Hostile::OutOfMemory => put(0, (END - 1, 2, WRITE, 0)),
        Hostile::Wrapping => put(0, (u64::MAX, 2, 0, 0)),
        Hostile::Huge => {
            put(0, (buffer, 64, NEXT | WRITE, 1));
            put(1, (buffer, u32::MAX, WRITE, 0));
        }
        Hostile::Empty => put(0, (buffer, 0, 0, 0)),
        Hostile::WrongOrder => {
            put(0, (buffer, 32, NEXT | WRITE, 1));
            put(1, (buffer, 32, 0, 0));
        }
        Hostile::OverRing => put(0, (used + 8, 64, WRITE, 0)),
        Hostile::NestedIndirect => {
            put(0, (list, 16, INDIRECT, 0));
            rig.put_descriptor(list, 0, (list, 16, INDIRECT, 0));
        }
        Hostile::ChainedIndirect => put(0, (list, 16, INDIRECT | NEXT, 1)),
        Hostile::RaggedIndirect => put(0, (list, 24, INDIRECT, 0)),
        Hostile::IndirectOutOfMemory => put(0, (END - 16, 32, INDIRECT, 0)),
        Hostile::LongIndirect => {
            put(0, (list, 16 * (u32::from(size) + 1), INDIRECT, 0));
            for index in 0..=size {
                let flags = if index < size { NEXT } else { 0 };
                rig.put_descriptor(list, index, (buffer, 1, flags, index + 1));
            }
        }
        Hostile::IndexAhead => return rig.set_available_index(queue, size + 1),
        Hostile::IndexBack => return rig.set_available_index(queue, u16::MAX),
    }
    rig.offer_head(queue, 0);
}

fn check_fault<S: VirtioSubject>(queue: usize, hostile: Hostile) {
    let place = format!("queue {queue}, {hostile:?}");
    let mut rig = Rig::started(S::make(), 0);
    post_hostile(&mut rig, queue, hostile);
    let before = rig.clone();
    rig.messages.clear();
    if let Some(input) = S::provoke(queue) {
        let outcome = rig.input(input);
        assert!(outcome.is_ok(), "{place}: {outcome:?}");
    }
    rig.notify(queue);
    let fault = rig.function.fault();
    assert!(fault.is_some(), "{place}: no fault");
    assert_ne!(rig.status() & STATUS_NEEDS_RESET, 0, "{place}: NEEDS_RESET");
    let config = rig.queue_count() as u32;
    assert_eq!(rig.take_vectors(), [config], "{place}: interrupts");
    let faults = rig.take_events();
    let faults = faults
        .iter()
        .filter(|event| matches!(event, VirtioEvent::Fault(_)));
    assert_eq!(faults.count(), 1, "{place}: fault events");
    check_untouched(&before, &rig, &place);

    // Stopped: nothing happens until the reset.
    let stopped = rig.clone();
    for other in 0..rig.queue_count() {
        rig.notify(other);
    }
    assert!(rig == stopped, "{place}: a stopped device works");
    assert!(reload(&rig, 0) == rig, "{place}: restored state");
    assert!(rig.start(0), "{place}: no restart");
    assert_eq!(rig.function.fault(), None, "{place}: after the reset");
    assert_eq!(rig.status() & STATUS_NEEDS_RESET, 0, "{place}: status");
}

/// Rings that are not in memory, not aligned or overlap are refused when they are enabled.
fn check_rings<S: VirtioSubject>() {
    let rings = [RAM_BASE, RAM_BASE + 0x2000, RAM_BASE + 0x4000];
    let wrong = [
        (0, RAM_BASE + 8),
        (1, RAM_BASE + 0x2001),
        (2, RAM_BASE + 0x4002),
        (0, END),
        (1, END - 2),
        (2, !3),
        (2, rings[1]),
        (1, rings[0] + 16),
    ];
    for (ring, gpa) in wrong {
        let mut rig = Rig::new(S::make());
        assert!(rig.negotiate(0));
        let mut addresses = rings;
        addresses[ring] = gpa;
        for (register, address) in [0x20, 0x28, 0x30].into_iter().zip(addresses) {
            rig.write_common(register, 8, address);
        }
        rig.write_common(0x1c, 2, 1);
        assert_ne!(
            rig.status() & STATUS_NEEDS_RESET,
            0,
            "ring {ring} at {gpa:#x}"
        );
        assert_eq!(rig.read_common(0x1c, 2), 0, "ring {ring} at {gpa:#x}");
        rig.write_common(0x14, 1, 0x0f);
        rig.notify(0);
        assert_eq!(rig.function.driver_features(), None);
    }
}

#[cfg(test)]
mod tests;
