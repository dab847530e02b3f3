//! Reception: from the backlog into the guest's buffers.
//!
//! With mergeable buffers a frame takes as many chains as it needs, and the header's last field
//! says how many; without, it must fit into one. A frame that would not fit even if the driver
//! offered all it can is dropped, because it would block the others for good.

use crate::virtio::chain::Chain;
use crate::virtio::device::Context;
use crate::virtio::fault::Fault;
use crate::virtio::input::{InputError, InputFailure, InputOutcome};
use crate::virtio::payload::Payload;

use super::{
    FEATURE_GUEST_CSUM, FEATURE_GUEST_TSO4, FEATURE_GUEST_TSO6, FEATURE_GUEST_UFO,
    FEATURE_MERGEABLE, NET_FRAME_MAX, NET_FRAME_MIN, NET_HEADER_SIZE, Net, RECEIVE,
};

/// Offset of the number of chains in the header.
const CHAIN_COUNT: usize = 10;
const FLAG_NEEDS_CHECKSUM: u8 = 1;

const SEGMENT_NONE: u8 = 0;
const SEGMENT_TCP4: u8 = 1;
const SEGMENT_UDP: u8 = 3;
const SEGMENT_TCP6: u8 = 4;

/// What came of trying to deliver the first waiting frame.
enum Fit {
    Delivered,
    NeedsMore,
    /// The one buffer that it has to fit into is too small.
    TooLong,
    /// The driver offers all it can, and that is so much.
    LongerThanAll(u64),
}

impl Net {
    /// A frame arrived.
    pub(super) fn receive(
        &mut self,
        frame: Payload,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        let found = frame.len() as u64;
        if frame.len() > NET_FRAME_MAX {
            let expected = NET_FRAME_MAX as u64;
            return Err(InputError::Length { expected, found }.into());
        }
        if frame.len() < NET_FRAME_MIN {
            let expected = NET_FRAME_MIN as u64;
            return Err(InputError::Length { expected, found }.into());
        }
        if !cx.live || !self.state.link_up || !is_taken(&frame, cx.features) {
            self.drop_frames(1);
            return Ok(InputOutcome::Dropped);
        }
        if !self.state.backlog.push(frame) {
            return Ok(InputOutcome::Refused);
        }
        self.deliver(cx)?;
        Ok(if self.state.backlog.is_empty() {
            InputOutcome::Taken
        } else {
            InputOutcome::Waiting
        })
    }

    /// Delivers what waits, as far as the guest has buffers for it.
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(frame) = self.state.backlog.first() {
            match place(frame, cx)? {
                Fit::Delivered => self.state.backlog.remove_first(),
                Fit::NeedsMore => return cx.want_notification(RECEIVE, true),
                Fit::TooLong => {
                    self.state.backlog.remove_first();
                    self.drop_frames(1);
                }
                // All such frames at once, because it took a look at every buffer to know.
                Fit::LongerThanAll(room) => {
                    let count = self.state.backlog.remove_longer(room);
                    self.drop_frames(count);
                }
            }
        }
        cx.want_notification(RECEIVE, false)
    }
}

/// Whether the driver agreed to frames like this one.
fn is_taken(frame: &[u8], features: u64) -> bool {
    let (flags, segments) = (frame[0], frame[1]);
    let needed = match segments {
        SEGMENT_NONE => 0,
        SEGMENT_TCP4 => FEATURE_GUEST_TSO4,
        SEGMENT_TCP6 => FEATURE_GUEST_TSO6,
        SEGMENT_UDP => FEATURE_GUEST_UFO,
        // Congestion notification in segments, 0x80 beside the type, is not offered.
        _ => return false,
    };
    let checksum = if flags & FLAG_NEEDS_CHECKSUM != 0 {
        FEATURE_GUEST_CSUM
    } else {
        0
    };
    let all = needed | checksum;
    features & all == all
}

fn place(frame: &Payload, cx: &mut Context<'_>) -> Result<Fit, Fault> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut room = 0;
    let mergeable = cx.has(FEATURE_MERGEABLE);
    while room < frame.len() as u64 {
        let enough = chains.len() == 1 && !mergeable;
        let next = if enough { None } else { cx.pop(RECEIVE)? };
        let Some(chain) = next else {
            let all = cx.is_all_offered(RECEIVE, chains.len());
            cx.rewind(RECEIVE, chains.len());
            return Ok(match (enough, all) {
                (true, _) => Fit::TooLong,
                (false, true) => Fit::LongerThanAll(room),
                (false, false) => Fit::NeedsMore,
            });
        };
        let len = chain.writable_len();
        if len == 0 || chains.is_empty() && len < NET_HEADER_SIZE as u64 {
            return Err(Fault::Malformed { head: chain.head });
        }
        room += len;
        chains.push(chain);
    }
    let mut bytes = frame.to_vec();
    let count = chains.len() as u16;
    bytes[CHAIN_COUNT..NET_HEADER_SIZE].copy_from_slice(&count.to_le_bytes());
    let mut rest = &bytes[..];
    for chain in &chains {
        let (now, later) = rest.split_at(rest.len().min(chain.writable_len() as usize));
        chain.write(cx.ram, 0, now)?;
        cx.push(RECEIVE, chain.head, now.len() as u64)?;
        rest = later;
    }
    Ok(Fit::Delivered)
}
