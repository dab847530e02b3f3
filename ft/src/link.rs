//! One side's end of the connection, without the connection: bytes in, bytes out, and what for.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::codec::FieldWriter;
use crate::log::EntryKind;
use crate::machine::Section;
use crate::protocol::message::kind;
use crate::protocol::{FrameDecoder, FrameEncoder, Message};
use crate::section_stage::runs_of;
use crate::snapshot::write_sections;
use crate::time::{Generation, HostTime};

/// Window over which rates are taken.
const RATE_WINDOW_NS: u64 = 1_000_000_000;
/// Kinds of traffic.
const KINDS: usize = 11;

/// What sent bytes were for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficKind {
    /// Clock entries.
    Clock,
    /// Device inputs.
    Device,
    /// Control operations.
    Control,
    /// Position markers.
    Marker,
    /// Counts of outputs, and which have left.
    Output,
    /// Epoch ends.
    Digest,
    /// Heartbeats.
    Heartbeat,
    /// Envelopes of log frames.
    Framing,
    /// Deltas that close epochs.
    Delta,
    /// Clone and repair.
    State,
    /// Everything else.
    Other,
}

impl From<EntryKind> for TrafficKind {
    fn from(kind: EntryKind) -> Self {
        match kind {
            EntryKind::Marker => Self::Marker,
            EntryKind::Clock => Self::Clock,
            EntryKind::Device => Self::Device,
            EntryKind::Control => Self::Control,
            EntryKind::Outputs => Self::Output,
            EntryKind::Digest => Self::Digest,
        }
    }
}

/// Figures by kind of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficByKind<T> {
    /// Clock entries.
    pub clock: T,
    /// Device inputs.
    pub device: T,
    /// Control operations.
    pub control: T,
    /// Position markers.
    pub marker: T,
    /// Counts of outputs, and which have left.
    pub output: T,
    /// Epoch ends.
    pub digest: T,
    /// Heartbeats.
    pub heartbeat: T,
    /// Envelopes of log frames.
    pub framing: T,
    /// Deltas that close epochs.
    pub delta: T,
    /// Clone and repair.
    pub state: T,
    /// Everything else.
    pub other: T,
}

/// Counts what was sent.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    bytes: [u64; KINDS],
    window_start: Option<HostTime>,
    window_bytes: [u64; KINDS],
    rates: [f64; KINDS],
}

impl Traffic {
    /// Counts bytes.
    pub fn add(&mut self, kind: TrafficKind, bytes: u64) {
        self.bytes[kind as usize] += bytes;
    }

    /// Closes the window in which rates are taken, if it is over.
    pub fn update_rates(&mut self, now: HostTime) {
        let Some(start) = self.window_start else {
            (self.window_start, self.window_bytes) = (Some(now), self.bytes);
            return;
        };
        let elapsed = now.since(start);
        if elapsed < RATE_WINDOW_NS {
            return;
        }
        for index in 0..KINDS {
            let bytes = self.bytes[index] - self.window_bytes[index];
            self.rates[index] = bytes as f64 * 8.0 * 1e6 / elapsed as f64;
        }
        (self.window_start, self.window_bytes) = (Some(now), self.bytes);
    }

    /// Bytes by kind since the link was made.
    #[must_use]
    pub fn bytes(&self) -> TrafficByKind<u64> {
        by_kind(&self.bytes)
    }

    /// Rates by kind in the last whole second, in kbit/s.
    #[must_use]
    pub fn kbit_s(&self) -> TrafficByKind<f64> {
        by_kind(&self.rates)
    }

    /// Bytes of the log: everything but clone, repair and the handshake.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        let state = self.bytes[TrafficKind::State as usize];
        self.bytes.iter().sum::<u64>() - state - self.bytes[TrafficKind::Other as usize]
    }

    /// Rate of the log in the last whole second, in kbit/s.
    #[must_use]
    pub fn log_kbit_s(&self) -> f64 {
        let state = self.rates[TrafficKind::State as usize];
        self.rates.iter().sum::<f64>() - state - self.rates[TrafficKind::Other as usize]
    }
}

