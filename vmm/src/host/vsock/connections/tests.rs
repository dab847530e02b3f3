//! What a guest sees of its connections, packet by packet.

use super::*;

const CID: u64 = 3;
const GUEST: u32 = 1025;
const HOST: u32 = 52;
const BUFFER: u32 = 1000;

fn header(operation: Operation) -> Header {
    Header {
        source_cid: CID,
        target_cid: HOST_CID,
        source_port: GUEST,
        target_port: HOST,
        kind: KIND_STREAM,
        operation: operation.number(),
        buffer_size: BUFFER,
        ..Header::default()
    }
}

fn packet(operation: Operation) -> Vec<u8> {
    header(operation).packet(&[])
}

fn data(bytes: &[u8]) -> Vec<u8> {
    header(Operation::Data).packet(bytes)
}

fn shutdown(flags: u32) -> Vec<u8> {
    let operation = header(Operation::Shutdown);
    Header { flags, ..operation }.packet(&[])
}

/// The packets that wait for the guest: operation, flags, payload.
fn told(connections: &mut Connections) -> Vec<(Operation, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(packet) = connections.next_packet() {
        let (header, payload) = Header::parse(&packet).unwrap();
        assert_eq!((header.source_cid, header.target_cid), (HOST_CID, CID));
        assert_eq!(header.target_port, GUEST);
        let operation = Operation::from_number(header.operation).unwrap();
        all.push((operation, header.flags, payload.to_vec()));
    }
    all
}

fn operations(connections: &mut Connections) -> Vec<Operation> {
    let all = told(connections).into_iter();
    all.map(|(operation, ..)| operation).collect()
}

/// A connection that the guest asked for and the host accepted.
fn open() -> (Connections, ConnectionId) {
    let mut connections = Connections::new(CID);
    connections.packet(&packet(Operation::Request));
    let (id, made) = connections.iter().next().unwrap();
    assert_eq!((made.stage, made.ports.host), (Stage::Connecting, HOST));
    connections.accepted(id);
    assert_eq!(operations(&mut connections), [Operation::Response]);
    (connections, id)
}

fn stage(connections: &Connections, id: ConnectionId) -> Option<Stage> {
    connections.get(id).map(|connection| connection.stage)
}

#[test]
fn bytes_pass_both_ways() {
    let (mut connections, id) = open();
    connections.packet(&data(b"to the host"));
    assert_eq!(connections.get(id).unwrap().output(6), b"to the");
    connections.forward(id, 6);
    assert_eq!(connections.get(id).unwrap().output(99), b" host");
    assert_eq!(connections.room(id), BUFFER as usize);
    connections.send(id, b"to the guest");
    let expected = (Operation::Data, 0, b"to the guest".to_vec());
    assert_eq!(told(&mut connections), [expected]);
    assert_eq!(connections.room(id), BUFFER as usize - 12);
}

#[test]
fn peer_asks_and_the_guest_accepts_or_refuses() {
    let mut connections = Connections::new(CID);
    let ids = [(); 3].map(|()| connections.connect(GUEST).unwrap());
    let ports = ids.map(|id| connections.get(id).unwrap().ports.host);
    assert_eq!(ports, [FIRST_PORT, FIRST_PORT + 1, FIRST_PORT + 2]);
    assert_eq!(operations(&mut connections), [Operation::Request; 3]);
    let answer = |port, operation| {
        let answer = header(operation);
        let target_port = port;
        Header {
            target_port,
            ..answer
        }
        .packet(&[])
    };
    connections.packet(&answer(ports[0], Operation::Response));
    connections.packet(&answer(ports[1], Operation::Reset));
    // Bytes before it has accepted.
    connections.packet(&answer(ports[2], Operation::Data));
    let stages = ids.map(|id| stage(&connections, id));
    assert_eq!(stages, [Some(Stage::Open), None, None]);
    assert_eq!(operations(&mut connections), [Operation::Reset]);
}

#[test]
fn packets_that_fit_no_connection_are_answered_with_a_reset() {
    for operation in (1..=7).map(|number| Operation::from_number(number).unwrap()) {
        let mut connections = Connections::new(CID);
        connections.packet(&packet(operation));
        let expected: &[_] = match operation {
            Operation::Request | Operation::Reset => &[],
            _ => &[Operation::Reset],
        };
        assert_eq!(operations(&mut connections), expected, "{operation:?}");
    }
    // Another kind than a stream.
    let mut connections = Connections::new(CID);
    let kind = 2;
    let request = header(Operation::Request);
    connections.packet(&Header { kind, ..request }.packet(&[]));
    let answer = connections.next_packet().unwrap();
    let (answer, _) = Header::parse(&answer).unwrap();
    assert_eq!((answer.kind, answer.operation), (2, 3));
    assert_eq!(connections.counters(), VsockCounters::default());
}

