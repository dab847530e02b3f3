//! The run loop: executes blocks, counts what retired, and takes interrupts, traps and stops at
//! exact instruction boundaries.
//!
//! Everything that changes what happens next is decided at a boundary from architectural state
//! alone, never from how instructions were grouped into blocks: two runs that were cut into
//! slices differently go through the same states.
//!
//! `Cpu::attention` is the one thing that the fast loop looks at. Whoever makes a condition true
//! that the loop must see sets it; `SoftwareVcpu::service` sets it again while one lasts.

mod blocks;
mod step;

use std::sync::Arc;

use super::code_cache::CodeCache;
use super::cpu::Cpu;
use super::exception::Fault;
use super::op::Stop;
use super::translate::{HOT, Translator};
use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::exception;
use crate::exit::Exit;
use crate::memory::GuestMemory;
use crate::state::{CpuState, reset_state};
use crate::vcpu::{DebugPoint, Kicker, TscClock, Vcpu, VcpuError};

/// DR6: a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// Most places where a debugger can have it stop.
const MOST_DEBUG_POINTS: usize = 64;

/// One software processor.
#[derive(Debug)]
pub struct SoftwareVcpu {
    cpu: Cpu,
    cache: CodeCache,
    /// Where the host can run translated code.
    translator: Option<Translator>,
    /// Interpretations after which a block is translated.
    hot: u8,
    kicker: Kicker,
    window_wanted: bool,
    /// The next instruction would overwrite decoded code: decode it apart and run it alone.
    apart: bool,
    debug_points: Vec<DebugPoint>,
    /// The breakpoint at the current instruction has been reported.
    passed_breakpoint: bool,
    /// Logical time at which something was last delivered: until an instruction retires, the
    /// state is not the one that a run up to that time leaves.
    disturbed_at: Option<u64>,
    /// What `run` returns when a turn says [`Turn::Leave`].
    leaving: Result<Exit, VcpuError>,
}

/// Whether the run loop goes on. Small on purpose: what is left with is kept in the vCPU, since
/// handing it through every turn costs a tenth of the interpreter's speed (`scripts/bench cpu`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Again,
    Leave,
}

