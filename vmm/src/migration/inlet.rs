//! The ways on which memory arrives: the main connection, and further ones that join it.
//!
//! A further connection says its role first. When the state has come no more memory may: the
//! connections are closed, and nobody writes to the memory of a machine that is being made.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::channel::{Cancel, Channel, ChannelError};
use super::contents::{Contents, ContentsError};
use super::progress::Progress;
use super::wire::{Command, ROLE_MEMORY, Request, Response, WireError, decode_table};
use crate::vm::{Listening, Stream};

/// How long a further connection may take to say what it is.
const ROLE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the host is asked for further connections.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Most further connections.
const MOST_LANES: usize = 128;
/// Bytes of plain memory taken at once.
const PIECE: usize = 256 << 10;

/// Why memory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum InletError {
    /// The connection is of no use any more.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// What came is no memory of the machine.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// What came is not well-formed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A further connection that is not for memory.
    #[error("a further connection has the role {0}, memory has {ROLE_MEMORY}")]
    Role(u16),
    /// Something else came.
    #[error("{0:?} came on a connection for memory")]
    Command(Command),
}

/// Takes the memory that a request announces. It is not answered yet.
///
/// # Errors
/// When it does not come, or is none of the machine.
pub fn take(
    channel: &mut Channel,
    request: &Request,
    contents: &Contents,
    progress: &Progress,
) -> Result<(), InletError> {
    let payload = channel.payload(request.length)?;
    let mut bytes = request.length;
    let pages = match request.command {
        Command::PackedMemory => contents.unpack(&payload)?,
        Command::Memory => {
            let taken = take_plain(channel, &payload, contents)?;
            bytes += taken;
            (taken / ft::machine::PAGE_SIZE as u64) as usize
        }
        other => return Err(InletError::Command(other)),
    };
    progress.sent(pages, bytes);
    Ok(())
}

fn take_plain(channel: &mut Channel, table: &[u8], contents: &Contents) -> Result<u64, InletError> {
    let ranges = decode_table(table)?;
    for range in &ranges {
        contents.check(range.address, range.length)?;
    }
    let mut buffer = vec![0; PIECE];
    let mut taken = 0;
    for range in ranges {
        let mut at = range.address;
        let end = range.address + range.length;
        while at < end {
            let piece = &mut buffer[..usize::try_from(end - at).map_or(PIECE, |n| n.min(PIECE))];
            channel.read(piece)?;
            contents.write(at, piece)?;
            at += piece.len() as u64;
        }
        taken += range.length;
    }
    Ok(taken)
}

/// Further connections.
#[derive(Default)]
struct Lanes {
    closed: bool,
    running: Vec<(Stream, JoinHandle<()>)>,
}

/// Accepts further connections until it is closed.
pub struct Inlet {
    lanes: Arc<Mutex<Lanes>>,
}

fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inlet {
    /// Accepts further connections, whose memory goes to `contents`.
    ///
    /// # Errors
    /// When the host has no thread.
    pub fn open(
        listening: Arc<Listening>,
        contents: Arc<Contents>,
        cancel: Cancel,
        progress: Progress,
    ) -> std::io::Result<Self> {
        let lanes = Arc::<Mutex<Lanes>>::default();
        let shared = lanes.clone();
        let accept = move || {
            while !lock(&shared).closed && !cancel.is_cancelled() {
                match listening.accept_stream(LOOK_INTERVAL) {
                    Ok(None) => {}
                    Ok(Some((stream, peer))) => {
                        let (contents, progress) = (contents.clone(), progress.clone());
                        let joined = join(&shared, stream, cancel.clone(), move |channel| {
                            run_lane(channel, &contents, &progress)
                        });
                        if let Err(error) = joined {
                            log::warn!("a further connection from {peer} is turned away: {error}");
                        }
                    }
                    Err(error) => {
                        log::warn!("no further connections can be accepted: {error}");
                        break;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("migration-accept".to_owned())
            .spawn(accept)?;
        Ok(Self { lanes })
    }

    /// Closes all further connections; no more memory comes when this returns.
    pub fn close(&self) {
        let running = {
            let mut lanes = lock(&self.lanes);
            lanes.closed = true;
            std::mem::take(&mut lanes.running)
        };
        for (stream, thread) in running {
            stream.shutdown();
            if thread.join().is_err() {
                log::error!("a connection for memory has panicked");
            }
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts the thread of a further connection, unless it is too late.
fn join(
    lanes: &Mutex<Lanes>,
    stream: Stream,
    cancel: Cancel,
    run: impl FnOnce(Channel) -> Result<(), InletError> + Send + 'static,
) -> std::io::Result<()> {
    let mut lanes = lock(lanes);
    if lanes.closed || lanes.running.len() >= MOST_LANES {
        return Err(std::io::Error::other("it is too late or one too many"));
    }
    let closer = stream.try_clone()?;
    let channel = Channel::new(stream, cancel)?;
    let thread = std::thread::Builder::new()
        .name("migration-lane".to_owned())
        .spawn(move || {
            if let Err(error) = run(channel) {
                log::warn!("a connection for memory has ended: {error}");
            }
        })?;
    lanes.running.push((closer, thread));
    Ok(())
}

/// Takes memory until the other end closes.
fn run_lane(
    mut channel: Channel,
    contents: &Contents,
    progress: &Progress,
) -> Result<(), InletError> {
    channel.set_patience(Some(ROLE_PATIENCE));
    let mut role = [0; 2];
    channel.read(&mut role)?;
    channel.set_patience(None);
    let role = u16::from_le_bytes(role);
    if role != ROLE_MEMORY {
        return Err(InletError::Role(role));
    }
    loop {
        let request = match channel.request() {
            Err(ChannelError::Closed) => return Ok(()),
            request => request?,
        };
        if let Err(error) = take(&mut channel, &request, contents, progress) {
            // Whoever sent it learns of it; that the answer cannot go is no news.
            let _ = channel.refuse(None);
            return Err(error);
        }
        channel.respond(&Response::OK)?;
    }
}
