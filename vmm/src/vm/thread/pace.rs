//! How long a machine executes between two looks at the world.

use ft::machine::{Machine, TimeUnit};
use ft::record::Pace;

use crate::machine::VirtualMachine;

/// How long a machine executes at a time. One whose time is the host's comes back at once when it
/// is kicked, as it is for every input, and coming back for nothing costs it two switches of mode.
pub(super) fn pace(machine: &VirtualMachine) -> Pace {
    let usual = Pace::default();
    match machine.time_unit() {
        TimeUnit::Instructions => usual,
        TimeUnit::Nanoseconds => Pace {
            slice_ns: 4 * usual.slice_ns,
            ..usual
        },
    }
}
