//! The offline container: a header, a starting snapshot, then the event log.
//!
//! ```text
//!   file:    "CHFTLOG\0" · version u16 · header length u32 · header · CRC-32C u32 · record*
//!   header:  fingerprint · page count · scrub pages · logical time · clock point · output ledger
//!   record:  varint(length of kind and payload) · kind u8 · payload · CRC-32C u32
//!   kinds:   1 sections   2 pages   3 snapshot end   4 entry   5 end of the log
//!   order:   pages* sections snapshot-end entry* end?
//! ```
//!
//! All integers are little-endian. Each checksum covers the kind and the payload and is continued
//! from the checksum of the record before it, so that a record that is missing or out of place is
//! noticed as well. A log without its end was cut: everything before the cut is good.

use std::io;

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::event::{ClockRate, ClockSync, SyncPoint};
use crate::machine::MachineError;
use crate::output::OutputLedger;
use crate::time::LogicalTime;

/// First bytes of every log.
pub const MAGIC: [u8; 8] = *b"CHFTLOG\0";
/// Version of the container and of the entries in it.
pub const FORMAT_VERSION: u16 = 1;
/// Largest record: a batch of pages or the sections, with room to spare.
pub const MAX_RECORD: usize = 16 << 20;
/// Largest header.
pub const MAX_HEADER: usize = 64 << 10;
/// Longest fingerprint.
const MAX_FINGERPRINT: usize = 4096;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Sections of the starting snapshot.
    Sections = 1,
    /// A batch of its pages.
    Pages = 2,
    /// The snapshot is complete.
    SnapshotEnd = 3,
    /// A log entry.
    Entry = 4,
    /// The log was closed in order.
    End = 5,
}

impl RecordKind {
    /// The kind with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::Sections,
            Self::Pages,
            Self::SnapshotEnd,
            Self::Entry,
            Self::End,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }
}

/// What a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// Fingerprint of the machine that was recorded.
    pub fingerprint: String,
    /// Pages of its memory.
    pub page_count: u64,
    /// Pages digested in each epoch besides those written.
    pub scrub_pages: u32,
    /// Logical time of the snapshot.
    pub start: LogicalTime,
    /// When the clock was last set before.
    pub point: SyncPoint,
    /// The outputs before.
    pub ledger: OutputLedger,
}

impl LogHeader {
    /// The header's byte form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            fingerprint,
            page_count,
            scrub_pages,
            start,
            point,
            ledger,
        } = self;
        let mut writer = FieldWriter::new();
        writer.text(fingerprint);
        writer.varint(*page_count);
        writer.varint(u64::from(*scrub_pages));
        writer.varint(start.0);
        write_point(&mut writer, point);
        write_ledger(&mut writer, *ledger);
        writer.finish()
    }

    /// Takes a header.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = FieldReader::new(bytes);
        let header = Self {
            fingerprint: reader.text("fingerprint", MAX_FINGERPRINT)?,
            page_count: reader.varint("page count")?,
            scrub_pages: reader.bounded("scrub pages", u64::from(u32::MAX))? as u32,
            start: LogicalTime(reader.varint("start")?),
            point: read_point(&mut reader)?,
            ledger: read_ledger(&mut reader)?,
        };
        reader.finish("header")?;
        Ok(header)
    }
}

/// Appends a clock point.
pub fn write_point(writer: &mut FieldWriter, point: &SyncPoint) {
    writer.varint(point.at.0);
    writer.varint(point.sync.virtual_ns);
    writer.varint(u64::from(point.sync.rate.0));
}

/// Takes a clock point.
///
/// # Errors
/// If it is malformed.
pub fn read_point(reader: &mut FieldReader<'_>) -> Result<SyncPoint, CodecError> {
    let at = LogicalTime(reader.varint("clock point")?);
    let virtual_ns = reader.varint("virtual time")?;
    let rate = reader.bounded("clock rate", u64::from(u32::MAX))? as u32;
    Ok(SyncPoint {
        at,
        sync: ClockSync {
            virtual_ns,
            rate: ClockRate(rate),
        },
    })
}

/// Appends an output ledger.
pub fn write_ledger(writer: &mut FieldWriter, ledger: OutputLedger) {
    writer.varint(ledger.count);
    writer.u64(ledger.chain);
}

/// Takes an output ledger.
///
/// # Errors
/// If it is malformed.
pub fn read_ledger(reader: &mut FieldReader<'_>) -> Result<OutputLedger, CodecError> {
    let count = reader.varint("output count")?;
    Ok(OutputLedger {
        count,
        chain: reader.u64("output chain")?,
    })
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The host refused to read or write.
    #[error("log input/output failed at offset {offset}: {source}")]
    Io {
        /// Where in the log.
        offset: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It does not begin as a log does.
    #[error("not an event log: it begins with {found:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 8],
    },
    /// It is of another version.
    #[error("log format version {found}; this program reads version {supported}")]
    Version {
        /// The log's.
        found: u16,
        /// Ours.
        supported: u16,
    },
    /// A record's checksum is wrong.
    #[error(
        "record at offset {offset} of the log is damaged: checksum {found:08x}, not {computed:08x}"
    )]
    Checksum {
        /// Where the record begins.
        offset: u64,
        /// What the log has.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A record is larger than any that is written.
    #[error(
        "record at offset {offset} of the log claims {length} bytes; at most {max} are possible"
    )]
    TooLarge {
        /// Where the record begins.
        offset: u64,
        /// What it claims.
        length: u64,
        /// The bound.
        max: u64,
    },
    /// A field is malformed.
    #[error("record at offset {offset} of the log: {source}")]
    Field {
        /// Where the record begins.
        offset: u64,
        /// Which field and why.
        #[source]
        source: CodecError,
    },
    /// A record is of an unknown kind or not in its place.
    #[error("record at offset {offset} of the log has kind {kind}, where {expected} should be")]
    Order {
        /// Where the record begins.
        offset: u64,
        /// Its kind.
        kind: u8,
        /// What belongs there.
        expected: &'static str,
    },
    /// The log ends before the snapshot is complete.
    #[error("the log ends at offset {offset}, inside its starting snapshot")]
    NoSnapshot {
        /// Where it ends.
        offset: u64,
    },
    /// The log is of another machine.
    #[error("the log is of a machine with {what} {recorded}; this one has {actual}")]
    OtherMachine {
        /// What differs.
        what: &'static str,
        /// In the log.
        recorded: String,
        /// Here.
        actual: String,
    },
    /// The machine refuses the snapshot.
    #[error("the machine refuses the log's starting snapshot: {0}")]
    Machine(#[from] MachineError),
}
