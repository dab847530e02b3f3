//! The run loop: finds or decodes the next block, executes it, counts what retired, and takes
//! interrupts, traps and stops at exact instruction boundaries.
//!
//! Everything that changes what happens next is decided at a boundary from architectural state
//! alone, never from how instructions were grouped into blocks: two runs that were cut into
//! slices differently go through the same states.

use std::sync::Arc;

use super::code_cache::{Block, CodeCache, Key, MOST_OPS};
use super::cpu::{Cpu, Mode};
use super::decode::{self, Decoded, Flow, MAX_INSTRUCTION};
use super::exception::Fault;
use super::mmu::CodePage;
use super::op::{Op, Stop};
use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::exception;
use crate::arch::x86_64::paging::PAGE_SIZE;
use crate::arch::x86_64::segment::CS;
use crate::exit::Exit;
use crate::memory::{GuestAddress, GuestMemory};
use crate::state::{CpuState, reset_state};
use crate::vcpu::{DebugPoint, Kicker, TscClock, Vcpu, VcpuError};

/// DR6: a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// One software processor.
#[derive(Debug)]
pub struct SoftwareVcpu {
    cpu: Cpu,
    cache: CodeCache,
    kicker: Kicker,
    window_wanted: bool,
    /// The next instruction would overwrite decoded code: decode it apart and run it alone.
    apart: bool,
    debug_points: Vec<DebugPoint>,
    /// The breakpoint at the current instruction has been reported.
    passed_breakpoint: bool,
}

/// How the execution of a block ended.
struct Ended {
    /// Instructions that retired.
    retired: u64,
    /// The instruction that stopped, and why.
    stop: Option<(Stop, u16, u8)>,
}

