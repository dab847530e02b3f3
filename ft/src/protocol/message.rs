//! Messages: what is in a frame.

use crate::codec::{CodecError, FieldReader, FieldWriter};
use crate::digest::PageDigest;
use crate::divergence::{BackupState, DivergenceCause};
use crate::log::format::{read_ledger, write_ledger};
use crate::output::NumberedOutput;
use crate::protocol::base::{Base, Commit, read_outputs, write_outputs};
use crate::protocol::comparison::{read_compare, read_differ, write_compare, write_differ};
use crate::protocol::frame::Frame;
use crate::protocol::hello::{Hello, HelloAck, HelloError};
use crate::time::{Epoch, LogPosition, LogicalTime, PageNumber};

/// Longest text of an error.
const MAX_TEXT: usize = 4096;
/// Most pages named in a divergence.
const MAX_PAGES: u64 = 1 << 20;

/// Code of each kind of message.
pub mod kind {
    #![allow(missing_docs)]
    pub const HELLO: u8 = 1;
    pub const HELLO_ACK: u8 = 2;
    pub const PAGES: u8 = 3;
    pub const SECTIONS: u8 = 4;
    pub const CLONE_DONE: u8 = 5;
    pub const LOG: u8 = 6;
    pub const ACK: u8 = 7;
    pub const RELEASED: u8 = 8;
    pub const HEARTBEAT: u8 = 9;
    pub const DIVERGENCE: u8 = 10;
    pub const REPAIR_STATE: u8 = 11;
    pub const FAILOVER: u8 = 12;
    pub const TAKEN_OVER: u8 = 13;
    pub const DECLINED: u8 = 14;
    pub const STOP: u8 = 15;
    pub const STOP_ACK: u8 = 16;
    pub const ERROR: u8 = 17;
    pub const COMPARE: u8 = 18;
    pub const DIFFER: u8 = 19;
    pub const DELTA: u8 = 20;
    pub const HELD: u8 = 21;
    pub const DELTA_SECTIONS: u8 = 22;
    pub const COMMIT: u8 = 23;
    pub const LAST: u8 = COMMIT;
}

/// What one side tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A primary opens.
    Hello(Box<Hello>),
    /// A backup agrees.
    HelloAck(HelloAck),
    /// A batch of pages, as [`crate::snapshot::write_pages`] writes it.
    Pages(Vec<u8>),
    /// Some sections, as [`crate::snapshot::write_sections`] writes them; what follows the last of
    /// these messages says what they are for.
    Sections(Vec<u8>),
    /// The pages and sections before it are a clone; the log begins.
    CloneDone(Box<Base>),
    /// Log entries, one behind the other, as [`crate::log::EntryCoder`] writes them.
    Log(Vec<u8>),
    /// How far the backup is.
    Ack(Ack),
    /// Outputs up to this number have left the primary.
    Released(u64),
    /// Nothing else to say.
    Heartbeat,
    /// The backup's state is not what the log says; its sections have come before it.
    Divergence(Box<Divergence>),
    /// The pages and sections before it, and what did not differ, are the primary's state.
    RepairState(Box<Base>),
    /// The backup is to take over at this position, which it has verified.
    Failover(LogPosition),
    /// The backup has taken over with the frame's generation; its log begins here.
    TakenOver(Box<Base>),
    /// The backup has not taken over and will not.
    Declined(String),
    /// Protection ends.
    Stop(StopReason),
    /// The backup has ended and will not take over.
    StopAck,
    /// The sender gives up the link.
    Error(String),
    /// Pages that the backup holds, ascending, with the digests that they have at the primary; at
    /// most [`MAX_COMPARED_PAGES`](crate::protocol::MAX_COMPARED_PAGES).
    Compare(Vec<PageDigest>),
    /// Those of the oldest comparison that differ, ascending.
    Differ(Vec<PageNumber>),
    /// A batch of pages of a delta, as the primary's encoder writes it.
    Delta(Vec<u8>),
    /// Outputs of the epoch that a delta closes, in order.
    Held(Vec<NumberedOutput>),
    /// Sections of a delta, packed: those that are others than at the end of the epoch before.
    DeltaSections(Vec<u8>),
    /// The delta is complete.
    Commit(Box<Commit>),
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Last entry that is in its memory.
    pub received: LogPosition,
    /// Last entry that it has replayed.
    pub replayed: LogPosition,
    /// Last epoch end at which its digest was equal.
    pub verified: LogPosition,
}

