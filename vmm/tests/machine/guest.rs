//! The test guest, booted some way into its kernel, as a state from which tests start.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ft::event::{ClockRate, ClockSync, Input};
use ft::machine::{Machine, Page, Section, Stop, ZERO_PAGE};
use ft::time::{LogicalTime, PageNumber};
use hypervisor::software::{InterpretingHypervisor, SoftwareHypervisor};
use hypervisor::{Hypervisor, MemoryKind};
use vmm::loader::Payload;
use vmm::machine::{DiskStores, MachineConfig, VirtualMachine};

/// How far the guest is booted.
const BOOTED: LogicalTime = LogicalTime(300_000_000);
const MEMORY: u64 = 128 << 20;
const COMMAND_LINE: &str = "console=ttyS0,115200 quiet panic=-1 job=load";

/// A machine's state.
pub struct Snapshot {
    config: MachineConfig,
    sections: Vec<Section>,
    pages: Vec<(PageNumber, Box<Page>)>,
}

impl Snapshot {
    /// How many pages are not empty.
    pub fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// A machine in this state.
    pub fn machine(&self) -> VirtualMachine {
        self.filled(self.blank())
    }

    /// A machine in this state that translates nothing.
    pub fn interpreted_machine(&self) -> VirtualMachine {
        self.filled(self.made_by(&InterpretingHypervisor))
    }

    fn filled(&self, mut machine: VirtualMachine) -> VirtualMachine {
        for (page, bytes) in &self.pages {
            machine.write_page(*page, bytes);
        }
        machine.restore(&self.sections).unwrap();
        machine.synchronise();
        machine
    }

    fn made_by(&self, hypervisor: &dyn Hypervisor) -> VirtualMachine {
        VirtualMachine::blank(
            self.config.clone(),
            MemoryKind::Private,
            DiskStores::new(),
            hypervisor,
        )
        .unwrap()
    }

    /// A machine like it, without a state.
    pub fn blank(&self) -> VirtualMachine {
        self.made_by(&SoftwareHypervisor)
    }
}

/// The booted guest, or why there is none.
fn snapshot() -> Result<&'static Snapshot, &'static str> {
    static SNAPSHOT: OnceLock<Result<Snapshot, String>> = OnceLock::new();
    let made = SNAPSHOT.get_or_init(|| guest_folder().map(|folder| boot(&folder)));
    made.as_ref().map_err(String::as_str)
}

/// Tells why a test cannot run here, as `scripts/test` counts it: on the standard error itself,
/// because what passing tests print with macros is not shown, and on a line of its own.
pub fn skip(reason: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nSKIP: {reason}");
}

/// As [`snapshot`]; says when there is none that a test is skipped.
pub fn snapshot_or_skip() -> Option<&'static Snapshot> {
    match snapshot() {
        Ok(snapshot) => Some(snapshot),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

/// Where the guest's files are; they are made if they are not there.
pub fn guest_folder() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder =
        std::env::var_os("CHFT_GUESTS").map_or_else(|| root.join("target/guests"), PathBuf::from);
    let complete = || {
        ["vmlinuz", "serial.cpio"]
            .iter()
            .all(|name| folder.join(name).exists())
    };
    if complete() {
        return Ok(folder);
    }
    let made = Command::new(root.join("scripts/guest-image")).output();
    let made = made.map_err(|error| format!("scripts/guest-image cannot be run: {error}"))?;
    if made.status.success() && complete() {
        return Ok(folder);
    }
    let errors = String::from_utf8_lossy(&made.stderr);
    let last = errors.lines().last().unwrap_or("no guest files").to_owned();
    Err(format!("scripts/guest-image: {last}"))
}

fn boot(folder: &Path) -> Snapshot {
    let (kernel, initramfs) = (folder.join("vmlinuz"), folder.join("serial.cpio"));
    let payload = Payload::read(&kernel, Some(&initramfs), COMMAND_LINE).unwrap();
    let config = MachineConfig {
        memory_size: MEMORY,
        serial: true,
        start_seconds: 1_700_000_000,
        boot_pages: 0,
        tsc_khz: 1_000_000,
        virtio: Vec::new(),
    };
    let mut machine = VirtualMachine::new(
        config,
        MemoryKind::Private,
        &payload,
        DiskStores::new(),
        &SoftwareHypervisor,
    )
    .unwrap();
    while machine.now() < BOOTED {
        match machine.advance(BOOTED) {
            Stop::Reached | Stop::Kicked => {}
            Stop::Output => drop(machine.take_outputs()),
            Stop::Idle { wake_ns } => {
                let sync = ClockSync {
                    virtual_ns: wake_ns.unwrap(),
                    rate: ClockRate::INITIAL,
                };
                machine.inject(&Input::Clock(sync)).unwrap();
            }
            stop => panic!("the guest does not boot: {stop:?}"),
        }
    }
    machine.take_outputs();
    let read = |page: PageNumber| {
        let mut bytes = Box::new(ZERO_PAGE);
        machine.read_page(page, &mut bytes);
        (page, bytes)
    };
    Snapshot {
        config: machine.config().clone(),
        sections: machine.sections(),
        pages: machine.touched_pages().into_iter().map(read).collect(),
    }
}
