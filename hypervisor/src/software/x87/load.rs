//! Loads: FLD of each memory format, FILD, FBLD, and the constants.

use super::state::X87State;
use crate::software::float::{F80, Format, RoundingMode, Unpacked, bcd, convert};

/// The constants of FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// FLD1: one.
    One,
    /// FLDL2T: the binary logarithm of ten.
    Log2Of10,
    /// FLDL2E: the binary logarithm of e.
    Log2OfE,
    /// FLDPI: pi.
    Pi,
    /// FLDLG2: the decimal logarithm of two.
    Log10Of2,
    /// FLDLN2: the natural logarithm of two.
    LnOf2,
    /// FLDZ: positive zero.
    Zero,
}

impl Constant {
    /// The value under a rounding mode.
    fn value(self, mode: RoundingMode) -> F80 {
        // Truncated significands, and whether the part cut off is more than half.
        let (sign_exponent, significand, above_half) = match self {
            Self::One => return F80::ONE,
            Self::Zero => return F80::ZERO,
            Self::Log2Of10 => (0x4000, 0xd49a_784b_cd1b_8afe, false),
            Self::Log2OfE => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
            Self::Pi => (0x4000, 0xc90f_daa2_2168_c234, true),
            Self::Log10Of2 => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
            Self::LnOf2 => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
        };
        let up = match mode {
            RoundingMode::Nearest => above_half,
            RoundingMode::Up => true,
            RoundingMode::Down | RoundingMode::Zero => false,
        };
        F80 {
            significand: significand + u64::from(up),
            sign_exponent,
        }
    }
}

impl X87State {
    /// FLD m32fp. Exceptions: stack overflow, IE, DE.
    pub fn fld_f32(&mut self, bits: u32) {
        self.load_float(bits.unpack());
    }

    /// FLD m64fp. Exceptions: stack overflow, IE, DE.
    pub fn fld_f64(&mut self, bits: u64) {
        self.load_float(bits.unpack());
    }

    /// FLD m80fp. Exceptions: stack overflow only; every encoding is loaded as it is.
    pub fn fld_f80(&mut self, value: F80) {
        self.push_checked(value);
    }

    /// FILD m16int, m32int, m64int, sign-extended by the caller. Exceptions: stack overflow.
    pub fn fild(&mut self, value: i64) {
        let mut env = self.env();
        self.push_checked(convert::from_i64(value, &mut env));
    }

    /// FBLD. Exceptions: stack overflow.
    pub fn fbld(&mut self, bytes: [u8; 10]) {
        self.push_checked(bcd::load(bytes));
    }

    /// FLD1 and its kin, rounded as the control word says. Exceptions: stack overflow.
    pub fn fld_constant(&mut self, constant: Constant) {
        let mode = self.env().rounding;
        self.push_checked(constant.value(mode));
    }

    fn load_float(&mut self, operand: Unpacked) {
        if !self.is_empty(7) {
            return self.push_checked(F80::INDEFINITE);
        }
        let mut env = self.env();
        env.note_denormal(operand);
        let value = convert::convert(operand, &mut env);
        // An unmasked DE is reported, but the load is done all the same.
        if self.signal_unless_invalid(&env) {
            self.push(value);
        }
    }
}
