//! Port I/O. Spec: Intel SDM vol. 2, IN OUT; vol. 1 §20.5 for who may.

use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::width::Width;

impl Cpu {
    /// #GP unless the privilege level or the task's permission map allows `size` ports from
    /// `port` on.
    ///
    /// # Errors
    /// That fault, or one of the map's memory.
    pub fn check_port(&mut self, port: u16, size: u16) -> Outcome {
        if self.mode == Mode::Real || self.cpl <= self.iopl() {
            return Ok(());
        }
        let limit = u64::from(self.tr.limit);
        if limit < 0x67 {
            return Err(self.general_protection(0));
        }
        let base = self.tr.base;
        let map: u16 = self.as_processor(|cpu| cpu.load(base.wrapping_add(0x66)))?;
        let at = u64::from(map) + u64::from(port / 8);
        if at + 1 > limit {
            return Err(self.general_protection(0));
        }
        let bits: u16 = self.as_processor(|cpu| cpu.load(base.wrapping_add(at)))?;
        let wanted = ((1u16 << size) - 1) << (port % 8);
        if bits & wanted == 0 {
            Ok(())
        } else {
            Err(self.general_protection(0))
        }
    }
}

fn port(cpu: &Cpu, op: &Op, from_dx: bool) -> u16 {
    if from_dx {
        cpu.regs[reg::RDX] as u16
    } else {
        op.imm as u16 & 0xff
    }
}

/// IN to the accumulator.
pub extern "C" fn input<W: Width, const FROM_DX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Stop> {
    let port = port(cpu, op, FROM_DX);
    cpu.check_port(port, W::BYTES as u16)?;
    let value = cpu.port_read(port, W::BYTES as u8)?;
    W::set(cpu, reg::RAX as u8, W::from_u64(u64::from(value)));
    Ok(())
}

/// OUT from the accumulator.
pub extern "C" fn output<W: Width, const FROM_DX: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Stop> {
    let port = port(cpu, op, FROM_DX);
    cpu.check_port(port, W::BYTES as u16)?;
    let value = W::get(cpu, reg::RAX as u8).zero_extend() as u32;
    cpu.port_write(port, W::BYTES as u8, value)
}
