//! The host side of a network card: a tap.
//!
//! ```text
//! NetTransmit ─▶ write ─▶ tap ─▶ bridge, routes       (not taken at once: dropped and counted)
//! tap ─▶ thread ─▶ NetReceive, offered                (not taken at once: dropped and counted)
//! ```
//!
//! Frames have the same header here as in the guest, so none is converted. Before the driver is
//! ready the tap's frames are thrown away here, where they cost no input.
//!
//! Left out: several queues, a tap from an inherited descriptor.

mod announce;
mod control;
mod counters;
mod device;
mod error;

#[cfg(test)]
mod tests;

use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::virtio::input::VirtioInput;
use devices::virtio::net::{NET_FRAME_MAX, NET_FRAME_MIN, NET_HEADER_SIZE};
use devices::virtio::payload::Payload;
use rustix::event::{PollFd, PollFlags};

use super::offer::{Offer, offer_until_taken};
use super::poll;
use super::wake::Wake;

use counters::Direction;
use device::TapDevice;

pub use counters::TapCounters;
pub use error::TapError;

/// How long the thread waits for a frame before it looks around, which it need not.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

/// Which tap, and how it is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapTarget {
    /// Its name; the kernel chooses one without. A tap that does not exist is made, and goes with
    /// the process.
    pub name: Option<String>,
    /// The host's address on it.
    pub ip: Option<IpAddr>,
    /// The mask of that address.
    pub mask: Option<IpAddr>,
    /// The host's hardware address on it.
    pub host_mac: Option<[u8; 6]>,
    /// The host's MTU on it.
    pub mtu: Option<u16>,
}

#[derive(Debug, Default)]
struct Counters {
    rx: Direction,
    tx: Direction,
}

/// What the thread and the host side share.
struct Shared {
    device: TapDevice,
    counters: Arc<Counters>,
    offer: Offer,
    /// Whether the driver takes frames.
    ready: AtomicBool,
    wake: Wake,
}

struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The host side of a network card.
pub struct TapHost {
    target: TapTarget,
    offer: Offer,
    counters: Arc<Counters>,
    running: Option<Running>,
}

impl TapHost {
    /// A host side that is not open yet.
    pub fn new(target: TapTarget, offer: Offer) -> Self {
        Self {
            target,
            offer,
            counters: Arc::default(),
            running: None,
        }
    }

