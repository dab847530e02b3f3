//! Segment registers and descriptor tables. Spec: Intel SDM vol. 3A §3.4.5, §3.5, §6.8.
//!
//! Call gates and task gates are refused with #GP: no 64-bit system uses them.

use super::cpu::{Cpu, Mode};
use super::exception::Fault;
use super::op::{Outcome, Stop};
use crate::arch::x86_64::exception;
use crate::arch::x86_64::segment::{CS, SS, access};
use crate::state::Segment;

/// The eight bytes of a descriptor, or the low eight of a 64-bit one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(pub u64);

/// What an interrupt or trap gate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateKind(u8);

impl GateKind {
    /// Clears IF on entry.
    pub fn is_interrupt(self) -> bool {
        self.0 & 1 == 0
    }

    /// Pushes 32-bit words.
    pub fn is_32(self) -> bool {
        self.0 & 8 != 0
    }
}

impl Descriptor {
    /// Access rights in the form that [`Segment`] has them.
    pub fn access(self) -> u32 {
        let high = (self.0 >> 40) as u32;
        high & 0xf0ff
    }

    /// Privilege level.
    pub fn dpl(self) -> u8 {
        (self.access() >> access::DPL_SHIFT & 3) as u8
    }

    /// Present.
    pub fn is_present(self) -> bool {
        self.access() & access::PRESENT != 0
    }

    /// Code segment.
    pub fn is_code(self) -> bool {
        self.access() & (access::NOT_SYSTEM | access::CODE) == access::NOT_SYSTEM | access::CODE
    }

    /// Conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.access() & access::CONFORMING != 0
    }

    /// 64-bit code segment.
    pub fn is_long(self) -> bool {
        self.access() & (access::LONG | access::DEFAULT_32) == access::LONG
    }

    /// Data segment that can be written.
    pub fn is_writable_data(self) -> bool {
        let kind = access::NOT_SYSTEM | access::CODE | access::WRITABLE;
        self.access() & kind == access::NOT_SYSTEM | access::WRITABLE
    }

    /// Data segment, or code that can be read.
    pub fn is_readable(self) -> bool {
        self.access() & access::NOT_SYSTEM != 0
            && (self.access() & access::CODE == 0 || self.access() & access::WRITABLE != 0)
    }

    /// Type of a system descriptor.
    pub fn system_type(self) -> Option<u32> {
        (self.access() & access::NOT_SYSTEM == 0).then_some(self.access() & access::TYPE)
    }

    /// Interrupt or trap gate; in long mode only the 64-bit ones are.
    pub fn interrupt_gate(self, long: bool) -> Option<GateKind> {
        match self.system_type()? {
            kind @ (0xe | 0xf) => Some(GateKind(kind as u8)),
            kind @ (6 | 7) if !long => Some(GateKind(kind as u8)),
            _ => None,
        }
    }

    /// Selector in a gate.
    pub fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Offset in a gate, the low 32 bits.
    pub fn gate_offset(self) -> u64 {
        (self.0 & 0xffff) | (self.0 >> 32 & 0xffff_0000)
    }

    /// Offset in a 64-bit gate whose second half is `high`.
    pub fn gate_offset_long(self, high: u64) -> u64 {
        self.gate_offset() | high << 32
    }

    /// The segment register that `selector` loads through this descriptor.
    pub fn segment(self, selector: u16) -> Segment {
        let base = (self.0 >> 16 & 0xff_ffff) | (self.0 >> 32 & 0xff00_0000);
        let raw = ((self.0 & 0xffff) | (self.0 >> 32 & 0xf_0000)) as u32;
        let limit = if self.access() & access::GRANULAR != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        };
        Segment {
            selector,
            base,
            limit,
            access: self.access() | access::ACCESSED,
        }
    }
}

impl Segment {
    /// What a null selector loads.
    pub fn unusable() -> Self {
        Self {
            selector: 0,
            base: 0,
            limit: 0,
            access: access::UNUSABLE,
        }
    }

    /// A flat segment as SYSCALL and its relatives load it.
    pub fn flat(selector: u16, kind: u32, dpl: u32) -> Self {
        let access = access::PRESENT
            | access::NOT_SYSTEM
            | access::GRANULAR
            | access::ACCESSED
            | access::WRITABLE
            | kind
            | dpl << access::DPL_SHIFT;
        Self {
            selector,
            base: 0,
            limit: u32::MAX,
            access,
        }
    }
}

