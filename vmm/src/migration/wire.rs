//! The frames of a migration, as they are on the wire. Everything is little-endian.
//!
//! ```text
//!   request    command u16 · header 6 bytes · length of the payload u64 · payload
//!   response   status u16 · header 6 bytes · length of the payload u64
//!   range      guest physical address u64 · length u64
//!   role       u16, the first bytes of each further connection
//! ```
//!
//! | command | payload | after it |
//! |---|---|---|
//! | 1 Start | none; header: protocol version u16, offered extensions u16 | |
//! | 2 Config | JSON: [`super::description`] | |
//! | 3 State | JSON: [`super::state`] | |
//! | 4 Memory | table of ranges | the bytes of all of them |
//! | 5 Complete, 8 CompletePaused | none: the machine goes on, or stays paused | |
//! | 6 Abandon | none: the receiver is to forget it all | |
//! | 7 MemoryFd | slot u32, sent with a descriptor | |
//! | 9 PageFault | one range; only for postcopy, which is not supported | |
//! | 64 PackedMemory | a batch of pages: [`super::pages`]; only with the extension | |
//!
//! Each request is answered by one response. This is version 0 of Cloud Hypervisor's protocol: a
//! peer without our extensions offers none, and answers an offer with zeroes.

/// Bytes of a request's or response's head.
pub const HEAD_BYTES: usize = 16;
/// Bytes of a range in a table.
pub const RANGE_BYTES: usize = 16;
/// The protocol's version.
pub const VERSION: u16 = 0;
/// The slot of the memory whose descriptor is handed over: all of it is mapped from one file, in
/// the order of its addresses.
pub const MEMORY_SLOT: u32 = 0;
/// Role of a further connection that carries memory.
pub const ROLE_MEMORY: u16 = 1;
/// Extension: batches of pages without those of zeroes, packed or not.
pub const PACKED: u16 = 1;
/// Extension: a response that something was not done may have the reason as its payload.
pub const REASONS: u16 = 2;
/// All extensions of this build.
pub const EXTENSIONS: u16 = PACKED | REASONS;
/// Most bytes of a reason.
pub const MOST_REASON: u64 = 4096;

/// Most bytes of a configuration.
pub const MOST_CONFIG: u64 = 4 << 20;
/// Most bytes of a state.
pub const MOST_STATE: u64 = 256 << 20;
/// Most bytes of a table of ranges.
pub const MOST_TABLE: u64 = 16 << 20;
/// Most bytes of a packed batch: a full one whose data was not packed, and its page numbers.
pub const MOST_PACKED: u64 = (ft::snapshot::MAX_BATCH_PAGES * (ft::machine::PAGE_SIZE + 16)) as u64;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No such command.
    #[error("there is no command {0}")]
    Command(u16),
    /// No such status.
    #[error("there is no response status {0}")]
    Status(u16),
    /// A payload that the command does not have.
    #[error("{command:?} has {found} bytes of payload, it may have {allowed}")]
    Length {
        /// The command.
        command: Command,
        /// Bytes announced.
        found: u64,
        /// How many it may have.
        allowed: u64,
    },
    /// A table of ranges that ends in the middle of one.
    #[error("a table of ranges has {0} bytes")]
    Table(usize),
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Begins the conversation.
    Start = 1,
    /// What the VM is.
    Config = 2,
    /// All state but memory.
    State = 3,
    /// Some memory.
    Memory = 4,
    /// The destination goes on.
    Complete = 5,
    /// There will be no migration.
    Abandon = 6,
    /// Memory by descriptor.
    MemoryFd = 7,
    /// The destination has the VM and leaves it paused.
    CompletePaused = 8,
    /// A page that is missing.
    PageFault = 9,
    /// Some memory, packed.
    PackedMemory = 64,
}

impl Command {
    const ALL: [Self; 10] = [
        Self::Start,
        Self::Config,
        Self::State,
        Self::Memory,
        Self::Complete,
        Self::Abandon,
        Self::MemoryFd,
        Self::CompletePaused,
        Self::PageFault,
        Self::PackedMemory,
    ];

    /// Most bytes of its payload.
    const fn most(self) -> u64 {
        match self {
            Self::Config => MOST_CONFIG,
            Self::State => MOST_STATE,
            Self::Memory => MOST_TABLE,
            Self::MemoryFd => 4,
            Self::PageFault => RANGE_BYTES as u64,
            Self::PackedMemory => MOST_PACKED,
            Self::Start | Self::Complete | Self::Abandon | Self::CompletePaused => 0,
        }
    }
}

/// The head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub command: Command,
    /// What the command has beside its payload.
    pub header: [u8; 6],
    /// Bytes of the payload.
    pub length: u64,
}

impl Request {
    /// One without a payload.
    pub const fn bare(command: Command) -> Self {
        Self::with(command, 0)
    }

    /// One with so many bytes of payload.
    pub const fn with(command: Command, length: u64) -> Self {
        Self {
            command,
            header: [0; 6],
            length,
        }
    }

    /// Begins the conversation, with an offer of extensions.
    pub fn start(extensions: u16) -> Self {
        let mut request = Self::bare(Command::Start);
        request.header[..2].copy_from_slice(&VERSION.to_le_bytes());
        request.header[2..4].copy_from_slice(&extensions.to_le_bytes());
        request
    }

