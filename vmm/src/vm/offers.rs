//! What the host sides of devices offer, until the machine takes it at a logical time.
//!
//! ```text
//!   host thread ──Port──▶ mailbox ──▶ Offers (a queue for each device) ──▶ inbox ──▶ machine
//!                  │ bounded: what waits is counted until it leaves for the inbox
//! ```
//!
//! A machine is live here for a *tenure*, from one going live to the next leaving. What a host
//! side of an earlier tenure still sends belongs to a machine that has gone on elsewhere, and is
//! dropped.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use devices::virtio::any::VirtioConfig;
use devices::virtio::backlog::BACKLOG_RESERVE;
use devices::virtio::block::BlockIoError;
use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;
use ft::event::{Input, MAX_PAYLOAD};
use ft::inbox::Inbox;

use super::mailbox::{Mailbox, Message};
use super::resize::Resizes;
use super::{SerialCounters, Tenure};
use crate::machine::{DeviceInput, SERIAL, VirtualMachine, virtio_id};

/// Bytes of one device's input that may wait for the machine.
const PORT_BYTES: usize = 1 << 20;
/// What an input counts besides its payload.
const INPUT_COST: usize = 64;
/// Input for the serial port that may wait to be taken, in bytes.
const SERIAL_BACKLOG: usize = 1 << 20;
/// Bytes of input that one entry of the log may hold.
const SERIAL_CHUNK: usize = 4096;
/// Frames handed to the machine between two slices.
const MAX_FRAMES: usize = 128;

/// Where the host side of one virtio device offers its input.
#[derive(Clone)]
pub struct Port {
    mailbox: Mailbox,
    device: usize,
    tenure: Tenure,
    waiting: Arc<AtomicUsize>,
}

impl Port {
    /// A port of the tenure that is or is about to be.
    pub(super) fn new(mailbox: Mailbox, device: usize, tenure: Tenure) -> Self {
        Self {
            mailbox,
            device,
            tenure,
            waiting: Arc::default(),
        }
    }

    /// Offers an input; false, and nothing happens, when too much waits already.
    pub fn offer(&self, input: VirtioInput) -> bool {
        let size = INPUT_COST + payload_len(&input);
        if self.waiting.load(Ordering::Relaxed) + size > PORT_BYTES {
            return false;
        }
        self.send(HostInput::Virtio(input), size);
        true
    }

    /// Offers what is the answer to a request, of which there is a bounded number.
    pub fn answer(&self, input: VirtioInput) {
        let size = INPUT_COST + payload_len(&input);
        self.send(HostInput::Virtio(input), size);
    }

    /// Says that a request of a replicated disk is done.
    pub fn disk_done(&self, id: u64, result: Result<Payload, BlockIoError>) {
        self.send(HostInput::DiskDone { id, result }, INPUT_COST);
    }

    /// Says that a disk's image has so many sectors now, or why it has not.
    pub fn resized(&self, result: io::Result<u64>) {
        self.send(HostInput::Resized(result), INPUT_COST);
    }

    fn send(&self, input: HostInput, size: usize) {
        self.waiting.fetch_add(size, Ordering::Relaxed);
        self.mailbox.send(Message::Device(Offered {
            device: self.device,
            tenure: self.tenure,
            input,
            share: Share {
                waiting: self.waiting.clone(),
                size,
            },
        }));
    }
}

/// What a host side says to the machine's thread.
enum HostInput {
    Virtio(VirtioInput),
    DiskDone {
        id: u64,
        result: Result<Payload, BlockIoError>,
    },
    Resized(io::Result<u64>),
}

/// A part of what may wait at a port; given back when dropped.
struct Share {
    waiting: Arc<AtomicUsize>,
    size: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// An input on its way from a port.
pub struct Offered {
    device: usize,
    tenure: Tenure,
    input: HostInput,
    share: Share,
}

fn payload_len(input: &VirtioInput) -> usize {
    match input {
        VirtioInput::BlockCompletion {
            result: Ok(payload),
            ..
        }
        | VirtioInput::NetReceive(payload)
        | VirtioInput::ConsoleInput(payload)
        | VirtioInput::VsockReceive(payload)
        | VirtioInput::Entropy { bytes: payload, .. } => payload.len(),
        _ => 0,
    }
}

/// The inputs that wait for the machine.
#[derive(Default)]
pub(super) struct Offers {
    /// Serial input that the port has no room for yet.
    serial: VecDeque<u8>,
    serial_counters: SerialCounters,
    devices: BTreeMap<usize, VecDeque<(DeviceInput, usize, Option<Share>)>>,
    resizes: Resizes,
}

impl Offers {
    /// What went through the serial port.
    pub(super) fn serial_counters(&mut self) -> &mut SerialCounters {
        &mut self.serial_counters
    }

