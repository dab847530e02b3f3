//! Files, pipes, sockets and terminals as the host side of a port.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Mutex, atomic};

use rustix::fs::{Mode, OFlags};
use rustix::termios::{Winsize, tcsetwinsize};

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn socket_host(name: &str) -> (SerialHost, PathBuf, mpsc::Receiver<Vec<u8>>) {
    let path = std::env::temp_dir().join(format!("serial-{name}-{}", std::process::id()));
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let input: Input = Arc::new(move |bytes: &[u8]| {
        sender.lock().unwrap().send(bytes.to_vec()).unwrap();
    });
    (
        SerialHost::new(SerialTarget::Socket(path.clone()), input),
        path,
        receiver,
    )
}

#[test]
fn output_before_the_first_client_is_kept_for_it() {
    let (mut host, path, received) = socket_host("early");
    host.activate(false).unwrap();
    host.write(b"early ");
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(
        received.recv_timeout(Duration::from_secs(5)).unwrap(),
        b"hello"
    );
    host.write(b"late");
    let mut all = [0; 10];
    client.read_exact(&mut all).unwrap();
    assert_eq!(&all, b"early late");
}

#[test]
fn new_client_replaces_the_old_and_the_socket_goes_with_the_host() {
    let (mut host, path, received) = socket_host("replace");
    host.activate(false).unwrap();
    let mut first = UnixStream::connect(&path).unwrap();
    first.write_all(b"1").unwrap();
    received.recv_timeout(Duration::from_secs(5)).unwrap();
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"2").unwrap();
    received.recv_timeout(Duration::from_secs(5)).unwrap();
    host.write(b"x");
    let mut byte = [0; 1];
    second.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    assert_eq!(
        first.read(&mut byte).unwrap(),
        0,
        "the old client is closed"
    );
    drop(host);
    assert!(!path.exists());
}

#[test]
fn queue_keeps_the_newest_and_counts_the_rest() {
    let (host, ..) = socket_host("full");
    host.write(&vec![1; QUEUE_LIMIT]);
    host.write(&[2; 10]);
    assert_eq!(host.lost_bytes(), 10);
    assert_eq!(host.shared.lock().queue.back(), Some(&2));
}

fn output_host(target: SerialTarget) -> SerialHost {
    let mut host = SerialHost::new(target, Arc::new(|_: &[u8]| {}));
    host.activate(false).unwrap();
    host
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("serial-{name}-{}", std::process::id()))
}

