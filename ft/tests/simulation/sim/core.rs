//! What the toy machine works on: its registers.

use ft::codec::{CodecError, FieldReader, FieldWriter};

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Instructions retired.
    pub now: u64,
    /// What everything is mixed into.
    pub accumulator: u64,
    /// Instructions left of the task.
    pub work: u64,
    /// Work that ticks have piled up.
    pub background: u64,
    /// The task; zero if it is background work.
    pub task: u64,
    /// Whether the machine sleeps.
    pub halted: bool,
    /// Whether it has switched itself off.
    pub off: bool,
    /// Ticks so far.
    pub ticks: u64,
    /// Virtual time of the next tick.
    pub deadline_ns: u64,
    /// Outputs so far.
    pub outputs: u64,
    /// Digest of them all.
    pub chain: u64,
}

impl Core {
    /// Names of the fields, in the order of the byte form.
    pub const NAMES: [&str; 10] = [
        "now",
        "accumulator",
        "work",
        "background",
        "task",
        "flags",
        "ticks",
        "deadline",
        "outputs",
        "chain",
    ];

    /// The byte form.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = FieldWriter::new();
        for field in [
            self.now,
            self.accumulator,
            self.work,
            self.background,
            self.task,
            u64::from(self.halted) | u64::from(self.off) << 1,
            self.ticks,
            self.deadline_ns,
            self.outputs,
            self.chain,
        ] {
            writer.u64(field);
        }
        writer.finish()
    }

    /// What has this byte form.
    ///
    /// # Errors
    /// If it is too short.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = FieldReader::new(bytes);
        let mut field = || reader.u64("cpu");
        let (now, accumulator, work) = (field()?, field()?, field()?);
        let (background, task, flags) = (field()?, field()?, field()?);
        Ok(Self {
            now,
            accumulator,
            work,
            background,
            task,
            halted: flags & 1 == 1,
            off: flags & 2 == 2,
            ticks: field()?,
            deadline_ns: field()?,
            outputs: field()?,
            chain: field()?,
        })
    }
}
