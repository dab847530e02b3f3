//! Sender and receiver against each other, over real sockets, with a toy of a machine.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use api_client::types::{MigrationState, VmConfig};
use ft::machine::{PAGE_SIZE, Section};
use ft::snapshot::Packing;
use ft::time::PageNumber;
use hypervisor::GuestAddress;

use super::channel::{Cancel, Channel};
use super::contents::Contents;
use super::description::Description;
use super::layout::Layout;
use super::pages::{Batch, Carrier};
use super::progress::Progress;
use super::receiver::{Destination, Failure, ReceiveError, Receiving};
use super::sender::{SendError, SendOptions, Sending, Source};
use super::state;
use super::wire::{Command, EXTENSIONS, MemoryRange, REASONS, Request, Response, encode_table};
use crate::machine::MachineConfig;
use crate::vm::departure::Outline;
use crate::vm::{Address, VmError};

const PAGES: u64 = 1200;

fn machine() -> MachineConfig {
    MachineConfig {
        memory_size: PAGES * PAGE_SIZE as u64,
        serial: false,
        start_seconds: 0,
        boot_pages: 0,
        tsc_khz: 1_000_000,
        virtio: Vec::new(),
    }
}

fn sections() -> Vec<Section> {
    vec![Section {
        name: "cpu".to_owned(),
        version: 1,
        bytes: vec![1, 2, 3],
    }]
}

/// A guest that writes further pages in each of its first rounds.
struct Toy {
    memory: Mutex<Vec<u8>>,
    rounds: AtomicUsize,
    paused: bool,
    steps: Mutex<Vec<&'static str>>,
}

impl Toy {
    fn new() -> Self {
        let byte = |n: usize| {
            if (n / PAGE_SIZE).is_multiple_of(3) {
                0
            } else {
                (n / 7) as u8
            }
        };
        let memory = (0..PAGES as usize * PAGE_SIZE).map(byte).collect();
        Self {
            memory: Mutex::new(memory),
            rounds: AtomicUsize::new(0),
            paused: false,
            steps: Mutex::default(),
        }
    }

    fn outline(&self) -> Outline {
        Outline {
            config: machine(),
            pages: (0..PAGES).map(PageNumber).collect(),
            paused: self.paused,
            hypervisor: "toy",
            memory: None,
        }
    }

    fn note(&self, step: &'static str) {
        self.steps.lock().unwrap().push(step);
    }

    fn steps(&self) -> Vec<&'static str> {
        self.steps.lock().unwrap().clone()
    }
}

impl Source for Toy {
    fn read(&self, pages: Vec<PageNumber>) -> Receiver<Result<Vec<u8>, VmError>> {
        let memory = self.memory.lock().unwrap();
        let bytes = pages.iter().flat_map(|page| {
            let at = page.0 as usize * PAGE_SIZE;
            memory[at..at + PAGE_SIZE].to_vec()
        });
        let (sender, receiver) = mpsc::channel();
        sender.send(Ok(bytes.collect())).unwrap();
        receiver
    }

    fn written(&self) -> Result<Vec<PageNumber>, VmError> {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        let count = [900, 700, 300, 7].get(round).copied().unwrap_or(0);
        let mut memory = self.memory.lock().unwrap();
        let pages = (0..count).map(|index| index + round as u64);
        let written: Vec<_> = pages.map(PageNumber).collect();
        for page in &written {
            memory[page.0 as usize * PAGE_SIZE + round] ^= 0x5a;
        }
        Ok(written)
    }

    fn slow_down(&self) -> Result<bool, VmError> {
        Ok(false)
    }

    fn flush(&self) -> Result<(), VmError> {
        Ok(())
    }

    fn leave(&self) -> Result<(), VmError> {
        self.note("leave");
        Ok(())
    }

    fn save(&self) -> Result<Vec<Section>, VmError> {
        self.note("save");
        Ok(sections())
    }

    fn release(&self) -> Result<(), VmError> {
        self.note("release");
        Ok(())
    }
}

