//! The architectural state of the software CPU, and the small operations every handler uses.

use std::sync::Arc;

use super::bus::Bus;
use super::exception::Fault;
use super::flags::Flags;
use super::fpu::Fpu;
use super::mmu::fast::Scalar;
use super::mmu::tlb::Context;
use super::mmu::{Control, Mmu};
use super::op::{FLAT, LEGACY_16, Op, Outcome, Stop, WRAP_32, reg};
use super::translate::Shared;
use super::width::{REGISTER_MASK, Width};
use crate::arch::x86_64::control::{cr0, efer, rflags};
use crate::arch::x86_64::exception;
use crate::arch::x86_64::segment::{CS, FS, GS, SS, access};
use crate::cpu_model;
use crate::memory::GuestMemory;
use crate::state::{DescriptorTable, Msrs, Segment};
use crate::vcpu::TscClock;

/// How instructions are decoded and addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real,
    /// Protected or compatibility mode, 16-bit code.
    Legacy16,
    /// Protected or compatibility mode, 32-bit code.
    Legacy32,
    /// 64-bit mode.
    Long,
}

impl Mode {
    /// Default operand and address bits as the decoder wants them.
    pub fn bitness(self) -> u32 {
        match self {
            Self::Real | Self::Legacy16 => 16,
            Self::Legacy32 => 32,
            Self::Long => 64,
        }
    }

    /// Name for error texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "real mode",
            Self::Legacy16 => "16-bit protected mode",
            Self::Legacy32 => "32-bit protected mode",
            Self::Long => "64-bit mode",
        }
    }
}

/// One processor.
#[derive(Debug)]
pub struct Cpu {
    /// General registers 0 to 15; 16 is always zero; 17 and 18 mirror the FS and GS bases.
    pub regs: [u64; 32],
    /// Next instruction: set to the end of a block while the block runs.
    pub rip: u64,
    /// Arithmetic flags.
    pub flags: Flags,
    /// All other bits of RFLAGS.
    pub system_flags: u64,
    /// Current mode.
    pub mode: Mode,
    /// Current privilege level.
    pub cpl: u8,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8.
    pub cr8: u8,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// Model-specific registers.
    pub msrs: Msrs,
    /// Floating point and SIMD.
    pub fpu: Fpu,
    /// Memory management.
    pub mmu: Mmu,
    /// The fault of the instruction that stopped with [`Stop::Fault`].
    pub fault: Option<Fault>,
    /// Accesses that the caller answers.
    pub bus: Bus,
    /// Instructions retired before the running block.
    pub retired: u64,
    /// What the time-stamp counter follows.
    pub tsc: TscClock,
    /// Its frequency, in kHz.
    pub tsc_khz: u32,
    /// Interrupts wait for one more instruction.
    pub interrupt_shadow: bool,
    /// HLT retired.
    pub halted: bool,
    /// Injected interrupt.
    pub pending_interrupt: Option<u8>,
    /// A non-maskable interrupt waits.
    pub pending_nmi: bool,
    /// Non-maskable interrupts wait for IRET.
    pub nmi_blocked: bool,
    /// A single-step trap waits.
    pub debug_trap: bool,
    /// The run loop must look at flags and events before the next block.
    pub attention: bool,
    /// What translated code shares with the run loop.
    pub shared: Shared,
}