/// A backup's report of its own divergence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Epoch in or at the end of which it was noticed.
    pub epoch: Epoch,
    /// Logical time of the state below.
    pub at: LogicalTime,
    /// How it was noticed.
    pub cause: DivergenceCause,
    /// The state. Its sections are not part of the byte form: they are sent before.
    pub state: BackupState,
}

/// Why protection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The operator wants it.
    Requested,
    /// The guest has switched itself off.
    PoweredOff,
}

impl Message {
    /// Its kind's code and its byte form.
    #[must_use]
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut writer = FieldWriter::new();
        let kind = self.write(&mut writer);
        (kind, writer.finish())
    }

    /// Appends the byte form; returns the kind's code.
    fn write(&self, writer: &mut FieldWriter) -> u8 {
        match self {
            Self::Hello(hello) => {
                hello.write(writer);
                kind::HELLO
            }
            Self::HelloAck(ack) => {
                ack.write(writer);
                kind::HELLO_ACK
            }
            Self::Pages(bytes) => with(writer, kind::PAGES, |writer| writer.raw(bytes)),
            Self::Sections(bytes) => with(writer, kind::SECTIONS, |writer| writer.raw(bytes)),
            Self::CloneDone(base) => with(writer, kind::CLONE_DONE, |writer| base.write(writer)),
            Self::Log(bytes) => with(writer, kind::LOG, |writer| writer.raw(bytes)),
            Self::Ack(ack) => with(writer, kind::ACK, |writer| ack.write(writer)),
            Self::Released(number) => with(writer, kind::RELEASED, |writer| writer.varint(*number)),
            Self::Heartbeat => kind::HEARTBEAT,
            Self::Divergence(found) => with(writer, kind::DIVERGENCE, |writer| found.write(writer)),
            Self::RepairState(base) => {
                with(writer, kind::REPAIR_STATE, |writer| base.write(writer))
            }
            Self::Failover(position) => {
                with(writer, kind::FAILOVER, |writer| writer.varint(position.0))
            }
            Self::TakenOver(base) => with(writer, kind::TAKEN_OVER, |writer| base.write(writer)),
            Self::Declined(text) => with(writer, kind::DECLINED, |writer| writer.text(cut(text))),
            Self::Stop(reason) => with(writer, kind::STOP, |writer| {
                writer.u8(match reason {
                    StopReason::Requested => 0,
                    StopReason::PoweredOff => 1,
                });
            }),
            Self::StopAck => kind::STOP_ACK,
            Self::Error(text) => with(writer, kind::ERROR, |writer| writer.text(cut(text))),
            Self::Compare(pages) => {
                with(writer, kind::COMPARE, |writer| write_compare(writer, pages))
            }
            Self::Differ(pages) => with(writer, kind::DIFFER, |writer| write_differ(writer, pages)),
            Self::Delta(bytes) => with(writer, kind::DELTA, |writer| writer.raw(bytes)),
            Self::Held(held) => with(writer, kind::HELD, |writer| write_outputs(writer, held)),
            Self::DeltaSections(bytes) => {
                with(writer, kind::DELTA_SECTIONS, |writer| writer.raw(bytes))
            }
            Self::Commit(commit) => with(writer, kind::COMMIT, |writer| commit.write(writer)),
        }
    }

    /// Opens a frame.
    ///
    /// # Errors
    /// If it is malformed, of an unknown kind, or of another protocol version.
    pub fn decode(frame: Frame) -> Result<Self, HelloError> {
        let payload = frame.payload;
        match frame.kind {
            kind::PAGES => return Ok(Self::Pages(payload)),
            kind::SECTIONS => return Ok(Self::Sections(payload)),
            kind::LOG => return Ok(Self::Log(payload)),
            kind::DELTA => return Ok(Self::Delta(payload)),
            kind::DELTA_SECTIONS => return Ok(Self::DeltaSections(payload)),
            _ => {}
        }
        let mut reader = FieldReader::new(&payload);
        let base = |reader: &mut FieldReader<'_>| Base::read(reader).map(Box::new);
        let message = match frame.kind {
            kind::HELLO => Self::Hello(Box::new(Hello::read(&mut reader)?)),
            kind::HELLO_ACK => Self::HelloAck(HelloAck::read(&mut reader)?),
            kind::CLONE_DONE => Self::CloneDone(base(&mut reader)?),
            kind::ACK => Self::Ack(Ack::read(&mut reader)?),
            kind::RELEASED => Self::Released(reader.varint("released")?),
            kind::HEARTBEAT => Self::Heartbeat,
            kind::DIVERGENCE => Self::Divergence(Box::new(Divergence::read(&mut reader)?)),
            kind::REPAIR_STATE => Self::RepairState(base(&mut reader)?),
            kind::FAILOVER => Self::Failover(LogPosition(reader.varint("position")?)),
            kind::TAKEN_OVER => Self::TakenOver(base(&mut reader)?),
            kind::DECLINED => Self::Declined(reader.text("reason", MAX_TEXT)?),
            kind::STOP => Self::Stop(read_reason(&mut reader)?),
            kind::STOP_ACK => Self::StopAck,
            kind::ERROR => Self::Error(reader.text("text", MAX_TEXT)?),
            kind::COMPARE => Self::Compare(read_compare(&mut reader)?),
            kind::DIFFER => Self::Differ(read_differ(&mut reader)?),
            kind::HELD => Self::Held(read_outputs(&mut reader)?),
            kind::COMMIT => Self::Commit(Box::new(Commit::read(&mut reader)?)),
            other => return Err(CodecError::unknown("kind", 0, u64::from(other)).into()),
        };
        reader.finish("message")?;
        Ok(message)
    }
}

