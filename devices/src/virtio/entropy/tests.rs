//! Requests and their answers.

use super::*;
use crate::conformance::Random;
use crate::conformance::virtio::{self, VirtioSubject};
use crate::conformance::virtio_driver::Rig;
use crate::virtio::payload::Payload;

fn answer(rig: &mut Rig<Entropy>, id: u64, bytes: &[u8]) -> Result<InputOutcome, InputError> {
    let bytes = Payload::from(bytes.to_vec());
    rig.input(VirtioInput::Entropy { id, bytes })
}

#[test]
fn bytes_come_by_input_in_any_order() {
    let mut rig = Rig::started(Entropy::new(), 0);
    rig.request(QUEUE, &[], &[8]);
    rig.request(QUEUE, &[], &[4, 4]);
    let request = |id, len| VirtioEvent::EntropyRequest { id, len };
    assert_eq!(rig.take_events(), [request(0, 8), request(1, 8)]);
    assert_eq!(rig.returned(QUEUE), None);
    assert_eq!(answer(&mut rig, 1, &[9; 20]), Ok(InputOutcome::Taken));
    assert_eq!(rig.returned(QUEUE).unwrap().bytes, [9; 8]);
    assert_eq!(
        answer(&mut rig, 1, &[9]),
        Err(InputError::UnknownRequest { id: 1 })
    );
    assert!(answer(&mut rig, 0, &[]).is_err());
    assert_eq!(answer(&mut rig, 0, &[7; 3]), Ok(InputOutcome::Taken));
    let returned = rig.returned(QUEUE).unwrap();
    assert_eq!((returned.len, &returned.bytes[..4]), (3, &[7, 7, 7, 0][..]));
}

#[test]
fn a_reset_makes_answers_stale() {
    let mut rig = Rig::started(Entropy::new(), 0);
    rig.request(QUEUE, &[], &[8]);
    assert!(rig.start(0));
    let before = rig.ram.clone();
    assert_eq!(rig.function.device().pending().count(), 1);
    assert_eq!(answer(&mut rig, 0, &[1; 8]), Ok(InputOutcome::Stale));
    assert!(rig.ram == before);
    rig.request(QUEUE, &[&[1]], &[]);
    assert!(rig.function.fault().is_some(), "nothing to fill");
}

impl VirtioSubject for Entropy {
    fn make() -> Self {
        Self::new()
    }

    fn request(_queue: usize, random: &mut Random) -> (Vec<u8>, u32) {
        (vec![], 1 + random.below(100) as u32)
    }

    fn host_input(random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput {
        asked.retain(|event| matches!(event, VirtioEvent::EntropyRequest { .. }));
        let bytes = Payload::from(vec![random.next() as u8; 1 + random.below(100) as usize]);
        let id = if asked.is_empty() {
            random.next()
        } else {
            let index = random.below(asked.len() as u64) as usize;
            match asked.remove(index) {
                VirtioEvent::EntropyRequest { id, .. } => id,
                other => panic!("{other:?} was not kept"),
            }
        };
        VirtioInput::Entropy { id, bytes }
    }

    fn provoke(_queue: usize) -> Option<VirtioInput> {
        None
    }
}

#[test]
fn conforms() {
    virtio::run::<Entropy>(12);
}
