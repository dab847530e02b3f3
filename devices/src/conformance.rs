//! One suite that every device passes, whatever it is.
//!
//! A device under test is driven by random accesses of all sizes at random addresses and times.
//! The suite checks that nothing panics and that
//!
//! * resetting twice is resetting once;
//! * a device saved, encoded, decoded and restored at any point equals the original, and goes on
//!   to answer every later access as the original does;
//! * advancing in one step or in many gives the same state, and the same saved bytes;
//! * after `advance(now)` no deadline is at or before `now`.
//!
//! Sequences come from a seed, so that a failure names the seed that repeats it.
//!
//! # Panics
//! On every violation: this is test code, public so that other crates can run it on their devices.

pub mod virtio;
pub mod virtio_driver;

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::saved::Section;

/// Accesses in one random sequence.
const SEQUENCE_LENGTH: u32 = 300;

/// A device with a uniform way to reach its registers and inputs.
pub trait Subject: Device {
    /// Addresses worth hitting, in whatever numbering the next two methods understand. Addresses
    /// near
    /// them and entirely random ones are tried as well. Repeat an address to hit it more often.
    fn addresses() -> Vec<u64>;

    /// A guest read, or a readable output of the device.
    fn guest_read(&mut self, address: u64, size: u8, now: VirtualTime) -> u64;

    /// A guest write, or an input to the device.
    fn guest_write(&mut self, address: u64, size: u8, value: u64, now: VirtualTime);
}

/// Runs the suite for `rounds` seeds on devices that `make` creates.
///
/// # Panics
/// On the first violation.
pub fn run<S: Subject>(make: impl Fn() -> S, rounds: u64) {
    for seed in 1..=rounds {
        check_restore(&mut make(), seed);
        check_steps(&mut make(), seed);
        check_reset(&mut make(), seed);
    }
}

/// A small deterministic generator (SplitMix64), for tests.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What one random step does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read {
        address: u64,
        size: u8,
        now: VirtualTime,
    },
    Write {
        address: u64,
        size: u8,
        value: u64,
        now: VirtualTime,
    },
    Advance {
        now: VirtualTime,
    },
}

struct Steps {
    random: Random,
    addresses: Vec<u64>,
    now: VirtualTime,
}

impl Steps {
    fn new<S: Subject>(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            addresses: S::addresses(),
            now: VirtualTime::ZERO,
        }
    }

    fn next(&mut self) -> Step {
        // From nanoseconds to about a minute, because timers differ that much.
        let magnitude = self.random.below(37);
        let elapsed = self.random.below(1 << magnitude);
        self.now = VirtualTime(self.now.0.saturating_add(elapsed));
        let (size, now) = (self.size(), self.now);
        match self.random.below(8) {
            0 => Step::Advance { now },
            1..=3 => Step::Read {
                address: self.address(),
                size,
                now,
            },
            _ => Step::Write {
                address: self.address(),
                size,
                value: self.value(),
                now,
            },
        }
    }

    fn size(&mut self) -> u8 {
        match self.random.below(12) {
            0..=4 => 1,
            5 => 2,
            6..=8 => 4,
            9 | 10 => 8,
            _ => self.random.next() as u8,
        }
    }

    fn address(&mut self) -> u64 {
        let index = self.random.below(self.addresses.len() as u64) as usize;
        let base = self.addresses[index];
        match self.random.below(16) {
            0 => self.random.next(),
            1 => base.wrapping_add(self.random.below(16)).wrapping_sub(8),
            _ => base,
        }
    }

    fn value(&mut self) -> u64 {
        let value = self.random.next();
        match self.random.below(4) {
            0 => value,
            1 => 1 << (value % 64),
            2 => value & 0xff,
            _ => value & 0x3_ffff,
        }
    }
}

fn apply<S: Subject>(device: &mut S, step: Step) -> u64 {
    match step {
        Step::Read { address, size, now } => device.guest_read(address, size, now),
        Step::Write {
            address,
            size,
            value,
            now,
        } => {
            device.guest_write(address, size, value, now);
            0
        }
        Step::Advance { now } => {
            device.advance(now);
            0
        }
    }
}

fn reload<S: Subject>(device: &S, seed: u64) -> S {
    let section = Section::encode(&device.save());
    let saved = section
        .decode()
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    S::restore(saved).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
}

fn check_restore<S: Subject>(device: &mut S, seed: u64) {
    let mut steps = Steps::new::<S>(seed);
    let mut copy = device.clone();
    for count in 0..SEQUENCE_LENGTH {
        if steps.random.below(20) == 0 {
            copy = reload(device, seed);
            assert_eq!(*device, copy, "seed {seed}, step {count}: restored state");
        }
        let step = steps.next();
        let (answer, copy_answer) = (apply(device, step), apply(&mut copy, step));
        assert_eq!(answer, copy_answer, "seed {seed}, step {count}: {step:?}");
        assert_eq!(*device, copy, "seed {seed}, step {count}: {step:?}");
    }
}

