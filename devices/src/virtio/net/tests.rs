//! Frames in both directions, commands, and what happens without room.

use super::*;
use crate::conformance::Random;
use crate::conformance::virtio::{self, VirtioSubject};
use crate::conformance::virtio_driver::Rig;
use crate::virtio::backlog::BACKLOG_FRAMES;

const CONFIG: NetConfig = NetConfig {
    mac: [2, 0, 0, 1, 2, 3],
    mtu: Some(1400),
    offload: true,
    udp_fragmentation: false,
};

fn rig(without: u64) -> Rig<Net> {
    Rig::started(Net::new(CONFIG), without)
}

/// A header without offloads, and `len` bytes.
fn frame(len: usize, fill: u8) -> Vec<u8> {
    [vec![0; NET_HEADER_SIZE], vec![fill; len]].concat()
}

fn receive(rig: &mut Rig<Net>, frame: Vec<u8>) -> InputOutcome {
    rig.input(VirtioInput::NetReceive(Payload::from(frame)))
        .unwrap()
}

#[test]
fn a_frame_is_sent_as_it_is() {
    let mut rig = rig(0);
    let sent = frame(60, 7);
    let head = rig.request(TRANSMIT, &[&sent[..12], &sent[12..]], &[]);
    assert_eq!(
        rig.take_events(),
        [VirtioEvent::NetTransmit(Payload::from(sent))]
    );
    let returned = rig.returned(TRANSMIT).unwrap();
    assert_eq!((returned.head, returned.len), (head, 0));
    assert_eq!(rig.take_vectors(), [1]);
    let large = frame(65_562, 9);
    let (a, b) = large.split_at(40_000);
    rig.request(TRANSMIT, &[a, b], &[]);
    assert_eq!(rig.take_events().len(), 1, "the largest there is");
    rig.request(TRANSMIT, &[a, b, &[0]], &[]);
    rig.request(TRANSMIT, &[&sent_short()], &[]);
    assert_eq!(rig.take_events(), [], "too long, and too short");
    assert_eq!(rig.function.device().dropped(), 2);
    assert_eq!(rig.function.fault(), None);
    rig.request(TRANSMIT, &[&[0; 11]], &[]);
    assert!(rig.function.fault().is_some(), "no header");
}

fn sent_short() -> Vec<u8> {
    frame(13, 1)
}

#[test]
fn a_frame_is_received_into_as_many_buffers_as_it_needs() {
    let mut rig = rig(0);
    for _ in 0..3 {
        rig.post(RECEIVE, &[], &[100]);
    }
    rig.kick(RECEIVE, 3);
    assert_eq!(receive(&mut rig, frame(150, 5)), InputOutcome::Taken);
    assert_eq!(rig.take_vectors(), [0]);
    let first = rig.returned(RECEIVE).unwrap();
    let second = rig.returned(RECEIVE).unwrap();
    assert_eq!((first.len, second.len), (100, 62));
    assert_eq!(first.bytes[10..13], [2, 0, 5], "two buffers");
    assert_eq!(second.bytes[61..63], [5, 0]);
    assert_eq!(rig.returned(RECEIVE), None);
    assert_eq!(receive(&mut rig, frame(150, 6)), InputOutcome::Waiting);
    assert_eq!(rig.returned(RECEIVE), None, "one buffer is not enough");
    rig.post(RECEIVE, &[], &[100]);
    assert!(rig.kick(RECEIVE, 1), "now the device wants to know");
    assert_eq!(rig.returned(RECEIVE).unwrap().bytes[12], 6);
    assert_eq!(rig.returned(RECEIVE).unwrap().len, 62);
    rig.post(RECEIVE, &[], &[100]);
    assert!(!rig.kick(RECEIVE, 1), "nothing waits");
}

#[test]
fn without_mergeable_buffers_a_frame_needs_one_that_is_large_enough() {
    let mut rig = rig(FEATURE_MERGEABLE);
    rig.post(RECEIVE, &[], &[12, 88]);
    assert_eq!(receive(&mut rig, frame(150, 1)), InputOutcome::Taken);
    assert_eq!(rig.function.device().dropped(), 1, "it never will");
    assert_eq!(receive(&mut rig, frame(88, 2)), InputOutcome::Taken);
    let returned = rig.returned(RECEIVE).unwrap();
    assert_eq!((returned.len, returned.bytes[10]), (100, 1));
}

#[test]
fn the_backlog_is_bounded_and_in_order() {
    let mut rig = rig(0);
    assert_eq!(rig.function.device().input_room(), NET_FRAME_MAX);
    for index in 0..BACKLOG_FRAMES {
        let outcome = receive(&mut rig, frame(60, index as u8));
        assert_eq!(outcome, InputOutcome::Waiting);
    }
    assert_eq!(rig.function.device().input_room(), 0);
    assert_eq!(receive(&mut rig, frame(60, 0)), InputOutcome::Refused);
    for index in 0..BACKLOG_FRAMES {
        rig.request(RECEIVE, &[], &[1526]);
        assert_eq!(rig.returned(RECEIVE).unwrap().bytes[12], index as u8);
    }
    assert_eq!(rig.function.device().input_room(), NET_FRAME_MAX);
}

