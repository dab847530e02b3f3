//! An image as the contents of a machine's own disk.
//!
//! A side that replays works on its image between two instructions of the guest, so it waits for
//! the host's page cache but never for a disk: what is to be durable becomes so behind its back.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::disk::{DiskImage, execute};
use crate::machine::disks::DiskStore;

/// Contents of a disk in an image.
pub struct ImageStore {
    image: Arc<dyn DiskImage>,
    /// Asks for a flush; one that waits covers all that was written before it begins.
    flush: SyncSender<()>,
}

impl ImageStore {
    /// A store over `image`.
    ///
    /// # Errors
    /// The host has no thread for the flushes.
    pub fn new(image: Arc<dyn DiskImage>) -> io::Result<Self> {
        let (flush, asked) = sync_channel(1);
        let flushed = image.clone();
        std::thread::Builder::new()
            .name("disk-flush".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    if let Err(error) = flushed.flush() {
                        flushed.failures().note("flush behind a replay", &error);
                    }
                }
            })?;
        Ok(Self { image, flush })
    }

    fn flush_soon(&self) {
        match self.flush.try_send(()) {
            // One that has not begun covers this one.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => log::error!("the thread for flushes has ended"),
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
        self.image.write(offset, from)
    }

    fn execute(&self, request: &BlockRequest) -> Result<Payload, BlockIoError> {
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
