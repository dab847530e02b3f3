//! The board: all devices, their addresses and their wires.
//!
//! ```text
//!            ┌──────── ports, MMIO, MSRs, CR8 (run loop) ────────┐
//!            ▼                                                   ▼
//!   serial ─IRQ 4─┐                                            LAPIC ──▶ vector, signals
//!   i8042  ─IRQ 1─┤      ┌─▶ 8259 pair ── INT ── LINT0 ─────────▲ ▲
//!   RTC    ─IRQ 8─┼──────┤                 └─ pin 0 ─┐          │ │
//!   PIT    ─IRQ 0─┘      └─▶ IOAPIC pin n (IRQ 0: 2) ┴─ messages┘ │
//!   notifications ─GSI 20──▶ IOAPIC                     MSI ──────┘
//!   PCI slots ─GSI 16..19──▶ IOAPIC            PCI slots ─┘
//! ```
//!
//! The run loop makes an access, then looks at [`Board::has_events`] and
//! [`Board::pending_interrupt`]; nothing calls back. Lines are polled after each access to the
//! device that drives them. Every access first lets due timers fire, so the state never depends on
//! when [`Board::advance`] was called.
//!
//! One processor. Messages for others leave as [`BoardEvents::ipis`].
//!
//! Not part of the state: the events that were not taken yet. They are outputs that have happened;
//! the caller takes them before it saves.

mod addresses;
mod events;
mod pci_routes;
mod saved_board;
mod wiring;

#[cfg(test)]
mod pci_tests;
#[cfg(test)]
mod tests;

use crate::clock::{VirtualTime, earliest};
use crate::device::Device;
use crate::interrupt::InterruptMessage;
use crate::interrupt_controller::ioapic::Ioapic;
use crate::interrupt_controller::lapic::{CpuSignal, Lapic, LapicConfig};
use crate::interrupt_controller::pic::Pic;
use crate::legacy::acpi_pm::AcpiPm;
use crate::legacy::cmos_rtc::{CmosRtc, RTC_IRQ, RtcConfig};
use crate::legacy::debug_port::DebugPort;
use crate::legacy::i8042::I8042;
use crate::legacy::pit::{PIT_IRQ, Pit};
use crate::legacy::serial_16550::Serial16550;
use crate::virtio::any::VirtioConfig;
use crate::virtio::transport::VirtioPci;

pub use addresses::{MSR_APIC_BASE, MSR_TSC_DEADLINE, owns_msr};
pub use events::{BoardEvents, DeviceEvent};
pub use pci_routes::{ECAM_BASE, ECAM_SIZE, WINDOW_32, window_64};
pub use saved_board::{BoardStateV1, describe};
pub use wiring::TIMER_GSI;

/// What a board consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardConfig {
    /// Whether there is a serial port.
    pub serial: bool,
    /// Real-time clock and CMOS memory.
    pub rtc: RtcConfig,
    /// Guest-physical address width, 36..=52.
    pub phys_address_bits: u8,
    /// Frequency of the processor's time-stamp counter in kHz; not zero.
    pub tsc_khz: u32,
    /// PCI devices, in slots 1 and up; 31 at most. With none there is no bus.
    pub pci: Vec<VirtioConfig>,
}

/// All devices of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    lapic: Lapic,
    ioapic: Ioapic,
    pic: Pic,
    pit: Pit,
    rtc: CmosRtc,
    serial: Option<Serial16550>,
    acpi: AcpiPm,
    i8042: I8042,
    debug: DebugPort,
    pci: Option<pci_routes::Bus>,
    /// Accesses that no device answered.
    undecoded_accesses: u64,
    events: BoardEvents,
}

impl Board {
    /// A board as firmware leaves it: local APIC in virtual wire mode, everything else reset.
    ///
    /// # Panics
    /// If `config.phys_address_bits` is not in 36..=52, `config.tsc_khz` is zero, or a PCI device
    /// cannot be had.
    #[must_use]
    pub fn new(config: &BoardConfig) -> Self {
        let phys_address_bits = config.phys_address_bits;
        assert!(
            (36..=52).contains(&phys_address_bits),
            "address width {phys_address_bits}"
        );
        assert_ne!(config.tsc_khz, 0, "a counter that stands still");
        let mut lapic = Lapic::new(LapicConfig {
            id: 0,
            boot_processor: true,
            phys_address_bits,
            tsc_khz: config.tsc_khz,
        });
        lapic.enter_virtual_wire_mode();
        Self {
            lapic,
            ioapic: Ioapic::new(),
            pic: Pic::new(),
            pit: Pit::new(),
            rtc: CmosRtc::new(config.rtc),
            serial: config.serial.then(Serial16550::new),
            acpi: AcpiPm::new(),
            i8042: I8042::new(),
            debug: DebugPort::new(),
            pci: pci_routes::make_bus(&config.pci, phys_address_bits),
            undecoded_accesses: 0,
            events: BoardEvents::default(),
        }
    }