#[test]
fn a_frame_that_no_ring_could_hold_does_not_block_the_others() {
    let mut rig = rig(0);
    for _ in 0..255 {
        rig.post(RECEIVE, &[], &[100]);
    }
    for fill in 0..3 {
        let outcome = receive(&mut rig, frame(30_000, fill));
        assert_eq!(outcome, InputOutcome::Waiting, "there may be more buffers");
    }
    rig.request(RECEIVE, &[], &[100]);
    assert_eq!(rig.function.device().dropped(), 3);
    assert_eq!(receive(&mut rig, frame(60, 2)), InputOutcome::Taken);
    assert_eq!(rig.returned(RECEIVE).unwrap().bytes[12], 2);
}

#[test]
fn offloads_that_were_not_agreed_on_are_dropped() {
    let tcp = |flags, kind| {
        let mut frame = frame(60, 0);
        frame[..2].copy_from_slice(&[flags, kind]);
        frame
    };
    let cases = [
        (0, tcp(1, 1), InputOutcome::Waiting),
        (0, tcp(1, 4), InputOutcome::Waiting),
        (0, tcp(1, 3), InputOutcome::Dropped),
        (0, tcp(0, 0x81), InputOutcome::Dropped),
        (FEATURE_GUEST_TSO4, tcp(1, 1), InputOutcome::Dropped),
    ];
    for (without, frame, outcome) in cases {
        let mut rig = rig(without);
        assert_eq!(receive(&mut rig, frame), outcome);
    }
    let guest = FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6;
    let mut rig = rig(guest);
    assert_eq!(receive(&mut rig, tcp(1, 0)), InputOutcome::Dropped);
    let mut rig = Rig::new(Net::new(CONFIG));
    assert!(!rig.negotiate(FEATURE_GUEST_CSUM), "TSO needs checksums");
    assert!(!rig.negotiate(FEATURE_CONTROL), "commands need their queue");
    assert_eq!(receive(&mut rig, frame(60, 0)), InputOutcome::Dropped);
    let too_long = Payload::from(vec![0; NET_FRAME_MAX + 1]);
    for bad in [too_long, Payload::from(vec![0; 25])] {
        assert!(rig.input(VirtioInput::NetReceive(bad)).is_err());
    }
}

#[test]
fn commands_set_the_address_and_acknowledge_the_announcement() {
    let mut rig = rig(0);
    let mut config = [0; 12];
    rig.function.device().config_read(0, &mut config);
    assert_eq!(config, [2, 0, 0, 1, 2, 3, 1, 0, 1, 0, 0x78, 5]);
    assert_eq!(rig.input(VirtioInput::NetAnnounce), Ok(InputOutcome::Taken));
    assert_eq!(rig.take_vectors(), [3]);
    let status = |rig: &Rig<Net>| rig.function.device().status();
    assert_eq!(status(&rig), STATUS_LINK_UP | STATUS_ANNOUNCE);
    let mut command = |bytes: &[&[u8]]| {
        rig.request(CONTROL, bytes, &[1]);
        rig.returned(CONTROL).unwrap().bytes[0]
    };
    assert_eq!(command(&[&[3, 0]]), 0);
    assert_eq!(command(&[&[1, 1], &[2, 9, 9, 9, 9, 9]]), 0);
    assert_eq!(command(&[&[1, 1], &[2, 9, 9]]), 1);
    assert_eq!(command(&[&[0, 0, 1]]), 1, "no receive filters");
    assert_eq!(command(&[&[4, 0], &[0; 100]]), 1);
    assert_eq!(status(&rig), STATUS_LINK_UP);
    assert_eq!(rig.function.device().mac(), [2, 9, 9, 9, 9, 9]);
    assert_eq!(
        rig.take_events(),
        [VirtioEvent::NetMacAddress([2, 9, 9, 9, 9, 9])]
    );
    rig.take_vectors();
    let down = VirtioInput::NetLink { up: false };
    assert_eq!(rig.input(down), Ok(InputOutcome::Taken));
    assert_eq!((status(&rig), rig.take_vectors()), (0, vec![3]));
    assert_eq!(receive(&mut rig, frame(60, 0)), InputOutcome::Dropped);
    rig.request(CONTROL, &[&[3, 0]], &[]);
    assert!(rig.function.fault().is_some(), "no place for the status");
}

impl VirtioSubject for Net {
    fn make() -> Self {
        Self::new(CONFIG)
    }

    fn request(queue: usize, random: &mut Random) -> (Vec<u8>, u32) {
        match queue {
            RECEIVE => (vec![], 100 + random.below(2000) as u32),
            TRANSMIT => (frame(random.below(3000) as usize, random.next() as u8), 0),
            _ => {
                let class = [1, 1, 3, 0][random.below(4) as usize];
                let command = [class, random.below(2) as u8, 2, 4, 6, 8, 10, 12];
                let len = if class == 3 { 2 } else { 8 };
                (command[..len].to_vec(), 1)
            }
        }
    }

    fn host_input(random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput {
        asked.clear();
        match random.below(10) {
            0 => VirtioInput::NetLink {
                up: random.below(3) != 0,
            },
            1 => VirtioInput::NetAnnounce,
            _ => {
                let len = 14 + random.below(4000) as usize;
                VirtioInput::NetReceive(Payload::from(frame(len, random.next() as u8)))
            }
        }
    }

    fn provoke(queue: usize) -> Option<VirtioInput> {
        (queue == RECEIVE).then(|| VirtioInput::NetReceive(Payload::from(frame(60, 1))))
    }
}

#[test]
fn conforms() {
    virtio::run::<Net>(12);
}
