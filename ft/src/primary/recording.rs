//! An offline log of a machine that has no backup.

use std::io::Write;

use crate::log::{LogError, LogWriter};
use crate::machine::Machine;
use crate::primary::{Primary, StateError};
use crate::time::HostTime;

/// Where an offline log goes.
pub type LogSink = Box<dyn Write + Send>;

impl Primary {
    /// Begins an offline log of the machine with its state as it is.
    ///
    /// # Errors
    /// If the sink refuses, or a page cannot be read. A machine that is protected or recorded
    /// already is refused, and one that cannot be replayed.
    pub fn record(
        &mut self,
        machine: &mut dyn Machine,
        sink: LogSink,
        epoch_ms: u64,
        scrub_pages: u32,
        now: HostTime,
    ) -> Result<(), RecordError> {
        if self.protection.is_some() || self.sink.is_some() {
            let state = if self.sink.is_some() {
                "recording"
            } else {
                self.state_name()
            };
            return Err(StateError {
                request: "recording",
                state: state.into(),
            }
            .into());
        }
        machine.replayable().map_err(RecordError::NotReplayable)?;
        // What could not be read before is nothing that is recorded.
        machine.take_unreadable();
        let writer = LogWriter::begin(
            sink,
            machine,
            self.recorder.point(),
            self.recorder.ledger(),
            scrub_pages,
        )?;
        if let Some(text) = machine.take_unreadable() {
            return Err(RecordError::Unreadable(text));
        }
        self.recorder.restart_epochs(epoch_ms, now);
        self.sink = Some((writer, scrub_pages));
        Ok(())
    }

    /// Ends the offline log in order, with a last epoch; returns its size in bytes, or none if
    /// there is no log.
    ///
    /// # Errors
    /// If the sink refuses.
    pub fn finish_recording(
        &mut self,
        machine: &mut dyn Machine,
        now: HostTime,
    ) -> Result<Option<u64>, LogError> {
        self.close_epoch(machine, now);
        let Some((writer, _)) = self.sink.take() else {
            return Ok(None);
        };
        let size = writer.offset();
        writer.finish()?;
        Ok(Some(size))
    }

    /// Whether an offline log is being written.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.sink.is_some()
    }
}

/// Why an offline log cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The machine is protected or recorded already.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody could make anything of the log.
    #[error("this machine cannot be replayed: {0}")]
    NotReplayable(String),
    /// A page of the machine cannot be read.
    #[error("a page cannot be recorded: {0}")]
    Unreadable(String),
    /// The sink refuses.
    #[error(transparent)]
    Log(#[from] LogError),
}
