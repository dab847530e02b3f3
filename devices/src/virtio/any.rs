//! Any of the virtio devices, as the board holds them.

use serde::{Deserialize, Serialize};

use crate::saved::RestoreError;

use super::block::{Block, BlockConfig, BlockStateV1};
use super::console::{Console, ConsoleConfig, ConsoleStateV1};
use super::device::{Context, VirtioDevice, VirtioIdentity};
use super::entropy::{Entropy, EntropyStateV1};
use super::event::VirtioEvent;
use super::fault::Fault;
use super::input::{InputFailure, InputOutcome, VirtioInput};
use super::net::{Net, NetConfig, NetStateV1};
use super::vsock::{Vsock, VsockConfig, VsockStateV1};

/// What a device is, before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtioConfig {
    /// A disk.
    Block(BlockConfig),
    /// A network card.
    Net(NetConfig),
    /// A console.
    Console(ConsoleConfig),
    /// A source of random bytes.
    Entropy,
    /// A socket device.
    Vsock(VsockConfig),
}

/// A virtio device of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyVirtio {
    /// A disk.
    Block(Block),
    /// A network card.
    Net(Net),
    /// A console.
    Console(Console),
    /// A source of random bytes.
    Entropy(Entropy),
    /// A socket device.
    Vsock(Vsock),
}

/// Saved state of a virtio device of any type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnyVirtioStateV1 {
    /// A disk.
    Block(BlockStateV1),
    /// A network card.
    Net(NetStateV1),
    /// A console.
    Console(ConsoleStateV1),
    /// A source of random bytes.
    Entropy(EntropyStateV1),
    /// A socket device.
    Vsock(VsockStateV1),
}

/// The same expression for whichever device it is.
macro_rules! each {
    ($any:expr, $device:ident => $do:expr) => {
        match $any {
            AnyVirtio::Block($device) => $do,
            AnyVirtio::Net($device) => $do,
            AnyVirtio::Console($device) => $do,
            AnyVirtio::Entropy($device) => $do,
            AnyVirtio::Vsock($device) => $do,
        }
    };
}

impl AnyVirtio {
    /// The device that `config` describes.
    ///
    /// # Panics
    /// If the configuration has a value that the device does not allow.
    #[must_use]
    pub fn new(config: VirtioConfig) -> Self {
        match config {
            VirtioConfig::Block(config) => Self::Block(Block::new(config)),
            VirtioConfig::Net(config) => Self::Net(Net::new(config)),
            VirtioConfig::Console(config) => Self::Console(Console::new(config)),
            VirtioConfig::Entropy => Self::Entropy(Entropy::new()),
            VirtioConfig::Vsock(config) => Self::Vsock(Vsock::new(config)),
        }
    }

    /// The requests that the host side was given and did not answer, as they were emitted.
    #[must_use]
    pub fn unanswered(&self) -> Vec<VirtioEvent> {
        match self {
            Self::Block(block) => block.in_flight().cloned().map(VirtioEvent::Block).collect(),
            Self::Entropy(entropy) => entropy
                .pending()
                .map(|(id, len)| VirtioEvent::EntropyRequest { id, len })
                .collect(),
            Self::Net(_) | Self::Console(_) | Self::Vsock(_) => Vec::new(),
        }
    }
}

impl VirtioDevice for AnyVirtio {
    type Saved = AnyVirtioStateV1;

    fn identity(&self) -> VirtioIdentity {
        each!(self, device => device.identity())
    }

    fn features(&self) -> u64 {
        each!(self, device => device.features())
    }

    fn accepts(&self, features: u64) -> bool {
        each!(self, device => device.accepts(features))
    }

    fn queue_sizes(&self) -> &'static [u16] {
        each!(self, device => device.queue_sizes())
    }

    fn config_read(&self, offset: usize, into: &mut [u8]) {
        each!(self, device => device.config_read(offset, into));
    }

    fn config_write(&mut self, offset: usize, bytes: &[u8]) {
        each!(self, device => device.config_write(offset, bytes));
    }

    fn notify(&mut self, queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        each!(self, device => device.notify(queue, cx))
    }

    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        each!(self, device => device.input(input, cx))
    }

    fn input_room(&self) -> usize {
        each!(self, device => device.input_room())
    }

    fn reset(&mut self) {
        each!(self, device => device.reset());
    }

    fn save(&self) -> AnyVirtioStateV1 {
        match self {
            Self::Block(device) => AnyVirtioStateV1::Block(device.save()),
            Self::Net(device) => AnyVirtioStateV1::Net(device.save()),
            Self::Console(device) => AnyVirtioStateV1::Console(device.save()),
            Self::Entropy(device) => AnyVirtioStateV1::Entropy(device.save()),
            Self::Vsock(device) => AnyVirtioStateV1::Vsock(device.save()),
        }
    }

    fn restore(saved: AnyVirtioStateV1) -> Result<Self, RestoreError> {
        Ok(match saved {
            AnyVirtioStateV1::Block(saved) => Self::Block(Block::restore(saved)?),
            AnyVirtioStateV1::Net(saved) => Self::Net(Net::restore(saved)?),
            AnyVirtioStateV1::Console(saved) => Self::Console(Console::restore(saved)?),
            AnyVirtioStateV1::Entropy(saved) => Self::Entropy(Entropy::restore(saved)?),
            AnyVirtioStateV1::Vsock(saved) => Self::Vsock(Vsock::restore(saved)?),
        })
    }
}
