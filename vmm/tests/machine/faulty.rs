//! A machine that is damaged once, at a logical time, and keeps account of what is done to it.

use ft::event::{Input, Output, SyncPoint};
use ft::machine::{
    FieldDifference, Machine, MachineError, PAGE_SIZE, Page, Section, Stop, ZERO_PAGE,
};
use ft::time::{LogicalTime, PageNumber};
use hypervisor::CpuState;
use vmm::machine::VirtualMachine;

/// Instructions from the arming to the damage: about a third of an epoch.
const DELAY: u64 = 300_000;
const RAX: usize = 0;
const RDX: usize = 2;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const RDTSC: [u8; 2] = [0x0f, 0x31];

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A bit of a page, as by a write that should not have been.
    Memory {
        /// Which page.
        page: PageNumber,
        /// Which bit of it.
        bit: u64,
    },
    /// A bit of a general register.
    Register {
        /// Which register, as instructions number them.
        index: usize,
        /// Which bit of it.
        bit: u32,
    },
    /// The same, after the last instruction of an epoch.
    RegisterAtEnd {
        /// Which register.
        index: usize,
        /// Which bit of it.
        bit: u32,
    },
    /// The next RDTSC reads so much more; the counter is right again behind it.
    Tsc {
        /// How much more.
        ahead_ns: u64,
    },
}

/// The end of an epoch: pages were taken.
#[derive(Clone, Debug)]
pub struct EpochEnd {
    /// Its logical time.
    pub at: LogicalTime,
    /// The pages that were written in it.
    pub written: Vec<PageNumber>,
}

/// State that was set from outside.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// The logical time of what was set.
    pub at: LogicalTime,
    /// Pages that were set before it.
    pub pages: u64,
    /// Sections that were not what the machine had.
    pub differing: u64,
    /// Sections in all.
    pub sections: u64,
}

/// A machine that can be damaged.
pub struct Faulty {
    inner: VirtualMachine,
    armed: Option<(LogicalTime, Fault)>,
    struck: Option<LogicalTime>,
    last: Option<Fault>,
    tsc_reads: Option<(u64, u64)>,
    epochs: Vec<EpochEnd>,
    pages_set: u64,
    restored: Vec<Restored>,
}

impl Faulty {
    /// A machine that is right so far.
    pub fn new(inner: VirtualMachine) -> Self {
        Self {
            inner,
            armed: None,
            struck: None,
            last: None,
            tsc_reads: None,
            epochs: Vec::new(),
            pages_set: 0,
            restored: Vec::new(),
        }
    }

    /// Prepares a damage for soon.
    pub fn arm(&mut self, fault: Fault) {
        self.armed = Some((self.now().plus(DELAY), fault));
        (self.struck, self.last) = (None, Some(fault));
    }

    /// When it was damaged.
    pub fn struck(&self) -> Option<LogicalTime> {
        self.struck
    }

    /// Which page was damaged.
    pub fn flipped_page(&self) -> Option<PageNumber> {
        match self.last {
            Some(Fault::Memory { page, .. }) => Some(page),
            _ => None,
        }
    }

    /// Which register was damaged.
    pub fn flipped_register(&self) -> Option<usize> {
        match self.last {
            Some(Fault::Register { index, .. } | Fault::RegisterAtEnd { index, .. }) => Some(index),
            _ => None,
        }
    }

    /// What RDTSC would have read, and what it has.
    pub fn tsc_reads(&self) -> Option<(u64, u64)> {
        self.tsc_reads
    }

    /// Epochs that have ended here, and before them the begin of protection.
    pub fn epochs(&self) -> &[EpochEnd] {
        &self.epochs
    }

    /// What was set from outside.
    pub fn restored(&self) -> &[Restored] {
        &self.restored
    }

    fn strike(&mut self, fault: Fault, until: LogicalTime) -> Option<Stop> {
        let at = self.inner.now();
        match fault {
            Fault::Memory { page, bit } => self.flip_memory(page, bit),
            Fault::Register { index, bit } | Fault::RegisterAtEnd { index, bit } => {
                self.change_cpu(|cpu| cpu.gpr[index] ^= 1 << bit);
            }
            Fault::Tsc { ahead_ns } => return self.step_to_rdtsc(ahead_ns, until),
        }
        (self.armed, self.struck) = (None, Some(at));
        None
    }

