//! One instruction at a time: where something has to be looked at before or after each, as under a
//! trap flag, in an interrupt's shadow, at a debugger's points, or on code that is written over.

use super::{SoftwareVcpu, Turn};
use crate::arch::x86_64::control::rflags;
use crate::exit::Exit;
use crate::vcpu::DebugPoint;

impl SoftwareVcpu {
    /// Whether the next instruction must run alone, to look at things before and after it.
    pub(super) fn must_step(&self) -> bool {
        self.apart
            || self.cpu.interrupt_shadow
            || self.cpu.system_flags & rflags::TF != 0
            || self.cpu.bus.in_progress()
            || !self.debug_points.is_empty()
    }

    /// Runs exactly one instruction with everything that may surround it.
    pub(super) fn step(&mut self) -> Turn {
        if !self.passed_breakpoint && self.at_breakpoint() {
            self.passed_breakpoint = true;
            return self.leave(Exit::Debug);
        }
        let traced = self.cpu.system_flags & rflags::TF != 0;
        let shadowed = std::mem::take(&mut self.cpu.interrupt_shadow);
        let before = self.cpu.retired;
        let watched = self.watched_values();
        let turn = if self.apart {
            self.run_apart()
        } else {
            self.run_block(1)
        };
        self.cpu.attention = true;
        if self.cpu.retired == before {
            // It did not retire; a fault's delivery ends the shadow, anything else keeps it.
            let waits = self.cpu.bus.waiting().is_some() || self.apart;
            self.cpu.interrupt_shadow |= shadowed && waits;
            return turn;
        }
        self.cpu.bus.clear();
        self.passed_breakpoint = false;
        self.cpu.debug_trap |= traced;
        if turn == Turn::Again && watched != self.watched_values() {
            return self.leave(Exit::Debug);
        }
        turn
    }

    /// Runs one instruction decoded for this once.
    fn run_apart(&mut self) -> Turn {
        self.apart = false;
        let (rip, linear) = (self.cpu.rip, self.cpu.linear_rip());
        let decoded = self
            .cpu
            .fetch_address(linear)
            .and_then(|gpa| self.cpu.decode_one(gpa));
        let op = match decoded {
            Ok((decoded, _)) => decoded.op,
            Err(stop) => return self.finish(rip, stop),
        };
        self.cpu.rip = self.cpu.wrap_rip(rip.wrapping_add(u64::from(op.len)));
        self.cpu.bus.rewind();
        match (op.run)(&mut self.cpu, &op) {
            Ok(()) => {
                self.cpu.retired += 1;
                Turn::Again
            }
            Err(stop) => {
                self.cpu.attribute_fault(op.segment);
                self.finish(rip, stop)
            }
        }
    }

    fn at_breakpoint(&self) -> bool {
        let linear = self.cpu.linear_rip();
        self.debug_points.contains(&DebugPoint::Execute(linear))
    }

    /// The watched bytes, to be compared after the instruction.
    fn watched_values(&self) -> Vec<Option<[u8; 8]>> {
        let watched = self.debug_points.iter().filter_map(|point| match point {
            DebugPoint::Write { address, len } => Some((*address, *len)),
            DebugPoint::Execute(_) => None,
        });
        watched
            .map(|(address, len)| self.cpu.mmu.peek(address, usize::from(len.min(8))))
            .collect()
    }
}
