//! Entries of the event log and their compact byte form.
//!
//! ```text
//!   entry:   varint((logical time − that of the entry before) << 3 | kind) · body
//!   kind 0   marker     –                                    no input before this time
//!        1   clock      signed(virtual ns − predicted)       rate as before
//!        2   clock      the same · signed(rate − rate before)
//!        3   device     varint(device) · varint(length) · bytes
//!        4   control    operation (1 power button, 2 reset, 3 NMI)
//!        5   outputs    varint(count)            outputs since the last such entry
//!        6   epoch end  root digest, 8 bytes
//!        7   epoch end  root digest · varint(count) · parts, 4 bytes each
//! ```
//!
//! *Predicted* is what the clock entry before it gives for this logical time. So a marker of a
//! guest with 100,000 instructions a millisecond takes three bytes and a clock entry about eight.

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::event::{ClockRate, ClockSync, ControlOp, DeviceId, Input, MAX_PAYLOAD, SyncPoint};
use crate::time::LogicalTime;

/// Bits of the head that hold the kind.
const KIND_BITS: u32 = 3;
/// Most parts of an epoch digest.
const MAX_PARTS: u64 = 1026;

const KIND_MARKER: u64 = 0;
const KIND_CLOCK: u64 = 1;
const KIND_CLOCK_RATE: u64 = 2;
const KIND_DEVICE: u64 = 3;
const KIND_CONTROL: u64 = 4;
const KIND_OUTPUTS: u64 = 5;
const KIND_EPOCH_END: u64 = 6;
const KIND_EPOCH_END_PARTS: u64 = 7;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: LogicalTime,
    /// What.
    pub event: Event,
}

impl Entry {
    /// Bytes that it holds beside its fixed fields.
    pub(crate) fn payload_bytes(&self) -> usize {
        match &self.event {
            Event::Input(Input::Device { payload, .. }) => payload.len(),
            Event::EpochEnd { parts, .. } => size_of_val(parts.as_slice()),
            _ => 0,
        }
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing entered the machine up to here.
    Marker,
    /// An input entered the machine.
    Input(Input),
    /// So many outputs were put out since the last entry that counts them.
    Outputs {
        /// How many, at least one.
        count: u64,
    },
    /// An epoch ended in a state with this digest.
    EpochEnd {
        /// Digest of the whole state.
        root: u64,
        /// Shortened digests of its parts; empty where the other side can be asked.
        parts: Vec<u32>,
    },
}

/// What an entry is about, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A position marker.
    Marker,
    /// A clock input.
    Clock,
    /// A device input.
    Device,
    /// A control operation.
    Control,
    /// A count of outputs.
    Outputs,
    /// An epoch end with its digest.
    Digest,
}

impl Event {
    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Marker => EntryKind::Marker,
            Self::Input(Input::Clock(_)) => EntryKind::Clock,
            Self::Input(Input::Device { .. }) => EntryKind::Device,
            Self::Input(Input::Control(_)) => EntryKind::Control,
            Self::Outputs { .. } => EntryKind::Outputs,
            Self::EpochEnd { .. } => EntryKind::Digest,
        }
    }
}

/// Codes a sequence of entries, in one direction. Both ends begin with equal bases and see every
/// entry, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryCoder {
    last_at: LogicalTime,
    point: SyncPoint,
}

impl EntryCoder {
    /// A coder for entries from `at` on, at which the clock was last set at `point`.
    #[must_use]
    pub fn new(at: LogicalTime, point: SyncPoint) -> Self {
        Self { last_at: at, point }
    }

    /// Logical time of the last entry.
    #[must_use]
    pub fn at(&self) -> LogicalTime {
        self.last_at
    }