    /// Takes serial input; what is too much is dropped.
    pub(super) fn take_serial(&mut self, bytes: Vec<u8>) {
        let room = SERIAL_BACKLOG.saturating_sub(self.serial.len());
        if bytes.len() > room {
            log::warn!("serial input: {} bytes dropped", bytes.len() - room);
            self.serial_counters.dropped_bytes += (bytes.len() - room) as u64;
        }
        self.serial.extend(bytes.into_iter().take(room));
    }

    /// Takes what a host side offers, if it is of this tenure.
    pub(super) fn take(
        &mut self,
        offered: Offered,
        tenure: Tenure,
        machine: Option<&mut VirtualMachine>,
    ) {
        let Some(machine) = machine.filter(|_| offered.tenure == tenure) else {
            return;
        };
        let device = offered.device;
        let (input, len) = match offered.input {
            HostInput::Virtio(input) => {
                let len = payload_len(&input);
                (DeviceInput::Virtio(input), len)
            }
            HostInput::DiskDone { id, result } => {
                let result = result.map(|data| machine.keep_disk_data(device, id, data));
                (DeviceInput::DiskDone { id, result }, 0)
            }
            HostInput::Resized(result) => match self.resizes.ended(device, result) {
                Some(sectors) => {
                    let input = VirtioInput::BlockResize { sectors };
                    (DeviceInput::Virtio(input), 0)
                }
                None => return,
            },
        };
        let queue = self.devices.entry(device).or_default();
        queue.push_back((input, len, Some(offered.share)));
    }

    /// Puts an input of the monitor's own in line.
    pub(super) fn add(&mut self, device: usize, input: VirtioInput) {
        let queue = self.devices.entry(device).or_default();
        queue.push_back((DeviceInput::Virtio(input), 0, None));
    }

    /// Disks that are being resized.
    pub(super) fn resizes(&mut self) -> &mut Resizes {
        &mut self.resizes
    }

    /// Forgets everything: another host goes on with the machine.
    pub(super) fn clear(&mut self) {
        self.serial.clear();
        self.devices.clear();
        self.resizes.abandon();
    }

    /// Hands on what the machine has room for. The inbox is empty.
    pub(super) fn hand_on(&mut self, machine: &VirtualMachine, inbox: &mut Inbox) {
        self.hand_on_serial(machine, inbox);
        let devices = &machine.config().virtio;
        for (&index, queue) in &mut self.devices {
            let Some(spec) = devices.get(index) else {
                queue.clear();
                continue;
            };
            // What nobody may lose waits until there is room; a frame without room is dropped by
            // the device, as it is by a card.
            let (mut room, most) = match spec.config {
                VirtioConfig::Console(_) | VirtioConfig::Vsock(_) => {
                    (machine.virtio_input_room(index), BACKLOG_RESERVE)
                }
                _ => (usize::MAX, MAX_FRAMES),
            };
            for _ in 0..most {
                let Some((input, len, share)) = queue.pop_front() else {
                    break;
                };
                if len > room {
                    queue.push_front((input, len, share));
                    break;
                }
                let payload = input.encode();
                if payload.len() > MAX_PAYLOAD {
                    log::error!("device {index}: an input of {} bytes", payload.len());
                    continue;
                }
                let offer = Input::Device {
                    device: virtio_id(index),
                    payload,
                };
                if inbox.offer(offer).is_err() {
                    queue.push_front((input, len, share));
                    break;
                }
                room -= len;
            }
        }
    }

    fn hand_on_serial(&mut self, machine: &VirtualMachine, inbox: &mut Inbox) {
        let waiting = self.serial.len();
        let count = waiting.min(machine.serial_input_room()).min(SERIAL_CHUNK);
        if count > 0 {
            let payload: Vec<u8> = self.serial.drain(..count).collect();
            let offered = inbox.offer(Input::Device {
                device: SERIAL,
                payload,
            });
            assert!(offered.is_ok(), "an empty inbox takes one chunk");
            self.serial_counters.received_bytes += count as u64;
        }
    }
}
