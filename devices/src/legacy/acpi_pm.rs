//! ACPI fixed hardware: the PM timer, sleep and reset registers, and a notification register.
//!
//! ```text
//! 0x600  sleep control, sleep status and reset register, one byte:
//!        write 0x34 = sleep type 5 with SLP_EN: power off; write 0x01: reset; reads 0
//! 0x608  PM timer, 32 bits, 3.579545 MHz
//! 0x610  notification register, one byte, cleared by reading; while it is not zero, GSI 20 is
//!        asserted (level-triggered, active high). Bit 0: power button pressed
//! ```
//!
//! The FADT is hardware-reduced: SLEEP_CONTROL_REG, SLEEP_STATUS_REG and RESET_REG all name port
//! [`SLEEP_RESET_PORT`], X_PM_TMR_BLK names [`PM_TIMER_PORT`] with TMR_VAL_EXT set. The DSDT has a
//! generic event device whose `_CRS` is [`NOTIFICATION_GSI`] and whose `_EVT` reads
//! [`NOTIFICATION_PORT`] and notifies the power button if [`NOTIFY_POWER_BUTTON`] is set.
//!
//! Left out: the SCI and PM1 event blocks, which hardware-reduced ACPI does not have; the timer
//! therefore raises no interrupt.
//!
//! Spec: ACPI 6.5 §4.8.3.3 (PM timer), §4.8.3.6 (reset), §4.8.3.7 (sleep control and status),
//! §5.6.9
//! (generic event device).

use serde::{Deserialize, Serialize};

use crate::clock::{TickRate, VirtualTime};
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

const KIND: &str = "acpi";

/// Port of the sleep control, sleep status and reset registers; one byte.
pub const SLEEP_RESET_PORT: u16 = 0x600;
/// Value written to [`SLEEP_RESET_PORT`] to power off: SLP_EN and sleep type 5.
pub const SLEEP_S5_VALUE: u8 = 0x34;
/// Sleep type that `\_S5` names.
pub const SLEEP_S5_TYPE: u8 = 5;
/// Value written to [`SLEEP_RESET_PORT`] to reset.
pub const RESET_VALUE: u8 = 0x01;
/// First port of the PM timer; four bytes.
pub const PM_TIMER_PORT: u16 = 0x608;
/// Port of the notification register; one byte.
pub const NOTIFICATION_PORT: u16 = 0x610;
/// Global system interrupt of the notification register, level-triggered and active high.
pub const NOTIFICATION_GSI: u8 = 20;
/// Bit of the notification register: the power button was pressed.
pub const NOTIFY_POWER_BUTTON: u8 = 0x01;

/// What the guest asked of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerRequest {
    /// Switch off.
    PowerOff,
    /// Start again.
    Reset,
}

/// The ACPI registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiPm {
    notifications: u8,
}

impl AcpiPm {
    /// No notification pending.
    #[must_use]
    pub const fn new() -> Self {
        Self { notifications: 0 }
    }

    /// The PM timer.
    #[must_use]
    pub const fn timer(now: VirtualTime) -> u32 {
        TickRate::ACPI_PM.tick(now) as u32
    }

    /// Writes the sleep control and reset register.
    #[must_use]
    pub const fn write_sleep_reset(value: u8) -> Option<PowerRequest> {
        match value {
            SLEEP_S5_VALUE => Some(PowerRequest::PowerOff),
            RESET_VALUE => Some(PowerRequest::Reset),
            _ => None,
        }
    }

    /// Presses the power button.
    pub const fn press_power_button(&mut self) {
        self.notifications |= NOTIFY_POWER_BUTTON;
    }

    /// Reads and clears the notification register.
    pub const fn take_notifications(&mut self) -> u8 {
        std::mem::replace(&mut self.notifications, 0)
    }

    /// Level of [`NOTIFICATION_GSI`].
    #[must_use]
    pub const fn gsi_level(&self) -> bool {
        self.notifications != 0
    }
}

impl Device for AcpiPm {
    type Saved = AcpiPmStateV1;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new();
    }

    fn advance(&mut self, _now: VirtualTime) {}

    fn next_deadline(&self) -> Option<VirtualTime> {
        None
    }

    fn save(&self) -> AcpiPmStateV1 {
        let Self { notifications } = self;
        AcpiPmStateV1 {
            notifications: *notifications,
        }
    }

    fn restore(saved: AcpiPmStateV1) -> Result<Self, RestoreError> {
        let AcpiPmStateV1 { notifications } = saved;
        check(
            notifications & !NOTIFY_POWER_BUTTON == 0,
            KIND,
            "notifications",
            notifications,
        )?;
        Ok(Self { notifications })
    }
}

/// Saved state of the ACPI registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmStateV1 {
    notifications: u8,
}

impl SavedState for AcpiPmStateV1 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::NANOS_PER_SECOND;
    use crate::conformance::{self, Subject};

    #[test]
    fn sleep_and_reset_values_are_understood_and_others_ignored() {
        assert_eq!(
            AcpiPm::write_sleep_reset(0x34),
            Some(PowerRequest::PowerOff)
        );
        assert_eq!(AcpiPm::write_sleep_reset(0x01), Some(PowerRequest::Reset));
        for other in [0x00, 0x14, 0x20, 0x30, 0xff] {
            assert_eq!(AcpiPm::write_sleep_reset(other), None);
        }
        assert_eq!(SLEEP_S5_VALUE, 0x20 | SLEEP_S5_TYPE << 2);
    }

    #[test]
    fn timer_wraps_at_32_bits() {
        assert_eq!(AcpiPm::timer(VirtualTime(NANOS_PER_SECOND)), 3_579_545);
        let wrap = TickRate::ACPI_PM.time_of(1 << 32).unwrap();
        assert_eq!(AcpiPm::timer(VirtualTime(wrap.0 - 1)), u32::MAX);
        assert_eq!(AcpiPm::timer(wrap), 0);
    }

    #[test]
    fn reading_notifications_clears_them_and_the_line() {
        let mut acpi = AcpiPm::new();
        acpi.press_power_button();
        assert!(acpi.gsi_level());
        assert_eq!(acpi.take_notifications(), NOTIFY_POWER_BUTTON);
        assert!(!acpi.gsi_level());
        assert_eq!(acpi.take_notifications(), 0);
    }

    impl Subject for AcpiPm {
        fn addresses() -> Vec<u64> {
            vec![0]
        }

        fn guest_read(&mut self, _address: u64, _size: u8, now: VirtualTime) -> u64 {
            u64::from(Self::timer(now)) | u64::from(self.take_notifications()) << 32
        }

        fn guest_write(&mut self, _address: u64, _size: u8, _value: u64, _now: VirtualTime) {
            self.press_power_button();
        }
    }

    #[test]
    fn conforms() {
        conformance::run(AcpiPm::new, 10);
    }
}
