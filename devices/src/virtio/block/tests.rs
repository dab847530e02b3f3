//! Requests, their order, their errors, and what a reset leaves.

use super::*;
use crate::conformance::Random;
use crate::conformance::virtio::{self, VirtioSubject};
use crate::conformance::virtio_driver::Rig;
use crate::virtio::event::VirtioEvent;
use crate::virtio::queue::FEATURE_INDIRECT;

const CONFIG: BlockConfig = BlockConfig {
    sectors: 1000,
    read_only: false,
    block_size: 512,
    serial: *b"serial-0000000000001",
};

fn rig() -> Rig<Block> {
    Rig::started(Block::new(CONFIG), 0)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(count.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

fn requests(rig: &mut Rig<Block>) -> Vec<BlockRequest> {
    let events = rig.take_events().into_iter();
    let requests = events.filter_map(|event| match event {
        VirtioEvent::Block(request) => Some(request),
        _ => None,
    });
    requests.collect()
}

fn write(rig: &mut Rig<Block>, sector: u64, sectors: u32) -> u16 {
    let data = vec![0xa5; 512 * sectors as usize];
    rig.request(0, &[&header(1, sector), &data], &[1])
}

fn read(rig: &mut Rig<Block>, sector: u64, sectors: u32) -> u16 {
    rig.request(0, &[&header(0, sector)], &[512 * sectors, 1])
}

fn complete(rig: &mut Rig<Block>, id: u64, data: Vec<u8>) -> Result<InputOutcome, InputError> {
    let result = Ok(Payload::from(data));
    rig.input(VirtioInput::BlockCompletion { id, result })
}

#[test]
fn a_read_brings_data_and_a_write_takes_it() {
    let mut rig = rig();
    let head = rig.request(0, &[&header(0, 5)], &[100, 924, 1]);
    let [request] = &requests(&mut rig)[..] else {
        panic!("one request");
    };
    assert_eq!(
        (request.operation, request.sector, request.len),
        (BlockOperation::Read, 5, 1024)
    );
    assert_eq!((rig.returned(0), rig.take_vectors()), (None, vec![]));
    let data: Vec<u8> = (0..1024).map(|index| index as u8).collect();
    assert_eq!(complete(&mut rig, 0, data.clone()), Ok(InputOutcome::Taken));
    let returned = rig.returned(0).unwrap();
    assert_eq!((returned.head, returned.len), (head, 1025));
    assert_eq!(returned.bytes[..1024], data);
    assert_eq!(returned.bytes[1024], STATUS_OK);
    assert_eq!(rig.take_vectors(), [0]);

    // The header and the data in one descriptor, the status in another.
    let mut bytes = header(1, 998);
    bytes.extend([7; 1024]);
    rig.request(0, &[&bytes], &[1]);
    let request = requests(&mut rig).remove(0);
    assert_eq!(
        (request.operation, request.sector, request.durable),
        (BlockOperation::Write, 998, false)
    );
    assert_eq!(request.data[..], [7; 1024]);
    assert_eq!(
        rig.function
            .device()
            .in_flight()
            .cloned()
            .collect::<Vec<_>>(),
        [request]
    );
    assert_eq!(complete(&mut rig, 1, vec![]), Ok(InputOutcome::Taken));
    assert_eq!(rig.returned(0).unwrap().bytes, [STATUS_OK]);
    assert_eq!(rig.function.device().in_flight().count(), 0);
}

#[test]
fn what_cannot_be_done_is_answered_at_once() {
    let (io, unsupported) = (STATUS_IO_ERROR, STATUS_UNSUPPORTED);
    let sectors = |count: usize| vec![0; 512 * count];
    let cases: Vec<(Vec<u8>, Vec<u8>, u32, u8)> = vec![
        (header(0, 1000), vec![], 513, io),
        (header(0, 999), vec![], 1025, io),
        (header(0, u64::MAX), vec![], 513, io),
        (header(0, 0), vec![], 512, io),
        (header(0, 0), vec![], 1, io),
        (header(1, 999), sectors(2), 1, io),
        (header(1, 0), vec![0; 511], 1, io),
        (header(1, 0), vec![], 1, io),
        (header(10, 0), vec![], 513, unsupported),
        (header(0x99, 0), vec![], 1, unsupported),
        (header(11, 0), range(0, 1, 1), 1, unsupported),
        (header(11, 0), range(0, 0, 0), 1, io),
        (header(11, 0), range(999, 2, 0), 1, io),
        (header(11, 0), range(u64::MAX, u32::MAX, 0), 1, io),
        (
            header(11, 0),
            [range(0, 1, 0), range(1, 1, 0)].concat(),
            1,
            io,
        ),
        (header(13, 0), range(0, 1, 2), 1, unsupported),
        (header(13, 0), vec![0; 15], 1, io),
    ];
    for (head, data, room, status) in cases {
        let mut rig = rig();
        let readable: Vec<&[u8]> = [&head[..], &data[..]]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        rig.request(0, &readable, &[room]);
        assert_eq!(requests(&mut rig), [], "{head:?}");
        let returned = rig.returned(0).unwrap();
        assert_eq!(returned.bytes.last(), Some(&status), "{head:?} {data:?}");
        assert_eq!(returned.len, 1);
        assert_eq!(rig.take_vectors(), [0]);
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let config = BlockConfig {
        read_only: true,
        ..CONFIG
    };
    let mut rig = Rig::started(Block::new(config), 0);
    assert_ne!(rig.features() & FEATURE_READ_ONLY, 0);
    assert_eq!(rig.features() & (FEATURE_DISCARD | FEATURE_WRITE_ZEROES), 0);
    write(&mut rig, 0, 1);
    assert_eq!(rig.returned(0).unwrap().bytes, [STATUS_IO_ERROR]);
    rig.request(0, &[&header(11, 0), &range(0, 1, 0)], &[1]);
    assert_eq!(rig.returned(0).unwrap().bytes, [STATUS_UNSUPPORTED]);
    read(&mut rig, 0, 1);
    assert_eq!(requests(&mut rig).len(), 1);
}

#[test]
fn large_blocks_are_read_and_written_whole() {
    let config = BlockConfig {
        block_size: 4096,
        ..CONFIG
    };
    let mut rig = Rig::started(Block::new(config), 0);
    for (sector, count, good) in [(0, 8, true), (8, 16, true), (4, 8, false), (0, 4, false)] {
        read(&mut rig, sector, count);
        assert_eq!(requests(&mut rig).len(), usize::from(good), "{sector}");
    }
}

#[test]
fn serial_number_and_configuration_are_told() {
    let mut rig = rig();
    rig.request(0, &[&header(8, 0)], &[20, 1]);
    let returned = rig.returned(0).unwrap();
    assert_eq!(
        (returned.len, &returned.bytes[..20]),
        (21, &CONFIG.serial[..])
    );
    let mut image = [0; 64];
    rig.function.device().config_read(0, &mut image);
    assert_eq!(image[..8], 1000u64.to_le_bytes());
    assert_eq!(image[12..16], 126u32.to_le_bytes());
    assert_eq!(image[20..24], 512u32.to_le_bytes());
    assert_eq!(image[60..], [0; 4]);
    rig.take_vectors();
    let sectors = 2000;
    for vectors in [vec![1], vec![]] {
        let outcome = rig.input(VirtioInput::BlockResize { sectors });
        assert_eq!(outcome, Ok(InputOutcome::Taken));
        assert_eq!(rig.take_vectors(), vectors, "only a change interrupts");
    }
    assert_eq!(rig.read_common(0x15, 1), 1, "generation");
    assert_eq!(BlockConfig::serial_of("disk")[..5], *b"disk\0");
}

#[test]
fn overlapping_requests_leave_one_after_the_other_in_order() {
    let mut rig = rig();
    write(&mut rig, 10, 4);
    write(&mut rig, 20, 1);
    read(&mut rig, 12, 1);
    write(&mut rig, 13, 2);
    read(&mut rig, 30, 1);
    let ids = |requests: Vec<BlockRequest>| -> Vec<u64> {
        requests.iter().map(|request| request.id).collect()
    };
    assert_eq!(ids(requests(&mut rig)), [0, 1, 4]);
    assert_eq!(complete(&mut rig, 1, vec![]), Ok(InputOutcome::Taken));
    assert_eq!(ids(requests(&mut rig)), [0u64; 0]);
    assert_eq!(
        complete(&mut rig, 2, vec![0; 512]),
        Err(InputError::UnknownRequest { id: 2 }),
        "the host does not have it yet"
    );
    assert_eq!(complete(&mut rig, 0, vec![]), Ok(InputOutcome::Taken));
    assert_eq!(ids(requests(&mut rig)), [2, 3]);
    rig.request(0, &[&header(4, 0)], &[1]);
    write(&mut rig, 100, 1);
    assert_eq!(ids(requests(&mut rig)), [6], "a flush waits, others do not");
    for (id, len) in [(2, 512), (3, 0), (4, 512)] {
        assert_eq!(ids(requests(&mut rig)), [0u64; 0]);
        assert_eq!(
            complete(&mut rig, id, vec![0; len]),
            Ok(InputOutcome::Taken)
        );
    }
    let flush = requests(&mut rig).remove(0);
    assert_eq!((flush.id, flush.operation), (5, BlockOperation::Flush));
}

#[test]
fn a_host_error_becomes_the_guests_error() {
    let mut rig = rig();
    for (id, error, status) in [
        (0, BlockIoError::Io, STATUS_IO_ERROR),
        (1, BlockIoError::Unsupported, STATUS_UNSUPPORTED),
    ] {
        read(&mut rig, 0, 1);
        let result = Err(error);
        let input = VirtioInput::BlockCompletion { id, result };
        assert_eq!(rig.input(input), Ok(InputOutcome::Taken));
        let returned = rig.returned(0).unwrap();
        assert_eq!((returned.len, returned.bytes[512]), (1, status));
    }
    read(&mut rig, 0, 1);
    let wrong = InputError::Length {
        expected: 512,
        found: 3,
    };
    assert_eq!(complete(&mut rig, 2, vec![0; 3]), Err(wrong));
    assert_eq!(complete(&mut rig, 2, vec![0; 512]), Ok(InputOutcome::Taken));
    assert_eq!(
        complete(&mut rig, 2, vec![0; 512]),
        Err(InputError::UnknownRequest { id: 2 })
    );
    assert!(rig.input(VirtioInput::NetAnnounce).is_err());
}

#[test]
fn requests_outlive_a_reset_without_their_buffers() {
    let mut rig = rig();
    write(&mut rig, 10, 1);
    write(&mut rig, 10, 1);
    assert_eq!(requests(&mut rig).len(), 1);
    assert!(rig.start(0));
    let left: Vec<u64> = rig.function.device().in_flight().map(|r| r.id).collect();
    assert_eq!(left, [0], "what the host never had is gone");
    rig.take_events();
    write(&mut rig, 10, 1);
    assert_eq!(requests(&mut rig), [], "the old write is under way");
    let before = rig.ram.clone();
    assert_eq!(complete(&mut rig, 0, vec![]), Ok(InputOutcome::Stale));
    assert!(rig.ram == before);
    assert_eq!(requests(&mut rig)[0].id, 2);
    rig.function.power_on_reset();
    assert_eq!(complete(&mut rig, 2, vec![]), Ok(InputOutcome::Stale));
}

#[test]
fn durability_follows_what_was_negotiated() {
    let flush_or_wce = FEATURE_FLUSH | FEATURE_CONFIG_WCE;
    for (without, write_back, durable) in [
        (0, 1, false),
        (0, 0, true),
        (FEATURE_CONFIG_WCE, 0, false),
        (flush_or_wce, 1, true),
    ] {
        let mut rig = Rig::started(Block::new(CONFIG), without);
        rig.bar_write(0x4000 + 32, 1, write_back);
        write(&mut rig, 0, 1);
        assert_eq!(requests(&mut rig)[0].durable, durable);
        rig.request(0, &[&header(4, 0)], &[1]);
        let unsupported = without & FEATURE_FLUSH != 0;
        assert_eq!(rig.returned(0).is_some(), unsupported);
    }
}

#[test]
fn discard_and_write_zeroes_name_a_range() {
    let mut rig = rig();
    rig.request(0, &[&header(11, 0), &range(8, 16, 0)], &[1]);
    rig.request(0, &[&header(13, 0), &range(100, 1, 1)], &[1]);
    let requests = requests(&mut rig);
    let found: Vec<_> = requests
        .iter()
        .map(|request| (request.operation, request.sector, request.len))
        .collect();
    let zeroes = BlockOperation::WriteZeroes { may_unmap: true };
    assert_eq!(
        found,
        [(BlockOperation::Discard, 8, 8192), (zeroes, 100, 512)]
    );
}

#[test]
fn the_ring_holds_what_would_be_too_much_at_once() {
    // A large disk, and requests of 6 MiB made of one buffer used many times.
    let config = BlockConfig {
        sectors: 1 << 40,
        ..CONFIG
    };
    let mut rig = Rig::started(Block::new(config), 0);
    let (size, pieces) = (8 * 1024, 96u64);
    let buffer = rig.buffer(size);
    let table = rig.buffer(16 * 128).next_multiple_of(16);
    let status = rig.buffer(16);
    for request in 0..8u16 {
        let head = rig.buffer(16);
        let bytes = header(0, u64::from(request) * pieces * 16);
        crate::dma::GuestRam::write(&mut rig.ram, head, &bytes).unwrap();
        rig.put_descriptor(table + 16 * 128, 0, (0, 0, 0, 0));
        if request == 0 {
            for index in 0..pieces as u16 {
                rig.put_descriptor(table, index, (buffer, size, 3, index + 1));
            }
            rig.put_descriptor(table, pieces as u16, (status, 1, 2, 0));
        }
        let own = rig.rings(0)[0];
        rig.put_descriptor(own, 2 * request, (head, 16, 1, 2 * request + 1));
        let len = 16 * (pieces as u32 + 1);
        rig.put_descriptor(own, 2 * request + 1, (table, len, 4, 0));
        rig.offer_head(0, 2 * request);
    }
    assert_ne!(rig.features() & FEATURE_INDIRECT, 0);
    rig.notify(0);
    assert_eq!(rig.function.fault(), None);
    let first = requests(&mut rig);
    assert_eq!(first.len(), 6, "768 KiB each, up to the first over 4 MiB");
    let data = vec![1; first[0].len as usize];
    assert_eq!(complete(&mut rig, 0, data), Ok(InputOutcome::Taken));
    assert_eq!(requests(&mut rig).len(), 1);
}

#[test]
fn unreachable_states_are_refused() {
    let mut rig = rig();
    write(&mut rig, 0, 1);
    let good = rig.function.device().save();
    assert!(Block::restore(good.clone()).is_ok());
    let mut bad = good.clone();
    bad.next_id = 0;
    assert!(Block::restore(bad).is_err());
    let mut bad = good.clone();
    bad.in_flight[0].request.len = 1024;
    assert!(Block::restore(bad).is_err());
    let mut bad = good;
    bad.config.block_size = 100;
    assert!(Block::restore(bad).is_err());
}

impl VirtioSubject for Block {
    fn make() -> Self {
        Self::new(CONFIG)
    }

    fn request(_queue: usize, random: &mut Random) -> (Vec<u8>, u32) {
        let sector = random.below(20) * random.below(60);
        let sectors = 1 + random.below(4) as u32;
        match random.below(8) {
            0..=2 => (header(0, sector), 512 * sectors + 1),
            3..=5 => {
                let data = vec![random.next() as u8; 512 * sectors as usize];
                ([header(1, sector), data].concat(), 1)
            }
            6 => (header(random.below(16) as u32, sector), 21),
            _ => (
                [
                    header(11 + 2 * random.below(2) as u32, 0),
                    range(sector, sectors, 0),
                ]
                .concat(),
                1,
            ),
        }
    }

    fn host_input(random: &mut Random, asked: &mut Vec<VirtioEvent>) -> VirtioInput {
        asked.retain(|event| matches!(event, VirtioEvent::Block(_)));
        if asked.is_empty() || random.below(10) == 0 {
            let sectors = 900 + random.below(200);
            return VirtioInput::BlockResize { sectors };
        }
        let index = random.below(asked.len() as u64) as usize;
        let VirtioEvent::Block(request) = asked.remove(index) else {
            panic!("only requests are kept");
        };
        let len = match request.operation {
            BlockOperation::Read => request.len,
            _ => 0,
        };
        let result = match random.below(8) {
            0 => Err(BlockIoError::Io),
            1 => Err(BlockIoError::Unsupported),
            _ => Ok(Payload::from(vec![random.next() as u8; len as usize])),
        };
        let id = request.id;
        VirtioInput::BlockCompletion { id, result }
    }

    fn provoke(_queue: usize) -> Option<VirtioInput> {
        None
    }
}

#[test]
fn conforms() {
    virtio::run::<Block>(12);
}