impl Cpu {
    /// A processor whose registers are all zero; [`super::vcpu::SoftwareVcpu`] restores the
    /// reset state into it.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            regs: [0; 32],
            rip: 0,
            flags: Flags::default(),
            system_flags: rflags::RESERVED_ONE,
            mode: Mode::Real,
            cpl: 0,
            segments: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            debug: [0; 6],
            msrs: Msrs::default(),
            fpu: Fpu::default(),
            mmu: Mmu::new(memory),
            fault: None,
            bus: Bus::default(),
            retired: 0,
            tsc: TscClock::default(),
            tsc_khz: cpu_model::DEFAULT_TSC_KHZ,
            interrupt_shadow: false,
            halted: false,
            pending_interrupt: None,
            pending_nmi: false,
            nmi_blocked: false,
            debug_trap: false,
            attention: false,
            shared: Shared::default(),
        }
    }

    /// Notes a fault for the run loop to deliver.
    #[cold]
    pub fn raise(&mut self, fault: Fault) -> Stop {
        self.fault = Some(fault);
        Stop::Fault
    }

    /// #GP with error code `code`.
    #[cold]
    pub fn general_protection(&mut self, code: u32) -> Stop {
        self.raise(Fault::with_code(exception::GP, code))
    }

    /// #UD.
    #[cold]
    pub fn undefined(&mut self) -> Stop {
        self.raise(Fault::plain(exception::UD))
    }

    /// #GP(0) unless in ring 0.
    pub fn require_ring_0(&mut self) -> Outcome {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(self.general_protection(0))
        }
    }

    /// RFLAGS as a whole.
    pub fn rflags(&self) -> u64 {
        self.system_flags | self.flags.to_bits()
    }

    /// Replaces RFLAGS as a whole; the run loop looks at the result before the next block.
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.set_bits(value);
        let defined = rflags::WRITABLE | rflags::VM | rflags::VIF | rflags::VIP;
        self.system_flags = (value & defined & !rflags::ARITHMETIC) | rflags::RESERVED_ONE;
        self.attention = true;
        self.refresh_privilege();
    }

    /// I/O privilege level.
    pub fn iopl(&self) -> u8 {
        (self.system_flags >> 12 & 3) as u8
    }

    /// Long mode is active.
    pub fn long_mode(&self) -> bool {
        self.msrs.efer & efer::LMA != 0
    }

    /// Recomputes what depends on CS, CR0 and EFER.
    pub fn refresh_mode(&mut self) {
        let code = self.segments[CS].access;
        self.mode = if self.cr0 & cr0::PE == 0 {
            Mode::Real
        } else if self.long_mode() && code & access::LONG != 0 {
            Mode::Long
        } else if code & access::DEFAULT_32 != 0 {
            Mode::Legacy32
        } else {
            Mode::Legacy16
        };
        self.refresh_privilege();
    }

    /// Recomputes the rights of data accesses.
    pub fn refresh_privilege(&mut self) {
        self.mmu.set_privilege(self.cpl, self.system_flags);
    }

    /// Hands the paging bits to the MMU.
    pub fn refresh_paging(&mut self) {
        let control = Control::new(self.cr0, self.cr3, self.cr4, self.msrs.efer);
        self.mmu.set_control(control);
        self.refresh_privilege();
    }

    /// Replaces a segment register with its hidden part.
    pub fn set_segment(&mut self, index: usize, segment: Segment) {
        self.segments[index] = segment;
        match index {
            FS => self.regs[super::op::FS_BASE as usize] = segment.base,
            GS => self.regs[super::op::GS_BASE as usize] = segment.base,
            CS => self.refresh_mode(),
            _ => {}
        }
    }

    /// Replaces the base of FS or GS.
    pub fn set_segment_base(&mut self, index: usize, base: u64) {
        let segment = Segment {
            base,
            ..self.segments[index]
        };
        self.set_segment(index, segment);
    }

    /// Runs `access` with the rights of the processor itself.
    pub fn as_processor<R>(&mut self, access: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.mmu.context();
        let implicit = self.mmu.implicit_context();
        self.mmu.select(implicit);
        let result = access(self);
        self.mmu.select(before);
        result
    }

    /// Runs `access` with the rights of ring `cpl`.
    pub fn as_ring<R>(&mut self, cpl: u8, access: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.mmu.context();
        let context = if cpl == 3 {
            Context::User
        } else {
            self.mmu.implicit_context()
        };
        self.mmu.select(context);
        let result = access(self);
        self.mmu.select(before);
        result
    }

    /// Linear address of the memory operand, `size` bytes of which are used.
    ///
    /// # Errors
    /// #GP or #SS where a legacy segment does not allow the access.
    #[inline(always)]
    pub fn linear(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Stop> {
        let sum = op.sum(self);
        if op.addressing == FLAT {
            Ok(sum.wrapping_add(self.regs[(op.segment_base & REGISTER_MASK) as usize]))
        } else {
            self.linear_wrapped(op, sum, size, write)
        }
    }

    #[cold]
    fn linear_wrapped(&mut self, op: &Op, sum: u64, size: u64, write: bool) -> Result<u64, Stop> {
        match op.addressing {
            WRAP_32 => {
                let base = self.regs[(op.segment_base & REGISTER_MASK) as usize];
                Ok(u64::from(sum as u32).wrapping_add(base))
            }
            LEGACY_16 => self.legacy_linear(op.segment, sum & 0xffff, size, write),
            _ => self.legacy_linear(op.segment, u64::from(sum as u32), size, write),
        }
    }

    /// Linear address of `offset` in a segment of a legacy mode.
    ///
    /// # Errors
    /// #SS(0) for the stack segment, #GP(0) for others.
    pub fn legacy_linear(
        &mut self,
        segment: u8,
        offset: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Stop> {
        let index = usize::from(segment) % 6;
        let Segment {
            base,
            limit,
            access,
            ..
        } = self.segments[index];
        let is_code = access & access::CODE != 0;
        let protected = self.mode != Mode::Real;
        let last = offset + size - 1;
        let expand_down = !is_code && access & access::CONFORMING != 0;
        let inside = if expand_down {
            let top = if access & access::DEFAULT_32 != 0 {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > u64::from(limit) && last <= top
        } else {
            last <= u64::from(limit)
        };
        let forbidden = protected
            && (access & access::UNUSABLE != 0
                || if is_code {
                    write || access & access::WRITABLE == 0
                } else {
                    write && access & access::WRITABLE == 0
                });
        if inside && !forbidden {
            return Ok(u64::from(base.wrapping_add(offset) as u32));
        }
        let vector = if index == SS {
            exception::SS
        } else {
            exception::GP
        };
        Err(self.raise(Fault::with_code(vector, 0)))
    }

    /// Reads the memory operand.
    ///
    /// # Errors
    /// As [`Cpu::load`].
    #[inline(always)]
    pub fn load_operand<T: Scalar>(&mut self, op: &Op) -> Result<T, Stop> {
        let linear = self.linear(op, T::SIZE, false)?;
        self.load(linear)
    }

    /// Writes the memory operand.
    ///
    /// # Errors
    /// As [`Cpu::store`].
    #[inline(always)]
    pub fn store_operand<T: Scalar>(&mut self, op: &Op, value: T) -> Outcome {
        let linear = self.linear(op, T::SIZE, true)?;
        self.store(linear, value)
    }

    /// The stack pointer's usable bits in the current mode.
    #[inline]
    pub fn stack_mask(&self) -> u64 {
        if self.mode == Mode::Long {
            u64::MAX
        } else if self.segments[SS].access & access::DEFAULT_32 != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Replaces the usable bits of the stack pointer.
    #[inline]
    pub fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.stack_mask();
        let rsp = &mut self.regs[reg::RSP];
        *rsp = if mask == 0xffff {
            (*rsp & !mask) | (value & mask)
        } else {
            value & mask
        };
    }

    /// Linear address of stack offset `offset`.
    ///
    /// # Errors
    /// #SS(0) outside the stack segment of a legacy mode.
    #[inline]
    pub fn stack_linear(&mut self, offset: u64, size: u64, write: bool) -> Result<u64, Stop> {
        if self.mode == Mode::Long {
            Ok(offset)
        } else {
            let mask = self.stack_mask();
            self.legacy_linear(SS as u8, offset & mask, size, write)
        }
    }

    /// Pushes a value of the operand's width.
    ///
    /// # Errors
    /// As [`Cpu::store`]; the stack pointer is then unchanged.
    #[inline(always)]
    pub fn push<W: Width>(&mut self, value: W) -> Outcome {
        let top = self.regs[reg::RSP].wrapping_sub(W::BYTES);
        if self.mode == Mode::Long {
            self.store(top, value)
                .inspect_err(|_| self.attribute_fault(SS as u8))?;
            self.regs[reg::RSP] = top;
            return Ok(());
        }
        let linear = self.stack_linear(top, W::BYTES, true)?;
        self.store(linear, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Reads the value at the top of the stack plus `skip` bytes, without popping.
    ///
    /// # Errors
    /// As [`Cpu::load`].
    #[inline(always)]
    pub fn peek<W: Width>(&mut self, skip: u64) -> Result<W, Stop> {
        let at = self.regs[reg::RSP].wrapping_add(skip);
        if self.mode == Mode::Long {
            return self
                .load(at)
                .inspect_err(|_| self.attribute_fault(SS as u8));
        }
        let linear = self.stack_linear(at, W::BYTES, false)?;
        self.load(linear)
    }

    /// Takes `bytes` off the stack.
    #[inline(always)]
    pub fn drop_stack(&mut self, bytes: u64) {
        let top = self.regs[reg::RSP].wrapping_add(bytes);
        self.set_stack_pointer(top);
    }

    /// Time-stamp counter at the running instruction, which must be alone in its block.
    pub fn time_stamp(&self) -> u64 {
        let ns = self.tsc.ns_at(self.retired);
        cpu_model::ticks_at(ns, self.tsc_khz).wrapping_add(self.msrs.tsc_adjust)
    }
}