    /// The protocol's version in a start.
    pub const fn version(&self) -> u16 {
        u16::from_le_bytes([self.header[0], self.header[1]])
    }

    /// The extensions that a start offers.
    pub const fn extensions(&self) -> u16 {
        u16::from_le_bytes([self.header[2], self.header[3]])
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        head(self.command as u16, self.header, self.length)
    }

    /// Reads a head.
    ///
    /// # Errors
    /// When there is no such command, or it has not so much payload.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, WireError> {
        let (number, header, length) = parts(bytes);
        let command = Command::ALL
            .into_iter()
            .find(|command| *command as u16 == number)
            .ok_or(WireError::Command(number))?;
        let allowed = command.most();
        if length > allowed {
            return Err(WireError::Length {
                command,
                found: length,
                allowed,
            });
        }
        Ok(Self {
            command,
            header,
            length,
        })
    }
}

/// The head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Whether what was asked for was done.
    pub ok: bool,
    /// Extensions, in the answer to a start.
    pub extensions: u16,
    /// Bytes of a payload; none but for page faults.
    pub length: u64,
}

const STATUS_OK: u16 = 1;
const STATUS_ERROR: u16 = 2;

impl Response {
    /// It was done.
    pub const OK: Self = Self {
        ok: true,
        extensions: 0,
        length: 0,
    };
    /// It was not.
    pub const ERROR: Self = Self {
        ok: false,
        ..Self::OK
    };

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut header = [0; 6];
        header[..2].copy_from_slice(&self.extensions.to_le_bytes());
        let status = if self.ok { STATUS_OK } else { STATUS_ERROR };
        head(status, header, self.length)
    }

    /// Reads a head.
    ///
    /// # Errors
    /// When there is no such status.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, WireError> {
        let (status, header, length) = parts(bytes);
        Ok(Self {
            ok: match status {
                STATUS_OK => true,
                STATUS_ERROR => false,
                other => return Err(WireError::Status(other)),
            },
            extensions: u16::from_le_bytes([header[0], header[1]]),
            length,
        })
    }
}

fn head(number: u16, header: [u8; 6], length: u64) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    bytes[2..8].copy_from_slice(&header);
    bytes[8..].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn parts(bytes: &[u8; HEAD_BYTES]) -> (u16, [u8; 6], u64) {
    let [a, b, header @ .., c, d, e, f, g, h, i, j] = bytes;
    (
        u16::from_le_bytes([*a, *b]),
        *header,
        u64::from_le_bytes([*c, *d, *e, *f, *g, *h, *i, *j]),
    )
}

/// Some memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
}

/// The bytes of a table of ranges.
pub fn encode_table(ranges: &[MemoryRange]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ranges.len() * RANGE_BYTES);
    for range in ranges {
        bytes.extend(range.address.to_le_bytes());
        bytes.extend(range.length.to_le_bytes());
    }
    bytes
}

/// Reads a table of ranges.
///
/// # Errors
/// When it ends in the middle of one.
pub fn decode_table(bytes: &[u8]) -> Result<Vec<MemoryRange>, WireError> {
    let (words, rest) = bytes.as_chunks::<8>();
    let (pairs, odd) = words.as_chunks::<2>();
    if !rest.is_empty() || !odd.is_empty() {
        return Err(WireError::Table(bytes.len()));
    }
    let ranges = pairs.iter().map(|[address, length]| MemoryRange {
        address: u64::from_le_bytes(*address),
        length: u64::from_le_bytes(*length),
    });
    Ok(ranges.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_the_bytes_of_the_protocol() {
        let start = Request::start(PACKED).encode();
        assert_eq!(start, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let config = Request::with(Command::Config, 0x0102).encode();
        assert_eq!(config, [2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Response::OK.encode()[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Response::ERROR.encode()[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        let range = MemoryRange {
            address: 0x10_0000,
            length: 0x3000,
        };
        let table = encode_table(&[range]);
        assert_eq!(table, [0, 0, 16, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_table(&table), Ok(vec![range]));
    }

    #[test]
    fn every_command_survives_the_way_there_and_back() {
        for command in Command::ALL {
            let mut request = Request::with(command, command.most());
            request.header = [9, 8, 7, 6, 5, 4];
            assert_eq!(Request::decode(&request.encode()), Ok(request));
            if let Some(more) = command.most().checked_add(1) {
                let error = Request::decode(&Request::with(command, more).encode());
                let found = matches!(error, Err(WireError::Length { found, .. }) if found == more);
                assert!(found, "{command:?}");
            }
        }
        let response = Response {
            ok: true,
            extensions: PACKED,
            length: 7,
        };
        assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    #[test]
    fn bytes_that_are_no_frame_are_named() {
        for number in [0, 10, 63, 65, u16::MAX] {
            let bytes = head(number, [0; 6], 0);
            assert_eq!(Request::decode(&bytes), Err(WireError::Command(number)));
        }
        for status in [0, 3, u16::MAX] {
            let bytes = head(status, [0; 6], 0);
            assert_eq!(Response::decode(&bytes), Err(WireError::Status(status)));
        }
        for len in [1, 8, 15, 17, 24] {
            assert_eq!(decode_table(&vec![0; len]), Err(WireError::Table(len)));
        }
        assert_eq!(decode_table(&[]), Ok(vec![]));
    }
}
