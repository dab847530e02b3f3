//! Connections over real Unix sockets, with a guest that follows the rules.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use devices::virtio::input::VirtioInput;

use super::connections::HOST_CID;
use super::packet::{Header, KIND_STREAM, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;

const CID: u64 = 7;
const BUFFER: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(5);
const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// A guest with one connection at a time.
struct Guest {
    host: VsockHost,
    path: PathBuf,
    inputs: Receiver<Vec<u8>>,
    guest_port: u32,
    host_port: u32,
    /// Bytes it received, and bytes it may send.
    received: u32,
    sent: u32,
    credit_limit: u32,
}

impl Guest {
    /// A guest whose machine refuses every third input.
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vsock-{name}-{}", std::process::id()));
        let (sender, inputs) = channel();
        let (sender, count) = (Mutex::new(sender), AtomicU64::new(0));
        let offer: Offer = Arc::new(move |input| {
            let VirtioInput::VsockReceive(packet) = input else {
                panic!("{input:?}");
            };
            if count.fetch_add(1, Ordering::Relaxed) % 3 == 1 {
                return false;
            }
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            sender.send(packet.into_bytes()).is_ok()
        });
        let mut host = VsockHost::new(CID, path.clone(), offer);
        assert!(!path.exists());
        host.activate().unwrap();
        Self {
            host,
            path,
            inputs,
            guest_port: 5000,
            host_port: 52,
            received: 0,
            sent: 0,
            credit_limit: 0,
        }
    }

    fn send(&self, operation: Operation, flags: u32, payload: &[u8]) {
        let header = Header {
            source_cid: CID,
            target_cid: HOST_CID,
            source_port: self.guest_port,
            target_port: self.host_port,
            len: 0,
            kind: KIND_STREAM,
            operation: operation.number(),
            flags,
            buffer_size: BUFFER,
            forwarded: self.received,
        };
        self.host.packet(&header.packet(payload));
    }

    /// The next packet, after learning what it says of credit.
    fn next(&mut self) -> (Operation, u32, Vec<u8>) {
        let packet = self.inputs.recv_timeout(PATIENCE).unwrap();
        let (header, payload) = Header::parse(&packet).unwrap();
        assert_eq!(header.target_cid, CID);
        self.credit_limit = header.forwarded.wrapping_add(header.buffer_size);
        let operation = Operation::from_number(header.operation).unwrap();
        if operation == Operation::Request {
            self.guest_port = header.target_port;
            self.host_port = header.source_port;
        }
        (operation, header.flags, payload.to_vec())
    }

    fn expect(&mut self, operation: Operation, flags: u32) {
        let (found, found_flags, _) = self.next();
        assert_eq!((found, found_flags), (operation, flags));
    }

    fn silent(&self) {
        assert!(self.inputs.recv_timeout(Duration::from_millis(50)).is_err());
    }

    /// Receives `count` bytes, and gives credit as it does.
    fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let (operation, _, bytes) = self.next();
            match operation {
                Operation::Data => {
                    all.extend(&bytes);
                    assert!(
                        bytes.len() <= BUFFER as usize,
                        "more than there is room for"
                    );
                    self.received += bytes.len() as u32;
                    self.send(Operation::CreditUpdate, 0, &[]);
                }
                Operation::CreditRequest => self.send(Operation::CreditUpdate, 0, &[]),
                Operation::CreditUpdate => {}
                other => panic!("{other:?} after {} bytes", all.len()),
            }
        }
        all
    }

    /// Sends all of `bytes`, as the host gives credit.
    fn send_all(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let credit = self.credit_limit.wrapping_sub(self.sent) as usize;
            let (now, later) = rest.split_at(rest.len().min(credit).min(20_000));
            if now.is_empty() {
                self.next();
                continue;
            }
            self.send(Operation::Data, 0, now);
            self.sent += now.len() as u32;
            rest = later;
        }
    }

    fn target(&self, port: u32) -> PathBuf {
        PathBuf::from(format!("{}_{port}", self.path.display()))
    }

    /// A client that asked for a port of the guest.
    fn call(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(&self.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .unwrap();
        client
    }

    /// A client of whom the guest has accepted the call.
    fn answered_call(&mut self) -> UnixStream {
        let mut client = self.call(1234);
        self.expect(Operation::Request, 0);
        assert_eq!(self.guest_port, 1234);
        self.send(Operation::Response, 0, &[]);
        assert_eq!(line(&mut client), format!("OK {}\n", self.host_port));
        client
    }

    /// A service of the host that the guest has called.
    fn answered_by_service(&mut self) -> UnixStream {
        let target = self.target(52);
        let listener = UnixListener::bind(&target).unwrap();
        self.send(Operation::Request, 0, &[]);
        self.expect(Operation::Response, 0);
        let (service, _) = listener.accept().unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        std::fs::remove_file(&target).unwrap();
        service
    }
}

/// The first line, and not a byte more.
fn line(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0].into());
    }
    line
}

fn is_closed(stream: &mut UnixStream) -> bool {
    // A reset is an end too: bytes were on their way.
    !matches!(stream.read(&mut [0; 10]), Ok(1..))
}

#[test]
fn client_of_the_host_reaches_the_guest() {
    let mut guest = Guest::new("client");
    let mut client = guest.answered_call();
    assert_eq!(guest.host_port, 1 << 30);
    client.write_all(b"ping").unwrap();
    assert_eq!(guest.receive(4), b"ping");
    guest.send_all(b"pong");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
    drop(client);
    // First it is seen that it sends no more, then that it is gone.
    guest.expect(Operation::Shutdown, SHUTDOWN_SEND);
    guest.expect(Operation::Shutdown, BOTH);
    guest.send(Operation::Reset, 0, &[]);
    guest.silent();
    assert_eq!(guest.host.counters(), VsockCounters::default());
}

