//! The ring as the specification draws it, and what it does not allow.

use super::*;
use crate::dma::VecRam;

const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const DATA: u64 = 0x8000;
const SIZE: u16 = 8;

fn queue(ram: &VecRam) -> Queue {
    let mut queue = Queue::new(SIZE);
    for (ring, gpa) in [
        (Ring::Descriptors, TABLE),
        (Ring::Available, AVAILABLE),
        (Ring::Used, USED),
    ] {
        queue.set_ring(ring, gpa);
    }
    queue.enable(ram).unwrap();
    queue
}

fn ram() -> VecRam {
    VecRam::new(0, 0x1_0000)
}

fn put(ram: &mut VecRam, at: u64, (gpa, len, flags, next): (u64, u32, u16, u16)) {
    ram.write(at, &gpa.to_le_bytes()).unwrap();
    ram.write(at + 8, &len.to_le_bytes()).unwrap();
    ram.write(at + 12, &flags.to_le_bytes()).unwrap();
    ram.write(at + 14, &next.to_le_bytes()).unwrap();
}

fn offer(ram: &mut VecRam, index: u16, head: u16) {
    let slot = u64::from(index % SIZE);
    ram.write(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes())
        .unwrap();
    ram.write(AVAILABLE + 2, &(index.wrapping_add(1)).to_le_bytes())
        .unwrap();
}

#[test]
fn a_chain_comes_out_in_order_and_goes_back() {
    let mut ram = ram();
    let mut queue = queue(&ram);
    assert_eq!(queue.pop(&ram, 0), Ok(None));
    put(&mut ram, TABLE + 16 * 3, (DATA, 4, FLAG_NEXT, 1));
    put(
        &mut ram,
        TABLE + 16,
        (DATA + 16, 8, FLAG_NEXT | FLAG_WRITE, 7),
    );
    put(&mut ram, TABLE + 16 * 7, (DATA + 32, 1, FLAG_WRITE, 0));
    offer(&mut ram, 0, 3);
    let chain = queue.pop(&ram, 0).unwrap().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (4, 9));
    assert_eq!(chain.writable[1].gpa, DATA + 32);
    assert_eq!((queue.outstanding(), queue.pop(&ram, 0)), (1, Ok(None)));
    queue.push(&mut ram, chain.head, 9).unwrap();
    assert_eq!(read_u16(&ram, USED + 2), Ok(1));
    assert_eq!(
        &ram.bytes()[USED as usize + 4..][..8],
        [3, 0, 0, 0, 9, 0, 0, 0]
    );
    assert_eq!(queue.outstanding(), 0);
}

#[test]
fn an_indirect_table_may_end_a_chain() {
    let mut ram = ram();
    let mut queue = queue(&ram);
    put(&mut ram, TABLE, (DATA, 4, FLAG_NEXT, 5));
    put(&mut ram, TABLE + 16 * 5, (0x4000, 32, FLAG_INDIRECT, 0));
    put(&mut ram, 0x4000, (DATA + 8, 2, FLAG_NEXT, 1));
    put(&mut ram, 0x4010, (DATA + 16, 3, FLAG_WRITE, 0));
    offer(&mut ram, 0, 0);
    let head = 0;
    assert_eq!(
        queue.pop(&ram, 0),
        Err(Fault::MisplacedIndirect { head }),
        "not negotiated"
    );
    let chain = queue.pop(&ram, FEATURE_INDIRECT).unwrap().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (6, 3));
}

