//! The local APIC, in xAPIC and x2APIC mode.
//!
//! ```text
//!   MMIO page ─┐                      ┌─ timer ─┐
//!   MSR 800..  ├─ registers ─ LVTs ───┤         ├─▶ IRR ─▶ (priority > PPR?) ─▶ vector ─▶ ISR
//!   CR8        ┘                      └─ errors ┘    ▲                                    │ EOI
//!   messages (IOAPIC, MSI, IPI) ─────────────────────┘           level: EOI to IOAPIC ◀───┘
//! ```
//!
//! The core has no callbacks: a register write returns an [`Effect`] for the board to carry out.
//!
//! Modelled: both modes and the transitions between them, TPR/PPR, EOI with broadcast suppression,
//! LVTs for timer, thermal, performance, LINT0, LINT1 and errors, ICR, self IPI, ESR, timer.
//! Left out: focus checking and arbitration (obsolete), thermal and performance sources (nothing
//! raises them), delivery of lowest-priority messages by comparing processors (there is one).
//!
//! Deviates: delivery status always reads idle, because messages arrive at once.
//!
//! Invariant: while software-disabled every LVT is masked; a vector below 16 never enters IRR.
//!
//! Spec: Intel SDM vol. 3A, ch. 11 "APIC" (order number 325462-083).

mod registers;
mod state;
mod timer;
mod vectors;
mod x2apic;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::clock::{TscRate, VirtualTime};
use crate::device::Device;
use crate::interrupt::{DeliveryMode, Destination, InterruptMessage, TriggerMode};

use registers::{LVT_LEVEL, LVT_MASKED, LVT_REMOTE_IRR, Lvt, SVR_ENABLED};
pub use state::LapicStateV2;
pub use timer::TIMER_TICK_NS;
use timer::{Timer, TimerMode};
use vectors::{VectorSet, clear, contains, highest, set};
pub use x2apic::X2APIC_FIRST_MSR;

const KIND: &str = "lapic";

/// Power-on address of the register page.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Size of the register page.
pub const LAPIC_SIZE: u64 = 0x1000;

/// IA32_APIC_BASE: this is the boot processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is enabled.
const BASE_ENABLED: u64 = 1 << 11;

const ERROR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ERROR_ILLEGAL_REGISTER: u32 = 1 << 7;
const FIRST_LEGAL_VECTOR: u8 = 16;

/// What the board has to do after a register write.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Tell the IOAPIC that a level-triggered interrupt ended.
    EndOfInterrupt {
        /// Its vector.
        vector: u8,
    },
    /// Send an inter-processor interrupt, possibly to this processor.
    Send(InterruptMessage),
    /// The APIC may now accept messages that it did not accept before.
    Reconfigured,
}

/// What a message did to the processor.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is not for this APIC, or the APIC is disabled.
    Refused,
    /// Taken; the rest is inside the APIC.
    Accepted,
    /// Taken; the processor itself has to act.
    Signal(CpuSignal),
}

/// A message that acts on the processor, past the interrupt priority logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuSignal {
    /// Non-maskable interrupt.
    Nmi,
    /// System management interrupt.
    Smi,
    /// INIT.
    Init,
    /// Start-up IPI.
    StartUp {
        /// Page number of the start address.
        vector: u8,
    },
}

impl CpuSignal {
    /// The signal that a message in this mode is; `None` for modes that carry an interrupt vector.
    #[must_use]
    pub const fn from_message(message: &InterruptMessage) -> Option<Self> {
        match message.mode {
            DeliveryMode::Nmi => Some(Self::Nmi),
            DeliveryMode::Smi => Some(Self::Smi),
            DeliveryMode::Init => Some(Self::Init),
            DeliveryMode::StartUp => Some(Self::StartUp {
                vector: message.vector,
            }),
            DeliveryMode::Fixed
            | DeliveryMode::LowestPriority
            | DeliveryMode::Reserved
            | DeliveryMode::ExtInt => None,
        }
    }
}