impl Cpu {
    fn descriptor_address(&mut self, selector: u16, vector: u8, size: u64) -> Result<u64, Stop> {
        let (base, limit) = if selector & 4 != 0 {
            (
                self.ldtr.base,
                if self.ldtr.access & access::UNUSABLE != 0 {
                    0
                } else {
                    u64::from(self.ldtr.limit)
                },
            )
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        };
        let offset = u64::from(selector & !7);
        if offset + size - 1 > limit {
            return Err(self.raise(Fault::with_code(vector, u32::from(selector & !3))));
        }
        Ok(base.wrapping_add(offset))
    }

    /// Reads the descriptor that `selector` names; `vector` faults when the table is too short.
    ///
    /// # Errors
    /// That fault, or one of the table's memory.
    pub fn read_descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Stop> {
        let at = self.descriptor_address(selector, vector, 8)?;
        Ok(Descriptor(self.as_processor(|cpu| cpu.load(at))?))
    }

    /// Reads a system descriptor, 16 bytes in long mode, with its base address.
    fn read_system(&mut self, selector: u16) -> Result<(Descriptor, u64, u64), Stop> {
        let size = if self.long_mode() { 16 } else { 8 };
        let at = self.descriptor_address(selector, exception::GP, size)?;
        let low = Descriptor(self.as_processor(|cpu| cpu.load(at))?);
        let mut base = low.segment(selector).base;
        if size == 16 {
            let high: u32 = self.as_processor(|cpu| cpu.load(at.wrapping_add(8)))?;
            base |= u64::from(high) << 32;
        }
        Ok((low, base, at))
    }

    fn mark_accessed(&mut self, selector: u16, descriptor: Descriptor) -> Outcome {
        if descriptor.access() & access::ACCESSED != 0 {
            return Ok(());
        }
        let at = self.descriptor_address(selector, exception::GP, 8)?;
        self.as_processor(|cpu| cpu.store(at, descriptor.0 | 1 << 40))
    }

    /// Loads a segment register as real mode does.
    pub fn load_real_segment(&mut self, index: usize, selector: u16) {
        let base = u64::from(selector) << 4;
        let mut segment = Segment {
            selector,
            base,
            ..self.segments[index]
        };
        if index == CS {
            // A far transfer ends what is left of the reset state's high base.
            segment.access &= !(access::LONG | access::DEFAULT_32);
        }
        self.set_segment(index, segment);
    }

    /// Loads ES, SS, DS, FS or GS (MOV, POP, LDS and relatives).
    ///
    /// # Errors
    /// #GP, #SS or #NP as the manual has them.
    pub fn load_segment(&mut self, index: usize, selector: u16) -> Outcome {
        if self.mode == Mode::Real {
            self.load_real_segment(index, selector);
            return Ok(());
        }
        if selector & !3 == 0 {
            return self.load_null(index, selector);
        }
        let descriptor = self.read_descriptor(selector, exception::GP)?;
        let rpl = (selector & 3) as u8;
        let allowed = if index == SS {
            descriptor.is_writable_data() && rpl == self.cpl && descriptor.dpl() == self.cpl
        } else {
            let conforming = descriptor.is_code() && descriptor.is_conforming();
            descriptor.is_readable() && (conforming || descriptor.dpl() >= self.cpl.max(rpl))
        };
        if !allowed {
            return Err(self.general_protection(u32::from(selector & !3)));
        }
        if !descriptor.is_present() {
            let vector = if index == SS {
                exception::SS
            } else {
                exception::NP
            };
            return Err(self.raise(Fault::with_code(vector, u32::from(selector & !3))));
        }
        self.mark_accessed(selector, descriptor)?;
        self.set_segment(index, descriptor.segment(selector));
        Ok(())
    }

    fn load_null(&mut self, index: usize, selector: u16) -> Outcome {
        let allowed_stack =
            self.mode == Mode::Long && self.cpl < 3 && selector & 3 == u16::from(self.cpl);
        if index == SS && !allowed_stack {
            return Err(self.general_protection(0));
        }
        // As Intel processors do, a null selector clears the base.
        self.set_segment(
            index,
            Segment {
                selector,
                ..Segment::unusable()
            },
        );
        Ok(())
    }