#[test]
fn guest_reaches_a_service_of_the_host() {
    let mut guest = Guest::new("service");
    let mut service = guest.answered_by_service();
    guest.send_all(b"question");
    let mut question = [0; 8];
    service.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    guest.send(Operation::Shutdown, SHUTDOWN_SEND, &[]);
    assert!(is_closed(&mut service), "the end is heard");
    service.write_all(b"answer").unwrap();
    assert_eq!(guest.receive(6), b"answer");
    drop(service);
    guest.expect(Operation::Shutdown, SHUTDOWN_SEND);
    guest.expect(Operation::Shutdown, BOTH);
    guest.send(Operation::Reset, 0, &[]);
    guest.silent();
    // Nobody there any more.
    guest.guest_port += 1;
    guest.send(Operation::Request, 0, &[]);
    guest.expect(Operation::Reset, 0);
}

#[test]
fn megabytes_pass_whole_within_the_credit() {
    let mut guest = Guest::new("bulk");
    let mut client = guest.answered_call();
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (mut theirs, sent) = (client.try_clone().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || theirs.write_all(&sent).unwrap());
    assert!(guest.receive(bytes.len()) == bytes);
    writer.join().unwrap();
    let len = bytes.len();
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; len];
        client.read_exact(&mut all).unwrap();
        (client, all)
    });
    guest.send_all(&bytes);
    // Its last bytes arrive although it is gone, and then the end.
    guest.send(Operation::Shutdown, BOTH, &[]);
    let (mut client, all) = reader.join().unwrap();
    assert!(all == bytes);
    assert!(is_closed(&mut client));
    while guest.next().0 != Operation::Reset {}
}

#[test]
fn bytes_behind_the_request_are_kept_and_half_an_end_is_passed_on() {
    let mut guest = Guest::new("early");
    let mut client = UnixStream::connect(&guest.path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"CONNECT 9\nearly bytes").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    guest.expect(Operation::Request, 0);
    guest.send(Operation::Response, 0, &[]);
    assert_eq!(guest.receive(11), b"early bytes");
    guest.expect(Operation::Shutdown, SHUTDOWN_SEND);
    guest.send_all(b"late bytes");
    guest.send(Operation::Shutdown, BOTH, &[]);
    guest.expect(Operation::Reset, 0);
    let mut reader = BufReader::new(client);
    let (mut first, mut rest) = (String::new(), String::new());
    reader.read_line(&mut first).unwrap();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!((&first[..3], &rest[..]), ("OK ", "late bytes"));
}

#[test]
fn clients_that_are_refused_or_make_no_sense_are_closed() {
    let mut guest = Guest::new("refuse");
    let mut client = guest.call(80);
    guest.expect(Operation::Request, 0);
    guest.send(Operation::Reset, 0, &[]);
    assert!(is_closed(&mut client));
    let mut client = UnixStream::connect(&guest.path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(is_closed(&mut client));
    // A client that does not wait for the answer.
    drop(guest.call(80));
    guest.expect(Operation::Request, 0);
    guest.expect(Operation::Reset, 0);
    guest.send(Operation::Response, 0, &[]);
    guest.expect(Operation::Reset, 0);
    assert_eq!(guest.host.counters().connections, 0);
}

#[test]
fn peer_that_is_gone_while_the_guest_sends_is_told_of() {
    let mut guest = Guest::new("deaf");
    let service = guest.answered_by_service();
    drop(service);
    guest.expect(Operation::Shutdown, SHUTDOWN_SEND);
    guest.expect(Operation::Shutdown, BOTH);
    guest.send(Operation::Data, 0, b"to nobody");
    guest.silent();
    guest.send(Operation::Shutdown, BOTH, &[]);
    guest.expect(Operation::Reset, 0);
}

#[test]
fn peers_are_closed_when_the_machine_moves_or_its_driver_starts_anew() {
    let mut guest = Guest::new("move");
    let mut client = guest.answered_call();
    guest.host.reset();
    assert!(is_closed(&mut client));
    let mut client = guest.answered_call();
    let mut next = guest.host.successor();
    assert!(next.activate().unwrap_err().to_string().contains("in use"));
    let before = Instant::now();
    let path = guest.path.clone();
    drop(guest);
    assert!(before.elapsed() < Duration::from_millis(100));
    assert!(is_closed(&mut client));
    assert!(!path.exists());
    next.activate().unwrap();
    assert!(path.exists());
}

#[test]
fn service_that_accepts_nobody_holds_up_nobody() {
    let mut guest = Guest::new("stuck");
    let target = guest.target(52);
    // One client may wait to be accepted here, and one more; the next one would wait for that.
    let stuck = listener_for_one(&target);
    let mut refused = 0;
    for port in 0..4 {
        guest.guest_port = 6000 + port;
        guest.send(Operation::Request, 0, &[]);
        refused += u32::from(guest.next().0 == Operation::Reset);
    }
    assert!(refused > 0);
    guest.answered_call();
    drop(stuck);
    std::fs::remove_file(&target).unwrap();
}

fn listener_for_one(path: &Path) -> rustix::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    listener
}

#[test]
fn path_that_is_too_long_or_taken_is_named() {
    let long = std::env::temp_dir().join("x".repeat(120));
    let taken = std::env::temp_dir().join(format!("vsock-taken-{}", std::process::id()));
    std::fs::write(&taken, "").unwrap();
    for path in [&long, &taken] {
        let mut host = VsockHost::new(CID, path.clone(), Arc::new(|_| true));
        let error = host.activate().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        // Not open, so it does nothing.
        host.packet(&[0; 44]);
        host.reset();
    }
    std::fs::remove_file(&taken).unwrap();
}
