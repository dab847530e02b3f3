//! The suite finds what it is there to find.

use serde::{Deserialize, Serialize};

use super::*;
use crate::pci::config_space::BarWidth;
use crate::saved::RestoreError;
use crate::virtio::device::{Context, VirtioIdentity};
use crate::virtio::fault::Fault;
use crate::virtio::input::{InputFailure, InputOutcome};

/// What is wrong with a toy.
const SOUND: u8 = 0;
const WRITES_TOO_MUCH: u8 = 1;
const FORGETS: u8 = 2;
const SWALLOWS_FAULTS: u8 = 3;
const KEEPS_STATE: u8 = 4;
const PANICS: u8 = 5;

/// Fills buffers with a count of the requests so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Toy<const FLAW: u8> {
    count: u8,
}

impl<const FLAW: u8> Toy<FLAW> {
    fn serve(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(chain) = cx.pop(0)? {
            self.count = self.count.wrapping_add(1);
            let len = chain.writable_len();
            assert!(FLAW != PANICS || len < 90, "{len} bytes");
            chain.write(cx.ram, 0, &vec![self.count; len as usize])?;
            if let (WRITES_TOO_MUCH, Some(last)) = (FLAW, chain.writable.last()) {
                let beyond = last.gpa + u64::from(last.len);
                cx.ram.write(beyond, &[self.count])?;
            }
            cx.push(0, chain.head, len)?;
        }
        cx.want_notification(0, true)
    }
}

impl<const FLAW: u8> VirtioDevice for Toy<FLAW> {
    type Saved = Self;

    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity {
            name: "toy",
            type_id: 42,
            class: 0xff_ff00,
            bar: BarWidth::Bits64,
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[32]
    }

    fn config_read(&self, _offset: usize, into: &mut [u8]) {
        into.fill(self.count);
    }

    fn notify(&mut self, _queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        let result = self.serve(cx);
        if FLAW == SWALLOWS_FAULTS {
            return Ok(());
        }
        result
    }

    fn input(
        &mut self,
        _input: VirtioInput,
        _cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        Ok(InputOutcome::Taken)
    }

    fn reset(&mut self) {
        self.count = 0;
    }

    fn save(&self) -> Self {
        let count = if FLAW == FORGETS { 0 } else { self.count };
        Self { count }
    }

    fn restore(saved: Self) -> Result<Self, RestoreError> {
        let count = saved.count;
        Ok(Self {
            count: if FLAW == KEEPS_STATE {
                count | 1
            } else {
                count
            },
        })
    }
}

impl<const FLAW: u8> VirtioSubject for Toy<FLAW> {
    fn make() -> Self {
        Self { count: 0 }
    }

    fn request(_queue: usize, random: &mut Random) -> (Vec<u8>, u32) {
        (
            vec![1; random.below(20) as usize],
            1 + random.below(90) as u32,
        )
    }

    fn host_input(_random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput {
        asked.clear();
        VirtioInput::NetAnnounce
    }

    fn provoke(_queue: usize) -> Option<VirtioInput> {
        None
    }
}

#[test]
fn a_sound_device_passes() {
    run::<Toy<SOUND>>(10);
}

#[test]
#[should_panic(expected = "memory outside of buffers")]
fn a_write_beyond_a_buffer_is_found() {
    run::<Toy<WRITES_TOO_MUCH>>(10);
}

#[test]
#[should_panic(expected = "restored state")]
fn an_unsaved_field_is_found() {
    run::<Toy<FORGETS>>(10);
}

#[test]
#[should_panic(expected = "restored state")]
fn a_restored_field_that_differs_is_found() {
    run::<Toy<KEEPS_STATE>>(10);
}

#[test]
#[should_panic(expected = "no fault")]
fn a_swallowed_fault_is_found() {
    run::<Toy<SWALLOWS_FAULTS>>(10);
}

#[test]
#[should_panic(expected = "90 bytes")]
fn a_panic_is_found() {
    run::<Toy<PANICS>>(30);
}