    /// Resets every device, as the platform's reset line does. Untaken events are dropped; the ones
    /// that are left say which virtio devices lost their driver.
    pub fn reset(&mut self, now: VirtualTime) {
        let ready = self.ready_devices();
        self.lapic.reset(now);
        self.lapic.enter_virtual_wire_mode();
        self.ioapic.reset(now);
        self.pic.reset(now);
        self.pit.reset(now);
        self.rtc.reset(now);
        if let Some(serial) = &mut self.serial {
            serial.reset(now);
        }
        self.acpi.reset(now);
        self.i8042.reset(now);
        self.debug.reset(now);
        if let Some(bus) = &mut self.pci {
            bus.reset();
            bus.functions_mut()
                .iter_mut()
                .for_each(VirtioPci::power_on_reset);
        }
        self.undecoded_accesses = 0;
        self.events = BoardEvents {
            virtio: ready,
            ..BoardEvents::default()
        };
    }

    /// INIT of the processor: resets its local APIC.
    pub fn init_lapic(&mut self) {
        self.lapic.init();
    }

    /// Fires every timer that is due at or before `now`.
    pub fn advance(&mut self, now: VirtualTime) {
        self.lapic.advance(now);
        self.pit.advance(now);
        if self.pit.take_pulse() {
            self.pulse_isa_line(PIT_IRQ);
        }
        let rtc_line = self.rtc.irq_level();
        self.rtc.advance(now);
        if self.rtc.irq_level() != rtc_line {
            self.poll_rtc();
        }
    }

    /// The earliest time at which a timer interrupt could reach the processor; `None` if there is
    /// none. After `advance(now)` it is later than `now`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VirtualTime> {
        let mut deadline = self.lapic.next_deadline();
        if self.isa_line_matters(PIT_IRQ) {
            deadline = earliest(deadline, self.pit.next_deadline());
        }
        if self.isa_line_matters(RTC_IRQ) {
            deadline = earliest(deadline, self.rtc.next_deadline());
        }
        deadline
    }

    /// The vector that the processor would take now if it accepts interrupts.
    #[must_use]
    pub fn pending_interrupt(&self) -> Option<u8> {
        if self.external_interrupt_reaches_cpu()
            && let Some(vector) = self.pic.pending_vector()
        {
            return Some(vector);
        }
        self.lapic.pending_vector()
    }

    /// The processor takes the pending interrupt: moves it into service and returns its vector.
    ///
    /// With nothing pending the result is the local APIC's spurious vector.
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        if self.external_interrupt_reaches_cpu() && self.pic.output() {
            let vector = self.pic.acknowledge();
            self.poll_pic();
            return vector;
        }
        self.lapic.acknowledge()
    }

    /// CR8, the task priority class.
    #[must_use]
    pub const fn cr8(&self) -> u8 {
        self.lapic.cr8()
    }

    /// Writes CR8; only the low four bits count.
    pub const fn set_cr8(&mut self, value: u8) {
        self.lapic.set_cr8(value);
    }

    /// Tells the board that guest TSC = ticks of virtual time + `offset`, modulo 2^64.
    pub fn set_tsc_offset(&mut self, offset: u64, now: VirtualTime) {
        self.advance(now);
        self.lapic.set_tsc_offset(offset, now);
    }

    /// An input: bytes arrived at the serial port. Returns how many were taken; zero without a
    /// port.
    #[must_use]
    pub fn serial_input(&mut self, bytes: &[u8]) -> usize {
        let Some(serial) = &mut self.serial else {
            return 0;
        };
        let taken = serial.offer_input(bytes);
        self.poll_serial();
        taken
    }

    /// Bytes that [`Self::serial_input`] would take now.
    #[must_use]
    pub fn serial_input_room(&self) -> usize {
        self.serial.as_ref().map_or(0, Serial16550::input_room)
    }

    /// An input: the power button is pressed.
    pub fn power_button(&mut self) {
        self.acpi.press_power_button();
        self.poll_notifications();
    }

    /// An input: the NMI button is pressed, which is wired to LINT1.
    pub fn nmi_button(&mut self) {
        if let Some(signal) = self.lapic.pulse_lint1() {
            self.events.signals.push(signal);
        }
    }

    /// Delivers a message signalled interrupt: a write of `data` to `address` by a device.
    ///
    /// Returns whether the local APIC took it.
    pub fn deliver_msi(&mut self, address: u64, data: u32) -> bool {
        InterruptMessage::from_msi(address, data).is_some_and(|message| self.deliver(&message))
    }

    /// Sets the level of a global system interrupt that no device on the board drives: 16..=23,
    /// except the one of the notification register, and 20 or more where there is a PCI bus.
    /// Returns whether there is such a pin.
    pub fn set_gsi(&mut self, gsi: u8, level: bool) -> bool {
        let free = wiring::is_free_gsi(gsi) && !(self.pci.is_some() && wiring::is_pci_gsi(gsi));
        if free {
            self.drive_pin(gsi, level);
        }
        free
    }

    /// Whether [`Self::take_events`] would return anything.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What left the machine since the last call.
    #[must_use]
    pub fn take_events(&mut self) -> BoardEvents {
        std::mem::take(&mut self.events)
    }

    /// How many accesses no device answered.
    #[must_use]
    pub const fn undecoded_accesses(&self) -> u64 {
        self.undecoded_accesses
    }

    /// The last POST code.
    #[must_use]
    pub const fn post_code(&self) -> u8 {
        self.debug.post_code()
    }

    fn signal(&mut self, signal: Option<CpuSignal>) {
        self.events.signals.extend(signal);
    }
}
