//! A virtio disk.
//!
//! ```text
//! chain ─▶ parse ─┬─ refused, or the serial number ─▶ answered at once
//!                 └─ in flight ─▶ held while an earlier one overlaps ─▶ BlockRequest ─▶ host
//!                        ▲ the bytes of a write are copied here             │
//! status, data, used ◀───┴──────────────── completion (input) ◀─────────────┘
//! ```
//!
//! The device orders what the host may do at the same time: of two requests that overlap, one of
//! them a write, the later one leaves when the earlier one is done; a flush leaves when everything
//! before it is done. So the order in which the host works on what it was given never shows.
//!
//! Every emitted request is completed exactly once, whatever the guest does: after a reset of the
//! device its requests stay in the state without their buffers, because later ones must still wait
//! for them. A restored device lists them by [`Block::in_flight`], to be issued again; all can be
//! repeated. At most [`MAX_BYTES_IN_FLIGHT`], give or take a request, are in flight; the rest waits
//! in the guest's ring.
//!
//! Spec: virtio 1.2 §5.2. One queue. Left out: geometry, topology, secure erase, lifetime, zones.

mod in_flight;
mod request;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::pci::config_space::BarWidth;
use crate::saved::{RestoreError, check};

use super::device::{Context, VirtioDevice, VirtioIdentity, read_image};
use super::fault::Fault;
use super::input::{InputError, InputFailure, InputOutcome, VirtioInput};
use super::payload::Payload;

use self::in_flight::InFlight;
use self::request::{Parsed, STATUS_IO_ERROR, STATUS_OK, STATUS_UNSUPPORTED};

/// Bytes in a sector, the unit of all positions.
pub const SECTOR_SIZE: u64 = 512;
/// Bytes of a serial number.
pub const SERIAL_SIZE: usize = 20;
/// Bytes in flight at which no further request is taken from the ring. They are a part of the
/// state, which is read at the end of each epoch.
pub const MAX_BYTES_IN_FLIGHT: u64 = 4 * 1024 * 1024;
/// Requests in flight at which no further one is taken.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 256;

const KIND: &str = "virtio-block";
const QUEUE: usize = 0;
const QUEUE_SIZE: u16 = 128;
/// Header and status byte take two descriptors.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
const SEGMENT_SIZE_MAX: u32 = 8 * 1024;
/// The longest request: as many and as large segments as the driver may use. It stays below 1 MiB,
/// so that a request or its answer fits into one entry of a log.
const REQUEST_BYTES_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_SIZE_MAX as u64;
/// The largest disk: its bytes can be counted with some to spare.
const SECTORS_MAX: u64 = 1 << 52;
/// Sectors that one discard or write-zeroes may name: 64 MiB.
const RANGE_SECTORS_MAX: u32 = 1 << 17;

const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_BLOCK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_CONFIG_WCE: u64 = 1 << 11;
const FEATURE_MULTI_QUEUE: u64 = 1 << 12;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

const CONFIG_SIZE: usize = 60;
const CONFIG_WRITE_BACK: usize = 32;

/// What a disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Capacity in sectors.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Bytes of a logical block: a power of two from 512 to 4096.
    pub block_size: u32,
    /// Serial number, padded with zeroes.
    pub serial: [u8; SERIAL_SIZE],
}

impl BlockConfig {
    /// A serial number as the device holds it: the first 20 bytes of `text`.
    #[must_use]
    pub fn serial_of(text: &str) -> [u8; SERIAL_SIZE] {
        let mut serial = [0; SERIAL_SIZE];
        for (into, byte) in serial.iter_mut().zip(text.bytes()) {
            *into = byte;
        }
        serial
    }

