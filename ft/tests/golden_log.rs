//! The log format, held to a file: version 1 is written and read as it always was.
//!
//! A change of the format raises the version and adds a file; `write_golden_file` makes it.

use ft::event::{ClockRate, ClockSync, ControlOp, DeviceId, Input, SyncPoint};
use ft::log::{Entry, Event, LogReader, LogWriter, Tail};
use ft::machine::{FieldDifference, Machine, MachineError, PAGE_SIZE, Page, Section, Stop};
use ft::output::OutputLedger;
use ft::time::{LogicalTime, PageNumber};

/// The file of version 1.
const GOLDEN: &[u8] = include_bytes!("golden/log-v1.bin");

/// A machine that only has state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Still {
    pages: Vec<Page>,
    section: Vec<u8>,
}

impl Still {
    fn empty() -> Self {
        Self {
            pages: vec![[0; PAGE_SIZE]; 4],
            section: Vec::new(),
        }
    }

    fn golden() -> Self {
        let mut still = Self {
            section: vec![1, 2, 3, 4, 5],
            ..Self::empty()
        };
        for (index, byte) in still.pages[1].iter_mut().enumerate() {
            *byte = (index * index / 7) as u8;
        }
        still.pages[3][77] = 9;
        still
    }
}

impl Machine for Still {
    fn fingerprint(&self) -> String {
        "still 1".into()
    }

    fn now(&self) -> LogicalTime {
        LogicalTime(1_000)
    }

    fn virtual_ns(&self) -> u64 {
        0
    }

    fn advance(&mut self, _: LogicalTime) -> Stop {
        Stop::Reached
    }

    fn inject(&mut self, _: &Input) -> Result<(), MachineError> {
        Err(MachineError::new("a still machine takes nothing"))
    }

    fn take_outputs(&mut self) -> Vec<ft::event::Output> {
        Vec::new()
    }

    fn sections(&self) -> Vec<Section> {
        vec![Section {
            name: "all".into(),
            version: 3,
            bytes: self.section.clone(),
        }]
    }

    fn restore(&mut self, sections: &[Section]) -> Result<(), MachineError> {
        let [
            Section {
                name,
                version: 3,
                bytes,
            },
        ] = sections
        else {
            return Err(MachineError::new("another section"));
        };
        assert_eq!(name, "all");
        self.section = bytes.clone();
        Ok(())
    }

    fn describe_difference(&self, _: &str, _: &[u8], _: &[u8]) -> Vec<FieldDifference> {
        Vec::new()
    }

    fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    fn read_page(&self, page: PageNumber, bytes: &mut Page) {
        *bytes = self.pages[page.0 as usize];
    }

    fn write_page(&mut self, page: PageNumber, bytes: &Page) {
        self.pages[page.0 as usize] = *bytes;
    }

    fn take_dirty_pages(&mut self) -> Vec<PageNumber> {
        Vec::new()
    }

    fn touched_pages(&self) -> Vec<PageNumber> {
        vec![PageNumber(1), PageNumber(2), PageNumber(3)]
    }

    fn synchronise(&mut self) {}
}

fn point() -> SyncPoint {
    let sync = ClockSync {
        virtual_ns: 5_000,
        rate: ClockRate(655_360),
    };
    SyncPoint {
        at: LogicalTime(900),
        sync,
    }
}

fn ledger() -> OutputLedger {
    OutputLedger {
        count: 3,
        chain: 0x0123_4567_89ab_cdef,
    }
}

fn entries() -> Vec<Entry> {
    let clock = |virtual_ns, rate| {
        Event::Input(Input::Clock(ClockSync {
            virtual_ns,
            rate: ClockRate(rate),
        }))
    };
    let device = Input::Device {
        device: DeviceId(300),
        payload: b"bytes".to_vec(),
    };
    let events = [
        (1_000, clock(6_000, 655_360)),
        (101_000, Event::Marker),
        (101_000, Event::Input(device)),
        (150_000, clock(2_000_000, 650_000)),
        (
            150_000,
            Event::Input(Input::Control(ControlOp::PowerButton)),
        ),
        (150_000, Event::Input(Input::Control(ControlOp::Reset))),
        (150_000, Event::Input(Input::Control(ControlOp::Nmi))),
        (200_000, Event::Outputs { count: 2 }),
        (
            200_000,
            Event::EpochEnd {
                root: 0xfeed,
                parts: vec![1, 2, 3],
            },
        ),
        (
            200_000,
            Event::EpochEnd {
                root: u64::MAX,
                parts: Vec::new(),
            },
        ),
    ];
    events
        .into_iter()
        .map(|(at, event)| Entry {
            at: LogicalTime(at),
            event,
        })
        .collect()
}

fn written() -> Vec<u8> {
    let mut machine = Still::golden();
    let mut writer = LogWriter::begin(Vec::new(), &mut machine, point(), ledger(), 7)
        .expect("a vector takes everything");
    for entry in entries() {
        writer.append(&entry).expect("a vector takes everything");
    }
    writer.finish().expect("a vector takes everything")
}

#[test]
fn the_log_of_version_1_is_written_as_it_always_was() {
    assert_eq!(written(), GOLDEN);
}

#[test]
fn the_log_of_version_1_is_read_as_it_always_was() {
    let mut reader = LogReader::open(GOLDEN).unwrap();
    let header = reader.header().clone();
    assert_eq!(header.fingerprint, "still 1");
    assert_eq!((header.page_count, header.scrub_pages), (4, 7));
    assert_eq!((header.start, header.point), (LogicalTime(1_000), point()));
    assert_eq!(header.ledger, ledger());
    let mut machine = Still::empty();
    reader.restore(&mut machine).unwrap();
    assert_eq!(machine, Still::golden());
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        found.push(entry);
    }
    assert_eq!(found, entries());
    assert_eq!(reader.tail(), Tail::Complete);
}

#[test]
#[ignore = "writes the golden file of a new format: cargo test -p ft write_golden -- --ignored"]
fn write_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/log-v1.bin");
    std::fs::write(path, written()).unwrap();
}