    /// A host side like this one that is not open yet.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self::new(self.target.clone(), self.offer.clone())
    }

    /// Opens the tap; a second call does nothing. `features` are what the driver negotiated, if
    /// it is ready already: then the machine came from elsewhere, so `mac` is announced, and the
    /// link is said to be up.
    ///
    /// # Errors
    /// When the tap cannot be had or set up; then nothing is open.
    pub fn activate(&mut self, mac: [u8; 6], features: Option<u64>) -> Result<(), TapError> {
        if self.running.is_some() {
            return Ok(());
        }
        let device = TapDevice::open(&self.target)?;
        let name = device.name().to_owned();
        let offload = device.set_offload(features.unwrap_or(0));
        offload.map_err(|source| TapError::Host {
            action: "set the offloads of",
            name: name.clone(),
            source,
        })?;
        let failed = |source| TapError::Thread {
            name: name.clone(),
            source,
        };
        let shared = Arc::new(Shared {
            device,
            counters: self.counters.clone(),
            offer: self.offer.clone(),
            ready: AtomicBool::new(features.is_some()),
            wake: Wake::new().map_err(failed)?,
        });
        let moved = features.is_some();
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("net-in".to_owned())
            .spawn(move || serve(&theirs, moved))
            .map_err(failed)?;
        let thread = Some(thread);
        self.running = Some(Running { shared, thread });
        if moved {
            self.announce(mac);
        }
        Ok(())
    }

    /// The tap's name, which the kernel may have chosen; `None` while it is not open.
    pub fn name(&self) -> Option<&str> {
        self.running
            .as_ref()
            .map(|running| running.shared.device.name())
    }

    /// The driver is ready and negotiated `features`.
    pub fn driver_ready(&mut self, features: u64) {
        self.set_driver(Some(features));
    }

    /// The driver gave the device up: nobody takes frames.
    pub fn driver_gone(&mut self) {
        self.set_driver(None);
    }

    fn set_driver(&self, features: Option<u64>) {
        if let Some(Running { shared, .. }) = &self.running {
            if let Err(error) = shared.device.set_offload(features.unwrap_or(0)) {
                let name = shared.device.name();
                log::error!("cannot set the offloads of tap {name}: {error}");
            }
            shared.ready.store(features.is_some(), Ordering::SeqCst);
        }
    }

    /// Sends a frame of the guest: 12 bytes of `virtio_net_hdr_v1`, then the Ethernet frame. Never
    /// waits; a frame that the tap does not take is lost. Does nothing while the tap is not open.
    pub fn write(&self, frame: &[u8]) {
        let Some(Running { shared, .. }) = &self.running else {
            return;
        };
        match shared.device.file().write(frame) {
            Ok(count) => self
                .counters
                .tx
                .count(count.saturating_sub(NET_HEADER_SIZE)),
            Err(error) => {
                // Not a word more: a guest decides how often this happens.
                log::debug!("tap {}: a frame was lost: {error}", shared.device.name());
                self.counters.tx.count_dropped();
            }
        }
    }

    /// Tells bridges and switches that `mac` is behind this tap now.
    pub fn announce(&self, mac: [u8; 6]) {
        self.write(&announce::announcement(mac));
    }

    /// What passed so far.
    pub fn counters(&self) -> TapCounters {
        let (rx_frames, rx_bytes, rx_dropped) = self.counters.rx.read();
        let (tx_frames, tx_bytes, tx_dropped) = self.counters.tx.read();
        TapCounters {
            rx_frames,
            rx_bytes,
            rx_dropped,
            tx_frames,
            tx_bytes,
            tx_dropped,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.wake.stop();
        // Never waits for long: the thread does nothing but offer.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of tap {} panicked", self.shared.device.name());
        }
    }
}

/// The thread: offers what comes until the host side is dropped or the tap is gone.
fn serve(shared: &Shared, moved: bool) {
    let link = |up| offer_until_taken(&shared.offer, &VirtioInput::NetLink { up }, &shared.wake);
    let name = shared.device.name();
    // The link may have gone down where the machine came from.
    let ended = if moved { link(true).map(drop) } else { Ok(()) };
    let Err(error) = ended.and_then(|()| receive_all(shared)) else {
        return;
    };
    log::error!("tap {name} is gone, and the guest's link with it: {error}");
    if let Err(error) = link(false) {
        log::error!("tap {name}: the guest cannot be told: {error}");
    }
}

fn receive_all(shared: &Shared) -> std::io::Result<()> {
    // A byte more than the longest frame shows one that is longer.
    let mut buffer = vec![0; NET_FRAME_MAX + 1];
    let mut file = shared.device.file();
    while !shared.wake.is_stopped() {
        match file.read(&mut buffer) {
            Ok(count) => receive(shared, &buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut entries = [
                    PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(shared.wake.as_fd(), PollFlags::IN),
                ];
                poll::wait(&mut entries, POLL_TIMEOUT)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(shared: &Shared, frame: &[u8]) {
    let fits = (NET_FRAME_MIN..=NET_FRAME_MAX).contains(&frame.len());
    let taken = fits
        && shared.ready.load(Ordering::SeqCst)
        && (shared.offer)(VirtioInput::NetReceive(Payload::from(frame.to_vec())));
    if taken {
        shared.counters.rx.count(frame.len() - NET_HEADER_SIZE);
    } else {
        shared.counters.rx.count_dropped();
    }
}
