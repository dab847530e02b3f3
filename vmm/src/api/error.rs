//! Refusals, as clients see them.

use std::error::Error;

use super::state::Call;
use crate::config::ConfigError;
use crate::control::ControlError;

/// A refusal: a status and the chain of messages that is the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", chain.join(": "))]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Messages from the outermost to the cause; none for an empty body.
    pub chain: Vec<String>,
}

/// First message of everything that the monitor, not the HTTP layer, refuses.
const OUTERMOST: &str = "Error from API";

impl ApiError {
    /// A refusal of `call` with the causes given.
    #[must_use]
    pub fn new<T: Into<String>>(
        status: u16,
        call: Call,
        causes: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut chain = vec![OUTERMOST.to_owned(), call.failure().to_owned()];
        chain.extend(causes.into_iter().map(Into::into));
        Self { status, chain }
    }

    /// A refusal of `call` because of `error` and what that was caused by.
    #[must_use]
    pub fn caused(status: u16, call: Call, error: &dyn Error) -> Self {
        let mut causes = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self::new(status, call, causes)
    }

    /// A refusal of `call` because its configuration is wrong.
    #[must_use]
    pub fn invalid_config(call: Call, error: &ConfigError) -> Self {
        let mut refusal = Self::caused(error.status(), call, error);
        refusal
            .chain
            .insert(2, "Failed to validate config".to_owned());
        refusal
    }

    /// The refusal of a call that the interface has and this build does not.
    #[must_use]
    pub fn unsupported(name: &str) -> Self {
        let reason = format!("{name} is not supported by this build");
        Self {
            status: 501,
            chain: vec![OUTERMOST.to_owned(), reason],
        }
    }

    /// A refusal by the HTTP layer.
    pub(super) fn plain<const N: usize>(status: u16, chain: [&str; N]) -> Self {
        Self {
            status,
            chain: chain.map(str::to_owned).to_vec(),
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let ControlError { status, chain } = error;
        Self { status, chain }
    }
}
