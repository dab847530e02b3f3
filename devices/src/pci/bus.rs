//! Bus 0: the host bridge, up to 31 functions, and the two ways to reach configuration space.
//!
//! ```text
//! cf8: 31 enable | 23:16 bus | 15:11 slot | 10:8 function | 7:2 register      cfc: data
//! ECAM offset:     27:20 bus | 19:15 slot | 14:12 function | 11:0 register
//! ```
//!
//! Slot 0 is the host bridge; the functions follow in the order of the list they were given in.
//! Each drives INTA, wired to global system interrupt [`gsi_of_slot`]; pins share a line by OR.
//!
//! Left out: other buses, multi-function devices, hot plug, extended capabilities (the upper part
//! of a present function's ECAM page reads as zero, which says that there are none).
//!
//! Spec: PCI Local Bus 3.0 §3.2.2.3.2, §6.1; PCI Express Base 5.0 §7.2.2.

use serde::{Deserialize, Serialize};

use crate::saved::{RestoreError, SavedState, check};

use super::config_space::{CONFIG_SPACE_SIZE, ConfigSpace, ConfigSpaceState, PciIdentity};
use super::{BarWrite, PciContext, PciFunction};

/// First of the eight ports of the configuration mechanism: address at 0xcf8, data at 0xcfc.
pub const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
/// First data port.
pub const CONFIG_DATA_PORT: u16 = 0xcfc;
/// Bytes of one bus in ECAM.
pub const ECAM_BUS_SIZE: u64 = 1 << 20;
/// Slots on the bus, the host bridge's included.
pub const SLOT_COUNT: usize = 32;

const ADDRESS_ENABLE: u32 = 1 << 31;
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;
const FIRST_GSI: u8 = 16;
const GSI_COUNT: u8 = 4;

const HOST_BRIDGE: PciIdentity = PciIdentity {
    vendor: 0x8086,
    device: 0x0d57,
    revision: 0,
    class: 0x06_0000,
};

/// The global system interrupt to which INTA of `slot` is wired: 16 to 19 in turn.
///
/// ACPI's `_PRT` must have, for each slot, `Package { slot << 16 | 0xffff, 0, 0, 16 + slot % 4 }`,
/// level-triggered and active-low as PCI interrupts are by default.
#[must_use]
pub const fn gsi_of_slot(slot: u8) -> u8 {
    FIRST_GSI + slot % GSI_COUNT
}

/// A configuration address: slot and register, on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    slot: usize,
    register: u16,
}

/// The bus and its functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciBus<F> {
    host_bridge: ConfigSpace,
    functions: Vec<F>,
    address: u32,
}

/// Saved state of the bus itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBusStateV1 {
    /// How many functions there are besides the host bridge.
    pub function_count: u8,
    /// The address register.
    pub address: u32,
    /// What the guest changed in the host bridge.
    pub host_bridge: ConfigSpaceState,
}

impl SavedState for PciBusStateV1 {
    const KIND: &'static str = "pci-bus";
    const VERSION: u16 = 1;
}

impl<F: PciFunction> PciBus<F> {
    /// A bus with `functions` in slots 1 and up.
    ///
    /// # Panics
    /// If there are more than 31.
    #[must_use]
    pub fn new(functions: Vec<F>) -> Self {
        assert!(
            functions.len() < SLOT_COUNT,
            "{} functions",
            functions.len()
        );
        Self {
            host_bridge: ConfigSpace::new(HOST_BRIDGE),
            functions,
            address: 0,
        }
    }

    /// Resets the bus, not the functions.
    pub fn reset(&mut self) {
        self.address = 0;
        self.host_bridge = ConfigSpace::new(HOST_BRIDGE);
    }

    /// The functions, in slot order from slot 1.
    #[must_use]
    pub fn functions(&self) -> &[F] {
        &self.functions
    }

    /// The functions, to be changed.
    pub fn functions_mut(&mut self) -> &mut [F] {
        &mut self.functions
    }

