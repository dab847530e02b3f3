//! Bytes in both directions.

use super::*;
use crate::conformance::Random;
use crate::conformance::virtio::{self, VirtioSubject};
use crate::conformance::virtio_driver::Rig;

fn console() -> Console {
    Console::new(ConsoleConfig {
        columns: 80,
        rows: 25,
    })
}

fn type_in(rig: &mut Rig<Console>, bytes: &[u8]) -> InputOutcome {
    let input = VirtioInput::ConsoleInput(Payload::from(bytes.to_vec()));
    rig.input(input).unwrap()
}

#[test]
fn output_leaves_and_input_fills_buffers() {
    let mut rig = Rig::started(console(), 0);
    rig.request(TRANSMIT, &[b"hel", b"lo"], &[]);
    let expected = VirtioEvent::ConsoleOutput(Payload::from(b"hello".to_vec()));
    assert_eq!(rig.take_events(), [expected]);
    rig.post(RECEIVE, &[], &[4]);
    rig.post(RECEIVE, &[], &[4]);
    assert_eq!(type_in(&mut rig, b"abcdef"), InputOutcome::Taken);
    assert_eq!(rig.returned(RECEIVE).unwrap().bytes, b"abcd");
    let second = rig.returned(RECEIVE).unwrap();
    assert_eq!((second.len, &second.bytes[..2]), (2, &b"ef"[..]));
    assert_eq!(type_in(&mut rig, b"gh"), InputOutcome::Waiting);
    rig.request(RECEIVE, &[], &[4]);
    assert_eq!(rig.returned(RECEIVE).unwrap().bytes[..2], *b"gh");
}

#[test]
fn input_waits_for_a_driver_up_to_its_bound() {
    let mut rig = Rig::new(console());
    let all = vec![b'x'; CONSOLE_BACKLOG_SIZE];
    assert_eq!(type_in(&mut rig, &all), InputOutcome::Waiting);
    assert_eq!(rig.function.device().input_room(), 0);
    assert_eq!(type_in(&mut rig, b"y"), InputOutcome::Refused);
    assert!(rig.start(0));
    assert_eq!(rig.function.device().input_room(), CONSOLE_BACKLOG_SIZE);
}

#[test]
fn a_new_size_is_told() {
    let mut rig = Rig::started(console(), 0);
    for vectors in [vec![2], vec![]] {
        let resize = VirtioInput::ConsoleResize {
            columns: 132,
            rows: 50,
        };
        assert_eq!(rig.input(resize), Ok(InputOutcome::Taken));
        assert_eq!(rig.take_vectors(), vectors);
    }
    let mut size = [0; 6];
    rig.function.device().config_read(0, &mut size);
    assert_eq!(size, [132, 0, 50, 0, 1, 0]);
}

impl VirtioSubject for Console {
    fn make() -> Self {
        console()
    }

    fn request(queue: usize, random: &mut Random) -> (Vec<u8>, u32) {
        let len = 1 + random.below(300) as usize;
        match queue {
            RECEIVE => (vec![], len as u32),
            _ => (vec![random.next() as u8; len], 0),
        }
    }

    fn host_input(random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput {
        asked.clear();
        if random.below(8) == 0 {
            return VirtioInput::ConsoleResize {
                columns: random.next() as u16,
                rows: 25,
            };
        }
        let len = random.below(1000) as usize;
        VirtioInput::ConsoleInput(Payload::from(vec![random.next() as u8; len]))
    }

    fn provoke(queue: usize) -> Option<VirtioInput> {
        (queue == RECEIVE).then(|| VirtioInput::ConsoleInput(Payload::from(vec![1])))
    }
}

#[test]
fn conforms() {
    virtio::run::<Console>(12);
}