#[test]
fn malformed_packets_are_ignored_and_counted() {
    let (mut connections, id) = open();
    let good = header(Operation::Data);
    let mut long = good.packet(b"hello");
    long.push(0);
    let odd = [
        vec![],
        vec![0; 43],
        vec![0xff; 44],
        long,
        Header {
            operation: 0,
            ..good
        }
        .packet(&[]),
        Header {
            operation: 8,
            ..good
        }
        .packet(&[]),
        Header {
            source_cid: 4,
            ..good
        }
        .packet(&[]),
        Header {
            target_cid: 1,
            ..good
        }
        .packet(&[]),
    ];
    for packet in &odd {
        connections.packet(packet);
    }
    assert_eq!(connections.counters().malformed, odd.len() as u64);
    assert_eq!(told(&mut connections), []);
    assert_eq!(stage(&connections, id), Some(Stage::Open));
}

#[test]
fn guest_is_given_credit_as_the_peer_takes_bytes() {
    let (mut connections, id) = open();
    let full = vec![7; BUFFER_SIZE as usize];
    connections.packet(&data(&full));
    connections.forward(id, BUFFER_SIZE as usize / 4 - 1);
    assert_eq!(told(&mut connections), []);
    connections.forward(id, 1);
    let update = connections.next_packet().unwrap();
    let (update, _) = Header::parse(&update).unwrap();
    assert_eq!(update.operation, Operation::CreditUpdate.number());
    assert_eq!(
        (update.buffer_size, update.forwarded),
        (BUFFER_SIZE, BUFFER_SIZE / 4)
    );
    connections.packet(&packet(Operation::CreditRequest));
    assert_eq!(operations(&mut connections), [Operation::CreditUpdate]);
    // As much as it was told of, and then a byte more.
    connections.packet(&data(&full[..BUFFER_SIZE as usize / 4]));
    assert_eq!(stage(&connections, id), Some(Stage::Open));
    connections.packet(&data(&full[..1]));
    assert_eq!(operations(&mut connections), [Operation::Reset]);
    assert_eq!(stage(&connections, id), None);
}

#[test]
fn host_sends_no_more_than_the_guest_has_room_for() {
    let (mut connections, id) = open();
    connections.send(id, &[1; 600]);
    connections.send(id, &[1; 400]);
    operations(&mut connections);
    // Nothing left: it asks once.
    assert_eq!((connections.room(id), connections.room(id)), (0, 0));
    assert_eq!(operations(&mut connections), [Operation::CreditRequest]);
    let forwarded = 700;
    let update = header(Operation::CreditUpdate);
    connections.packet(
        &Header {
            forwarded,
            ..update
        }
        .packet(&[]),
    );
    assert_eq!(connections.room(id), 700);
    // More than was ever sent: nonsense gives no credit.
    let forwarded = 1_000_000;
    connections.packet(
        &Header {
            forwarded,
            ..update
        }
        .packet(&[]),
    );
    assert_eq!(connections.room(id), 0);
}

#[test]
fn either_side_may_end_first() {
    // Both ways at once, with bytes under way.
    let (mut connections, id) = open();
    connections.packet(&data(b"last words"));
    connections.packet(&shutdown(SHUTDOWN_BOTH));
    assert_eq!(operations(&mut connections), [Operation::Reset]);
    assert_eq!(stage(&connections, id), Some(Stage::Detached));
    // The ports are free again while the peer still gets what was sent.
    connections.packet(&packet(Operation::Request));
    assert_eq!(connections.counters().connections, 2);
    connections.forward(id, 10);
    assert_eq!(stage(&connections, id), None);

    // One way after the other.
    let (mut connections, id) = open();
    connections.packet(&shutdown(SHUTDOWN_SEND));
    assert_eq!(told(&mut connections), []);
    connections.send(id, b"answer");
    connections.packet(&shutdown(SHUTDOWN_RECEIVE));
    let expected = [Operation::Data, Operation::Reset];
    assert_eq!(operations(&mut connections), expected);
    assert_eq!(stage(&connections, id), None);

    // The peer.
    let (mut connections, id) = open();
    connections.peer_ends(id);
    connections.peer_ends(id);
    let end = (Operation::Shutdown, SHUTDOWN_SEND, vec![]);
    assert_eq!(told(&mut connections), [end]);
    connections.packet(&data(b"still heard"));
    assert_eq!(connections.get(id).unwrap().pending(), 11);
    connections.peer_is_gone(id);
    let end = (Operation::Shutdown, SHUTDOWN_BOTH, vec![]);
    assert_eq!(told(&mut connections), [end]);
    connections.packet(&data(b"not heard"));
    assert_eq!(stage(&connections, id), Some(Stage::Closing));
    connections.packet(&packet(Operation::Reset));
    assert_eq!(stage(&connections, id), None);
    assert_eq!(told(&mut connections), []);
}