    /// The code segment of a far jump, call or return to `selector` at privilege `cpl`.
    ///
    /// # Errors
    /// #GP or #NP.
    pub fn code_segment(&mut self, selector: u16, cpl: u8) -> Result<Segment, Stop> {
        let error = u32::from(selector & !3);
        if selector & !3 == 0 {
            return Err(self.general_protection(0));
        }
        let descriptor = self.read_descriptor(selector, exception::GP)?;
        let allowed = descriptor.is_code()
            && if descriptor.is_conforming() {
                descriptor.dpl() <= cpl
            } else {
                descriptor.dpl() == cpl
            };
        let both = access::LONG | access::DEFAULT_32;
        if !allowed || (self.long_mode() && descriptor.access() & both == both) {
            return Err(self.general_protection(error));
        }
        if !descriptor.is_present() {
            return Err(self.raise(Fault::with_code(exception::NP, error)));
        }
        self.mark_accessed(selector, descriptor)?;
        Ok(descriptor.segment(selector & !3 | u16::from(cpl)))
    }

    /// The stack segment of a return to ring `cpl`.
    ///
    /// # Errors
    /// #GP or #SS.
    pub fn return_stack(&mut self, selector: u16, cpl: u8, to_long: bool) -> Result<Segment, Stop> {
        if selector & !3 == 0 {
            if to_long && cpl != 3 && selector & 3 == u16::from(cpl) {
                return Ok(Segment {
                    selector,
                    ..Segment::unusable()
                });
            }
            return Err(self.general_protection(0));
        }
        let error = u32::from(selector & !3);
        let descriptor = self.read_descriptor(selector, exception::GP)?;
        if !descriptor.is_writable_data()
            || descriptor.dpl() != cpl
            || selector & 3 != u16::from(cpl)
        {
            return Err(self.general_protection(error));
        }
        if !descriptor.is_present() {
            return Err(self.raise(Fault::with_code(exception::SS, error)));
        }
        self.mark_accessed(selector, descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// A return to an outer ring takes away the data segments that it may not keep.
    pub fn drop_inner_segments(&mut self) {
        for index in [0, 3, 4, 5] {
            let Segment { access, .. } = self.segments[index];
            let conforming_code = access & access::CODE != 0 && access & access::CONFORMING != 0;
            let dpl = (access >> access::DPL_SHIFT & 3) as u8;
            if access & access::UNUSABLE == 0 && !conforming_code && dpl < self.cpl {
                self.set_segment(index, Segment::unusable());
            }
        }
    }

    /// LLDT.
    ///
    /// # Errors
    /// #GP or #NP.
    pub fn load_ldt(&mut self, selector: u16) -> Outcome {
        if selector & !3 == 0 {
            self.ldtr = Segment {
                selector,
                ..Segment::unusable()
            };
            return Ok(());
        }
        let error = u32::from(selector & !3);
        if selector & 4 != 0 {
            return Err(self.general_protection(error));
        }
        let (descriptor, base, _) = self.read_system(selector)?;
        if descriptor.system_type() != Some(2) {
            return Err(self.general_protection(error));
        }
        if !descriptor.is_present() {
            return Err(self.raise(Fault::with_code(exception::NP, error)));
        }
        self.ldtr = Segment {
            base,
            ..descriptor.segment(selector)
        };
        Ok(())
    }

    /// LTR: the task state must be available, and becomes busy.
    ///
    /// # Errors
    /// #GP or #NP.
    pub fn load_task(&mut self, selector: u16) -> Outcome {
        let error = u32::from(selector & !3);
        if selector & !3 == 0 || selector & 4 != 0 {
            return Err(self.general_protection(error));
        }
        let (descriptor, base, at) = self.read_system(selector)?;
        let available = match descriptor.system_type() {
            Some(9) => true,
            Some(1) => !self.long_mode(),
            _ => false,
        };
        if !available {
            return Err(self.general_protection(error));
        }
        if !descriptor.is_present() {
            return Err(self.raise(Fault::with_code(exception::NP, error)));
        }
        let busy = Descriptor(descriptor.0 | 2 << 40);
        self.as_processor(|cpu| cpu.store(at, busy.0))?;
        self.tr = Segment {
            base,
            ..busy.segment(selector)
        };
        Ok(())
    }

    /// Access rights and limit of `selector` for LAR, LSL, VERR and VERW, when visible.
    ///
    /// # Errors
    /// Only faults of the table's memory.
    pub fn visible_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Stop> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let descriptor = match self.read_descriptor(selector, exception::GP) {
            Ok(descriptor) => descriptor,
            Err(Stop::Fault)
                if self
                    .fault
                    .is_some_and(|fault| fault.vector == exception::GP) =>
            {
                self.fault = None;
                return Ok(None);
            }
            Err(stop) => return Err(stop),
        };
        let rpl = (selector & 3) as u8;
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        let visible = conforming || descriptor.dpl() >= self.cpl.max(rpl);
        Ok(visible.then_some(descriptor))
    }
}
