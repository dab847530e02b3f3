//! What the guest has put on the network: the frames with its address as their sender, on any
//! interface of this namespace, with the time at which each was seen.
//!
//! A frame of the guest comes from its tap first, so nothing it lets out goes unseen, whoever it
//! is for. The same frame is seen again on the bridge; for the question whether any left at all
//! that makes no difference.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};

use crate::HarnessError;
use crate::network::GUEST_MAC;

/// How often the capture looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// A frame that was seen.
#[derive(Debug, Clone)]
pub struct Frame {
    /// When.
    pub at: Instant,
    /// The port that it is for, if it has TCP over IPv4.
    pub port: Option<u16>,
}

/// A capture under way.
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts one in the namespace of this thread.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn start() -> Result<Self, HarnessError> {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(eth::ALL);
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol);
        let socket = socket.and_then(|socket| {
            set_socket_timeout(&socket, Timeout::Recv, Some(LOOK))?;
            Ok(socket)
        });
        let socket = socket.map_err(|error| HarnessError::host("open a capture")(error.into()))?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, asked) = (frames.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || watch(&socket, &seen, &asked))
            .map_err(HarnessError::host("start a capture"))?;
        Ok(Self {
            frames,
            stop,
            thread: Some(thread),
        })
    }

    /// The frames of the guest so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many were seen in a span of time.
    pub fn count(&self, from: Instant, to: Instant) -> usize {
        let frames = self.frames();
        frames
            .iter()
            .filter(|frame| frame.at >= from && frame.at < to)
            .count()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic: it only reads and keeps.
            let _ = thread.join();
        }
    }
}

fn watch(socket: &OwnedFd, frames: &Mutex<Vec<Frame>>, stop: &AtomicBool) {
    let mut buffer = vec![0_u8; 128 << 10];
    while !stop.load(Ordering::Relaxed) {
        let count = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => continue,
            Err(error) => {
                eprintln!("the capture ends: {error}");
                return;
            }
        };
        let at = Instant::now();
        if let Some(port) = of_guest(&buffer[..count]) {
            let frame = Frame { at, port };
            frames
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(frame);
        }
    }
}

/// Whether the guest has sent a frame; if so, the TCP port that it is for, if it has one.
fn of_guest(frame: &[u8]) -> Option<Option<u16>> {
    let (head, packet) = frame.split_at_checked(14)?;
    (head[6..12] == GUEST_MAC).then(|| {
        let ipv4 = head[12..14] == [0x08, 0x00];
        let tcp = packet.get(9) == Some(&6);
        let words = usize::from(packet.first()? & 0x0f);
        let segment = packet.get(words * 4..)?;
        let port = segment.get(2..4)?;
        (ipv4 && tcp).then(|| u16::from_be_bytes([port[0], port[1]]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_the_guest_is_told_by_its_sender_and_its_port_found() {
        let mut frame = vec![0_u8; 14 + 20 + 20];
        frame[6..12].copy_from_slice(&GUEST_MAC);
        assert_eq!(of_guest(&frame), Some(None), "no IPv4");
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[14 + 9] = 6;
        frame[14 + 20 + 2..14 + 20 + 4].copy_from_slice(&4711_u16.to_be_bytes());
        assert_eq!(of_guest(&frame), Some(Some(4711)));
        frame[14 + 9] = 17;
        assert_eq!(of_guest(&frame), Some(None), "UDP");
        assert_eq!(of_guest(&frame[..14]), Some(None), "nothing but a head");
        frame[6] ^= 1;
        assert_eq!(of_guest(&frame), None, "another's");
        assert_eq!(of_guest(&[0; 3]), None);
    }
}