/// What came of a machine that arrived.
#[derive(Default)]
struct Place {
    memory: Vec<u8>,
    sections: Vec<Section>,
    went_on: Option<bool>,
    refuses: Option<&'static str>,
}

impl Place {
    fn refuse(&self, step: &'static str) -> Result<(), Failure> {
        match self.refuses == Some(step) {
            true => Err(format!("no {step} here").into()),
            false => Ok(()),
        }
    }
}

impl Destination for Place {
    fn check(&mut self, found: &MachineConfig, _: VmConfig) -> Result<(), Failure> {
        if *found != machine() {
            return Err("another machine".into());
        }
        self.refuse("check")
    }

    fn make(&mut self, contents: &Contents, sections: &[Section]) -> Result<(), Failure> {
        self.refuse("make")?;
        let (memory, _) = contents.take();
        self.memory = vec![0; machine().memory_size as usize];
        memory.read(GuestAddress(0), &mut self.memory)?;
        self.sections = sections.to_vec();
        Ok(())
    }

    fn go_on(&mut self, paused: bool) -> Result<(), Failure> {
        self.refuse("go_on")?;
        self.went_on = Some(paused);
        Ok(())
    }
}

fn address() -> Address {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("migration-{}-{count}", std::process::id());
    Address::Unix(std::env::temp_dir().join(name))
}

type Received = (Place, Result<(), ReceiveError>);

fn receive(address: &Address, mut place: Place) -> (JoinHandle<Received>, Cancel, Address) {
    let listening = address.listen().unwrap();
    let address = match listening.port() {
        Some(port) => format!("tcp:127.0.0.1:{port}").parse().unwrap(),
        None => address.clone(),
    };
    let cancel = Cancel::default();
    let stopped = cancel.clone();
    let thread = std::thread::spawn(move || {
        let result = Receiving {
            listening: Arc::new(listening),
            destination: &mut place,
            cancel: stopped,
            progress: Progress::new(MigrationState::Waiting),
            tell: &|_, _| {},
        }
        .receive();
        (place, result)
    });
    (thread, cancel, address)
}

fn options(address: Address) -> SendOptions {
    SendOptions {
        address,
        downtime: Duration::from_millis(300),
        timeout: Duration::from_secs(60),
        stops_at_timeout: false,
        connections: 1,
        local: false,
        preserves_source: false,
    }
}

fn send(toy: &Toy, options: &SendOptions) -> Result<Duration, SendError> {
    let cancel = Cancel::default();
    let channel = Channel::new(options.address.open().unwrap(), cancel.clone()).unwrap();
    Sending {
        source: toy,
        options,
        cancel,
        progress: Progress::new(MigrationState::Copying),
        tell: &|_, _| {},
    }
    .send(channel, VmConfig::default(), toy.outline())
}

#[test]
fn a_machine_arrives_as_it_left_over_one_connection_and_over_several() {
    let tcp: Address = "tcp:127.0.0.1:0".parse().unwrap();
    for (place, connections, paused) in [
        (address(), 1, false),
        (tcp.clone(), 1, true),
        (tcp, 3, false),
    ] {
        let (receiver, _, address) = receive(&place, Place::default());
        let toy = Toy {
            paused,
            ..Toy::new()
        };
        let mut options = options(address);
        options.connections = connections;
        send(&toy, &options).unwrap();
        let (place, result) = receiver.join().unwrap();
        result.unwrap();
        assert!(place.memory == *toy.memory.lock().unwrap(), "{connections}");
        assert_eq!(place.sections, sections());
        assert_eq!(place.went_on, Some(paused));
        assert_eq!(toy.steps(), ["leave", "save", "release"]);
    }
}

#[test]
fn whatever_the_destination_refuses_the_source_hears_why_and_keeps_the_machine() {
    for step in ["check", "make", "go_on"] {
        let place = Place {
            refuses: Some(step),
            ..Place::default()
        };
        let (receiver, _, address) = receive(&address(), place);
        let error = send(&Toy::new(), &options(address)).unwrap_err();
        assert!(!matches!(error, SendError::Undecided(_)), "{error:?}");
        let text = crate::control::causes(&error).join(": ");
        assert!(text.contains(&format!("no {step} here")), "{text}");
        let (place, result) = receiver.join().unwrap();
        assert!(
            matches!(result, Err(ReceiveError::Machine(_))),
            "{result:?}"
        );
        assert_eq!(place.went_on, None);
    }
}

