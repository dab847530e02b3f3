//! The thread that owns a machine and its side of a pair.

mod commands;
mod departure;
mod fencing;
mod pace;
mod peer;
mod tenure;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ft::inbox::Inbox;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{End, FtEvent, Next};
use ft::time::HostTime;

use rustix::event::{PollFd, PollFlags};

use super::mailbox::{Mailbox, Message};
use super::offers::Offers;
use super::opening::Opening;
use super::{Builder, Connection, HostSide, Listener, Start, VmEvent};
use crate::host::poll;
use crate::machine::VirtualMachine;

use departure::Departure;
use pace::pace;

/// Bytes of input that may wait between being offered and being taken at a logical time.
const INBOX_BYTES: usize = 2 << 20;
/// Wait between two tries to send a farewell to a connection that takes nothing.
const UNSENT_WAIT: Duration = Duration::from_millis(1);
/// Epoch length of an offline log, in milliseconds.
const RECORDING_EPOCH_MS: u64 = 100;
/// Pages checked besides the dirty ones in each epoch of an offline log.
const RECORDING_SCRUB_PAGES: u32 = 16;

pub(super) struct VmThread {
    replica: Replica,
    machine: Option<Box<VirtualMachine>>,
    builder: Option<Builder>,
    inbox: Inbox,
    offers: Offers,
    connection: Option<Connection>,
    /// What the connection is read into.
    arrived: Vec<u8>,
    /// The host side of the machine's devices; with the machine.
    host: Option<Box<dyn HostSide>>,
    listener: Listener,
    mailbox: Mailbox,
    receiver: Receiver<Message>,
    was_live: bool,
    /// Host sides that could not be opened yet.
    opening: Option<Opening>,
    /// Another host had the machine before, or may have.
    had_elsewhere: bool,
    /// A copy of the machine elsewhere.
    departure: Departure,
    paused: bool,
    quit: bool,
}

impl VmThread {
    pub(super) fn new(
        owner: String,
        start: Start,
        (mailbox, receiver): (Mailbox, Receiver<Message>),
        listener: Listener,
    ) -> Self {
        let now = HostTime(0);
        let had_elsewhere = !matches!(start, Start::Live(..));
        let mut sink = None;
        let mut arrived_paused = false;
        let (replica, machine, host, builder) = match start {
            Start::Live((mut machine, host), log) => {
                sink = log;
                machine.set_live(true);
                let replica = Replica::primary(owner, pace(&machine), machine.as_ref(), now);
                (replica, Some(machine), Some(host), None)
            }
            Start::Arrived((machine, host), paused) => {
                arrived_paused = paused;
                let replica = Replica::primary(owner, pace(&machine), machine.as_ref(), now);
                (replica, Some(machine), Some(host), None)
            }
            Start::Backup(builder) => {
                let replica = Replica::backup(owner, Pace::default(), now);
                (replica, None, None, Some(builder))
            }
        };
        let mut thread = Self {
            replica,
            machine,
            builder,
            inbox: Inbox::new(INBOX_BYTES),
            offers: Offers::default(),
            connection: None,
            arrived: Vec::new(),
            host,
            listener,
            mailbox,
            receiver,
            was_live: false,
            opening: None,
            had_elsewhere,
            departure: Departure::default(),
            paused: false,
            quit: false,
        };
        if let Some(machine) = &thread.machine {
            thread.mailbox.set_kicker(Some(machine.kicker()));
        }
        if let Some(sink) = sink {
            thread.start_recording(sink);
        }
        if arrived_paused && let Err(error) = thread.pause_machine(true, now) {
            log::error!("a machine that arrived paused runs: {error}");
        }
        thread
    }

    fn now(&self) -> HostTime {
        self.mailbox.permit().now()
    }

    fn start_recording(&mut self, sink: ft::primary::LogSink) {
        let now = self.now();
        if let (Some(primary), Some(machine)) = (self.replica.as_primary(), &mut self.machine) {
            let begun = primary.record(
                machine.as_mut(),
                sink,
                RECORDING_EPOCH_MS,
                RECORDING_SCRUB_PAGES,
                now,
            );
            if let Err(error) = begun {
                let reason = error.to_string();
                (self.listener)(VmEvent::Ft(FtEvent::RecordingFailed { reason }));
            }
        }
    }