    /// Whether a disk can be like this.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.block_size.is_power_of_two() && self.block_size >= 512 && self.block_size <= 4096
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockOperation {
    /// Read `len` bytes.
    Read,
    /// Write `data`.
    Write,
    /// Make all completed writes durable.
    Flush,
    /// The contents of the range are not needed.
    Discard,
    /// The range shall read as zeroes.
    WriteZeroes {
        /// Whether its space may be given back.
        may_unmap: bool,
    },
}

impl BlockOperation {
    /// Whether the contents of the disk may change.
    #[must_use]
    pub const fn modifies(self) -> bool {
        match self {
            Self::Write | Self::Discard | Self::WriteZeroes { .. } => true,
            Self::Read | Self::Flush => false,
        }
    }
}

/// A request to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    /// Names it in its completion; never used twice by a device.
    pub id: u64,
    /// What is to be done.
    pub operation: BlockOperation,
    /// First sector.
    pub sector: u64,
    /// Bytes; a multiple of the sector size, zero for a flush.
    pub len: u64,
    /// Whether it must be durable before it is completed.
    pub durable: bool,
    /// What a write writes; empty otherwise.
    pub data: Payload,
}

/// Why the host could not carry out a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockIoError {
    /// It failed.
    Io,
    /// The disk cannot do such a thing.
    Unsupported,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    state: BlockStateV1,
}

/// Configuration and state of a disk; all that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStateV1 {
    config: BlockConfig,
    write_back: bool,
    next_id: u64,
    in_flight: Vec<InFlight>,
}

impl Block {
    /// An idle disk.
    ///
    /// # Panics
    /// If the block size is not one.
    #[must_use]
    pub fn new(config: BlockConfig) -> Self {
        assert!(config.is_valid(), "block size {}", config.block_size);
        Self {
            state: BlockStateV1 {
                config,
                write_back: true,
                next_id: 0,
                in_flight: Vec::new(),
            },
        }
    }

    /// What the disk is like now.
    #[must_use]
    pub const fn config(&self) -> &BlockConfig {
        &self.state.config
    }

    /// The requests that the host was given and did not complete, in order. Whoever takes over from
    /// a host that is gone issues them again.
    pub fn in_flight(&self) -> impl Iterator<Item = &BlockRequest> {
        let issued = self.state.in_flight.iter().filter(|entry| entry.issued);
        issued.map(|entry| &entry.request)
    }

    fn is_full(&self) -> bool {
        let in_flight = &self.state.in_flight;
        in_flight.len() >= MAX_REQUESTS_IN_FLIGHT
            || in_flight.iter().map(InFlight::bytes).sum::<u64>() >= MAX_BYTES_IN_FLIGHT
    }

    /// Takes what the ring offers, as far as there is room.
    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while !self.is_full() {
            let Some(chain) = cx.pop(QUEUE)? else {
                return cx.want_notification(QUEUE, true);
            };
            match request::parse(&chain, &self.state, cx)? {
                Parsed::Answer { status, data } => request::answer(cx, &chain, status, &data)?,
                Parsed::Submit(work) => {
                    let id = self.state.next_id;
                    self.state.next_id += 1;
                    let entry = InFlight::new(work.into_request(id), chain);
                    in_flight::submit(&mut self.state.in_flight, entry, cx);
                }
            }
        }
        // The ring is looked at again when something completes.
        Ok(())
    }

    fn complete(
        &mut self,
        id: u64,
        result: &Result<Payload, BlockIoError>,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        let mut in_flight = self.state.in_flight.iter();
        let index = in_flight
            .position(|entry| entry.request.id == id && entry.issued)
            .ok_or(InputError::UnknownRequest { id })?;
        if let Ok(data) = result {
            let (expected, found) = (self.state.in_flight[index].answer_len(), data.len() as u64);
            if found != expected {
                return Err(InputError::Length { expected, found }.into());
            }
        }
        let done = self.state.in_flight.remove(index);
        if !cx.live {
            return Ok(InputOutcome::Stale);
        }
        in_flight::issue_unblocked(&mut self.state.in_flight, cx);
        let Some(chain) = done.chain else {
            // It is from before a reset, and made room.
            self.drain(cx)?;
            return Ok(InputOutcome::Stale);
        };
        let (status, data) = match result {
            Ok(data) => (STATUS_OK, &data[..]),
            Err(BlockIoError::Io) => (STATUS_IO_ERROR, &[][..]),
            Err(BlockIoError::Unsupported) => (STATUS_UNSUPPORTED, &[][..]),
        };
        request::answer(cx, &chain, status, data)?;
        self.drain(cx)?;
        Ok(InputOutcome::Taken)
    }

    fn config_image(&self) -> [u8; CONFIG_SIZE] {
        let mut image = [0; CONFIG_SIZE];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let config = &self.state.config;
        put(0, &config.sectors.to_le_bytes());
        put(8, &SEGMENT_SIZE_MAX.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &config.block_size.to_le_bytes());
        put(CONFIG_WRITE_BACK, &[u8::from(self.state.write_back)]);
        // One queue; one range in a discard or write-zeroes request.
        put(34, &1u16.to_le_bytes());
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &(config.block_size / SECTOR_SIZE as u32).to_le_bytes());
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        image
    }
}

