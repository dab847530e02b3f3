//! What a protected pair agrees on. The primary's operator chooses; the handshake carries it.

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::mode::Mode;
use crate::output::ReleasePolicy;

/// Longest description of a fence.
const MAX_FENCE_TEXT: usize = 4096;

/// Settings of a protected pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// How an epoch is closed. What a pair has agreed on is never [`Mode::Auto`].
    pub mode: Mode,
    /// When outputs may leave.
    pub release: ReleasePolicy,
    /// Length of an epoch in milliseconds of execution, 1 to 1000.
    pub epoch_ms: u64,
    /// Longest silence that a side keeps, in milliseconds, 1 to 10,000.
    pub heartbeat_ms: u64,
    /// Silence after which the peer is suspected, at least twice `heartbeat_ms`.
    pub timeout_ms: u64,
    /// How long an acknowledgement allows releases, at most half of `timeout_ms`. A backup whose
    /// link closes waits a quarter longer than this before it goes live.
    pub lease_ms: u64,
    /// Pages digested in each epoch besides those written in it, at most 4096.
    pub scrub_pages: u32,
    /// Epochs that the backup may be behind before the primary waits for it, 2 to 10,000.
    pub max_lag_epochs: u64,
    /// Where the pair is arbitrated, as the operator wrote it: `file:PATH` or `none`.
    pub fence: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            release: ReleasePolicy::Received,
            epoch_ms: 10,
            heartbeat_ms: 20,
            timeout_ms: 200,
            lease_ms: 20,
            scrub_pages: 16,
            max_lag_epochs: 50,
            fence: "none".into(),
        }
    }
}

impl Parameters {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// Names the first field that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), ParameterError> {
        check("epoch_ms", self.epoch_ms, 1, 1000)?;
        check("heartbeat_ms", self.heartbeat_ms, 1, 10_000)?;
        check(
            "timeout_ms",
            self.timeout_ms,
            self.heartbeat_ms * 2,
            100_000,
        )?;
        check("lease_ms", self.lease_ms, 1, self.timeout_ms / 2)?;
        check("scrub_pages", u64::from(self.scrub_pages), 0, 4096)?;
        check("max_lag_epochs", self.max_lag_epochs, 2, 10_000)?;
        check(
            "fence length",
            self.fence.len() as u64,
            1,
            MAX_FENCE_TEXT as u64,
        )
    }

    /// Appends the settings.
    pub fn write(&self, writer: &mut FieldWriter) {
        let Self {
            mode,
            release,
            epoch_ms,
            heartbeat_ms,
            timeout_ms,
            lease_ms,
            scrub_pages,
            max_lag_epochs,
            fence,
        } = self;
        writer.u8(match mode {
            Mode::Auto => 0,
            Mode::Replay => 1,
            Mode::Checkpoint => 2,
        });
        writer.u8(match release {
            ReleasePolicy::Received => 0,
            ReleasePolicy::Replayed => 1,
            ReleasePolicy::Verified => 2,
        });
        writer.varint(*epoch_ms);
        writer.varint(*heartbeat_ms);
        writer.varint(*timeout_ms);
        writer.varint(*lease_ms);
        writer.varint(u64::from(*scrub_pages));
        writer.varint(*max_lag_epochs);
        writer.text(fence);
    }

    /// Takes the settings.
    ///
    /// # Errors
    /// If they are malformed. Ranges are [`Self::validate`]'s affair.
    pub fn read(reader: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        let offset = reader.offset();
        let mode = match reader.u8("mode")? {
            0 => Mode::Auto,
            1 => Mode::Replay,
            2 => Mode::Checkpoint,
            other => return Err(CodecError::unknown("mode", offset, u64::from(other))),
        };
        let offset = reader.offset();
        let release = match reader.u8("release")? {
            0 => ReleasePolicy::Received,
            1 => ReleasePolicy::Replayed,
            2 => ReleasePolicy::Verified,
            other => return Err(CodecError::unknown("release", offset, u64::from(other))),
        };
        Ok(Self {
            mode,
            release,
            epoch_ms: reader.bounded("epoch_ms", 1_000_000)?,
            heartbeat_ms: reader.bounded("heartbeat_ms", 1_000_000)?,
            timeout_ms: reader.bounded("timeout_ms", 1_000_000)?,
            lease_ms: reader.bounded("lease_ms", 1_000_000)?,
            scrub_pages: reader.bounded("scrub_pages", 1_000_000)? as u32,
            max_lag_epochs: reader.bounded("max_lag_epochs", 1_000_000)?,
            fence: reader.text("fence", MAX_FENCE_TEXT)?,
        })
    }
}

/// A setting out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}; it must be from {least} to {most}")]
pub struct ParameterError {
    /// Which setting.
    pub field: &'static str,
    /// What was asked for.
    pub value: u64,
    /// The least that is allowed.
    pub least: u64,
    /// The most that is allowed.
    pub most: u64,
}

/// Checks one field.
fn check(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), ParameterError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ParameterError {
        field,
        value,
        least,
        most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_survive_the_wire() {
        let parameters = Parameters::default();
        assert_eq!(parameters.validate(), Ok(()));
        let mut writer = FieldWriter::new();
        parameters.write(&mut writer);
        let bytes = writer.finish();
        assert_eq!(
            Parameters::read(&mut FieldReader::new(&bytes)),
            Ok(parameters)
        );
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_its_value() {
        let cases: [(Parameters, &str); 4] = [
            (
                Parameters {
                    epoch_ms: 0,
                    ..Parameters::default()
                },
                "epoch_ms is 0",
            ),
            (
                Parameters {
                    timeout_ms: 39,
                    ..Parameters::default()
                },
                "timeout_ms is 39",
            ),
            (
                Parameters {
                    lease_ms: 101,
                    ..Parameters::default()
                },
                "lease_ms is 101",
            ),
            (
                Parameters {
                    max_lag_epochs: 1,
                    ..Parameters::default()
                },
                "max_lag_epochs is 1",
            ),
        ];
        for (parameters, expected) in cases {
            let text = parameters.validate().unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