/// What does not change during the life of an APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicConfig {
    /// Initial APIC id.
    pub id: u32,
    /// Whether this is the boot processor.
    pub boot_processor: bool,
    /// Guest-physical address width, which bounds the base register. 36..=52.
    pub phys_address_bits: u8,
    /// Frequency of the processor's time-stamp counter in kHz; not zero.
    pub tsc_khz: u32,
}

/// The local APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapic {
    config: LapicConfig,

    base: u64,
    /// The id register of xAPIC mode.
    xapic_id: u8,
    task_priority: u8,
    logical_id: u32,
    destination_format: u32,
    spurious: u32,
    icr: u64,
    lvt: [u32; Lvt::COUNT],
    /// Errors as the guest sees them, and those that happened since.
    errors: u32,
    new_errors: u32,
    requests: VectorSet,
    in_service: VectorSet,
    level_triggered: VectorSet,
    lint0: bool,
    timer: Timer,
}

impl Lapic {
    /// An APIC in its power-on state.
    #[must_use]
    pub const fn new(config: LapicConfig) -> Self {
        let bsp = if config.boot_processor { BASE_BSP } else { 0 };
        Self {
            config,
            base: LAPIC_BASE | BASE_ENABLED | bsp,
            xapic_id: config.id as u8,
            task_priority: 0,
            logical_id: 0,
            destination_format: u32::MAX,
            spurious: 0xff,
            icr: 0,
            lvt: [LVT_MASKED; Lvt::COUNT],
            errors: 0,
            new_errors: 0,
            requests: [0; 8],
            in_service: [0; 8],
            level_triggered: [0; 8],
            lint0: false,
            timer: Timer::new(),
        }
    }

    /// Leaves the registers as firmware hands them to an operating system: enabled, LINT0 passing
    /// on the 8259's interrupts ("virtual wire mode"), LINT1 an NMI.
    pub fn enter_virtual_wire_mode(&mut self) {
        self.spurious |= SVR_ENABLED;
        self.lvt[Lvt::Lint0 as usize] = 0x700;
        self.lvt[Lvt::Lint1 as usize] = 0x400;
    }

