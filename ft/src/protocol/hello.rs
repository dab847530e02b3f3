//! The handshake: what both sides must agree on before anything is cloned.

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::machine::Machine;
use crate::parameters::Parameters;
use crate::protocol::PROTOCOL_VERSION;
use crate::runs::PageRuns;
use crate::time::Generation;

/// Longest fingerprint.
const MAX_FINGERPRINT: usize = 4096;
/// Largest description of the virtual machine.
const MAX_CONFIG: usize = 1 << 20;
/// First bytes of a hello, so that a stranger is told apart from another version.
const GREETING: [u8; 4] = *b"CHFT";

/// What must be equal on both machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// See [`Machine::fingerprint`].
    pub fingerprint: String,
    /// Pages of memory.
    pub page_count: u64,
}

impl MachineFacts {
    /// The facts of a machine.
    #[must_use]
    pub fn of(machine: &dyn Machine) -> Self {
        Self {
            fingerprint: machine.fingerprint(),
            page_count: machine.page_count(),
        }
    }

    /// Refuses a peer's machine that is not like this one.
    ///
    /// # Errors
    /// Names what differs and both values.
    pub fn agree(&self, peer: &Self) -> Result<(), Refusal> {
        refuse_unless_equal("machine fingerprint", &peer.fingerprint, &self.fingerprint)?;
        let (theirs, ours) = (peer.page_count.to_string(), self.page_count.to_string());
        refuse_unless_equal("memory size in pages", &theirs, &ours)
    }
}

/// A primary's opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Protocol version of the primary.
    pub version: u16,
    /// Its machine.
    pub facts: MachineFacts,
    /// Its generation, which it has claimed.
    pub generation: Generation,
    /// What the pair is to agree on.
    pub parameters: Parameters,
    /// What the backup needs to build the machine; the caller's own form.
    pub config: Vec<u8>,
}

impl Hello {
    /// Appends the message.
    pub fn write(&self, writer: &mut FieldWriter) {
        let Self {
            version,
            facts,
            generation,
            parameters,
            config,
        } = self;
        writer.raw(&GREETING);
        writer.varint(u64::from(*version));
        write_facts(writer, facts);
        writer.varint(generation.0);
        parameters.write(writer);
        writer.bytes(config);
    }

    /// Takes the message. What follows the version is only read if the version is ours.
    ///
    /// # Errors
    /// If it is malformed or of another version.
    pub fn read(reader: &mut FieldReader<'_>) -> Result<Self, HelloError> {
        let greeting = reader.raw("greeting", GREETING.len())?;
        if greeting != GREETING {
            let value = u64::from(greeting[0]);
            return Err(CodecError::unknown("greeting", 0, value).into());
        }
        let version = reader.bounded("version", u64::from(u16::MAX))? as u16;
        check_version(version)?;
        Ok(Self {
            version,
            facts: read_facts(reader)?,
            generation: Generation(reader.varint("generation")?),
            parameters: Parameters::read(reader)?,
            config: reader.bytes("config", MAX_CONFIG)?.to_vec(),
        })
    }
}

/// A backup's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// Protocol version of the backup.
    pub version: u16,
    /// Its machine.
    pub facts: MachineFacts,
    /// Pages that its machine has touched already: what they hold may be what they should.
    pub held: PageRuns,
}

impl HelloAck {
    /// Appends the message.
    pub fn write(&self, writer: &mut FieldWriter) {
        let Self {
            version,
            facts,
            held,
        } = self;
        writer.varint(u64::from(*version));
        write_facts(writer, facts);
        held.write(writer);
    }

    /// Takes the message.
    ///
    /// # Errors
    /// If it is malformed or of another version.
    pub fn read(reader: &mut FieldReader<'_>) -> Result<Self, HelloError> {
        let version = reader.bounded("version", u64::from(u16::MAX))? as u16;
        check_version(version)?;
        Ok(Self {
            version,
            facts: read_facts(reader)?,
            held: PageRuns::read(reader)?,
        })
    }
}

/// Appends a machine's facts.
fn write_facts(writer: &mut FieldWriter, facts: &MachineFacts) {
    writer.text(&facts.fingerprint);
    writer.varint(facts.page_count);
}

/// Takes a machine's facts.
fn read_facts(reader: &mut FieldReader<'_>) -> Result<MachineFacts, CodecError> {
    let fingerprint = reader.text("fingerprint", MAX_FINGERPRINT)?;
    Ok(MachineFacts {
        fingerprint,
        page_count: reader.varint("page count")?,
    })
}

/// Refuses another version.
fn check_version(version: u16) -> Result<(), Refusal> {
    let (theirs, ours) = (version.to_string(), PROTOCOL_VERSION.to_string());
    refuse_unless_equal("protocol version", &theirs, &ours)
}

/// Refuses a value that is not ours.
pub(crate) fn refuse_unless_equal(
    what: &'static str,
    theirs: &str,
    ours: &str,
) -> Result<(), Refusal> {
    if theirs == ours {
        return Ok(());
    }
    Err(Refusal {
        what,
        theirs: theirs.into(),
        ours: ours.into(),
    })
}

/// Two sides that do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not match: the peer has {theirs}, this side has {ours}")]
pub struct Refusal {
    /// What does not match.
    pub what: &'static str,
    /// The peer's value.
    pub theirs: String,
    /// Ours.
    pub ours: String,
}

/// A handshake message that is malformed or does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// A field is malformed.
    #[error(transparent)]
    Field(#[from] CodecError),
    /// The sides do not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