    /// State of the bus itself.
    #[must_use]
    pub fn save(&self) -> PciBusStateV1 {
        PciBusStateV1 {
            function_count: self.functions.len() as u8,
            address: self.address,
            host_bridge: self.host_bridge.save(),
        }
    }

    /// Takes over a saved bus with as many functions.
    ///
    /// # Errors
    /// If a field has a value that it cannot have.
    pub fn restore(&mut self, saved: &PciBusStateV1) -> Result<(), RestoreError> {
        let PciBusStateV1 {
            function_count,
            address,
            host_bridge,
        } = saved;
        let kind = PciBusStateV1::KIND;
        let matches = usize::from(*function_count) == self.functions.len();
        check(matches, kind, "function_count", function_count)?;
        let possible = address & !ADDRESS_WRITABLE == 0;
        check(possible, kind, "address", address)?;
        self.address = *address;
        self.host_bridge.restore(host_bridge)
    }

    /// A read at one of the eight ports; `None` where nobody answers.
    pub fn port_read(&mut self, port: u16, size: u8) -> Option<u32> {
        if port < CONFIG_DATA_PORT {
            return (port == CONFIG_ADDRESS_PORT && size == 4).then_some(self.address);
        }
        let target = self.addressed(port)?;
        Some(self.config_read(target, size))
    }

    /// A write at one of the eight ports; `None` where nobody answers.
    pub fn port_write(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        cx: &mut PciContext<'_>,
    ) -> Option<()> {
        if port < CONFIG_DATA_PORT {
            (port == CONFIG_ADDRESS_PORT && size == 4).then_some(())?;
            self.address = value & ADDRESS_WRITABLE;
            return Some(());
        }
        let target = self.addressed(port)?;
        self.config_write(target, size, value, cx);
        Some(())
    }

    /// A read at `offset` of the ECAM window.
    pub fn ecam_read(&mut self, offset: u64, size: u8) -> u64 {
        let mut value = 0;
        for part in 0..parts(size) {
            let (at, width) = (offset + 4 * u64::from(part), size.min(4));
            let read = match ecam_target(at) {
                Some(target) => self.config_read(target, width),
                None => u32::MAX,
            };
            value |= u64::from(read & ones(width)) << (32 * part);
        }
        value
    }

    /// A write at `offset` of the ECAM window.
    pub fn ecam_write(&mut self, offset: u64, size: u8, value: u64, cx: &mut PciContext<'_>) {
        for part in 0..parts(size) {
            let at = offset + 4 * u64::from(part);
            if let Some(target) = ecam_target(at) {
                self.config_write(target, size.min(4), (value >> (32 * part)) as u32, cx);
            }
        }
    }

    /// Who decodes `gpa` now: index of the function, its BAR, the offset. The lowest slot wins
    /// where BARs overlap.
    #[must_use]
    pub fn decode(&self, gpa: u64) -> Option<(usize, u8, u64)> {
        let mut functions = self.functions.iter().enumerate();
        functions.find_map(|(index, function)| {
            let (bar, offset) = function.decode(gpa)?;
            Some((index, bar, offset))
        })
    }

    /// A read at a BAR that [`Self::decode`] found; `None` if there is no such function.
    pub fn bar_read(&mut self, index: usize, bar: u8, offset: u64, size: u8) -> Option<u64> {
        let function = self.functions.get_mut(index)?;
        Some(function.bar_read(bar, offset, size))
    }

    /// A write at a BAR that [`Self::decode`] found.
    pub fn bar_write(
        &mut self,
        (index, bar, offset): (usize, u8, u64),
        write: BarWrite,
        cx: &mut PciContext<'_>,
    ) {
        if let Some(function) = self.functions.get_mut(index) {
            cx.source = index;
            function.bar_write(bar, offset, write, cx);
        }
    }

    /// The levels of the four interrupt lines, from [`gsi_of_slot`] of slot 0 up.
    #[must_use]
    pub fn line_levels(&self) -> [(u8, bool); GSI_COUNT as usize] {
        let mut lines = std::array::from_fn(|line| (gsi_of_slot(line as u8), false));
        for (function, slot) in self.functions.iter().zip(1usize..) {
            lines[slot % usize::from(GSI_COUNT)].1 |= function.intx_level();
        }
        lines
    }

