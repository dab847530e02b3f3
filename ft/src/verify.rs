//! Replays an offline log and checks every digest in it.

use std::io::Read;

use serde::Serialize;

use crate::divergence::{DivergenceCause, DivergenceReport, SectionDifference};
use crate::log::{Entry, Event, LogError, LogReader, Tail};
use crate::machine::{FieldDifference, Machine};
use crate::output::NumberedOutput;
use crate::replay::{ReplayBase, ReplayedEpoch, Replayer, Step};
use crate::time::Epoch;

/// Instructions between two looks at the caller's wishes.
const SLICE: u64 = 10_000_000;

/// What a replay of a log came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifySummary {
    /// Epochs whose digest was equal.
    pub epochs_verified: u64,
    /// Where replay differed; it stops at the first.
    pub divergences: Vec<DivergenceReport>,
    /// Instructions that were executed.
    pub instructions: u64,
    /// Entries that were replayed.
    pub entries: u64,
    /// Outputs that were repeated.
    pub outputs: u64,
    /// Bytes of the log before its first entry: header and snapshot.
    pub snapshot_bytes: u64,
    /// Offset at which the log was cut, if it was.
    pub cut_at: Option<u64>,
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The machine cannot go on.
    #[error("the machine failed: {0}")]
    Machine(String),
}

/// Replays a log from its snapshot to its end. `observe` is given the outputs as they are
/// repeated and says whether to go on.
///
/// # Errors
/// If the log is damaged or of another machine, or the machine fails. A divergence is not an
/// error; it is in the summary.
pub fn verify<R: Read>(
    reader: &mut LogReader<R>,
    machine: &mut dyn Machine,
    mut observe: impl FnMut(Vec<NumberedOutput>) -> bool,
) -> Result<VerifySummary, VerifyError> {
    reader.restore(machine)?;
    let snapshot_bytes = reader.position();
    let header = reader.header();
    let base = ReplayBase {
        epoch: Epoch(0),
        point: header.point,
        ledger: header.ledger,
    };
    let mut replayer = Replayer::new(base, header.scrub_pages);
    let start = machine.now();
    let mut summary = VerifySummary {
        epochs_verified: 0,
        divergences: Vec::new(),
        instructions: 0,
        entries: 0,
        outputs: 0,
        snapshot_bytes,
        cut_at: None,
    };
    'log: while let Some(entry) = reader.next_entry()? {
        loop {
            let mut budget = SLICE;
            let step = replayer.step(machine, &entry, &mut budget);
            let outputs = replayer.take_outputs();
            summary.outputs += outputs.len() as u64;
            let go_on = observe(outputs);
            match judge(step, &entry, &replayer)? {
                Verdict::Again => {}
                Verdict::Done => break,
                Verdict::Verified => {
                    summary.epochs_verified += 1;
                    break;
                }
                Verdict::Diverged(report) => {
                    summary.divergences.push(*report);
                    break 'log;
                }
            }
            if !go_on {
                break 'log;
            }
        }
        summary.entries += 1;
    }
    summary.instructions = machine.now().since(start);
    if let Tail::Cut { offset, .. } = reader.tail() {
        summary.cut_at = Some(offset);
    }
    Ok(summary)
}

/// What a step means for the summary.
enum Verdict {
    Again,
    Done,
    Verified,
    Diverged(Box<DivergenceReport>),
}

/// Sorts out a step.
fn judge(step: Step, entry: &Entry, replayer: &Replayer) -> Result<Verdict, VerifyError> {
    Ok(match step {
        Step::Partial => Verdict::Again,
        Step::Done => Verdict::Done,
        Step::Epoch(ended) if ended.is_equal() => Verdict::Verified,
        Step::Epoch(ended) => Verdict::Diverged(Box::new(report(&ended, entry))),
        Step::Contradiction(text) => Verdict::Diverged(Box::new(DivergenceReport {
            epoch: replayer.epoch(),
            at: entry.at,
            cause: DivergenceCause::Contradiction(text),
            sections: Vec::new(),
            pages: Vec::new(),
            outputs: None,
        })),
        Step::Failed(text) => return Err(VerifyError::Machine(text)),
    })
}

/// Names the parts whose digest is not the recorded one.
fn report(ended: &ReplayedEpoch, entry: &Entry) -> DivergenceReport {
    let recorded = match &entry.event {
        Event::EpochEnd { parts, .. } => parts.as_slice(),
        _ => &[],
    };
    let names = ended.digest.differing_parts(recorded);
    let digests = ended
        .digest
        .parts
        .iter()
        .zip(recorded)
        .filter(|(ours, theirs)| ours != theirs);
    let mut sections: Vec<_> = names
        .into_iter()
        .zip(digests)
        .map(|(section, (replayed, recorded))| SectionDifference {
            section,
            fields: vec![digest_field(u64::from(*recorded), u64::from(*replayed))],
        })
        .collect();
    if sections.is_empty() {
        let fields = vec![digest_field(ended.recorded, ended.digest.root)];
        sections.push(SectionDifference {
            section: "state".into(),
            fields,
        });
    }
    DivergenceReport {
        epoch: ended.epoch,
        at: ended.at,
        cause: DivergenceCause::Digest,
        sections,
        pages: Vec::new(),
        outputs: None,
    }
}

/// A difference of digests.
fn digest_field(recorded: u64, replayed: u64) -> FieldDifference {
    FieldDifference {
        field: "digest".into(),
        first: format!("{recorded:x}"),
        second: format!("{replayed:x}"),
    }
}
