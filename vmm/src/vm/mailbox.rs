//! What comes to a machine's thread from others.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use hypervisor::Kicker;

use super::{Command, Connection};

/// Something for the thread.
pub enum Message {
    /// A request.
    Command(Command),
    /// Input for the serial port.
    Serial(Vec<u8>),
    /// A connection from a primary.
    Connected(Connection),
    /// Bytes that came on connection number `.0`.
    Bytes(u64, Vec<u8>),
    /// Connection number `.0` is closed.
    Closed(u64),
}

/// The sending end, with the means to make the machine look.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Message>,
    kicker: Arc<Mutex<Option<Kicker>>>,
}

impl Mailbox {
    /// A mailbox and its receiving end.
    pub fn new() -> (Self, Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        (
            Self {
                sender,
                kicker: Arc::default(),
            },
            receiver,
        )
    }

    /// Names the vCPU that must come back when something arrives.
    pub fn set_kicker(&self, kicker: Option<Kicker>) {
        *self.kicker.lock().unwrap_or_else(PoisonError::into_inner) = kicker;
    }

    /// Puts a message in. It is dropped when the thread has ended: whoever waits for an answer
    /// is told by its reply channel.
    pub fn send(&self, message: Message) {
        if self.sender.send(message).is_ok()
            && let Some(kicker) = &*self.kicker.lock().unwrap_or_else(PoisonError::into_inner)
        {
            kicker.kick();
        }
    }
}