#[test]
fn sending_after_the_end_resets_the_connection() {
    let (mut connections, id) = open();
    connections.packet(&shutdown(SHUTDOWN_SEND));
    connections.packet(&data(b"more"));
    assert_eq!(operations(&mut connections), [Operation::Reset]);
    assert_eq!(stage(&connections, id), None);
}

#[test]
fn connections_and_waiting_packets_are_bounded() {
    let mut connections = Connections::new(CID);
    for source_port in 0..2 * CONNECTIONS_MAX as u32 {
        let request = header(Operation::Request);
        let request = Header {
            source_port,
            ..request
        };
        connections.packet(&request.packet(&[]));
    }
    assert_eq!(connections.counters().connections, CONNECTIONS_MAX);
    assert_eq!(connections.connect(1), None);
    assert_eq!(connections.queue.len(), CONNECTIONS_MAX, "refused");
    for _ in 0..2 * QUEUE_LIMIT {
        connections.packet(&packet(Operation::Data));
    }
    assert_eq!(connections.queue.len(), QUEUE_LIMIT);
    assert!(connections.counters().dropped > 0);
    connections.clear();
    assert_eq!(connections.next_packet(), None);
    assert_eq!(connections.counters().connections, 0);
}

/// A generator of numbers without pretensions.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn random_packet(numbers: &mut Numbers) -> Vec<u8> {
    if numbers.below(20) == 0 {
        let len = numbers.below(100);
        return (0..len).map(|_| numbers.below(256) as u8).collect();
    }
    let header = Header {
        source_cid: CID,
        target_cid: HOST_CID,
        source_port: numbers.below(4) as u32,
        target_port: FIRST_PORT + numbers.below(4) as u32,
        len: 0,
        kind: if numbers.below(20) == 0 {
            2
        } else {
            KIND_STREAM
        },
        operation: numbers.below(9) as u16,
        flags: numbers.below(5) as u32,
        buffer_size: numbers.below(100_000) as u32,
        forwarded: numbers.below(3).wrapping_sub(1).wrapping_mul(30_000) as u32,
    };
    header.packet(&vec![5; numbers.below(40_000) as usize])
}

#[test]
fn whatever_a_guest_and_peers_do_the_bounds_hold() {
    for seed in 1..=40 {
        let mut numbers = Numbers(seed * 0x9e37_79b9);
        let mut connections = Connections::new(CID);
        for _ in 0..3000 {
            let ids: Vec<_> = connections.iter().map(|(id, _)| id).collect();
            let pick = numbers.below(ids.len().max(1) as u64) as usize;
            let id = ids.get(pick).copied().unwrap_or(ConnectionId(u64::MAX));
            match numbers.below(14) {
                0..6 => connections.packet(&random_packet(&mut numbers)),
                6 => drop(connections.connect(numbers.below(4) as u32)),
                7 => connections.accepted(id),
                8 => {
                    let room = connections.room(id);
                    if let Some(found) = connections.get(id) {
                        assert!(room <= found.credit() as usize, "seed {seed}");
                    }
                    connections.send(id, &vec![1; room]);
                }
                9 => connections.forward(id, numbers.below(70_000) as usize),
                10 => drop(connections.next_packet()),
                11 => connections.peer_ends(id),
                12 => connections.peer_is_deaf(id),
                _ if numbers.below(4) == 0 => connections.abort(id),
                _ => connections.peer_is_gone(id),
            }
            for (id, found) in connections.iter() {
                assert!(found.pending() <= BUFFER_SIZE as usize, "seed {seed}");
                let known = connections.ids.get(&found.ports) == Some(&id);
                assert_eq!(known, found.stage != Stage::Detached, "seed {seed}");
            }
            let bytes: usize = connections.queue.iter().map(Vec::len).sum();
            assert_eq!(bytes, connections.queue_bytes, "seed {seed}");
        }
    }
}
