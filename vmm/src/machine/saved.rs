//! The machine as `ft` sees it: sections of state, pages, and the digest of both.

use devices::board::Board;
use devices::clock::VirtualTime;
use devices::saved::Section as BoardSection;
use ft::event::{Input, Output, SyncPoint};
use ft::machine::{FieldDifference, Machine, MachineError, Page, Section, Stop, TimeUnit};
use ft::time::{LogicalTime, PageNumber};
use hypervisor::CpuState;
use hypervisor::capabilities::LogicalClock;
use serde::{Deserialize, Serialize};

use super::virtio::under_way;
use super::{Place, VirtualMachine};

const CPU: &str = "cpu";
const MACHINE: &str = "machine";
const CPU_VERSION: u16 = 1;
const MACHINE_VERSION: u16 = 2;

/// What belongs to neither processor nor board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MachineStateV1 {
    clock: SyncPoint,
    powered_off: bool,
    tsc_offset: u64,
    resets: u64,
}

fn encode<T: Serialize>(name: &str, version: u16, state: &T) -> Section {
    let bytes = postcard::to_allocvec(state)
        .expect("saved types have no maps and no unsized sequences, and memory is the writer");
    Section {
        name: name.to_owned(),
        version,
        bytes,
    }
}

fn find<'a>(
    sections: &'a [Section],
    name: &str,
    version: u16,
) -> Result<&'a Section, MachineError> {
    let found = sections
        .iter()
        .find(|section| section.name == name)
        .ok_or_else(|| MachineError::new(format!("section {name} is missing")))?;
    if found.version != version {
        return Err(MachineError::new(format!(
            "section {name} has version {}, this program reads {version}",
            found.version
        )));
    }
    Ok(found)
}

fn decode<'a, T: Deserialize<'a>>(section: &'a Section) -> Result<T, MachineError> {
    match postcard::take_from_bytes(&section.bytes) {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(MachineError::new(format!(
            "section {} has {} bytes too many",
            section.name,
            rest.len()
        ))),
        Err(error) => Err(MachineError::new(format!(
            "section {} is malformed: {error}",
            section.name
        ))),
    }
}

/// The fields of a processor state by name, for reports.
fn describe_cpu(bytes: &[u8]) -> Vec<(String, String)> {
    let Ok(state) = postcard::from_bytes::<CpuState>(bytes) else {
        return Vec::new();
    };
    let Ok(value) = serde_json::to_value(state) else {
        return Vec::new();
    };
    let mut fields = Vec::new();
    flatten(String::new(), &value, &mut fields);
    fields
}

fn describe_machine(bytes: &[u8]) -> Vec<(String, String)> {
    let Ok(state) = postcard::from_bytes::<MachineStateV1>(bytes) else {
        return Vec::new();
    };
    let Ok(value) = serde_json::to_value(state) else {
        return Vec::new();
    };
    let mut fields = Vec::new();
    flatten(String::new(), &value, &mut fields);
    fields
}

fn flatten(path: String, value: &serde_json::Value, fields: &mut Vec<(String, String)>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        serde_json::Value::Object(map) => {
            map.iter()
                .for_each(|(key, inner)| flatten(join(key), inner, fields));
        }
        serde_json::Value::Array(items) => {
            let indexed = items.iter().enumerate();
            indexed.for_each(|(index, inner)| flatten(join(&index.to_string()), inner, fields));
        }
        serde_json::Value::Number(number) => {
            let text = number
                .as_u64()
                .map_or_else(|| number.to_string(), |n| format!("{n:#x}"));
            fields.push((path, text));
        }
        other => fields.push((path, other.to_string())),
    }
}

impl Machine for VirtualMachine {
    fn fingerprint(&self) -> String {
        format!(
            "machine {MACHINE_VERSION} cpu {CPU_VERSION} {} {}",
            self.hypervisor_name,
            self.config.fingerprint(),
        )
    }

    fn replayable(&self) -> Result<(), String> {
        match self.vcpu.logical_clock() {
            LogicalClock::Instructions => Ok(()),
            LogicalClock::Branches | LogicalClock::Exits => Err(format!(
                "{} does not tell where the guest is when something happens",
                self.hypervisor_name
            )),
        }
    }

    fn now(&self) -> LogicalTime {
        LogicalTime(self.vcpu.logical_time())
    }

    fn time_unit(&self) -> TimeUnit {
        match self.vcpu.logical_clock() {
            LogicalClock::Instructions | LogicalClock::Branches => TimeUnit::Instructions,
            LogicalClock::Exits => TimeUnit::Nanoseconds,
        }
    }

    fn virtual_ns(&self) -> u64 {
        self.virtual_time().0
    }

    fn advance(&mut self, until: LogicalTime) -> Stop {
        self.run(until)
    }