#[test]
fn file_is_truncated_and_has_everything_when_the_host_is_gone() {
    let path = scratch("file");
    std::fs::write(&path, "old old old").unwrap();
    let host = output_host(SerialTarget::File(path.clone()));
    host.write(b"one ");
    host.write(b"two");
    drop(host);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn pipe_that_nobody_empties_holds_up_nobody() {
    let path = scratch("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader_path = path.clone();
    let reader = std::thread::spawn(move || File::open(reader_path).unwrap());
    let host = output_host(SerialTarget::File(path.clone()));
    let mut reader = reader.join().unwrap();
    let before = Instant::now();
    for _ in 0..4 {
        host.write(&vec![b'x'; 64 << 10]);
    }
    assert!(
        before.elapsed() < Duration::from_millis(400),
        "{:?}",
        before.elapsed()
    );
    let mut all = vec![0; 4 * (64 << 10)];
    reader.read_exact(&mut all).unwrap();
    drop(host);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn file_where_the_socket_should_be_is_left_alone() {
    let path = scratch("precious");
    std::fs::write(&path, "precious").unwrap();
    let target = SerialTarget::Socket(path.clone());
    let mut host = SerialHost::new(target, Arc::new(|_: &[u8]| {}));
    let error = host.activate(false).unwrap_err();
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    drop(host);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn socket_that_a_peer_put_there_since_stays() {
    let path = scratch("taken-over");
    let host = output_host(SerialTarget::Socket(path.clone()));
    std::fs::remove_file(&path).unwrap();
    let peer = output_host(SerialTarget::Socket(path.clone()));
    drop(host);
    assert!(path.exists());
    UnixStream::connect(&path).unwrap();
    drop(peer);
    assert!(!path.exists());
}

/// A console whose machine refuses every second input.
fn console(target: SerialTarget) -> (SerialHost, mpsc::Receiver<VirtioInput>) {
    let (sender, receiver) = mpsc::channel();
    let (sender, count) = (Mutex::new(sender), atomic::AtomicU32::new(0));
    let offer: Offer = Arc::new(move |input| {
        let refused = count
            .fetch_add(1, atomic::Ordering::Relaxed)
            .is_multiple_of(2);
        !refused && sender.lock().unwrap().send(input).is_ok()
    });
    let mut host = SerialHost::for_console(target, offer);
    assert_eq!(host.pty_path(), None);
    host.activate(false).unwrap();
    (host, receiver)
}

/// Somebody who has a pseudoterminal open; not as the terminal that controls this process.
fn attach(host: &SerialHost) -> File {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = host.pty_path().unwrap();
    File::from(rustix::fs::open(path, flags, Mode::empty()).unwrap())
}

#[test]
fn pty_is_raw_and_what_was_written_before_waits_for_its_user() {
    let (host, inputs) = console(SerialTarget::Pty);
    host.write(b"early\n");
    for _ in 0..2 {
        // A user who goes ends nothing.
        let mut user = attach(&host);
        host.write(b"late\n");
        let mut found = [0; 6];
        user.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"early\n");
        let mut found = [0; 5];
        user.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"late\n", "no carriage return is put in");
        user.write_all(b"\x03\x04\r").unwrap();
        let typed = VirtioInput::ConsoleInput(Payload::from(b"\x03\x04\r".to_vec()));
        assert_eq!(inputs.recv_timeout(PATIENCE).unwrap(), typed);
        drop(user);
        host.write(b"early\n");
    }
}

#[test]
fn pty_that_nobody_reads_holds_up_nobody() {
    let (host, _inputs) = console(SerialTarget::Pty);
    let before = Instant::now();
    for _ in 0..40 {
        host.write(&vec![b'x'; 32 << 10]);
    }
    assert!(before.elapsed() < Duration::from_millis(400));
    assert!(host.lost_bytes() > 0);
    let path = host.pty_path().unwrap().to_owned();
    let before = Instant::now();
    drop(host);
    assert!(before.elapsed() < Duration::from_millis(300));
    let deadline = Instant::now() + PATIENCE;
    while path.exists() {
        assert!(
            Instant::now() < deadline,
            "{} is still there",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn guest_is_told_the_size_of_the_pty_as_it_changes() {
    let (host, inputs) = console(SerialTarget::Pty);
    let user = attach(&host);
    for (columns, rows) in [(80, 25), (132, 50)] {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&user, size).unwrap();
        let expected = VirtioInput::ConsoleResize { columns, rows };
        assert_eq!(inputs.recv_timeout(PATIENCE).unwrap(), expected);
    }
}

#[test]
fn console_input_that_is_refused_is_offered_again() {
    let path = scratch("console");
    let (host, inputs) = console(SerialTarget::Socket(path.clone()));
    let mut client = UnixStream::connect(&path).unwrap();
    let sent: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    client.write_all(&sent).unwrap();
    let mut found: Vec<u8> = Vec::new();
    while found.len() < sent.len() {
        let VirtioInput::ConsoleInput(bytes) = inputs.recv_timeout(PATIENCE).unwrap() else {
            panic!("something else");
        };
        found.extend(&bytes[..]);
    }
    assert!(found == sent);
    drop(host);
}

fn under(target: SerialTarget, permit: &Permit) -> SerialHost {
    let host = SerialHost::new(target, Arc::new(|_: &[u8]| {})).under(permit.clone());
    let mut host = host;
    host.activate(false).unwrap();
    host
}

#[test]
fn output_waits_for_a_permit_and_a_fenced_machine_s_is_thrown_away() {
    let path = scratch("permit");
    let permit = Permit::unlimited();
    let host = under(SerialTarget::File(path.clone()), &permit);
    let found = || std::fs::read(&path).unwrap();
    let wait_for = |expected: &[u8]| {
        let deadline = Instant::now() + PATIENCE;
        while found() != expected {
            assert!(Instant::now() < deadline, "{:?}", found());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    host.write(b"a");
    assert_eq!(found(), b"a");
    permit.set(ft::time::HostTime(0));
    host.write(b"b");
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(found(), b"a");
    permit.set(permit.now().plus_ms(60_000));
    wait_for(b"ab");
    permit.set(ft::time::HostTime(0));
    host.write(b"c");
    host.discard();
    permit.set(ft::time::HostTime(u64::MAX));
    host.write(b"d");
    assert_eq!(host.lost_bytes(), 2);
    drop(host);
    assert_eq!(found(), b"ab");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn output_of_a_machine_that_was_handed_over_needs_no_permit() {
    let path = scratch("handed");
    let permit = Permit::unlimited();
    permit.set(ft::time::HostTime(0));
    let host = under(SerialTarget::File(path.clone()), &permit);
    host.write(b"left");
    host.let_go();
    drop(host);
    assert_eq!(std::fs::read(&path).unwrap(), b"left");
    // Who goes on with the same file keeps it.
    let mut next = SerialHost::new(SerialTarget::File(path.clone()), Arc::new(|_: &[u8]| {}));
    next.activate(true).unwrap();
    next.write(b" and gone on");
    assert_eq!(std::fs::read(&path).unwrap(), b"left and gone on");
    std::fs::remove_file(path).unwrap();
}
