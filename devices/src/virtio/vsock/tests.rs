//! Packets in both directions, and a machine that moves.

use super::*;
use crate::conformance::Random;
use crate::conformance::virtio::{self, VirtioSubject};
use crate::conformance::virtio_driver::Rig;

const CID: u64 = 3;

fn vsock() -> Vsock {
    Vsock::new(VsockConfig { guest_cid: CID })
}

fn packet(source: u64, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; VSOCK_HEADER_SIZE];
    packet[..8].copy_from_slice(&source.to_le_bytes());
    packet[24..28].copy_from_slice(&(data.len() as u32).to_le_bytes());
    packet.extend(data);
    packet
}

fn receive(rig: &mut Rig<Vsock>, data: &[u8]) -> InputOutcome {
    let input = VirtioInput::VsockReceive(Payload::from(packet(2, data)));
    rig.input(input).unwrap()
}

#[test]
fn packets_pass_and_a_false_address_does_not() {
    let mut rig = Rig::started(vsock(), 0);
    let sent = packet(CID, b"hello");
    // The last buffer may be longer than the packet.
    rig.request(TRANSMIT, &[&sent[..44], b"hello beyond"], &[]);
    let expected = VirtioEvent::VsockTransmit(Payload::from(sent));
    assert_eq!(rig.take_events(), [expected]);
    rig.request(TRANSMIT, &[&packet(9, b"x")], &[]);
    assert_eq!(rig.take_events(), []);
    assert!(rig.returned(TRANSMIT).is_some() && rig.returned(TRANSMIT).is_some());
    let mut short = packet(CID, b"abc");
    short.pop();
    rig.request(TRANSMIT, &[&short], &[]);
    assert!(rig.function.fault().is_some());
}

#[test]
fn received_packets_wait_and_are_cut_to_the_buffers() {
    let mut rig = Rig::started(vsock(), 0);
    assert_eq!(receive(&mut rig, b"0123456789"), InputOutcome::Waiting);
    rig.request(RECEIVE, &[], &[44, 6]);
    let first = rig.returned(RECEIVE).unwrap();
    assert_eq!((first.bytes[24], &first.bytes[44..]), (6, &b"012345"[..]));
    rig.request(RECEIVE, &[], &[100]);
    let second = rig.returned(RECEIVE).unwrap();
    assert_eq!((second.len, second.bytes[24]), (48, 4));
    assert_eq!(second.bytes[44..48], *b"6789");
    let mut torn = packet(2, b"abc");
    torn.push(0);
    assert!(
        rig.input(VirtioInput::VsockReceive(Payload::from(torn)))
            .is_err()
    );
}

#[test]
fn the_guest_is_told_that_it_moved() {
    let mut rig = Rig::started(vsock(), 0);
    let moved = VirtioInput::VsockTransportReset { guest_cid: 44 };
    assert_eq!(receive(&mut rig, b"lost"), InputOutcome::Waiting);
    assert_eq!(rig.input(moved.clone()), Ok(InputOutcome::Waiting));
    rig.post(EVENT, &[], &[8]);
    assert!(rig.kick(EVENT, 1));
    let told = rig.returned(EVENT).unwrap();
    assert_eq!((told.len, &told.bytes[..4]), (4, &[0; 4][..]));
    rig.request(RECEIVE, &[], &[100]);
    assert_eq!(rig.returned(RECEIVE), None, "the backlog is gone");
    let mut cid = [0; 8];
    rig.function.device().config_read(0, &mut cid);
    assert_eq!(u64::from_le_bytes(cid), 44);
    assert_eq!(rig.function.device().guest_cid(), 44);
    rig.post(EVENT, &[], &[8]);
    assert_eq!(rig.input(moved), Ok(InputOutcome::Taken));
}

impl VirtioSubject for Vsock {
    fn make() -> Self {
        vsock()
    }

    fn request(queue: usize, random: &mut Random) -> (Vec<u8>, u32) {
        match queue {
            TRANSMIT => {
                let data = vec![random.next() as u8; random.below(500) as usize];
                (packet(CID + random.below(2), &data), 0)
            }
            RECEIVE => (vec![], 60 + random.below(300) as u32),
            _ => (vec![], 8),
        }
    }

    fn host_input(random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput {
        asked.clear();
        if random.below(8) == 0 {
            let guest_cid = CID + random.below(2);
            return VirtioInput::VsockTransportReset { guest_cid };
        }
        let data = vec![random.next() as u8; random.below(900) as usize];
        VirtioInput::VsockReceive(Payload::from(packet(2, &data)))
    }

    fn provoke(queue: usize) -> Option<VirtioInput> {
        match queue {
            RECEIVE => Some(VirtioInput::VsockReceive(Payload::from(packet(2, b"x")))),
            EVENT => Some(VirtioInput::VsockTransportReset { guest_cid: CID }),
            _ => None,
        }
    }
}

#[test]
fn conforms() {
    virtio::run::<Vsock>(12);
}