    fn inject(&mut self, input: &Input) -> Result<(), MachineError> {
        self.apply(input)
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    fn sections(&self) -> Vec<Section> {
        let state = MachineStateV1 {
            clock: self.clock,
            powered_off: self.powered_off,
            tsc_offset: self.tsc_offset,
            resets: self.resets,
        };
        let mut sections = vec![
            encode(MACHINE, MACHINE_VERSION, &state),
            encode(CPU, CPU_VERSION, &self.vcpu.save()),
        ];
        sections.extend(self.board.save().into_iter().map(|section| Section {
            name: section.kind,
            version: section.version,
            bytes: section.bytes,
        }));
        sections
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let state: MachineStateV1 = decode(find(sections, MACHINE, MACHINE_VERSION)?)?;
        let cpu: CpuState = decode(find(sections, CPU, CPU_VERSION)?)?;
        let board: Vec<BoardSection> = sections
            .iter()
            .filter(|section| section.name != CPU && section.name != MACHINE)
            .map(|section| BoardSection {
                kind: section.name.clone(),
                version: section.version,
                bytes: section.bytes.clone(),
            })
            .collect();
        let board = Board::restore(&board).map_err(|error| MachineError::new(error.to_string()))?;
        self.vcpu
            .restore(&cpu)
            .map_err(|error| MachineError::new(error.to_string()))?;
        self.board = board;
        self.powered_off = state.powered_off;
        self.tsc_offset = state.tsc_offset;
        self.resets = state.resets;
        self.outputs.clear();
        self.requests.clear();
        self.set_clock(state.clock);
        Ok(())
    }

    fn describe_difference(&self, name: &str, first: &[u8], second: &[u8]) -> Vec<FieldDifference> {
        let describe = |bytes: &[u8]| match name {
            CPU => describe_cpu(bytes),
            MACHINE => describe_machine(bytes),
            other => devices::board::describe(other, bytes),
        };
        let (first, second) = (describe(first), describe(second));
        first
            .into_iter()
            .zip(second)
            .filter(|(one, other)| one != other)
            .map(|(one, other)| FieldDifference {
                field: one.0,
                first: one.1,
                second: other.1,
            })
            .collect()
    }

    fn page_count(&self) -> u64 {
        self.page_total()
    }

    fn scrub_parts(&self) -> Vec<u64> {
        let first = self.first_disk_page();
        let disks = self.disks.first_pages().map(|page| first + page);
        std::iter::once(0).chain(disks).collect()
    }

    fn read_page(&self, page: PageNumber, bytes: &mut Page) {
        self.copy_page(page, bytes);
    }

    fn undecided_pages(&self) -> Vec<PageNumber> {
        let first = self.first_disk_page();
        let pages = self
            .disks
            .undecided(|device| under_way(&self.board, device));
        pages
            .into_iter()
            .map(|page| PageNumber(first + page))
            .collect()
    }

    fn take_unreadable(&mut self) -> Option<String> {
        self.disks.take_unreadable()
    }

    fn failure(&self) -> Option<String> {
        self.disks.failure().map(str::to_owned)
    }

    fn dirty_pages_hint(&self) -> u64 {
        self.memory.dirty_count() + self.disks.written_hint()
    }

    fn write_page(&mut self, page: PageNumber, bytes: &Page) {
        self.set_page(page, bytes);
    }

    fn page_digest(&self, page: PageNumber) -> u64 {
        match self.place(page) {
            Place::Memory(index) => self.memory.with_page(index, ft::digest::of_page),
            Place::Boot(index) => ft::digest::of_page(self.boot.page(index)),
            Place::Disk(index) => self
                .disks
                .page_digest(index, |device| under_way(&self.board, device)),
        }
    }

    fn take_dirty_pages(&mut self) -> Vec<PageNumber> {
        self.vcpu.collect_written();
        let mut pages = Self::pages(self.memory.take_dirty());
        let first = self.first_disk_page();
        let written = self.disks.take_written().into_iter();
        pages.extend(written.map(|page| PageNumber(first + page)));
        pages
    }

    fn touched_pages(&self) -> Vec<PageNumber> {
        self.vcpu.collect_written();
        let mut pages = Self::pages(self.memory.touched());
        let first = self.first_disk_page();
        pages.extend((self.memory.page_count()..first).map(PageNumber));
        let used = self.disks.touched().into_iter();
        pages.extend(used.map(|page| PageNumber(first + page)));
        pages
    }

    fn synchronise(&mut self) {
        self.vcpu.synchronise();
    }
}

impl VirtualMachine {
    /// Fills memory with zeroes.
    pub(super) fn clear_memory(&mut self) {
        self.vcpu.collect_written();
        for page in self.memory.touched() {
            self.set_page(PageNumber(page), &ft::machine::ZERO_PAGE);
        }
    }

    /// Virtual time, for reports.
    pub fn guest_time(&self) -> VirtualTime {
        self.virtual_time()
    }
}
