//! Faults, traps and interrupts: what they carry, and how they are delivered.
//!
//! Spec: Intel SDM vol. 3A §7.8 to §7.14; double faults by table 7-5. Task gates are refused
//! with #GP, as 64-bit mode does; virtual-8086 mode is not modelled.

use super::cpu::{Cpu, Mode};
use super::op::{Outcome, Stop, reg};
use super::segment::{Descriptor, GateKind};
use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::exception;
use crate::arch::x86_64::segment::{CS, SS};
use crate::state::Segment;

/// Bit of an error code: the event came from outside the program.
const EXTERNAL: u32 = 1;
/// Bit of an error code: the index is into the interrupt descriptor table.
const IN_IDT: u32 = 2;

/// A fault or trap that waits for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub code: Option<u32>,
    /// New CR2 of a page fault.
    pub address: Option<u64>,
    /// The address was not canonical: #SS when it was one of the stack segment.
    pub is_non_canonical: bool,
}

impl Fault {
    /// Without an error code.
    pub fn plain(vector: u8) -> Self {
        Self {
            vector,
            code: None,
            address: None,
            is_non_canonical: false,
        }
    }

    /// With an error code.
    pub fn with_code(vector: u8, code: u32) -> Self {
        Self {
            vector,
            code: Some(code),
            address: None,
            is_non_canonical: false,
        }
    }

    /// A page fault at `address`.
    pub fn page(code: u32, address: u64) -> Self {
        let address = Some(address);
        Self {
            vector: exception::PF,
            code: Some(code),
            address,
            is_non_canonical: false,
        }
    }

    /// An access to an address that is not canonical.
    pub fn non_canonical() -> Self {
        Self {
            is_non_canonical: true,
            ..Self::with_code(exception::GP, 0)
        }
    }

    /// Faults of which two in a row make a double fault.
    fn is_contributory(self) -> bool {
        matches!(
            self.vector,
            exception::DE | exception::TS | exception::NP | exception::SS | exception::GP
        )
    }
}

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A fault or trap of the processor.
    Exception,
    /// INT n, INT3 or INTO: the gate's privilege level is checked.
    Software,
    /// An interrupt from outside.
    External,
}

/// An event on its way through the descriptor tables.
#[derive(Debug, Clone, Copy)]
struct Event {
    vector: u8,
    code: Option<u32>,
    source: Source,
}

impl Cpu {
    /// Makes the #GP of a non-canonical address the #SS that it is in segment `segment`.
    #[cold]
    pub fn attribute_fault(&mut self, segment: u8) {
        if let Some(fault) = &mut self.fault
            && fault.is_non_canonical
            && usize::from(segment) == SS
        {
            fault.vector = exception::SS;
        }
    }

    /// Delivers a fault, turning further faults into double faults and a shutdown.
    ///
    /// # Errors
    /// [`Stop::Shutdown`] after a triple fault, or a device access under a stack.
    pub fn deliver_fault(&mut self, fault: Fault) -> Outcome {
        if let Some(address) = fault.address {
            self.cr2 = address;
        }
        self.deliver_chain(
            Event {
                vector: fault.vector,
                code: fault.code,
                source: Source::Exception,
            },
            fault,
        )
    }

    /// Delivers an interrupt from outside. RIP is the instruction that did not start.
    ///
    /// # Errors
    /// As [`Cpu::deliver_fault`].
    pub fn deliver_interrupt(&mut self, vector: u8) -> Outcome {
        self.halted = false;
        let event = Event {
            vector,
            code: None,
            source: Source::External,
        };
        // Faults during delivery are first faults: an interrupt is benign.
        self.deliver_chain(event, Fault::plain(vector.max(32)))
    }

    /// INT n, INT3, INTO, with RIP already behind the instruction.
    ///
    /// # Errors
    /// A fault, which is the instruction's own.
    pub fn software_interrupt(&mut self, vector: u8) -> Outcome {
        self.deliver_once(Event {
            vector,
            code: None,
            source: Source::Software,
        })
    }

    fn deliver_chain(&mut self, mut event: Event, mut first: Fault) -> Outcome {
        loop {
            let stop = match self.deliver_once(event) {
                Ok(()) => return Ok(()),
                Err(stop) => stop,
            };
            if stop != Stop::Fault {
                return Err(stop);
            }
            let second = self
                .fault
                .take()
                .expect("a handler that stops with Fault has set it");
            if first.vector == exception::DF {
                return Err(Stop::Shutdown);
            }
            if let Some(address) = second.address {
                self.cr2 = address;
            }
            let double = (first.is_contributory() && second.is_contributory())
                || (first.vector == exception::PF
                    && (second.is_contributory() || second.vector == exception::PF));
            first = if double {
                Fault::with_code(exception::DF, 0)
            } else {
                second
            };
            event = Event {
                vector: first.vector,
                code: first.code,
                source: Source::Exception,
            };
        }
    }

