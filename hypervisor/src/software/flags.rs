//! Arithmetic flags, computed when they are asked for.
//!
//! Every arithmetic instruction leaves three things: its sign-extended `result`, the word `aux`
//! (`a ^ b ^ result`, sign-extended, whose bit *n* is the carry into bit *n*), and the carry out.
//! From these follow
//!
//! ```text
//! ZF  result == 0                    AF  aux bit 4
//! SF  result bit 63 ^ fix.SF         OF  aux bit 63 ^ CF
//! PF  parity(result low byte) ^ fix.PF
//! ```
//!
//! `fix` lets POPF, SAHF and the like set combinations that no result has (ZF with SF, say).
//! Spec: Intel SDM vol. 1 §3.4.3.1.

use crate::arch::x86_64::control::rflags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};

use super::width::Width;

const AUX_AF: u64 = 1 << 4;
const SIGN: u64 = 1 << 63;

/// The arithmetic flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    pub(super) result: u64,
    pub(super) aux: u64,
    /// Bit 0: CF. Bits 2 and 7: exclusive-or into PF and SF.
    pub(super) bits: u8,
}

impl Flags {
    /// Flags of an addition or subtraction: operands `a`, `b`, result and carry (borrow) out.
    #[inline(always)]
    pub fn set_arithmetic<W: Width>(&mut self, a: W, b: W, result: W, carry: bool) {
        self.result = result.sign_extend();
        self.aux =
            W::from_u64(a.zero_extend() ^ b.zero_extend() ^ result.zero_extend()).sign_extend();
        self.bits = u8::from(carry);
    }

    /// Flags of a logical operation: CF, OF and AF clear.
    #[inline(always)]
    pub fn set_logic<W: Width>(&mut self, result: W) {
        self.result = result.sign_extend();
        self.aux = 0;
        self.bits = 0;
    }

    /// Flags of an increment or decrement: CF stays.
    #[inline(always)]
    pub fn set_step<W: Width>(&mut self, a: W, result: W, overflow: bool) {
        let carry = self.bits & 1;
        self.result = result.sign_extend();
        let sign = if overflow == (carry == 0) { SIGN } else { 0 };
        let aux = (a.zero_extend() ^ 1 ^ result.zero_extend()) & AUX_AF;
        self.aux = aux | sign;
        self.bits = carry;
    }

    /// Flags of a shift or multiplication: result, carry and overflow; AF clear.
    #[inline(always)]
    pub fn set_shift<W: Width>(&mut self, result: W, carry: bool, overflow: bool) {
        self.result = result.sign_extend();
        self.aux = if carry != overflow { SIGN } else { 0 };
        self.bits = u8::from(carry);
    }

    /// Carry.
    #[inline(always)]
    pub fn carry(&self) -> bool {
        self.bits & 1 != 0
    }

    /// Zero.
    #[inline(always)]
    pub fn zero(&self) -> bool {
        self.result == 0
    }

    /// Sign.
    #[inline(always)]
    pub fn sign(&self) -> bool {
        (self.result >> 63) as u8 != (self.bits >> 7)
    }

    /// Signed overflow.
    #[inline(always)]
    pub fn overflow(&self) -> bool {
        (self.aux >> 63) as u8 != (self.bits & 1)
    }

    /// Parity of the low result byte: true when the number of ones is even.
    #[inline(always)]
    pub fn parity(&self) -> bool {
        ((self.result as u8).count_ones() & 1 == 0) != (self.bits & PF as u8 != 0)
    }

    /// Carry out of bit 3.
    #[inline(always)]
    pub fn adjust(&self) -> bool {
        self.aux & AUX_AF != 0
    }

    /// Changes the carry and nothing else.
    #[inline(always)]
    pub fn set_carry(&mut self, carry: bool) {
        if carry != self.carry() {
            self.bits ^= 1;
            self.aux ^= SIGN;
        }
    }

    /// Changes carry and overflow, as the rotates do.
    #[inline(always)]
    pub fn set_carry_overflow(&mut self, carry: bool, overflow: bool) {
        self.bits = (self.bits & !1) | u8::from(carry);
        self.aux = (self.aux & !SIGN) | if carry != overflow { SIGN } else { 0 };
    }

    /// Changes ZF and nothing else.
    pub fn set_zero(&mut self, zero: bool) {
        let all = self.to_bits();
        self.set_bits(if zero { all | ZF } else { all & !ZF });
    }

    /// The flags as RFLAGS has them; all other bits are zero.
    pub fn to_bits(self) -> u64 {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        flag(self.carry(), CF)
            | flag(self.parity(), PF)
            | flag(self.adjust(), AF)
            | flag(self.zero(), ZF)
            | flag(self.sign(), SF)
            | flag(self.overflow(), OF)
    }

    /// Takes the arithmetic flags of `rflags` over.
    pub fn set_bits(&mut self, rflags: u64) {
        let rflags = rflags & ARITHMETIC;
        let has = |bit: u64| rflags & bit != 0;
        self.result = u64::from(!has(ZF));
        // The stand-in result is 0 (even parity) or 1 (odd parity), never negative.
        let parity = has(ZF);
        self.bits = u8::from(has(CF))
            | if parity == has(PF) { 0 } else { PF as u8 }
            | if has(SF) { SF as u8 } else { 0 };
        self.aux = if has(AF) { AUX_AF } else { 0 } | if has(CF) == has(OF) { 0 } else { SIGN };
    }

    /// Condition `code` of Jcc, SETcc and CMOVcc, 0 to 15. Spec: Intel SDM vol. 1 app. B.
    #[inline(always)]
    pub fn condition(&self, code: u8) -> bool {
        let met = match code >> 1 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        met != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives_set_and_get() {
        for bits in 0..1u64 << 12 {
            let wanted = bits & ARITHMETIC;
            let mut flags = Flags::default();
            flags.set_bits(bits);
            assert_eq!(flags.to_bits(), wanted, "{bits:#x}");
            for carry in [false, true] {
                let mut changed = flags;
                changed.set_carry(carry);
                let expected = if carry { wanted | CF } else { wanted & !CF };
                assert_eq!(changed.to_bits(), expected, "{bits:#x}");
            }
        }
    }
}
