//! A split virtqueue, from the device's side.
//!
//! ```text
//! descriptor table   available ring (driver writes)      used ring (device writes)
//! addr len flags     flags idx ring[n] used_event        flags idx (id,len)[n] avail_event
//!     next                     ▲ next_available                ▲ next_used
//! ```
//!
//! A chain is taken by [`Queue::pop`], which checks everything before anything is transferred, and
//! given back by [`Queue::push`]. Work is bounded: a chain has at most as many descriptors as the
//! queue, those of an indirect table included, and at most one queue of chains is outstanding.
//!
//! No state is kept that the specification does not have: a saved queue is its registers, three
//! addresses and three indices.
//!
//! Spec: virtio 1.2 §2.7. Deviates: a descriptor of no bytes is a fault.

use serde::{Deserialize, Serialize};

use crate::dma::{GuestRam, read_u16};
use crate::saved::{RestoreError, check};

use super::chain::{Chain, Segment};
use super::fault::Fault;

/// Feature bit: descriptors may refer to tables of descriptors.
pub const FEATURE_INDIRECT: u64 = 1 << 28;
/// Feature bit: notifications are suppressed by index, not by flag.
pub const FEATURE_EVENT_INDEX: u64 = 1 << 29;
/// The largest queue there can be.
pub const LARGEST_QUEUE: u16 = 1 << 15;
/// The vector that is none.
pub const NO_VECTOR: u16 = 0xffff;

const DESCRIPTOR_SIZE: u64 = 16;
const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;
const AVAILABLE_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// One of the three areas of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    gpa: u64,
    len: u64,
}

impl Area {
    const fn overlaps(self, gpa: u64, len: u64) -> bool {
        gpa < self.gpa.saturating_add(self.len) && self.gpa < gpa.saturating_add(len)
    }
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    gpa: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// A queue: what the driver configured, and how far it is used. All of it is state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    max_size: u16,
    size: u16,
    enabled: bool,
    /// Interrupt vector, [`NO_VECTOR`] for none.
    pub vector: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
    /// The used index when it was last decided whether to interrupt.
    signalled: u16,
}

/// The three ring addresses, as the driver names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The descriptor table.
    Descriptors,
    /// The available ring.
    Available,
    /// The used ring.
    Used,
}

impl Queue {
    /// A queue of at most `max_size` entries, disabled.
    ///
    /// # Panics
    /// If `max_size` is not a power of two up to [`LARGEST_QUEUE`].
    #[must_use]
    pub fn new(max_size: u16) -> Self {
        assert!(max_size.is_power_of_two() && max_size <= LARGEST_QUEUE);
        Self {
            max_size,
            size: max_size,
            enabled: false,
            vector: NO_VECTOR,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
            signalled: 0,
        }
    }

    /// Puts it in its power-on state.
    pub fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    /// Entries.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Whether the driver enabled it.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    /// Chains taken and not given back.
    #[must_use]
    pub const fn outstanding(&self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }

    /// The address of a ring.
    #[must_use]
    pub const fn ring(&self, ring: Ring) -> u64 {
        match ring {
            Ring::Descriptors => self.descriptors,
            Ring::Available => self.available,
            Ring::Used => self.used,
        }
    }

    /// The driver sets the address of a ring. Ignored once the queue is enabled.
    pub const fn set_ring(&mut self, ring: Ring, gpa: u64) {
        if self.enabled {
            return;
        }
        match ring {
            Ring::Descriptors => self.descriptors = gpa,
            Ring::Available => self.available = gpa,
            Ring::Used => self.used = gpa,
        }
    }

    /// The driver sets the size of queue number `queue`. Ignored once it is enabled.
    ///
    /// # Errors
    /// If the size is not a power of two up to the device's.
    pub const fn set_size(&mut self, queue: u16, size: u16) -> Result<(), Fault> {
        if self.enabled {
            return Ok(());
        }
        if !size.is_power_of_two() || size > self.max_size {
            return Err(Fault::QueueSize { queue, size });
        }
        self.size = size;
        Ok(())
    }

