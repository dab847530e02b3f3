//! Whether the machine is live here: its host side is opened and closed with that, and what it puts
//! out leaves.

use std::time::Instant;

use devices::virtio::any::VirtioConfig;
use devices::virtio::input::VirtioInput;
use ft::inbox::Inbox;

use super::{INBOX_BYTES, VmThread};
use crate::machine::SERIAL;
use crate::vm::opening::Opening;
use crate::vm::{Live, VmEvent};

impl VmThread {
    pub(super) fn release(&mut self) {
        let live = self.replica.is_live() && !self.departure.away;
        match (self.was_live, live) {
            (false, true) => {
                // A peer that was relieved closes what this side is about to open.
                self.transmit();
                self.go_live();
            }
            (true, false) => self.leave(false),
            _ => {}
        }
        self.was_live = live;
        self.open_again();
        let permit = self.mailbox.permit();
        if permit.take_wanted() {
            self.replica.want_permit();
        }
        permit.set(self.replica.permitted_until());
        let now = self.now();
        let released = self.replica.take_released(now);
        let Some(host) = &mut self.host else { return };
        for output in released {
            if output.device == SERIAL {
                self.offers.serial_counters().sent_bytes += output.payload.len() as u64;
            }
            host.output(&output);
        }
        if let Some(machine) = &mut self.machine {
            for request in machine.take_requests() {
                host.request(request);
            }
        }
    }

    /// The machine executes for real here from now on.
    fn go_live(&mut self) {
        let taken_over = std::mem::replace(&mut self.had_elsewhere, true);
        let (Some(machine), Some(host)) = (&mut self.machine, &mut self.host) else {
            return;
        };
        if !taken_over {
            // It has been live since it was made.
            return;
        }
        machine.set_live(true);
        let missing = host.go_live(&Live { machine });
        if !missing.is_empty() {
            log::warn!("not open yet, to be tried again: {}", missing.join("; "));
            self.opening = Some(Opening::after_failure(Instant::now()));
        }
        for request in machine.unanswered() {
            host.request(request);
        }
        for (device, spec) in machine.config().virtio.iter().enumerate() {
            match spec.config {
                VirtioConfig::Net(_) => self.offers.add(device, VirtioInput::NetAnnounce),
                VirtioConfig::Vsock(config) => {
                    let guest_cid = config.guest_cid;
                    let reset = VirtioInput::VsockTransportReset { guest_cid };
                    self.offers.add(device, reset);
                }
                _ => {}
            }
        }
    }

    /// Tries to open what could not be opened when the machine went live.
    fn open_again(&mut self) {
        let due = |opening: &Opening| Instant::now() >= opening.next();
        let (Some(machine), Some(host)) = (&self.machine, &mut self.host) else {
            return;
        };
        let Some(opening) = self.opening.take_if(|opening| due(opening)) else {
            return;
        };
        let missing = host.go_live(&Live { machine });
        if missing.is_empty() {
            return;
        }
        self.opening = opening.failed_again(Instant::now());
        if self.opening.is_none() {
            host.give_up();
            for reason in missing {
                (self.listener)(VmEvent::DeviceLost { reason });
            }
        }
    }

    /// Another host goes on with the machine, which may come back.
    pub(super) fn leave(&mut self, comes_back: bool) {
        self.opening = None;
        self.mailbox.end_tenure();
        self.paused = false;
        self.offers.clear();
        self.inbox = Inbox::new(INBOX_BYTES);
        if let Some(host) = &mut self.host {
            host.leave(comes_back);
        }
        if let Some(machine) = &mut self.machine {
            machine.set_live(false);
        }
    }
}
