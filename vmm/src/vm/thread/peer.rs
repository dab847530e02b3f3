//! The connection to the peer: what comes over it, what goes, and the machine that a backup makes
//! when its primary has said what it is like.

use ft::fence::Fence;

use super::VmThread;
use super::fencing::open_fence;
use super::pace::pace;
use crate::control::causes;
use crate::machine::MachineConfig;
use crate::vm::{Built, Connection};

/// Bytes read from the peer at once.
const READ_SIZE: usize = 256 << 10;
/// Reads between two slices of the guest.
const MAX_READS: usize = 4;

impl VmThread {
    /// Takes what has come from the peer, as far as there is room for it.
    pub(super) fn receive(&mut self) {
        for _ in 0..MAX_READS {
            if !self.replica.wants_bytes() {
                return;
            }
            let Some(connection) = &mut self.connection else {
                return;
            };
            let Some(count) = connection.receive(&mut self.arrived) else {
                return;
            };
            if count == 0 {
                return self.replica.on_link_closed();
            }
            // Read after the bytes came off the connection: a host that stood still must not take
            // old bytes for a sign of life.
            let now = self.now();
            self.replica.on_bytes(&self.arrived[..count], now);
            if count < self.arrived.len() {
                return;
            }
        }
    }

    pub(super) fn connect(&mut self, connection: Connection) {
        self.arrived.resize(READ_SIZE, 0);
        self.connection = Some(connection);
    }

    /// Sends what there is to send; false when some of it has to wait.
    pub(super) fn transmit(&mut self) -> bool {
        let Self {
            connection: Some(connection),
            replica,
            ..
        } = self
        else {
            return true;
        };
        let all_sent = connection.transmit(|most| replica.poll_transmit(most));
        if all_sent && !replica.wants_link() {
            self.connection = None;
        }
        all_sent
    }

    /// Makes a backup's machine when the primary has said what it is like.
    pub(super) fn build_machine(&mut self) {
        let Some(hello) = self.replica.hello() else {
            return;
        };
        let (config, fence_text) = (hello.config.clone(), hello.parameters.fence.clone());
        let now = self.now();
        match self.prepare(&config, &fence_text) {
            Ok(((machine, host), fence)) => {
                self.mailbox.set_kicker(Some(machine.kicker()));
                if let Err(error) = self.replica.accept(machine.as_ref(), fence, now) {
                    log::error!("the primary is refused: {error}");
                }
                self.replica.set_pace(pace(&machine));
                self.machine = Some(machine);
                self.host = Some(host);
            }
            Err(reason) => {
                log::error!("the primary is refused: {reason}");
                if let Some(backup) = self.replica.as_backup() {
                    backup.refuse(&reason, now);
                }
            }
        }
    }

    fn prepare(&mut self, config: &[u8], fence: &str) -> Result<(Built, Box<dyn Fence>), String> {
        let (machine_config, rest): (MachineConfig, &[u8]) = postcard::take_from_bytes(config)
            .map_err(|error| format!("the machine's configuration is malformed: {error}"))?;
        let fence = open_fence(fence).map_err(|error| error.to_string())?;
        let builder = self.builder.as_mut().ok_or("this side takes no machine")?;
        let built = builder(machine_config, rest).map_err(|error| causes(&error).join(": "))?;
        Ok((built, fence))
    }
}
