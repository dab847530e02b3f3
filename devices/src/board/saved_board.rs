//! Saved state of the board: one section for each device, and one for what belongs to none.
//!
//! PCI devices have sections of one kind with their index in its name; they and the bus have none
//! on a board without PCI.

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::interrupt_controller::ioapic::{Ioapic, IoapicStateV1};
use crate::interrupt_controller::lapic::{Lapic, LapicStateV2};
use crate::interrupt_controller::pic::{Pic, PicStateV1};
use crate::legacy::acpi_pm::{AcpiPm, AcpiPmStateV1};
use crate::legacy::cmos_rtc::{CmosRtc, RtcStateV1};
use crate::legacy::debug_port::{DebugPort, DebugPortStateV1};
use crate::legacy::i8042::{I8042, I8042StateV1};
use crate::legacy::pit::{Pit, PitStateV1};
use crate::legacy::serial_16550::{Serial16550, SerialStateV1};
use crate::pci::bus::{PciBus, PciBusStateV1, SLOT_COUNT};
use crate::saved::{RestoreError, SavedState, Section, check, describe_as};
use crate::virtio::any::{AnyVirtio, AnyVirtioStateV1};
use crate::virtio::transport::{VirtioPci, VirtioPciStateV1};

use super::pci_routes::Bus;
use super::{Board, BoardEvents};

type PciDeviceState = VirtioPciStateV1<AnyVirtioStateV1>;

/// What precedes the index in the kind of a PCI device's section.
const PCI_DEVICE_PREFIX: &str = "pci-device-";

/// Saved state that belongs to no device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardStateV1 {
    has_serial: bool,
    undecoded_accesses: u64,
}

impl SavedState for BoardStateV1 {
    const KIND: &'static str = "board";
    const VERSION: u16 = 1;
}

impl Board {
    /// The complete state, one section for each part, always in the same order.
    ///
    /// Call it after [`Board::advance`] to the current time and after taking the events.
    #[must_use]
    pub fn save(&self) -> Vec<Section> {
        let Self {
            lapic,
            ioapic,
            pic,
            pit,
            rtc,
            serial,
            acpi,
            i8042,
            debug,
            pci,
            undecoded_accesses,
            events: _,
        } = self;
        let board = BoardStateV1 {
            has_serial: serial.is_some(),
            undecoded_accesses: *undecoded_accesses,
        };
        let mut sections = vec![
            Section::encode(&board),
            Section::encode(&lapic.save()),
            Section::encode(&ioapic.save()),
            Section::encode(&pic.save()),
            Section::encode(&pit.save()),
            Section::encode(&rtc.save()),
            Section::encode(&acpi.save()),
            Section::encode(&i8042.save()),
            Section::encode(&debug.save()),
        ];
        sections.extend(
            serial
                .as_ref()
                .map(|serial| Section::encode(&serial.save())),
        );
        if let Some(bus) = pci {
            sections.push(Section::encode(&bus.save()));
            for (index, function) in bus.functions().iter().enumerate() {
                let kind = format!("{PCI_DEVICE_PREFIX}{index}");
                sections.push(Section::encode_as(kind, &function.save()));
            }
        }
        sections
    }

    /// Rebuilds a board from what [`Board::save`] returned, in any order.
    ///
    /// # Errors
    /// If a section is missing, doubled, of another kind or version, or not a state that the device
    /// can reach.
    pub fn restore(sections: &[Section]) -> Result<Self, RestoreError> {
        let board: BoardStateV1 = find(sections)?;
        let restored = Self {
            lapic: restore_device::<Lapic>(sections)?,
            ioapic: restore_device::<Ioapic>(sections)?,
            pic: restore_device::<Pic>(sections)?,
            pit: restore_device::<Pit>(sections)?,
            rtc: restore_device::<CmosRtc>(sections)?,
            serial: if board.has_serial {
                Some(restore_device::<Serial16550>(sections)?)
            } else {
                None
            },
            acpi: restore_device::<AcpiPm>(sections)?,
            i8042: restore_device::<I8042>(sections)?,
            debug: restore_device::<DebugPort>(sections)?,
            pci: restore_bus(sections)?,
            undecoded_accesses: board.undecoded_accesses,
            events: BoardEvents::default(),
        };
        restored.refuse_strangers(sections)?;
        Ok(restored)
    }