    fn flip_memory(&mut self, page: PageNumber, bit: u64) {
        let mut bytes = ZERO_PAGE;
        self.inner.read_page(page, &mut bytes);
        bytes[bit as usize / 8 % PAGE_SIZE] ^= 1 << (bit % 8);
        self.inner.write_page(page, &bytes);
    }

    fn change_cpu(&mut self, change: impl FnOnce(&mut CpuState)) {
        self.change_section("cpu", change);
    }

    /// Changes one section of the machine.
    fn change_section<T>(&mut self, name: &str, change: impl FnOnce(&mut T))
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let mut sections = self.inner.sections();
        let section = sections.iter_mut().find(|section| section.name == name);
        let section = section.unwrap();
        let mut state: T = postcard::from_bytes(&section.bytes).unwrap();
        change(&mut state);
        section.bytes = postcard::to_allocvec(&state).unwrap();
        self.inner.restore(&sections).unwrap();
    }

    /// Executes one instruction after the other until RDTSC is next, and lets that read otherwise.
    fn step_to_rdtsc(&mut self, ahead_ns: u64, until: LogicalTime) -> Option<Stop> {
        let mut code = CodeView::default();
        while self.inner.now() < until {
            let cpu = self.inner.cpu_state();
            let awake = !cpu.pending.halted;
            if awake && code.starts_with(&self.inner, &cpu, RDTSC) && self.read_ahead(ahead_ns) {
                return None;
            }
            match self.inner.advance(self.inner.now().plus(1)) {
                Stop::Reached => {}
                stop => return Some(stop),
            }
        }
        Some(Stop::Reached)
    }

    /// Executes RDTSC as it is, goes back, and executes it with the clock set ahead; the clock is
    /// then as it was. Not if something else happened, such as an interrupt.
    fn read_ahead(&mut self, ahead_ns: u64) -> bool {
        let before = self.inner.sections();
        let at = self.inner.now();
        let honest = self.step_and_read();
        let right = self.inner.sections();
        self.inner.restore(&before).unwrap();
        let Some(honest) = honest else { return false };
        let mut clock = None;
        self.change_section("machine", |state: &mut MachineClock| {
            clock = Some(state.clock);
            state.clock.sync.virtual_ns += ahead_ns;
        });
        let read = self.step_and_read();
        self.change_section("machine", |state: &mut MachineClock| {
            state.clock = clock.unwrap();
        });
        let wrong: Vec<_> = self.inner.sections();
        let differing: Vec<_> = right.iter().zip(&wrong).filter(|(a, b)| a != b).collect();
        let only_cpu = matches!(differing.as_slice(), [(one, _)] if one.name == "cpu");
        assert!(only_cpu, "one register differs: {differing:?}");
        let read = read.unwrap();
        assert_eq!(read, honest + ahead_ns, "the guest has read another value");
        self.tsc_reads = Some((honest, read));
        (self.armed, self.struck) = (None, Some(at));
        true
    }

    /// Executes one instruction; the time stamp in EDX:EAX if it was RDTSC.
    fn step_and_read(&mut self) -> Option<u64> {
        let from = self.inner.cpu_state();
        let stop = self.inner.advance(self.inner.now().plus(1));
        let to = self.inner.cpu_state();
        let plain = stop == Stop::Reached && to.rip == from.rip + RDTSC.len() as u64;
        plain.then(|| to.gpr[RDX] << 32 | to.gpr[RAX])
    }
}

/// The machine's own section, as it is saved.
#[derive(serde::Serialize, serde::Deserialize)]
struct MachineClock {
    clock: SyncPoint,
    powered_off: bool,
    tsc_offset: u64,
    resets: u64,
}

/// The bytes that the processor executes, by 4-level paging.
#[derive(Default)]
struct CodeView {
    page: Option<(u64, Page)>,
}

