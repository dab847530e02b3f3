//! A well-behaved driver with a device and memory of its own, for tests.
//!
//! ```text
//! base + 4000 * queue   descriptors (0), available ring (1000), used ring (2000)
//! base + 10000          512 KiB of buffers, handed out in turn
//! ```
//!
//! Interrupts are MSI-X messages; vector n has data 0x100 + n, the last one is for configuration.
//!
//! # Panics
//! Wherever the device does not do what a driver relies on.

use crate::conformance::Random;
use crate::dma::{GuestRam, VecRam, read_u16};
use crate::pci::msix::MsixMessage;
use crate::pci::{BarWrite, PciContext, PciFunction};
use crate::virtio::chain::Segment;
use crate::virtio::device::VirtioDevice;
use crate::virtio::event::VirtioEvent;
use crate::virtio::input::{InputError, InputOutcome, VirtioInput};
use crate::virtio::queue::{FEATURE_EVENT_INDEX, FEATURE_INDIRECT};
use crate::virtio::transport::{
    COMMON_OFFSET, FEATURE_VERSION_1, MSIX_TABLE_OFFSET, NOTIFY_MULTIPLIER, NOTIFY_OFFSET,
    STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FEATURES_OK, VirtioPci,
};

/// First address of the memory.
pub const RAM_BASE: u64 = 0x10_0000;
/// Bytes of memory.
pub const RAM_SIZE: usize = 0x9_0000;
/// Vector data of queue 0.
pub const FIRST_VECTOR: u32 = 0x100;

const QUEUE_STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = RAM_BASE + 0x1_0000;
const BUFFERS_SIZE: u64 = 0x8_0000;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;

/// What the driver knows of a queue.
#[derive(Clone, Debug, PartialEq)]
struct DriverQueue {
    size: u16,
    available_index: u16,
    used_index: u16,
    free: Vec<u16>,
    /// By head: descriptors taken, and what the device may write.
    posted: Vec<Option<(Vec<u16>, Vec<Segment>)>>,
}

/// A request that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Its first descriptor.
    pub head: u16,
    /// What the device says it wrote.
    pub len: u32,
    /// All writable bytes.
    pub bytes: Vec<u8>,
}

/// A device, memory, and a driver for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rig<D: VirtioDevice> {
    /// The device behind its transport.
    pub function: VirtioPci<D>,
    /// The memory.
    pub ram: VecRam,
    /// Interrupt messages, not taken yet.
    pub messages: Vec<MsixMessage>,
    /// Events, not taken yet.
    pub events: Vec<VirtioEvent>,
    features: u64,
    queues: Vec<DriverQueue>,
    next_buffer: u64,
}

impl<D: VirtioDevice> Rig<D> {
    /// A device that no driver has found yet.
    #[must_use]
    pub fn new(device: D) -> Self {
        Self {
            function: VirtioPci::new(device, 1, 0xc000_0000),
            ram: VecRam::new(RAM_BASE, RAM_SIZE),
            messages: Vec::new(),
            events: Vec::new(),
            features: 0,
            queues: Vec::new(),
            next_buffer: 0,
        }
    }

    /// A device whose driver is ready, with all features but those of `without`.
    #[must_use]
    pub fn started(device: D, without: u64) -> Self {
        let mut rig = Self::new(device);
        assert!(rig.start(without), "features are refused");
        rig.events.clear();
        rig
    }

    /// Resets the device and makes it ready. `false` if it refuses the features; it is then reset.
    pub fn start(&mut self, without: u64) -> bool {
        self.negotiate(without) && {
            self.set_up_queues();
            self.write_status(STATUS_DRIVER_OK);
            true
        }
    }

    /// Resets the device and negotiates; `false` if the features are refused.
    pub fn negotiate(&mut self, without: u64) -> bool {
        self.write_common(0x14, 1, 0);
        assert_eq!(self.read_common(0x14, 1), 0, "status after reset");
        self.write_status(STATUS_ACKNOWLEDGE);
        self.write_status(STATUS_DRIVER);
        self.features = self.offered() & !without | FEATURE_VERSION_1;
        for select in 0..2 {
            self.write_common(0x08, 4, select);
            self.write_common(0x0c, 4, self.features >> (32 * select) & 0xffff_ffff);
        }
        self.write_status(STATUS_FEATURES_OK);
        let agreed = self.status() & STATUS_FEATURES_OK != 0;
        if !agreed {
            self.write_common(0x14, 1, 0);
        }
        agreed
    }

