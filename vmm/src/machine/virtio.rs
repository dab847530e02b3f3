//! Virtio devices at the machine's border: what enters them, as the log has it, and what leaves.
//!
//! What leaves is one of two things. An *output* goes to the world and waits for the output gate:
//! frames, packets, console bytes, changes of a disk that both sides share. A *request* goes to the
//! host that the machine is live on and to nobody else, and is answered by an input: reads, work on
//! disks of the machine's own, random bytes. A side that replays makes no requests.

use devices::board::{Board, DeviceEvent};
use devices::virtio::any::{AnyVirtio, VirtioConfig};
use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::event::VirtioEvent;
use devices::virtio::input::VirtioInput;
use devices::virtio::payload::Payload;
use ft::event::{DeviceId, Output};
use ft::machine::MachineError;
use serde::{Deserialize, Serialize};

use super::config::{DiskMode, MOST_VIRTIO, virtio_id, virtio_index};
use super::dma::Dma;
use super::{MachineConfig, VirtualMachine};

/// What enters a virtio device, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceInput {
    /// As the device takes it.
    Virtio(VirtioInput),
    /// A request of a replicated disk is complete. What a read found is not in the log.
    DiskDone {
        /// The request.
        id: u64,
        /// How it ended.
        result: Result<(), BlockIoError>,
    },
}

impl DeviceInput {
    /// As the payload of an input.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self)
            .expect("inputs have no unsized sequences, and memory is the writer")
    }

    fn decode(bytes: &[u8]) -> Result<Self, MachineError> {
        match postcard::take_from_bytes(bytes) {
            Ok((input, [])) => Ok(input),
            Ok((_, rest)) => Err(MachineError::new(format!(
                "input of a virtio device has {} bytes too many",
                rest.len()
            ))),
            Err(error) => Err(MachineError::new(format!(
                "input of a virtio device is malformed: {error}"
            ))),
        }
    }
}

/// The request that the output of a shared disk's device holds.
///
/// # Errors
/// If the bytes are none.
pub fn decode_disk_output(payload: &[u8]) -> Result<BlockRequest, postcard::Error> {
    postcard::from_bytes(payload)
}

/// The requests of a disk that the host was given and that are not complete.
pub(super) fn under_way(board: &Board, device: usize) -> impl Iterator<Item = &BlockRequest> {
    let block = match board.virtio_device(device) {
        Some(AnyVirtio::Block(block)) => Some(block),
        _ => None,
    };
    block.into_iter().flat_map(|block| block.in_flight())
}

/// What a virtio device was told of by the machine's configuration.
fn mode(config: &MachineConfig, device: usize) -> DiskMode {
    config
        .virtio
        .get(device)
        .map_or(DiskMode::Outside, |spec| spec.disk)
}

impl VirtualMachine {
    /// Says whether this machine executes for real here: only then does it make requests.
    pub fn set_live(&mut self, live: bool) {
        self.live = live;
        self.requests.clear();
        self.disks.forget_done();
    }

    /// Takes the requests to the host since the last call, oldest first.
    pub fn take_requests(&mut self) -> Vec<DeviceEvent> {
        std::mem::take(&mut self.requests)
    }

    /// The requests that no host has answered, for a host that takes over.
    pub fn unanswered(&self) -> Vec<DeviceEvent> {
        self.board.virtio_unanswered()
    }

    /// The features that the driver of a virtio device has negotiated, while it is ready.
    pub fn virtio_features(&self, device: usize) -> Option<u64> {
        self.board.virtio_features(device)
    }

    /// The address that the guest uses on a network card.
    pub fn net_address(&self, device: usize) -> Option<[u8; 6]> {
        match self.board.virtio_device(device)? {
            AnyVirtio::Net(net) => Some(net.mac()),
            _ => None,
        }
    }

    /// Bytes that a virtio device has room for.
    pub fn virtio_input_room(&self, device: usize) -> usize {
        self.board.virtio_input_room(device)
    }

