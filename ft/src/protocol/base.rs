//! Where a log or an epoch begins, and what a backup has to know of it.

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::event::{DeviceId, MAX_PAYLOAD, Output, SyncPoint};
use crate::log::format::{read_ledger, read_point, write_ledger, write_point};
use crate::output::{NumberedOutput, OutputLedger};
use crate::time::{Epoch, LogPosition, LogicalTime};

/// Most outputs handed over.
const MAX_OUTPUTS: u64 = 1 << 20;

/// Where a log begins or goes on after a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The epoch that begins here.
    pub epoch: Epoch,
    /// The logical time.
    pub at: LogicalTime,
    /// The last entry before.
    pub position: LogPosition,
    /// The last re-basing of the clock.
    pub point: SyncPoint,
    /// The outputs before.
    pub ledger: OutputLedger,
    /// Of those, the ones that have not left yet.
    pub held: Vec<NumberedOutput>,
}

/// The end of an epoch that was closed by a delta. It counts as an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Digest of the state, as a log has it at the end of an epoch.
    pub root: u64,
    /// Where the next epoch begins; its position is the commit's own. The outputs of the epoch have
    /// come before, so it has none.
    pub base: Base,
}

impl Commit {
    /// The epoch that has ended; none if there was none before.
    #[must_use]
    pub fn ended(&self) -> Option<Epoch> {
        self.base.epoch.0.checked_sub(1).map(Epoch)
    }

    /// Appends the byte form.
    pub(super) fn write(&self, writer: &mut FieldWriter) {
        let Self { root, base } = self;
        writer.u64(*root);
        base.write(writer);
    }

    /// Takes the byte form.
    pub(super) fn read(reader: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            root: reader.u64("root digest")?,
            base: Base::read(reader)?,
        })
    }
}

impl Base {
    /// Appends the byte form.
    pub(super) fn write(&self, writer: &mut FieldWriter) {
        let Self {
            epoch,
            at,
            position,
            point,
            ledger,
            held,
        } = self;
        writer.varint(epoch.0);
        writer.varint(at.0);
        writer.varint(position.0);
        write_point(writer, point);
        write_ledger(writer, *ledger);
        write_outputs(writer, held);
    }

    /// Takes the byte form.
    pub(super) fn read(reader: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        let epoch = Epoch(reader.varint("epoch")?);
        let at = LogicalTime(reader.varint("logical time")?);
        let position = LogPosition(reader.varint("position")?);
        let point = read_point(reader)?;
        let ledger = read_ledger(reader)?;
        let held = read_outputs(reader)?;
        Ok(Self {
            epoch,
            at,
            position,
            point,
            ledger,
            held,
        })
    }
}

/// Appends outputs with their numbers.
pub(super) fn write_outputs(writer: &mut FieldWriter, outputs: &[NumberedOutput]) {
    writer.varint(outputs.len() as u64);
    for NumberedOutput { number, output } in outputs {
        writer.varint(*number);
        writer.varint(u64::from(output.device.0));
        writer.bytes(&output.payload);
    }
}

/// Takes outputs with their numbers.
pub(super) fn read_outputs(
    reader: &mut FieldReader<'_>,
) -> Result<Vec<NumberedOutput>, CodecError> {
    let mut outputs = Vec::new();
    for _ in 0..reader.bounded("held outputs", MAX_OUTPUTS)? {
        let number = reader.varint("output number")?;
        let device = DeviceId(reader.bounded("device", u64::from(u16::MAX))? as u16);
        let payload = reader.bytes("output payload", MAX_PAYLOAD)?.to_vec();
        outputs.push(NumberedOutput {
            number,
            output: Output { device, payload },
        });
    }
    Ok(outputs)
}
