//! Tests of the event monitor with watchers that are prompt, slow, stuck, and gone.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use serde_json::Value;

use super::*;

/// A path that no other test uses, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("events-{}-{unique}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// A FIFO with a reader that does not wait.
    fn fifo() -> (Self, File) {
        let place = Self::new();
        nix::unistd::mkfifo(&place.0, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = place.reader();
        (place, reader)
    }

    fn reader(&self) -> File {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(&self.0).unwrap()
    }

    fn monitor(&self) -> EventMonitor {
        EventMonitor::writing(Instant::now(), EventMonitor::open(&self.0).unwrap()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn numbered(number: usize, length: usize) -> Vec<(String, String)> {
    vec![
        ("number".to_owned(), number.to_string()),
        ("filling".to_owned(), "x".repeat(length)),
    ]
}

/// Every document of `text`; each must be whole.
fn documents(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with("\n\n"), "cut short");
    let parts = text.split_terminator("\n\n");
    parts
        .map(|part| serde_json::from_str(part).unwrap_or_else(|error| panic!("{error}: {part}")))
        .collect()
}

fn lost(document: &Value) -> u64 {
    let text = document["properties"][LOST_EVENTS].as_str();
    text.map_or(0, |text| text.parse().unwrap())
}

/// Reads until the writer has closed its end; counts documents on the way.
fn drain(mut reader: impl Read, seen: &AtomicUsize) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return String::from_utf8(text).unwrap(),
            Ok(count) => {
                let from = text.len().saturating_sub(1);
                text.extend(&buffer[..count]);
                let ends = text[from..].windows(2).filter(|pair| *pair == b"\n\n");
                seen.fetch_add(ends.count(), Ordering::Release);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn until(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn events_are_pretty_printed_in_order_with_an_empty_line_behind_each() {
    let place = Place::new();
    let monitor = place.monitor();
    monitor.event("vmm", "starting", Vec::new());
    let removed = vec![("id".to_owned(), "_disk0".to_owned())];
    monitor.event("vm", "device-removed", removed);
    monitor.close();
    monitor.event("vmm", "shutdown", Vec::new());
    let text = std::fs::read_to_string(&place.0).unwrap();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 2, "{text}");
    let fields = ["\"timestamp\"", "\"source\"", "\"event\"", "\"properties\""];
    let places = fields.map(|field| events[1].find(field).unwrap());
    assert!(places.is_sorted(), "{text}");
    assert!(events[0].contains("\"properties\": null"));
    assert!(events[1].contains("\"id\": \"_disk0\""));
    assert!(!text.contains(LOST_EVENTS));
}

#[test]
fn a_slow_watcher_holds_nobody_up_and_reads_whole_documents_and_how_many_it_missed() {
    // Longer and shorter than PIPE_BUF; the FIFO holds 64 KiB, so it is full in the middle of one.
    const LENGTHS: [usize; 4] = [10, 9_000, 300, 5_000];
    const EVENTS: usize = QUEUE_LIMIT * 3;
    let (place, reader) = Place::fifo();
    let monitor = place.monitor();
    let began = Instant::now();
    for number in 0..EVENTS {
        let length = LENGTHS[number % LENGTHS.len()];
        monitor.event("vm", "test", numbered(number, length));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "it waited");

    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let watcher = std::thread::spawn(move || drain(reader, &count));
    until("the queue's draining", || {
        seen.load(Ordering::Acquire) >= QUEUE_LIMIT
    });
    monitor.event("vm", "last", numbered(EVENTS, 0));
    monitor.close();
    drop(monitor);

    let documents = documents(&watcher.join().unwrap());
    let mut expected = 0;
    let mut missed = 0;
    for document in &documents {
        missed += lost(document);
        expected += lost(document);
        assert_eq!(document["properties"]["number"], expected.to_string());
        expected += 1;
    }
    assert!(missed > 0, "nothing was lost: the test shows nothing");
    assert_eq!(expected, EVENTS as u64 + 1);
    assert_eq!(documents.last().unwrap()["event"], "last");
}

#[test]
fn closing_does_not_wait_for_a_watcher_that_takes_nothing() {
    let (place, reader) = Place::fifo();
    let (pipe_reader, pipe_writer) = std::io::pipe().unwrap();
    // The second descriptor waits for its reader, as an inherited one may.
    let waiting = File::from(OwnedFd::from(pipe_writer));
    let waiting = EventMonitor::writing(Instant::now(), waiting).unwrap();
    for monitor in [place.monitor(), waiting] {
        for number in 0..100 {
            monitor.event("vm", "test", numbered(number, 2_000));
        }
        let began = Instant::now();
        monitor.close();
        let took = began.elapsed();
        assert!(took < CLOSE_TIMEOUT * 4, "closing took {took:?}");
    }
    drop((reader, pipe_reader));
}

#[test]
fn what_nobody_read_is_said_when_somebody_does() {
    const UNREAD: usize = 8;
    let (place, reader) = Place::fifo();
    let writer = Writer::new(EventMonitor::open(&place.0).unwrap(), Closing::default());
    // Takes an event only when the one before has been dealt with.
    let (sender, receiver) = mpsc::sync_channel(0);
    let writing = std::thread::spawn(move || write_all(writer, &receiver));
    drop(reader);
    let record = |event: &str, number| Record {
        since_start: Duration::ZERO,
        source: "vm".to_owned(),
        event: event.to_owned(),
        properties: numbered(number, 5_000),
        lost_before: 0,
    };
    for number in 0..UNREAD {
        sender.send(record("unread", number)).unwrap();
    }
    // The last of them may meet this reader.
    let reader = place.reader();
    sender.send(record("read", UNREAD)).unwrap();
    drop(sender);
    writing.join().unwrap();
    let documents = documents(&drain(reader, &AtomicUsize::new(0)));
    let missed: u64 = documents.iter().map(lost).sum();
    assert!(missed >= UNREAD as u64 - 1, "{documents:?}");
    assert_eq!(documents.len() as u64 + missed, UNREAD as u64 + 1);
    assert_eq!(documents.last().unwrap()["event"], "read");
}

#[test]
fn a_place_that_cannot_be_opened_is_named() {
    let error = EventMonitor::open(Path::new("/nonexistent/events")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/events"), "{error}");
}
