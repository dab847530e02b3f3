//! From a chain to a request, and from a result to the guest's status byte.
//!
//! ```text
//! readable: type (4) | reserved (4) | sector (8) | data of a write, or ranges of 16 bytes
//! writable: data of a read, or the serial number | status (1)
//! ```
//!
//! Parts are found by position, not by descriptor. A chain without header or status byte cannot be
//! answered and is a fault; everything else that is wrong is answered with a status.

use crate::virtio::chain::Chain;
use crate::virtio::device::Context;
use crate::virtio::fault::Fault;
use crate::virtio::payload::Payload;

use super::{
    BlockOperation, BlockRequest, BlockStateV1, FEATURE_CONFIG_WCE, FEATURE_DISCARD, FEATURE_FLUSH,
    FEATURE_WRITE_ZEROES, QUEUE, RANGE_SECTORS_MAX, REQUEST_BYTES_MAX, SECTOR_SIZE, SERIAL_SIZE,
};

/// Status: done.
pub(super) const STATUS_OK: u8 = 0;
/// Status: failed.
pub(super) const STATUS_IO_ERROR: u8 = 1;
/// Status: no such request.
pub(super) const STATUS_UNSUPPORTED: u8 = 2;

const HEADER_SIZE: u64 = 16;
const RANGE_SIZE: u64 = 16;
const RANGE_UNMAP: u32 = 1;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

/// What a chain asks for.
pub(super) enum Parsed {
    /// Something that the host has to do.
    Submit(Work),
    /// Nothing that the host is needed for.
    Answer {
        /// The status byte.
        status: u8,
        /// What goes to the front of the writable part.
        data: Vec<u8>,
    },
}

/// A request without a number.
pub(super) struct Work {
    operation: BlockOperation,
    sector: u64,
    len: u64,
    durable: bool,
    data: Payload,
}

impl Work {
    pub(super) fn into_request(self, id: u64) -> BlockRequest {
        let Self {
            operation,
            sector,
            len,
            durable,
            data,
        } = self;
        BlockRequest {
            id,
            operation,
            sector,
            len,
            durable,
            data,
        }
    }
}

/// A status other than success, in place of a request.
struct Refused(u8);

const IO_ERROR: Refused = Refused(STATUS_IO_ERROR);
const UNSUPPORTED: Refused = Refused(STATUS_UNSUPPORTED);

/// Reads what a chain asks for, and the data of a write.
pub(super) fn parse(
    chain: &Chain,
    state: &BlockStateV1,
    cx: &Context<'_>,
) -> Result<Parsed, Fault> {
    let mut header = [0; HEADER_SIZE as usize];
    if chain.writable_len() == 0 || !chain.read(&*cx.ram, 0, &mut header)? {
        return Err(Fault::Malformed { head: chain.head });
    }
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let kind = u32::from_le_bytes([a, b, c, d]);
    let sector = u64::from_le_bytes(sector);
    let parsed = match kind {
        TYPE_IN | TYPE_OUT => transfer(chain, kind == TYPE_OUT, sector, state, cx),
        TYPE_FLUSH if cx.has(FEATURE_FLUSH) => Ok(Ok(Work {
            operation: BlockOperation::Flush,
            sector: 0,
            len: 0,
            durable: true,
            data: Payload::default(),
        })),
        TYPE_GET_ID => return Ok(serial_number(chain, state)),
        TYPE_DISCARD if cx.has(FEATURE_DISCARD) => range(chain, false, state, cx),
        TYPE_WRITE_ZEROES if cx.has(FEATURE_WRITE_ZEROES) => range(chain, true, state, cx),
        _ => Ok(Err(UNSUPPORTED)),
    };
    Ok(match parsed? {
        Ok(work) => Parsed::Submit(work),
        Err(Refused(status)) => Parsed::Answer {
            status,
            data: Vec::new(),
        },
    })
}

