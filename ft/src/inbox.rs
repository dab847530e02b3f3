//! Where the host side offers inputs, until the machine takes them at a logical time.

use std::collections::VecDeque;

use crate::event::{Input, MAX_PAYLOAD};

/// A bounded queue of inputs in the order in which they were offered.
///
/// On a backup nothing is taken from it: what the host side offers there waits for a promotion.
#[derive(Clone, Debug)]
pub struct Inbox {
    queue: VecDeque<Input>,
    payload_bytes: usize,
    capacity_bytes: usize,
}

impl Inbox {
    /// An inbox that holds about `capacity_bytes` of payload.
    #[must_use]
    pub fn new(capacity_bytes: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            payload_bytes: 0,
            capacity_bytes,
        }
    }

    /// Offers an input.
    ///
    /// # Errors
    /// Gives the input back when the inbox is full; offer it again after the machine has run. A
    /// payload above [`MAX_PAYLOAD`] is never taken; split it.
    pub fn offer(&mut self, input: Input) -> Result<(), Input> {
        let size = cost(&input);
        let full = !self.queue.is_empty() && self.payload_bytes + size > self.capacity_bytes;
        if full || size > MAX_PAYLOAD + ENTRY_COST {
            return Err(input);
        }
        self.payload_bytes += size;
        self.queue.push_back(input);
        Ok(())
    }

    /// Takes the oldest input.
    pub fn take(&mut self) -> Option<Input> {
        let input = self.queue.pop_front()?;
        self.payload_bytes -= cost(&input);
        Some(input)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many inputs wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

/// What an input costs besides its payload, so that empty ones cannot pile up without bound.
const ENTRY_COST: usize = 32;

/// What an input counts against the capacity.
fn cost(input: &Input) -> usize {
    match input {
        Input::Device { payload, .. } => ENTRY_COST + payload.len(),
        Input::Clock(_) | Input::Control(_) => ENTRY_COST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ControlOp, DeviceId};

    fn bytes(count: usize) -> Input {
        Input::Device {
            device: DeviceId(1),
            payload: vec![0; count],
        }
    }

    #[test]
    fn a_full_inbox_gives_the_input_back_and_takes_it_when_there_is_room() {
        let mut inbox = Inbox::new(100);
        assert_eq!(inbox.offer(bytes(60)), Ok(()));
        assert_eq!(inbox.offer(bytes(10)), Err(bytes(10)));
        assert_eq!(inbox.take(), Some(bytes(60)));
        assert_eq!(inbox.offer(bytes(10)), Ok(()));
    }

    #[test]
    fn inputs_leave_in_the_order_they_came() {
        let mut inbox = Inbox::new(1000);
        inbox.offer(Input::Control(ControlOp::Nmi)).unwrap();
        inbox.offer(bytes(1)).unwrap();
        assert_eq!(inbox.take(), Some(Input::Control(ControlOp::Nmi)));
        assert_eq!(inbox.take(), Some(bytes(1)));
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn a_payload_above_the_limit_is_never_taken() {
        let mut inbox = Inbox::new(usize::MAX);
        assert!(inbox.offer(bytes(MAX_PAYLOAD + 1)).is_err());
        assert!(inbox.offer(bytes(MAX_PAYLOAD)).is_ok());
    }
}
