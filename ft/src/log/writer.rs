//! Writes an offline log.

use std::io::Write;

use crate::codec::FieldWriter;
use crate::event::SyncPoint;
use crate::log::entry::{Entry, EntryCoder};
use crate::log::format::{FORMAT_VERSION, LogError, LogHeader, MAGIC, MAX_RECORD, RecordKind};
use crate::machine::Machine;
use crate::output::OutputLedger;
use crate::snapshot::{MAX_BATCH_PAGES, write_pages, write_sections};

/// An offline log that is being written. Give it something that buffers.
pub struct LogWriter<W: Write> {
    sink: W,
    coder: EntryCoder,
    chain: u32,
    offset: u64,
    entries: u64,
}

impl<W: Write> std::fmt::Debug for LogWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("LogWriter");
        shown
            .field("offset", &self.offset)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl<W: Write> LogWriter<W> {
    /// Begins a log: writes the header and a snapshot of the machine as it is.
    ///
    /// The machine's dirty pages are taken and its caches dropped, so that the recording and its
    /// replay start from the same state.
    ///
    /// # Errors
    /// If the sink refuses.
    pub fn begin(
        sink: W,
        machine: &mut dyn Machine,
        point: SyncPoint,
        ledger: OutputLedger,
        scrub_pages: u32,
    ) -> Result<Self, LogError> {
        let header = LogHeader {
            fingerprint: machine.fingerprint(),
            page_count: machine.page_count(),
            scrub_pages,
            start: machine.now(),
            point,
            ledger,
        };
        let coder = EntryCoder::new(header.start, point);
        let mut writer = Self {
            sink,
            coder,
            chain: 0,
            offset: 0,
            entries: 0,
        };
        let body = header.encode();
        let mut head = FieldWriter::new();
        head.raw(&MAGIC);
        head.raw(&FORMAT_VERSION.to_le_bytes());
        head.u32(body.len() as u32);
        head.raw(&body);
        writer.chain = crc32c::crc32c(&body);
        head.u32(writer.chain);
        writer.put(head.as_slice())?;
        writer.snapshot(machine)?;
        Ok(writer)
    }

    /// Appends an entry; returns its size in the log.
    ///
    /// # Errors
    /// If the sink refuses.
    pub fn append(&mut self, entry: &Entry) -> Result<u64, LogError> {
        let mut payload = FieldWriter::new();
        self.coder.encode(entry, &mut payload);
        self.entries += 1;
        self.record(RecordKind::Entry, payload.as_slice())
    }

    /// Passes on what is buffered.
    ///
    /// # Errors
    /// If the sink refuses.
    pub fn flush(&mut self) -> Result<(), LogError> {
        let offset = self.offset;
        self.sink
            .flush()
            .map_err(|source| LogError::Io { offset, source })
    }

    /// Closes the log in order and gives the sink back.
    ///
    /// # Errors
    /// If the sink refuses.
    pub fn finish(mut self) -> Result<W, LogError> {
        let mut payload = FieldWriter::new();
        payload.varint(self.entries);
        self.record(RecordKind::End, payload.as_slice())?;
        self.flush()?;
        Ok(self.sink)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes pages, then sections, then the mark that they are complete.
    fn snapshot(&mut self, machine: &mut dyn Machine) -> Result<(), LogError> {
        machine.synchronise();
        machine.take_dirty_pages();
        for batch in machine.touched_pages().chunks(MAX_BATCH_PAGES) {
            let mut payload = FieldWriter::new();
            write_pages(&mut payload, machine, batch);
            self.record(RecordKind::Pages, payload.as_slice())?;
        }
        let mut payload = FieldWriter::new();
        write_sections(&mut payload, &machine.sections());
        self.record(RecordKind::Sections, payload.as_slice())?;
        self.record(RecordKind::SnapshotEnd, &[])?;
        Ok(())
    }

    /// Writes one record.
    fn record(&mut self, kind: RecordKind, payload: &[u8]) -> Result<u64, LogError> {
        let length = payload.len() as u64 + 1;
        if length > MAX_RECORD as u64 {
            return Err(LogError::TooLarge {
                offset: self.offset,
                length,
                max: MAX_RECORD as u64,
            });
        }
        let mut record = FieldWriter::new();
        record.varint(length);
        record.u8(kind as u8);
        record.raw(payload);
        self.chain = crc32c::crc32c_append(self.chain, &[kind as u8]);
        self.chain = crc32c::crc32c_append(self.chain, payload);
        record.u32(self.chain);
        self.put(record.as_slice())
    }

    /// Writes bytes and counts them.
    fn put(&mut self, bytes: &[u8]) -> Result<u64, LogError> {
        let offset = self.offset;
        self.sink
            .write_all(bytes)
            .map_err(|source| LogError::Io { offset, source })?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }
}
