//! What comes to a machine's thread from others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use hypervisor::Kicker;
use rustix::event::{EventfdFlags, eventfd};

use super::offers::{Offered, Port};
use super::permit::Permit;
use super::{Command, Connection, Tenure};

/// Something for the thread.
pub enum Message {
    /// A request.
    Command(Command),
    /// Input for the serial port.
    Serial(Vec<u8>),
    /// Input for a virtio device.
    Device(Offered),
    /// A connection from a primary.
    Connected(Connection),
}

/// The sending end, with the means to make the machine look.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Message>,
    kicker: Arc<Mutex<Option<Kicker>>>,
    waker: Arc<Waker>,
    tenure: Arc<AtomicU64>,
    permit: Permit,
}

impl Mailbox {
    /// A mailbox and its receiving end.
    ///
    /// # Errors
    /// When the host has no descriptor to give.
    pub fn new() -> std::io::Result<(Self, Receiver<Message>)> {
        let (sender, receiver) = mpsc::channel();
        let waker = Arc::new(Waker::new()?);
        let mailbox = Self {
            sender,
            kicker: Arc::default(),
            permit: Permit::none(waker.clone()),
            waker,
            tenure: Arc::default(),
        };
        Ok((mailbox, receiver))
    }

    /// Names the vCPU that must come back when something arrives.
    pub fn set_kicker(&self, kicker: Option<Kicker>) {
        *self.kicker.lock().unwrap_or_else(PoisonError::into_inner) = kicker;
    }

    /// Where the host side of a virtio device offers its input in this tenure.
    pub fn port(&self, device: usize) -> Port {
        Port::new(self.clone(), device, self.tenure())
    }

    /// Until when this host may let go what the machine has released.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The tenure that is or is about to be.
    pub(super) fn tenure(&self) -> Tenure {
        Tenure(self.tenure.load(Ordering::Acquire))
    }

    /// Ends a tenure: what its host sides still offer is dropped.
    pub(super) fn end_tenure(&self) {
        self.tenure.fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes the thread when something arrives.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// Puts a message in. It is dropped when the thread has ended: whoever waits for an answer
    /// is told by its reply channel.
    pub fn send(&self, message: Message) {
        if self.sender.send(message).is_err() {
            return;
        }
        if let Some(kicker) = &*self.kicker.lock().unwrap_or_else(PoisonError::into_inner) {
            kicker.kick();
        }
        self.waker.wake();
    }
}

/// Ends a wait for descriptors. Costs a call of the host only while somebody waits.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    waiting: AtomicBool,
}

impl Waker {
    fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            event: eventfd(0, flags)?,
            waiting: AtomicBool::new(false),
        })
    }

    /// Ends the wait that is going on or about to begin.
    pub fn wake(&self) {
        if self.waiting.swap(false, Ordering::SeqCst)
            && let Err(error) = rustix::io::write(&self.event, &1_u64.to_ne_bytes())
        {
            log::error!("the machine's thread cannot be woken: {error}");
        }
    }

    /// Says that a wait is about to begin. What arrived before has to be looked for after this.
    pub fn begin_wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Says that the wait is over; `woken` when the descriptor could be read.
    pub fn end_wait(&self, woken: bool) {
        self.waiting.store(false, Ordering::SeqCst);
        if woken && let Err(error) = rustix::io::read(&self.event, &mut [0; 8]) {
            log::error!("the machine's thread cannot see who wakes it: {error}");
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