/// Writes data and status, and gives the chain back.
pub(super) fn answer(
    cx: &mut Context<'_>,
    chain: &Chain,
    status: u8,
    data: &[u8],
) -> Result<(), Fault> {
    // Both fit: a chain without a status byte was refused, and no more data was asked for.
    let malformed = Fault::Malformed { head: chain.head };
    let last = chain.writable_len().checked_sub(1).ok_or(malformed)?;
    if data.len() as u64 > last {
        return Err(malformed);
    }
    chain.write(cx.ram, 0, data)?;
    chain.write(cx.ram, last, &[status])?;
    cx.push(QUEUE, chain.head, data.len() as u64 + 1)
}

fn serial_number(chain: &Chain, state: &BlockStateV1) -> Parsed {
    let room = (chain.writable_len() - 1).min(SERIAL_SIZE as u64) as usize;
    Parsed::Answer {
        status: STATUS_OK,
        data: state.config.serial[..room].to_vec(),
    }
}

fn transfer(
    chain: &Chain,
    write: bool,
    sector: u64,
    state: &BlockStateV1,
    cx: &Context<'_>,
) -> Result<Result<Work, Refused>, Fault> {
    let len = if write {
        chain.readable_len() - HEADER_SIZE
    } else {
        chain.writable_len() - 1
    };
    if write && state.config.read_only {
        return Ok(Err(IO_ERROR));
    }
    if len == 0 || len > REQUEST_BYTES_MAX || !is_inside(sector, len, state) {
        return Ok(Err(IO_ERROR));
    }
    let (operation, data) = if write {
        let data = chain.read_from(&*cx.ram, HEADER_SIZE, len as usize)?;
        // What was measured is there.
        let data = data.ok_or(Fault::Malformed { head: chain.head })?;
        (BlockOperation::Write, data)
    } else {
        (BlockOperation::Read, Vec::new())
    };
    Ok(Ok(Work {
        operation,
        sector,
        len,
        durable: write && is_write_through(state, cx),
        data: Payload::from(data),
    }))
}

fn range(
    chain: &Chain,
    zeroes: bool,
    state: &BlockStateV1,
    cx: &Context<'_>,
) -> Result<Result<Work, Refused>, Fault> {
    if state.config.read_only || chain.readable_len() != HEADER_SIZE + RANGE_SIZE {
        return Ok(Err(IO_ERROR));
    }
    let mut bytes = [0; RANGE_SIZE as usize];
    chain.read(&*cx.ram, HEADER_SIZE, &mut bytes)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let count = u32::from_le_bytes([i, j, k, l]);
    let flags = u32::from_le_bytes([m, n, o, p]);
    let allowed = if zeroes { RANGE_UNMAP } else { 0 };
    if flags & !allowed != 0 {
        return Ok(Err(UNSUPPORTED));
    }
    let len = u64::from(count) * SECTOR_SIZE;
    if count == 0 || count > RANGE_SECTORS_MAX || !is_inside(sector, len, state) {
        return Ok(Err(IO_ERROR));
    }
    let may_unmap = flags & RANGE_UNMAP != 0;
    Ok(Ok(Work {
        operation: if zeroes {
            BlockOperation::WriteZeroes { may_unmap }
        } else {
            BlockOperation::Discard
        },
        sector,
        len,
        durable: is_write_through(state, cx),
        data: Payload::default(),
    }))
}

/// Whether a range is within the capacity and made of whole blocks.
fn is_inside(sector: u64, len: u64, state: &BlockStateV1) -> bool {
    let config = &state.config;
    let block = u64::from(config.block_size);
    let aligned = len.is_multiple_of(block) && sector.is_multiple_of(block / SECTOR_SIZE);
    let end = sector.checked_add(len / SECTOR_SIZE);
    aligned && end.is_some_and(|end| end <= config.sectors)
}

/// Whether a write must be durable when it is completed.
fn is_write_through(state: &BlockStateV1, cx: &Context<'_>) -> bool {
    if cx.has(FEATURE_CONFIG_WCE) {
        !state.write_back
    } else {
        !cx.has(FEATURE_FLUSH)
    }
}