fn check_steps<S: Subject>(device: &mut S, seed: u64) {
    let mut steps = Steps::new::<S>(seed.wrapping_mul(3));
    for count in 0..SEQUENCE_LENGTH {
        apply(device, steps.next());
        let start = steps.now;
        device.advance(start);
        let mut slow = device.clone();
        steps.next();
        for _ in 0..steps.random.below(6) {
            let middle = start.0 + steps.random.below(steps.now.since(start) + 1);
            if slow
                .next_deadline()
                .is_none_or(|deadline| deadline.0 > middle)
            {
                slow.advance(VirtualTime(middle));
            }
        }
        while let Some(deadline) = slow.next_deadline().filter(|at| *at <= steps.now) {
            slow.advance(deadline);
            check_deadline(&slow, deadline, seed);
            // A fast periodic timer has too many deadlines to visit them all.
            if steps.random.below(8) == 0 {
                break;
            }
        }
        slow.advance(steps.now);
        device.advance(steps.now);
        assert_eq!(
            *device, slow,
            "seed {seed}, step {count}: one step and many differ"
        );
        let bytes = Section::encode(&device.save());
        assert_eq!(
            bytes,
            Section::encode(&slow.save()),
            "seed {seed}, step {count}"
        );
        check_deadline(device, steps.now, seed);
    }
}

fn check_deadline<S: Subject>(device: &S, now: VirtualTime, seed: u64) {
    if let Some(deadline) = device.next_deadline() {
        assert!(
            deadline > now,
            "seed {seed}: deadline {deadline} is not after {now}"
        );
    }
}

fn check_reset<S: Subject>(device: &mut S, seed: u64) {
    let mut steps = Steps::new::<S>(seed.wrapping_mul(5));
    for _ in 0..SEQUENCE_LENGTH {
        apply(device, steps.next());
    }
    device.reset(steps.now);
    let once = device.clone();
    device.reset(steps.now);
    assert_eq!(
        *device, once,
        "seed {seed}: a second reset changes something"
    );
    check_deadline(device, steps.now, seed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saved::{RestoreError, SavedState};
    use serde::{Deserialize, Serialize};

    /// A timer that can be broken in the ways that the suite must notice.
    #[derive(Clone, Debug, PartialEq)]
    struct Toy {
        fault: Fault,
        period: u64,
        next: VirtualTime,
        fired: bool,
        advances: u64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    enum Fault {
        None,
        CountsAdvances,
        ForgetsPeriod,
        ResetToggles,
        DeadlineStays,
        PanicsOnWideAccess,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct ToyStateV1(Fault, u64, VirtualTime, bool, u64);

    impl SavedState for ToyStateV1 {
        const KIND: &'static str = "toy";
        const VERSION: u16 = 1;
    }

    impl Toy {
        fn new(fault: Fault) -> Self {
            Self {
                fault,
                period: 1000,
                next: VirtualTime(1000),
                fired: false,
                advances: 0,
            }
        }
    }

    impl Device for Toy {
        type Saved = ToyStateV1;

        fn reset(&mut self, now: VirtualTime) {
            let fired = self.fault == Fault::ResetToggles && !self.fired;
            let next = VirtualTime(now.0 + 1000);
            *self = Self {
                next,
                fired,
                ..Self::new(self.fault)
            };
        }

        fn advance(&mut self, now: VirtualTime) {
            self.advances += u64::from(self.fault == Fault::CountsAdvances);
            if self.next <= now && self.fault != Fault::DeadlineStays {
                self.fired = true;
                let late = now.since(self.next) % self.period;
                self.next = VirtualTime(now.0 - late + self.period);
            }
        }

        fn next_deadline(&self) -> Option<VirtualTime> {
            Some(self.next)
        }

        fn save(&self) -> ToyStateV1 {
            let forgets = self.fault == Fault::ForgetsPeriod;
            let period = if forgets { 1000 } else { self.period };
            ToyStateV1(self.fault, period, self.next, self.fired, self.advances)
        }

        fn restore(saved: ToyStateV1) -> Result<Self, RestoreError> {
            let ToyStateV1(fault, period, next, fired, advances) = saved;
            Ok(Self {
                fault,
                period,
                next,
                fired,
                advances,
            })
        }
    }

    impl Subject for Toy {
        fn addresses() -> Vec<u64> {
            vec![0]
        }

        fn guest_read(&mut self, _address: u64, size: u8, now: VirtualTime) -> u64 {
            assert!(
                self.fault != Fault::PanicsOnWideAccess || size <= 8,
                "size {size}"
            );
            self.advance(now);
            u64::from(std::mem::replace(&mut self.fired, false))
        }

        fn guest_write(&mut self, _address: u64, _size: u8, value: u64, now: VirtualTime) {
            self.advance(now);
            self.period = 1 + (value & 0xffff);
        }
    }

    #[test]
    fn a_sound_device_passes() {
        run(|| Toy::new(Fault::None), 10);
    }

    #[test]
    #[should_panic(expected = "one step and many differ")]
    fn state_that_depends_on_polling_is_found() {
        run(|| Toy::new(Fault::CountsAdvances), 10);
    }

    #[test]
    #[should_panic(expected = "restored state")]
    fn an_unsaved_field_is_found() {
        run(|| Toy::new(Fault::ForgetsPeriod), 10);
    }

    #[test]
    #[should_panic(expected = "a second reset changes something")]
    fn a_reset_that_depends_on_the_state_is_found() {
        run(|| Toy::new(Fault::ResetToggles), 10);
    }

    #[test]
    #[should_panic(expected = "is not after")]
    fn a_deadline_in_the_past_is_found() {
        run(|| Toy::new(Fault::DeadlineStays), 10);
    }

    #[test]
    #[should_panic(expected = "size ")]
    fn a_panic_on_an_odd_size_is_found() {
        run(|| Toy::new(Fault::PanicsOnWideAccess), 10);
    }
}