impl Ack {
    /// Appends the byte form: each position as its distance from the one before.
    fn write(self, writer: &mut FieldWriter) {
        writer.varint(self.received.0);
        writer.varint(self.received.since(self.replayed));
        writer.varint(self.replayed.since(self.verified));
    }

    /// Takes the byte form.
    fn read(reader: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        let received = reader.varint("received")?;
        let replayed = received - reader.bounded("replayed", received)?;
        let verified = replayed - reader.bounded("verified", replayed)?;
        Ok(Self {
            received: LogPosition(received),
            replayed: LogPosition(replayed),
            verified: LogPosition(verified),
        })
    }
}

impl Divergence {
    /// Appends the byte form.
    fn write(&self, writer: &mut FieldWriter) {
        let Self {
            epoch,
            at,
            cause,
            state,
        } = self;
        writer.varint(epoch.0);
        writer.varint(at.0);
        match cause {
            DivergenceCause::Digest => writer.text(""),
            DivergenceCause::Contradiction(text) => writer.text(cut(text)),
        }
        write_ledger(writer, state.outputs);
        writer.varint(state.pages.len() as u64);
        for PageDigest { page, digest } in &state.pages {
            writer.varint(page.0);
            writer.u64(*digest);
        }
    }

    /// Takes the byte form.
    fn read(reader: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        let epoch = Epoch(reader.varint("epoch")?);
        let at = LogicalTime(reader.varint("logical time")?);
        let text = reader.text("cause", MAX_TEXT)?;
        let cause = match text.is_empty() {
            true => DivergenceCause::Digest,
            false => DivergenceCause::Contradiction(text),
        };
        let outputs = read_ledger(reader)?;
        let mut pages = Vec::new();
        for _ in 0..reader.bounded("page count", MAX_PAGES)? {
            let page = PageNumber(reader.varint("page number")?);
            pages.push(PageDigest {
                page,
                digest: reader.u64("page digest")?,
            });
        }
        Ok(Self {
            epoch,
            at,
            cause,
            state: BackupState {
                sections: Vec::new(),
                pages,
                outputs,
            },
        })
    }
}

/// Appends something and gives the kind back.
fn with(writer: &mut FieldWriter, kind: u8, write: impl FnOnce(&mut FieldWriter)) -> u8 {
    write(writer);
    kind
}

/// Takes the reason of a stop.
fn read_reason(reader: &mut FieldReader<'_>) -> Result<StopReason, CodecError> {
    match reader.u8("stop reason")? {
        0 => Ok(StopReason::Requested),
        1 => Ok(StopReason::PoweredOff),
        other => Err(CodecError::unknown("stop reason", 0, u64::from(other))),
    }
}

