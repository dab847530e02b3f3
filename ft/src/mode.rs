//! How an epoch is closed: by the log that a backup re-executes, or by a delta of the state.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// How a backup follows its primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Replay where the machine's clock is exact, else checkpoint.
    #[default]
    Auto,
    /// The log closes an epoch: the backup executes what it says.
    Replay,
    /// A delta of dirty pages and sections closes an epoch: the backup executes nothing.
    Checkpoint,
}

impl Mode {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Replay => "replay",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// What this comes to with a machine.
    ///
    /// # Errors
    /// If replay is asked for and the machine cannot be replayed.
    pub fn choose(self, machine: &dyn Machine) -> Result<ModeChoice, ModeError> {
        let choice = |mode, reason: String| Ok(ModeChoice { mode, reason });
        match (self, machine.replayable()) {
            (Self::Replay, Err(reason)) => Err(ModeError { reason }),
            (Self::Replay, Ok(())) => choice(Self::Replay, "replay was asked for".into()),
            (Self::Checkpoint, _) => choice(Self::Checkpoint, "checkpoint was asked for".into()),
            (Self::Auto, Ok(())) => {
                let reason = "every input of this machine has an exact logical time";
                choice(Self::Replay, reason.into())
            }
            (Self::Auto, Err(reason)) => choice(Self::Checkpoint, reason),
        }
    }
}

/// A mode that was chosen, replay or checkpoint, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChoice {
    /// The mode; never [`Mode::Auto`].
    pub mode: Mode,
    /// Why, in a sentence.
    pub reason: String,
}

impl ModeChoice {
    /// What a pair has agreed on before.
    pub(crate) fn agreed(mode: Mode) -> Self {
        let reason = "the pair has agreed on it".into();
        Self { mode, reason }
    }
}

/// Replay was asked for and is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mode replay is not possible with this machine: {reason}; checkpoint and auto are")]
pub struct ModeError {
    /// Why not.
    pub reason: String,
}
