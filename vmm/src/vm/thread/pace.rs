//! How long a machine executes between two looks at the world.

use ft::machine::{Machine, TimeUnit};
use ft::record::Pace;

use crate::machine::VirtualMachine;

/// A slice is so many times as long as coming back from the guest takes: it keeps four fifths of
/// its time at worst. Where that costs two microseconds this is no bound; under a hypervisor of
/// another hypervisor's or an emulator it costs tens or hundreds, and a guest in shorter slices
/// stands still.
const LEAST_SWITCHES: u64 = 4;

/// How long a machine executes at a time. One whose time is the host's comes back at once when it
/// is kicked, as it is for every input, and coming back for nothing costs it two switches of mode.
pub(super) fn pace(machine: &VirtualMachine) -> Pace {
    let usual = Pace::default();
    match machine.time_unit() {
        TimeUnit::Instructions => usual,
        TimeUnit::Nanoseconds => {
            let least_ns = machine.switch_ns().saturating_mul(LEAST_SWITCHES);
            let slice_ns = least_ns.max(4 * usual.slice_ns);
            Pace {
                slice_ns,
                linger_ns: least_ns.max(usual.linger_ns),
                max_instructions: slice_ns.max(usual.max_instructions),
                least_ns,
                ..usual
            }
        }
    }
}