/// A sender without our extensions, which says what it likes.
struct Plain(UnixStream);

impl Plain {
    fn connect(address: &Address) -> Self {
        let Address::Unix(path) = address else {
            panic!("{address}")
        };
        Self(UnixStream::connect(path).unwrap())
    }

    fn say(&mut self, request: Request, payload: &[u8]) -> Option<Response> {
        self.0.write_all(&request.encode()).unwrap();
        self.0.write_all(payload).unwrap();
        let mut head = [0; 16];
        self.0.read_exact(&mut head).ok()?;
        Response::decode(&head).ok()
    }

    fn with(&mut self, command: Command, payload: &[u8], data: &[u8]) -> Option<Response> {
        let all = [payload, data].concat();
        self.say(Request::with(command, payload.len() as u64), &all)
    }

    fn config(&mut self) -> Option<Response> {
        let described = Description::new(VmConfig::default(), machine());
        self.with(
            Command::Config,
            &serde_json::to_vec(&described).unwrap(),
            &[],
        )
    }

    fn memory(&mut self, address: u64, bytes: &[u8]) -> Option<Response> {
        let range = MemoryRange {
            address,
            length: bytes.len() as u64,
        };
        self.with(Command::Memory, &encode_table(&[range]), bytes)
    }
}

#[test]
fn a_sender_of_version_0_is_understood_and_offered_nothing() {
    let (receiver, _, address) = receive(&address(), Place::default());
    let mut plain = Plain::connect(&address);
    let ok = Some(Response::OK);
    assert_eq!(plain.say(Request::bare(Command::Start), &[]), ok);
    assert_eq!(plain.config(), ok);
    // Ranges need not be whole pages.
    assert_eq!(plain.memory(100, &[7; 5000]), ok);
    assert_eq!(plain.memory(0, &[]), ok);
    let state = state::write(&sections(), &()).unwrap();
    assert_eq!(plain.with(Command::State, &state, &[]), ok);
    assert_eq!(plain.say(Request::bare(Command::CompletePaused), &[]), ok);
    let (place, result) = receiver.join().unwrap();
    result.unwrap();
    assert_eq!(place.memory[99..=100], [0, 7]);
    assert_eq!(place.memory[5099..=5100], [7, 0]);
    assert_eq!(place.went_on, Some(true));
}

#[test]
fn commands_at_the_wrong_time_and_nonsense_are_answered_by_an_error_and_end_it() {
    type Talk = fn(&mut Plain) -> Option<Response>;
    let table: [(Talk, &str); 9] = [
        (|plain| plain.config(), "Config came when"),
        (
            |plain| plain.say(Request::bare(Command::Complete), &[]),
            "Complete came when",
        ),
        (
            |plain| {
                let mut old = Request::bare(Command::Start);
                old.header[0] = 9;
                plain.say(old, &[])
            },
            "speaks version 9",
        ),
        (
            |plain| {
                plain.say(Request::bare(Command::Start), &[]);
                plain.memory(0, &[1])
            },
            "Memory came when",
        ),
        (
            |plain| {
                plain.say(Request::bare(Command::Start), &[]);
                plain.with(Command::Config, b"{}", &[])
            },
            "vm_config",
        ),
        (
            |plain| {
                plain.say(Request::bare(Command::Start), &[]);
                plain.config();
                plain.memory(PAGES * PAGE_SIZE as u64 - 1, &[1, 2])
            },
            "are not all of the machine's memory",
        ),
        (
            |plain| {
                plain.say(Request::bare(Command::Start), &[]);
                plain.config();
                plain.with(Command::PackedMemory, &[0xff; 12], &[])
            },
            "batch of pages is malformed",
        ),
        (
            |plain| {
                plain.say(Request::bare(Command::Start), &[]);
                plain.config();
                plain.with(Command::State, b"[]", &[])
            },
            "not one of Cloud Hypervisor FT",
        ),
        (
            |plain| {
                plain.say(Request::bare(Command::Start), &[]);
                let mut head = Request::bare(Command::Start).encode();
                head[0] = 77;
                plain.0.write_all(&head).unwrap();
                let mut head = [0; 16];
                plain.0.read_exact(&mut head).ok()?;
                Response::decode(&head).ok()
            },
            "there is no command 77",
        ),
    ];
    for (talk, text) in table {
        let (receiver, _, address) = receive(&address(), Place::default());
        let response = talk(&mut Plain::connect(&address)).unwrap();
        assert!(!response.ok, "{text}");
        // Nobody asked for reasons.
        assert_eq!(response.length, 0, "{text}");
        let (place, result) = receiver.join().unwrap();
        let error = crate::control::causes(&result.unwrap_err()).join(": ");
        assert!(error.contains(text), "{text}: {error}");
        assert_eq!(place.went_on, None);
    }
}

