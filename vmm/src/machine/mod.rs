//! A virtual machine as one deterministic state machine: processor, memory, board, clock.
//!
//! ```text
//!           inject ──▶ ┌───────────────────────────────┐ ──▶ take_outputs
//!                      │ vcpu ⇄ board   memory   clock │
//!           advance ─▶ └───────────────────────────────┘ ──▶ Stop
//! ```
//!
//! The guest's clocks follow from logical time: virtual time is a function of it, the time-stamp
//! counter shows virtual time at a frequency of the machine's, and a device's deadline is the first
//! instruction boundary at which the clock has reached it. So clock reads and timer interrupts are
//! computed, on whichever side of a pair, and never logged.

mod boot_image;
mod config;
pub mod disks;
mod dma;
mod page_set;
mod run;
mod saved;
mod virtio;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::board::{Board, BoardConfig, DeviceEvent};
use devices::clock::VirtualTime;
use devices::legacy::cmos_rtc::RtcConfig;
use ft::event::{ControlOp, Input, Output, SyncPoint};
use ft::machine::{MachineError, Page};
use ft::time::{LogicalTime, PageNumber};
use hypervisor::arch::x86_64::paging::PHYSICAL_BITS;
use hypervisor::capabilities::LogicalClock;
use hypervisor::{
    CpuState, GuestAddress, GuestMemory, Hypervisor, HypervisorError, Kicker, MemoryError,
    MemoryKind, TscClock, Vcpu, VmSpec,
};

use self::boot_image::MOST_PAGES;
use self::disks::{DiskStore, Disks};
use crate::loader::{self, LoadError, Payload, Platform};

pub use self::boot_image::BootImage;
pub use self::config::{
    DEBUG_CONSOLE, DiskMode, MOST_VIRTIO, MachineConfig, MachineConfigError, SERIAL, VirtioSpec,
    virtio_id, virtio_index,
};
pub use self::virtio::{DeviceInput, decode_disk_output};

