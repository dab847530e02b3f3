//! Operand widths: one generic handler serves 8, 16, 32 and 64 bits.

use super::cpu::Cpu;
use super::mmu::fast::Scalar;

/// Register numbers with this bit name the second byte of one of the first four registers
/// (AH, CH, DH, BH).
pub const HIGH_BYTE: u8 = 0x40;
/// Registers that an operand can name, the constant zero and two segment bases included.
pub const REGISTER_MASK: u8 = 31;

/// An integer operand width.
pub trait Width: Scalar + Copy + Eq + 'static {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: u64 = Self::BITS as u64 / 8;
    /// The sign bit, zero-extended.
    const SIGN: u64 = 1 << (Self::BITS - 1);
    /// All ones, zero-extended.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);

    /// Keeps the low bits.
    fn from_u64(value: u64) -> Self;
    /// Zero-extends.
    fn zero_extend(self) -> u64;
    /// Sign-extends.
    fn sign_extend(self) -> u64;
    /// Reads a register.
    fn get(cpu: &Cpu, register: u8) -> Self;
    /// Writes a register; 32-bit writes clear the upper half.
    fn set(cpu: &mut Cpu, register: u8, value: Self);
}

macro_rules! width {
    ($type:ty, $signed:ty, $bits:literal, |$cpu:ident, $register:ident| $get:expr,
     |$cpu2:ident, $register2:ident, $value:ident| $set:expr) => {
        impl Width for $type {
            const BITS: u32 = $bits;
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn zero_extend(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            fn get($cpu: &Cpu, $register: u8) -> Self {
                $get
            }
            #[inline(always)]
            fn set($cpu2: &mut Cpu, $register2: u8, $value: Self) {
                $set
            }
        }
    };
}

width!(
    u64,
    i64,
    64,
    |cpu, register| cpu.regs[(register & REGISTER_MASK) as usize],
    |cpu, register, value| cpu.regs[(register & REGISTER_MASK) as usize] = value
);
width!(
    u32,
    i32,
    32,
    |cpu, register| cpu.regs[(register & REGISTER_MASK) as usize] as u32,
    |cpu, register, value| cpu.regs[(register & REGISTER_MASK) as usize] = u64::from(value)
);
width!(
    u16,
    i16,
    16,
    |cpu, register| cpu.regs[(register & REGISTER_MASK) as usize] as u16,
    |cpu, register, value| {
        let slot = &mut cpu.regs[(register & REGISTER_MASK) as usize];
        *slot = (*slot & !0xffff) | u64::from(value);
    }
);
width!(
    u8,
    i8,
    8,
    |cpu, register| {
        let value = cpu.regs[(register & REGISTER_MASK) as usize];
        if register & HIGH_BYTE == 0 {
            value as u8
        } else {
            (value >> 8) as u8
        }
    },
    |cpu, register, value| {
        let slot = &mut cpu.regs[(register & REGISTER_MASK) as usize];
        if register & HIGH_BYTE == 0 {
            *slot = (*slot & !0xff) | u64::from(value);
        } else {
            *slot = (*slot & !0xff00) | u64::from(value) << 8;
        }
    }
);