#[test]
fn whoever_is_no_sender_does_not_keep_one_away() {
    let (receiver, _, address) = receive(&address(), Place::default());
    let mut stray = Plain::connect(&address);
    stray.0.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut head = [0; 16];
    stray.0.read_exact(&mut head).unwrap();
    assert_eq!(Response::decode(&head), Ok(Response::ERROR));
    drop(Plain::connect(&address));
    let toy = Toy::new();
    send(&toy, &options(address)).unwrap();
    let (place, result) = receiver.join().unwrap();
    result.unwrap();
    assert!(place.memory == *toy.memory.lock().unwrap());
}

/// All that a sender says, as it is on the wire.
fn conversation() -> Vec<u8> {
    let mut said = Vec::new();
    let mut say = |request: Request, payload: &[u8]| {
        said.extend(request.encode());
        said.extend(payload);
    };
    say(Request::start(EXTENSIONS), &[]);
    let described = Description::new(VmConfig::default(), machine());
    let described = serde_json::to_vec(&described).unwrap();
    say(
        Request::with(Command::Config, described.len() as u64),
        &described,
    );
    let batch = Batch {
        pages: (3..9).map(PageNumber).collect(),
        data: (0..6 * PAGE_SIZE).map(|n| (n / 5000) as u8).collect(),
    };
    let packed = Carrier::packed(batch.clone(), Packing::Lz4);
    say(packed.request, &packed.payload);
    let plain = Carrier::plain(batch, &Layout::of(&machine()));
    say(plain.request, &[plain.payload, plain.data].concat());
    let state = state::write(&sections(), &()).unwrap();
    say(Request::with(Command::State, state.len() as u64), &state);
    say(Request::bare(Command::Complete), &[]);
    said
}

#[test]
fn damaged_conversations_end_and_leave_nothing_or_are_right() {
    let whole = conversation();
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        (number % below as u64) as usize
    };
    let mut right = 0;
    for round in 0..400 {
        let mut said = whole.clone();
        for _ in 0..random(4) {
            let at = random(said.len());
            match random(3) {
                0 => said[at] = random(256) as u8,
                1 => said[at] ^= 1 << random(8),
                _ => said.truncate(at.max(1)),
            }
        }
        let (receiver, _, address) = receive(&address(), Place::default());
        let mut plain = Plain::connect(&address);
        // It may close before it has heard everything.
        let _ = plain.0.write_all(&said);
        let _ = plain.0.shutdown(std::net::Shutdown::Write);
        let _ = plain.0.read_to_end(&mut Vec::new());
        drop(plain);
        // What did not begin as one leaves the receiver waiting for a sender.
        if let Address::Unix(path) = &address
            && let Ok(mut next) = UnixStream::connect(path)
        {
            let mut bytes = Request::start(0).encode().to_vec();
            bytes.extend(Request::bare(Command::Abandon).encode());
            let _ = next.write_all(&bytes);
            let _ = next.read_to_end(&mut Vec::new());
        }
        let (place, result) = receiver.join().unwrap();
        assert_eq!(result.is_ok(), place.went_on.is_some(), "round {round}");
        if result.is_ok() {
            assert_eq!(place.sections, sections(), "round {round}");
            right += 1;
        }
    }
    assert!((50..390).contains(&right), "{right} of 400 were right");
}

