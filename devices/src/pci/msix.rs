//! MSI-X: a table of messages, one for each vector, with masks and pending bits.
//!
//! ```text
//! table entry = address (8) | data (4) | control (4), bit 0 masks
//! a vector fires ─▶ enabled? ─▶ masked? ─ no ─▶ message
//!                     │ no         └ yes ─▶ pending, sent when the last mask goes
//!                     └▶ nothing: the function uses its pin
//! ```
//!
//! Spec: PCI Local Bus 3.0 §6.8.2. Reads may have any size and offset; writes that are not aligned
//! dwords or quadwords are ignored, as their effect is undefined there.

use serde::{Deserialize, Serialize};

use crate::saved::{RestoreError, check};

/// Capability id.
pub const MSIX_CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
pub const MSIX_ENTRY_SIZE: u64 = 16;

/// Message control: enable, in the upper byte.
pub const CONTROL_ENABLE: u8 = 1 << 7;
/// Message control: function mask, in the upper byte.
pub const CONTROL_FUNCTION_MASK: u8 = 1 << 6;

const ENTRY_MASKED: u32 = 1;

/// A write that a function does to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixMessage {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

impl Entry {
    const RESET: Self = Self {
        address: 0,
        data: 0,
        masked: true,
        pending: false,
    };

    const fn dword(&self, index: u64) -> u32 {
        match index {
            0 => self.address as u32,
            1 => (self.address >> 32) as u32,
            2 => self.data,
            _ => self.masked as u32,
        }
    }

    const fn set_dword(&mut self, index: u64, value: u32) {
        match index {
            0 => self.address = self.address & !0xffff_ffff | (value & !3) as u64,
            1 => self.address = self.address & 0xffff_ffff | (value as u64) << 32,
            2 => self.data = value,
            _ => self.masked = value & ENTRY_MASKED != 0,
        }
    }
}

/// The MSI-X part of a function; its state is all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msix {
    enabled: bool,
    function_masked: bool,
    entries: Vec<Entry>,
}

impl Msix {
    /// `count` vectors, all masked.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            enabled: false,
            function_masked: false,
            entries: vec![Entry::RESET; usize::from(count)],
        }
    }

    /// Puts it in its power-on state.
    pub fn reset(&mut self) {
        self.enabled = false;
        self.function_masked = false;
        self.entries.fill(Entry::RESET);
    }

    /// Number of vectors.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Whether messages replace the interrupt pin.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    /// The upper byte of message control.
    #[must_use]
    pub const fn control(&self) -> u8 {
        let enable = if self.enabled { CONTROL_ENABLE } else { 0 };
        let mask = if self.function_masked {
            CONTROL_FUNCTION_MASK
        } else {
            0
        };
        enable | mask
    }

    /// The guest wrote the upper byte of message control. Adds what was pending to `messages`.
    pub fn set_control(&mut self, control: u8, messages: &mut Vec<MsixMessage>) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.function_masked = control & CONTROL_FUNCTION_MASK != 0;
        self.send_pending(messages);
    }

    /// A vector fires. `None` if it cannot be sent now, or does not exist.
    #[must_use]
    pub fn fire(&mut self, vector: u16) -> Option<MsixMessage> {
        if !self.enabled {
            return None;
        }
        let entry = self.entries.get_mut(usize::from(vector))?;
        if entry.masked || self.function_masked {
            entry.pending = true;
            return None;
        }
        Some(MsixMessage {
            address: entry.address,
            data: entry.data,
        })
    }

    /// A guest read of `size` bytes of the table.
    #[must_use]
    pub fn read_table(&self, offset: u64, size: u8) -> u64 {
        let byte = |at: u64| {
            let entry = self.entries.get((at / MSIX_ENTRY_SIZE) as usize);
            let dword = entry.map_or(0, |entry| entry.dword(at % MSIX_ENTRY_SIZE / 4));
            dword.to_le_bytes()[(at % 4) as usize]
        };
        gather(offset, size, byte)
    }

    /// A guest write to the table. Adds what was pending and is not masked now to `messages`.
    pub fn write_table(
        &mut self,
        offset: u64,
        size: u8,
        value: u64,
        messages: &mut Vec<MsixMessage>,
    ) {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(u64::from(size)) {
            return;
        }
        for half in 0..u64::from(size / 4) {
            let at = offset + 4 * half;
            if let Some(entry) = self.entries.get_mut((at / MSIX_ENTRY_SIZE) as usize) {
                entry.set_dword(at % MSIX_ENTRY_SIZE / 4, (value >> (32 * half)) as u32);
            }
        }
        self.send_pending(messages);
    }

    /// A guest read of `size` bytes of the pending bit array.
    #[must_use]
    pub fn read_pending(&self, offset: u64, size: u8) -> u64 {
        let byte = |at: u64| {
            (0..8).fold(0, |byte, bit| {
                let index = at.saturating_mul(8).saturating_add(bit);
                let entry = self.entries.get(index as usize);
                byte | u8::from(entry.is_some_and(|entry| entry.pending)) << bit
            })
        };
        gather(offset, size, byte)
    }

    /// Checks a decoded state.
    ///
    /// # Errors
    /// If it does not have `count` vectors or holds an address that cannot be written.
    pub fn validate(&self, count: u16) -> Result<(), RestoreError> {
        let found = self.entries.len();
        check(found == usize::from(count), "pci", "msix.entries", found)?;
        for entry in &self.entries {
            check(entry.address & 3 == 0, "pci", "msix.address", entry.address)?;
            let held = entry.masked || self.function_masked || !self.enabled;
            check(held || !entry.pending, "pci", "msix.pending", entry.pending)?;
        }
        Ok(())
    }

    fn send_pending(&mut self, messages: &mut Vec<MsixMessage>) {
        if !self.enabled || self.function_masked {
            return;
        }
        for entry in &mut self.entries {
            if entry.pending && !entry.masked {
                entry.pending = false;
                messages.push(MsixMessage {
                    address: entry.address,
                    data: entry.data,
                });
            }
        }
    }
}