    fn refuse_strangers(&self, sections: &[Section]) -> Result<(), RestoreError> {
        let own = self.save();
        for (index, section) in sections.iter().enumerate() {
            let known = own.iter().any(|known| known.kind == section.kind);
            let doubled = sections[..index]
                .iter()
                .any(|earlier| earlier.kind == section.kind);
            if !known || doubled {
                return Err(RestoreError::Unexpected {
                    kind: section.kind.clone(),
                });
            }
        }
        Ok(())
    }
}

fn find<S: SavedState>(sections: &[Section]) -> Result<S, RestoreError> {
    sections
        .iter()
        .find(|section| section.kind == S::KIND)
        .ok_or(RestoreError::Missing { kind: S::KIND })?
        .decode()
}

/// The bus, if there is a section of it, with as many devices as it says.
fn restore_bus(sections: &[Section]) -> Result<Option<Bus>, RestoreError> {
    let mut kinds = sections.iter().map(|section| section.kind.as_str());
    if !kinds.any(|kind| kind == PciBusStateV1::KIND) {
        return Ok(None);
    }
    let saved: PciBusStateV1 = find(sections)?;
    let count = saved.function_count;
    check(
        (1..SLOT_COUNT).contains(&usize::from(count)),
        PciBusStateV1::KIND,
        "function_count",
        count,
    )?;
    let mut functions = Vec::new();
    for index in 0..count {
        let kind = format!("{PCI_DEVICE_PREFIX}{index}");
        let mut sections = sections.iter();
        let section = sections.find(|section| section.kind == kind);
        let state: PciDeviceState = section
            .ok_or(RestoreError::Missing {
                kind: PciDeviceState::KIND,
            })?
            .decode_as(&kind)?;
        let function = VirtioPci::<AnyVirtio>::restore(state)?;
        let slot = function.slot();
        check(slot == index + 1, PciDeviceState::KIND, "slot", slot)?;
        functions.push(function);
    }
    let mut bus = PciBus::new(functions);
    bus.restore(&saved)?;
    Ok(Some(bus))
}

fn restore_device<D: Device>(sections: &[Section]) -> Result<D, RestoreError> {
    D::restore(find(sections)?)
}

/// The fields of a section of a board as `(path, value)` pairs, for divergence reports.
///
/// Bytes that cannot be read as the current version of `kind` come back as one pair that says why
/// and one with the bytes in hexadecimal, because a report must not fail over what it reports.
#[must_use]
pub fn describe(kind: &str, bytes: &[u8]) -> Vec<(String, String)> {
    let described = match kind {
        BoardStateV1::KIND => describe_as::<BoardStateV1>(bytes),
        LapicStateV2::KIND => describe_as::<LapicStateV2>(bytes),
        IoapicStateV1::KIND => describe_as::<IoapicStateV1>(bytes),
        PicStateV1::KIND => describe_as::<PicStateV1>(bytes),
        PitStateV1::KIND => describe_as::<PitStateV1>(bytes),
        RtcStateV1::KIND => describe_as::<RtcStateV1>(bytes),
        AcpiPmStateV1::KIND => describe_as::<AcpiPmStateV1>(bytes),
        I8042StateV1::KIND => describe_as::<I8042StateV1>(bytes),
        DebugPortStateV1::KIND => describe_as::<DebugPortStateV1>(bytes),
        SerialStateV1::KIND => describe_as::<SerialStateV1>(bytes),
        PciBusStateV1::KIND => describe_as::<PciBusStateV1>(bytes),
        kind if kind.starts_with(PCI_DEVICE_PREFIX) => describe_as::<PciDeviceState>(bytes),
        _ => Err(RestoreError::Unexpected {
            kind: kind.to_owned(),
        }),
    };
    described.unwrap_or_else(|error| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        vec![
            ("unreadable".to_owned(), error.to_string()),
            ("bytes".to_owned(), hex),
        ]
    })
}