#[test]
fn a_migration_that_is_called_off_or_cut_leaves_nothing() {
    let (receiver, _, address) = receive(&address(), Place::default());
    let mut plain = Plain::connect(&address);
    plain.say(Request::start(EXTENSIONS), &[]).unwrap();
    assert_eq!(
        plain.say(Request::bare(Command::Abandon), &[]),
        Some(Response::OK)
    );
    let (_, result) = receiver.join().unwrap();
    assert!(matches!(result, Err(ReceiveError::Abandoned)), "{result:?}");

    let (receiver, _, address) = receive(&self::address(), Place::default());
    let mut plain = Plain::connect(&address);
    let started = plain.say(Request::start(EXTENSIONS), &[]).unwrap();
    assert_eq!(started.extensions & REASONS, REASONS);
    drop(plain);
    assert!(receiver.join().unwrap().1.is_err());

    let (receiver, cancel, _) = receive(&self::address(), Place::default());
    cancel.cancel();
    let (_, result) = receiver.join().unwrap();
    assert!(result.unwrap_err().is_cancel());
}

/// A destination that answers so many requests and is gone then.
fn failing(answers: usize, last: Option<Response>) -> (Address, JoinHandle<()>) {
    let address = address();
    let listening = address.listen().unwrap();
    let thread = std::thread::spawn(move || {
        let accepted = listening.accept_stream(Duration::from_secs(10)).unwrap();
        let mut channel = Channel::new(accepted.unwrap().0, Cancel::default()).unwrap();
        for _ in 0..answers {
            let request = channel.request().unwrap();
            let payload = channel.payload(request.length).unwrap();
            if request.command == Command::Memory {
                let ranges = super::wire::decode_table(&payload).unwrap();
                let bytes = ranges.iter().map(|range| range.length).sum();
                channel.payload(bytes).unwrap();
            }
            channel.respond(&Response::OK).unwrap();
        }
        let request = channel.request().unwrap();
        channel.payload(request.length).unwrap();
        if let Some(last) = last {
            channel.respond(&last).unwrap();
        }
    });
    (address, thread)
}

#[test]
fn a_destination_that_falls_silent_gets_nothing_unless_it_may_have_gone_on() {
    // Start, Config, then memory in batches of 256 pages, State and Complete.
    let memory = 1200_usize.div_ceil(256);
    let toy = Toy::new();
    toy.rounds.store(9, Ordering::Relaxed);
    for (answers, undecided) in [
        (0, false),
        (1, false),
        (2 + memory / 2, false),
        (2 + memory, false),
        (3 + memory, true),
    ] {
        let (address, thread) = failing(answers, None);
        let error = send(&toy, &options(address)).unwrap_err();
        let found = matches!(error, SendError::Undecided(_));
        assert_eq!(found, undecided, "{answers}: {error:?}");
        thread.join().unwrap();
    }
    // One that says itself that it does not go on has decided.
    let (address, thread) = failing(3 + memory, Some(Response::ERROR));
    let error = send(&toy, &options(address)).unwrap_err();
    assert!(matches!(error, SendError::Channel { .. }), "{error:?}");
    thread.join().unwrap();
}

#[test]
fn a_guest_that_writes_too_fast_is_stopped_or_kept_when_time_is_over() {
    let endless = || {
        let toy = Toy::new();
        toy.rounds.store(0, Ordering::Relaxed);
        toy
    };
    for stops_at_timeout in [false, true] {
        let (receiver, _, address) = receive(&address(), Place::default());
        let options = SendOptions {
            downtime: Duration::from_nanos(1),
            timeout: Duration::ZERO,
            stops_at_timeout,
            ..options(address)
        };
        let toy = endless();
        let sent = send(&toy, &options);
        let (place, result) = receiver.join().unwrap();
        if stops_at_timeout {
            sent.unwrap();
            assert!(place.memory == *toy.memory.lock().unwrap());
        } else {
            assert!(matches!(sent, Err(SendError::Timeout(0))), "{sent:?}");
            assert!(matches!(result, Err(ReceiveError::Abandoned)), "{result:?}");
            assert_eq!(toy.steps(), Vec::<&str>::new());
        }
    }
}

