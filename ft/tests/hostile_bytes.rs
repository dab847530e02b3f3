//! Whatever bytes come from outside, the answer is an error and never a panic or a flood.

use ft::codec::FieldReader;
use ft::event::SyncPoint;
use ft::log::{EntryCoder, LogReader};
use ft::protocol::{Frame, FrameDecoder, FrameEncoder, Message};
use ft::record::Pace;
use ft::replica::Replica;
use ft::snapshot::{read_pages, read_sections};
use ft::time::{Generation, HostTime, LogicalTime};

/// Random bytes from a seed; small values are frequent, as in real messages.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 200;
        (0..length)
            .map(|_| {
                let byte = self.next() as u8;
                if self.next().is_multiple_of(2) {
                    byte % 6
                } else {
                    byte
                }
            })
            .collect()
    }
}

#[test]
fn messages_of_every_kind_with_random_payloads_are_read_or_refused() {
    let mut noise = Noise(1);
    let mut read = 0;
    for round in 0..200_000_u64 {
        let frame = Frame {
            kind: (round % 24) as u8,
            generation: Generation(1),
            payload: noise.bytes(),
        };
        read += u64::from(Message::decode(frame).is_ok());
    }
    assert!(read > 10_000, "some payloads are messages: {read}");
}

#[test]
fn random_entries_sections_and_pages_are_read_or_refused() {
    let mut noise = Noise(2);
    for _ in 0..100_000 {
        let bytes = noise.bytes();
        let mut coder = EntryCoder::new(LogicalTime(0), SyncPoint::start());
        let mut reader = FieldReader::new(&bytes);
        while reader.remaining() > 0 && coder.decode(&mut reader).is_ok() {}
        let _sections = read_sections(&mut FieldReader::new(&bytes));
        let _pages = read_pages(&mut FieldReader::new(&bytes), 100, |page, _| {
            assert!(page.0 < 100, "page {page} does not exist");
        });
    }
}

#[test]
fn random_streams_are_refused_and_do_not_pile_up() {
    let mut noise = Noise(3);
    for _ in 0..20_000 {
        let mut decoder = FrameDecoder::default();
        decoder.push(&noise.bytes());
        while let Ok(Some(_)) = decoder.next_frame() {}
        let bytes = noise.bytes();
        let _refused = LogReader::open(bytes.as_slice());
    }
}

#[test]
fn well_formed_messages_at_the_wrong_moment_end_a_listening_side_in_order() {
    for kind in 1..=23 {
        let mut noise = Noise(u64::from(kind));
        for _ in 0..300 {
            let mut backup = Replica::backup("two".into(), Pace::default(), HostTime(0));
            let mut wire = Vec::new();
            let mut encoder = FrameEncoder::default();
            let payload = noise.bytes();
            encoder
                .encode(kind, Generation(noise.next() % 3), &payload, &mut wire)
                .unwrap();
            backup.on_bytes(&wire, HostTime(0));
            backup.tick(HostTime(0));
            let opened = backup.hello().is_some();
            assert!(opened || backup.end().is_some(), "kind {kind}");
        }
    }
}
