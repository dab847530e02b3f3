//! A virtio socket device: packets between the guest and the host side.
//!
//! ```text
//! queue 1, chain ─▶ one packet ─▶ VsockTransmit, used at once
//! VsockReceive ─▶ backlog (256 packets, 1 MiB) ─▶ queue 0, one chain each
//! VsockTransportReset ─▶ new address, event 0 in queue 2, backlog dropped
//! ```
//!
//! The device passes packets and knows no connections: credit, ports and the answer to a packet
//! that nobody expects are the host side's. A packet is a header of 44 bytes and as many bytes as
//! its `len` says. A packet with another source address than the guest's is dropped.
//!
//! Spec: virtio 1.2 §5.10. Left out: sequential packets as a feature of their own.

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

/// Bytes of a packet's header.
pub const VSOCK_HEADER_SIZE: usize = 44;
/// Bytes of a packet at most, header included.
pub const VSOCK_PACKET_MAX: usize = VSOCK_HEADER_SIZE + 64 * 1024;

const KIND: &str = "virtio-vsock";
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;
const EVENT_TRANSPORT_RESET: [u8; 4] = [0; 4];

/// What a socket device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's context id.
    pub guest_cid: u64,
}

/// A socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    state: VsockStateV1,
}

/// Configuration and state of a socket device; all that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockStateV1 {
    guest_cid: u64,
    backlog: Backlog,
    /// The driver was not told of a reset yet.
    reset_pending: bool,
    /// Packets of the guest that went nowhere.
    dropped: u64,
}

/// The part of a header that the device looks at.
fn header_fields(packet: &[u8]) -> Option<(u64, u32)> {
    let source = packet.get(..8)?.try_into().ok()?;
    let len = packet.get(24..28)?.try_into().ok()?;
    Some((u64::from_le_bytes(source), u32::from_le_bytes(len)))
}

/// Whether `packet` is a header and as many bytes as it says.
fn is_whole(packet: &[u8]) -> bool {
    header_fields(packet)
        .is_some_and(|(_, len)| packet.len() as u64 == VSOCK_HEADER_SIZE as u64 + u64::from(len))
}

impl Vsock {
    /// An idle device.
    #[must_use]
    pub fn new(config: VsockConfig) -> Self {
        Self {
            state: VsockStateV1 {
                guest_cid: config.guest_cid,
                backlog: Backlog::default(),
                reset_pending: false,
                dropped: 0,
            },
        }
    }

    /// The guest's context id.
    #[must_use]
    pub const fn guest_cid(&self) -> u64 {
        self.state.guest_cid
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(chain) = cx.pop(TRANSMIT)? {
            let malformed = Fault::Malformed { head: chain.head };
            let mut packet = vec![0; VSOCK_HEADER_SIZE];
            if !chain.read(&*cx.ram, 0, &mut packet)? {
                return Err(malformed);
            }
            let (source, len) = header_fields(&packet).ok_or(malformed)?;
            // The buffers may be longer than the packet, not shorter.
            if len as usize > VSOCK_PACKET_MAX - VSOCK_HEADER_SIZE {
                return Err(malformed);
            }
            packet.resize(VSOCK_HEADER_SIZE + len as usize, 0);
            if !chain.read(&*cx.ram, 0, &mut packet)? {
                return Err(malformed);
            }
            if source == self.state.guest_cid {
                cx.emit(VirtioEvent::VsockTransmit(Payload::from(packet)));
            } else {
                self.state.dropped = self.state.dropped.saturating_add(1);
            }
            cx.push(TRANSMIT, chain.head, 0)?;
        }
        cx.want_notification(TRANSMIT, true)
    }

    fn deliver(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(packet) = self.state.backlog.first() {
            let Some(chain) = cx.pop(RECEIVE)? else {
                return cx.want_notification(RECEIVE, true);
            };
            let room = chain.writable_len();
            if room < VSOCK_HEADER_SIZE as u64 {
                return Err(Fault::Malformed { head: chain.head });
            }
            // A stream may be cut anywhere: what does not fit goes into the next buffer, as a
            // packet of its own.
            let (now, later) = split(packet, room);
            chain.write(cx.ram, 0, &now)?;
            cx.push(RECEIVE, chain.head, now.len() as u64)?;
            match later {
                Some(later) if room > VSOCK_HEADER_SIZE as u64 => {
                    self.state.backlog.replace_first(later);
                }
                // A buffer for the header alone takes no byte of the stream.
                Some(_) => return Err(Fault::Malformed { head: chain.head }),
                None => self.state.backlog.remove_first(),
            }
        }
        cx.want_notification(RECEIVE, false)
    }

