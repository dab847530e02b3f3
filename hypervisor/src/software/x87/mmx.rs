//! MM0 to MM7, which are the significands of the physical x87 registers.
//!
//! Every MMX instruction but EMMS sets TOP to zero and marks all registers in use; writing one
//! also sets its exponent to all ones. Spec: Intel SDM vol. 1, section 9.5.

use super::state::X87State;
use crate::software::float::F80;

impl X87State {
    /// The effect that every MMX instruction has on the x87; call it once the instruction commits.
    #[inline]
    pub fn enter_mmx(&mut self) {
        self.top = 0;
        self.occupied = 0xff;
    }

    /// MM`index`.
    #[inline]
    pub fn mmx(&self, index: u8) -> u64 {
        self.registers[usize::from(index & 7)].significand
    }

    /// Writes MM`index`.
    #[inline]
    pub fn set_mmx(&mut self, index: u8, value: u64) {
        let register = F80 {
            significand: value,
            sign_exponent: 0xffff,
        };
        self.registers[usize::from(index & 7)] = register;
    }

    /// EMMS: marks all registers empty.
    #[inline]
    pub fn emms(&mut self) {
        self.occupied = 0;
        self.top = 0;
    }
}