    /// Runs the machine to its end.
    pub(super) fn run(mut self) {
        let end = loop {
            while let Ok(message) = self.receiver.try_recv() {
                self.take(message);
            }
            if self.quit {
                break None;
            }
            self.receive();
            self.hand_on();
            let (now, waiting) = (self.now(), self.inbox.len());
            let next = match &mut self.machine {
                Some(machine) => self.replica.drive(machine.as_mut(), &mut self.inbox, now),
                None => self.replica.tick(now),
            };
            self.build_machine();
            if let Some(machine) = &self.machine {
                self.offers.resizes().settle(machine.config(), self.paused);
            }
            self.release();
            let all_sent = self.transmit();
            self.tell();
            match next {
                Next::Run => {}
                // What did not fit into one step goes before any sleep.
                Next::Wait(_) if self.has_more(waiting) => {}
                Next::Wait(until) => self.wait(until, all_sent),
                Next::Ended(end) => break Some(end),
            }
        };
        self.finish(end);
    }

    fn finish(&mut self, end: Option<End>) {
        let now = self.now();
        if let (Some(primary), Some(machine)) = (self.replica.as_primary(), &mut self.machine)
            && primary.is_recording()
            && let Err(error) = primary.finish_recording(machine.as_mut(), now)
        {
            let reason = error.to_string();
            (self.listener)(VmEvent::Ft(FtEvent::RecordingFailed { reason }));
        }
        // What is still to be said to the peer (a farewell, an error) may go, but not for long.
        let deadline = Instant::now() + Duration::from_millis(100);
        while !self.transmit() && Instant::now() < deadline {
            std::thread::sleep(UNSENT_WAIT);
        }
        self.tell();
        if matches!(end, Some(End::Fenced(_)))
            && let Some(host) = &mut self.host
        {
            host.discard();
        }
        if let Some(end) = end {
            let status = Box::new(self.status(self.now()));
            let was_live = self.was_live;
            (self.listener)(VmEvent::Ended {
                end,
                was_live,
                status,
            });
        }
    }

    /// Waits until something comes, until `until` at the latest.
    fn wait(&mut self, until: Option<HostTime>, all_sent: bool) {
        let waker = self.mailbox.waker().clone();
        waker.begin_wait();
        let woken = match self.receiver.try_recv() {
            Ok(message) => {
                self.take(message);
                false
            }
            Err(_) => self.wait_for_descriptors(waker.as_fd(), until, all_sent),
        };
        waker.end_wait(woken);
    }

    /// Whether it was the waker that ended the wait.
    fn wait_for_descriptors(
        &self,
        waker: BorrowedFd<'_>,
        until: Option<HostTime>,
        all_sent: bool,
    ) -> bool {
        let mut most = match until {
            Some(until) => Duration::from_nanos(until.since(self.now())),
            None => Duration::from_secs(1),
        };
        if let Some(opening) = &self.opening {
            most = most.min(opening.next().saturating_duration_since(Instant::now()));
        }
        let mut entries = vec![PollFd::from_borrowed_fd(waker, PollFlags::IN)];
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.replica.wants_bytes());
        wanted.set(PollFlags::OUT, !all_sent);
        if let Some(peer) = self.connection.as_ref().and_then(Connection::descriptor) {
            entries.push(PollFd::from_borrowed_fd(peer, wanted));
        }
        if let Err(error) = poll::wait(&mut entries, most) {
            log::error!("cannot wait: {error}");
            std::thread::sleep(UNSENT_WAIT);
            return false;
        }
        entries[0].revents().contains(PollFlags::IN)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Command(command) => self.command(command),
            Message::Serial(bytes) => self.offers.take_serial(bytes),
            Message::Device(offered) => {
                let machine = self.machine.as_deref_mut();
                self.offers.take(offered, self.mailbox.tenure(), machine);
            }
            Message::Connected(connection) => self.connect(connection),
        }
    }

    /// Hands on what the host side offers, as far as the machine has room for it.
    fn hand_on(&mut self) {
        if let Some(machine) = &self.machine
            && self.inbox.is_empty()
            && self.replica.is_live()
        {
            self.offers.hand_on(machine, &mut self.inbox);
        }
    }

    /// Whether the guest, which took inputs when there were `before` of them, can be given more at
    /// once.
    fn has_more(&mut self, before: usize) -> bool {
        if self.inbox.is_empty() {
            self.hand_on();
            return !self.inbox.is_empty();
        }
        self.inbox.len() < before
    }

    fn tell(&mut self) {
        for event in self.replica.take_events() {
            (self.listener)(VmEvent::Ft(event));
        }
    }
}
