//! Places where a debugger stops the guest, in the processor's four debug registers.
//!
//! A breakpoint stops before its instruction; to go on, that instruction is run with RFLAGS.RF,
//! which holds breakpoints back for one. While places are set, the guest's own debug registers
//! do not act. Spec: Intel SDM vol. 3B §18.2; KVM API 4.87.

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};
use kvm_ioctls::VcpuFd;

use super::vcpu::failed;
use crate::arch::x86_64::control::rflags;
use crate::vcpu::{DebugPoint, VcpuError};

/// Debug registers that hold places.
const MOST: usize = 4;
/// DR7: bits that are always one, and exact matching, which old processors need.
const DR7_FIXED: u64 = 0x700;
/// Where the kinds of places begin in DR7.
const KINDS_AT: usize = 16;
/// A place's kind: writes.
const KIND_WRITE: u64 = 1;

/// The places that are set.
#[derive(Debug, Default)]
pub(super) struct DebugPoints {
    points: Vec<DebugPoint>,
    /// The guest stopped at one and has not gone on.
    stands: bool,
}

/// The registers for `points`; `None` if there are too many, or one of a kind that there is not.
fn registers(points: &[DebugPoint]) -> Option<[u64; 8]> {
    if points.len() > MOST {
        return None;
    }
    let mut registers = [0; 8];
    registers[7] = DR7_FIXED;
    for (index, point) in points.iter().enumerate() {
        let (address, kind, length) = match *point {
            DebugPoint::Execute(address) => (address, 0, 0),
            DebugPoint::Write { address, len } => {
                let length = match len {
                    1 => 0,
                    2 => 1,
                    4 => 3,
                    8 => 2,
                    _ => return None,
                };
                if !address.is_multiple_of(u64::from(len)) {
                    return None;
                }
                (address, KIND_WRITE, length)
            }
        };
        registers[index] = address;
        registers[7] |= 3 << (2 * index) | (kind | length << 2) << (KINDS_AT + 4 * index);
    }
    Some(registers)
}

impl DebugPoints {
    /// Replaces the places.
    pub fn set(&mut self, vcpu: &VcpuFd, points: &[DebugPoint]) -> Result<(), VcpuError> {
        let Some(debugreg) = registers(points) else {
            return Err(VcpuError::DebugPoints {
                count: points.len(),
                most: MOST,
            });
        };
        let mut wanted = kvm_guest_debug::default();
        if !points.is_empty() {
            wanted.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
            wanted.arch.debugreg = debugreg;
        }
        vcpu.set_guest_debug(&wanted)
            .map_err(failed("stop the guest for a debugger"))?;
        self.points = points.to_vec();
        Ok(())
    }

    /// The guest stopped at a place.
    pub fn hit(&mut self) {
        self.stands = true;
    }

    /// The guest stands elsewhere now.
    pub fn forget_hit(&mut self) {
        self.stands = false;
    }

    /// Lets the guest pass the place that it stands at.
    pub fn pass(&mut self, vcpu: &VcpuFd) -> Result<(), VcpuError> {
        if !std::mem::take(&mut self.stands) {
            return Ok(());
        }
        let general = vcpu.get_regs();
        let mut general = general.map_err(failed("tell the registers"))?;
        general.rflags |= rflags::RF;
        vcpu.set_regs(&general)
            .map_err(failed("take the registers"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_debug_registers() {
        let write = |address, len| DebugPoint::Write { address, len };
        let points = [
            DebugPoint::Execute(0x1001),
            write(0x2000, 8),
            write(0x3004, 4),
        ];
        let [first, second, third, _, _, _, _, dr7] = registers(&points).unwrap();
        assert_eq!((first, second, third), (0x1001, 0x2000, 0x3004));
        assert_eq!(dr7, 0x700 | 0b11_11_11 | 0b1001 << 20 | 0b1101 << 24);
        assert_eq!(registers(&[points[0]; 5]), None);
        assert_eq!(registers(&[write(0x2001, 2)]), None);
        assert_eq!(registers(&[write(0x2000, 3)]), None);
    }
}
