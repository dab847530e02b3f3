//! `vm.counters`: what the devices of a VM have done, by device and counter.
//!
//! The names of the devices are those that the monitor gives and no user can: they begin with two
//! underscores. All counters only rise while the process lives; those of the serial port begin
//! at zero on a host that takes the VM over, and what its logical time counts (instructions on the
//! software processor, nanoseconds on KVM) goes on where the primary was.
//!
//! Left out: exits of the processor, which the machine does not count.

use std::collections::BTreeMap;

use api_client::types::ConsoleMode;

use super::{Control, ControlError};
use crate::host::devices::SERIAL_NAME;
use crate::vm::{Counters, SerialCounters, VmStatus};

const OPERATION: &str = "The VM counters are not available";
/// The processor's name.
const VCPU: &str = "__vcpu0";

/// The counters that a status holds. `has_serial` says whether there is a serial port.
fn counters(status: &VmStatus, has_serial: bool) -> BTreeMap<String, Counters> {
    let SerialCounters {
        received_bytes,
        dropped_bytes,
        sent_bytes,
    } = status.serial;
    let mut devices = status.devices.clone();
    if has_serial {
        let serial = Counters::from([
            ("rx_bytes", received_bytes),
            ("rx_dropped_bytes", dropped_bytes),
            ("tx_bytes", sent_bytes),
        ]);
        devices.insert(SERIAL_NAME.to_owned(), serial);
    }
    let vcpu = Counters::from([(status.clock, status.logical_time)]);
    devices.insert(VCPU.to_owned(), vcpu);
    devices
}

impl Control {
    /// `vm.counters`.
    ///
    /// # Errors
    /// When the VM is not running.
    pub fn counters(&self) -> Result<serde_json::Value, ControlError> {
        let handle = self.handle(OPERATION)?;
        let status = handle
            .status()
            .map_err(|error| ControlError::failed(OPERATION, &error))?;
        let has_serial = {
            let state = self.lock();
            let config = state.config.as_ref();
            config.is_some_and(|config| config.serial.mode != ConsoleMode::Off)
        };
        serde_json::to_value(counters(&status, has_serial))
            .map_err(|error| ControlError::failed(OPERATION, &error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> VmStatus {
        VmStatus {
            ft: None,
            live: true,
            paused: false,
            memory_size: 1 << 20,
            logical_time: 70,
            virtual_ns: 90,
            hypervisor: "software",
            clock: "instructions",
            serial: SerialCounters {
                received_bytes: 3,
                dropped_bytes: 2,
                sent_bytes: 5,
            },
            devices: BTreeMap::from([("_disk0".to_owned(), Counters::from([("read_ops", 4)]))]),
            places: BTreeMap::new(),
        }
    }

    #[test]
    fn counters_are_told_by_device_and_name() {
        let told = serde_json::to_value(counters(&status(), true)).unwrap();
        let expected = json!({
            "_disk0": {"read_ops": 4},
            "__serial": {"rx_bytes": 3, "rx_dropped_bytes": 2, "tx_bytes": 5},
            "__vcpu0": {"instructions": 70},
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn a_device_that_is_not_there_has_no_counters() {
        let told = serde_json::to_value(counters(&status(), false)).unwrap();
        let expected = json!({"__vcpu0": {"instructions": 70}, "_disk0": {"read_ops": 4}});
        assert_eq!(told, expected);
    }
}
