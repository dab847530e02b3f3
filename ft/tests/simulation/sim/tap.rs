//! Listens in on one direction of a connection: what a backup was given, and what it has promised.

use ft::codec::FieldReader;
use ft::event::Input;
use ft::log::{EntryCoder, Event};
use ft::protocol::{FrameDecoder, Message};

use super::disk::DISK;

/// What was heard in one direction.
#[derive(Default)]
pub struct Tap {
    decoder: FrameDecoder,
    coder: Option<EntryCoder>,
    deaf: bool,
    /// Device inputs in the log, in order.
    pub inputs: Vec<Vec<u8>>,
    /// Acknowledgements since a divergence was reported.
    pub unfounded: u64,
    diverged: bool,
}

impl Tap {
    /// Hears bytes. Damaged ones end the listening, as they end the connection.
    pub fn hear(&mut self, bytes: &[u8]) {
        if self.deaf {
            return;
        }
        self.decoder.push(bytes);
        while let Ok(Some(frame)) = self.decoder.next_frame() {
            match Message::decode(frame) {
                Ok(message) => self.take(message),
                Err(_) => self.deaf = true,
            }
        }
    }

    /// The divergence is repaired.
    pub fn repaired(&mut self) {
        (self.diverged, self.unfounded) = (false, 0);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ack(_) => self.unfounded += u64::from(self.diverged),
            Message::Divergence(_) => (self.diverged, self.unfounded) = (true, 0),
            Message::CloneDone(base) | Message::TakenOver(base) => {
                self.coder = Some(EntryCoder::new(base.at, base.point));
                self.inputs.clear();
            }
            Message::Log(bytes) => self.take_log(&bytes),
            _ => {}
        }
    }

    fn take_log(&mut self, bytes: &[u8]) {
        let Some(coder) = &mut self.coder else { return };
        let mut reader = FieldReader::new(bytes);
        while reader.remaining() > 0 {
            let Ok(entry) = coder.decode(&mut reader) else {
                self.deaf = true;
                return;
            };
            // A machine that has left the log need not have the disk's requests.
            if let Event::Input(Input::Device { device, payload }) = entry.event
                && device != DISK
            {
                self.inputs.push(payload);
            }
        }
    }
}
