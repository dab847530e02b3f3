//! F2XM1, FYL2X, FYL2XP1, FSIN, FCOS, FSINCOS, FPTAN, FPATAN on the register stack.

use super::state::{C1, C2, X87State};
use crate::software::float::{F80, FloatEnv, Format, Unpacked, transcendental as function};

impl X87State {
    /// F2XM1. Exceptions: stack underflow, IE, DE, UE, PE.
    pub fn f2xm1(&mut self) {
        self.unary(function::power_minus_one);
    }

    /// FYL2X: `ST(1) = ST(1) * log2(ST(0))`, then pops. Exceptions: stack underflow, all six.
    pub fn fyl2x(&mut self) {
        self.binary(function::log2_times);
    }

    /// FYL2XP1: `ST(1) = ST(1) * log2(ST(0) + 1)`, then pops.
    ///
    /// Exceptions: stack underflow, IE, DE, OE, UE, PE.
    pub fn fyl2xp1(&mut self) {
        self.binary(function::log2_plus_one_times);
    }

    /// FPATAN: `ST(1) = atan2(ST(1), ST(0))`, then pops. Exceptions: stack underflow, IE, DE, UE,
    /// PE.
    pub fn fpatan(&mut self) {
        self.binary(|x, y, env| function::arctangent(y, x, env));
    }

    /// FSIN; C2 if the operand is out of range. Exceptions: stack underflow, IE, DE, UE, PE.
    pub fn fsin(&mut self) {
        self.trigonometric(function::sine);
    }

    /// FCOS; C2 if the operand is out of range. Exceptions: stack underflow, IE, DE, PE.
    pub fn fcos(&mut self) {
        self.trigonometric(function::cosine);
    }

    /// FSINCOS: the sine replaces ST(0), the cosine is pushed; C2 if out of range.
    ///
    /// Exceptions: stack overflow and underflow, IE, DE, UE, PE.
    pub fn fsincos(&mut self) {
        self.trigonometric_pair(|operand, env| {
            let pair = function::sine_cosine(operand, env)?;
            Some((pair.sine, pair.cosine))
        });
    }

    /// FPTAN: the tangent replaces ST(0), one is pushed; C2 if out of range.
    ///
    /// Exceptions: stack overflow and underflow, IE, DE, UE, PE.
    pub fn fptan(&mut self) {
        self.trigonometric_pair(|operand, env| {
            let tangent = function::tangent(operand, env)?;
            // A NaN is pushed in place of the one.
            let nan =
                operand.class == crate::software::float::Class::Infinity || !operand.is_number();
            Some((tangent, if nan { tangent } else { F80::ONE }))
        });
    }

    fn binary(&mut self, compute: impl FnOnce(Unpacked, Unpacked, &mut FloatEnv) -> F80) {
        let result = if self.is_empty(0) || self.is_empty(1) {
            self.stack_underflow().then_some(F80::INDEFINITE)
        } else {
            let mut env = self.env();
            let result = compute(self.st(0).unpack(), self.st(1).unpack(), &mut env);
            self.signal(&env).then_some(result)
        };
        if let Some(result) = result {
            self.set_st(1, result);
            self.pop();
        }
    }

    fn trigonometric(&mut self, compute: impl FnOnce(Unpacked, &mut FloatEnv) -> Option<F80>) {
        self.set_code(C2, false);
        if self.is_empty(0) {
            return self.underflow_of_destination(0);
        }
        let mut env = self.env();
        let Some(result) = compute(self.st(0).unpack(), &mut env) else {
            return self.out_of_range();
        };
        if self.signal(&env) {
            self.set_st(0, result);
        }
    }

    fn trigonometric_pair(
        &mut self,
        compute: impl FnOnce(Unpacked, &mut FloatEnv) -> Option<(F80, F80)>,
    ) {
        self.set_code(C2, false);
        let masked = if self.is_empty(0) {
            Some(self.stack_underflow())
        } else if !self.is_empty(7) {
            Some(self.stack_overflow())
        } else {
            None
        };
        if let Some(masked) = masked {
            if masked {
                self.set_st(0, F80::INDEFINITE);
                self.push(F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.env();
        let Some((replaced, pushed)) = compute(self.st(0).unpack(), &mut env) else {
            return self.out_of_range();
        };
        if self.signal(&env) {
            self.set_st(0, replaced);
            self.push(pushed);
        }
    }

    /// The operand is too large to reduce: it stays, and C2 tells.
    fn out_of_range(&mut self) {
        self.set_code(C1, false);
        self.set_code(C2, true);
    }
}
