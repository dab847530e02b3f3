//! The event monitor: every change of the VM as a JSON document for whoever watches.
//!
//! Each event is pretty-printed and followed by an empty line, in the field order that existing
//! parsers expect: `timestamp` (since the process started), `source`, `event`, `properties`.
//! A thread of its own writes, so a watcher that is slow or gone never holds anyone up.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use serde::Serialize;

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
}

/// Takes events; without a file they go nowhere.
pub struct EventMonitor {
    start: Instant,
    sender: Mutex<Option<Sender<Record>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl EventMonitor {
    /// A monitor that nobody watches.
    pub fn silent(start: Instant) -> Self {
        Self {
            start,
            sender: Mutex::new(None),
            writer: Mutex::new(None),
        }
    }

    /// Opens `path` for writing, truncated, without waiting; a FIFO must have its reader.
    ///
    /// # Errors
    /// What the host says.
    pub fn open(path: &Path) -> std::io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
    }

    /// A monitor that writes to `file`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn writing(start: Instant, file: File) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("event-monitor".to_owned())
            .spawn(move || write_all(file, &receiver))?;
        Ok(Self {
            start,
            sender: Mutex::new(Some(sender)),
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Something happened.
    pub fn event(&self, source: &str, event: &str, properties: Vec<(String, String)>) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            let record = Record {
                since_start: self.start.elapsed(),
                source: source.to_owned(),
                event: event.to_owned(),
                properties,
            };
            // A writer that has given up has said so.
            let _ = sender.send(record);
        }
    }

    /// Writes what is still to be written; later events go nowhere.
    pub fn close(&self) {
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            // A panic in it would have ended the process.
            let _ = writer.join();
        }
    }
}

fn write_all(mut file: File, receiver: &Receiver<Record>) {
    for record in receiver {
        if let Err(error) = file.write_all(&format(&record)) {
            log::warn!("event monitor: event {} is lost: {error}", record.event);
        }
    }
}

fn format(record: &Record) -> Vec<u8> {
    let properties = (!record.properties.is_empty()).then(|| {
        let pairs = record.properties.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect()
    });
    let event = Event {
        timestamp: Timestamp {
            secs: record.since_start.as_secs(),
            nanos: record.since_start.subsec_nanos(),
        },
        source: &record.source,
        event: &record.event,
        properties,
    };
    let mut bytes = serde_json::to_vec_pretty(&event)
        .expect("an event has only strings and numbers, and memory is the writer");
    bytes.extend(b"\n\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_pretty_printed_in_order_with_an_empty_line_behind_each() {
        let path = std::env::temp_dir().join(format!("events-{}", std::process::id()));
        let file = EventMonitor::open(&path).unwrap();
        let monitor = EventMonitor::writing(Instant::now(), file).unwrap();
        monitor.event("vmm", "starting", Vec::new());
        monitor.event(
            "vm",
            "device-removed",
            vec![("id".to_owned(), "_disk0".to_owned())],
        );
        monitor.close();
        monitor.event("vmm", "shutdown", Vec::new());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 2, "{text}");
        let fields = ["\"timestamp\"", "\"source\"", "\"event\"", "\"properties\""];
        let places = fields.map(|field| events[1].find(field).unwrap());
        assert!(places.is_sorted(), "{text}");
        assert!(events[0].contains("\"properties\": null"));
        assert!(events[1].contains("\"id\": \"_disk0\""));
    }
}
