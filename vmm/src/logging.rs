//! The log for people: one line each, to standard error or a file.
//!
//! `cloud-hypervisor: <seconds since start>: <thread> LEVEL:file:line -- message`

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

/// The log's file cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the log file {path}", path = path.display())]
pub struct LogFileError {
    /// Its path.
    pub path: PathBuf,
    /// What the host said.
    #[source]
    pub source: std::io::Error,
}

struct Logger {
    start: Instant,
    output: Mutex<Box<dyn Write + Send>>,
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let thread = std::thread::current();
        let line = format!(
            "cloud-hypervisor: {:.6}s: <{}> {}:{}:{} -- {}\n",
            self.start.elapsed().as_secs_f64(),
            thread.name().unwrap_or("anonymous"),
            record.level(),
            record.file().unwrap_or("unknown"),
            record.line().unwrap_or(0),
            record.args()
        );
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nowhere left to say that the log cannot be written.
        let _ = output.write_all(line.as_bytes());
    }

    fn flush(&self) {
        let _ = self
            .output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush();
    }
}

/// Starts logging: `verbosity` is the number of `-v` (none: warnings).
///
/// # Errors
/// When the file cannot be made.
pub fn start(start: Instant, verbosity: u8, file: Option<&Path>) -> Result<(), LogFileError> {
    let failed = |path: &Path, source| LogFileError {
        path: path.to_owned(),
        source,
    };
    let output: Box<dyn Write + Send> = match file {
        Some(path) => Box::new(File::create(path).map_err(|source| failed(path, source))?),
        None => Box::new(std::io::stderr()),
    };
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    if log::set_boxed_logger(Box::new(Logger {
        start,
        output: Mutex::new(output),
    }))
    .is_ok()
    {
        log::set_max_level(level);
    }
    Ok(())
}
