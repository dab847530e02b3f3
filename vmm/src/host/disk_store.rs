//! An image as the contents of a machine's own disk.
//!
//! A side that replays works on its image between two instructions of the guest. What is to be
//! durable becomes so behind its back; a flush that fails there makes the copy useless, which the
//! next request finds.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::disk::{DiskImage, execute};
use super::disk_host::OwnImage;
use super::disk_quiet::Quiet;
use crate::machine::disks::DiskStore;

/// Contents of a disk in an image.
pub struct ImageStore {
    image: Arc<dyn DiskImage>,
    quiet: Quiet,
    /// Asks for a flush; one that waits covers all that was written before it begins.
    flush: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// A flush failed. The host says so once, and what it dropped is gone: this copy is worth
    /// nothing any more.
    failed: Arc<AtomicBool>,
}

impl ImageStore {
    /// A store over `image`.
    ///
    /// # Errors
    /// The host has no thread for the flushes.
    pub fn new(own: OwnImage) -> io::Result<Self> {
        let OwnImage { image, quiet } = own;
        let (flush, asked) = sync_channel(1);
        let failed = Arc::new(AtomicBool::new(false));
        let (flushed, says) = (image.clone(), failed.clone());
        let thread = std::thread::Builder::new()
            .name("disk-flush".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    if let Err(error) = flushed.flush() {
                        flushed.failures().note("flush behind a replay", &error);
                        says.store(true, Ordering::Release);
                    }
                }
            })?;
        Ok(Self {
            image,
            quiet,
            flush: Some(flush),
            thread: Some(thread),
            failed,
        })
    }

    fn flush_soon(&self) {
        let asked = self.flush.as_ref().map(|flush| flush.try_send(()));
        // One that has not begun covers this one.
        if let Some(Err(TrySendError::Disconnected(()))) = asked {
            log::error!("the thread for flushes has ended");
            self.failed.store(true, Ordering::Release);
        }
    }
}

impl Drop for ImageStore {
    fn drop(&mut self) {
        // The thread holds the image, and with it the image's lock, until it ends.
        self.flush = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread for flushes has panicked");
        }
    }
}

impl DiskStore for ImageStore {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.image.read(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.quiet.wait();
        self.image.write(offset, from)
    }

    fn execute(&self, request: &BlockRequest) -> Result<Payload, BlockIoError> {
        self.quiet.wait();
        if self.failed.load(Ordering::Acquire) {
            return Err(BlockIoError::Io);
        }
        if request.operation == BlockOperation::Flush {
            self.flush_soon();
            return Ok(Payload::default());
        }
        if !request.durable {
            return execute(&*self.image, request);
        }
        let now = BlockRequest {
            durable: false,
            ..request.clone()
        };
        let answer = execute(&*self.image, &now)?;
        self.flush_soon();
        Ok(answer)
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        self.image.data_ranges()
    }
}
