//! One processor of KVM's: runs the guest, turns KVM's exits into ours, delivers what was injected.
//!
//! What is injected is kept here and handed to KVM on the way into the guest, so that nothing
//! but [`KvmVcpu::enter`] can fail halfway. Where the guest stopped inside an instruction, KVM
//! finishes it at the next entry; with `immediate_exit` that is all it does.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_HLT, KVM_EXIT_INTR,
    KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_SET_TPR, KVM_EXIT_SHUTDOWN, KVM_SYNC_X86_EVENTS,
    kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use super::access::Access;
use super::clock::GuestClock;
use super::counter::{Counter, host_counter};
use super::debug::DebugPoints;
use super::dirty_ring::DirtyRing;
use super::failure::{describe_exit, describe_state, hexadecimal};
use super::vm::KvmVm;
use super::wake::{Alarm, Due, Running, RunningThread};
use super::{events, ioctl};
use crate::arch::x86_64::msr;
use crate::capabilities::LogicalClock;
use crate::cpu_model::{belongs_to_controller, read_register, write_register};
use crate::exit::Exit;
use crate::memory::GuestAddress;
use crate::state::{CpuState, Msrs, reset_state};
use crate::vcpu::{DebugPoint, Kicker, TscClock, Vcpu, VcpuError};

/// The timer's and the counter's idea of a stretch of time may be apart by this much.
const SLACK_NS: u64 = 5_000;
/// How long a guest runs on at first that was stopped while an exception was on its way to it.
const SETTLE_NS: u64 = 20_000;
/// How often that is tried, each time twice as long: a busy host may not come to enter the guest
/// before a short time is over. The last try takes longer than any host is away.
const MOST_SETTLING: u32 = 20;
/// Most bytes of an instruction.
const INSTRUCTION_BYTES: usize = 15;

/// One processor.
#[derive(Debug)]
pub(super) struct KvmVcpu {
    // First, so that it goes before its VM does.
    pub(super) fd: VcpuFd,
    ring: Option<DirtyRing>,
    vm: Arc<KvmVm>,
    pub(super) clock: GuestClock,
    counter: Counter,
    pub(super) access: Access,
    kicker: Kicker,
    thread: Arc<RunningThread>,
    alarm: Alarm,
    debug: DebugPoints,
    /// Registers that are kept here; those that KVM keeps are stale in it.
    pub(super) msrs: Msrs,
    pub(super) cr8: u8,
    pub(super) halted: bool,
    pub(super) injecting: Option<u8>,
    pub(super) nmi_wanted: bool,
    window_wanted: bool,
    /// The guest takes an interrupt now, as far as KVM has to tell.
    pub(super) is_open: bool,
    /// KVM shows what waits in the page that it shares with us, if it is asked to.
    shows_events: bool,
    /// What it shows is what waits now.
    pub(super) shown: bool,
    switch_ns: u64,
}

/// What the host's KVM is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// What an exit and the next entry cost, in nanoseconds.
    pub switch_ns: u64,
    /// It shows what waits in the page that it shares with us: KVM API 5, `KVM_CAP_SYNC_REGS`.
    pub shows_events: bool,
}

/// A request that failed, as an error.
pub(super) fn failed<E: Into<io::Error>>(request: &'static str) -> impl FnOnce(E) -> VcpuError {
    move |error| VcpuError::Host {
        request,
        source: error.into(),
    }
}

/// How an entry ended.
enum Left {
    /// With an exit that KVM tells of.
    Exit,
    /// By a signal, or because it was not to go on.
    Interrupted,
}

impl KvmVcpu {
    /// A processor in its reset state.
    ///
    /// # Errors
    /// When KVM refuses that state, or does not show its dirty ring.
    pub fn new(
        fd: VcpuFd,
        vm: Arc<KvmVm>,
        counter: Counter,
        traits: Traits,
    ) -> Result<Self, VcpuError> {
        let Traits {
            switch_ns,
            shows_events,
        } = traits;
        let thread = Arc::new(RunningThread::default());
        let ring = vm.ring_of(&fd).map_err(failed("map its dirty ring"))?;
        let mut vcpu = Self {
            fd,
            ring,
            vm,
            clock: GuestClock::new(counter.scale(), host_counter()),
            counter,
            access: Access::none(),
            kicker: Kicker::waking(thread.clone()),
            thread,
            alarm: Alarm::new(),
            debug: DebugPoints::default(),
            msrs: Msrs::default(),
            cr8: 0,
            halted: false,
            injecting: None,
            nmi_wanted: false,
            window_wanted: false,
            is_open: false,
            shows_events,
            shown: false,
            switch_ns,
        };
        vcpu.restore(&reset_state())?;
        Ok(vcpu)
    }

