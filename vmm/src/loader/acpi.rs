//! ACPI tables: root pointer, XSDT, FADT (hardware-reduced), MADT, DSDT; with PCI also MCFG.
//!
//! Spec: ACPI 6.5 §5.2, §5.6.9. The devices behind them are `devices::legacy`.

use acpi_tables::aml::{
    And, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, IO, If, Interrupt, Local, Method, Name, Notify, ONE, OpRegion, OpRegionSpace,
    Package, Path, ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use devices::interrupt_controller::ioapic::IOAPIC_BASE;
use devices::interrupt_controller::lapic::LAPIC_BASE;
use devices::legacy::acpi_pm::{
    NOTIFICATION_GSI, NOTIFICATION_PORT, NOTIFY_POWER_BUTTON, PM_TIMER_PORT, RESET_VALUE,
    SLEEP_RESET_PORT, SLEEP_S5_TYPE,
};
use devices::legacy::serial_16550::{SERIAL_PORT, SERIAL_PORT_COUNT};
use hypervisor::GuestMemory;

use super::{LoadError, Platform, acpi_pci, place};

/// Where the root pointer lies; the tables follow it.
const RSDP: u64 = 0xa_0000;
pub(super) const OEM_ID: [u8; 6] = *b"CLOUDH";
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"CHFT    ";
pub(super) const OEM_REVISION: u32 = 1;
const SERIAL_IRQ: u32 = 4;
const IOAPIC_ID: u8 = 0;

/// Writes the tables and returns the address of the root pointer.
///
/// # Errors
/// When guest memory ends below them.
pub fn write_tables(memory: &GuestMemory, platform: Platform) -> Result<u64, LoadError> {
    let mut next = RSDP + 64;
    let mut put = |bytes: &[u8]| -> Result<u64, LoadError> {
        let at = next;
        place(memory, "an ACPI table", at, bytes)?;
        next = (at + bytes.len() as u64).next_multiple_of(64);
        Ok(at)
    };
    let dsdt = put(&dsdt(platform))?;
    let fadt = put(&fadt(dsdt))?;
    let madt = put(&madt())?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if platform.pci {
        xsdt.add_entry(put(&acpi_pci::mcfg())?);
    }
    let xsdt = put(&bytes_of(&xsdt))?;
    place(
        memory,
        "the ACPI root pointer",
        RSDP,
        &bytes_of(&Rsdp::new(OEM_ID, xsdt)),
    )?;
    Ok(RSDP)
}

pub(super) fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Spec: ACPI 6.5 §5.2.9. Offsets are the specification's.
fn fadt(dsdt: u64) -> Vec<u8> {
    const LENGTH: u32 = 276;
    /// TMR_VAL_EXT, RESET_REG_SUP, HW_REDUCED_ACPI.
    const FLAGS: u32 = 1 << 8 | 1 << 10 | 1 << 20;
    /// No VGA, no MSI restriction, no CMOS restriction; 8042 present; no legacy devices beyond.
    const IA_PC_BOOT: u16 = 1 << 1 | 1 << 2;
    let mut table = Sdt::new(*b"FACP", LENGTH, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let io = |width: u8, access: u8, port: u16| {
        let mut address = vec![1, width, 0, access];
        address.extend(u64::from(port).to_le_bytes());
        address
    };
    table.write_u32(76, u32::from(PM_TIMER_PORT));
    table.write_u8(91, 4);
    table.write_u16(109, IA_PC_BOOT);
    table.write_u32(112, FLAGS);
    table.write_bytes(116, &io(8, 1, SLEEP_RESET_PORT));
    table.write_u8(128, RESET_VALUE);
    table.write_u8(131, 5);
    table.write_u64(140, dsdt);
    table.write_bytes(208, &io(32, 3, PM_TIMER_PORT));
    table.write_bytes(244, &io(8, 1, SLEEP_RESET_PORT));
    table.write_bytes(256, &io(8, 1, SLEEP_RESET_PORT));
    table.write_bytes(268, b"CLOUDHYP");
    table.update_checksum();
    table.as_slice().to_vec()
}

/// Spec: ACPI 6.5 §5.2.12. One processor, one I/O APIC, ISA IRQ 0 on its pin 2.
fn madt() -> Vec<u8> {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(LAPIC_BASE as u32),
    );
    madt.add_structure(ProcessorLocalApic::new(0, 0, EnabledStatus::Enabled));
    madt.add_structure(IoApic::new(IOAPIC_ID, IOAPIC_BASE as u32, 0));
    let mut bytes = bytes_of(&madt);
    // Interrupt source override, which the crate has no type for: ISA 0 to pin 2; LINT1 is NMI.
    let mut extra = vec![2, 10, 0, 0];
    extra.extend(2u32.to_le_bytes());
    extra.extend(0u16.to_le_bytes());
    extra.extend([4, 6, 0xff, 0, 0, 1]);
    bytes.extend(extra);
    // Bit 0 of the flags: there is an 8259 pair too.
    bytes[40] |= 1;
    finish(bytes)
}

/// Sets length and checksum of a finished table.
fn finish(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes[9] = 0;
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    bytes[9] = sum.wrapping_neg();
    bytes
}

fn dsdt(platform: Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&bytes_of(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&SLEEP_S5_TYPE, &ZERO, &ZERO, &ZERO]),
    )));
    table.append_slice(&power_button());
    table.append_slice(&event_device());
    if platform.serial {
        table.append_slice(&serial_port());
    }
    if platform.pci {
        table.append_slice(&acpi_pci::host_bridge());
    }
    table.as_slice().to_vec()
}