    /// What INIT does to the APIC: everything but the id, the base and the TSC is reset.
    pub fn init(&mut self) {
        let mut fresh = Self::new(self.config);
        fresh.timer = self.timer.clone();
        fresh.timer.reset();
        fresh.base = self.base;
        fresh.xapic_id = self.xapic_id;
        fresh.lint0 = self.lint0;
        *self = fresh;
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn base_register(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE; `None` means a general-protection fault.
    ///
    /// x2APIC mode is entered only from xAPIC mode and left only by disabling.
    pub fn write_base_register(&mut self, value: u64) -> Option<Effect> {
        let known = BASE_BSP | BASE_X2APIC | BASE_ENABLED | 0x000f_ffff_ffff_f000;
        let too_wide = value >> self.config.phys_address_bits != 0;
        let (was, will) = (self.base, value);
        let legal = match (
            was & (BASE_ENABLED | BASE_X2APIC),
            will & (BASE_ENABLED | BASE_X2APIC),
        ) {
            (_, BASE_X2APIC) => false,
            (0, both) => both != BASE_ENABLED | BASE_X2APIC,
            (old, new) => !(old & BASE_X2APIC != 0 && new == BASE_ENABLED),
        };
        if value & !known != 0 || too_wide || !legal {
            return None;
        }
        self.base = value;
        if was & BASE_ENABLED != 0 && will & BASE_ENABLED == 0 {
            self.init();
            self.xapic_id = self.config.id as u8;
        }
        Some(Effect::Reconfigured)
    }

    /// Guest-physical address of the register page; `None` unless in xAPIC mode.
    #[must_use]
    pub const fn mmio_base(&self) -> Option<u64> {
        if self.base & (BASE_ENABLED | BASE_X2APIC) == BASE_ENABLED {
            Some(self.base & 0x000f_ffff_ffff_f000)
        } else {
            None
        }
    }

    /// CR8: the task priority class, 0..=15.
    #[must_use]
    pub const fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Writes CR8; only the low four bits count.
    pub const fn set_cr8(&mut self, value: u8) {
        self.task_priority = value << 4;
    }

    /// The highest vector that may interrupt the processor now.
    #[must_use]
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = highest(&self.requests)?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Moves the pending vector into service. With nothing pending the result is the spurious
    /// vector, which does not enter service.
    pub fn acknowledge(&mut self) -> u8 {
        match self.pending_vector() {
            Some(vector) => {
                clear(&mut self.requests, vector);
                set(&mut self.in_service, vector);
                vector
            }
            None => self.spurious as u8,
        }
    }

    /// Whether the 8259's INT reaches the processor through LINT0. A disabled APIC leaves the pin
    /// connected as if it were not there.
    #[must_use]
    pub const fn passes_external_interrupts(&self) -> bool {
        let lint0 = self.lvt[Lvt::Lint0 as usize];
        let external = matches!(DeliveryMode::from_register(lint0), DeliveryMode::ExtInt);
        self.base & BASE_ENABLED == 0 || (external && lint0 & LVT_MASKED == 0)
    }

    /// Whether anything on LINT0 reaches the processor.
    #[must_use]
    pub const fn is_lint0_open(&self) -> bool {
        self.base & BASE_ENABLED == 0 || self.lvt[Lvt::Lint0 as usize] & LVT_MASKED == 0
    }

    /// Sets the level of LINT0, where the 8259's INT is connected.
    pub fn set_lint0(&mut self, level: bool) -> Option<CpuSignal> {
        let risen = level && !self.lint0;
        self.lint0 = level;
        if risen { self.raise(Lvt::Lint0) } else { None }
    }

    /// A rising edge on LINT1, the NMI pin.
    pub fn pulse_lint1(&mut self) -> Option<CpuSignal> {
        self.raise(Lvt::Lint1)
    }

    /// Whether `destination` includes this APIC, as seen by a sender other than itself.
    #[must_use]
    pub fn is_addressed(&self, destination: Destination) -> bool {
        match destination {
            Destination::All | Destination::Others => true,
            Destination::Sender => false,
            Destination::Physical(id) => id == self.id(),
            Destination::Logical(field) => self.matches_logical(field),
        }
    }

    /// Delivers a message that is addressed to this APIC.
    pub fn deliver(&mut self, message: &InterruptMessage) -> Delivery {
        if self.base & BASE_ENABLED == 0 {
            return Delivery::Refused;
        }
        if let Some(signal) = CpuSignal::from_message(message) {
            return Delivery::Signal(signal);
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
                if self.spurious & SVR_ENABLED != 0 =>
            {
                self.request(message.vector, message.trigger);
                Delivery::Accepted
            }
            _ => Delivery::Refused,
        }
    }

    /// Tells the timer that guest TSC = ticks of virtual time + `offset`, modulo 2^64.
    pub fn set_tsc_offset(&mut self, offset: u64, now: VirtualTime) {
        self.advance(now);
        self.timer.set_tsc_offset(offset, self.tsc_rate(), now);
        self.advance(now);
    }

    /// IA32_TSC_DEADLINE; zero unless armed.
    #[must_use]
    pub fn tsc_deadline(&mut self, now: VirtualTime) -> u64 {
        self.advance(now);
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE, which has no effect in the other timer modes.
    pub fn write_tsc_deadline(&mut self, value: u64, now: VirtualTime) {
        self.advance(now);
        if self.timer_mode() == TimerMode::TscDeadline {
            self.timer.write_tsc_deadline(value, self.tsc_rate(), now);
        }
        self.advance(now);
    }

    const fn tsc_rate(&self) -> TscRate {
        TscRate::new(self.config.tsc_khz)
    }

    const fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    const fn id(&self) -> u32 {
        if self.is_x2apic() {
            self.config.id
        } else {
            self.xapic_id as u32
        }
    }

    const fn timer_mode(&self) -> TimerMode {
        TimerMode::from_lvt(self.lvt[Lvt::Timer as usize])
    }

    fn matches_logical(&self, field: u32) -> bool {
        if self.is_x2apic() {
            let own = self.x2apic_logical_id();
            return field >> 16 == own >> 16 && field & own & 0xffff != 0;
        }
        let own = self.logical_id >> 24;
        if self.destination_format >> 28 == 0xf {
            return field & own & 0xff != 0;
        }
        // Cluster model: cluster number in the high nibble, members in the low one.
        (field >> 4) & 0xf == own >> 4 && field & own & 0xf != 0
    }

    /// PPR: the higher of the task priority and the class of the vector in service.
    fn processor_priority(&self) -> u8 {
        let served = highest(&self.in_service).unwrap_or(0) & 0xf0;
        if self.task_priority & 0xf0 >= served {
            self.task_priority
        } else {
            served
        }
    }

    fn request(&mut self, vector: u8, trigger: TriggerMode) {
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(ERROR_RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        set(&mut self.requests, vector);
        match trigger {
            TriggerMode::Edge => clear(&mut self.level_triggered, vector),
            TriggerMode::Level => set(&mut self.level_triggered, vector),
        }
    }

    /// Raises the local interrupt `source`, as its vector table entry says.
    fn raise(&mut self, source: Lvt) -> Option<CpuSignal> {
        let entry = self.lvt[source as usize];
        if entry & LVT_MASKED != 0 || self.base & BASE_ENABLED == 0 {
            return None;
        }
        let mode = match source {
            Lvt::Timer | Lvt::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_register(entry),
        };
        let level = source == Lvt::Lint0 && entry & LVT_LEVEL != 0;
        match mode {
            // One request at a time until its end of interrupt.
            DeliveryMode::Fixed if level && entry & LVT_REMOTE_IRR != 0 => {}
            DeliveryMode::Fixed if level => {
                self.lvt[source as usize] |= LVT_REMOTE_IRR;
                self.request(entry as u8, TriggerMode::Level);
            }
            DeliveryMode::Fixed => self.request(entry as u8, TriggerMode::Edge),
            DeliveryMode::Nmi => return Some(CpuSignal::Nmi),
            DeliveryMode::Smi => return Some(CpuSignal::Smi),
            DeliveryMode::Init => return Some(CpuSignal::Init),
            _ => {}
        }
        None
    }

    /// Requests the interrupt of a level-triggered LINT0 that is still asserted.
    fn reassert_lint0(&mut self) {
        let entry = self.lvt[Lvt::Lint0 as usize];
        let fixed = DeliveryMode::from_register(entry) == DeliveryMode::Fixed;
        if self.lint0 && fixed && entry & LVT_LEVEL != 0 {
            // Fixed mode, so there is no signal.
            self.raise(Lvt::Lint0);
        }
    }

    fn record_error(&mut self, error: u32) {
        let known = self.new_errors & error != 0;
        self.new_errors |= error;
        let entry = self.lvt[Lvt::Error as usize];
        // An illegal vector in the error entry itself must not recurse.
        if !known && entry & LVT_MASKED == 0 && entry as u8 >= FIRST_LEGAL_VECTOR {
            self.request(entry as u8, TriggerMode::Edge);
        }
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = highest(&self.in_service) else {
            return Effect::None;
        };
        clear(&mut self.in_service, vector);
        if !contains(&self.level_triggered, vector) {
            return Effect::None;
        }
        let lint0 = &mut self.lvt[Lvt::Lint0 as usize];
        if *lint0 & LVT_REMOTE_IRR != 0 && *lint0 as u8 == vector {
            *lint0 &= !LVT_REMOTE_IRR;
            self.reassert_lint0();
        }
        if self.spurious & registers::SVR_SUPPRESS_EOI_BROADCAST != 0 {
            return Effect::None;
        }
        Effect::EndOfInterrupt { vector }
    }
}
