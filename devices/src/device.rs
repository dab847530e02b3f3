//! What every device is: a register core that changes only when it is told to.
//!
//! Register reads and writes are inherent methods, because their shapes differ; the board knows
//! them all. This trait is what the devices have in common and what [`crate::conformance`] checks.
//!
//! Order of use: vCPUs stop, `advance` to the logical time, `save`; later `restore`, vCPUs start.
//! After `advance(now)` the state depends only on the accesses so far and on `now`, not on which
//! other `advance` calls were made in between. That is what lets two hosts poll at different
//! moments and still agree on a digest.

use std::fmt::Debug;

use crate::clock::VirtualTime;
use crate::saved::{RestoreError, SavedState};

/// A deterministic guest-visible device.
pub trait Device: Clone + PartialEq + Debug {
    /// The current version of the saved form.
    type Saved: SavedState;

    /// Puts the device in its power-on state at `now`, keeping its configuration.
    fn reset(&mut self, now: VirtualTime);

    /// Lets everything happen that is due at or before `now`.
    fn advance(&mut self, now: VirtualTime);

    /// Earliest time at which the guest could notice a change that it did not cause by an access.
    ///
    /// `None` when nothing is scheduled or the effect is masked. After `advance(now)` it is later
    /// than `now`.
    fn next_deadline(&self) -> Option<VirtualTime>;

    /// The complete state.
    fn save(&self) -> Self::Saved;

    /// Rebuilds a device from a saved state.
    ///
    /// # Errors
    /// If a field has a value that this device can never reach.
    fn restore(saved: Self::Saved) -> Result<Self, RestoreError>;
}