impl CodeView {
    fn starts_with(&mut self, machine: &VirtualMachine, cpu: &CpuState, bytes: [u8; 2]) -> bool {
        let (number, offset) = (cpu.rip >> 12, (cpu.rip & 0xfff) as usize);
        if self.page.as_ref().is_none_or(|(held, _)| *held != number) {
            self.page = translate(machine, cpu).map(|page| (number, read(machine, page)));
        }
        let code = self
            .page
            .as_ref()
            .and_then(|(_, page)| page.get(offset..offset + 2));
        code == Some(&bytes)
    }
}

/// The frame of the page that RIP is in.
fn translate(machine: &VirtualMachine, cpu: &CpuState) -> Option<u64> {
    let mut table = cpu.cr3 & FRAME;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let index = (cpu.rip >> shift & 0x1ff) as usize * 8;
        let page = read(machine, table >> 12);
        let entry = u64::from_le_bytes(page[index..index + 8].try_into().unwrap());
        if entry & PRESENT == 0 {
            return None;
        }
        let within = (1 << shift) - 1;
        if level == 0 || (level < 3 && entry & LARGE != 0) {
            return Some((entry & FRAME & !within | cpu.rip & within) >> 12);
        }
        table = entry & FRAME;
    }
    None
}

/// A page of memory; empty if there is none.
fn read(machine: &VirtualMachine, number: u64) -> Page {
    let mut page = ZERO_PAGE;
    if number < machine.page_count() {
        machine.read_page(PageNumber(number), &mut page);
    }
    page
}

impl Machine for Faulty {
    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }

    fn now(&self) -> LogicalTime {
        self.inner.now()
    }

    fn virtual_ns(&self) -> u64 {
        self.inner.virtual_ns()
    }

    fn advance(&mut self, until: LogicalTime) -> Stop {
        while let Some((at, fault)) = self.armed {
            if self.now() < at && at < until {
                match self.inner.advance(at) {
                    Stop::Reached => {}
                    stop => return stop,
                }
            }
            if self.now() < at
                || self.now() >= until
                || matches!(fault, Fault::RegisterAtEnd { .. })
            {
                break;
            }
            if let Some(stop) = self.strike(fault, until) {
                return stop;
            }
        }
        self.inner.advance(until)
    }

    fn inject(&mut self, input: &Input) -> Result<(), MachineError> {
        self.inner.inject(input)
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        self.inner.take_outputs()
    }

    fn sections(&self) -> Vec<Section> {
        self.inner.sections()
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let held = self.inner.sections();
        self.inner.restore(sections)?;
        self.restored.push(Restored {
            at: self.inner.now(),
            pages: std::mem::take(&mut self.pages_set),
            differing: sections
                .iter()
                .filter(|section| !held.contains(section))
                .count() as u64,
            sections: sections.len() as u64,
        });
        Ok(())
    }

    fn describe_difference(&self, name: &str, first: &[u8], second: &[u8]) -> Vec<FieldDifference> {
        self.inner.describe_difference(name, first, second)
    }

    fn page_count(&self) -> u64 {
        self.inner.page_count()
    }

    fn read_page(&self, page: PageNumber, bytes: &mut Page) {
        self.inner.read_page(page, bytes);
    }

    fn write_page(&mut self, page: PageNumber, bytes: &Page) {
        self.pages_set += 1;
        self.inner.write_page(page, bytes);
    }

    fn page_digest(&self, page: PageNumber) -> u64 {
        self.inner.page_digest(page)
    }

    fn take_dirty_pages(&mut self) -> Vec<PageNumber> {
        if let Some((at, fault @ Fault::RegisterAtEnd { .. })) = self.armed
            && self.now() > at
        {
            // Pages are taken before sections, at the end of an epoch.
            let now = self.now();
            self.strike(fault, now);
            self.struck = Some(LogicalTime(now.0 - 1));
        }
        let written = self.inner.take_dirty_pages();
        self.epochs.push(EpochEnd {
            at: self.now(),
            written: written.clone(),
        });
        written
    }

    fn touched_pages(&self) -> Vec<PageNumber> {
        self.inner.touched_pages()
    }

    fn synchronise(&mut self) {
        self.inner.synchronise();
    }
}