    /// Virtual time of the last entry, in nanoseconds.
    #[must_use]
    pub fn virtual_ns(&self) -> u64 {
        self.point.virtual_ns(self.last_at)
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// If it lies before the entry before it, or 2⁶¹ instructions after: no machine does that.
    pub fn encode(&mut self, entry: &Entry, writer: &mut FieldWriter) {
        let gap = entry
            .at
            .0
            .checked_sub(self.last_at.0)
            .expect("entries are in logical order");
        assert!(gap >> (64 - KIND_BITS) == 0, "a gap of {gap} instructions");
        let head = |kind: u64| gap << KIND_BITS | kind;
        match &entry.event {
            Event::Marker => writer.varint(head(KIND_MARKER)),
            Event::Input(Input::Clock(sync)) => {
                let predicted = self.point.virtual_ns(entry.at);
                let rate = i64::from(sync.rate.0) - i64::from(self.point.sync.rate.0);
                writer.varint(head(if rate == 0 {
                    KIND_CLOCK
                } else {
                    KIND_CLOCK_RATE
                }));
                writer.signed(sync.virtual_ns.wrapping_sub(predicted) as i64);
                if rate != 0 {
                    writer.signed(rate);
                }
                self.point = SyncPoint {
                    at: entry.at,
                    sync: *sync,
                };
            }
            Event::Input(Input::Device { device, payload }) => {
                writer.varint(head(KIND_DEVICE));
                writer.varint(u64::from(device.0));
                writer.bytes(payload);
            }
            Event::Input(Input::Control(operation)) => {
                writer.varint(head(KIND_CONTROL));
                writer.u8(control_code(*operation));
            }
            Event::Outputs { count } => {
                writer.varint(head(KIND_OUTPUTS));
                writer.varint(*count);
            }
            Event::EpochEnd { root, parts } => {
                let plain = parts.is_empty();
                writer.varint(head(if plain {
                    KIND_EPOCH_END
                } else {
                    KIND_EPOCH_END_PARTS
                }));
                writer.u64(*root);
                if !plain {
                    writer.varint(parts.len() as u64);
                    parts.iter().for_each(|part| writer.u32(*part));
                }
            }
        }
        self.last_at = entry.at;
    }

    /// Takes an entry.
    ///
    /// # Errors
    /// If it is malformed or a value is above its bound; the coder is then of no further use.
    pub fn decode(&mut self, reader: &mut FieldReader<'_>) -> Result<Entry, CodecError> {
        let offset = reader.offset();
        let head = reader.varint("entry head")?;
        let kind = head & ((1 << KIND_BITS) - 1);
        let Some(at) = self.last_at.0.checked_add(head >> KIND_BITS) else {
            return Err(CodecError::unknown("logical time", offset, head));
        };
        let at = LogicalTime(at);
        let event = match kind {
            KIND_MARKER => Event::Marker,
            KIND_CLOCK | KIND_CLOCK_RATE => {
                Event::Input(Input::Clock(self.decode_clock(reader, at, kind)?))
            }
            KIND_DEVICE => {
                let device = reader.bounded("device", u64::from(u16::MAX))? as u16;
                let payload = reader.bytes("device payload", MAX_PAYLOAD)?.to_vec();
                Event::Input(Input::Device {
                    device: DeviceId(device),
                    payload,
                })
            }
            KIND_CONTROL => Event::Input(Input::Control(read_control(reader)?)),
            KIND_OUTPUTS => Event::Outputs {
                count: reader.varint("output count")?,
            },
            _ => {
                let root = reader.u64("root digest")?;
                let mut parts = Vec::new();
                if kind == KIND_EPOCH_END_PARTS {
                    for _ in 0..reader.bounded("part count", MAX_PARTS)? {
                        parts.push(reader.u32("part digest")?);
                    }
                }
                Event::EpochEnd { root, parts }
            }
        };
        self.last_at = at;
        Ok(Entry { at, event })
    }

    /// Takes the body of a clock entry.
    fn decode_clock(
        &mut self,
        reader: &mut FieldReader<'_>,
        at: LogicalTime,
        kind: u64,
    ) -> Result<ClockSync, CodecError> {
        let offset = reader.offset();
        let ahead = reader.signed("virtual time")?;
        let virtual_ns = self.point.virtual_ns(at).wrapping_add(ahead as u64);
        let mut rate = i64::from(self.point.sync.rate.0);
        if kind == KIND_CLOCK_RATE {
            rate = rate.wrapping_add(reader.signed("clock rate")?);
        }
        let Ok(rate) = u32::try_from(rate) else {
            return Err(CodecError::unknown("clock rate", offset, rate as u64));
        };
        let sync = ClockSync {
            virtual_ns,
            rate: ClockRate(rate),
        };
        self.point = SyncPoint { at, sync };
        Ok(sync)
    }
}

/// The code of a control operation.
fn control_code(operation: ControlOp) -> u8 {
    match operation {
        ControlOp::PowerButton => 1,
        ControlOp::Reset => 2,
        ControlOp::Nmi => 3,
    }
}

/// Takes a control operation.
fn read_control(reader: &mut FieldReader<'_>) -> Result<ControlOp, CodecError> {
    let offset = reader.offset();
    match reader.u8("control operation")? {
        1 => Ok(ControlOp::PowerButton),
        2 => Ok(ControlOp::Reset),
        3 => Ok(ControlOp::Nmi),
        other => Err(CodecError::unknown(
            "control operation",
            offset,
            u64::from(other),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coder() -> EntryCoder {
        let sync = ClockSync {
            virtual_ns: 0,
            rate: ClockRate(10 << 16),
        };
        let point = SyncPoint {
            at: LogicalTime(0),
            sync,
        };
        EntryCoder::new(LogicalTime(1_000_000), point)
    }

    fn entry(at: u64, event: Event) -> Entry {
        Entry {
            at: LogicalTime(at),
            event,
        }
    }

    fn clock(virtual_ns: u64, rate: u32) -> Event {
        Event::Input(Input::Clock(ClockSync {
            virtual_ns,
            rate: ClockRate(rate),
        }))
    }

    #[test]
    fn every_kind_survives_the_way_there_and_back() {
        let device = Input::Device {
            device: DeviceId(300),
            payload: vec![1, 2, 3],
        };
        let entries = [
            entry(1_000_000, Event::Marker),
            entry(1_100_000, clock(11_300_000, 655_000)),
            entry(1_100_000, Event::Input(device)),
            entry(1_200_000, clock(12_100_000, 655_000)),
            entry(
                1_200_001,
                Event::Input(Input::Control(ControlOp::PowerButton)),
            ),
            entry(1_200_001, Event::Input(Input::Control(ControlOp::Reset))),
            entry(1_200_001, Event::Input(Input::Control(ControlOp::Nmi))),
            entry(1_300_000, Event::Outputs { count: 130 }),
            entry(
                1_300_000,
                Event::EpochEnd {
                    root: u64::MAX,
                    parts: Vec::new(),
                },
            ),
            entry(
                1_300_000,
                Event::EpochEnd {
                    root: 5,
                    parts: vec![1, u32::MAX],
                },
            ),
            entry(u64::MAX >> 3, Event::Marker),
        ];
        let mut writer = FieldWriter::new();
        let mut encoder = coder();
        entries
            .iter()
            .for_each(|entry| encoder.encode(entry, &mut writer));
        let bytes = writer.finish();
        let mut reader = FieldReader::new(&bytes);
        let mut decoder = coder();
        for expected in &entries {
            assert_eq!(decoder.decode(&mut reader).as_ref(), Ok(expected));
        }
        assert_eq!(reader.remaining(), 0);
        assert_eq!(encoder, decoder);
    }

    #[test]
    fn a_marker_takes_three_bytes_and_a_clock_entry_eight() {
        let mut writer = FieldWriter::new();
        let mut coder = coder();
        coder.encode(&entry(1_100_000, Event::Marker), &mut writer);
        assert_eq!(writer.len(), 3);
        coder.encode(&entry(1_200_000, clock(12_300_000, 656_000)), &mut writer);
        assert!(writer.len() <= 3 + 8, "{}", writer.len());
    }

    #[test]
    fn a_clock_entry_of_an_idle_guest_takes_six_bytes() {
        let mut writer = FieldWriter::new();
        let mut coder = coder();
        let rate = 10 << 16;
        coder.encode(&entry(1_010_000, clock(30_100_000, rate)), &mut writer);
        assert!(writer.len() <= 7, "{}", writer.len());
    }

    #[test]
    fn malformed_entries_name_their_field() {
        let cases: [(&[u8], &str); 5] = [
            (&[], "entry head"),
            (&[KIND_CONTROL as u8, 9], "control operation"),
            (&[KIND_DEVICE as u8, 0x80, 0x80, 0x04], "device"),
            (
                &[KIND_DEVICE as u8, 0, 0x80, 0x80, 0x80, 0x01],
                "device payload",
            ),
            (&[KIND_EPOCH_END as u8, 1, 2], "root digest"),
        ];
        for (bytes, field) in cases {
            let error = coder().decode(&mut FieldReader::new(bytes)).unwrap_err();
            assert_eq!(error.field, field);
        }
    }

    #[test]
    fn a_logical_time_beyond_the_last_is_refused() {
        let mut writer = FieldWriter::new();
        writer.varint(u64::MAX);
        let mut decoder = EntryCoder::new(LogicalTime(u64::MAX), SyncPoint::start());
        let error = decoder
            .decode(&mut FieldReader::new(writer.as_slice()))
            .unwrap_err();
        assert_eq!(error.field, "logical time");
    }
}