    /// What the host's queue found for a request of a replicated disk; its completion follows as
    /// an input.
    pub fn keep_disk_data(&mut self, device: usize, id: u64, data: Payload) {
        self.disks.keep(device, id, data);
    }

    /// An input of a virtio device.
    pub(super) fn virtio_input(
        &mut self,
        device: DeviceId,
        payload: &[u8],
    ) -> Result<(), MachineError> {
        let index = virtio_index(device)
            .filter(|index| *index < self.config.virtio.len())
            .ok_or_else(|| MachineError::new(format!("no device {} takes input", device.0)))?;
        let input = match DeviceInput::decode(payload)? {
            DeviceInput::Virtio(input) => input,
            DeviceInput::DiskDone { id, result } => self.disk_done(index, id, result)?,
        };
        if let VirtioInput::BlockResize { sectors } = input {
            self.resize_disk(index, sectors)?;
        }
        let now = self.virtual_time();
        let mut dma = Dma::new(&self.memory);
        let outcome = self.board.virtio_input(index, input, &mut dma, now);
        dma.finish(self.vcpu.as_mut());
        self.sort_events()
            .map_err(|error| MachineError::new(error.to_string()))?;
        // What a device makes of an input (drops it, say) is alike on all sides.
        outcome
            .map(|_| ())
            .map_err(|error| MachineError::new(format!("virtio device {index}: {error}")))
    }

    /// The completion of a replicated disk's request, with what belongs to it.
    fn disk_done(
        &mut self,
        index: usize,
        id: u64,
        result: Result<(), BlockIoError>,
    ) -> Result<VirtioInput, MachineError> {
        let refused = |what: &str| MachineError::new(format!("virtio device {index} {what}"));
        if !self.disks.has(index) {
            return Err(refused("is no replicated disk"));
        }
        let request = under_way(&self.board, index)
            .find(|request| request.id == id)
            .ok_or_else(|| refused(&format!("has no request {id} under way")))?;
        let result = self.disks.complete(index, request, result);
        Ok(VirtioInput::BlockCompletion { id, result })
    }

    /// A disk has another size from now on, for whoever is to make this machine again as well.
    fn resize_disk(&mut self, index: usize, sectors: u64) -> Result<(), MachineError> {
        let VirtioConfig::Block(block) = &mut self.config.virtio[index].config else {
            return Err(MachineError::new(format!("device {index} is no disk")));
        };
        self.disks
            .resize(index, sectors)
            .map_err(|error| MachineError::new(error.to_string()))?;
        block.sectors = sectors;
        Ok(())
    }

    /// Sorts what left the virtio devices into outputs and requests.
    pub(super) fn sort_virtio(&mut self, events: Vec<DeviceEvent>) {
        for DeviceEvent { device, event } in events {
            let payload = match event {
                VirtioEvent::NetTransmit(payload)
                | VirtioEvent::ConsoleOutput(payload)
                | VirtioEvent::VsockTransmit(payload) => payload.into_bytes(),
                VirtioEvent::Block(request) if self.leaves_as_output(device, &request) => {
                    postcard::to_allocvec(&request)
                        .expect("requests have no unsized sequences, and memory is the writer")
                }
                event => {
                    if self.live {
                        self.requests.push(DeviceEvent { device, event });
                    }
                    continue;
                }
            };
            let device = virtio_id(device);
            self.outputs.push(Output { device, payload });
        }
    }

    /// Whether a disk's request may leave only when the backup knows of it: it changes, or makes
    /// durable, what both sides share.
    fn leaves_as_output(&self, device: usize, request: &BlockRequest) -> bool {
        mode(&self.config, device) == DiskMode::Outside && request.operation != BlockOperation::Read
    }
}

const _: () = assert!(MOST_VIRTIO <= 31);

/// What the board is to have.
pub(super) fn board_devices(config: &MachineConfig) -> Vec<VirtioConfig> {
    config.virtio.iter().map(|spec| spec.config).collect()
}