    /// What the address register points at; `None` if it is not enabled.
    const fn addressed(&self, port: u16) -> Option<Target> {
        if self.address & ADDRESS_ENABLE == 0 {
            return None;
        }
        // Another bus or function: the cycle happens, and nobody claims it.
        let ours = self.address >> 16 & 0xff == 0 && self.address >> 8 & 7 == 0;
        Some(Target {
            slot: if ours {
                (self.address >> 11 & 0x1f) as usize
            } else {
                usize::MAX
            },
            register: (self.address & 0xfc) as u16 | port & 3,
        })
    }

    fn config_read(&mut self, target: Target, size: u8) -> u32 {
        let Target { slot, register } = target;
        if slot > self.functions.len() {
            return ones(size);
        }
        let mut value = 0;
        for (at, shift, width) in aligned_pieces(register, size) {
            let piece = match (u8::try_from(at), slot.checked_sub(1)) {
                (Err(_), _) => 0,
                (Ok(at), None) => self.host_bridge.read(at, width),
                (Ok(at), Some(index)) => self.functions[index].config_read(at, width),
            };
            value |= (piece & ones(width)) << shift;
        }
        value
    }

    fn config_write(&mut self, target: Target, size: u8, value: u32, cx: &mut PciContext<'_>) {
        let Target { slot, register } = target;
        if slot > self.functions.len() {
            return;
        }
        for (at, shift, width) in aligned_pieces(register, size) {
            let piece = value >> shift & ones(width);
            match (u8::try_from(at), slot.checked_sub(1)) {
                (Err(_), _) => {}
                (Ok(at), None) => self.host_bridge.write(at, width, piece),
                (Ok(at), Some(index)) => {
                    cx.source = index;
                    self.functions[index].config_write(at, width, piece, cx);
                }
            }
        }
    }
}

const _: () = assert!(CONFIG_SPACE_SIZE == 1 + u8::MAX as usize);

fn ecam_target(offset: u64) -> Option<Target> {
    let function = offset >> 12 & 7;
    let slot = (offset >> 15 & 0x1f) as usize;
    (offset < ECAM_BUS_SIZE && function == 0).then_some(Target {
        slot,
        register: (offset & 0xfff) as u16,
    })
}

/// How many dwords an access has, at least one.
const fn parts(size: u8) -> u8 {
    if size > 4 { 2 } else { 1 }
}

/// All ones in `size` bytes.
const fn ones(size: u8) -> u32 {
    match size {
        0 => 0,
        1..=3 => (1 << (8 * size)) - 1,
        _ => u32::MAX,
    }
}

