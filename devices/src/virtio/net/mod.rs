//! A virtio network card.
//!
//! ```text
//! queue 1, chain ─▶ one frame ─▶ NetTransmit, used at once
//! NetReceive ─▶ backlog (256 frames, 1 MiB) ─▶ queue 0, one or more chains ─▶ used
//! queue 2, chain ─▶ command ─▶ status byte, used at once
//! ```
//!
//! A frame here is 12 bytes of `virtio_net_hdr_v1` and the Ethernet frame, up to 64 KiB with
//! segmentation offload. The host side gets and gives it in that form, so that a tap with the same
//! header needs no conversion; the features of [`VirtioEvent::DriverReady`] say which offloads the
//! guest takes. While the driver is not ready or the link is down, what arrives is dropped.
//!
//! Spec: virtio 1.2 §5.1. Left out: several queue pairs, receive filters (everything is passed),
//! VLAN filters, RSS, notification coalescing.

mod control;
mod receive;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::pci::config_space::BarWidth;
use crate::saved::{RestoreError, check};

use super::backlog::Backlog;
use super::device::{Context, VirtioDevice, VirtioIdentity, read_image};
use super::event::VirtioEvent;
use super::fault::Fault;
use super::input::{InputError, InputFailure, InputOutcome, VirtioInput};
use super::payload::Payload;

/// Bytes of `virtio_net_hdr_v1`.
pub const NET_HEADER_SIZE: usize = 12;
/// The longest frame, header included: 64 KiB of segments and an Ethernet header with a tag.
pub const NET_FRAME_MAX: usize = NET_HEADER_SIZE + 65_562;
/// The shortest: the header and an Ethernet header.
pub const NET_FRAME_MIN: usize = NET_HEADER_SIZE + 14;

const KIND: &str = "virtio-net";
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

/// Feature bit: the device computes checksums.
pub const FEATURE_CSUM: u64 = 1 << 0;
/// Feature bit: the driver takes frames with partial checksums.
pub const FEATURE_GUEST_CSUM: u64 = 1 << 1;
const FEATURE_MTU: u64 = 1 << 3;
const FEATURE_MAC: u64 = 1 << 5;
/// Feature bit: the driver takes large TCP frames over IPv4.
pub const FEATURE_GUEST_TSO4: u64 = 1 << 7;
/// Feature bit: the driver takes large TCP frames over IPv6.
pub const FEATURE_GUEST_TSO6: u64 = 1 << 8;
/// Feature bit: the driver takes large UDP frames.
pub const FEATURE_GUEST_UFO: u64 = 1 << 10;
const FEATURE_HOST_TSO4: u64 = 1 << 11;
const FEATURE_HOST_TSO6: u64 = 1 << 12;
const FEATURE_HOST_UFO: u64 = 1 << 14;
const FEATURE_MERGEABLE: u64 = 1 << 15;
const FEATURE_STATUS: u64 = 1 << 16;
const FEATURE_CONTROL: u64 = 1 << 17;
const FEATURE_GUEST_ANNOUNCE: u64 = 1 << 21;
const FEATURE_CONTROL_MAC: u64 = 1 << 23;

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;

/// The lowest MTU that IPv4 allows.
const MTU_MIN: u16 = 68;

/// What a network card is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Its address.
    pub mac: [u8; 6],
    /// The MTU that the driver shall use, 68 or more; `None` leaves it to the driver.
    pub mtu: Option<u16>,
    /// Whether checksums and segmentation may be left to the other side.
    pub offload: bool,
    /// Whether that includes UDP fragmentation, which newer host kernels do not have.
    pub udp_fragmentation: bool,
}

impl NetConfig {
    /// Whether a card can be like this.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.mtu.is_none_or(|mtu| mtu >= MTU_MIN)
    }
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    state: NetStateV1,
}

/// Configuration and state of a network card; all that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStateV1 {
    config: NetConfig,
    /// The address that the driver set last.
    mac: [u8; 6],
    link_up: bool,
    announce: bool,
    backlog: Backlog,
    /// Frames that were sent or arrived and went nowhere.
    dropped: u64,
}

impl Net {
    /// A card with its link up.
    ///
    /// # Panics
    /// If the MTU is too small.
    #[must_use]
    pub fn new(config: NetConfig) -> Self {
        assert!(config.is_valid(), "MTU {:?}", config.mtu);
        Self {
            state: NetStateV1 {
                config,
                mac: config.mac,
                link_up: true,
                announce: false,
                backlog: Backlog::default(),
                dropped: 0,
            },
        }
    }

