//! Pages on their way: how a batch of them becomes a request.
//!
//! A peer with our extension is sent batches in which pages of zeroes are their number only and the
//! data may be packed; every other peer gets plain memory. Whether packing is worth its time
//! depends on the connection: over a fast one it makes a migration slower. So it is tried now and
//! then, and done while the time it saves on the way is more than it takes.

use std::time::Duration;

use ft::codec::FieldWriter;
use ft::machine::PAGE_SIZE;
use ft::snapshot::{Packing, encode_pages};
use ft::time::PageNumber;

use super::layout::Layout;
use super::wire::{Command, Request, encode_table};

/// Batches between two tries of packing that is not worth its time.
const TRY_INTERVAL: u32 = 64;

/// Some pages, ascending, and what is in them, one behind another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which.
    pub pages: Vec<PageNumber>,
    /// Their bytes.
    pub data: Vec<u8>,
}

/// A request that carries memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Its head.
    pub request: Request,
    /// What the head announces.
    pub payload: Vec<u8>,
    /// What follows.
    pub data: Vec<u8>,
}

impl Carrier {
    /// Plain memory.
    pub fn plain(batch: Batch, layout: &Layout) -> Self {
        let payload = encode_table(&layout.ranges(&batch.pages));
        Self {
            request: Request::with(Command::Memory, payload.len() as u64),
            payload,
            data: batch.data,
        }
    }

    /// A batch for a peer that has our extension.
    pub fn packed(batch: Batch, packing: Packing) -> Self {
        let mut writer = FieldWriter::new();
        encode_pages(&mut writer, &batch.pages, batch.data, packing);
        let payload = writer.finish();
        Self {
            request: Request::with(Command::PackedMemory, payload.len() as u64),
            payload,
            data: Vec::new(),
        }
    }

    /// Bytes on the wire.
    pub fn wire_bytes(&self) -> u64 {
        (super::wire::HEAD_BYTES + self.payload.len() + self.data.len()) as u64
    }
}

/// Decides whether batches are packed.
#[derive(Debug, Clone)]
pub struct Packer {
    packing: Packing,
    /// Batches until packing is tried again.
    until_try: u32,
    /// Nanoseconds that the connection takes for a mebibyte.
    wire_ns: u64,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            packing: Packing::None,
            // The connection's speed is known then.
            until_try: 8,
            wire_ns: 0,
        }
    }
}

impl Packer {
    /// How the next batch is sent.
    pub fn choose(&mut self) -> Packing {
        if self.packing == Packing::Lz4 {
            return Packing::Lz4;
        }
        self.until_try = self.until_try.saturating_sub(1);
        if self.until_try == 0 {
            self.until_try = TRY_INTERVAL;
            return Packing::Lz4;
        }
        Packing::None
    }

    /// The connection was busy for `took` with `bytes`.
    pub fn sent(&mut self, bytes: u64, took: Duration) {
        if bytes >= PAGE_SIZE as u64 {
            let fresh = mebibyte_ns(bytes, took);
            self.wire_ns = if self.wire_ns == 0 {
                fresh
            } else {
                (self.wire_ns * 3 + fresh) / 4
            };
        }
    }

    /// A batch of `before` bytes became one of `after` in `took`.
    pub fn packed(&mut self, before: u64, after: u64, took: Duration) {
        let fewer = u128::from(before.saturating_sub(after));
        let saved = (fewer * u128::from(self.wire_ns)) >> 20;
        let worth = saved > took.as_nanos();
        self.packing = if worth { Packing::Lz4 } else { Packing::None };
    }
}

fn mebibyte_ns(bytes: u64, took: Duration) -> u64 {
    let ns = (took.as_nanos() << 20) / u128::from(bytes.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MachineConfig;
    use crate::migration::contents::Contents;
    use crate::migration::wire::{MOST_PACKED, decode_table};
    use hypervisor::{GuestAddress, MemoryKind};

    fn config() -> MachineConfig {
        MachineConfig {
            memory_size: 512 * PAGE_SIZE as u64,
            serial: false,
            start_seconds: 0,
            boot_pages: 1,
            tsc_khz: 1_000_000,
            virtio: Vec::new(),
        }
    }

    /// Every other page of zeroes; the rest does not pack.
    fn batch(count: u64) -> Batch {
        let mut value = 1_u32;
        let mut noise = || {
            value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (value >> 24) as u8
        };
        let page = |number: u64| -> Vec<u8> {
            let bytes = 0..PAGE_SIZE;
            match number % 2 {
                0 => vec![0; PAGE_SIZE],
                _ => bytes.map(|_| noise()).collect(),
            }
        };
        Batch {
            pages: (0..count).map(PageNumber).collect(),
            data: (0..count).flat_map(page).collect(),
        }
    }

    #[test]
    fn a_batch_arrives_as_it_left_whichever_way_it_is_sent() {
        let batch = batch(100);
        let plain = Carrier::plain(batch.clone(), &Layout::of(&config()));
        for carrier in [
            plain,
            Carrier::packed(batch.clone(), Packing::None),
            Carrier::packed(batch.clone(), Packing::Lz4),
        ] {
            let contents = Contents::new(&config(), MemoryKind::Private).unwrap();
            if carrier.request.command == Command::Memory {
                let mut data = carrier.data.as_slice();
                for range in decode_table(&carrier.payload).unwrap() {
                    let (piece, rest) = data.split_at(range.length as usize);
                    contents.write(range.address, piece).unwrap();
                    data = rest;
                }
            } else {
                assert_eq!(contents.unpack(&carrier.payload).unwrap(), 100);
                assert!(carrier.wire_bytes() < 51 * PAGE_SIZE as u64);
            }
            let (memory, _) = contents.take();
            let mut read = vec![0; batch.data.len()];
            memory.read(GuestAddress(0), &mut read).unwrap();
            assert!(read == batch.data);
        }
    }

    #[test]
    fn the_largest_batch_is_one_that_a_peer_takes() {
        let pages: Vec<_> = (0..256).map(PageNumber).collect();
        let data = (0..256 * PAGE_SIZE)
            .map(|n| (n / 3 % 251) as u8 | 1)
            .collect();
        let carrier = Carrier::packed(Batch { pages, data }, Packing::None);
        assert!(carrier.payload.len() as u64 <= MOST_PACKED);
        assert!(carrier.payload.len() > 256 * PAGE_SIZE);
    }

    #[test]
    fn packing_is_tried_now_and_then_and_done_where_the_connection_is_slow() {
        let ms = Duration::from_millis;
        let mut packer = Packer::default();
        let tries = |packer: &mut Packer, count: u32| {
            (0..count)
                .filter(|_| packer.choose() == Packing::Lz4)
                .count()
        };
        assert_eq!(tries(&mut packer, 7), 0);
        assert_eq!(tries(&mut packer, 1), 1);
        // A mebibyte in a millisecond: half of one saved is not worth two milliseconds.
        packer.sent(1 << 20, ms(1));
        packer.packed(1 << 20, 1 << 19, ms(2));
        assert_eq!(tries(&mut packer, TRY_INTERVAL), 1);
        // Ten mebibytes in a second.
        for _ in 0..20 {
            packer.sent(1 << 20, ms(100));
        }
        packer.packed(1 << 20, 1 << 19, ms(2));
        assert_eq!(tries(&mut packer, 100), 100);
        packer.packed(1 << 20, 1 << 20, ms(2));
        assert_eq!(tries(&mut packer, TRY_INTERVAL - 1), 0);
    }
}
