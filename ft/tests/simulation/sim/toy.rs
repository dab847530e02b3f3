//! The toy machine: a few pages, one accumulator, a timer, a line of requests and replies, frames
//! of a network, a disk.
//!
//! Each instruction mixes memory and, now and then, virtual time into the accumulator, so that any
//! difference in state, time or order of inputs shows soon. Replies carry their number, the digest
//! chain before and after them, and the request, so that an observer can tell one legal history
//! from two. Every input is kept as part of the state, from which a reference machine can repeat
//! the whole life.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use ft::codec::{FieldReader, FieldWriter};
use ft::event::{ClockRate, ClockSync, ControlOp, DeviceId, Input, Output, SyncPoint};
use ft::log::{Entry, EntryCoder, Event};
use ft::machine::{
    FieldDifference, Machine, MachineError, PAGE_SIZE, Page, Section, Stop, ZERO_PAGE,
};
use ft::time::{LogicalTime, PageNumber};

use super::core::Core;
use super::disk::{DISK, DISK_PAGES, Done, ToyDisk, UNDECIDED};
use super::random::mix;

/// A line of requests and replies.
pub const LINE: DeviceId = DeviceId(7);
/// A network: frames come, and some are answered.
pub const NET: DeviceId = DeviceId(9);
/// What the machine draws from its host without asking: no input, and no two hosts have the same.
pub const ENTROPY: DeviceId = DeviceId(11);
/// Instructions between two draws.
const DRAW_EVERY: u64 = 160;
/// Pages of memory.
pub const PAGES: u64 = 12;
/// Pages of memory and of the disk behind it.
pub const ALL_PAGES: u64 = PAGES + DISK_PAGES;
/// Marks a task that is no request of the line: a frame, or what was read from the disk.
const FOREIGN: u64 = 1 << 63;
/// Instructions that such a task takes.
const FOREIGN_WORK: u64 = 10;
/// Virtual time between two ticks of the timer.
const TICK_NS: u64 = 4_000_000;
/// Instructions that a tick takes.
const TICK_WORK: u64 = 300;
/// Most work that ticks pile up; requests come first.
const MOST_BACKGROUND: u64 = 2_000;
/// Background work done between two looks at the line.
const CHUNK: u64 = 60;
/// Instructions that a request takes.
const REQUEST_WORK: u64 = 120;
/// Ticks between two outputs that nobody asked for.
const TICKS_PER_OUTPUT: u64 = 5;

/// Memory as it comes from the shop: the first third, which is written all the time, is empty; the
/// rest is only read, like a kernel's text.
fn initial_memory() -> Vec<u64> {
    let words = PAGES * PAGE_SIZE as u64 / 8;
    let word = |index| {
        if index < words / 3 {
            0
        } else {
            mix(index * 8 / PAGE_SIZE as u64)
        }
    };
    (0..words).map(word).collect()
}

/// A deterministic machine small enough to simulate thousands of lives.
#[derive(Clone, Debug)]
pub struct Toy {
    core: Core,
    point: SyncPoint,
    requests: VecDeque<u64>,
    history: Vec<Entry>,
    memory: Vec<u64>,
    disk: ToyDisk,
    dirty: BTreeSet<u64>,
    pending: Vec<Output>,
    timer_at: u64,
    busy: u64,
    flip: Option<(u64, u64)>,
    /// What its host has that another has not; none in a machine that can be replayed.
    hidden: Option<u64>,
    /// How often it was asked to execute.
    advances: u64,
    /// Pages that the host cannot read.
    bad: BTreeSet<u64>,
    unreadable: RefCell<Option<String>>,
    /// Whether pages cannot be set, and what became of it.
    refuses_pages: bool,
    failure: Option<String>,
}

