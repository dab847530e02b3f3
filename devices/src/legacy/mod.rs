//! Devices of the PC that are older than PCI, and the ACPI registers.

pub mod acpi_pm;
pub mod cmos_rtc;
pub mod debug_port;
pub mod i8042;
pub mod pit;
pub mod serial_16550;
