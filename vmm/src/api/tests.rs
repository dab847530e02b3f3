//! Tests of the API server over a real socket, byte by byte.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use api_client::client::Client;
use serde_json::json;

use super::state::{Call, Phase, Protection, permit};
use super::*;
use crate::config::Endpoint;

/// Answers from a script: pings say their number, `vm.info` is refused, `vm.counters` is not ASCII.
#[derive(Default)]
struct Fake {
    seen: Mutex<Vec<Request>>,
    /// Held open by a test while `vm.pause` is to hang.
    gate: Mutex<()>,
}

impl Requests for Fake {
    fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        self.seen.lock().unwrap().push(request.clone());
        match request {
            Request::VmmPing => Ok(Answer::Json(json!({"pid": 7}))),
            Request::VmCounters => Ok(Answer::Json(json!({"n\u{e9}": {}}))),
            Request::VmInfo => {
                permit(Call::VmInfo, Phase::Nothing, Protection::None).map(|()| Answer::Empty)
            }
            Request::VmPause => {
                drop(self.gate.lock().unwrap());
                Ok(Answer::Empty)
            }
            Request::Unsupported(name) => Err(ApiError::unsupported(name)),
            _ => Ok(Answer::Empty),
        }
    }
}

struct Bench {
    path: PathBuf,
    fake: Arc<Fake>,
    server: Option<ApiServer>,
}

impl Bench {
    fn new() -> Self {
        let path = scratch();
        let fake = Arc::new(Fake::default());
        let socket = ApiSocket::open(&Endpoint::Path(path.clone())).unwrap();
        let server = ApiServer::start(socket, fake.clone()).unwrap();
        Self {
            path,
            fake,
            server: Some(server),
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.server.take());
        std::fs::remove_file(lock_path(&self.path)).unwrap();
    }
}

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("api-{}-{unique}.sock", std::process::id()))
}

fn lock_path(path: &std::path::Path) -> PathBuf {
    PathBuf::from(format!("{}.lock", path.display()))
}

const HEAD: &str = "Server: Cloud Hypervisor API\r\nConnection: keep-alive\r\n";

fn with_body(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\n{HEAD}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn without_body(status: u16) -> String {
    format!("HTTP/1.1 {status} \r\n{HEAD}\r\n")
}

/// Sends `request` and expects exactly `expected` back.
fn exchange(stream: &mut UnixStream, request: &str, expected: &str) {
    stream.write_all(request.as_bytes()).unwrap();
    expect(stream, request, expected);
}

fn expect(stream: &mut UnixStream, request: &str, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected, "{request:?}");
}

#[test]
fn responses_are_exact_and_the_connection_stays_open() {
    let bench = Bench::new();
    let mut stream = bench.connect();
    let missing = r#"["Error from API","The VM info is not available","VM is not created"]"#;
    let eof = r#"["Failed to deserialize JSON","EOF while parsing an object at line 1 column 1"]"#;
    let table = [
        (
            "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n",
            with_body(200, "{\"pid\":7}"),
        ),
        (
            "GET http://h/api/v1/vmm.ping HTTP/1.0\r\n\r\n",
            with_body(200, "{\"pid\":7}"),
        ),
        (
            "PUT /api/v1/vm.boot HTTP/1.1\r\nConnection: close\r\n\r\n",
            without_body(204),
        ),
        (
            "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            without_body(204),
        ),
        (
            "PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n",
            with_body(200, ""),
        ),
        (
            "GET /api/v1/vm.info HTTP/1.1\r\n\r\n",
            with_body(404, missing),
        ),
        (
            "GET /api/v1/vm.counters HTTP/1.1\r\n\r\n",
            with_body(200, "{\"n\\u00e9\":{}}"),
        ),
        (
            "GET /api/v1/vm.nothing HTTP/1.1\r\n\r\n",
            with_body(404, "[\"Not Found\"]"),
        ),
        (
            "GET /api/v1/vm.boot HTTP/1.1\r\n\r\n",
            with_body(400, "[\"Bad Request\"]"),
        ),
        ("PATCH /api/v1/vm.boot HTTP/1.1\r\n\r\n", without_body(400)),
        ("PUT /api/v1/vm.create HTTP/1.1\r\n\r\n", without_body(400)),
        (
            "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
            without_body(204),
        ),
        (
            "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 1\r\n\r\n{",
            with_body(400, eof),
        ),
        (
            "PUT /api/v1/vm.resize HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
            with_body(
                501,
                r#"["Error from API","vm.resize is not supported by this build"]"#,
            ),
        ),
    ];
    for (request, expected) in &table {
        exchange(&mut stream, request, expected);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let bench = Bench::new();
    let mut stream = bench.connect();
    let request = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n\
                   PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}\
                   GET /api/v1/x HTTP/1.1\r\n\r\n";
    let expected =
        with_body(200, "{\"pid\":7}") + &without_body(204) + &with_body(404, "[\"Not Found\"]");
    exchange(&mut stream, request, &expected);
}

