//! Stores: FST(P) of each memory format, FIST(P), FISTTP, FBSTP.
//!
//! Each returns the bits to store, or `None` when an unmasked exception prevents the store (and
//! the pop). A caller whose memory write can fault must probe it first or work on a copy of the
//! state, so that a fault leaves the x87 as it was.

use super::state::X87State;
use crate::software::float::{Exceptions, F80, FloatEnv, Format, RoundingMode, bcd, convert};

/// Size of an integer store.
#[derive(Clone, Copy)]
struct IntegerBits(u32);

impl X87State {
    /// FST m32fp, FSTP m32fp. Exceptions: stack underflow, IE, OE, UE, PE.
    pub fn fst_f32(&mut self, pop: bool) -> Option<u32> {
        self.store(pop, u32::indefinite(), |value, env| {
            convert::convert(value.unpack(), env)
        })
    }

    /// FST m64fp, FSTP m64fp. Exceptions: stack underflow, IE, OE, UE, PE.
    pub fn fst_f64(&mut self, pop: bool) -> Option<u64> {
        self.store(pop, u64::indefinite(), |value, env| {
            convert::convert(value.unpack(), env)
        })
    }

    /// FSTP m80fp: every encoding is stored as it is. Exceptions: stack underflow.
    pub fn fstp_f80(&mut self) -> Option<F80> {
        self.store(true, F80::INDEFINITE, |value, _| value)
    }

    /// FIST m16int, FISTP m16int. Exceptions: stack underflow, IE, PE.
    pub fn fist_i16(&mut self, pop: bool) -> Option<i16> {
        let mode = self.env().rounding;
        self.store_integer(pop, IntegerBits(16), mode)
            .map(|value| value as i16)
    }

    /// FIST m32int, FISTP m32int. Exceptions: stack underflow, IE, PE.
    pub fn fist_i32(&mut self, pop: bool) -> Option<i32> {
        let mode = self.env().rounding;
        self.store_integer(pop, IntegerBits(32), mode)
            .map(|value| value as i32)
    }

    /// FISTP m64int. Exceptions: stack underflow, IE, PE.
    pub fn fistp_i64(&mut self) -> Option<i64> {
        let mode = self.env().rounding;
        self.store_integer(true, IntegerBits(64), mode)
    }

    /// FISTTP m16int: truncates. Exceptions: stack underflow, IE, PE.
    pub fn fisttp_i16(&mut self) -> Option<i16> {
        let value = self.store_integer(true, IntegerBits(16), RoundingMode::Zero);
        value.map(|value| value as i16)
    }

    /// FISTTP m32int: truncates. Exceptions: stack underflow, IE, PE.
    pub fn fisttp_i32(&mut self) -> Option<i32> {
        let value = self.store_integer(true, IntegerBits(32), RoundingMode::Zero);
        value.map(|value| value as i32)
    }

    /// FISTTP m64int: truncates. Exceptions: stack underflow, IE, PE.
    pub fn fisttp_i64(&mut self) -> Option<i64> {
        self.store_integer(true, IntegerBits(64), RoundingMode::Zero)
    }

    /// FBSTP. Exceptions: stack underflow, IE, PE.
    pub fn fbstp(&mut self) -> Option<[u8; 10]> {
        self.store(true, bcd::INDEFINITE, bcd::store)
    }

    fn store_integer(&mut self, pop: bool, bits: IntegerBits, mode: RoundingMode) -> Option<i64> {
        let IntegerBits(bits) = bits;
        self.store(pop, i64::MIN >> (64 - bits), |value, env| {
            convert::to_integer(value.unpack(), bits, mode, env)
        })
    }

    /// Converts ST(0) for memory; `indefinite` answers a masked stack underflow.
    fn store<T>(
        &mut self,
        pop: bool,
        indefinite: T,
        convert: impl FnOnce(F80, &mut FloatEnv) -> T,
    ) -> Option<T> {
        let result = if self.is_empty(0) {
            self.stack_underflow().then_some(indefinite)?
        } else {
            let mut env = self.env();
            let result = convert(self.st(0), &mut env);
            if env.flags.intersects(Exceptions::INVALID) {
                env.flags = Exceptions::INVALID;
            }
            self.signal_store(&env).then_some(result)?
        };
        if pop {
            self.pop();
        }
        Some(result)
    }
}