/// An access of up to 4 bytes as naturally aligned ones: (register, shift, width).
fn aligned_pieces(register: u16, size: u8) -> impl Iterator<Item = (u16, u8, u8)> {
    let natural = matches!(size, 1 | 2 | 4) && register.is_multiple_of(u16::from(size));
    let (count, width) = if natural { (1, size) } else { (size.min(4), 1) };
    (0..count).map(move |index| (register + u16::from(index), 8 * index, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::NoRam;
    use crate::pci::config_space::BarWidth;

    /// A function that remembers BAR writes.
    #[derive(Clone, Debug, PartialEq)]
    struct Toy(ConfigSpace, bool, Vec<(u8, u64, BarWrite)>);

    impl Toy {
        fn new(address: u64) -> Self {
            let mut space = ConfigSpace::new(PciIdentity {
                vendor: 1,
                device: 2,
                revision: 3,
                class: 4,
            });
            space.add_bar(0, 0x1000, BarWidth::Bits32, address);
            space.set_command(2);
            Self(space, false, Vec::new())
        }
    }

    impl PciFunction for Toy {
        fn config_read(&mut self, offset: u8, size: u8) -> u32 {
            assert!(matches!(size, 1 | 2 | 4) && offset.is_multiple_of(size));
            self.0.read(offset, size)
        }

        fn config_write(&mut self, offset: u8, size: u8, value: u32, _cx: &mut PciContext<'_>) {
            assert!(matches!(size, 1 | 2 | 4) && offset.is_multiple_of(size));
            self.0.write(offset, size, value);
        }

        fn decode(&self, gpa: u64) -> Option<(u8, u64)> {
            self.0.decode(gpa)
        }

        fn bar_read(&mut self, _bar: u8, offset: u64, _size: u8) -> u64 {
            offset
        }

        fn bar_write(&mut self, bar: u8, offset: u64, write: BarWrite, _cx: &mut PciContext<'_>) {
            self.2.push((bar, offset, write));
        }

        fn intx_level(&self) -> bool {
            self.1
        }
    }

    fn bus() -> PciBus<Toy> {
        PciBus::new(vec![Toy::new(0xc000_0000), Toy::new(0xc000_1000)])
    }

    #[test]
    fn both_mechanisms_reach_the_same_registers() {
        let (mut bus, mut ram) = (bus(), NoRam);
        let mut cx = PciContext::new(&mut ram);
        assert_eq!(
            bus.port_read(0xcfc, 4),
            None,
            "the address is not enabled yet"
        );
        assert_eq!(
            bus.port_write(0xcfb, 1, 1, &mut cx),
            None,
            "as Linux probes"
        );
        bus.port_write(0xcf8, 4, 0x8000_0000, &mut cx).unwrap();
        assert_eq!(bus.port_read(0xcf8, 4), Some(0x8000_0000));
        assert_eq!(bus.port_read(0xcfc, 4), Some(0x0d57_8086));
        assert_eq!(bus.port_read(0xcfe, 2), Some(0x0d57));
        for (slot, id) in [(0, 0x0d57_8086), (1, 0x0002_0001), (2, 0x0002_0001)] {
            assert_eq!(bus.ecam_read(slot << 15, 4), id);
        }
        for offset in [3 << 15, 1 << 12, 1 << 15 | 1 << 12, 31 << 15, 1 << 20] {
            assert_eq!(bus.ecam_read(offset, 4), 0xffff_ffff, "{offset:#x}");
            assert_eq!(bus.ecam_read(offset, 1), 0xff);
        }
        bus.ecam_write(1 << 15 | 0x10, 8, u64::MAX, &mut cx);
        assert_eq!(bus.ecam_read(1 << 15 | 0x10, 8), 0xffff_f000);
        assert_eq!(
            bus.ecam_read(1 << 15 | 0x11, 2),
            0xfff0,
            "unaligned: bytewise"
        );
        assert_eq!(
            bus.ecam_read(1 << 15 | 0x100, 4),
            0,
            "no extended capability"
        );
        bus.port_write(0xcf8, 4, 0x8001_0000, &mut cx).unwrap();
        assert_eq!(bus.port_read(0xcfc, 2), Some(0xffff), "bus 1");
        bus.port_write(0xcf8, 4, 0x8000_0810, &mut cx).unwrap();
        bus.port_write(0xcfc, 4, 0xd000_0000, &mut cx).unwrap();
        assert_eq!(bus.decode(0xd000_0004), Some((0, 0, 4)));
    }

    #[test]
    fn bars_are_decoded_where_they_are_now_and_pins_share_lines() {
        let (mut bus, mut ram) = (bus(), NoRam);
        let mut cx = PciContext::new(&mut ram);
        let hit = bus.decode(0xc000_1010).unwrap();
        assert_eq!(hit, (1, 0, 0x10));
        let write = BarWrite { size: 4, value: 9 };
        bus.bar_write(hit, write, &mut cx);
        assert_eq!(bus.functions()[1].2, [(0, 0x10, write)]);
        assert_eq!(bus.bar_read(1, 0, 0x10, 4), Some(0x10));
        bus.ecam_write(2 << 15 | 4, 2, 0, &mut cx);
        assert_eq!(bus.decode(0xc000_1010), None);
        bus.functions_mut()[1].1 = true;
        assert_eq!(
            bus.line_levels(),
            [(16, false), (17, false), (18, true), (19, false)]
        );
        assert_eq!([1, 4, 31].map(gsi_of_slot), [17, 16, 19]);
    }
}
