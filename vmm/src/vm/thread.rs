//! The thread that owns a machine and its side of a pair.

mod departure;
mod fencing;
mod pace;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use devices::virtio::any::VirtioConfig;
use devices::virtio::input::VirtioInput;
use ft::event::Input;
use ft::fence::Fence;
use ft::inbox::Inbox;
use ft::machine::Machine;
use ft::record::Pace;
use ft::replica::Replica;
use ft::status::{End, FtEvent, Next};
use ft::time::HostTime;

use rustix::event::{PollFd, PollFlags};

use super::mailbox::{Mailbox, Message};
use super::offers::Offers;
use super::opening::Opening;
use super::{
    Builder, Built, Command, Connection, HostSide, Listener, Live, Protect, Reply, Start, VmError,
    VmEvent, VmStatus, resize,
};
use crate::control::causes;
use crate::host::poll;
use crate::machine::{MachineConfig, SERIAL, VirtualMachine};

use departure::Departure;
use fencing::open_fence;
use pace::pace;

/// Bytes of input that may wait between being offered and being taken at a logical time.
const INBOX_BYTES: usize = 2 << 20;
/// Bytes read from the peer at once.
const READ_SIZE: usize = 256 << 10;
/// Reads between two slices of the guest.
const MAX_READS: usize = 4;
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

    /// Takes what has come from the peer, as far as there is room for it.
    fn receive(&mut self) {
        for _ in 0..MAX_READS {
            if !self.replica.wants_bytes() {
                return;
            }
            let Some(connection) = &mut self.connection else {
                return;
            };
            let Some(count) = connection.receive(&mut self.arrived) else {
                return;
            };
            if count == 0 {
                return self.replica.on_link_closed();
            }
            // Read after the bytes came off the connection: a host that stood still must not take
            // old bytes for a sign of life.
            let now = self.now();
            self.replica.on_bytes(&self.arrived[..count], now);
            if count < self.arrived.len() {
                return;
            }
        }
    }

    fn connect(&mut self, connection: Connection) {
        self.arrived.resize(READ_SIZE, 0);
        self.connection = Some(connection);
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

    /// Makes a backup's machine when the primary has said what it is like.
    fn build_machine(&mut self) {
        let Some(hello) = self.replica.hello() else {
            return;
        };
        let (config, fence_text) = (hello.config.clone(), hello.parameters.fence.clone());
        let now = self.now();
        match self.prepare(&config, &fence_text) {
            Ok(((machine, host), fence)) => {
                self.mailbox.set_kicker(Some(machine.kicker()));
                if let Err(error) = self.replica.accept(machine.as_ref(), fence, now) {
                    log::error!("the primary is refused: {error}");
                }
                self.replica.set_pace(pace(&machine));
                self.machine = Some(machine);
                self.host = Some(host);
            }
            Err(reason) => {
                log::error!("the primary is refused: {reason}");
                if let Some(backup) = self.replica.as_backup() {
                    backup.refuse(&reason, now);
                }
            }
        }
    }

    fn prepare(&mut self, config: &[u8], fence: &str) -> Result<(Built, Box<dyn Fence>), String> {
        let (machine_config, rest): (MachineConfig, &[u8]) = postcard::take_from_bytes(config)
            .map_err(|error| format!("the machine's configuration is malformed: {error}"))?;
        let fence = open_fence(fence).map_err(|error| error.to_string())?;
        let builder = self.builder.as_mut().ok_or("this side takes no machine")?;
        let built = builder(machine_config, rest).map_err(|error| causes(&error).join(": "))?;
        Ok((built, fence))
    }

    fn release(&mut self) {
        let live = self.replica.is_live() && !self.departure.away;
        match (self.was_live, live) {
            (false, true) => {
                // A peer that was relieved closes what this side is about to open.
                self.transmit();
                self.go_live();
            }
            (true, false) => self.leave(false),
            _ => {}
        }
        self.was_live = live;
        self.open_again();
        let permit = self.mailbox.permit();
        if permit.take_wanted() {
            self.replica.want_permit();
        }
        permit.set(self.replica.permitted_until());
        let now = self.now();
        let released = self.replica.take_released(now);
        let Some(host) = &mut self.host else { return };
        for output in released {
            if output.device == SERIAL {
                self.offers.serial_counters().sent_bytes += output.payload.len() as u64;
            }
            host.output(&output);
        }
        if let Some(machine) = &mut self.machine {
            for request in machine.take_requests() {
                host.request(request);
            }
        }
    }

    /// The machine executes for real here from now on.
    fn go_live(&mut self) {
        let taken_over = std::mem::replace(&mut self.had_elsewhere, true);
        let (Some(machine), Some(host)) = (&mut self.machine, &mut self.host) else {
            return;
        };
        if !taken_over {
            // It has been live since it was made.
            return;
        }
        machine.set_live(true);
        let missing = host.go_live(&Live { machine });
        if !missing.is_empty() {
            log::warn!("not open yet, to be tried again: {}", missing.join("; "));
            self.opening = Some(Opening::after_failure(Instant::now()));
        }
        for request in machine.unanswered() {
            host.request(request);
        }
        for (device, spec) in machine.config().virtio.iter().enumerate() {
            match spec.config {
                VirtioConfig::Net(_) => self.offers.add(device, VirtioInput::NetAnnounce),
                VirtioConfig::Vsock(config) => {
                    let guest_cid = config.guest_cid;
                    let reset = VirtioInput::VsockTransportReset { guest_cid };
                    self.offers.add(device, reset);
                }
                _ => {}
            }
        }
    }

    /// Tries to open what could not be opened when the machine went live.
    fn open_again(&mut self) {
        let due = |opening: &Opening| Instant::now() >= opening.next();
        let (Some(machine), Some(host)) = (&self.machine, &mut self.host) else {
            return;
        };
        let Some(opening) = self.opening.take_if(|opening| due(opening)) else {
            return;
        };
        let missing = host.go_live(&Live { machine });
        if missing.is_empty() {
            return;
        }
        self.opening = opening.failed_again(Instant::now());
        if self.opening.is_none() {
            host.give_up();
            for reason in missing {
                (self.listener)(VmEvent::DeviceLost { reason });
            }
        }
    }

    /// Another host goes on with the machine, which may come back.
    fn leave(&mut self, comes_back: bool) {
        self.opening = None;
        self.mailbox.end_tenure();
        self.paused = false;
        self.offers.clear();
        self.inbox = Inbox::new(INBOX_BYTES);
        if let Some(host) = &mut self.host {
            host.leave(comes_back);
        }
        if let Some(machine) = &mut self.machine {
            machine.set_live(false);
        }
    }

    /// Sends what there is to send; false when some of it has to wait.
    fn transmit(&mut self) -> bool {
        let Self {
            connection: Some(connection),
            replica,
            ..
        } = self
        else {
            return true;
        };
        let all_sent = connection.transmit(|most| replica.poll_transmit(most));
        if all_sent && !replica.wants_link() {
            self.connection = None;
        }
        all_sent
    }

    fn tell(&mut self) {
        for event in self.replica.take_events() {
            (self.listener)(VmEvent::Ft(event));
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        // An asker that has gone away needs no answer.
        match command {
            Command::SetPaused(paused, reply) => {
                let free = self.departure.check_none();
                let _ = reply.send(free.and_then(|()| self.pause_machine(paused, now)));
            }
            Command::Control(operation) => {
                if self.inbox.offer(Input::Control(operation)).is_err() {
                    log::warn!("{operation:?} is dropped: too much waits to be taken");
                }
            }
            Command::Protect(protect, reply) => {
                let _ = reply.send(self.protect(*protect, now));
            }
            Command::StopProtection(reply) => {
                let stopped = self.replica.stop_protection(now);
                let _ = reply.send(stopped.map_err(|error| VmError::Refused(error.to_string())));
            }
            Command::FailOver(reply) => {
                let begun = self.replica.fail_over();
                let _ = reply.send(begun.map_err(|error| VmError::Refused(error.to_string())));
            }
            Command::ResizeDisk(device, size, reply) => self.resize_disk(device, size, reply),
            Command::Status(reply) => {
                let _ = reply.send(Ok(Box::new(self.status(now))));
            }
            Command::Copy(step) => self.copy_step(step, now),
            Command::Quit => self.quit = true,
        }
    }

    fn pause_machine(&mut self, paused: bool, now: HostTime) -> Result<(), VmError> {
        let Some(machine) = &self.machine else {
            return Err(VmError::Refused("there is no machine yet".to_owned()));
        };
        self.replica
            .set_paused(machine.as_ref(), paused, now)
            .map_err(|error| VmError::Refused(error.to_string()))?;
        self.paused = paused;
        Ok(())
    }

    fn protect(&mut self, protect: Protect, now: HostTime) -> Result<(), VmError> {
        let refused = |error: &dyn std::error::Error| VmError::Refused(error.to_string());
        let Some(machine) = &self.machine else {
            return Err(VmError::Refused("there is no machine yet".to_owned()));
        };
        // What the backup is told of its machine would not hold.
        self.offers.resizes().check_none()?;
        self.departure.check_none()?;
        let fence = open_fence(&protect.parameters.fence)?;
        let mut config = postcard::to_allocvec(machine.config())
            .map_err(|error| VmError::Refused(error.to_string()))?;
        config.extend(protect.config);
        self.replica
            .protect(machine.as_ref(), protect.parameters, fence, config, now)
            .map_err(|error| refused(&error))?;
        self.connect(protect.connection);
        Ok(())
    }

    fn resize_disk(&mut self, device: usize, size: u64, reply: Reply<()>) {
        let protection = self.replica.state();
        let (Some(machine), Some(host)) = (&self.machine, &mut self.host) else {
            let _ = reply.send(Err(VmError::Refused("there is no machine yet".to_owned())));
            return;
        };
        let begun = resize::check(machine.config(), device, protection)
            .and_then(|()| self.offers.resizes().check_none())
            .and_then(|()| self.departure.check_none())
            .and_then(|()| host.resize_disk(device, size).map_err(VmError::Refused));
        match begun {
            Ok(()) => self.offers.resizes().begin(device, reply),
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Whether the machine executes for real here; one that was fenced does not any more.
    fn is_live(&self) -> bool {
        self.replica.is_undisputed() && self.machine.is_some()
    }

    fn status(&mut self, now: HostTime) -> VmStatus {
        let serial = *self.offers.serial_counters();
        let machine = self.machine.as_deref();
        VmStatus {
            ft: self
                .replica
                .status(machine.map(|machine| machine as &dyn Machine), now),
            live: self.is_live(),
            paused: self.paused,
            memory_size: machine.map_or(0, |machine| machine.config().memory_size),
            logical_time: machine.map_or(0, |machine| machine.now().0),
            virtual_ns: machine.map_or(0, Machine::virtual_ns),
            hypervisor: machine.map_or("none", VirtualMachine::hypervisor_name),
            clock: machine.map_or("none", VirtualMachine::clock_name),
            serial,
            devices: self
                .host
                .as_ref()
                .map(|host| host.counters())
                .unwrap_or_default(),
            places: self
                .host
                .as_ref()
                .map(|host| host.places())
                .unwrap_or_default(),
        }
    }
}
