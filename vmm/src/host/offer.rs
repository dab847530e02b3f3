//! How the host side of a virtio device offers inputs to the machine.

use std::sync::Arc;
use std::time::Duration;

use devices::virtio::input::VirtioInput;

use super::wake::Wake;

/// Gives an input to the machine's thread; `false` when its queue is full, and then the input is
/// gone: a frame is lost, and whoever must not lose it keeps a copy. Never waits.
pub type Offer = Arc<dyn Fn(VirtioInput) -> bool + Send + Sync>;

/// How long to wait before an input is offered again.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// Offers an input until it is taken; `false` when `wake` was told to stop first.
///
/// # Errors
/// When the host cannot wait.
pub fn offer_until_taken(offer: &Offer, input: &VirtioInput, wake: &Wake) -> std::io::Result<bool> {
    while !wake.is_stopped() {
        if offer(input.clone()) {
            return Ok(true);
        }
        wake.wait(RETRY_INTERVAL)?;
    }
    Ok(false)
}