#[test]
fn every_malformed_chain_has_its_fault_and_is_not_taken() {
    let head = 0;
    type Setup = (u64, (u64, u32, u16, u16));
    let table = |index: u64| TABLE + 16 * index;
    let cases: Vec<(Vec<Setup>, Fault)> = vec![
        (
            vec![(table(0), (DATA, 1, FLAG_NEXT, 0))],
            Fault::ChainTooLong { head },
        ),
        (
            vec![
                (table(0), (DATA, 1, FLAG_NEXT, 1)),
                (table(1), (DATA, 1, FLAG_NEXT, 0)),
            ],
            Fault::ChainTooLong { head },
        ),
        (
            vec![(table(0), (DATA, 1, FLAG_NEXT, 8))],
            Fault::DescriptorIndex { index: 8, count: 8 },
        ),
        (
            vec![(table(0), (DATA, 0, 0, 0))],
            Fault::EmptyDescriptor { head },
        ),
        (
            vec![(table(0), (0xffff, 2, 0, 0))],
            Fault::NotMemory {
                gpa: 0xffff,
                len: 2,
            },
        ),
        (
            vec![(table(0), (u64::MAX, 2, 0, 0))],
            Fault::NotMemory {
                gpa: u64::MAX,
                len: 2,
            },
        ),
        (
            vec![
                (table(0), (0, 0xffff, FLAG_NEXT, 1)),
                (table(1), (0, u32::MAX, 0, 0)),
            ],
            Fault::HugeChain { head },
        ),
        (
            vec![
                (table(0), (DATA, 1, FLAG_WRITE | FLAG_NEXT, 1)),
                (table(1), (DATA, 1, 0, 0)),
            ],
            Fault::ReadableAfterWritable { head },
        ),
        (
            vec![(table(0), (USED + 69, 1, FLAG_WRITE, 0))],
            Fault::OverlapsRing { gpa: USED + 69 },
        ),
        (
            vec![(table(0), (TABLE - 1, 2, FLAG_WRITE, 0))],
            Fault::OverlapsRing { gpa: TABLE - 1 },
        ),
        (
            vec![(table(0), (0x4000, 16, FLAG_INDIRECT | FLAG_NEXT, 1))],
            Fault::MisplacedIndirect { head },
        ),
        (
            vec![
                (table(0), (0x4000, 16, FLAG_INDIRECT, 0)),
                (0x4000, (0x5000, 16, FLAG_INDIRECT, 0)),
            ],
            Fault::MisplacedIndirect { head },
        ),
        (
            vec![(table(0), (0x4000, 24, FLAG_INDIRECT, 0))],
            Fault::IndirectLength { len: 24 },
        ),
        (
            vec![(table(0), (0x4000, 0, FLAG_INDIRECT, 0))],
            Fault::IndirectLength { len: 0 },
        ),
        (
            vec![
                (table(0), (0x4000, 32, FLAG_INDIRECT, 0)),
                (0x4000, (DATA, 1, FLAG_NEXT, 2)),
            ],
            Fault::DescriptorIndex { index: 2, count: 2 },
        ),
        (
            vec![(table(0), (0xfff8, 16, FLAG_INDIRECT, 0))],
            Fault::NotMemory {
                gpa: 0xfff8,
                len: 16,
            },
        ),
    ];
    for (setup, fault) in cases {
        let mut ram = ram();
        let mut queue = queue(&ram);
        for (at, descriptor) in setup {
            put(&mut ram, at, descriptor);
        }
        offer(&mut ram, 0, 0);
        let before = queue.clone();
        assert_eq!(queue.pop(&ram, FEATURE_INDIRECT), Err(fault));
        assert_eq!(queue, before);
    }
}

#[test]
fn the_available_index_moves_by_what_is_free_and_never_back() {
    let mut ram = ram();
    let mut queue = queue(&ram);
    put(&mut ram, TABLE, (DATA, 1, 0, 0));
    offer(&mut ram, 0, 8);
    let beyond = Fault::DescriptorIndex { index: 8, count: 8 };
    assert_eq!(queue.pop(&ram, 0), Err(beyond));
    for index in 0..8 {
        offer(&mut ram, index, 0);
    }
    for _ in 0..8 {
        assert!(queue.pop(&ram, 0).unwrap().is_some());
    }
    // All descriptors are outstanding: a ninth chain cannot be.
    offer(&mut ram, 8, 0);
    let jump = |index| Fault::AvailableIndex { index, expected: 8 };
    assert_eq!(queue.pop(&ram, 0), Err(jump(9)));
    offer(&mut ram, 6, 0);
    assert_eq!(queue.pop(&ram, 0), Err(jump(7)));
    queue.push(&mut ram, 0, 0).unwrap();
    offer(&mut ram, 8, 0);
    assert!(queue.pop(&ram, 0).unwrap().is_some());
    queue.rewind(1);
    assert!(queue.pop(&ram, 0).unwrap().is_some());
}

