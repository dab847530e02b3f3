//! Why a request failed, as the API answers it: a status and a chain of texts.

use std::error::Error;

use api_client::error::Message;

use crate::offline::OfflineError;

/// First text of what clients of the API are told.
const OUTERMOST: &str = "Error from API";

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
        let mut chain = vec![OUTERMOST.to_owned(), operation.to_owned()];
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

    /// What the request names cannot be had: a file, an image, a tap, an address.
    pub fn unusable(operation: &str, error: &dyn Error) -> Self {
        Self::new(400, operation, causes(error))
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

/// Why the VM of a command line does not run.
#[derive(Debug, thiserror::Error)]
#[error("Error booting VM")]
pub struct BootError(#[source] Option<Cause>);

/// What that was caused by.
#[derive(Debug, thiserror::Error)]
enum Cause {
    /// A step of the boot.
    #[error(transparent)]
    Step(Message),
    /// The log that was to be written of it.
    #[error(transparent)]
    Recording(OfflineError),
}

impl From<ControlError> for BootError {
    fn from(error: ControlError) -> Self {
        let mut texts = error.chain;
        // Nobody called the API.
        texts.retain(|text| text != OUTERMOST);
        Self(Message::chain(texts).map(Cause::Step))
    }
}

impl From<OfflineError> for BootError {
    fn from(error: OfflineError) -> Self {
        Self(Some(Cause::Recording(error)))
    }
}

#[cfg(test)]
mod tests {
    use api_client::chain_report;

    use super::*;

    #[test]
    fn a_boot_that_fails_is_told_cause_by_cause() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = ControlError::failed("The VM could not boot", &missing);
        assert_eq!(
            chain_report("Cloud Hypervisor", &BootError::from(error)),
            "Error: Cloud Hypervisor exited with the following chain of errors:\n  \
             0: Error booting VM\n  1: The VM could not boot\n  2: entity not found\n"
        );
        let error = OfflineError::Machine("of glass".to_owned());
        assert_eq!(
            chain_report("Cloud Hypervisor", &BootError::from(error)),
            "Error: Cloud Hypervisor exited with the following chain of errors:\n  \
             0: Error booting VM\n  1: the recording is of another machine: of glass\n"
        );
    }
}
