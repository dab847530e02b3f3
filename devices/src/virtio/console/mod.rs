//! A virtio console with one port.
//!
//! ```text
//! ConsoleInput ─▶ backlog (64 KiB) ─▶ queue 0        queue 1 ─▶ ConsoleOutput, used at once
//! ```
//!
//! Input waits for a driver, as it does in a serial port; a reset of the device drops it.
//!
//! Spec: virtio 1.2 §5.3. Left out: several ports, emergency write.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::pci::config_space::BarWidth;
use crate::saved::{RestoreError, check};

use super::device::{Context, VirtioDevice, VirtioIdentity, read_image};
use super::event::VirtioEvent;
use super::fault::Fault;
use super::input::{InputError, InputFailure, InputOutcome, VirtioInput};
use super::payload::Payload;

/// Input bytes that wait at most.
pub const CONSOLE_BACKLOG_SIZE: usize = 64 * 1024;
/// Output bytes that one chain may have; a longer one is a fault.
pub const CONSOLE_OUTPUT_MAX: usize = 128 * 1024;

const KIND: &str = "virtio-console";
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const FEATURE_SIZE: u64 = 1;

/// What a console is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleConfig {
    /// Characters in a line; zero if not known.
    pub columns: u16,
    /// Lines; zero if not known.
    pub rows: u16,
}

/// A console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    state: ConsoleStateV1,
}

/// Configuration and state of a console; all that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleStateV1 {
    config: ConsoleConfig,
    backlog: Payload,
}

impl Console {
    /// An idle console.
    #[must_use]
    pub fn new(config: ConsoleConfig) -> Self {
        Self {
            state: ConsoleStateV1 {
                config,
                backlog: Payload::default(),
            },
        }
    }

    fn transmit(cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(chain) = cx.pop(TRANSMIT)? {
            let bytes = chain.read_from(&*cx.ram, 0, CONSOLE_OUTPUT_MAX)?;
            let bytes = bytes.filter(|bytes| !bytes.is_empty());
            let malformed = Fault::Malformed { head: chain.head };
            cx.emit(VirtioEvent::ConsoleOutput(Payload::from(
                bytes.ok_or(malformed)?,
            )));
            cx.push(TRANSMIT, chain.head, 0)?;
        }
        cx.want_notification(TRANSMIT, true)
    }

    fn deliver(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let backlog = self.state.backlog.to_mut();
        while !backlog.is_empty() {
            let Some(chain) = cx.pop(RECEIVE)? else {
                return cx.want_notification(RECEIVE, true);
            };
            let room = chain.writable_len().min(CONSOLE_BACKLOG_SIZE as u64) as usize;
            if room == 0 {
                return Err(Fault::Malformed { head: chain.head });
            }
            let rest = backlog.split_off(room.min(backlog.len()));
            let now = std::mem::replace(backlog, rest);
            chain.write(cx.ram, 0, &now)?;
            cx.push(RECEIVE, chain.head, now.len() as u64)?;
        }
        cx.want_notification(RECEIVE, false)
    }

    fn receive(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        if bytes.len() > self.input_room() {
            return Ok(InputOutcome::Refused);
        }
        self.state.backlog.to_mut().extend_from_slice(bytes);
        if cx.live {
            self.deliver(cx)?;
        }
        Ok(if self.state.backlog.is_empty() {
            InputOutcome::Taken
        } else {
            InputOutcome::Waiting
        })
    }
}

impl VirtioDevice for Console {
    type Saved = ConsoleStateV1;

    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity {
            name: "console",
            type_id: 3,
            class: 0x07_8000,
            bar: BarWidth::Bits64,
        }
    }

    fn features(&self) -> u64 {
        FEATURE_SIZE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn config_read(&self, offset: usize, into: &mut [u8]) {
        let ConsoleConfig { columns, rows } = self.state.config;
        let mut image = [0; 12];
        image[..2].copy_from_slice(&columns.to_le_bytes());
        image[2..4].copy_from_slice(&rows.to_le_bytes());
        // One port.
        image[4..8].copy_from_slice(&1u32.to_le_bytes());
        read_image(&image, offset, into);
    }

    fn notify(&mut self, queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        match queue {
            RECEIVE => self.deliver(cx),
            _ => Self::transmit(cx),
        }
    }

    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        match input {
            VirtioInput::ConsoleInput(bytes) => self.receive(&bytes, cx),
            VirtioInput::ConsoleResize { columns, rows } => {
                let config = ConsoleConfig { columns, rows };
                if self.state.config != config {
                    self.state.config = config;
                    cx.change_config();
                }
                Ok(InputOutcome::Taken)
            }
            _ => Err(InputError::WrongDevice { device: "console" }.into()),
        }
    }

    fn input_room(&self) -> usize {
        CONSOLE_BACKLOG_SIZE - self.state.backlog.len()
    }

    fn reset(&mut self) {
        self.state.backlog.to_mut().clear();
    }

    fn save(&self) -> ConsoleStateV1 {
        self.state.clone()
    }

    fn restore(saved: ConsoleStateV1) -> Result<Self, RestoreError> {
        let waiting = saved.backlog.len();
        check(waiting <= CONSOLE_BACKLOG_SIZE, KIND, "backlog", waiting)?;
        Ok(Self { state: saved })
    }
}