impl Toy {
    /// A machine as it comes from the shop. `busy` is how much it does in each tick.
    pub fn new(busy: u64) -> Self {
        let core = Core {
            now: 0,
            accumulator: 1,
            work: 50,
            background: 0,
            task: 0,
            halted: false,
            off: false,
            ticks: 0,
            deadline_ns: TICK_NS,
            outputs: 0,
            chain: 0,
        };
        let mut toy = Self {
            core,
            point: SyncPoint::start(),
            requests: VecDeque::new(),
            history: Vec::new(),
            memory: initial_memory(),
            disk: ToyDisk::new(),
            dirty: BTreeSet::new(),
            pending: Vec::new(),
            timer_at: 0,
            busy,
            flip: None,
            hidden: None,
            advances: 0,
            bad: BTreeSet::new(),
            unreadable: RefCell::default(),
            refuses_pages: false,
            failure: None,
        };
        toy.arm();
        toy
    }

    /// The same machine, on a host that makes it do what no other machine does: what it draws is
    /// noted in its history, so that a reference can be given it, but it is no input.
    pub fn inexact(busy: u64, hidden: u64) -> Self {
        Self {
            hidden: Some(mix(hidden)),
            ..Self::new(busy)
        }
    }

    /// How often it was asked to execute.
    pub fn advances(&self) -> u64 {
        self.advances
    }

    /// Draws from the host.
    fn draw(&mut self) {
        let Some(hidden) = &mut self.hidden else {
            return;
        };
        *hidden = mix(*hidden);
        let payload = hidden.to_le_bytes().to_vec();
        self.core.accumulator ^= *hidden;
        let device = ENTROPY;
        self.history.push(Entry {
            at: LogicalTime(self.core.now),
            event: Event::Input(Input::Device { device, payload }),
        });
    }

    /// Every input so far, for a reference machine.
    pub fn history(&self) -> &[Entry] {
        &self.history
    }

    /// How many inputs a device has had.
    pub fn inputs_of(&self, device: DeviceId) -> u64 {
        let of = |entry: &&Entry| {
            matches!(&entry.event, Event::Input(Input::Device { device: found, .. })
                if *found == device)
        };
        self.history.iter().filter(of).count() as u64
    }

    /// Damages one bit of memory or of the disk; `silent` does not even count the page as written.
    pub fn flip_memory(&mut self, random: u64, silent: bool) {
        let page = (random >> 20) % ALL_PAGES;
        self.page_mut(page)[(random as usize >> 8) % 512] ^= 1 << (random % 64);
        if !silent {
            self.dirty.insert(page);
        }
    }

    /// The disk.
    pub fn disk(&mut self) -> &mut ToyDisk {
        &mut self.disk
    }

    /// The first page that is another one's, as far as both are decided.
    pub fn differing_page(&self, other: &Self) -> Option<u64> {
        let decided = |page: &u64| *page < PAGES || !self.disk.is_undecided(*page - PAGES);
        let mut pages = (0..ALL_PAGES).filter(decided);
        pages.find(|page| self.page(*page) != other.page(*page))
    }

    /// The words of a page, wherever it is.
    fn page(&self, page: u64) -> &[u64] {
        match page.checked_sub(PAGES) {
            Some(page) => self.disk.page(page),
            None => &self.memory[page as usize * 512..][..512],
        }
    }

    /// The words of a page, to be set.
    fn page_mut(&mut self, page: u64) -> &mut [u64] {
        match page.checked_sub(PAGES) {
            Some(page) => self.disk.page_mut(page),
            None => &mut self.memory[page as usize * 512..][..512],
        }
    }

    /// Takes what the host side of a device has brought.
    fn take_input(&mut self, device: DeviceId, payload: &[u8]) -> Result<(), MachineError> {
        let number = <[u8; 8]>::try_from(payload).map(u64::from_le_bytes);
        match (device, number) {
            (LINE, Ok(request)) => self.requests.push_back(request),
            (ENTROPY, Ok(drawn)) if self.hidden.is_none() => self.core.accumulator ^= drawn,
            (NET, _) => {
                let sum = payload
                    .iter()
                    .fold(0, |sum, byte| mix(sum + u64::from(*byte)));
                self.requests.push_back(FOREIGN | sum);
            }
            (DISK, Ok(id)) => match self.disk.complete(id) {
                Some(Done::Written(page)) => drop(self.dirty.insert(PAGES + page)),
                Some(Done::Read(word)) => {
                    self.core.accumulator ^= mix(word);
                    self.requests.push_back(FOREIGN);
                }
                None => return Err(MachineError::new(format!("no request {id} of the disk"))),
            },
            _ => return Err(MachineError::new("no such device or no such request")),
        }
        Ok(())
    }

