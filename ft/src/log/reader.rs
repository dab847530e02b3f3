//! Reads an offline log, as it streams in.

use std::io::{self, Read};

use crate::codec::{CodecError, FieldReader};
use crate::log::entry::{Entry, EntryCoder};
use crate::log::format::{
    FORMAT_VERSION, LogError, LogHeader, MAGIC, MAX_HEADER, MAX_RECORD, RecordKind,
};
use crate::machine::{Machine, Section};
use crate::snapshot::{read_pages, read_sections};
use crate::stray::StrayPages;

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Its end was not reached yet.
    Open,
    /// It was closed in order.
    Complete,
    /// It was cut: the last whole record ends at `offset`, and `lost` bytes of one follow.
    Cut {
        /// Where the last whole record ends.
        offset: u64,
        /// How many bytes of the next one there are.
        lost: u64,
    },
}

/// An offline log that is being read.
pub struct LogReader<R: Read> {
    source: R,
    header: LogHeader,
    coder: EntryCoder,
    chain: u32,
    offset: u64,
    tail: Tail,
    entries: u64,
}

impl<R: Read> std::fmt::Debug for LogReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("LogReader");
        shown
            .field("header", &self.header)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// A record as it lies in the log.
struct Record {
    kind: u8,
    payload: Vec<u8>,
    offset: u64,
}

impl<R: Read> LogReader<R> {
    /// Opens a log: reads and checks its header. Give it something that buffers.
    ///
    /// # Errors
    /// If it is not a log, of another version, or damaged.
    pub fn open(mut source: R) -> Result<Self, LogError> {
        let mut head = [0; 14];
        read_whole(&mut source, &mut head, 0)?;
        let mut magic = [0; 8];
        magic.copy_from_slice(&head[..8]);
        if magic != MAGIC {
            return Err(LogError::Magic { found: magic });
        }
        let found = u16::from_le_bytes([head[8], head[9]]);
        if found != FORMAT_VERSION {
            return Err(LogError::Version {
                found,
                supported: FORMAT_VERSION,
            });
        }
        let length = u32::from_le_bytes([head[10], head[11], head[12], head[13]]);
        let max = MAX_HEADER as u64;
        if u64::from(length) > max {
            return Err(LogError::TooLarge {
                offset: 10,
                length: u64::from(length),
                max,
            });
        }
        let mut body = vec![0; length as usize];
        read_whole(&mut source, &mut body, 14)?;
        let mut checksum = [0; 4];
        read_whole(&mut source, &mut checksum, 14 + u64::from(length))?;
        let (found, computed) = (u32::from_le_bytes(checksum), crc32c::crc32c(&body));
        if found != computed {
            return Err(LogError::Checksum {
                offset: 0,
                found,
                computed,
            });
        }
        let header =
            LogHeader::decode(&body).map_err(|source| LogError::Field { offset: 14, source })?;
        let coder = EntryCoder::new(header.start, header.point);
        let offset = 18 + u64::from(length);
        Ok(Self {
            source,
            header,
            coder,
            chain: computed,
            offset,
            tail: Tail::Open,
            entries: 0,
        })
    }

    /// What the log says of itself.
    #[must_use]
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// Puts the machine into the state of the starting snapshot.
    ///
    /// # Errors
    /// If the log is of another machine, damaged or cut, or the machine refuses.
    pub fn restore(&mut self, machine: &mut dyn Machine) -> Result<(), LogError> {
        let header = &self.header;
        compare("fingerprint", &header.fingerprint, &machine.fingerprint())?;
        compare(
            "pages",
            &header.page_count.to_string(),
            &machine.page_count().to_string(),
        )?;
        let mut stray = StrayPages::of(machine);
        let mut sections: Option<Vec<Section>> = None;
        loop {
            let Some(record) = self.next_record()? else {
                return Err(LogError::NoSnapshot {
                    offset: self.offset,
                });
            };
            let mut reader = FieldReader::new(&record.payload);
            let at = |source: CodecError| LogError::Field {
                offset: record.offset,
                source,
            };
            match RecordKind::from_code(record.kind) {
                Some(RecordKind::Pages) => {
                    read_pages(&mut reader, self.header.page_count, |page, bytes| {
                        machine.write_page(page, bytes);
                        stray.settle(page);
                    })
                    .map_err(at)?;
                }
                Some(RecordKind::Sections) => {
                    sections = Some(read_sections(&mut reader).map_err(at)?);
                }
                Some(RecordKind::SnapshotEnd) => break,
                _ => return Err(order(&record, "a part of the snapshot")),
            }
        }
        let Some(sections) = sections else {
            return Err(LogError::NoSnapshot {
                offset: self.offset,
            });
        };
        stray.clear(machine, usize::MAX);
        machine.restore(&sections)?;
        machine.synchronise();
        machine.take_dirty_pages();
        Ok(())
    }