impl SoftwareVcpu {
    /// A processor in its reset state.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        let mut vcpu = Self {
            cache: CodeCache::new(memory.page_count()),
            cpu: Cpu::new(memory),
            kicker: Kicker::default(),
            window_wanted: false,
            apart: false,
            debug_points: Vec::new(),
            passed_breakpoint: false,
        };
        vcpu.restore(&reset_state()).expect("the reset state is a valid one");
        vcpu
    }

    /// Deals with what must happen before the next instruction.
    fn service(&mut self) -> Result<Option<Exit>, VcpuError> {
        self.cpu.attention = false;
        if self.cpu.debug_trap {
            self.cpu.debug_trap = false;
            self.cpu.debug[4] |= DR6_SINGLE_STEP;
            if let Some(exit) = self.deliver(Fault::plain(exception::DB)) {
                return Ok(Some(exit));
            }
        }
        if self.cpu.interrupt_shadow || self.cpu.system_flags & rflags::TF != 0 {
            // The next instruction runs alone; look again after it.
            self.cpu.attention = true;
        }
        if self.cpu.pending_nmi
            && !self.cpu.nmi_blocked
            && !self.cpu.interrupt_shadow
            && !self.cpu.bus.in_progress()
        {
            self.cpu.pending_nmi = false;
            self.cpu.nmi_blocked = true;
            let outcome = self.cpu.deliver_interrupt(exception::NMI);
            return Ok(self.after_delivery(outcome));
        }
        if let Some(vector) = self.cpu.pending_interrupt
            && self.may_interrupt()
        {
            self.cpu.pending_interrupt = None;
            let outcome = self.cpu.deliver_interrupt(vector);
            return Ok(self.after_delivery(outcome));
        }
        if self.window_wanted && self.can_take_interrupt() {
            self.window_wanted = false;
            return Ok(Some(Exit::InterruptWindow));
        }
        Ok(None)
    }

    fn may_interrupt(&self) -> bool {
        self.cpu.system_flags & rflags::IF != 0
            && !self.cpu.interrupt_shadow
            && !self.cpu.bus.in_progress()
    }

    fn deliver(&mut self, fault: Fault) -> Option<Exit> {
        self.cpu.interrupt_shadow = false;
        let outcome = self.cpu.deliver_fault(fault);
        self.after_delivery(outcome)
    }

    fn after_delivery(&mut self, outcome: Result<(), Stop>) -> Option<Exit> {
        self.cpu.bus.clear();
        match outcome {
            Ok(()) => None,
            // A stack in device memory is nothing that a machine can go on from.
            Err(_) => Some(Exit::Shutdown),
        }
    }

    /// Linear address of the next instruction.
    fn linear_rip(&self) -> u64 {
        match self.cpu.mode {
            Mode::Long => self.cpu.rip,
            _ => u64::from(self.cpu.segments[CS].base.wrapping_add(self.cpu.rip) as u32),
        }
    }

    /// Guest physical address of the instruction byte at `linear`.
    #[inline(always)]
    fn fetch_address(&mut self, linear: u64) -> Result<u64, Fault> {
        let page = linear & !(PAGE_SIZE - 1);
        if self.cpu.mode == Mode::Long && !self.cpu.is_canonical(linear) {
            return Err(Fault::with_code(exception::GP, 0));
        }
        match self.cpu.mmu.fetch_page(page, self.cpu.cpl == 3) {
            Ok(gpa) => Ok(gpa | (linear & (PAGE_SIZE - 1))),
            Err(error) => Err(Fault::page(error.0, linear)),
        }
    }

    /// Reads instruction bytes up to the end of the page at `gpa`.
    fn fetch_bytes(&self, gpa: u64, most: usize) -> Vec<u8> {
        let room = (PAGE_SIZE - gpa % PAGE_SIZE) as usize;
        let mut bytes = vec![0; room.min(most)];
        // Code in device memory reads as all ones, which is not an instruction anyone wants.
        if self.cpu.mmu.memory().read(GuestAddress(gpa), &mut bytes).is_err() {
            bytes.fill(0xff);
        }
        bytes
    }

    /// Decodes the instruction at RIP, which starts at `gpa`; tells how many of its bytes lie in
    /// the first page, and where the second is.
    fn decode_one(&mut self, gpa: u64) -> Result<(Decoded, Option<u64>), Fault> {
        let (rip, mode) = (self.cpu.rip, self.cpu.mode);
        let mut bytes = self.fetch_bytes(gpa, MAX_INSTRUCTION);
        if let Some(decoded) = decode::decode(&bytes, rip, mode) {
            return Ok((decoded, None));
        }
        let next_page = self.linear_rip().wrapping_add(bytes.len() as u64);
        let second = self.fetch_address(next_page)?;
        let rest = MAX_INSTRUCTION - bytes.len();
        bytes.extend(self.fetch_bytes(second, rest));
        let decoded = decode::decode(&bytes, rip, mode)
            .expect("the decoder never wants more than the longest instruction");
        Ok((decoded, Some(second)))
    }

    /// Decodes a block at RIP and keeps it.
    fn build_block(&mut self, key: Key) -> Result<(), Fault> {
        let bytes = self.fetch_bytes(key.gpa, PAGE_SIZE as usize);
        let mut ops: Vec<Op> = Vec::new();
        let mut at = 0usize;
        while ops.len() < MOST_OPS {
            let rip = key.rip.wrapping_add(at as u64);
            let Some(Decoded { mut op, flow }) = decode::decode(&bytes[at..], rip, key.mode) else {
                break;
            };
            if flow == Flow::Alone && !ops.is_empty() {
                break;
            }
            op.offset = at as u16;
            at += usize::from(op.len);
            ops.push(op);
            if flow != Flow::Next {
                break;
            }
        }
        let mut pages = Vec::new();
        if ops.is_empty() {
            let (Decoded { op, .. }, second) = self.decode_one(key.gpa)?;
            at = usize::from(op.len);
            ops.push(op);
            if let Some(second) = second {
                self.note_code(second, (at - bytes.len()) as u64, &mut pages);
            }
        }
        self.note_code(key.gpa, at.min(bytes.len()) as u64, &mut pages);
        let next_rip = self.wrap_rip(key.rip.wrapping_add(at as u64));
        let block = Block { rip: key.rip, next_rip, ops: ops.into_boxed_slice() };
        self.cache.insert(key, block, &pages);
        Ok(())
    }

    fn note_code(&mut self, gpa: u64, len: u64, pages: &mut Vec<CodePage>) {
        self.cpu.mmu.note_code(gpa, len);
        if let Some(offset) = self.cpu.mmu.memory().offset_of(gpa) {
            pages.push(CodePage(offset / PAGE_SIZE));
        }
    }

    fn wrap_rip(&self, rip: u64) -> u64 {
        match self.cpu.mode {
            Mode::Long => rip,
            _ => rip & 0xffff_ffff,
        }
    }

    /// Drops blocks whose bytes were or will be overwritten.
    #[cold]
    fn drop_stale(&mut self) {
        for page in self.cpu.mmu.take_stale() {
            self.cache.drop_page(page);
            self.cpu.mmu.forget_code(page);
        }
    }

    /// Runs one instruction decoded for this once.
    #[cold]
    fn run_apart(&mut self) -> Result<Option<Exit>, VcpuError> {
        self.apart = false;
        let linear = self.linear_rip();
        let decoded = self.fetch_address(linear).and_then(|gpa| self.decode_one(gpa));
        let op = match decoded {
            Ok((decoded, _)) => decoded.op,
            Err(fault) => return Ok(self.deliver(fault)),
        };
        let rip = self.cpu.rip;
        self.cpu.rip = self.wrap_rip(rip.wrapping_add(u64::from(op.len)));
        self.cpu.bus.rewind();
        let ended = match (op.run)(&mut self.cpu, &op) {
            Ok(()) => Ended { retired: 1, stop: None },
            Err(stop) => Ended { retired: 0, stop: Some((stop, 0, op.len)) },
        };
        self.finish(rip, ended)
    }

    /// Books what retired and turns a stop into an exit, a delivery, or nothing.
    fn finish(&mut self, block_rip: u64, ended: Ended) -> Result<Option<Exit>, VcpuError> {
        self.cpu.retired += ended.retired;
        let Some((stop, offset, len)) = ended.stop else { return Ok(None) };
        let rip = self.wrap_rip(block_rip.wrapping_add(u64::from(offset)));
        match stop {
            Stop::Halted | Stop::TaskPriority => {
                self.cpu.retired += 1;
                self.after_one();
                Ok(Some(if stop == Stop::Halted { Exit::Halted } else { Exit::TaskPriority }))
            }
            Stop::Fault => {
                self.cpu.rip = rip;
                let fault = self.cpu.fault.take();
                let fault = fault.expect("a handler that stops with Fault has set it");
                Ok(self.deliver(fault))
            }
            Stop::Bus => {
                self.cpu.rip = rip;
                let waiting = self.cpu.bus.waiting();
                Ok(Some(waiting.expect("a handler that stops with Bus has an access waiting")))
            }
            Stop::CodeModified => {
                self.cpu.rip = rip;
                self.apart = true;
                Ok(None)
            }
            Stop::Shutdown => Ok(Some(Exit::Shutdown)),
            Stop::Unsupported => {
                self.cpu.rip = rip;
                Err(self.unsupported(len))
            }
        }
    }

    fn unsupported(&mut self, len: u8) -> VcpuError {
        let mut bytes = vec![0; usize::from(len)];
        let linear = self.linear_rip();
        let readable = self.cpu.as_processor(|cpu| cpu.read_bytes(linear, &mut bytes)).is_ok();
        let text: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        VcpuError::Emulation {
            bytes: if readable { text.join(" ") } else { "(unreadable)".to_owned() },
            rip: self.cpu.rip,
            mode: self.cpu.mode.name(),
            reason: "the software processor does not have it",
        }
    }

    /// What follows an instruction that ran alone because something waits on it.
    fn after_one(&mut self) {
        self.cpu.bus.clear();
        self.passed_breakpoint = false;
        self.cpu.interrupt_shadow = false;
        self.cpu.attention = true;
    }

    /// Whether the next instruction must run alone, to look at things before and after it.
    #[inline(always)]
    fn must_step(&self) -> bool {
        self.cpu.interrupt_shadow
            || self.cpu.system_flags & rflags::TF != 0
            || self.cpu.bus.in_progress()
            || !self.debug_points.is_empty()
    }

    /// Runs exactly one instruction with everything that may surround it.
    #[cold]
    fn step(&mut self) -> Result<Option<Exit>, VcpuError> {
        if !self.passed_breakpoint && self.at_breakpoint() {
            self.passed_breakpoint = true;
            return Ok(Some(Exit::Debug));
        }
        let traced = self.cpu.system_flags & rflags::TF != 0;
        let shadowed = self.cpu.interrupt_shadow;
        let before = self.cpu.retired;
        let watched = self.watched_values();
        let exit = self.run_block(1)?;
        if self.cpu.retired > before {
            let new_shadow = self.cpu.interrupt_shadow && !shadowed;
            self.after_one();
            self.cpu.interrupt_shadow = new_shadow;
            self.cpu.debug_trap |= traced && !self.cpu.debug_trap;
            if exit.is_none() && watched != self.watched_values() {
                return Ok(Some(Exit::Debug));
            }
        }
        Ok(exit)
    }

    fn at_breakpoint(&self) -> bool {
        let linear = self.linear_rip();
        self.debug_points.iter().any(|point| *point == DebugPoint::Execute(linear))
    }

    /// The watched bytes, to be compared after the instruction.
    fn watched_values(&mut self) -> Vec<Option<[u8; 8]>> {
        let points = self.debug_points.clone();
        let mut values = Vec::new();
        for point in points {
            if let DebugPoint::Write { address, len } | DebugPoint::Access { address, len } = point {
                values.push(self.peek(address, len));
            }
        }
        values
    }

    /// Reads without leaving a trace in the guest: only through pages already translated.
    fn peek(&self, address: u64, len: u8) -> Option<[u8; 8]> {
        self.cpu.mmu.peek(address, usize::from(len.min(8)))
    }

    /// Executes the block at RIP, at most `limit` instructions of it.
    #[inline(always)]
    fn run_block(&mut self, limit: u64) -> Result<Option<Exit>, VcpuError> {
        let linear = self.linear_rip();
        let gpa = match self.fetch_address(linear) {
            Ok(gpa) => gpa,
            Err(fault) => return Ok(self.deliver(fault)),
        };
        let key = Key { rip: self.cpu.rip, gpa, mode: self.cpu.mode };
        if self.cache.get(&key).is_none()
            && let Err(fault) = self.build_block(key)
        {
            return Ok(self.deliver(fault));
        }
        let Self { cpu, cache, .. } = self;
        let block = cache.get(&key).expect("a block that was just built is there");
        cpu.bus.rewind();
        let ended = execute(cpu, block, limit);
        let rip = block.rip;
        self.finish(rip, ended)
    }
}