/// Text cut to what the peer will take.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DeviceId, Output, SyncPoint};
    use crate::output::OutputLedger;
    use crate::parameters::Parameters;
    use crate::protocol::PROTOCOL_VERSION;
    use crate::protocol::hello::MachineFacts;
    use crate::runs::PageRuns;
    use crate::time::Generation;

    fn facts() -> MachineFacts {
        MachineFacts {
            fingerprint: "toy 1".into(),
            page_count: 16,
        }
    }

    fn hello(version: u16) -> Message {
        Message::Hello(Box::new(Hello {
            version,
            facts: facts(),
            generation: Generation(4),
            parameters: Parameters::default(),
            config: b"config".to_vec(),
        }))
    }

    fn base() -> Box<Base> {
        let output = Output {
            device: DeviceId(1),
            payload: vec![1, 2],
        };
        Box::new(Base {
            epoch: Epoch(9),
            at: LogicalTime(1 << 40),
            position: LogPosition(77),
            point: SyncPoint::start(),
            ledger: OutputLedger {
                count: 3,
                chain: 99,
            },
            held: vec![NumberedOutput { number: 3, output }],
        })
    }

    fn decoded(message: &Message) -> Result<Message, HelloError> {
        let (kind, payload) = message.encode();
        Message::decode(Frame {
            kind,
            generation: Generation(4),
            payload,
        })
    }

    #[test]
    fn every_message_survives_the_way_there_and_back() {
        let ack = Ack {
            received: LogPosition(300),
            replayed: LogPosition(290),
            verified: LogPosition(100),
        };
        let divergence = Divergence {
            epoch: Epoch(3),
            at: LogicalTime(1000),
            cause: DivergenceCause::Contradiction("halted".into()),
            state: BackupState {
                sections: Vec::new(),
                pages: vec![PageDigest {
                    page: PageNumber(5),
                    digest: 6,
                }],
                outputs: OutputLedger::default(),
            },
        };
        let messages = [
            hello(PROTOCOL_VERSION),
            Message::HelloAck(HelloAck {
                version: PROTOCOL_VERSION,
                facts: facts(),
                held: PageRuns::of(&[PageNumber(1), PageNumber(2), PageNumber(9)]),
            }),
            Message::Pages(vec![1, 2, 3]),
            Message::Sections(vec![4]),
            Message::CloneDone(base()),
            Message::Log(vec![8]),
            Message::Ack(ack),
            Message::Released(12),
            Message::Heartbeat,
            Message::Divergence(Box::new(divergence)),
            Message::RepairState(base()),
            Message::Failover(LogPosition(5)),
            Message::TakenOver(base()),
            Message::Declined("no".into()),
            Message::Stop(StopReason::Requested),
            Message::Stop(StopReason::PoweredOff),
            Message::StopAck,
            Message::Error("broken".into()),
            Message::Compare(vec![
                PageDigest {
                    page: PageNumber(0),
                    digest: 1,
                },
                PageDigest {
                    page: PageNumber(7),
                    digest: u64::MAX,
                },
            ]),
            Message::Differ(vec![PageNumber(0), PageNumber(1), PageNumber(u64::MAX - 1)]),
            Message::Delta(vec![3, 2, 1]),
            Message::Held(base().held),
            Message::DeltaSections(vec![6, 5]),
            Message::Commit(Box::new(Commit {
                root: 1 << 63,
                base: *base(),
            })),
        ];
        for message in messages {
            assert_eq!(decoded(&message).as_ref(), Ok(&message));
        }
    }

    #[test]
    fn another_version_is_refused_with_both_values() {
        let error = decoded(&hello(7)).unwrap_err().to_string();
        let expected = format!(
            "protocol version does not match: the peer has 7, this side has {PROTOCOL_VERSION}"
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn another_machine_is_refused_with_both_values() {
        let other = MachineFacts {
            page_count: 32,
            ..facts()
        };
        let error = facts().agree(&other).unwrap_err().to_string();
        let expected = "memory size in pages does not match: the peer has 32, this side has 16";
        assert_eq!(error, expected);
    }

    #[test]
    fn an_unknown_kind_and_left_over_bytes_are_refused() {
        let frame = Frame {
            kind: 99,
            generation: Generation(0),
            payload: Vec::new(),
        };
        assert!(Message::decode(frame).is_err());
        let frame = Frame {
            kind: kind::HEARTBEAT,
            generation: Generation(0),
            payload: vec![1],
        };
        assert!(Message::decode(frame).is_err());
    }

    #[test]
    fn a_position_ahead_of_the_one_it_follows_is_refused() {
        let mut writer = FieldWriter::new();
        writer.varint(5);
        writer.varint(6);
        writer.varint(0);
        let payload = writer.finish();
        let frame = Frame {
            kind: kind::ACK,
            generation: Generation(0),
            payload,
        };
        assert!(Message::decode(frame).is_err());
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let message = Message::Error("ö".repeat(MAX_TEXT));
        assert!(matches!(decoded(&message), Ok(Message::Error(text)) if text.len() == MAX_TEXT));
    }
}