impl SoftwareVcpu {
    /// A processor in its reset state.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self::translating_after(memory, HOT)
    }

    /// As [`SoftwareVcpu::new`], but a block is translated after `heat` interpretations; none are
    /// for tests.
    pub fn translating_after(memory: Arc<GuestMemory>, heat: u8) -> Self {
        Self {
            translator: Translator::new(),
            hot: heat,
            ..Self::interpreting(memory)
        }
    }

    /// A processor in its reset state that translates nothing.
    pub fn interpreting(memory: Arc<GuestMemory>) -> Self {
        let mut vcpu = Self {
            cache: CodeCache::new(memory.page_count()),
            translator: None,
            hot: HOT,
            cpu: Cpu::new(memory),
            kicker: Kicker::default(),
            window_wanted: false,
            apart: false,
            debug_points: Vec::new(),
            passed_breakpoint: false,
            disturbed_at: None,
            leaving: Ok(Exit::Reached),
        };
        vcpu.restore(&reset_state())
            .expect("the reset state is a valid one");
        vcpu
    }

    /// The same processor with a time-stamp counter of `tsc_khz`.
    pub fn with_tsc_khz(mut self, tsc_khz: u32) -> Self {
        self.cpu.tsc_khz = tsc_khz;
        self
    }

    /// Ends `run` with `exit`.
    fn leave(&mut self, exit: Exit) -> Turn {
        self.leaving = Ok(exit);
        Turn::Leave
    }

    /// Deals with what must happen before the next instruction.
    fn service(&mut self) -> Turn {
        if self.cpu.mmu.has_stale() {
            self.drop_stale();
        }
        if self.cpu.debug_trap {
            self.cpu.debug_trap = false;
            self.cpu.debug[4] |= DR6_SINGLE_STEP;
            return self.deliver(Fault::plain(exception::DB));
        }
        if self.cpu.pending_nmi && !self.cpu.nmi_blocked && self.at_open_boundary() {
            self.cpu.pending_nmi = false;
            self.cpu.nmi_blocked = true;
            let outcome = self.cpu.deliver_interrupt(exception::NMI);
            return self.after_delivery(outcome);
        }
        if let Some(vector) = self.cpu.pending_interrupt
            && self.may_interrupt()
        {
            self.cpu.pending_interrupt = None;
            let outcome = self.cpu.deliver_interrupt(vector);
            return self.after_delivery(outcome);
        }
        if self.window_wanted && self.can_take_interrupt() {
            self.window_wanted = false;
            return self.leave(Exit::InterruptWindow);
        }
        Turn::Again
    }

    /// No shadow and no instruction under way.
    fn at_open_boundary(&self) -> bool {
        !self.cpu.interrupt_shadow && !self.cpu.bus.in_progress()
    }

    /// Whether the state is the one that a run up to this logical time leaves.
    fn is_settled(&self) -> bool {
        self.disturbed_at != Some(self.cpu.retired)
            && self.cpu.pending_interrupt.is_none()
            && !self.cpu.bus.in_progress()
    }

    fn may_interrupt(&self) -> bool {
        self.cpu.system_flags & rflags::IF != 0 && self.at_open_boundary()
    }

    fn deliver(&mut self, fault: Fault) -> Turn {
        self.cpu.interrupt_shadow = false;
        let outcome = self.cpu.deliver_fault(fault);
        self.after_delivery(outcome)
    }

    fn after_delivery(&mut self, outcome: Result<(), Stop>) -> Turn {
        self.disturbed_at = Some(self.cpu.retired);
        self.cpu.bus.clear();
        self.cpu.attention = true;
        match outcome {
            Ok(()) => Turn::Again,
            // A stack in device memory is nothing that a machine can go on from.
            Err(_) => self.leave(Exit::Shutdown),
        }
    }

    /// Drops blocks whose bytes were or will be overwritten.
    fn drop_stale(&mut self) {
        for page in self.cpu.mmu.take_stale() {
            let Self {
                cache, translator, ..
            } = self;
            cache.drop_page(page, |block| {
                if let Some(translator) = translator {
                    translator.drop_block(block);
                }
            });
            self.cpu.mmu.forget_code(page);
        }
    }

    /// Turns a stop of the instruction at `rip` into an exit, a delivery, or nothing.
    #[inline(never)]
    fn finish(&mut self, rip: u64, stop: Stop) -> Turn {
        self.cpu.attention = true;
        let rip = self.cpu.wrap_rip(rip);
        match stop {
            Stop::Halted | Stop::TaskPriority => {
                self.cpu.retired += 1;
                self.leave(if stop == Stop::Halted {
                    Exit::Halted
                } else {
                    Exit::TaskPriority
                })
            }
            Stop::Fault => {
                self.cpu.rip = rip;
                let fault = self.cpu.fault.take();
                self.deliver(fault.expect("a handler that stops with Fault has set it"))
            }
            Stop::Bus => {
                self.cpu.rip = rip;
                let waiting = self.cpu.bus.waiting();
                self.leave(waiting.expect("a handler that stops with Bus has an access waiting"))
            }
            Stop::CodeModified => {
                self.cpu.rip = rip;
                self.apart = true;
                Turn::Again
            }
            Stop::Shutdown => self.leave(Exit::Shutdown),
        }
    }

    /// What the slow side of the loop does: one look around, and one instruction or block.
    #[inline(never)]
    fn run_attentively(&mut self, until: u64) -> Turn {
        // First, so that whatever is delivered at a boundary belongs to what follows it: a run
        // that ends at a logical time leaves the same state wherever it began.
        if self.cpu.retired >= until {
            return self.leave(Exit::Reached);
        }
        if self.kicker.is_kicked() && self.is_settled() {
            self.kicker.take();
            return self.leave(Exit::Kicked);
        }
        self.cpu.attention = false;
        if self.service() == Turn::Leave {
            return Turn::Leave;
        }
        if self.cpu.attention {
            // Something was delivered; look again before anything runs.
            return Turn::Again;
        }
        if self.cpu.halted {
            return self.leave(Exit::Halted);
        }
        if self.must_step() {
            return self.step();
        }
        self.run_blocks(until)
    }
}

