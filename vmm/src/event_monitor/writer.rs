//! Documents into a file, a FIFO or a socket: whole ones or none.
//!
//! A FIFO that is nearly full takes the beginning of a document that is longer than `PIPE_BUF`
//! (4096 bytes; shorter ones go whole or not at all). The rest is then written as soon as there is
//! room, before anything else. Two things can still cut a document short: the file breaks in the
//! middle of it, or the process ends while the watcher takes nothing. After the first, a file is
//! cut back to where the document began, and on anything else an empty line sets the next one
//! apart.

use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often a waiting writer looks whether it is to end.
const LOOK_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Wait after a file said that it takes bytes and then took none.
const RETRY_WAIT: Duration = Duration::from_millis(1);
/// What stands between documents.
const SEPARATOR: &[u8] = b"\n\n";

/// Tells a writer until when it may wait.
#[derive(Clone, Default)]
pub(super) struct Closing(Arc<Mutex<Option<Instant>>>);

impl Closing {
    /// The writer may wait for so long, and no longer.
    pub(super) fn begin(&self, within: Duration) {
        let mut deadline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *deadline = Some(Instant::now() + within);
    }

    fn is_over(&self) -> bool {
        let deadline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Writes documents.
pub(super) struct Writer {
    file: File,
    closing: Closing,
    /// The last document was cut short.
    torn: bool,
}

impl Writer {
    pub(super) fn new(file: File, closing: Closing) -> Self {
        Self {
            file,
            closing,
            torn: false,
        }
    }

    /// Writes a document, and waits for as long as it takes.
    ///
    /// # Errors
    /// What the host says, or that the time to wait is over.
    pub(super) fn write(&mut self, document: &[u8]) -> std::io::Result<()> {
        if self.torn {
            self.write_part(SEPARATOR).map_err(|(_, error)| error)?;
            self.torn = false;
        }
        self.write_part(document).map_err(|(done, error)| {
            self.torn = done > 0 && !self.take_back(done);
            error
        })
    }

    /// Writes all of `bytes`; an error comes with how many were written.
    fn write_part(&mut self, bytes: &[u8]) -> Result<(), (usize, std::io::Error)> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => return Err((done, ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.closing.is_over() {
                        return Err((done, ErrorKind::TimedOut.into()));
                    }
                    self.wait().map_err(|error| (done, error))?;
                }
                Err(error) => return Err((done, error)),
            }
        }
        Ok(())
    }

    /// Waits a little for the file to take bytes again.
    fn wait(&self) -> std::io::Result<()> {
        let mut entry = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut entry, Some(&LOOK_INTERVAL)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(RETRY_WAIT);
        Ok(())
    }

    /// Takes the last `count` bytes off a regular file; false when it is none, or somebody else
    /// has written since.
    fn take_back(&mut self, count: usize) -> bool {
        let Ok(metadata) = self.file.metadata() else {
            return false;
        };
        let Ok(end) = self.file.stream_position() else {
            return false;
        };
        let Some(begin) = end.checked_sub(count as u64) else {
            return false;
        };
        metadata.is_file()
            && metadata.len() == end
            && self.file.set_len(begin).is_ok()
            && self.file.seek(SeekFrom::Start(begin)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_document_that_a_file_had_no_room_for_is_taken_back() {
        let path = std::env::temp_dir().join(format!("documents-{}", std::process::id()));
        let mut writer = Writer::new(File::create(&path).unwrap(), Closing::default());
        writer.write(b"{}\n\n").unwrap();
        writer.write(b"[1, 2").unwrap();
        assert!(writer.take_back(5));
        writer.write(b"[]\n\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n\n[]\n\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn after_a_document_that_was_cut_short_the_next_one_stands_apart() {
        let (mut reader, end) = std::io::pipe().unwrap();
        let end = OwnedFd::from(end);
        rustix::io::ioctl_fionbio(&end, true).unwrap();
        let closing = Closing::default();
        let mut writer = Writer::new(File::from(end), closing.clone());
        closing.begin(Duration::ZERO);
        // More than a pipe holds.
        let error = writer.write(&[b'x'; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let mut taken = vec![0; 1 << 20];
        let count = reader.read(&mut taken).unwrap();
        assert!(taken[..count].iter().all(|byte| *byte == b'x'));
        writer.write(b"{}\n\n").unwrap();
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.trim_start_matches('x'), "\n\n{}\n\n");
    }
}