    /// The address that the guest uses.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.state.mac
    }

    /// Frames that went nowhere.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.state.dropped
    }

    const fn drop_frames(&mut self, count: usize) {
        self.state.dropped = self.state.dropped.saturating_add(count as u64);
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(chain) = cx.pop(TRANSMIT)? {
            if chain.readable_len() < NET_HEADER_SIZE as u64 {
                return Err(Fault::Malformed { head: chain.head });
            }
            match chain.read_from(&*cx.ram, 0, NET_FRAME_MAX)? {
                Some(frame) if frame.len() >= NET_FRAME_MIN && self.state.link_up => {
                    cx.emit(VirtioEvent::NetTransmit(Payload::from(frame)));
                }
                _ => self.drop_frames(1),
            }
            cx.push(TRANSMIT, chain.head, 0)?;
        }
        cx.want_notification(TRANSMIT, true)
    }

    fn set_link(&mut self, up: bool, cx: &mut Context<'_>) -> InputOutcome {
        if self.state.link_up != up {
            self.state.link_up = up;
            cx.change_config();
        }
        InputOutcome::Taken
    }

    /// Asks the guest to announce itself, if its driver can.
    fn announce(&mut self, cx: &mut Context<'_>) -> InputOutcome {
        if !cx.live || !cx.has(FEATURE_GUEST_ANNOUNCE) {
            return InputOutcome::Dropped;
        }
        self.state.announce = true;
        cx.change_config();
        InputOutcome::Taken
    }

    const fn status(&self) -> u16 {
        let link = if self.state.link_up {
            STATUS_LINK_UP
        } else {
            0
        };
        let announce = if self.state.announce {
            STATUS_ANNOUNCE
        } else {
            0
        };
        link | announce
    }
}

impl VirtioDevice for Net {
    type Saved = NetStateV1;

    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity {
            name: "net",
            type_id: 1,
            class: 0x02_0000,
            bar: BarWidth::Bits64,
        }
    }

    fn features(&self) -> u64 {
        let config = &self.state.config;
        let mut features = FEATURE_MAC
            | FEATURE_MERGEABLE
            | FEATURE_STATUS
            | FEATURE_CONTROL
            | FEATURE_GUEST_ANNOUNCE
            | FEATURE_CONTROL_MAC;
        if config.mtu.is_some() {
            features |= FEATURE_MTU;
        }
        if config.offload {
            features |= FEATURE_CSUM | FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6;
            features |= FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6;
            if config.udp_fragmentation {
                features |= FEATURE_HOST_UFO | FEATURE_GUEST_UFO;
            }
        }
        features
    }

    fn accepts(&self, features: u64) -> bool {
        let host = FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6 | FEATURE_HOST_UFO;
        let guest = FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6 | FEATURE_GUEST_UFO;
        let control = FEATURE_GUEST_ANNOUNCE | FEATURE_CONTROL_MAC;
        let pairs = [
            (host, FEATURE_CSUM),
            (guest, FEATURE_GUEST_CSUM),
            (control, FEATURE_CONTROL),
        ];
        pairs
            .iter()
            .all(|(some, needed)| features & some == 0 || features & needed != 0)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256, 64]
    }

    fn config_read(&self, offset: usize, into: &mut [u8]) {
        let mut image = [0; 12];
        image[..6].copy_from_slice(&self.state.mac);
        image[6..8].copy_from_slice(&self.status().to_le_bytes());
        image[8..10].copy_from_slice(&1u16.to_le_bytes());
        let mtu = self.state.config.mtu.unwrap_or(0);
        image[10..].copy_from_slice(&mtu.to_le_bytes());
        read_image(&image, offset, into);
    }

    fn notify(&mut self, queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        match queue {
            RECEIVE => self.deliver(cx),
            TRANSMIT => self.transmit(cx),
            _ => self.control(cx),
        }
    }

    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        match input {
            VirtioInput::NetReceive(frame) => self.receive(frame, cx),
            VirtioInput::NetLink { up } => Ok(self.set_link(up, cx)),
            VirtioInput::NetAnnounce => Ok(self.announce(cx)),
            _ => Err(InputError::WrongDevice { device: "net" }.into()),
        }
    }

    fn input_room(&self) -> usize {
        self.state.backlog.room(NET_FRAME_MAX)
    }

    fn reset(&mut self) {
        self.state.mac = self.state.config.mac;
        self.state.announce = false;
        self.state.backlog.clear();
        self.state.dropped = 0;
    }

    fn save(&self) -> NetStateV1 {
        self.state.clone()
    }

    fn restore(saved: NetStateV1) -> Result<Self, RestoreError> {
        check(saved.config.is_valid(), KIND, "config", saved.config)?;
        saved
            .backlog
            .validate(KIND, NET_FRAME_MIN..=NET_FRAME_MAX)?;
        Ok(Self { state: saved })
    }
}
