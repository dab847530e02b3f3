//! FADD, FMUL, FSUB(R), FDIV(R) with their memory, integer and pop forms; FSQRT, FRNDINT, FSCALE,
//! FXTRACT, FPREM, FPREM1.

use super::state::{C0, C1, C2, C3, X87State};
use crate::software::float::remainder::Progress;
use crate::software::float::{
    F80, FloatEnv, Format, Unpacked, arithmetic, convert, remainder, scale,
};

/// A basic operation `destination OP source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// FADD, FIADD.
    Add,
    /// FMUL, FIMUL.
    Multiply,
    /// FSUB, FISUB: destination minus source.
    Subtract,
    /// FSUBR, FISUBR: source minus destination.
    SubtractReversed,
    /// FDIV, FIDIV: destination by source.
    Divide,
    /// FDIVR, FIDIVR: source by destination.
    DivideReversed,
}

impl Operation {
    fn apply(self, destination: Unpacked, source: Unpacked, env: &mut FloatEnv) -> F80 {
        match self {
            Self::Add => arithmetic::add(destination, source, env),
            Self::Multiply => arithmetic::multiply(destination, source, env),
            Self::Subtract => arithmetic::subtract(destination, source, env),
            Self::SubtractReversed => arithmetic::subtract(source, destination, env),
            Self::Divide => arithmetic::divide(destination, source, env),
            Self::DivideReversed => arithmetic::divide(source, destination, env),
        }
    }
}

/// A memory operand of arithmetic and comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// m32fp, as bits.
    Single(u32),
    /// m64fp, as bits.
    Double(u64),
    /// m16int.
    Word(i16),
    /// m32int.
    Doubleword(i32),
}

impl Operand {
    pub(super) fn unpack(self) -> Unpacked {
        match self {
            Self::Single(bits) => bits.unpack(),
            Self::Double(bits) => bits.unpack(),
            Self::Word(value) => Unpacked::from_i64(i64::from(value)),
            Self::Doubleword(value) => Unpacked::from_i64(i64::from(value)),
        }
    }
}

impl X87State {
    /// `ST(0) = ST(0) OP memory`. Exceptions: stack underflow, IE, DE, ZE, OE, UE, PE.
    pub fn arithmetic_memory(&mut self, operation: Operation, operand: Operand) {
        self.unary(|value, env| operation.apply(value, operand.unpack(), env));
    }

    /// `ST(destination) = ST(destination) OP ST(source)`, then a pop if asked.
    ///
    /// Exceptions: stack underflow, IE, DE, ZE, OE, UE, PE.
    pub fn arithmetic_register(
        &mut self,
        operation: Operation,
        destination: u8,
        source: u8,
        pop: bool,
    ) {
        let result = if self.is_empty(destination) || self.is_empty(source) {
            self.stack_underflow().then_some(F80::INDEFINITE)
        } else {
            let mut env = self.env();
            let (a, b) = (self.st(destination).unpack(), self.st(source).unpack());
            let result = operation.apply(a, b, &mut env);
            self.signal(&env).then_some(result)
        };
        if let Some(result) = result {
            self.set_st(destination, result);
            if pop {
                self.pop();
            }
        }
    }

    /// FSQRT. Exceptions: stack underflow, IE, DE, PE.
    pub fn fsqrt(&mut self) {
        self.unary(arithmetic::square_root);
    }

    /// FRNDINT. Exceptions: stack underflow, IE, DE, PE.
    pub fn frndint(&mut self) {
        self.unary(|value, env| {
            env.note_denormal(value);
            convert::round_to_integral(value, env.rounding, env)
        });
    }

    /// FSCALE. Exceptions: stack underflow, IE, DE, OE, UE, PE.
    pub fn fscale(&mut self) {
        if self.is_empty(1) {
            return self.underflow_of_destination(0);
        }
        let factor = self.st(1).unpack();
        self.unary(|value, env| scale::scale(value, factor, env));
    }

    /// FXTRACT. Exceptions: stack overflow and underflow, IE, DE, ZE.
    pub fn fxtract(&mut self) {
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
        let (exponent, significand) = scale::extract(self.st(0).unpack(), &mut env);
        if self.signal(&env) {
            self.set_st(0, exponent);
            self.push(significand);
        }
    }

    /// FPREM: one step of the remainder with truncated quotient.
    ///
    /// C2 says that the reduction is not complete; else C0, C3, C1 are bits 2, 1, 0 of the
    /// quotient. Exceptions: stack underflow, IE, DE, UE.
    pub fn fprem(&mut self) {
        self.partial_remainder(false);
    }

    /// FPREM1: one step of the IEEE remainder. Codes and exceptions as FPREM.
    pub fn fprem1(&mut self) {
        self.partial_remainder(true);
    }

    fn partial_remainder(&mut self, nearest: bool) {
        self.set_code(C2, false);
        if self.is_empty(0) || self.is_empty(1) {
            return self.underflow_of_destination(0);
        }
        let mut env = self.env();
        let (a, b) = (self.st(0).unpack(), self.st(1).unpack());
        let step = remainder::remainder(a, b, nearest, &mut env);
        if !self.signal(&env) {
            return;
        }
        match step.progress {
            Progress::None => {}
            Progress::Partial => {
                self.set_code(C0 | C1 | C3, false);
                self.set_code(C2, true);
            }
            Progress::Complete(quotient) => {
                self.set_code(C0, quotient & 4 != 0);
                self.set_code(C3, quotient & 2 != 0);
                self.set_code(C1, quotient & 1 != 0);
            }
        }
        self.set_st(0, step.value);
    }

    /// Replaces ST(0) by a function of it.
    pub(super) fn unary(&mut self, compute: impl FnOnce(Unpacked, &mut FloatEnv) -> F80) {
        if self.is_empty(0) {
            return self.underflow_of_destination(0);
        }
        let mut env = self.env();
        let result = compute(self.st(0).unpack(), &mut env);
        if self.signal(&env) {
            self.set_st(0, result);
        }
    }

    /// A stack underflow whose masked response is the indefinite in ST(`index`).
    pub(super) fn underflow_of_destination(&mut self, index: u8) {
        if self.stack_underflow() {
            self.set_st(index, F80::INDEFINITE);
        }
    }
}