    /// Enters the guest until something is to be told.
    fn enter(&mut self, until: u64, only_complete: bool) -> Result<Exit, VcpuError> {
        self.deliver()?;
        self.debug.pass(&self.fd)?;
        let thread = self.thread.clone();
        let byte = &raw mut self.fd.get_kvm_run().immediate_exit;
        let running = Running::begin(&thread, byte);
        let mut settling = 0;
        loop {
            running.clear();
            if settling > 0 {
                let longer = SETTLE_NS << settling;
                self.prepare(self.clock.time().saturating_add(longer), false)?;
            } else {
                let completes = only_complete || self.kicker.is_kicked();
                self.prepare(until, completes)?;
                if completes {
                    running.only_complete();
                }
            }
            match self.run_once()? {
                Left::Exit => {
                    if let Some(exit) = self.take_exit()? {
                        return Ok(exit);
                    }
                }
                Left::Interrupted if self.is_delivering()? => {
                    settling += 1;
                    if settling > MOST_SETTLING {
                        return Err(self.stopped("an exception does not reach the guest".into()));
                    }
                }
                Left::Interrupted => {
                    settling = 0;
                    // A kick is for the guest's next stretch, not for the end of an instruction.
                    if only_complete || self.clock.time() >= until {
                        return Ok(Exit::Reached);
                    }
                    if self.kicker.take() {
                        return Ok(Exit::Kicked);
                    }
                }
            }
        }
    }

    /// Hands KVM what was injected since the last entry.
    fn deliver(&mut self) -> Result<(), VcpuError> {
        self.shown &= self.injecting.is_none() && !self.nmi_wanted;
        if let Some(vector) = self.injecting {
            ioctl::interrupt(&self.fd, vector).map_err(failed("take an interrupt"))?;
            self.injecting = None;
        }
        if self.nmi_wanted {
            self.fd.nmi().map_err(failed("take an NMI"))?;
            self.nmi_wanted = false;
        }
        Ok(())
    }

    /// Sets what KVM looks at on the way in, and the timer that ends the run at `until`; a run that
    /// only `completes` an instruction ends by itself.
    fn prepare(&mut self, until: u64, completes: bool) -> Result<(), VcpuError> {
        self.counter
            .apply(&self.fd, self.clock.offset())
            .map_err(failed("set the time-stamp counter"))?;
        if !completes {
            self.set_alarm(until)?;
        }
        let window = u8::from(self.window_wanted);
        let cr8 = u64::from(self.cr8);
        // What waits is looked at after each such run. After the others it seldom is, and to have
        // it shown costs them as much as asking for it.
        let shows = completes && self.shows_events;
        let shared = self.fd.get_kvm_run();
        shared.request_interrupt_window = window;
        shared.cr8 = cr8;
        shared.kvm_valid_regs = u64::from(shows) * u64::from(KVM_SYNC_X86_EVENTS);
        Ok(())
    }

    fn set_alarm(&mut self, until: u64) -> Result<(), VcpuError> {
        let ns = until.saturating_sub(self.clock.time());
        let now = host_counter();
        let due = Due {
            now,
            wanted: now.saturating_add(self.clock.host_ticks(ns)),
            ns,
            slack: self.clock.host_ticks(SLACK_NS),
        };
        self.alarm.set(due).map_err(failed("set a timer"))
    }

    fn run_once(&mut self) -> Result<Left, VcpuError> {
        let result = self.fd.run().map(|_| ());
        self.clock.leave(host_counter());
        self.shown = self.fd.get_kvm_run().kvm_valid_regs & u64::from(KVM_SYNC_X86_EVENTS) != 0;
        // Whatever was under way has gone on; an exit that is an access begins anew.
        self.access.forget();
        let shared = self.fd.get_kvm_run();
        let (ready, enabled) = (shared.ready_for_interrupt_injection, shared.if_flag);
        let cr8 = shared.cr8;
        self.is_open = ready != 0 && enabled != 0;
        self.cr8 = cr8 as u8 & 15;
        match result {
            Ok(()) if self.fd.get_kvm_run().exit_reason == KVM_EXIT_INTR => Ok(Left::Interrupted),
            Ok(()) => Ok(Left::Exit),
            Err(error) if error.errno() == libc::EINTR => Ok(Left::Interrupted),
            Err(error) => Err(failed("run the guest")(error)),
        }
    }