mod saved {
    use super::*;
    use crate::migration::restore::restore;
    use crate::migration::snapshot::{self, CONFIG_FILE, MEMORY_FILE, STATE_FILE, take};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let Address::Unix(path) = address() else {
                panic!("no path")
            };
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn take(&self, toy: &Toy) -> Result<(), snapshot::SnapshotError> {
            let outline = toy.outline();
            take((toy, outline), VmConfig::default(), |_| Vec::new(), &self.0)
        }

        fn restore(&self) -> Result<Place, String> {
            let mut place = Place::default();
            let restored = restore(&self.0, &mut place, false);
            let told = |error| crate::control::causes(&error).join(": ");
            restored.map_err(told).map(|()| place)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_machine_comes_out_of_a_folder_as_it_went_in() {
        let (folder, toy) = (Folder::new(), Toy::new());
        folder.take(&toy).unwrap();
        let place = folder.restore().unwrap();
        assert!(place.memory == *toy.memory.lock().unwrap());
        assert_eq!((place.sections, place.went_on), (sections(), Some(true)));
        // Never over another one.
        let error = folder.take(&toy).unwrap_err().to_string();
        assert!(error.contains("cannot make"), "{error}");
        assert!(folder.restore().is_ok());
        for name in [CONFIG_FILE, STATE_FILE, MEMORY_FILE] {
            use std::os::unix::fs::PermissionsExt;
            let metadata = folder.0.join(name).metadata().unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_snapshot_that_fails_leaves_no_file() {
        let folder = Folder::new();
        std::fs::write(folder.0.join(STATE_FILE), "mine").unwrap();
        assert!(folder.take(&Toy::new()).is_err());
        let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn damage_is_found_before_there_is_a_machine() {
        type Damage = fn(&mut Vec<u8>);
        let table: [(&str, Damage, &str); 7] = [
            (
                MEMORY_FILE,
                |bytes| bytes[PAGE_SIZE + 9] ^= 1,
                "memory-ranges is damaged",
            ),
            (
                MEMORY_FILE,
                |bytes| bytes.truncate(77),
                "memory-ranges has 77 bytes",
            ),
            (
                STATE_FILE,
                |bytes| bytes.truncate(bytes.len() / 2),
                "state is malformed",
            ),
            (STATE_FILE, Vec::clear, "state is malformed"),
            (
                STATE_FILE,
                |bytes| {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    *bytes = text.replace("AQID", "AQIE").into_bytes();
                },
                "section cpu of the state is damaged",
            ),
            (
                CONFIG_FILE,
                |bytes| bytes.truncate(9),
                "config.json is malformed",
            ),
            (
                CONFIG_FILE,
                |bytes| *bytes = br#"{"colour":1}"#.to_vec(),
                "unknown field `colour`",
            ),
        ];
        for (name, damage, text) in table {
            let folder = Folder::new();
            folder.take(&Toy::new()).unwrap();
            let path = folder.0.join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let error = folder.restore().err().unwrap();
            assert!(error.contains(text), "{text}: {error}");
            std::fs::remove_file(&path).unwrap();
            let error = folder.restore().err().unwrap();
            assert!(error.contains(&format!("{name}: No such file")), "{error}");
        }
    }

    #[test]
    fn only_absolute_file_addresses_are_folders() {
        assert_eq!(
            snapshot::folder("file:///a/b").unwrap(),
            PathBuf::from("/a/b")
        );
        for url in ["", "/a", "file://a", "file:/a", "http:///a"] {
            assert!(snapshot::folder(url).is_err(), "{url}");
        }
    }
}