/// Executes at most `limit` instructions of `block`, over and over while it jumps to itself.
#[inline(always)]
fn execute(cpu: &mut Cpu, block: &Block, limit: u64) -> Ended {
    let len = block.ops.len() as u64;
    if limit < len {
        return execute_part(cpu, block, limit as usize);
    }
    cpu.rip = block.next_rip;
    for (index, op) in block.ops.iter().enumerate() {
        if let Err(stop) = (op.run)(cpu, op) {
            return Ended { retired: index as u64, stop: Some((stop, op.offset, op.len)) };
        }
    }
    Ended { retired: len, stop: None }
}

#[cold]
fn execute_part(cpu: &mut Cpu, block: &Block, count: usize) -> Ended {
    for (index, op) in block.ops[..count].iter().enumerate() {
        // RIP is the next instruction while a handler runs.
        cpu.rip = block.rip.wrapping_add(u64::from(op.offset) + u64::from(op.len));
        if let Err(stop) = (op.run)(cpu, op) {
            return Ended { retired: index as u64, stop: Some((stop, op.offset, op.len)) };
        }
    }
    Ended { retired: count as u64, stop: None }
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
            if self.cpu.attention
                && let Some(exit) = self.service()?
            {
                return Ok(exit);
            }
            if self.cpu.mmu.has_stale() {
                self.drop_stale();
            }
            if self.cpu.retired >= until {
                return Ok(Exit::Reached);
            }
            if self.cpu.halted {
                return Ok(Exit::Halted);
            }
            if self.kicker.is_kicked() && !self.cpu.bus.in_progress() {
                self.kicker.take();
                return Ok(Exit::Kicked);
            }
            let exit = if self.apart {
                self.run_apart()?
            } else if self.must_step() {
                self.step()?
            } else {
                self.run_block(until - self.cpu.retired)?
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    fn complete_read(&mut self, value: u64) -> Result<(), VcpuError> {
        if self.cpu.bus.answer(value) { Ok(()) } else { Err(VcpuError::NothingToComplete) }
    }

    fn refuse_msr(&mut self) -> Result<(), VcpuError> {
        if self.cpu.bus.refuse() { Ok(()) } else { Err(VcpuError::NothingToComplete) }
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

    fn synchronise(&mut self) {
        self.cpu.mmu.flush_all();
        self.cache.clear();
        self.apart = false;
    }

    fn save(&self) -> CpuState {
        self.cpu.save()
    }

    fn restore(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        self.cpu.restore(state)?;
        self.window_wanted = false;
        self.passed_breakpoint = false;
        self.synchronise();
        Ok(())
    }

    fn set_debug_points(&mut self, points: &[DebugPoint]) {
        self.debug_points = points.iter().take(64).copied().collect();
    }

    fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }
}
