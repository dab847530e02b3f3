//! A virtio entropy source.
//!
//! ```text
//! chain ─▶ EntropyRequest { id, len } ─▶ host ─▶ Entropy { id, bytes } ─▶ buffer, used
//! ```
//!
//! The bytes are an input, so they are the same wherever the machine is replayed. One request is
//! limited to [`ENTROPY_MAX`] bytes; a longer buffer is filled in part, which the specification
//! allows.
//!
//! Spec: virtio 1.2 §5.4.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::pci::config_space::BarWidth;
use crate::saved::{RestoreError, check};

use super::chain::Chain;
use super::device::{Context, VirtioDevice, VirtioIdentity, read_image};
use super::event::VirtioEvent;
use super::fault::Fault;
use super::input::{InputError, InputFailure, InputOutcome, VirtioInput};

/// Bytes that one request asks for at most.
pub const ENTROPY_MAX: u32 = 64 * 1024;

const KIND: &str = "virtio-entropy";
const QUEUE: usize = 0;
const QUEUE_SIZE: u16 = 256;
/// Requests that the host owes an answer to, those from before a reset included.
const MAX_PENDING: usize = 2 * QUEUE_SIZE as usize;

/// A request that the host did not answer yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    id: u64,
    len: u32,
    /// None after a reset.
    chain: Option<Chain>,
}

/// An entropy source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entropy {
    state: EntropyStateV1,
}

/// State of an entropy source; all that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntropyStateV1 {
    next_id: u64,
    pending: Vec<Pending>,
}

impl Entropy {
    /// An idle source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests that the host was given and did not answer, as (id, length).
    pub fn pending(&self) -> impl Iterator<Item = (u64, u32)> {
        self.state
            .pending
            .iter()
            .map(|pending| (pending.id, pending.len))
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while self.state.pending.len() < MAX_PENDING {
            let Some(chain) = cx.pop(QUEUE)? else {
                return cx.want_notification(QUEUE, true);
            };
            let len = chain.writable_len().min(u64::from(ENTROPY_MAX)) as u32;
            if len == 0 {
                return Err(Fault::Malformed { head: chain.head });
            }
            let id = self.state.next_id;
            self.state.next_id += 1;
            let chain = Some(chain);
            self.state.pending.push(Pending { id, len, chain });
            cx.emit(VirtioEvent::EntropyRequest { id, len });
        }
        Ok(())
    }

    fn answer(
        &mut self,
        id: u64,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        let mut pending = self.state.pending.iter();
        let index = pending
            .position(|pending| pending.id == id)
            .ok_or(InputError::UnknownRequest { id })?;
        if bytes.is_empty() {
            let expected = u64::from(self.state.pending[index].len);
            return Err(InputError::Length { expected, found: 0 }.into());
        }
        let Pending { len, chain, .. } = self.state.pending.remove(index);
        let mut outcome = InputOutcome::Stale;
        if let Some(chain) = chain.filter(|_| cx.live) {
            let used = &bytes[..bytes.len().min(len as usize)];
            chain.write(cx.ram, 0, used)?;
            cx.push(QUEUE, chain.head, used.len() as u64)?;
            outcome = InputOutcome::Taken;
        }
        if cx.live {
            self.drain(cx)?;
        }
        Ok(outcome)
    }
}

impl VirtioDevice for Entropy {
    type Saved = EntropyStateV1;

    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity {
            name: "entropy",
            type_id: 4,
            class: 0xff_ff00,
            bar: BarWidth::Bits64,
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config_read(&self, offset: usize, into: &mut [u8]) {
        read_image(&[], offset, into);
    }

    fn notify(&mut self, _queue: usize, cx: &mut Context<'_>) -> Result<(), Fault> {
        self.drain(cx)
    }

    fn input(
        &mut self,
        input: VirtioInput,
        cx: &mut Context<'_>,
    ) -> Result<InputOutcome, InputFailure> {
        match input {
            VirtioInput::Entropy { id, bytes } => self.answer(id, &bytes, cx),
            _ => Err(InputError::WrongDevice { device: "entropy" }.into()),
        }
    }

    fn reset(&mut self) {
        for pending in &mut self.state.pending {
            pending.chain = None;
        }
    }

    fn save(&self) -> EntropyStateV1 {
        self.state.clone()
    }

    fn restore(saved: EntropyStateV1) -> Result<Self, RestoreError> {
        let next_id = saved.next_id;
        check(next_id < 1 << 63, KIND, "next_id", next_id)?;
        let count = saved.pending.len();
        check(count <= MAX_PENDING, KIND, "pending.length", count)?;
        let mut last = None;
        for pending in &saved.pending {
            let id = pending.id;
            let ordered = last.is_none_or(|last| last < id) && id < next_id;
            check(ordered, KIND, "pending.id", id)?;
            let (len, mut chain) = (pending.len, pending.chain.iter());
            let fits = chain.all(|chain| chain.writable_len() >= u64::from(len));
            check(fits && len > 0, KIND, "pending.len", len)?;
            last = Some(id);
        }
        Ok(Self { state: saved })
    }
}
