//! Why a call over the API socket failed, and how tools print it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Status codes by the names under which tools show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusCode(pub u16);

impl fmt::Display for StatusCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            100 => "Continue",
            200 => "OK",
            204 => "NoContent",
            400 => "BadRequest",
            404 => "NotFound",
            409 => "Conflict",
            429 => "TooManyRequests",
            500 => "InternalServerError",
            501 => "NotImplemented",
            503 => "ServiceUnavailable",
            other => return write!(formatter, "status {other}"),
        })
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to the API socket {path}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("cannot talk to the API socket")]
    Io(#[from] io::Error),
    /// What came back is not an HTTP response.
    #[error("malformed response: {0}")]
    Malformed(String),
    /// The server refused.
    #[error("Server responded with {status}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The server's chain of messages, outermost first.
        #[source]
        messages: Option<Message>,
    },
}

impl ClientError {
    /// A refusal with the body that came with it.
    pub(crate) fn refused(status: u16, body: Option<&str>) -> Self {
        let texts = body.map_or_else(Vec::new, |body| match serde_json::from_str(body) {
            Ok(texts) => texts,
            Err(_) => vec![format!(
                "the error message is not an array of strings: {body}"
            )],
        });
        Self::Refused {
            status: StatusCode(status),
            messages: Message::chain(texts),
        }
    }

    /// The server's messages, outermost first; empty for other errors.
    #[must_use]
    pub fn messages(&self) -> Vec<&str> {
        let Self::Refused { messages, .. } = self else {
            return Vec::new();
        };
        let first = messages.as_ref();
        std::iter::successors(first, |message| message.cause.as_deref())
            .map(|message| message.text.as_str())
            .collect()
    }

    /// The status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.0),
            _ => None,
        }
    }
}

/// One message of a server's chain, with the one it was caused by.
#[derive(Debug)]
pub struct Message {
    text: String,
    cause: Option<Box<Message>>,
}

impl Message {
    /// Messages as a chain, outermost first; none of none.
    #[must_use]
    pub fn chain(texts: Vec<String>) -> Option<Self> {
        texts.into_iter().rev().fold(None, |cause, text| {
            Some(Self {
                text,
                cause: cause.map(Box::new),
            })
        })
    }
}

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for Message {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// The chain of `error`, one numbered line per level, as the command line tools print it.
///
/// `program` is the tool's name as its users know it.
#[must_use]
pub fn chain_report(program: &str, error: &dyn Error) -> String {
    let mut report = format!("Error: {program} exited with the following chain of errors:\n");
    let mut next = Some(error);
    let mut level = 0;
    while let Some(error) = next {
        report.push_str(&format!("  {level}: {error}\n"));
        next = error.source();
        level += 1;
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_print_the_servers_chain_level_by_level() {
        let error = ClientError::refused(404, Some(r#"["Error from API","VM is not created"]"#));
        assert_eq!(
            chain_report("ch-remote", &error),
            "Error: ch-remote exited with the following chain of errors:\n  \
             0: Server responded with NotFound\n  1: Error from API\n  2: VM is not created\n"
        );
        assert_eq!(error.messages(), ["Error from API", "VM is not created"]);
        assert_eq!(error.status(), Some(404));
    }

    #[test]
    fn refusals_without_a_list_keep_the_text() {
        assert!(ClientError::refused(400, None).messages().is_empty());
        let error = ClientError::refused(400, Some("{\"error\":\"x\"}"));
        assert!(error.messages()[0].contains("{\"error\":\"x\"}"));
    }
}