    /// What waits to be delivered, as KVM has it.
    pub(super) fn waiting(&self) -> Result<kvm_vcpu_events, VcpuError> {
        if self.shown {
            return Ok(self.fd.sync_regs().events);
        }
        self.ask_waiting()
    }

    fn ask_waiting(&self) -> Result<kvm_vcpu_events, VcpuError> {
        self.fd.get_vcpu_events().map_err(failed("tell what waits"))
    }

    /// Whether KVM, after a run that only completed an instruction, shows what it tells when it is
    /// asked.
    pub(super) fn shows_waiting(&self) -> Result<bool, VcpuError> {
        Ok(self.shown && self.waiting()? == self.ask_waiting()?)
    }

    /// Whether an exception is on its way to the guest, which a saved state cannot say.
    fn is_delivering(&self) -> Result<bool, VcpuError> {
        Ok(events::in_delivery(&self.waiting()?))
    }

    /// Turns KVM's exit into ours; `None` if it was answered here.
    fn take_exit(&mut self) -> Result<Option<Exit>, VcpuError> {
        let shared = self.fd.get_kvm_run();
        let reason = shared.exit_reason;
        if let Some(exit) = self.access.begin(shared) {
            return match exit {
                Exit::MsrRead { index } | Exit::MsrWrite { index, .. }
                    if !belongs_to_controller(index) =>
                {
                    self.answer_register(exit)?;
                    Ok(None)
                }
                exit => Ok(Some(exit)),
            };
        }
        match reason {
            KVM_EXIT_HLT => {
                self.halted = true;
                Ok(Some(Exit::Halted))
            }
            KVM_EXIT_IRQ_WINDOW_OPEN => {
                self.window_wanted = false;
                Ok(Some(Exit::InterruptWindow))
            }
            KVM_EXIT_SET_TPR => Ok(Some(Exit::TaskPriority)),
            KVM_EXIT_SHUTDOWN => Ok(Some(Exit::Shutdown)),
            KVM_EXIT_DEBUG => {
                self.debug.hit();
                Ok(Some(Exit::Debug))
            }
            KVM_EXIT_DIRTY_RING_FULL => {
                self.make_room()?;
                Ok(None)
            }
            _ => Err(self.failure()),
        }
    }

    fn make_room(&mut self) -> Result<(), VcpuError> {
        match &self.ring {
            Some(ring) => {
                let made = self.vm.make_room(ring);
                made.map_err(failed("make room in its dirty ring"))
            }
            None => Err(self.failure()),
        }
    }

    /// Puts the pages that the guest wrote into the memory's record.
    pub(super) fn try_collect_written(&self) -> io::Result<()> {
        self.vm.collect_written(self.ring.as_ref())
    }

    /// Answers an access of a register that is neither KVM's nor the interrupt controller's.
    fn answer_register(&mut self, exit: Exit) -> Result<(), VcpuError> {
        let answer = match exit {
            Exit::MsrRead { index } => {
                self.msrs.tsc_adjust = self.clock.adjustment();
                read_register(&self.msrs, index)
            }
            Exit::MsrWrite { index, value } => self.write_register(index, value).map(|()| 0),
            _ => None,
        };
        let shared = self.fd.get_kvm_run();
        match (answer, exit) {
            (Some(value), Exit::MsrRead { .. }) => self.access.answer(shared, value),
            (Some(_), _) => Ok(()),
            (None, _) => self.access.refuse(shared),
        }
    }

    fn write_register(&mut self, index: u32, value: u64) -> Option<()> {
        match index {
            msr::TSC => self.clock.write_counter(value, host_counter()),
            msr::TSC_ADJUST => self.clock.write_adjustment(value),
            _ => return write_register(&mut self.msrs, index, value),
        }
        Some(())
    }

    fn failure(&mut self) -> VcpuError {
        let exit = describe_exit(self.fd.get_kvm_run());
        self.stopped(exit)
    }

    fn stopped(&self, exit: String) -> VcpuError {
        match self.read_state() {
            Ok(state) => VcpuError::Stopped {
                exit,
                bytes: self.instruction_bytes(&state),
                state: describe_state(&state),
            },
            Err(error) => error,
        }
    }