    /// The host cannot read these pages any more, until they are written anew. The guest can: only
    /// what is read of them for others is not there.
    pub fn spoil(&mut self, pages: std::ops::Range<u64>) {
        self.bad.extend(pages);
    }

    /// The host cannot write any page of it from now on.
    pub fn refuse_pages(&mut self) {
        self.refuses_pages = true;
    }

    /// Damages one bit of a register.
    pub fn flip_register(&mut self, random: u64) {
        self.core.accumulator ^= 1 << (random % 64);
    }

    /// Damages a register once so many more instructions have retired.
    pub fn flip_after(&mut self, instructions: u64, random: u64) {
        self.flip = Some((instructions, random));
    }

    /// Makes the clock read otherwise.
    pub fn flip_clock(&mut self, random: u64) {
        self.point.sync.virtual_ns ^= 1 << (random % 20);
        self.arm();
    }

    /// Finds the logical time of the next tick.
    fn arm(&mut self) {
        self.timer_at = self.point.reaches(self.core.deadline_ns).0;
    }

    /// Whether something is due that ends a halt.
    fn is_woken(&self) -> bool {
        self.core.now >= self.timer_at || !self.requests.is_empty()
    }

    /// Executes one instruction; whether it put something out.
    fn step(&mut self) -> bool {
        if self.core.now.is_multiple_of(DRAW_EVERY) {
            self.draw();
        }
        if self.core.now >= self.timer_at {
            self.core.ticks += 1;
            let missed = self.point.virtual_ns(LogicalTime(self.core.now)) / TICK_NS;
            self.core.deadline_ns = (missed + 1) * TICK_NS;
            let added = self.core.background + TICK_WORK * self.busy / 10;
            self.core.background = added.min(MOST_BACKGROUND);
            self.arm();
        }
        self.core.halted = false;
        self.core.now += 1;
        if let Some((left, random)) = &mut self.flip {
            *left = left.saturating_sub(1);
            if *left == 0 {
                let random = *random;
                self.flip = None;
                self.flip_register(random);
            }
        }
        if self.core.work == 0 {
            return self.choose();
        }
        self.core.work -= 1;
        let word = (self.core.accumulator >> 20) as usize % self.memory.len();
        let mixed = self.core.accumulator ^ self.memory[word];
        self.core.accumulator = mixed.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(23) ^ 0x55;
        if self.core.now.is_multiple_of(64) {
            let hot = word % (self.memory.len() / 3);
            self.memory[hot] = self.core.accumulator ^ self.point.virtual_ns(self.now());
            self.dirty.insert((hot * 8 / PAGE_SIZE) as u64);
        }
        false
    }

    /// Ends a task and begins another, or halts.
    fn choose(&mut self) -> bool {
        let done = std::mem::take(&mut self.core.task);
        if let Some(request) = self.requests.pop_front() {
            self.core.task = request;
            self.core.work = match request & FOREIGN {
                0 => REQUEST_WORK,
                _ => FOREIGN_WORK,
            };
        } else if self.core.background > 0 {
            self.core.work = self.core.background.min(CHUNK);
            self.core.background -= self.core.work;
        } else if done == 0 {
            self.core.halted = true;
        }
        if done != 0 {
            // Which request it is depends on nothing that damage changes before a digest shows it.
            let which = mix(done ^ self.core.now);
            self.disk.request(which, self.core.accumulator);
            // Most frames are not answered.
            let answered = done & FOREIGN == 0 || done.is_multiple_of(3);
            if answered {
                self.put_out(done);
            }
            return answered;
        }
        if self.core.halted
            && self.core.ticks > 0
            && self.core.ticks.is_multiple_of(TICKS_PER_OUTPUT)
        {
            self.core.ticks += 1;
            self.put_out(0);
            return true;
        }
        false
    }