    fn tell_reset(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.state.reset_pending {
            let Some(chain) = cx.pop(EVENT)? else {
                return cx.want_notification(EVENT, true);
            };
            if !chain.write(cx.ram, 0, &EVENT_TRANSPORT_RESET)? {
                return Err(Fault::Malformed { head: chain.head });
            }
            cx.push(EVENT, chain.head, EVENT_TRANSPORT_RESET.len() as u64)?;
            self.state.reset_pending = false;
        }
        cx.want_notification(EVENT, false)
    }

    fn receive(
        &mut self,
        packet: Payload,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        if !is_whole(&packet) || packet.len() > VSOCK_PACKET_MAX {
            let len = header_fields(&packet).map_or(0, |(_, len)| u64::from(len));
            let expected = VSOCK_HEADER_SIZE as u64 + len;
            let found = packet.len() as u64;
            return Err(InputError::Length { expected, found }.into());
        }
        if !cx.live {
            return Ok(InputOutcome::Dropped);
        }
        if !self.state.backlog.push(packet) {
            return Ok(InputOutcome::Refused);
        }
        self.deliver(cx)?;
        Ok(if self.state.backlog.is_empty() {
            InputOutcome::Taken
        } else {
            InputOutcome::Waiting
        })
    }

    fn transport_reset(
        &mut self,
        guest_cid: u64,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        self.state.guest_cid = guest_cid;
        self.state.backlog.clear();
        if !cx.live {
            // A driver that starts reads the address then.
            return Ok(InputOutcome::Dropped);
        }
        self.state.reset_pending = true;
        self.tell_reset(cx)?;
        Ok(if self.state.reset_pending {
            InputOutcome::Waiting
        } else {
            InputOutcome::Taken
        })
    }
}

/// The part of `packet` that fits into `room` bytes, and the rest as a packet.
fn split(packet: &[u8], room: u64) -> (Vec<u8>, Option<Payload>) {
    if packet.len() as u64 <= room {
        return (packet.to_vec(), None);
    }
    let (header, data) = packet.split_at(VSOCK_HEADER_SIZE);
    let (now, later) = data.split_at(room as usize - VSOCK_HEADER_SIZE);
    let part = |data: &[u8]| {
        let mut part = [header, data].concat();
        part[24..28].copy_from_slice(&(data.len() as u32).to_le_bytes());
        part
    };
    (part(now), Some(Payload::from(part(later))))
}

impl VirtioDevice for Vsock {
    type Saved = VsockStateV1;

    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity {
            name: "vsock",
            type_id: 19,
            class: 0xff_ff00,
            bar: BarWidth::Bits64,
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256, 256]
    }

    fn config_read(&self, offset: usize, into: &mut [u8]) {
        read_image(&self.state.guest_cid.to_le_bytes(), offset, into);
    }

    fn notify(&mut self, queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        match queue {
            RECEIVE => self.deliver(cx),
            TRANSMIT => self.transmit(cx),
            _ => self.tell_reset(cx),
        }
    }

    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        match input {
            VirtioInput::VsockReceive(packet) => self.receive(packet, cx),
            VirtioInput::VsockTransportReset { guest_cid } => self.transport_reset(guest_cid, cx),
            _ => Err(InputError::WrongDevice { device: "vsock" }.into()),
        }
    }

    fn input_room(&self) -> usize {
        self.state.backlog.room(VSOCK_PACKET_MAX)
    }

    fn reset(&mut self) {
        self.state.backlog.clear();
        self.state.reset_pending = false;
        self.state.dropped = 0;
    }

    fn save(&self) -> VsockStateV1 {
        self.state.clone()
    }

    fn restore(saved: VsockStateV1) -> Result<Self, RestoreError> {
        saved
            .backlog
            .validate(KIND, VSOCK_HEADER_SIZE..=VSOCK_PACKET_MAX)?;
        for packet in saved.backlog.frames() {
            check(is_whole(packet), KIND, "backlog", packet)?;
        }
        Ok(Self { state: saved })
    }
}