    /// The driver enables it.
    ///
    /// # Errors
    /// If a ring is not aligned, not memory, or shares bytes with another one.
    pub fn enable(&mut self, ram: &dyn GuestRam) -> Result<(), Fault> {
        if self.enabled {
            return Ok(());
        }
        let areas = self.areas();
        for (area, alignment) in areas.iter().zip([16, 2, 4]) {
            if !area.gpa.is_multiple_of(alignment) {
                return Err(Fault::MisalignedRing { gpa: area.gpa });
            }
            if !ram.is_ram(area.gpa, area.len) {
                return Err(Fault::NotMemory {
                    gpa: area.gpa,
                    len: area.len,
                });
            }
        }
        for (index, area) in areas.iter().enumerate() {
            let mut others = areas[..index].iter();
            if others.any(|other| other.overlaps(area.gpa, area.len)) {
                return Err(Fault::OverlapsRing { gpa: area.gpa });
            }
        }
        self.enabled = true;
        Ok(())
    }

    /// Whether the driver offers a chain that was not taken.
    ///
    /// # Errors
    /// If the available index is not one that it can have.
    pub fn has_available(&self, ram: &dyn GuestRam) -> Result<bool, Fault> {
        if !self.enabled {
            return Ok(false);
        }
        let index = read_u16(ram, self.available.wrapping_add(2))?;
        let ahead = index.wrapping_sub(self.next_available);
        // What is ahead and what is outstanding share the queue.
        if ahead > self.size.saturating_sub(self.outstanding()) {
            return Err(Fault::AvailableIndex {
                index,
                expected: self.next_available,
            });
        }
        Ok(ahead > 0)
    }

