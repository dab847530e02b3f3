//! FNINIT, FNCLEX, FLDCW and FNSTCW, FNSTSW, and the stack of tags.

use super::state::{SUMMARY, X87State};
use crate::software::float::{Class, Format};

/// Tag of a full tag word.
const TAG_ZERO: u16 = 1;
const TAG_SPECIAL: u16 = 2;
const TAG_EMPTY: u16 = 3;

impl X87State {
    /// FNINIT: default control, no flags, all registers empty (their contents stay).
    pub fn fninit(&mut self) {
        *self = Self {
            registers: self.registers,
            ..Self::default()
        };
    }

    /// FNCLEX: clears the exception flags, SF, ES and B.
    pub fn fnclex(&mut self) {
        self.status &= !(SUMMARY | 0x7f);
    }

    /// FLDCW.
    pub fn fldcw(&mut self, control: u16) {
        self.set_control(control);
    }

    /// FNSTCW.
    pub fn fnstcw(&self) -> u16 {
        self.control
    }

    /// FNSTSW.
    pub fn fnstsw(&self) -> u16 {
        self.status_word()
    }

    /// The full tag word: two bits for each physical register, worked out from the contents.
    pub fn tag_word(&self) -> u16 {
        (0..8).rev().fold(0, |word, i| word << 2 | self.tag(i))
    }

    fn tag(&self, physical: usize) -> u16 {
        if self.occupied >> physical & 1 == 0 {
            return TAG_EMPTY;
        }
        let value = self.registers[physical].unpack();
        match value.class {
            Class::Zero => TAG_ZERO,
            Class::Finite if !value.denormal => 0,
            _ => TAG_SPECIAL,
        }
    }

    /// Sets which registers are in use from a full tag word.
    pub fn set_tag_word(&mut self, word: u16) {
        self.occupied = (0..8).fold(0, |occupied, i| {
            occupied | u8::from(word >> (2 * i) & 3 != TAG_EMPTY) << i
        });
    }
}