    /// Puts out a reply: number, chain before, chain after, request.
    fn put_out(&mut self, request: u64) {
        let before = self.core.chain;
        let after = mix(before ^ self.core.accumulator ^ request.rotate_left(17));
        self.core.outputs += 1;
        self.core.chain = after;
        let (device, request, tail) = match request & FOREIGN {
            0 => (LINE, request, 0),
            _ => (NET, 0, request % 100),
        };
        let mut writer = FieldWriter::new();
        for field in [self.core.outputs, before, after, request] {
            writer.u64(field);
        }
        (0..tail).for_each(|byte| writer.u8(byte as u8));
        self.pending.push(Output {
            device,
            payload: writer.finish(),
        });
    }

    /// The history's byte form.
    fn encode_history(&self) -> Vec<u8> {
        let mut writer = FieldWriter::new();
        let mut coder = EntryCoder::new(LogicalTime(0), SyncPoint::start());
        self.history
            .iter()
            .for_each(|entry| coder.encode(entry, &mut writer));
        writer.finish()
    }
}

impl Machine for Toy {
    fn fingerprint(&self) -> String {
        format!("toy {}", self.busy)
    }

    fn replayable(&self) -> Result<(), String> {
        match self.hidden {
            None => Ok(()),
            Some(_) => Err("the machine draws from its host".into()),
        }
    }

    fn now(&self) -> LogicalTime {
        LogicalTime(self.core.now)
    }

    fn virtual_ns(&self) -> u64 {
        self.point.virtual_ns(self.now())
    }

    fn advance(&mut self, until: LogicalTime) -> Stop {
        self.advances += 1;
        if !self.pending.is_empty() {
            return Stop::Output;
        }
        if let Some(text) = &self.failure {
            return Stop::Failed(text.clone());
        }
        while self.core.now < until.0 {
            if self.core.off {
                return Stop::PoweredOff;
            }
            if self.core.halted && !self.is_woken() {
                return Stop::Idle {
                    wake_ns: Some(self.core.deadline_ns),
                };
            }
            if self.step() {
                return Stop::Output;
            }
        }
        Stop::Reached
    }

