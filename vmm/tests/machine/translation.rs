//! Translated and interpreted code go through the same states: the same guest both ways, compared
//! at logical times that cut blocks anywhere.

use ft::event::{ClockRate, ClockSync, Input};
use ft::machine::{Machine, Stop};
use ft::time::LogicalTime;
use vmm::machine::VirtualMachine;

use crate::guest;

/// Comparisons.
const STEPS: u64 = 300;
/// Most instructions between two of them.
const LONGEST_STEP: u64 = 1_000_000;

/// Runs up to `until`; a guest that sleeps is woken when it wants to be. What it put out.
fn run(machine: &mut VirtualMachine, until: LogicalTime) -> Vec<u8> {
    let mut printed = Vec::new();
    while machine.now() < until {
        match machine.advance(until) {
            Stop::Reached | Stop::Kicked => {}
            Stop::Output => {
                let outputs = machine.take_outputs();
                printed.extend(outputs.into_iter().flat_map(|output| output.payload));
            }
            Stop::Idle { wake_ns } => {
                let sync = ClockSync {
                    virtual_ns: wake_ns.unwrap(),
                    rate: ClockRate::INITIAL,
                };
                machine.inject(&Input::Clock(sync)).unwrap();
            }
            stop => panic!("the guest does not go on: {stop:?}"),
        }
    }
    printed
}

#[test]
fn translated_and_interpreted_guests_go_through_the_same_states() {
    let Some(snapshot) = guest::snapshot_or_skip() else {
        return;
    };
    let mut interpreted = snapshot.interpreted_machine();
    let mut translated = snapshot.machine();
    let mut until = interpreted.now();
    let mut draw = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..STEPS {
        draw = draw.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        until = LogicalTime(until.0 + 1 + (draw >> 33) % LONGEST_STEP);
        let wanted = run(&mut interpreted, until);
        assert_eq!(run(&mut translated, until), wanted, "output up to {until}");
        assert_eq!(translated.sections(), interpreted.sections(), "at {until}");
        let written = interpreted.take_dirty_pages();
        assert_eq!(translated.take_dirty_pages(), written, "at {until}");
        for page in written {
            let digest = interpreted.page_digest(page);
            assert_eq!(translated.page_digest(page), digest, "{page} at {until}");
        }
    }
}