    /// The bytes at the next instruction, as far as they can be read.
    fn instruction_bytes(&self, state: &CpuState) -> String {
        let code = &state.segments[crate::arch::x86_64::segment::CS];
        let linear = code.base.wrapping_add(state.rip);
        let mut bytes = Vec::new();
        for address in (linear..).take(INSTRUCTION_BYTES) {
            let Ok(place) = self.fd.translate_gva(address) else {
                break;
            };
            let mut byte = [0];
            let gpa = GuestAddress(place.physical_address);
            if place.valid == 0 || self.vm.memory().read(gpa, &mut byte).is_err() {
                break;
            }
            bytes.extend(byte);
        }
        if bytes.is_empty() {
            return "that cannot be read".to_owned();
        }
        hexadecimal(&bytes)
    }

    /// Lets KVM finish an instruction whose effects nobody wants any more.
    pub(super) fn drain(&mut self) -> Result<(), VcpuError> {
        while self.access.is_inside() {
            self.fd.set_kvm_immediate_exit(1);
            match self.run_once()? {
                Left::Exit => {
                    let shared = self.fd.get_kvm_run();
                    self.access.begin(shared);
                }
                Left::Interrupted => {}
            }
        }
        Ok(())
    }
}

impl Vcpu for KvmVcpu {
    fn logical_time(&self) -> u64 {
        self.clock.time()
    }

    fn logical_clock(&self) -> LogicalClock {
        LogicalClock::Exits
    }

    fn switch_ns(&self) -> u64 {
        self.switch_ns
    }

    fn run(&mut self, until: u64) -> Result<Exit, VcpuError> {
        if let Some(exit) = self.access.next(self.fd.get_kvm_run()) {
            return Ok(exit);
        }
        let before = self.clock.time();
        let inside = self.access.is_inside();
        if !inside {
            if before >= until {
                return Ok(Exit::Reached);
            }
            if self.kicker.take() {
                return Ok(Exit::Kicked);
            }
            if self.window_wanted && self.can_take_interrupt() {
                self.window_wanted = false;
                return Ok(Exit::InterruptWindow);
            }
            if self.halted {
                return Ok(Exit::Halted);
            }
        }
        let has_time = self.clock.enter(host_counter(), until);
        if !inside && !has_time {
            return Ok(Exit::Reached);
        }
        // To the next logical time: the instruction is to be finished, and nothing more.
        let only_complete = inside && (!has_time || until <= before.saturating_add(1));
        self.enter(until, only_complete)
    }

    fn complete_read(&mut self, value: u64) -> Result<(), VcpuError> {
        self.access.answer(self.fd.get_kvm_run(), value)
    }

    fn refuse_msr(&mut self) -> Result<(), VcpuError> {
        self.access.refuse(self.fd.get_kvm_run())
    }

    fn is_inside_instruction(&self) -> bool {
        self.access.is_inside()
    }

    fn can_take_interrupt(&self) -> bool {
        self.is_open && self.injecting.is_none() && !self.access.is_waiting()
    }

    fn inject_interrupt(&mut self, vector: u8) {
        assert!(self.can_take_interrupt(), "vector {vector} would be lost");
        self.injecting = Some(vector);
        self.halted = false;
    }

    fn inject_nmi(&mut self) {
        self.nmi_wanted = true;
        self.halted = false;
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
    }

    fn is_halted(&self) -> bool {
        self.halted
    }

    fn cr8(&self) -> u8 {
        self.cr8
    }

    fn set_cr8(&mut self, priority: u8) {
        self.cr8 = priority & 15;
    }

    fn set_tsc_clock(&mut self, clock: TscClock) {
        self.clock.set(clock, host_counter());
    }

    fn tsc_offset(&self) -> u64 {
        self.clock.adjustment()
    }

    /// Nothing to do: the processor sees what others write.
    fn memory_written(&mut self, _gpa: u64, _len: u64) {}

    fn collect_written(&self) {
        if let Err(error) = self.try_collect_written() {
            panic!("KVM does not tell which pages were written: {error}");
        }
    }

    /// Nothing to do: what the processor caches is not ours to see.
    fn synchronise(&mut self) {}

    fn save(&self) -> CpuState {
        assert!(!self.access.is_inside(), "an instruction is under way");
        match self.read_state() {
            Ok(state) => state,
            Err(error) => panic!("KVM does not tell its processor's state: {error}"),
        }
    }

    fn restore(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.write_state(state)?;
        self.window_wanted = false;
        self.debug.forget_hit();
        Ok(())
    }

    fn set_debug_points(&mut self, points: &[DebugPoint]) -> Result<(), VcpuError> {
        self.debug.set(&self.fd, points)
    }

    fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }
}
