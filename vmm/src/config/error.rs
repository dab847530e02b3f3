//! Why a configuration is refused.

/// Why a configuration is refused. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing to boot, or too much.
    #[error("Payload configuration is not bootable")]
    Payload(#[source] PayloadError),
    /// A field that this build cannot honour has another value than its default.
    #[error("{field} is not supported by this build: leave it at its default")]
    NotSupported {
        /// The field, with dots between its objects.
        field: String,
    },
    /// A value that this build cannot honour.
    #[error("{field}: {value} is not supported by this build; supported: {supported}")]
    ValueNotSupported {
        /// The field, with dots between its objects.
        field: String,
        /// What was asked for.
        value: String,
        /// What can be had.
        supported: &'static str,
    },
    /// A value that makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, with dots between its objects.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Two devices have the same name.
    #[error("Identifier {0} is not unique")]
    IdentifierNotUnique(String),
    /// A name that is kept for built-in devices.
    #[error("Identifier {0} is reserved: names that start with __ belong to built-in devices")]
    IdentifierReserved(String),
    /// Two entries want the same host device.
    #[error("device path {0} is given twice")]
    DuplicateDevicePath(String),
}

/// What is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Neither is given.
    #[error("No bootitem provided: neither firmware nor kernel")]
    Missing,
    /// Both are given.
    #[error("Too many bootitems provided: both firmware and kernel")]
    Both,
}

impl ConfigError {
    pub(super) fn invalid(field: &str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// The HTTP status that goes with the refusal.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::IdentifierNotUnique(_) | Self::DuplicateDevicePath(_) => 409,
            _ => 400,
        }
    }
}
