//! Where a peer listens.

use std::fmt;
use std::path::PathBuf;

/// Where a peer listens, as `tcp:HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// A TCP port.
    Tcp {
        /// Name or address; an IPv6 address without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl PeerAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text:?} {what}; write tcp:HOST:PORT or unix:PATH");
        let (scheme, rest) = text.split_once(':').ok_or_else(|| wrong("has no scheme"))?;
        match scheme {
            "unix" if rest.is_empty() => Err(wrong("has no path")),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
                let port = port.parse().map_err(|_| wrong("has a port that is not one"))?;
                let host = match host.strip_prefix('[') {
                    Some(inner) => {
                        inner.strip_suffix(']').ok_or_else(|| wrong("has an open bracket"))?
                    }
                    None if host.contains(':') => {
                        return Err(wrong("has an IPv6 address without brackets"));
                    }
                    None => host,
                };
                if host.is_empty() {
                    return Err(wrong("has no host"));
                }
                Ok(Self::Tcp { host: host.to_owned(), port })
            }
            "vsock" => Err(format!("{text:?}: vsock is not supported by this build")),
            _ => Err(wrong("has an unknown scheme")),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => {
                write!(formatter, "tcp:[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(formatter, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_the_same() {
        for text in ["tcp:0.0.0.0:7000", "tcp:[::1]:1", "tcp:host.example:65535", "unix:/a:b"] {
            assert_eq!(PeerAddress::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_addresses_are_refused_with_the_text_and_the_reason() {
        let table = [
            ("", "no scheme"),
            ("host", "no scheme"),
            ("http://x:1", "unknown scheme"),
            ("tcp:host", "no port"),
            ("tcp:host:", "port that is not one"),
            ("tcp:host:65536", "port that is not one"),
            ("tcp::7000", "no host"),
            ("tcp:::1:7000", "without brackets"),
            ("tcp:[::1:7000", "open bracket"),
            ("unix:", "no path"),
            ("vsock:2:3", "not supported"),
        ];
        for (text, reason) in table {
            let error = PeerAddress::parse(text).unwrap_err();
            assert!(error.contains(reason) && error.contains(text), "{text}: {error}");
        }
    }
}
