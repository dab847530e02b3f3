//! An image as the contents of a machine's own disk.
//!
//! A side that replays works on its image between two instructions of the guest. What is to be
//! durable becomes so behind its back, a tenth of a second and two flushes later at most. A flush
//! that fails there makes the copy useless: a replay ends with the next request, and a guest that
//! has come to live on it is told at its next flush.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::disk::{DiskImage, execute};
use super::disk_flush::{LazyFlush, PAUSE};
use super::disk_host::OwnImage;
use super::disk_quiet::Quiet;
use crate::machine::disks::DiskStore;

/// Contents of a disk in an image.
pub struct ImageStore {
    /// Holds the image, and with it the image's lock, until it is dropped.
    flush: LazyFlush,
    image: Arc<dyn DiskImage>,
    quiet: Quiet,
}

impl ImageStore {
    /// A store over `image`.
    ///
    /// # Errors
    /// The host has no thread for the flushes.
    pub fn new(own: OwnImage) -> io::Result<Self> {
        let OwnImage { image, quiet } = own;
        let flushed = image.clone();
        let flush = LazyFlush::start(PAUSE, move || {
            if let Err(error) = flushed.flush() {
                flushed.failures().note("flush behind a replay", &error);
                flushed.failures().lose();
            }
        })?;
        Ok(Self {
            flush,
            image,
            quiet,
        })
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
        if self.image.failures().has_lost() {
            return Err(io::Error::other("a flush of its image has failed"));
        }
        self.image.write(offset, from)
    }

    fn execute(&self, request: &BlockRequest) -> Result<Payload, BlockIoError> {
        self.quiet.wait();
        if self.image.failures().has_lost() {
            return Err(BlockIoError::Io);
        }
        if request.operation == BlockOperation::Flush {
            self.flush.ask();
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
        self.flush.ask();
        Ok(answer)
    }

    fn settle(&self) {
        self.flush.ask();
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        self.image.data_ranges()
    }
}