/// Gives each figure its name.
fn by_kind<T: Copy>(figures: &[T; KINDS]) -> TrafficByKind<T> {
    let of = |kind: TrafficKind| figures[kind as usize];
    TrafficByKind {
        clock: of(TrafficKind::Clock),
        device: of(TrafficKind::Device),
        control: of(TrafficKind::Control),
        marker: of(TrafficKind::Marker),
        output: of(TrafficKind::Output),
        digest: of(TrafficKind::Digest),
        heartbeat: of(TrafficKind::Heartbeat),
        framing: of(TrafficKind::Framing),
        delta: of(TrafficKind::Delta),
        state: of(TrafficKind::State),
        other: of(TrafficKind::Other),
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Link {
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    wire: Vec<u8>,
    /// Bytes of `wire` that were taken.
    taken: usize,
    /// All that was ever taken.
    carried: u64,
    inbound: VecDeque<(Generation, Message)>,
    last_sent: HostTime,
    closed: bool,
    broken: Option<String>,
    traffic: Traffic,
}

impl Link {
    /// An end on which nothing was sent yet.
    #[must_use]
    pub fn new(now: HostTime) -> Self {
        Self {
            encoder: FrameEncoder::default(),
            decoder: FrameDecoder::default(),
            wire: Vec::new(),
            taken: 0,
            carried: 0,
            inbound: VecDeque::new(),
            last_sent: now,
            closed: false,
            broken: None,
            traffic: Traffic::default(),
        }
    }

    /// Takes bytes from the peer. What is wrong with them shows in [`Self::broken`].
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.closed || self.broken.is_some() {
            return;
        }
        self.decoder.push(bytes);
        loop {
            let frame = match self.decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => return self.fail(error.to_string()),
            };
            let generation = frame.generation;
            match Message::decode(frame) {
                Ok(message) => self.inbound.push_back((generation, message)),
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    /// The next message from the peer, with the generation it was sent in.
    pub fn next_message(&mut self) -> Option<(Generation, Message)> {
        self.inbound.pop_front()
    }

    /// Queues a message for the peer; nothing happens once the link is closed. Returns the bytes
    /// that its envelope takes beside the payload.
    pub fn send(&mut self, message: &Message, generation: Generation, now: HostTime) -> u64 {
        if self.closed {
            return 0;
        }
        let (code, payload) = message.encode();
        let size = match self
            .encoder
            .encode(code, generation, &payload, &mut self.wire)
        {
            Ok(size) => size,
            Err(error) => {
                self.fail(format!("a message cannot be sent: {error}"));
                return 0;
            }
        };
        self.last_sent = now;
        let envelope = (size - payload.len()) as u64;
        let purpose = match code {
            kind::LOG => {
                self.traffic.add(TrafficKind::Framing, envelope);
                return envelope;
            }
            kind::HEARTBEAT => TrafficKind::Heartbeat,
            kind::RELEASED => TrafficKind::Output,
            kind::DELTA | kind::HELD | kind::DELTA_SECTIONS | kind::COMMIT => TrafficKind::Delta,
            kind::PAGES
            | kind::SECTIONS
            | kind::CLONE_DONE
            | kind::REPAIR_STATE
            | kind::COMPARE
            | kind::DIFFER => TrafficKind::State,
            _ => TrafficKind::Other,
        };
        self.traffic.add(purpose, size as u64);
        envelope
    }

    /// Queues sections for the peer, in as many messages as they take.
    pub(crate) fn send_sections(
        &mut self,
        sections: &[Section],
        generation: Generation,
        now: HostTime,
    ) {
        for run in runs_of(sections) {
            let mut payload = FieldWriter::new();
            write_sections(&mut payload, run);
            self.send(&Message::Sections(payload.finish()), generation, now);
        }
    }

    /// Takes at most `max` bytes for the peer; none if there are none.
    pub fn take_wire(&mut self, max: usize) -> Option<Vec<u8>> {
        if self.unsent() == 0 {
            return None;
        }
        self.carried += self.unsent().min(max) as u64;
        if self.unsent() <= max {
            let bytes = std::mem::take(&mut self.wire).split_off(self.taken);
            self.taken = 0;
            return Some(bytes);
        }
        let bytes = self.wire[self.taken..self.taken + max].to_vec();
        self.taken += max;
        // What was taken goes now and then: at most as much is moved as was taken.
        if self.taken > self.wire.len() / 2 {
            self.wire.drain(..self.taken);
            self.taken = 0;
        }
        Some(bytes)
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.wire.len() - self.taken
    }

    /// Bytes that were taken so far.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// When something was last sent.
    #[must_use]
    pub fn last_sent(&self) -> HostTime {
        self.last_sent
    }

    /// The link is of no further use; what was queued may still be taken.
    pub fn close(&mut self) {
        self.closed = true;
        self.inbound.clear();
    }

    /// Whether it is of no further use.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What is wrong with the peer's bytes, if anything is.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Counts of what was sent.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Counts of what was sent.
    pub fn traffic_mut(&mut self) -> &mut Traffic {
        &mut self.traffic
    }

    /// Gives up understanding the peer.
    fn fail(&mut self, text: String) {
        self.broken.get_or_insert(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_handed_out_in_order_and_at_most_as_many_as_asked_for() {
        let mut link = Link::new(HostTime(0));
        link.send(&Message::Error("text".into()), Generation(1), HostTime(5));
        let mut whole = Vec::new();
        while let Some(bytes) = link.take_wire(3) {
            assert!(bytes.len() <= 3);
            whole.extend(bytes);
        }
        let mut peer = Link::new(HostTime(0));
        peer.receive(&whole);
        let expected = (Generation(1), Message::Error("text".into()));
        assert_eq!(peer.next_message(), Some(expected));
        assert_eq!(link.last_sent(), HostTime(5));
    }

    #[test]
    fn damaged_bytes_break_the_link_and_what_came_before_stays() {
        let mut link = Link::new(HostTime(0));
        link.send(&Message::Heartbeat, Generation(1), HostTime(0));
        let mut bytes = link.take_wire(100).unwrap();
        bytes.extend([7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
        let mut peer = Link::new(HostTime(0));
        peer.receive(&bytes);
        assert!(peer.broken().is_some_and(|text| text.contains("damaged")));
        assert_eq!(
            peer.next_message(),
            Some((Generation(1), Message::Heartbeat))
        );
    }

    #[test]
    fn rates_are_those_of_the_last_whole_second() {
        let mut traffic = Traffic::default();
        traffic.update_rates(HostTime(0));
        traffic.add(TrafficKind::Marker, 1250);
        traffic.update_rates(HostTime(0).plus_ms(1000));
        assert!((traffic.kbit_s().marker - 10.0).abs() < 1e-9);
        assert!((traffic.log_kbit_s() - 10.0).abs() < 1e-9);
        assert_eq!(traffic.log_bytes(), 1250);
    }
}
