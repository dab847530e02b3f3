//! ACPI description of the PCI bus: host bridge, its windows and interrupts, and where ECAM is.
//!
//! Spec: ACPI 6.5 §6.2.13 (_PRT), §6.4.3.5; PCI Firmware 3.3 §4.1.2 (MCFG).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Name, Package, ResourceTemplate,
    Scope, ZERO,
};
use acpi_tables::mcfg::MCFG;
use devices::board::{ECAM_BASE, WINDOW_32, window_64};
use devices::pci::bus::gsi_of_slot;
use hypervisor::arch::x86_64::paging::PHYSICAL_BITS;

use super::acpi::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};

/// Slots that can have a device; the host bridge is in slot 0.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=31;
const CONFIG_PORTS: u16 = 0xcf8;

/// The table that names ECAM, of bus 0 alone.
pub(super) fn mcfg() -> Vec<u8> {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(ECAM_BASE, 0, 0, 0);
    bytes_of(&table)
}

/// The host bridge.
pub(super) fn host_bridge() -> Vec<u8> {
    let hid = EISAName::new("PNP0A08");
    let hid = Name::new("_HID".into(), &hid);
    let cid = EISAName::new("PNP0A03");
    let cid = Name::new("_CID".into(), &cid);
    let segment = Name::new("_SEG".into(), &ZERO);
    let bus = Name::new("_BBN".into(), &ZERO);
    let uid = Name::new("_UID".into(), &ZERO);
    let resources = bytes_of(&Name::new("_CRS".into(), &Windows));
    let routes = bytes_of(&Name::new("_PRT".into(), &Routes));
    let (resources, routes) = (Encoded(resources), Encoded(routes));
    let bridge = Device::new(
        "PCI0".into(),
        vec![&hid, &cid, &segment, &bus, &uid, &resources, &routes],
    );
    bytes_of(&Scope::new("_SB_".into(), vec![&bridge]))
}

/// AML that is made already.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        self.0.iter().for_each(|byte| sink.byte(*byte));
    }
}

/// What the bridge passes on: bus 0, its configuration ports, and the windows of the BARs.
struct Windows;

impl Aml for Windows {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let window = window_64(PHYSICAL_BITS as u8);
        let uncached = AddressSpaceCacheable::NotCacheable;
        let buses = AddressSpace::new_bus_number(0u16, 0);
        let config = IO::new(CONFIG_PORTS, CONFIG_PORTS, 1, 8);
        let ports_below = AddressSpace::new_io(0u16, CONFIG_PORTS - 1, None);
        let ports_above = AddressSpace::new_io(CONFIG_PORTS + 8, 0xffff, None);
        let low = AddressSpace::new_memory(
            uncached,
            true,
            WINDOW_32.start as u32,
            (WINDOW_32.end - 1) as u32,
            None,
        );
        let high = AddressSpace::new_memory(uncached, true, window.start, window.end - 1, None);
        let all: Vec<&dyn Aml> = vec![&buses, &config, &ports_below, &ports_above, &low, &high];
        ResourceTemplate::new(all).to_aml_bytes(sink);
    }
}

/// Which interrupt INTA of each slot is wired to.
struct Routes;

impl Aml for Routes {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let routes: Vec<(u32, u32)> = SLOTS
            .map(|slot| (u32::from(slot) << 16 | 0xffff, u32::from(gsi_of_slot(slot))))
            .collect();
        let packages: Vec<Package<'_>> = routes
            .iter()
            .map(|(address, gsi)| Package::new(vec![address, &ZERO, &ZERO, gsi]))
            .collect();
        let packages = packages.iter().map(|package| package as &dyn Aml).collect();
        Package::new(packages).to_aml_bytes(sink);
    }
}