    fn deliver_once(&mut self, event: Event) -> Outcome {
        self.attention = true;
        if self.mode == Mode::Real {
            self.deliver_real(event)
        } else if self.long_mode() {
            self.deliver_long(event)
        } else {
            self.deliver_protected(event)
        }
    }

    fn gate_error(event: Event) -> u32 {
        let external = if event.source == Source::Software {
            0
        } else {
            EXTERNAL
        };
        u32::from(event.vector) << 3 | IN_IDT | external
    }

    /// The code segment behind a gate, checked against the current privilege level.
    fn gate_code(&mut self, selector: u16, external: u32) -> Result<(Segment, u8), Stop> {
        let error = u32::from(selector & !3) | external;
        if selector & !3 == 0 {
            return Err(self.general_protection(external));
        }
        let descriptor = self.read_descriptor(selector, exception::GP)?;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl {
            return Err(self.general_protection(error));
        }
        if self.long_mode() && !descriptor.is_long() {
            return Err(self.general_protection(error));
        }
        if !descriptor.is_present() {
            return Err(self.raise(Fault::with_code(exception::NP, error)));
        }
        let cpl = if descriptor.is_conforming() {
            self.cpl
        } else {
            descriptor.dpl()
        };
        Ok((descriptor.segment(selector & !3 | u16::from(cpl)), cpl))
    }

    fn check_gate(&mut self, gate: &Descriptor, event: Event) -> Result<GateKind, Stop> {
        let error = Self::gate_error(event);
        let Some(kind) = gate.interrupt_gate(self.long_mode()) else {
            return Err(self.general_protection(error));
        };
        if event.source == Source::Software && gate.dpl() < self.cpl {
            return Err(self.general_protection(error & !EXTERNAL));
        }
        if !gate.is_present() {
            return Err(self.raise(Fault::with_code(exception::NP, error)));
        }
        Ok(kind)
    }

    fn deliver_long(&mut self, event: Event) -> Outcome {
        let offset = u64::from(event.vector) * 16;
        if offset + 15 > u64::from(self.idtr.limit) {
            return Err(self.general_protection(Self::gate_error(event)));
        }
        let at = self.idtr.base.wrapping_add(offset);
        let (low, high) = self.as_processor(|cpu| {
            Ok::<_, Stop>((cpu.load::<u64>(at)?, cpu.load::<u64>(at.wrapping_add(8))?))
        })?;
        let gate = Descriptor(low);
        let kind = self.check_gate(&gate, event)?;
        let external = u32::from(event.source != Source::Software);
        let (code, cpl) = self.gate_code(gate.gate_selector(), external)?;
        let ist = (low >> 32 & 7) as u8;
        let switch = cpl < self.cpl;
        let stack = if ist != 0 {
            self.task_stack_64(0x24 + u64::from(ist - 1) * 8)?
        } else if switch {
            self.task_stack_64(4 + u64::from(cpl) * 8)?
        } else {
            self.regs[reg::RSP]
        };
        if !self.is_canonical(stack) {
            return Err(self.raise(Fault::with_code(exception::SS, external)));
        }
        let frame = [
            self.rip,
            u64::from(self.segments[CS].selector),
            self.rflags(),
            self.regs[reg::RSP],
            u64::from(self.segments[SS].selector),
        ];
        let top = self.push_frame_64(stack & !15, &frame, event.code, cpl)?;
        if switch {
            let null = Segment {
                selector: u16::from(cpl),
                ..Segment::unusable()
            };
            self.set_segment(SS, null);
        }
        self.enter_handler(code, cpl, kind, gate.gate_offset_long(high));
        self.regs[reg::RSP] = top;
        Ok(())
    }

    /// Writes the frame downwards from `top` with the rights of the new ring.
    fn push_frame_64(
        &mut self,
        mut top: u64,
        frame: &[u64; 5],
        code: Option<u32>,
        cpl: u8,
    ) -> Result<u64, Stop> {
        self.as_ring(cpl, |cpu| {
            for &word in frame.iter().rev() {
                top = top.wrapping_sub(8);
                cpu.store(top, word)?;
            }
            if let Some(code) = code {
                top = top.wrapping_sub(8);
                cpu.store(top, u64::from(code))?;
            }
            Ok(top)
        })
    }

    fn task_stack_64(&mut self, offset: u64) -> Result<u64, Stop> {
        if offset + 7 > u64::from(self.tr.limit) {
            let error = u32::from(self.tr.selector & !3);
            return Err(self.raise(Fault::with_code(exception::TS, error)));
        }
        let at = self.tr.base.wrapping_add(offset);
        self.as_processor(|cpu| cpu.load(at))
    }