    /// Takes the next chain, if there is one.
    ///
    /// # Errors
    /// If the ring or the chain is not as it must be; nothing was taken then.
    pub fn pop(&mut self, ram: &dyn GuestRam, features: u64) -> Result<Option<Chain>, Fault> {
        if !self.has_available(ram)? {
            return Ok(None);
        }
        let slot = u64::from(self.next_available & (self.size - 1));
        let head = read_u16(ram, self.available.wrapping_add(4 + 2 * slot))?;
        let chain = self.walk(ram, head, features & FEATURE_INDIRECT != 0)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts back the last `count` chains that were taken.
    pub const fn rewind(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    /// Gives a chain back, `len` bytes of which were written.
    ///
    /// # Errors
    /// If the used ring is not memory.
    pub fn push(&mut self, ram: &mut dyn GuestRam, head: u16, len: u32) -> Result<(), Fault> {
        let slot = u64::from(self.next_used & (self.size - 1));
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        ram.write(self.used.wrapping_add(4 + 8 * slot), &element)?;
        self.next_used = self.next_used.wrapping_add(1);
        ram.write(self.used.wrapping_add(2), &self.next_used.to_le_bytes())?;
        Ok(())
    }

    /// Whether what was given back since the last call calls for an interrupt.
    ///
    /// # Errors
    /// If the available ring is not memory.
    pub fn wants_interrupt(&mut self, ram: &dyn GuestRam, features: u64) -> Result<bool, Fault> {
        let (old, new) = (self.signalled, self.next_used);
        self.signalled = new;
        if old == new {
            return Ok(false);
        }
        if features & FEATURE_EVENT_INDEX == 0 {
            let flags = read_u16(ram, self.available)?;
            return Ok(flags & AVAILABLE_NO_INTERRUPT == 0);
        }
        let event = read_u16(
            ram,
            self.available.wrapping_add(4 + 2 * u64::from(self.size)),
        )?;
        // The driver wants to hear when the index passes `event`.
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Tells the driver whether it shall notify when it offers the next chain.
    ///
    /// # Errors
    /// If a ring is not memory.
    pub fn want_notification(
        &self,
        ram: &mut dyn GuestRam,
        features: u64,
        wanted: bool,
    ) -> Result<(), Fault> {
        if !self.enabled {
            return Ok(());
        }
        if features & FEATURE_EVENT_INDEX == 0 {
            let flags = if wanted { 0 } else { USED_NO_NOTIFY };
            ram.write(self.used, &flags.to_le_bytes())?;
        } else if wanted {
            // Chains that were put back count as offered, so it is the driver's own index.
            let offered = read_u16(ram, self.available.wrapping_add(2))?;
            let at = self.used.wrapping_add(4 + 8 * u64::from(self.size));
            ram.write(at, &offered.to_le_bytes())?;
        }
        // With event indices nothing is to be done to stop them: an index that is not moved on is
        // passed only once.
        Ok(())
    }

    /// Checks a decoded state.
    ///
    /// # Errors
    /// If a field has a value that a queue of at most `max_size` entries cannot have.
    pub fn validate(&self, max_size: u16) -> Result<(), RestoreError> {
        let kind = "pci";
        check(
            self.max_size == max_size,
            kind,
            "queue.max_size",
            self.max_size,
        )?;
        let size = self.size;
        check(
            size.is_power_of_two() && size <= max_size,
            kind,
            "queue.size",
            size,
        )?;
        let outstanding = self.outstanding();
        check(outstanding <= size, kind, "queue.next_used", self.next_used)
    }

    fn areas(&self) -> [Area; 3] {
        let size = u64::from(self.size);
        let area = |gpa, len| Area { gpa, len };
        [
            area(self.descriptors, DESCRIPTOR_SIZE * size),
            area(self.available, 6 + 2 * size),
            area(self.used, 6 + 8 * size),
        ]
    }

    fn walk(&self, ram: &dyn GuestRam, head: u16, indirect: bool) -> Result<Chain, Fault> {
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let (mut table, mut count) = (self.descriptors, u32::from(self.size));
        let mut in_table = false;
        let (mut index, mut seen, mut total) = (head, 0, 0u64);
        loop {
            if u32::from(index) >= count {
                return Err(Fault::DescriptorIndex { index, count });
            }
            let descriptor = read_descriptor(ram, table, index)?;
            if descriptor.flags & FLAG_INDIRECT != 0 {
                if in_table || !indirect || descriptor.flags & FLAG_NEXT != 0 {
                    return Err(Fault::MisplacedIndirect { head });
                }
                (table, count) = (descriptor.gpa, indirect_count(ram, &descriptor)?);
                (in_table, index) = (true, 0);
                continue;
            }
            seen += 1;
            if seen > self.size {
                return Err(Fault::ChainTooLong { head });
            }
            total += u64::from(descriptor.len);
            if total > u64::from(u32::MAX) {
                return Err(Fault::HugeChain { head });
            }
            self.add(ram, &mut chain, &descriptor)?;
            if descriptor.flags & FLAG_NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
    }

    fn add(
        &self,
        ram: &dyn GuestRam,
        chain: &mut Chain,
        descriptor: &Descriptor,
    ) -> Result<(), Fault> {
        let (gpa, len, head) = (descriptor.gpa, descriptor.len, chain.head);
        if len == 0 {
            return Err(Fault::EmptyDescriptor { head });
        }
        let size = u64::from(len);
        if !ram.is_ram(gpa, size) {
            return Err(Fault::NotMemory { gpa, len: size });
        }
        if descriptor.flags & FLAG_WRITE == 0 {
            if !chain.writable.is_empty() {
                return Err(Fault::ReadableAfterWritable { head });
            }
            chain.readable.push(Segment { gpa, len });
        } else {
            if self.areas().iter().any(|area| area.overlaps(gpa, size)) {
                return Err(Fault::OverlapsRing { gpa });
            }
            chain.writable.push(Segment { gpa, len });
        }
        Ok(())
    }
}

fn read_descriptor(ram: &dyn GuestRam, table: u64, index: u16) -> Result<Descriptor, Fault> {
    let mut bytes = [0; DESCRIPTOR_SIZE as usize];
    let at = table.wrapping_add(DESCRIPTOR_SIZE * u64::from(index));
    ram.read(at, &mut bytes)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    Ok(Descriptor {
        gpa: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        len: u32::from_le_bytes([i, j, k, l]),
        flags: u16::from_le_bytes([m, n]),
        next: u16::from_le_bytes([o, p]),
    })
}

/// Number of descriptors in an indirect table.
fn indirect_count(ram: &dyn GuestRam, descriptor: &Descriptor) -> Result<u32, Fault> {
    let (gpa, len) = (descriptor.gpa, descriptor.len);
    let count = len / DESCRIPTOR_SIZE as u32;
    if count == 0 || !len.is_multiple_of(DESCRIPTOR_SIZE as u32) {
        return Err(Fault::IndirectLength { len });
    }
    if !ram.is_ram(gpa, u64::from(len)) {
        return Err(Fault::NotMemory {
            gpa,
            len: u64::from(len),
        });
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