/// `size` bytes from `offset` up as a number; at most 8.
fn gather(offset: u64, size: u8, byte: impl Fn(u64) -> u8) -> u64 {
    (0..u64::from(size.min(8))).fold(0, |value, index| {
        value | u64::from(byte(offset.wrapping_add(index))) << (8 * index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Msix {
        let mut msix = Msix::new(3);
        let mut none = Vec::new();
        for vector in 0..3 {
            msix.write_table(16 * vector, 8, 0xfee0_1000, &mut none);
            msix.write_table(16 * vector + 8, 4, 0x40 + vector, &mut none);
        }
        assert_eq!(none, []);
        msix
    }

    fn message(data: u32) -> MsixMessage {
        MsixMessage {
            address: 0xfee0_1000,
            data,
        }
    }

    #[test]
    fn a_masked_vector_waits_and_an_unmasked_one_is_sent() {
        let mut msix = table();
        let mut sent = Vec::new();
        assert_eq!(msix.fire(1), None, "not enabled");
        msix.set_control(CONTROL_ENABLE, &mut sent);
        assert_eq!(msix.read_pending(0, 8), 0, "nothing pends while disabled");
        assert_eq!(msix.fire(1), None);
        assert_eq!(msix.read_pending(0, 8), 2);
        msix.write_table(16 + 12, 4, 0, &mut sent);
        assert_eq!(sent, [message(0x41)]);
        assert_eq!(msix.fire(1), Some(message(0x41)));
        assert_eq!(msix.read_pending(0, 1), 0);
        assert_eq!(msix.fire(3), None, "no such vector");
    }

    #[test]
    fn the_function_mask_holds_all_vectors() {
        let mut msix = table();
        let mut sent = Vec::new();
        // Data and vector control in one quadword.
        msix.write_table(8, 8, 0x50, &mut sent);
        msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK, &mut sent);
        assert_eq!(msix.control(), 0xc0);
        assert_eq!((msix.fire(0), msix.fire(2)), (None, None));
        msix.set_control(CONTROL_ENABLE, &mut sent);
        assert_eq!(sent, [message(0x50)], "vector 2 has its own mask");
        assert_eq!(msix.read_pending(0, 4), 4);
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let mut msix = table();
        let before = msix.clone();
        for (offset, size) in [(1, 4), (4, 8), (0, 1), (0, 2), (48, 4), (1 << 40, 8)] {
            msix.write_table(offset, size, u64::MAX, &mut Vec::new());
        }
        assert_eq!(msix, before);
        assert_eq!(msix.read_table(1, 2), 0xe010);
        assert_eq!(msix.read_table(12, 8), 0xfee0_1000_0000_0001);
        assert_eq!(msix.read_table(u64::MAX, 200), 0xfee0_1000 << 8);
        assert_eq!(msix.read_pending(1 << 50, 8), 0);
    }
}
