//! Why a request failed, as the API answers it: a status and a chain of texts.

use std::error::Error;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlError {
    /// HTTP status.
    pub status: u16,
    /// From the outermost to the root cause.
    pub chain: Vec<String>,
}

/// An error's text and those of its causes.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        texts.push(inner.to_string());
        cause = inner.source();
    }
    texts
}

impl ControlError {
    /// `operation` says what could not be done, `reasons` why.
    pub fn new(status: u16, operation: &str, reasons: Vec<String>) -> Self {
        let mut chain = vec!["Error from API".to_owned(), operation.to_owned()];
        chain.extend(reasons);
        Self { status, chain }
    }

    /// Not possible in the VM's state.
    pub fn state(operation: &str, reason: &str) -> Self {
        Self::new(500, operation, vec![reason.to_owned()])
    }

    /// Tried, and failed.
    pub fn failed(operation: &str, error: &dyn Error) -> Self {
        Self::new(500, operation, causes(error))
    }

    /// The request itself is wrong.
    pub fn request(operation: &str, reason: String) -> Self {
        Self::new(400, operation, vec![reason])
    }
}

impl std::fmt::Display for ControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl Error for ControlError {}
