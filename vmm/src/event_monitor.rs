//! The event monitor: every change of the VM as a JSON document for whoever watches.
//!
//! Each event is pretty-printed and followed by an empty line, in the field order that existing
//! parsers expect: `timestamp` (since the process started), `source`, `event`, `properties`.
//!
//! ```text
//! event() ──try──▶ queue (QUEUE_LIMIT events) ──▶ thread ──▶ writer: whole documents
//!           full: lost, counted
//! ```
//!
//! Whoever reports an event never waits. A thread of its own writes, and a watcher that is slow
//! holds up only that thread; what the queue has no room for is lost whole. The next document that
//! is written says how many came to nothing before it, in the property `lost_events`.

mod writer;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use writer::{Closing, Writer};

/// Events that wait to be written at most: some seconds of the busiest VM there can be, which
/// reports one with each epoch.
const QUEUE_LIMIT: usize = 1024;
/// How long closing waits for the watcher to take what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the log is silent about further losses.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// Property that says how many events before this one were lost.
const LOST_EVENTS: &str = "lost_events";

/// The place of the events cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the event monitor {path}", path = path.display())]
pub struct OpenError {
    /// Its path.
    pub path: PathBuf,
    /// What the host said.
    #[source]
    pub source: std::io::Error,
}

#[derive(Serialize)]
struct Timestamp {
    secs: u64,
    nanos: u32,
}

#[derive(Serialize)]
struct Event<'a> {
    timestamp: Timestamp,
    source: &'a str,
    event: &'a str,
    properties: Option<serde_json::Map<String, serde_json::Value>>,
}

struct Record {
    since_start: Duration,
    source: String,
    event: String,
    properties: Vec<(String, String)>,
    /// Events that were lost since the one before this.
    lost_before: u64,
}

/// What reporters share.
struct Queue {
    sender: SyncSender<Record>,
    lost: u64,
    complaints: Complaints,
}

/// The thread that writes, and how it is ended.
struct Writing {
    thread: JoinHandle<()>,
    closing: Closing,
    done: Receiver<()>,
}

/// Takes events; without a file they go nowhere.
pub struct EventMonitor {
    start: Instant,
    queue: Mutex<Option<Queue>>,
    writing: Mutex<Option<Writing>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventMonitor {
    /// A monitor that nobody watches.
    pub fn silent(start: Instant) -> Self {
        Self {
            start,
            queue: Mutex::new(None),
            writing: Mutex::new(None),
        }
    }

    /// Opens `path` for writing, truncated, without waiting; a FIFO must have its reader.
    ///
    /// # Errors
    /// What the host says.
    pub fn open(path: &Path) -> Result<File, OpenError> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| OpenError {
                path: path.to_owned(),
                source,
            })
    }

    /// A monitor that writes to `file`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn writing(start: Instant, file: File) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE_LIMIT);
        let (ended, done) = mpsc::channel();
        let closing = Closing::default();
        let writer = Writer::new(file, closing.clone());
        let thread = std::thread::Builder::new()
            .name("event-monitor".to_owned())
            .spawn(move || {
                write_all(writer, &receiver);
                // Nobody listens any more when closing has not waited for this.
                let _ = ended.send(());
            })?;
        let queue = Queue {
            sender,
            lost: 0,
            complaints: Complaints::default(),
        };
        let writing = Writing {
            thread,
            closing,
            done,
        };
        Ok(Self {
            start,
            queue: Mutex::new(Some(queue)),
            writing: Mutex::new(Some(writing)),
        })
    }

    /// Something happened. Never waits.
    pub fn event(&self, source: &str, event: &str, properties: Vec<(String, String)>) {
        let mut queue = lock(&self.queue);
        let Some(queue) = &mut *queue else { return };
        let record = Record {
            since_start: self.start.elapsed(),
            source: source.to_owned(),
            event: event.to_owned(),
            properties,
            lost_before: queue.lost,
        };
        match queue.sender.try_send(record) {
            Ok(()) => queue.lost = 0,
            Err(TrySendError::Full(_)) => {
                queue.lost += 1;
                queue.complaints.lost(1, &"the watcher is too slow");
            }
            // Only a panic ends the writer before its queue, and that ends the process.
            Err(TrySendError::Disconnected(_)) => queue.lost += 1,
        }
    }

    /// Writes what is still to be written, as far as the watcher takes it soon; later events go
    /// nowhere.
    pub fn close(&self) {
        let queue = lock(&self.queue).take();
        if let Some(mut queue) = queue {
            queue.complaints.say(&"the watcher is too slow");
        }
        let Some(writing) = lock(&self.writing).take() else {
            return;
        };
        writing.closing.begin(CLOSE_TIMEOUT);
        match writing.done.recv_timeout(CLOSE_TIMEOUT * 2) {
            // A panic in it would have ended the process.
            Ok(()) => drop(writing.thread.join()),
            // An inherited descriptor may wait for its reader whatever is asked of it. The thread
            // holds nothing that anyone needs.
            Err(_) => log::warn!("event monitor: the watcher takes nothing; events are lost"),
        }
    }
}

/// Says that events are lost: the first at once, then now and then how many it were.
#[derive(Default)]
struct Complaints {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn lost(&mut self, count: u64, why: &dyn std::fmt::Display) {
        self.unsaid += count;
        let silent = self.said.map(|said| said.elapsed());
        if silent.is_none_or(|silent| silent >= COMPLAINT_INTERVAL) {
            self.say(why);
        }
    }

    /// Says what has not been said yet.
    fn say(&mut self, why: &dyn std::fmt::Display) {
        if self.unsaid > 0 {
            log::warn!("event monitor: {} event(s) lost: {why}", self.unsaid);
            self.said = Some(Instant::now());
            self.unsaid = 0;
        }
    }
}

fn write_all(mut writer: Writer, receiver: &Receiver<Record>) {
    let mut lost = 0;
    let mut complaints = Complaints::default();
    let mut reason = String::new();
    for mut record in receiver {
        record.lost_before += lost;
        match writer.write(&format(&record)) {
            Ok(()) => lost = 0,
            Err(error) => {
                // The queue has counted those before this one already.
                lost = record.lost_before + 1;
                reason = error.to_string();
                complaints.lost(1, &reason);
            }
        }
    }
    complaints.say(&reason);
}

fn format(record: &Record) -> Vec<u8> {
    let mut properties = serde_json::Map::new();
    for (key, value) in &record.properties {
        properties.insert(key.clone(), value.clone().into());
    }
    if record.lost_before > 0 {
        let count = record.lost_before.to_string();
        properties.insert(LOST_EVENTS.to_owned(), count.into());
    }
    let event = Event {
        timestamp: Timestamp {
            secs: record.since_start.as_secs(),
            nanos: record.since_start.subsec_nanos(),
        },
        source: &record.source,
        event: &record.event,
        properties: (!properties.is_empty()).then_some(properties),
    };
    let mut bytes = serde_json::to_vec_pretty(&event)
        .expect("an event has only strings and numbers, and memory is the writer");
    bytes.extend(b"\n\n");
    bytes
}

#[cfg(test)]
mod tests;