    /// The features that the device offers.
    pub fn offered(&mut self) -> u64 {
        (0..2).fold(0, |features, select| {
            self.write_common(0x00, 4, select);
            features | self.read_common(0x04, 4) << (32 * select)
        })
    }

    /// The features agreed on.
    #[must_use]
    pub const fn features(&self) -> u64 {
        self.features
    }

    /// Gives the device rings and vectors.
    pub fn set_up_queues(&mut self) {
        let count = self.read_common(0x12, 2) as usize;
        // MSI-X is enabled by the upper byte of message control, at 0x42.
        self.config_write(0x43, 1, 0x80);
        for vector in 0..=count as u64 {
            let at = MSIX_TABLE_OFFSET + 16 * vector;
            self.bar_write(at, 8, 0xfee0_0000);
            self.bar_write(at + 8, 8, u64::from(FIRST_VECTOR) + vector);
        }
        self.write_common(0x10, 2, count as u64);
        self.queues.clear();
        self.ram
            .write(RAM_BASE, &vec![0; (BUFFERS - RAM_BASE) as usize])
            .expect("rings are in memory");
        for queue in 0..count {
            self.set_up_queue(queue);
        }
    }

    fn set_up_queue(&mut self, queue: usize) {
        self.write_common(0x16, 2, queue as u64);
        let size = self.read_common(0x18, 2) as u16;
        let rings = self.rings(queue);
        for (register, address) in [(0x20, rings[0]), (0x28, rings[1]), (0x30, rings[2])] {
            self.write_common(register, 4, address & 0xffff_ffff);
            self.write_common(register + 4, 4, address >> 32);
        }
        self.write_common(0x1a, 2, queue as u64);
        assert_eq!(self.read_common(0x1a, 2), queue as u64, "vector");
        self.write_common(0x1c, 2, 1);
        assert_eq!(self.read_common(0x1c, 2), 1, "queue {queue} is enabled");
        self.queues.push(DriverQueue {
            size,
            available_index: 0,
            used_index: 0,
            free: (0..size).rev().collect(),
            posted: vec![None; usize::from(size)],
        });
    }

    /// Addresses of descriptor table, available and used ring.
    #[must_use]
    pub const fn rings(&self, queue: usize) -> [u64; 3] {
        let base = RAM_BASE + QUEUE_STRIDE * queue as u64;
        [base, base + AVAILABLE, base + USED]
    }