impl Vcpu for SoftwareVcpu {
    fn logical_time(&self) -> u64 {
        self.cpu.retired
    }

    fn run(&mut self, until: u64) -> Result<Exit, VcpuError> {
        self.cpu.mmu.follow_dirty_record();
        match self.cpu.bus.waiting() {
            Some(Exit::PioWrite { .. } | Exit::MmioWrite { .. } | Exit::MsrWrite { .. }) => {
                let answered = self.cpu.bus.answer(0);
                assert!(answered, "a waiting access can be answered");
            }
            Some(read) => return Ok(read),
            None => {}
        }
        self.cpu.attention = true;
        loop {
            let look = self.cpu.attention || self.kicker.is_kicked() || self.cpu.retired >= until;
            let turn = if look {
                self.run_attentively(until)
            } else {
                self.run_blocks(until)
            };
            if turn == Turn::Leave {
                return std::mem::replace(&mut self.leaving, Ok(Exit::Reached));
            }
        }
    }

    fn complete_read(&mut self, value: u64) -> Result<(), VcpuError> {
        if self.cpu.bus.answer(value) {
            Ok(())
        } else {
            Err(VcpuError::NothingToComplete)
        }
    }

    fn refuse_msr(&mut self) -> Result<(), VcpuError> {
        if self.cpu.bus.refuse() {
            Ok(())
        } else {
            Err(VcpuError::NothingToComplete)
        }
    }

    fn is_inside_instruction(&self) -> bool {
        self.cpu.bus.waiting().is_some() || self.cpu.bus.in_progress()
    }

    fn can_take_interrupt(&self) -> bool {
        self.may_interrupt()
            && self.cpu.pending_interrupt.is_none()
            && self.cpu.bus.waiting().is_none()
            && !self.cpu.debug_trap
    }

    fn inject_interrupt(&mut self, vector: u8) {
        assert!(self.can_take_interrupt(), "vector {vector} would be lost");
        self.cpu.pending_interrupt = Some(vector);
        self.cpu.halted = false;
    }

    fn inject_nmi(&mut self) {
        self.cpu.pending_nmi = true;
        self.cpu.halted = false;
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
    }

    fn is_halted(&self) -> bool {
        self.cpu.halted
    }

    fn cr8(&self) -> u8 {
        self.cpu.cr8
    }

    fn set_cr8(&mut self, priority: u8) {
        self.cpu.cr8 = priority & 15;
    }

    fn set_tsc_clock(&mut self, clock: TscClock) {
        self.cpu.tsc = clock;
    }

    fn tsc_offset(&self) -> u64 {
        self.cpu.msrs.tsc_adjust
    }

    fn memory_written(&mut self, gpa: u64, len: u64) {
        self.cpu.mmu.note_foreign_write(gpa, len);
    }

    fn synchronise(&mut self) {
        self.cpu.mmu.flush_all();
        self.drop_code();
        self.apart = false;
    }

    fn save(&self) -> CpuState {
        self.cpu.save()
    }

    fn restore(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.cpu.restore(state)?;
        self.window_wanted = false;
        self.disturbed_at = None;
        self.passed_breakpoint = false;
        self.synchronise();
        Ok(())
    }

    fn set_debug_points(&mut self, points: &[DebugPoint]) -> Result<(), VcpuError> {
        if points.len() > MOST_DEBUG_POINTS {
            return Err(VcpuError::DebugPoints {
                count: points.len(),
                most: MOST_DEBUG_POINTS,
            });
        }
        self.debug_points = points.to_vec();
        Ok(())
    }

    fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }
}