#[test]
fn a_client_that_waits_is_asked_for_its_body() {
    let bench = Bench::new();
    let mut stream = bench.connect();
    let head = "PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\n\
                Content-Length: 2\r\n\r\n";
    exchange(&mut stream, head, &without_body(100));
    exchange(&mut stream, "{}", &without_body(204));
}

#[test]
fn requests_may_come_byte_by_byte() {
    let bench = Bench::new();
    let mut stream = bench.connect();
    let request = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    for byte in request.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    expect(&mut stream, request, &without_body(204));
    assert_eq!(bench.fake.seen.lock().unwrap().len(), 1);
}

#[test]
fn what_is_no_request_is_answered_with_400_and_the_connection_ends() {
    for request in [
        "POST /api/v1/vm.boot HTTP/1.1\r\n\r\n",
        "PUT /api/v1/vm.boot HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 4194305\r\n\r\n",
        "\u{1}\r\n\r\n",
    ] {
        let bench = Bench::new();
        let mut stream = bench.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 \r\n"),
            "{request:?}: {answer}"
        );
        assert!(answer.contains("\"error\""), "{request:?}: {answer}");
        assert!(bench.fake.seen.lock().unwrap().is_empty());
    }
}

#[test]
fn descriptors_that_no_call_takes_are_refused_and_closed() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    let bench = Bench::new();
    let mut stream = bench.connect();
    let (mut kept, given) = UnixStream::pair().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [given.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let request = b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    sendmsg(
        &stream,
        &[IoSlice::new(request)],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    let text = r#"["Bad Request","1 file descriptors came with a request that takes 0"]"#;
    expect(&mut stream, "ping with a descriptor", &with_body(400, text));
    drop(given);
    // The end of the stream is seen only when the server has no duplicate left.
    kept.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    exchange(
        &mut stream,
        "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n",
        &with_body(200, "{\"pid\":7}"),
    );
}

#[test]
fn the_eleventh_connection_is_told_so_and_a_place_is_free_again_later() {
    let bench = Bench::new();
    let mut ten: Vec<UnixStream> = (0..10).map(|_| bench.connect()).collect();
    let ping = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    for stream in &mut ten {
        exchange(stream, ping, &with_body(200, "{\"pid\":7}"));
    }
    let mut answer = String::new();
    bench.connect().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 \r\n"), "{answer}");
    assert!(answer.contains("Too many open connections"), "{answer}");
    drop(ten.pop());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut stream = bench.connect();
        // A refused connection may be closed before the request is written.
        let sent = stream.write_all(ping.as_bytes());
        let mut status = [0; 12];
        if sent.is_ok() && stream.read_exact(&mut status).is_ok() && &status == b"HTTP/1.1 200" {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no place became free");
    }
}

#[test]
fn a_slow_call_does_not_hold_up_others() {
    let bench = Bench::new();
    let held = bench.fake.gate.lock().unwrap();
    let mut slow = bench.connect();
    slow.write_all(b"PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n")
        .unwrap();
    exchange(
        &mut bench.connect(),
        "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n",
        &with_body(200, "{\"pid\":7}"),
    );
    drop(held);
    expect(&mut slow, "pause", &without_body(204));
}

#[test]
fn stopping_lets_the_answer_under_way_out_and_removes_the_socket() {
    let mut bench = Bench::new();
    let fake = bench.fake.clone();
    let held = fake.gate.lock().unwrap();
    let mut slow = bench.connect();
    let mut idle = bench.connect();
    slow.write_all(b"PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n")
        .unwrap();
    while fake.seen.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    let server = bench.server.take().unwrap();
    let (done, stopped) = mpsc::channel();
    let stopping = std::thread::spawn(move || {
        server.stop();
        done.send(()).unwrap();
    });
    assert!(
        stopped.recv_timeout(Duration::from_millis(50)).is_err(),
        "did not wait"
    );
    drop(held);
    stopped.recv_timeout(Duration::from_secs(10)).unwrap();
    stopping.join().unwrap();
    expect(&mut slow, "pause", &without_body(204));
    assert_eq!(slow.read(&mut [0]).unwrap(), 0);
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    assert!(!bench.path.exists());
    assert!(lock_path(&bench.path).exists());
}

#[test]
fn a_second_instance_is_refused_and_a_stale_socket_is_replaced() {
    let bench = Bench::new();
    let endpoint = Endpoint::Path(bench.path.clone());
    let error = ApiSocket::open(&endpoint).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("already in use by another running instance"),
        "{error}"
    );
    let mode = std::fs::metadata(&bench.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");

    let stale = scratch();
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    drop(ApiSocket::open(&Endpoint::Path(stale.clone())).unwrap());
    assert!(!stale.exists());
    std::fs::remove_file(lock_path(&stale)).unwrap();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let path = scratch();
    std::fs::write(&path, "precious").unwrap();
    let error = ApiSocket::open(&Endpoint::Path(path.clone())).unwrap_err();
    assert!(error.to_string().contains("not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(lock_path(&path)).unwrap();
    let nowhere = Endpoint::Path("/nonexistent/api.sock".into());
    let error = ApiSocket::open(&nowhere).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/api.sock"),
        "{error}"
    );
}

#[test]
fn a_socket_that_somebody_else_put_there_is_not_removed() {
    let path = scratch();
    let socket = ApiSocket::open(&Endpoint::Path(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(lock_path(&path)).unwrap();
}

#[test]
fn an_inherited_listening_socket_serves_and_stays() {
    let path = scratch();
    let listener = UnixListener::bind(&path).unwrap();
    let socket = ApiSocket::open(&Endpoint::Fd(listener.as_raw_fd())).unwrap();
    let server = ApiServer::start(socket, Arc::new(Fake::default())).unwrap();
    let mut client = Client::connect(&path).unwrap();
    assert_eq!(client.get_json("vmm.ping").unwrap(), json!({"pid": 7}));
    server.stop();
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    let error = ApiSocket::open(&Endpoint::Fd(one.as_raw_fd())).unwrap_err();
    assert!(
        error.to_string().contains("not a listening socket"),
        "{error}"
    );
}

#[test]
fn the_client_of_this_project_understands_the_server() {
    let bench = Bench::new();
    let mut client = Client::connect(&bench.path).unwrap();
    assert_eq!(client.put("vm.boot", None).unwrap(), None);
    assert_eq!(
        client.put("vmm.shutdown", None).unwrap().as_deref(),
        Some("")
    );
    assert_eq!(
        client.get_json("vm.counters").unwrap(),
        json!({"n\u{e9}": {}})
    );
    let error = client.get("vm.info").unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert_eq!(error.messages().last(), Some(&"VM is not created"));
    let start = json!({"destination_url": "tcp:127.0.0.1:1", "fence": "none"});
    client.put_json("vm.ft-start", &start).unwrap();
    let seen = bench.fake.seen.lock().unwrap();
    assert!(matches!(seen.last(), Some(Request::FtStart(_))), "{seen:?}");
}