impl VirtioDevice for Block {
    type Saved = BlockStateV1;

    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity {
            name: "block",
            type_id: 2,
            class: 0x01_8000,
            // Where firmware can reach it.
            bar: BarWidth::Bits32,
        }
    }

    fn features(&self) -> u64 {
        let common = FEATURE_SIZE_MAX
            | FEATURE_SEG_MAX
            | FEATURE_BLOCK_SIZE
            | FEATURE_FLUSH
            | FEATURE_CONFIG_WCE
            | FEATURE_MULTI_QUEUE;
        let kind = if self.state.config.read_only {
            FEATURE_READ_ONLY
        } else {
            FEATURE_DISCARD | FEATURE_WRITE_ZEROES
        };
        common | kind
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config_read(&self, offset: usize, into: &mut [u8]) {
        read_image(&self.config_image(), offset, into);
    }

    fn config_write(&mut self, offset: usize, bytes: &[u8]) {
        if let (CONFIG_WRITE_BACK, [value @ 0..=1]) = (offset, bytes) {
            self.state.write_back = *value == 1;
        }
    }

    fn notify(&mut self, _queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        self.drain(cx)
    }

    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        match input {
            VirtioInput::BlockCompletion { id, result } => self.complete(id, &result, cx),
            VirtioInput::BlockResize { sectors } => {
                if self.state.config.sectors != sectors {
                    self.state.config.sectors = sectors;
                    cx.change_config();
                }
                Ok(InputOutcome::Taken)
            }
            _ => Err(InputError::WrongDevice { device: "block" }.into()),
        }
    }

    fn reset(&mut self) {
        self.state.write_back = true;
        self.state.in_flight.retain(|entry| entry.issued);
        for entry in &mut self.state.in_flight {
            entry.chain = None;
        }
    }

    fn save(&self) -> BlockStateV1 {
        self.state.clone()
    }

    fn restore(saved: BlockStateV1) -> Result<Self, RestoreError> {
        check(saved.config.is_valid(), KIND, "config", saved.config)?;
        let next_id = saved.next_id;
        check(next_id < 1 << 63, KIND, "next_id", next_id)?;
        let count = saved.in_flight.len();
        check(
            count <= MAX_REQUESTS_IN_FLIGHT,
            KIND,
            "in_flight.length",
            count,
        )?;
        let mut last = None;
        for entry in &saved.in_flight {
            let id = entry.request.id;
            let ordered = last.is_none_or(|last| last < id) && id < next_id;
            check(ordered, KIND, "in_flight.id", id)?;
            check(entry.is_possible(), KIND, "in_flight", &entry.request)?;
            last = Some(id);
        }
        Ok(Self { state: saved })
    }
}
