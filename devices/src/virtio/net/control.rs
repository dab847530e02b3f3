//! The control queue: the driver's commands.
//!
//! ```text
//! readable: class (1) | command (1) | data      writable: status (1), the last byte
//! ```

use crate::virtio::chain::Chain;
use crate::virtio::device::Context;
use crate::virtio::event::VirtioEvent;
use crate::virtio::fault::Fault;

use super::{CONTROL, FEATURE_CONTROL_MAC, FEATURE_GUEST_ANNOUNCE, Net};

const STATUS_OK: u8 = 0;
const STATUS_ERROR: u8 = 1;

const CLASS_MAC: u8 = 1;
const MAC_SET_ADDRESS: u8 = 1;
const CLASS_ANNOUNCE: u8 = 3;
const ANNOUNCE_ACKNOWLEDGE: u8 = 0;

/// Class, command and an address: no command here has more.
const COMMAND_MAX: usize = 8;

impl Net {
    pub(super) fn control(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(chain) = cx.pop(CONTROL)? {
            let status = self.command(&chain, cx)?;
            let last = chain.writable_len() - 1;
            chain.write(cx.ram, last, &[status])?;
            cx.push(CONTROL, chain.head, 1)?;
        }
        cx.want_notification(CONTROL, true)
    }

    fn command(&mut self, chain: &Chain, cx: &mut Context<'_>) -> Result<u8, Fault> {
        if chain.writable_len() == 0 || chain.readable_len() < 2 {
            return Err(Fault::Malformed { head: chain.head });
        }
        let Some(bytes) = chain.read_from(&*cx.ram, 0, COMMAND_MAX)? else {
            return Ok(STATUS_ERROR);
        };
        let done = match bytes[..] {
            [CLASS_MAC, MAC_SET_ADDRESS, a, b, c, d, e, f] if cx.has(FEATURE_CONTROL_MAC) => {
                self.state.mac = [a, b, c, d, e, f];
                cx.emit(VirtioEvent::NetMacAddress(self.state.mac));
                true
            }
            [CLASS_ANNOUNCE, ANNOUNCE_ACKNOWLEDGE] if cx.has(FEATURE_GUEST_ANNOUNCE) => {
                self.state.announce = false;
                true
            }
            _ => false,
        };
        Ok(if done { STATUS_OK } else { STATUS_ERROR })
    }
}