/// The contents of a machine's replicated disks on this host, by the index of the device.
pub type DiskStores = BTreeMap<usize, Box<dyn DiskStore>>;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No memory.
    #[error("cannot make the guest's memory")]
    Memory(#[from] MemoryError),
    /// The backend refused.
    #[error("the hypervisor cannot make the machine")]
    Hypervisor(#[from] HypervisorError),
    /// The guest could not be loaded.
    #[error("cannot load the guest")]
    Load(#[from] LoadError),
    /// The boot files are too large, or not there.
    #[error("the boot files {0}")]
    BootFiles(&'static str),
    /// There can be no such machine.
    #[error(transparent)]
    Config(#[from] MachineConfigError),
    /// What a primary said about its machine cannot be used.
    #[error("{0}")]
    Description(String),
    /// A replicated disk has no contents here, or contents of another size.
    #[error("disk of device {device} has {found} bytes here, not the {expected} of the machine")]
    DiskSize {
        /// Index of the device.
        device: usize,
        /// What the machine's disk has.
        expected: u64,
        /// What there is here.
        found: u64,
    },
    /// The host side of a device cannot be had.
    #[error("the host side of device {device} cannot be made")]
    Device {
        /// Its identifier.
        device: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The backend refused the state to start from.
    #[error("the virtual processor refuses its first state")]
    Vcpu(#[from] hypervisor::VcpuError),
}

/// A virtual machine.
pub struct VirtualMachine {
    config: MachineConfig,
    hypervisor_name: &'static str,
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    board: Board,
    clock: SyncPoint,
    /// Outputs that were not taken yet.
    outputs: Vec<Output>,
    /// Requests to the host that were not taken yet; none while it is not live.
    requests: Vec<DeviceEvent>,
    live: bool,
    disks: Disks,
    powered_off: bool,
    /// What the board was last told about the guest's time-stamp offset.
    tsc_offset: u64,
    resets: u64,
    boot: BootImage,
}

impl VirtualMachine {
    /// A machine with its guest loaded, at logical time zero.
    ///
    /// # Errors
    /// When memory, processor or guest cannot be had.
    pub fn new(
        config: MachineConfig,
        memory: MemoryKind,
        payload: &Payload,
        stores: DiskStores,
        hypervisor: &dyn Hypervisor,
    ) -> Result<Self, BuildError> {
        let boot = BootImage::of(payload);
        if boot.page_count() > MOST_PAGES {
            return Err(BuildError::BootFiles("are larger than 1 GiB"));
        }
        let config = MachineConfig {
            boot_pages: boot.page_count(),
            ..config
        };
        let mut machine = Self::blank(config, memory, stores, hypervisor)?;
        machine.boot = boot;
        let state = loader::load(&machine.memory, payload, machine.platform())?;
        machine.vcpu.restore(&state)?;
        machine.set_clock(machine.clock);
        Ok(machine)
    }

    /// A machine of zeroes, whose state is to come from elsewhere.
    ///
    /// # Errors
    /// When memory or processor cannot be had.
    pub fn blank(
        config: MachineConfig,
        memory: MemoryKind,
        stores: DiskStores,
        hypervisor: &dyn Hypervisor,
    ) -> Result<Self, BuildError> {
        config.check()?;
        let memory = Arc::new(GuestMemory::of_kind(memory, config.memory_size)?);
        let boot = BootImage::blank(config.boot_pages);
        Self::over(config, (memory, boot), stores, hypervisor)
    }

    /// A machine over memory and boot files that hold what they are to hold already; the rest of
    /// its state is to come from elsewhere.
    ///
    /// # Errors
    /// When the processor cannot be had, or something has not the size that the machine's has.
    pub fn over(
        config: MachineConfig,
        (memory, boot): (Arc<GuestMemory>, BootImage),
        stores: DiskStores,
        hypervisor: &dyn Hypervisor,
    ) -> Result<Self, BuildError> {
        config.check()?;
        check_stores(&config, &stores)?;
        if (memory.size(), boot.page_count()) != (config.memory_size, config.boot_pages) {
            return Err(BuildError::BootFiles("or the memory have another size"));
        }
        let spec = VmSpec {
            vcpus: 1,
            tsc_khz: config.tsc_khz,
        };
        let mut vm = hypervisor.create_vm(memory.clone(), spec)?;
        let vcpu = vm.take_vcpus().pop().expect("a VM of one vCPU has it");
        let board = Self::board(&config);
        let mut machine = Self {
            hypervisor_name: hypervisor.name(),
            memory,
            vcpu,
            board,
            clock: SyncPoint::start(),
            outputs: Vec::new(),
            requests: Vec::new(),
            live: false,
            disks: Disks::new(stores),
            powered_off: false,
            tsc_offset: 0,
            resets: 0,
            boot,
            config,
        };
        machine.set_clock(machine.clock);
        Ok(machine)
    }

    fn board(config: &MachineConfig) -> Board {
        Board::new(&BoardConfig {
            serial: config.serial,
            rtc: RtcConfig {
                base_seconds: config.start_seconds,
                ..RtcConfig::default()
            },
            phys_address_bits: PHYSICAL_BITS as u8,
            tsc_khz: config.tsc_khz,
            pci: virtio::board_devices(config),
        })
    }

    fn platform(&self) -> Platform {
        Platform {
            serial: self.config.serial,
            pci: !self.config.virtio.is_empty(),
        }
    }

    /// What the machine consists of.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// The descriptor by which another process can map the memory; none if it is this one's alone.
    ///
    /// # Errors
    /// When the host has no further descriptor.
    pub fn memory_file(&self) -> std::io::Result<Option<OwnedFd>> {
        self.memory.file()
    }

    /// The backend's name.
    pub fn hypervisor_name(&self) -> &'static str {
        self.hypervisor_name
    }

    /// What its logical time counts: whether a run can be replayed follows from it.
    pub fn logical_clock(&self) -> LogicalClock {
        self.vcpu.logical_clock()
    }

    /// The same in a word, for status and counters.
    pub fn clock_name(&self) -> &'static str {
        match self.logical_clock() {
            LogicalClock::Instructions => "instructions",
            LogicalClock::Branches => "branches",
            LogicalClock::Exits => "nanoseconds",
        }
    }

    /// What it costs to leave the guest and enter it again, in nanoseconds.
    pub fn switch_ns(&self) -> u64 {
        self.vcpu.switch_ns()
    }

    /// A handle that makes [`ft::machine::Machine::advance`] return early.
    pub fn kicker(&self) -> Kicker {
        self.vcpu.kicker()
    }

    /// The processor's state at this boundary.
    pub fn cpu_state(&self) -> CpuState {
        self.vcpu.save()
    }

    /// Bytes that the serial port would take now.
    pub fn serial_input_room(&self) -> usize {
        self.board.serial_input_room()
    }

    fn virtual_time(&self) -> VirtualTime {
        VirtualTime(self.clock.virtual_ns(LogicalTime(self.vcpu.logical_time())))
    }

    fn set_clock(&mut self, clock: SyncPoint) {
        self.clock = clock;
        // The clock's rate has 16 binary places, the counter's 32.
        self.vcpu.set_tsc_clock(TscClock {
            base_time: clock.at.0,
            base_ns: clock.sync.virtual_ns,
            rate: u64::from(clock.sync.rate.0) << 16,
        });
    }

    fn apply(&mut self, input: &Input) -> Result<(), MachineError> {
        match input {
            Input::Clock(sync) => {
                if sync.virtual_ns < self.virtual_time().0 {
                    return Err(MachineError::new(format!(
                        "clock input of {} ns lies before {} ns, which the guest may have seen",
                        sync.virtual_ns,
                        self.virtual_time().0
                    )));
                }
                let at = LogicalTime(self.vcpu.logical_time());
                self.set_clock(SyncPoint { at, sync: *sync });
                let now = self.virtual_time();
                self.board.advance(now);
            }
            Input::Device {
                device: SERIAL,
                payload,
            } => {
                let room = self.board.serial_input_room();
                if payload.len() > room {
                    return Err(MachineError::new(format!(
                        "{} bytes for the serial port, which has room for {room}",
                        payload.len()
                    )));
                }
                let taken = self.board.serial_input(payload);
                assert_eq!(taken, payload.len(), "the port takes what it has room for");
            }
            Input::Device { device, payload } => return self.virtio_input(*device, payload),
            Input::Control(ControlOp::PowerButton) => self.board.power_button(),
            Input::Control(ControlOp::Nmi) => self.board.nmi_button(),
            Input::Control(ControlOp::Reset) => {
                self.reset()
                    .map_err(|error| MachineError::new(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn copy_page(&self, page: PageNumber, bytes: &mut Page) {
        match self.place(page) {
            Place::Memory(index) => self
                .memory
                .with_page(index, |from| bytes.copy_from_slice(from)),
            Place::Boot(index) => bytes.copy_from_slice(self.boot.page(index)),
            Place::Disk(index) => self.disks.read_page(index, bytes),
        }
    }

    fn set_page(&mut self, page: PageNumber, bytes: &Page) {
        match self.place(page) {
            Place::Memory(index) => {
                let at: GuestAddress = self.memory.page_address(index);
                let written = self.memory.write(at, bytes);
                assert!(written.is_ok(), "page {page} lies inside memory");
            }
            Place::Boot(index) => self.boot.page_mut(index).copy_from_slice(bytes),
            Place::Disk(index) => self.disks.write_page(index, bytes),
        }
    }

    /// What a page is a page of: memory, then the boot files, then the disks.
    fn place(&self, page: PageNumber) -> Place {
        let boot = self.memory.page_count();
        let disks = boot + self.boot.page_count();
        match page.0 {
            index if index < boot => Place::Memory(index),
            index if index < disks => Place::Boot(index - boot),
            index => Place::Disk(index - disks),
        }
    }

    /// The number of the first disk's first page: there are so many pages of memory and boot files.
    pub fn first_disk_page(&self) -> u64 {
        self.memory.page_count() + self.boot.page_count()
    }

    fn pages(numbers: Vec<u64>) -> Vec<PageNumber> {
        numbers.into_iter().map(PageNumber).collect()
    }

    fn page_total(&self) -> u64 {
        self.first_disk_page() + self.disks.page_count()
    }
}

/// Where a page is, and its index there.
enum Place {
    Memory(u64),
    Boot(u64),
    Disk(u64),
}

/// Each replicated disk has contents of its size here.
fn check_stores(config: &MachineConfig, stores: &DiskStores) -> Result<(), BuildError> {
    for (device, spec) in config.virtio.iter().enumerate() {
        let Some(expected) = spec.replicated_bytes() else {
            continue;
        };
        let found = stores.get(&device).map_or(0, |store| store.size());
        if found != expected {
            return Err(BuildError::DiskSize {
                device,
                expected,
                found,
            });
        }
    }
    Ok(())
}