#[test]
fn rings_are_checked_when_the_queue_is_enabled() {
    let memory = ram();
    let cases = [
        (
            Ring::Descriptors,
            0x1008,
            Fault::MisalignedRing { gpa: 0x1008 },
        ),
        (
            Ring::Available,
            0x2001,
            Fault::MisalignedRing { gpa: 0x2001 },
        ),
        (Ring::Used, 0x3002, Fault::MisalignedRing { gpa: 0x3002 }),
        (
            Ring::Used,
            0xfff0,
            Fault::NotMemory {
                gpa: 0xfff0,
                len: 70,
            },
        ),
        (
            Ring::Descriptors,
            !0xf,
            Fault::NotMemory {
                gpa: !0xf,
                len: 128,
            },
        ),
        (Ring::Used, 0x2008, Fault::OverlapsRing { gpa: 0x2008 }),
        (Ring::Available, 0x107e, Fault::OverlapsRing { gpa: 0x107e }),
    ];
    for (ring, gpa, fault) in cases {
        let mut queue = queue(&memory);
        queue.reset();
        queue.set_ring(Ring::Descriptors, TABLE);
        queue.set_ring(Ring::Available, AVAILABLE);
        queue.set_ring(Ring::Used, USED);
        queue.set_ring(ring, gpa);
        assert_eq!(queue.enable(&memory), Err(fault));
        assert!(!queue.enabled());
        assert_eq!(queue.pop(&memory, 0), Ok(None));
    }
    let mut queue = Queue::new(SIZE);
    for size in [0, 3, 16] {
        let fault = Fault::QueueSize { queue: 5, size };
        assert_eq!(queue.set_size(5, size), Err(fault));
    }
    queue.set_size(5, 4).unwrap();
    assert_eq!(queue.size(), 4);
}

#[test]
fn interrupts_are_suppressed_by_flag_or_by_index() {
    let mut ram = ram();
    let mut flags = queue(&ram);
    assert_eq!(flags.wants_interrupt(&ram, 0), Ok(false), "nothing new");
    flags.push(&mut ram, 0, 0).unwrap();
    assert_eq!(flags.wants_interrupt(&ram, 0), Ok(true));
    assert_eq!(flags.wants_interrupt(&ram, 0), Ok(false));
    ram.write(AVAILABLE, &[1, 0]).unwrap();
    flags.push(&mut ram, 0, 0).unwrap();
    assert_eq!(flags.wants_interrupt(&ram, 0), Ok(false));

    let mut indices = queue(&ram);
    let used_event = AVAILABLE + 4 + 2 * u64::from(SIZE);
    for (event, pushes, wanted) in [
        (0u16, 1, true),
        (0, 1, false),
        (3, 1, false),
        (3, 1, true),
        (6, 4, true),
        (8, 0, false),
        (0xffff, 1, false),
    ] {
        ram.write(used_event, &event.to_le_bytes()).unwrap();
        for _ in 0..pushes {
            indices.push(&mut ram, 0, 0).unwrap();
        }
        let found = indices.wants_interrupt(&ram, FEATURE_EVENT_INDEX);
        assert_eq!(found, Ok(wanted), "event {event}, {indices:?}");
    }
}

#[test]
fn notifications_are_asked_for_by_flag_or_by_index() {
    let mut ram = ram();
    let mut queue = queue(&ram);
    queue.want_notification(&mut ram, 0, false).unwrap();
    assert_eq!(read_u16(&ram, USED), Ok(1));
    queue.want_notification(&mut ram, 0, true).unwrap();
    assert_eq!(read_u16(&ram, USED), Ok(0));
    put(&mut ram, TABLE, (DATA, 1, 0, 0));
    offer(&mut ram, 0, 0);
    queue.pop(&ram, 0).unwrap();
    let feature = FEATURE_EVENT_INDEX;
    let event = USED + 4 + 8 * u64::from(SIZE);
    queue.want_notification(&mut ram, feature, false).unwrap();
    assert_eq!(read_u16(&ram, event), Ok(0));
    queue.want_notification(&mut ram, feature, true).unwrap();
    assert_eq!(read_u16(&ram, event), Ok(1));
    queue.rewind(1);
    queue.want_notification(&mut ram, feature, true).unwrap();
    assert_eq!(read_u16(&ram, event), Ok(1), "the driver's next one");
}
