//! FCOM, FUCOM, FICOM, FTST, FCOMI, FUCOMI and their pop forms; FXAM.

use super::arithmetic::Operand;
use super::state::{C0, C1, C2, C3, X87State};
use crate::software::float::compare::{Relation, compare};
use crate::software::float::{Class, Format, Unpacked};

/// Which NaNs raise IE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// FCOM, FICOM, FTST, FCOMI: every NaN.
    Ordered,
    /// FUCOM, FUCOMI: signaling NaNs and unsupported formats only.
    Unordered,
}

/// ZF, PF and CF as FCOMI and FUCOMI write them; they clear OF, SF and AF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareFlags {
    /// ZF: equal or unordered.
    pub zero: bool,
    /// PF: unordered.
    pub parity: bool,
    /// CF: less or unordered.
    pub carry: bool,
}

impl X87State {
    /// FCOM, FUCOM, FCOMP, FUCOMP, FCOMPP, FUCOMPP with a register, then `pops` pops.
    ///
    /// Exceptions: stack underflow, IE, DE.
    pub fn fcom_register(&mut self, kind: Comparison, index: u8, pops: u8) {
        let operand = (!self.is_empty(index)).then(|| self.st(index).unpack());
        self.fcom(kind, operand, pops);
    }

    /// FCOM, FICOM and FCOMP, FICOMP with a memory operand. Exceptions: stack underflow, IE, DE.
    pub fn fcom_memory(&mut self, operand: Operand, pop: bool) {
        self.fcom(Comparison::Ordered, Some(operand.unpack()), u8::from(pop));
    }

    /// FTST: compares with zero. Exceptions: stack underflow, IE, DE.
    pub fn ftst(&mut self) {
        self.fcom(Comparison::Ordered, Some(Unpacked::zero(false)), 0);
    }

    /// FCOMI, FUCOMI and their pop forms: the flags to write, unmasked exception or not.
    ///
    /// Exceptions: stack underflow, IE, DE.
    pub fn fcomi(&mut self, kind: Comparison, index: u8, pop: bool) -> CompareFlags {
        let operand = (!self.is_empty(index)).then(|| self.st(index).unpack());
        let c1 = self.status & C1;
        let (relation, delivered) = self.relation(kind, operand);
        if operand.is_some() && !self.is_empty(0) {
            // Unlike the other comparisons, these leave C1 alone but for a stack underflow.
            self.status |= c1;
        }
        if delivered && pop {
            self.pop();
        }
        let unordered = relation == Relation::Unordered;
        CompareFlags {
            zero: unordered || relation == Relation::Equal,
            parity: unordered,
            carry: unordered || relation == Relation::Less,
        }
    }

    /// FXAM: the class of ST(0) in C3, C2, C0 and its sign in C1, empty or not.
    pub fn fxam(&mut self) {
        let value = self.st(0);
        let codes = match value.unpack() {
            _ if self.is_empty(0) => C3 | C0,
            operand if operand.denormal => C3 | C2,
            operand => match operand.class {
                Class::Unsupported => 0,
                Class::QuietNan | Class::SignalingNan => C0,
                Class::Finite => C2,
                Class::Infinity => C2 | C0,
                Class::Zero => C3,
            },
        };
        self.status = self.status & !(C0 | C1 | C2 | C3) | codes;
        self.set_code(C1, value.sign());
    }

    /// Compares into the condition codes, which an unmasked exception does not prevent.
    fn fcom(&mut self, kind: Comparison, operand: Option<Unpacked>, pops: u8) {
        let (relation, delivered) = self.relation(kind, operand);
        self.set_codes(relation);
        if delivered {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    /// Compares ST(0) with an operand (`None`: its register is empty).
    ///
    /// The flag is false if an unmasked IE or DE keeps the stack from being popped.
    fn relation(&mut self, kind: Comparison, operand: Option<Unpacked>) -> (Relation, bool) {
        let Some(operand) = operand.filter(|_| !self.is_empty(0)) else {
            return (Relation::Unordered, self.stack_underflow());
        };
        let mut env = self.env();
        let signaling = kind == Comparison::Ordered;
        let relation = compare(self.st(0).unpack(), operand, signaling, &mut env);
        (relation, self.signal(&env))
    }

    fn set_codes(&mut self, relation: Relation) {
        let codes = match relation {
            Relation::Greater => 0,
            Relation::Less => C0,
            Relation::Equal => C3,
            Relation::Unordered => C0 | C2 | C3,
        };
        self.status = self.status & !(C0 | C2 | C3) | codes;
    }
}