    fn enter_handler(&mut self, code: Segment, cpl: u8, kind: GateKind, offset: u64) {
        self.cpl = cpl;
        self.set_segment(CS, code);
        let mut flags = self.system_flags & !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if kind.is_interrupt() {
            flags &= !rflags::IF;
        }
        self.system_flags = flags;
        self.rip = offset;
        self.refresh_privilege();
    }

    fn deliver_protected(&mut self, event: Event) -> Outcome {
        let offset = u64::from(event.vector) * 8;
        if offset + 7 > u64::from(self.idtr.limit) {
            return Err(self.general_protection(Self::gate_error(event)));
        }
        let at = self.idtr.base.wrapping_add(offset);
        let gate = Descriptor(self.as_processor(|cpu| cpu.load(at))?);
        let kind = self.check_gate(&gate, event)?;
        let external = u32::from(event.source != Source::Software);
        let (code, cpl) = self.gate_code(gate.gate_selector(), external)?;
        let old = (self.segments[SS], self.regs[reg::RSP]);
        let mut words = vec![
            self.rflags() as u32,
            u32::from(self.segments[CS].selector),
            self.rip as u32,
        ];
        words.extend(event.code);
        if cpl < self.cpl {
            let (stack, top) = self.task_stack_32(cpl)?;
            words.splice(0..0, [u32::from(old.0.selector), old.1 as u32]);
            self.push_frame_legacy(stack, top, &words, kind, cpl)?;
        } else {
            self.push_frame_legacy(old.0, old.1, &words, kind, cpl)?;
        }
        let mask = if kind.is_32() {
            u64::from(u32::MAX)
        } else {
            0xffff
        };
        self.enter_handler(code, cpl, kind, gate.gate_offset() & mask);
        Ok(())
    }

    fn push_frame_legacy(
        &mut self,
        stack: Segment,
        top: u64,
        words: &[u32],
        kind: GateKind,
        cpl: u8,
    ) -> Outcome {
        let (old_stack, old_top) = (self.segments[SS], self.regs[reg::RSP]);
        self.set_segment(SS, stack);
        self.regs[reg::RSP] = top;
        let pushed = self.as_ring(cpl, |cpu| {
            words.iter().try_for_each(|&word| {
                if kind.is_32() {
                    cpu.push(word)
                } else {
                    cpu.push(word as u16)
                }
            })
        });
        if pushed.is_err() {
            self.set_segment(SS, old_stack);
            self.regs[reg::RSP] = old_top;
        }
        pushed
    }

    /// SS:ESP of ring `cpl` from the 32-bit task state.
    fn task_stack_32(&mut self, cpl: u8) -> Result<(Segment, u64), Stop> {
        let error = u32::from(self.tr.selector & !3);
        let offset = 4 + u64::from(cpl) * 8;
        if offset + 5 > u64::from(self.tr.limit) {
            return Err(self.raise(Fault::with_code(exception::TS, error)));
        }
        let at = self.tr.base.wrapping_add(offset);
        let (esp, ss) = self.as_processor(|cpu| {
            Ok::<_, Stop>((cpu.load::<u32>(at)?, cpu.load::<u16>(at.wrapping_add(4))?))
        })?;
        let descriptor = self.read_descriptor(ss, exception::TS)?;
        let fits = descriptor.is_writable_data() && descriptor.dpl() == cpl;
        if !fits || ss & 3 != u16::from(cpl) {
            return Err(self.raise(Fault::with_code(exception::TS, u32::from(ss & !3))));
        }
        if !descriptor.is_present() {
            return Err(self.raise(Fault::with_code(exception::SS, u32::from(ss & !3))));
        }
        Ok((descriptor.segment(ss), u64::from(esp)))
    }

    fn deliver_real(&mut self, event: Event) -> Outcome {
        let offset = u64::from(event.vector) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return Err(self.general_protection(Self::gate_error(event)));
        }
        let target: u32 = self.load(self.idtr.base.wrapping_add(offset))?;
        let before = self.regs[reg::RSP];
        let words = [
            self.rflags() as u16,
            self.segments[CS].selector,
            self.rip as u16,
        ];
        if let Err(stop) = words.iter().try_for_each(|&word| self.push(word)) {
            self.regs[reg::RSP] = before;
            return Err(stop);
        }
        self.system_flags &= !(rflags::IF | rflags::TF | rflags::AC);
        self.load_real_segment(CS, (target >> 16) as u16);
        self.rip = u64::from(target & 0xffff);
        Ok(())
    }
}
