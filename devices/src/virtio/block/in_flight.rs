//! Requests under way, and which of them have to wait for which.

use serde::{Deserialize, Serialize};

use crate::virtio::chain::Chain;
use crate::virtio::device::Context;
use crate::virtio::event::VirtioEvent;

use super::{
    BlockOperation, BlockRequest, RANGE_SECTORS_MAX, REQUEST_BYTES_MAX, SECTOR_SIZE, SECTORS_MAX,
};

/// A request that is not completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InFlight {
    pub(super) request: BlockRequest,
    /// Where the answer goes; none after a reset.
    pub(super) chain: Option<Chain>,
    /// Whether the host was given it.
    pub(super) issued: bool,
}

impl InFlight {
    pub(super) const fn new(request: BlockRequest, chain: Chain) -> Self {
        Self {
            request,
            chain: Some(chain),
            issued: false,
        }
    }

    /// Bytes that it holds, here or at the host.
    pub(super) const fn bytes(&self) -> u64 {
        match self.request.operation {
            BlockOperation::Read | BlockOperation::Write => self.request.len,
            _ => 0,
        }
    }

    /// Bytes that a successful completion brings.
    pub(super) const fn answer_len(&self) -> u64 {
        match self.request.operation {
            BlockOperation::Read => self.request.len,
            _ => 0,
        }
    }

    /// Whether a decoded one could have come from a guest.
    pub(super) fn is_possible(&self) -> bool {
        let request = &self.request;
        let data = match request.operation {
            BlockOperation::Write => request.len,
            _ => 0,
        };
        let room = self
            .chain
            .as_ref()
            .is_none_or(|chain| chain.writable_len() > self.answer_len());
        request.len.is_multiple_of(SECTOR_SIZE)
            && self.bytes() <= REQUEST_BYTES_MAX
            && request.len <= u64::from(RANGE_SECTORS_MAX) * SECTOR_SIZE
            && request.sector <= SECTORS_MAX
            && request.data.len() as u64 == data
            && request
                .sector
                .checked_add(request.len / SECTOR_SIZE)
                .is_some()
            && room
            && (self.issued || self.chain.is_some())
    }
}

/// Whether `later` must not be given to the host before `earlier` is done.
fn waits_for(later: &BlockRequest, earlier: &BlockRequest) -> bool {
    if later.operation == BlockOperation::Flush {
        return true;
    }
    if earlier.operation == BlockOperation::Flush {
        return false;
    }
    // Both ends are within a capacity, so neither sum can overflow.
    let end = |request: &BlockRequest| request.sector.saturating_add(request.len / SECTOR_SIZE);
    let overlap = later.sector < end(earlier) && earlier.sector < end(later);
    overlap && (later.operation.modifies() || earlier.operation.modifies())
}

/// Appends `entry`, and gives it to the host if nothing before it is in its way.
pub(super) fn submit(in_flight: &mut Vec<InFlight>, mut entry: InFlight, cx: &mut Context<'_>) {
    if !must_wait(&entry, in_flight) {
        issue(&mut entry, cx);
    }
    in_flight.push(entry);
}

/// Gives the host, in order, what has nothing in its way any more.
pub(super) fn issue_unblocked(in_flight: &mut [InFlight], cx: &mut Context<'_>) {
    for index in 0..in_flight.len() {
        let (earlier, rest) = in_flight.split_at_mut(index);
        if let Some(entry) = rest.first_mut().filter(|entry| !entry.issued)
            && !must_wait(entry, earlier)
        {
            issue(entry, cx);
        }
    }
}

fn must_wait(entry: &InFlight, earlier: &[InFlight]) -> bool {
    earlier
        .iter()
        .any(|other| waits_for(&entry.request, &other.request))
}

fn issue(entry: &mut InFlight, cx: &mut Context<'_>) {
    entry.issued = true;
    cx.emit(VirtioEvent::Block(entry.request.clone()));
}
