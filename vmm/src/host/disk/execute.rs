//! Carrying out one request of the device, and reporting what fails.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::{DiskImage, SECTOR_SIZE, check_range, check_writable};

/// A guest can make requests fail as often as it likes; one line in this time is enough.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports failures of one image, not too many of them, and knows of the one that spoils it.
#[derive(Debug)]
pub struct FailureLog {
    path: PathBuf,
    state: Mutex<Reported>,
    lossy: AtomicBool,
}

#[derive(Debug, Default)]
struct Reported {
    last: Option<Instant>,
    unsaid: u64,
}

impl FailureLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: Mutex::default(),
            lossy: AtomicBool::new(false),
        }
    }

    /// What was written behind the guest's back could not be made durable, and may be gone. A host
    /// says so once, and the next flush may succeed; the guest's must not, as it was told that all
    /// this is durable.
    pub fn lose(&self) {
        self.lossy.store(true, Ordering::Release);
    }

    /// Whether something was lost in that way.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lossy.load(Ordering::Acquire)
    }

    /// The image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reports a failure, unless there was one just before.
    pub fn note(&self, what: impl fmt::Display, error: &io::Error) {
        if let Some(unsaid) = self.may_say(Instant::now()) {
            let path = self.path.display();
            log::error!("disk {path}: {what} failed: {error}; {unsaid} failures were not shown");
        }
    }

    /// Whether something may be said now, and how much was not said before.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .last
            .is_some_and(|last| now.duration_since(last) < REPORT_INTERVAL)
        {
            state.unsaid += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

/// Carries out one request: reads give the bytes, others an empty payload. What fails is reported.
///
/// A discard lets the range read as zeroes, because what it holds must not depend on the host.
///
/// # Errors
/// The host failed, or the request is not one for this image.
pub fn execute(image: &dyn DiskImage, request: &BlockRequest) -> Result<Payload, BlockIoError> {
    carry_out(image, request).map_err(|error| failed(image, request, &error))
}

/// Reports that a request has failed; gives what the guest is told.
pub(super) fn failed(
    image: &dyn DiskImage,
    request: &BlockRequest,
    error: &io::Error,
) -> BlockIoError {
    let BlockRequest { sector, len, .. } = request;
    let operation = request.operation;
    let what = format_args!("{operation:?} of {len} bytes at sector {sector}");
    image.failures().note(what, error);
    BlockIoError::Io
}

/// The byte at which a request begins. Refuses one that is not for this image, and a flush of an
/// image that has lost something.
pub(super) fn check(image: &dyn DiskImage, request: &BlockRequest) -> io::Result<u64> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let offset = request
        .sector
        .checked_mul(SECTOR_SIZE)
        .ok_or_else(|| invalid("the sector is behind the end of every disk"))?;
    check_range(image.size(), offset, request.len)?;
    if request.operation == BlockOperation::Write && request.data.len() as u64 != request.len {
        return Err(invalid("the data does not have the length of the write"));
    }
    if request.operation.modifies() {
        check_writable(image.is_read_only())?;
    }
    let is_flush = request.operation == BlockOperation::Flush || request.durable;
    if is_flush && image.failures().has_lost() {
        return Err(io::Error::other(
            "a flush of what the guest takes for durable has failed",
        ));
    }
    Ok(offset)
}

fn carry_out(image: &dyn DiskImage, request: &BlockRequest) -> io::Result<Payload> {
    // Before memory is taken for it.
    let offset = check(image, request)?;
    let zeroes = |may_unmap| image.write_zeroes(offset, request.len, may_unmap);
    let mut data = Vec::new();
    match request.operation {
        BlockOperation::Read => {
            data.resize(request.len as usize, 0);
            image.read(offset, &mut data)?;
        }
        BlockOperation::Write => image.write(offset, &request.data)?,
        BlockOperation::Flush => image.flush()?,
        BlockOperation::Discard => zeroes(image.is_sparse())?,
        BlockOperation::WriteZeroes { may_unmap } => zeroes(may_unmap && image.is_sparse())?,
    }
    if request.durable && request.operation.modifies() {
        image.flush()?;
    }
    Ok(Payload::from(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_said_once_a_second_with_a_count_of_the_others() {
        let log = FailureLog::new("image".into());
        let start = Instant::now();
        let at = |ms| log.may_say(start + Duration::from_millis(ms));
        assert_eq!(at(0), Some(0));
        assert_eq!([at(1), at(500), at(999)], [None; 3]);
        assert_eq!(at(1000), Some(3));
        assert_eq!(at(1001), None);
        assert_eq!(at(5000), Some(1));
    }
}