    fn inject(&mut self, input: &Input) -> Result<(), MachineError> {
        match input {
            Input::Clock(sync) => {
                if sync.virtual_ns < self.virtual_ns() {
                    return Err(MachineError::new("the clock would go back"));
                }
                self.point = SyncPoint {
                    at: self.now(),
                    sync: *sync,
                };
                self.arm();
            }
            Input::Device { device, payload } => self.take_input(*device, payload)?,
            Input::Control(ControlOp::PowerButton) => self.core.off = true,
            Input::Control(_) => self.core.accumulator = mix(self.core.accumulator),
        }
        let entry = Entry {
            at: self.now(),
            event: Event::Input(input.clone()),
        };
        self.history.push(entry);
        Ok(())
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.pending)
    }

    fn sections(&self) -> Vec<Section> {
        let mut clock = FieldWriter::new();
        clock.u64(self.point.at.0);
        clock.u64(self.point.sync.virtual_ns);
        clock.u32(self.point.sync.rate.0);
        let mut line = FieldWriter::new();
        self.requests.iter().for_each(|request| line.u64(*request));
        let named = |name: &str, bytes: Vec<u8>| Section {
            name: name.into(),
            version: 1,
            bytes,
        };
        vec![
            named("cpu", self.core.encode()),
            named("clock", clock.finish()),
            named("line", line.finish()),
            named("history", self.encode_history()),
            named("disk", self.disk.encode()),
        ]
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let find = |name: &str| {
            let found = sections
                .iter()
                .find(|section| section.name == name && section.version == 1);
            found.ok_or_else(|| MachineError::new(format!("no section {name}")))
        };
        let wrong = |error: ft::codec::CodecError| MachineError::new(error.to_string());
        self.core = Core::decode(&find("cpu")?.bytes).map_err(wrong)?;
        let mut clock = FieldReader::new(&find("clock")?.bytes);
        let at = LogicalTime(clock.u64("at").map_err(wrong)?);
        let virtual_ns = clock.u64("virtual time").map_err(wrong)?;
        let rate = ClockRate(clock.u32("rate").map_err(wrong)?);
        self.point = SyncPoint {
            at,
            sync: ClockSync { virtual_ns, rate },
        };
        let mut line = FieldReader::new(&find("line")?.bytes);
        self.requests.clear();
        while line.remaining() > 0 {
            self.requests.push_back(line.u64("request").map_err(wrong)?);
        }
        let mut history = FieldReader::new(&find("history")?.bytes);
        let mut coder = EntryCoder::new(LogicalTime(0), SyncPoint::start());
        self.history.clear();
        while history.remaining() > 0 {
            self.history
                .push(coder.decode(&mut history).map_err(wrong)?);
        }
        self.disk.restore(&find("disk")?.bytes).map_err(wrong)?;
        self.pending.clear();
        self.arm();
        Ok(())
    }

    fn describe_difference(&self, name: &str, first: &[u8], second: &[u8]) -> Vec<FieldDifference> {
        let names: &[&str] = match name {
            "cpu" => &Core::NAMES,
            "clock" => &["at", "virtual_ns", "rate"],
            _ => return Vec::new(),
        };
        let fields = first.chunks(8).zip(second.chunks(8)).zip(names);
        fields
            .filter(|((first, second), _)| first != second)
            .map(|((first, second), name)| FieldDifference {
                field: (*name).to_owned(),
                first: format!("{first:02x?}"),
                second: format!("{second:02x?}"),
            })
            .collect()
    }

    fn page_count(&self) -> u64 {
        ALL_PAGES
    }

    fn scrub_parts(&self) -> Vec<u64> {
        vec![0, PAGES]
    }

    fn undecided_pages(&self) -> Vec<PageNumber> {
        let undecided = (0..DISK_PAGES).filter(|page| self.disk.is_undecided(*page));
        undecided.map(|page| PageNumber(PAGES + page)).collect()
    }

    fn page_digest(&self, page: PageNumber) -> u64 {
        let disk_page = page.0.checked_sub(PAGES);
        if disk_page.is_some_and(|page| self.disk.is_undecided(page)) {
            return UNDECIDED;
        }
        let mut bytes = ZERO_PAGE;
        self.read_page(page, &mut bytes);
        ft::digest::of_page(&bytes)
    }

    fn read_page(&self, page: PageNumber, bytes: &mut Page) {
        if self.bad.contains(&page.0) {
            *bytes = ZERO_PAGE;
            let text = format!("page {page} is unreadable");
            self.unreadable.borrow_mut().get_or_insert(text);
            return;
        }
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.page(page.0)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn take_unreadable(&mut self) -> Option<String> {
        self.unreadable.take()
    }

    fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    fn write_page(&mut self, page: PageNumber, bytes: &Page) {
        if self.refuses_pages {
            let text = format!("page {page} cannot be written");
            self.failure.get_or_insert(text);
            return;
        }
        self.bad.remove(&page.0);
        for (chunk, word) in bytes.chunks_exact(8).zip(self.page_mut(page.0)) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            *word = u64::from_le_bytes(value);
        }
        self.dirty.insert(page.0);
    }

    fn take_dirty_pages(&mut self) -> Vec<PageNumber> {
        std::mem::take(&mut self.dirty)
            .into_iter()
            .map(PageNumber)
            .collect()
    }

    fn touched_pages(&self) -> Vec<PageNumber> {
        (0..ALL_PAGES)
            .filter(|page| self.page(*page).iter().any(|word| *word != 0))
            .map(PageNumber)
            .collect()
    }

    fn synchronise(&mut self) {}
}