fn power_button() -> Vec<u8> {
    let hid = EISAName::new("PNP0C0C");
    let hid = Name::new("_HID".into(), &hid);
    let button = Device::new("PWRB".into(), vec![&hid]);
    bytes_of(&Scope::new("_SB_".into(), vec![&button]))
}

/// The generic event device: its interrupt reads the notification register and passes on what
/// it says.
fn event_device() -> Vec<u8> {
    let hid = Name::new("_HID".into(), &"ACPI0013");
    let uid = Name::new("_UID".into(), &ZERO);
    let line = Interrupt::new(true, false, false, false, u32::from(NOTIFICATION_GSI));
    let resources = ResourceTemplate::new(vec![&line]);
    let resources = Name::new("_CRS".into(), &resources);
    let port = u64::from(NOTIFICATION_PORT);
    let region = OpRegion::new("GREG".into(), OpRegionSpace::SystemIO, &port, &ONE);
    let field = Field::new(
        "GREG".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"GNOT", 8)],
    );
    let register = Path::new("GNOT");
    let reason = Local(0);
    let read = Store::new(&reason, &register);
    let masked = And::new(&ZERO, &reason, &NOTIFY_POWER_BUTTON);
    let pressed = Equal::new(&masked, &NOTIFY_POWER_BUTTON);
    let button = Path::new("\\_SB_.PWRB");
    let status = 0x80u8;
    let notify = Notify::new(&button, &status);
    let when_pressed = If::new(&pressed, vec![&notify]);
    let event = Method::new("_EVT".into(), 1, true, vec![&read, &when_pressed]);
    let device = Device::new(
        "GED_".into(),
        vec![&hid, &uid, &resources, &region, &field, &event],
    );
    bytes_of(&Scope::new("_SB_".into(), vec![&device]))
}

fn serial_port() -> Vec<u8> {
    let hid = EISAName::new("PNP0501");
    let hid = Name::new("_HID".into(), &hid);
    let uid = Name::new("_UID".into(), &ZERO);
    let name = Name::new("_DDN".into(), &"COM1");
    let line = Interrupt::new(true, true, false, false, SERIAL_IRQ);
    let ports = IO::new(SERIAL_PORT, SERIAL_PORT, 0, SERIAL_PORT_COUNT as u8);
    let resources = ResourceTemplate::new(vec![&line, &ports]);
    let resources = Name::new("_CRS".into(), &resources);
    let device = Device::new("COM1".into(), vec![&hid, &uid, &name, &resources]);
    bytes_of(&aml::Scope::new("_SB_".into(), vec![&device]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypervisor::GuestAddress;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    #[test]
    fn every_table_sums_to_zero_and_says_its_length() {
        let all = Platform {
            serial: true,
            pci: true,
        };
        let tables = [
            dsdt(all),
            dsdt(Platform::default()),
            fadt(0x1000),
            madt(),
            acpi_pci::mcfg(),
        ];
        for table in tables {
            assert_eq!(sum(&table), 0);
            let len = u32::from_le_bytes([table[4], table[5], table[6], table[7]]);
            assert_eq!(len as usize, table.len());
        }
    }

    #[test]
    fn root_pointer_leads_to_the_tables() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let rsdp = write_tables(&memory, Platform::default()).unwrap();
        let mut signature = [0; 8];
        memory.read(GuestAddress(rsdp), &mut signature).unwrap();
        assert_eq!(&signature, b"RSD PTR ");
    }
}