    /// The next entry; none at the end, of which [`Self::tail`] says more.
    ///
    /// # Errors
    /// If the log is damaged.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LogError> {
        if self.tail != Tail::Open {
            return Ok(None);
        }
        let Some(record) = self.next_record()? else {
            return Ok(None);
        };
        let at = |source: CodecError| LogError::Field {
            offset: record.offset,
            source,
        };
        let mut reader = FieldReader::new(&record.payload);
        match RecordKind::from_code(record.kind) {
            Some(RecordKind::Entry) => {
                let entry = self.coder.decode(&mut reader).map_err(at)?;
                reader.finish("entry").map_err(at)?;
                self.entries += 1;
                Ok(Some(entry))
            }
            Some(RecordKind::End) => {
                let count = reader.varint("entry count").map_err(at)?;
                if count != self.entries {
                    return Err(at(CodecError::unknown("entry count", 0, count)));
                }
                self.tail = Tail::Complete;
                Ok(None)
            }
            _ => Err(order(&record, "an entry")),
        }
    }

    /// Bytes read so far: behind [`Self::restore`], those of header and snapshot.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// How the log ends, as far as it was read.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Reads one record; none if the log ends before it does.
    fn next_record(&mut self) -> Result<Option<Record>, LogError> {
        let offset = self.offset;
        let mut length = 0_u64;
        let mut taken = 0_u64;
        loop {
            let mut byte = [0; 1];
            if fill(&mut self.source, &mut byte, offset + taken)? == 0 {
                return Ok(self.cut(offset, taken));
            }
            length |= u64::from(byte[0] & 0x7f) << (7 * taken);
            taken += 1;
            if byte[0] & 0x80 == 0 {
                break;
            }
            if taken == 5 {
                length = u64::MAX;
                break;
            }
        }
        if length == 0 || length > MAX_RECORD as u64 {
            return Err(LogError::TooLarge {
                offset,
                length,
                max: MAX_RECORD as u64,
            });
        }
        let mut body = vec![0; length as usize + 4];
        let got = fill(&mut self.source, &mut body, offset + taken)?;
        if got < body.len() {
            return Ok(self.cut(offset, taken + got as u64));
        }
        let checksum = body.split_off(length as usize);
        let found = u32::from_le_bytes([checksum[0], checksum[1], checksum[2], checksum[3]]);
        let computed = crc32c::crc32c_append(self.chain, &body);
        if found != computed {
            return Err(LogError::Checksum {
                offset,
                found,
                computed,
            });
        }
        self.chain = computed;
        self.offset = offset + taken + length + 4;
        let payload = body.split_off(1);
        Ok(Some(Record {
            kind: body[0],
            payload,
            offset,
        }))
    }

    /// The log ends here, in the middle of things.
    fn cut(&mut self, offset: u64, lost: u64) -> Option<Record> {
        self.tail = Tail::Cut { offset, lost };
        None
    }
}

/// Refuses a log of another machine.
fn compare(what: &'static str, recorded: &str, actual: &str) -> Result<(), LogError> {
    if recorded == actual {
        return Ok(());
    }
    Err(LogError::OtherMachine {
        what,
        recorded: recorded.into(),
        actual: actual.into(),
    })
}

/// A record that is not in its place.
fn order(record: &Record, expected: &'static str) -> LogError {
    LogError::Order {
        offset: record.offset,
        kind: record.kind,
        expected,
    }
}

/// Reads until the buffer is full or the source ends; returns how much there was.
fn fill(source: &mut impl Read, buffer: &mut [u8], offset: u64) -> Result<usize, LogError> {
    let mut got = 0;
    while got < buffer.len() {
        match source.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(LogError::Io {
                    offset: offset + got as u64,
                    source,
                });
            }
        }
    }
    Ok(got)
}

/// Reads until the buffer is full.
fn read_whole(source: &mut impl Read, buffer: &mut [u8], offset: u64) -> Result<(), LogError> {
    if fill(source, buffer, offset)? == buffer.len() {
        return Ok(());
    }
    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
    Err(LogError::Io { offset, source })
}
