//! Instructions that move registers: FLD ST(i), FST(P) ST(i), FXCH, FCMOVcc, FFREE, FINCSTP,
//! FDECSTP, FCHS, FABS.

use super::state::{C1, X87State};
use crate::software::float::F80;

impl X87State {
    /// Pushes a value, or handles the stack overflow.
    pub(super) fn push_checked(&mut self, value: F80) {
        if !self.is_empty(7) {
            if self.stack_overflow() {
                self.push(F80::INDEFINITE);
            }
            return;
        }
        self.set_code(C1, false);
        self.push(value);
    }

    /// FLD ST(i).
    pub fn fld_register(&mut self, index: u8) {
        if !self.is_empty(index) {
            return self.push_checked(self.st(index));
        }
        if self.stack_underflow() {
            self.push(F80::INDEFINITE);
        }
    }

    /// FST ST(i), FSTP ST(i).
    pub fn fst_register(&mut self, index: u8, pop: bool) {
        let mut value = self.st(0);
        if self.is_empty(0) {
            if !self.stack_underflow() {
                return;
            }
            value = F80::INDEFINITE;
        } else {
            self.set_code(C1, false);
        }
        self.set_st(index, value);
        if pop {
            self.pop();
        }
    }

    /// FXCH ST(i). Empty registers are filled with the indefinite when that is masked.
    pub fn fxch(&mut self, index: u8) {
        if self.is_empty(0) || self.is_empty(index) {
            if !self.stack_underflow() {
                return;
            }
            for register in [0, index] {
                if self.is_empty(register) {
                    self.set_st(register, F80::INDEFINITE);
                }
            }
        } else {
            self.set_code(C1, false);
        }
        let (first, second) = (self.physical(0), self.physical(index));
        self.registers.swap(first, second);
    }

    /// FCMOVcc ST(0), ST(i), with the condition evaluated by the caller.
    pub fn fcmov(&mut self, index: u8, condition: bool) {
        if self.is_empty(0) || self.is_empty(index) {
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        if condition {
            self.set_st(0, self.st(index));
        }
    }

    /// FFREE ST(i); with `pop`, the undocumented FFREEP.
    pub fn ffree(&mut self, index: u8, pop: bool) {
        self.set_code(C1, false);
        self.free(index);
        if pop {
            self.pop();
        }
    }

    /// FINCSTP.
    pub fn fincstp(&mut self) {
        self.set_code(C1, false);
        self.top = (self.top + 1) & 7;
    }

    /// FDECSTP.
    pub fn fdecstp(&mut self) {
        self.set_code(C1, false);
        self.top = self.top.wrapping_sub(1) & 7;
    }

    /// FCHS.
    pub fn fchs(&mut self) {
        self.change_sign(|sign_exponent| sign_exponent ^ 0x8000);
    }

    /// FABS.
    pub fn fabs(&mut self) {
        self.change_sign(|sign_exponent| sign_exponent & 0x7fff);
    }

    fn change_sign(&mut self, change: impl Fn(u16) -> u16) {
        if self.is_empty(0) {
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        self.set_code(C1, false);
        let physical = self.physical(0);
        let register = &mut self.registers[physical];
        register.sign_exponent = change(register.sign_exponent);
    }
}