    /// Number of queues in use.
    #[must_use]
    pub const fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self, queue: usize) -> usize {
        self.queues[queue].free.len()
    }

    /// A buffer for `len` bytes; it is used again when the area was gone through.
    pub fn buffer(&mut self, len: u32) -> u64 {
        let len = u64::from(len);
        if self.next_buffer + len > BUFFERS_SIZE {
            self.next_buffer = 0;
        }
        let at = BUFFERS + self.next_buffer;
        self.next_buffer += len;
        at
    }

    /// Offers a request of pieces to be read and pieces to be written. Returns its head.
    pub fn post(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let mut pieces = Vec::new();
        for bytes in readable {
            let gpa = self.buffer(bytes.len() as u32);
            self.ram.write(gpa, bytes).expect("buffers are in memory");
            pieces.push((gpa, bytes.len() as u32, 0));
        }
        let mut segments = Vec::new();
        for len in writable {
            let gpa = self.buffer(*len);
            segments.push(Segment { gpa, len: *len });
            pieces.push((gpa, *len, FLAG_WRITE));
        }
        let free = &mut self.queues[queue].free;
        let taken = free.split_off(free.len() - pieces.len());
        let table = self.rings(queue)[0];
        for (index, (gpa, len, flags)) in pieces.iter().enumerate() {
            let (flags, next) = match taken.get(index + 1) {
                Some(next) => (flags | FLAG_NEXT, *next),
                None => (*flags, 0),
            };
            self.put_descriptor(table, taken[index], (*gpa, *len, flags, next));
        }
        self.offer(queue, taken, segments)
    }

    /// Like [`Self::post`], with one descriptor and a table.
    pub fn post_indirect(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> u16 {
        assert!(self.features & FEATURE_INDIRECT != 0);
        let count = readable.len() + writable.len();
        let table = self.buffer(16 * (count as u32 + 1)).next_multiple_of(16);
        let mut pieces = Vec::new();
        for bytes in readable {
            let gpa = self.buffer(bytes.len() as u32);
            self.ram.write(gpa, bytes).expect("buffers are in memory");
            pieces.push((gpa, bytes.len() as u32, 0));
        }
        let mut segments = Vec::new();
        for len in writable {
            let gpa = self.buffer(*len);
            segments.push(Segment { gpa, len: *len });
            pieces.push((gpa, *len, FLAG_WRITE));
        }
        for (index, (gpa, len, flags)) in pieces.into_iter().enumerate() {
            let next = index as u16 + 1;
            let more = usize::from(next) < count;
            let flags = if more { flags | FLAG_NEXT } else { flags };
            self.put_descriptor(table, index as u16, (gpa, len, flags, next));
        }
        let head = self.queues[queue].free.pop().expect("a free descriptor");
        let own = self.rings(queue)[0];
        self.put_descriptor(own, head, (table, 16 * count as u32, FLAG_INDIRECT, 0));
        self.offer(queue, vec![head], segments)
    }

    /// Writes a descriptor: address, length, flags, next.
    pub fn put_descriptor(&mut self, table: u64, index: u16, fields: (u64, u32, u16, u16)) {
        let (gpa, len, flags, next) = fields;
        let mut bytes = gpa.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let at = table + 16 * u64::from(index);
        self.ram.write(at, &bytes).expect("tables are in memory");
    }

    fn offer(&mut self, queue: usize, taken: Vec<u16>, segments: Vec<Segment>) -> u16 {
        let head = taken[0];
        self.queues[queue].posted[usize::from(head)] = Some((taken, segments));
        self.offer_head(queue, head);
        head
    }

    /// Puts a head into the available ring, whatever it is.
    pub fn offer_head(&mut self, queue: usize, head: u16) {
        let index = self.queues[queue].available_index;
        let slot = u64::from(index & (self.queues[queue].size - 1));
        let ring = self.rings(queue)[1];
        self.put_u16(ring + 4 + 2 * slot, head);
        self.set_available_index(queue, index.wrapping_add(1));
    }

    /// Sets the available index, whatever it is.
    pub fn set_available_index(&mut self, queue: usize, index: u16) {
        self.queues[queue].available_index = index;
        let ring = self.rings(queue)[1];
        self.put_u16(ring + 2, index);
    }

    /// Notifies the device of a queue.
    pub fn notify(&mut self, queue: usize) {
        let at = NOTIFY_OFFSET + NOTIFY_MULTIPLIER * queue as u64;
        self.bar_write(at, 2, queue as u64);
    }

    /// Notifies the device if it wants to be, for the last `count` requests. Returns whether.
    pub fn kick(&mut self, queue: usize, count: u16) -> bool {
        let state = &self.queues[queue];
        let used = self.rings(queue)[2];
        let wanted = if self.features & FEATURE_EVENT_INDEX != 0 {
            let event = self.get_u16(used + 4 + 8 * u64::from(state.size));
            state.available_index.wrapping_sub(event).wrapping_sub(1) < count
        } else {
            self.get_u16(used) & 1 == 0
        };
        if wanted {
            self.notify(queue);
        }
        wanted
    }

    /// Offers a request and notifies the device.
    pub fn request(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let head = self.post(queue, readable, writable);
        self.notify(queue);
        head
    }

    /// The next request that came back; asks for an interrupt at the one after it.
    pub fn returned(&mut self, queue: usize) -> Option<Returned> {
        let [_, available, used] = self.rings(queue);
        let state = &self.queues[queue];
        if self.get_u16(used + 2) == state.used_index {
            return None;
        }
        let at = used + 4 + 8 * u64::from(state.used_index & (state.size - 1));
        let mut element = [0; 8];
        self.ram.read(at, &mut element).expect("a ring");
        let [a, b, _, _, e, f, g, h] = element;
        let (head, len) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([e, f, g, h]));
        let event = available + 4 + 2 * u64::from(state.size);
        let next = state.used_index.wrapping_add(1);
        let state = &mut self.queues[queue];
        state.used_index = next;
        let posted = state.posted.get_mut(usize::from(head));
        let (taken, segments) = posted
            .and_then(Option::take)
            .unwrap_or_else(|| panic!("queue {queue}: {head} was not offered"));
        state.free.extend(taken);
        self.put_u16(event, next);
        let mut bytes = Vec::new();
        for Segment { gpa, len } in segments {
            let start = bytes.len();
            bytes.resize(start + len as usize, 0);
            self.ram.read(gpa, &mut bytes[start..]).expect("a buffer");
        }
        assert!(len as usize <= bytes.len(), "more is written than may be");
        Some(Returned { head, len, bytes })
    }

    /// Everything that the device may write now: used rings and buffers offered.
    #[must_use]
    pub fn writable_areas(&self) -> Vec<(u64, u64)> {
        let mut areas = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            areas.push((self.rings(index)[2], 6 + 8 * u64::from(queue.size)));
            let posted = queue.posted.iter().flatten();
            let segments = posted.flat_map(|(_, segments)| segments);
            areas.extend(segments.map(|segment| (segment.gpa, u64::from(segment.len))));
        }
        areas
    }

    /// An input to the device.
    ///
    /// # Errors
    /// What the device answers.
    pub fn input(&mut self, input: VirtioInput) -> Result<InputOutcome, InputError> {
        self.with(|function, cx| function.input(input, cx))
    }

    /// Takes the events.
    pub fn take_events(&mut self) -> Vec<VirtioEvent> {
        std::mem::take(&mut self.events)
    }

    /// Takes the interrupts; returns the vectors.
    pub fn take_vectors(&mut self) -> Vec<u32> {
        let messages = std::mem::take(&mut self.messages);
        messages
            .iter()
            .map(|message| message.data - FIRST_VECTOR)
            .collect()
    }

    /// The status register.
    pub fn status(&mut self) -> u8 {
        self.read_common(0x14, 1) as u8
    }

    /// Adds bits to the status register.
    pub fn write_status(&mut self, bits: u8) {
        let status = self.status() | bits;
        self.write_common(0x14, 1, u64::from(status));
    }

    /// Reads a register of the common configuration.
    pub fn read_common(&mut self, offset: u64, size: u8) -> u64 {
        self.function.bar_read(0, COMMON_OFFSET + offset, size)
    }

    /// Writes a register of the common configuration.
    pub fn write_common(&mut self, offset: u64, size: u8, value: u64) {
        self.bar_write(COMMON_OFFSET + offset, size, value);
    }

    /// Writes to the BAR.
    pub fn bar_write(&mut self, offset: u64, size: u8, value: u64) {
        self.with(|function, cx| function.bar_write(0, offset, BarWrite { size, value }, cx));
    }

    /// Writes to configuration space.
    pub fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.with(|function, cx| function.config_write(offset, size, value, cx));
    }

    /// Random pieces of random sizes with `len` bytes in all.
    #[must_use]
    pub fn pieces(len: u32, random: &mut Random) -> Vec<u32> {
        let mut left = len;
        let mut pieces = Vec::new();
        while left > 0 {
            let rest = pieces.len() == 3 || random.below(3) == 0;
            let piece = if rest {
                left
            } else {
                1 + random.below(u64::from(left)) as u32
            };
            pieces.push(piece);
            left -= piece;
        }
        pieces
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut VirtioPci<D>, &mut PciContext<'_>) -> R) -> R {
        let mut cx = PciContext::new(&mut self.ram);
        let result = act(&mut self.function, &mut cx);
        self.messages.extend(cx.messages);
        self.events.extend(cx.events);
        result
    }

    fn get_u16(&self, gpa: u64) -> u16 {
        read_u16(&self.ram, gpa).expect("a ring")
    }

    fn put_u16(&mut self, gpa: u64, value: u16) {
        let bytes = value.to_le_bytes();
        self.ram.write(gpa, &bytes).expect("a ring");
    }
}
