//! The floating-point instructions against the processor that runs the tests: results and MXCSR
//! flags, on random and special operands, in all rounding modes, with and without DAZ and FTZ.

// UNSAFETY: inline assembly is the only way to ask the processor.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__m128i;
use std::mem::transmute;

use super::float_compare::ComparisonFlags;
use super::{Mxcsr, SimdFault, approximate, convert, float, float_compare};

const ROUNDS: usize = 20_000;

/// Operands that are often special, often close to each other, and often at the edges.
struct Operands(u64);

impl Operands {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn f32(&mut self) -> u32 {
        const SPECIAL: [u32; 20] = [
            0,
            1,
            2,
            0x7f_ffff,
            0x80_0000,
            0x80_0001,
            0x3f80_0000,
            0x3f7f_ffff,
            0x3f80_0001,
            0x4f00_0000,
            0x4eff_ffff,
            0x5f00_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fbf_ffff,
            0x7fc0_0000,
            0x7fc1_2345,
            0x4040_0000,
            0x40_0000,
        ];
        let random = self.next();
        let sign = (random >> 63) as u32 * 0x8000_0000;
        let bits = (random >> 8) as u32 & 0x7fff_ffff;
        sign | match random & 15 {
            0..4 => SPECIAL[(random >> 40) as usize % SPECIAL.len()],
            4..6 => bits & 0x807f_ffff,
            6..9 => bits & 0x07ff_ffff | 0x3c00_0000,
            9..11 => bits & 0x03ff_f000 | 0x3f00_0000,
            11 => bits & 0x00ff_ffff | 0x7e80_0000,
            12 => bits & 0x0fff_ffff,
            13 => bits & 0x1fff_0000 | 0x2000_0000,
            _ => bits,
        }
    }

    fn f64(&mut self) -> u64 {
        const SPECIAL: [u64; 20] = [
            0,
            1,
            2,
            0xf_ffff_ffff_ffff,
            0x10_0000_0000_0000,
            0x10_0000_0000_0001,
            0x3ff0_0000_0000_0000,
            0x3fef_ffff_ffff_ffff,
            0x3ff0_0000_0000_0001,
            0x41df_ffff_ffc0_0000,
            0x41e0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff7_ffff_ffff_ffff,
            0x7ff8_0000_0000_0000,
            0x7ff8_1234_5678_9abc,
            0x3690_0000_0000_0000,
            0x380f_ffff_ffff_ffff,
        ];
        let random = self.next();
        let bits = self.next() >> 1;
        let sign = random & 1 << 63;
        sign | match random & 15 {
            0..4 => SPECIAL[(random >> 40) as usize % SPECIAL.len()],
            4 => bits & 0x800f_ffff_ffff_ffff,
            5..9 => bits & 0x03ff_ffff_ffff_ffff | 0x3e00_0000_0000_0000,
            9..11 => bits & 0x007f_fff0_0000_0000 | 0x3fe0_0000_0000_0000,
            11 => bits & 0x001f_ffff_ffff_ffff | 0x7fd0_0000_0000_0000,
            12 => bits & 0x01ff_ffff_ffff_ffff,
            13 => bits & 0x00ff_ffff_ffff_ffff | 0x3780_0000_0000_0000,
            14 => bits & 0x01ff_ffff_ffff_ffff | 0x4180_0000_0000_0000,
            _ => bits,
        }
    }

    fn singles(&mut self) -> u128 {
        (0..4).fold(0, |v, _| v << 32 | u128::from(self.f32()))
    }

    fn doubles(&mut self) -> u128 {
        u128::from(self.f64()) << 64 | u128::from(self.f64())
    }

    /// Everything masked; any rounding, DAZ, FTZ and PE flag.
    fn mxcsr(&mut self) -> u32 {
        const CHOICES: [u32; 6] = [0x1f80, 0x1fa0, 0x3f80, 0x5f80, 0x7f80, 0x1f80];
        let random = self.next() >> 20;
        let base = CHOICES[random as usize % 6];
        if random & 0x300 == 0 {
            base | (random as u32 & 0x8040)
        } else {
            base
        }
    }
}

fn vector(value: u128) -> __m128i {
    // SAFETY: both are 16 plain bytes.
    unsafe { transmute(value) }
}

fn value(vector: __m128i) -> u128 {
    // SAFETY: both are 16 plain bytes.
    unsafe { transmute(vector) }
}

/// Runs one instruction on the processor under an MXCSR; gives the result and the new MXCSR.
macro_rules! on_processor {
    ($instruction:expr, $a:expr, $b:expr, $mxcsr:expr) => {{
        let control: u32 = $mxcsr;
        let mut status: u32 = 0;
        let normal: u32 = 0x1f80;
        let mut r = vector($a);
        // SAFETY: MXCSR is put back to its normal value before the block ends; exceptions are
        // masked all the time.
        unsafe {
            asm!("ldmxcsr [{control}]", $instruction, "stmxcsr [{status}]",
                 "ldmxcsr [{normal}]", control = in(reg) &control,
                 status = in(reg) &mut status, normal = in(reg) &normal,
                 inout("xmm0") r, in("xmm1") vector($b), out("rax") _, out("r8") _,
                 out("mm0") _, options(nostack));
        }
        (value(r), status)
    }};
}

type Outcome = Result<u128, SimdFault>;

macro_rules! check {
    ($operands:ident, $source:ident: $($f:expr, $instruction:literal;)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($operands.$source(), $operands.$source());
            let control = $operands.mxcsr();
            let (expected, status) = on_processor!($instruction, a, b, control);
            let mut mxcsr = Mxcsr::from_bits(control).unwrap();
            let run: fn(u128, u128, &mut Mxcsr) -> Outcome = $f;
            let result = run(a, b, &mut mxcsr).unwrap();
            assert!(
                result == expected && mxcsr.bits() == status,
                "{}\n a {a:#034x}\n b {b:#034x}\n mxcsr {control:#x}\n got {result:#034x} \
                 {:#x}\n cpu {expected:#034x} {status:#x}",
                $instruction, mxcsr.bits()
            );
        }
    )*};
}

#[test]
fn single_arithmetic_matches_the_processor() {
    let mut operands = Operands(0x1111_2222_3333_4444);
    check! { operands, singles:
        float::addps, "addps xmm0, xmm1"; float::subps, "subps xmm0, xmm1";
        float::mulps, "mulps xmm0, xmm1"; float::divps, "divps xmm0, xmm1";
        |_, b, m| float::sqrtps(b, m), "sqrtps xmm0, xmm1";
        |a, b, m| float::addss(a, b as u32, m), "addss xmm0, xmm1";
        |a, b, m| float::subss(a, b as u32, m), "subss xmm0, xmm1";
        |a, b, m| float::mulss(a, b as u32, m), "mulss xmm0, xmm1";
        |a, b, m| float::divss(a, b as u32, m), "divss xmm0, xmm1";
        |a, b, m| float::sqrtss(a, b as u32, m), "sqrtss xmm0, xmm1";
        float::addsubps, "addsubps xmm0, xmm1"; float::haddps, "haddps xmm0, xmm1";
        float::hsubps, "hsubps xmm0, xmm1";
        |a, b, m| float::dpps(a, b, 0xff, m), "dpps xmm0, xmm1, 0xff";
        |a, b, m| float::dpps(a, b, 0x7a, m), "dpps xmm0, xmm1, 0x7a";
        |a, b, m| float::dpps(a, b, 0x95, m), "dpps xmm0, xmm1, 0x95";
    }
}

#[test]
fn double_arithmetic_matches_the_processor() {
    let mut operands = Operands(0x1111_2222_3333_5555);
    check! { operands, doubles:
        float::addpd, "addpd xmm0, xmm1"; float::subpd, "subpd xmm0, xmm1";
        float::mulpd, "mulpd xmm0, xmm1"; float::divpd, "divpd xmm0, xmm1";
        |_, b, m| float::sqrtpd(b, m), "sqrtpd xmm0, xmm1";
        |a, b, m| float::addsd(a, b as u64, m), "addsd xmm0, xmm1";
        |a, b, m| float::subsd(a, b as u64, m), "subsd xmm0, xmm1";
        |a, b, m| float::mulsd(a, b as u64, m), "mulsd xmm0, xmm1";
        |a, b, m| float::divsd(a, b as u64, m), "divsd xmm0, xmm1";
        |a, b, m| float::sqrtsd(a, b as u64, m), "sqrtsd xmm0, xmm1";
        float::addsubpd, "addsubpd xmm0, xmm1"; float::haddpd, "haddpd xmm0, xmm1";
        float::hsubpd, "hsubpd xmm0, xmm1";
        |a, b, m| float::dppd(a, b, 0x33, m), "dppd xmm0, xmm1, 0x33";
        |a, b, m| float::dppd(a, b, 0x12, m), "dppd xmm0, xmm1, 0x12";
    }
}

#[test]
fn comparison_minimum_and_maximum_match_the_processor() {
    let mut operands = Operands(0x7777_2222_3333_5555);
    check! { operands, singles:
        float_compare::minps, "minps xmm0, xmm1"; float_compare::maxps, "maxps xmm0, xmm1";
        |a, b, m| float_compare::minss(a, b as u32, m), "minss xmm0, xmm1";
        |a, b, m| float_compare::maxss(a, b as u32, m), "maxss xmm0, xmm1";
        |a, b, m| float_compare::cmpps(a, b, 0, m), "cmpps xmm0, xmm1, 0";
        |a, b, m| float_compare::cmpps(a, b, 1, m), "cmpps xmm0, xmm1, 1";
        |a, b, m| float_compare::cmpps(a, b, 2, m), "cmpps xmm0, xmm1, 2";
        |a, b, m| float_compare::cmpps(a, b, 3, m), "cmpps xmm0, xmm1, 3";
        |a, b, m| float_compare::cmpps(a, b, 4, m), "cmpps xmm0, xmm1, 4";
        |a, b, m| float_compare::cmpss(a, b as u32, 5, m), "cmpss xmm0, xmm1, 5";
        |a, b, m| float_compare::cmpss(a, b as u32, 6, m), "cmpss xmm0, xmm1, 6";
        |a, b, m| float_compare::cmpss(a, b as u32, 7, m), "cmpss xmm0, xmm1, 7";
    }
    check! { operands, doubles:
        float_compare::minpd, "minpd xmm0, xmm1"; float_compare::maxpd, "maxpd xmm0, xmm1";
        |a, b, m| float_compare::minsd(a, b as u64, m), "minsd xmm0, xmm1";
        |a, b, m| float_compare::maxsd(a, b as u64, m), "maxsd xmm0, xmm1";
        |a, b, m| float_compare::cmppd(a, b, 1, m), "cmppd xmm0, xmm1, 1";
        |a, b, m| float_compare::cmppd(a, b, 6, m), "cmppd xmm0, xmm1, 6";
        |a, b, m| float_compare::cmpsd(a, b as u64, 0, m), "cmpsd xmm0, xmm1, 0";
        |a, b, m| float_compare::cmpsd(a, b as u64, 2, m), "cmpsd xmm0, xmm1, 2";
    }
    let pack = |f: ComparisonFlags| {
        u128::from(f.carry) | u128::from(f.parity) << 2 | u128::from(f.zero) << 6
    };
    macro_rules! check_flags {
        ($($source:ident $bits:ty, $f:path = $mnemonic:literal,)*) => {$(
            for _ in 0..ROUNDS {
                let (a, b) = (operands.$source(), operands.$source());
                let control = operands.mxcsr();
                let (expected, status) = on_processor!(concat!($mnemonic,
                    " xmm0, xmm1\nlahf\nshr eax, 8\nmovd xmm0, eax"), a, b, control);
                let mut mxcsr = Mxcsr::from_bits(control).unwrap();
                let flags = $f(a as $bits, b as $bits, &mut mxcsr).unwrap();
                assert_eq!((pack(flags), mxcsr.bits()), (expected & 0xd5, status), "{}", $mnemonic);
            }
        )*};
    }
    check_flags! {
        singles u32, float_compare::comiss = "comiss",
        singles u32, float_compare::ucomiss = "ucomiss",
        doubles u64, float_compare::comisd = "comisd",
        doubles u64, float_compare::ucomisd = "ucomisd",
    }
}

#[test]
fn conversions_match_the_processor() {
    let mut operands = Operands(0x4242_2222_3333_5555);
    check! { operands, singles:
        |_, b, m| convert::cvtps2pd(b as u64, m), "cvtps2pd xmm0, xmm1";
        |a, b, m| convert::cvtss2sd(a, b as u32, m), "cvtss2sd xmm0, xmm1";
        |_, b, m| convert::cvtps2dq(b, m), "cvtps2dq xmm0, xmm1";
        |_, b, m| convert::cvttps2dq(b, m), "cvttps2dq xmm0, xmm1";
        |_, b, m| convert::roundps(b, 4, m), "roundps xmm0, xmm1, 4";
        |_, b, m| convert::roundps(b, 8, m), "roundps xmm0, xmm1, 8";
        |_, b, m| convert::roundps(b, 1, m), "roundps xmm0, xmm1, 1";
        |a, b, m| convert::roundss(a, b as u32, 2, m), "roundss xmm0, xmm1, 2";
        |a, b, m| convert::roundss(a, b as u32, 0, m), "roundss xmm0, xmm1, 0";
        |_, b, m| convert::cvtss2si32(b as u32, m).map(u128::from),
            "cvtss2si r8d, xmm1\nmovd xmm0, r8d";
        |_, b, m| convert::cvtss2si64(b as u32, m).map(u128::from),
            "cvtss2si r8, xmm1\nmovq xmm0, r8";
        |_, b, m| convert::cvttss2si32(b as u32, m).map(u128::from),
            "cvttss2si r8d, xmm1\nmovd xmm0, r8d";
        |_, b, m| convert::cvttss2si64(b as u32, m).map(u128::from),
            "cvttss2si r8, xmm1\nmovq xmm0, r8";
        |_, b, m| convert::cvtps2pi(b as u64, m).map(u128::from),
            "cvtps2pi mm0, xmm1\nmovq2dq xmm0, mm0\nemms";
        |_, b, m| convert::cvttps2pi(b as u64, m).map(u128::from),
            "cvttps2pi mm0, xmm1\nmovq2dq xmm0, mm0\nemms";
        |a, b, m| convert::cvtpi2ps(a, b as u64, m),
            "movdq2q mm0, xmm1\ncvtpi2ps xmm0, mm0\nemms";
        |_, b, m| convert::cvtdq2ps(b, m), "cvtdq2ps xmm0, xmm1";
        |_, b, _| Ok(convert::cvtdq2pd(b as u64)), "cvtdq2pd xmm0, xmm1";
        |a, b, m| convert::cvtsi2ss(a, i64::from(b as i32), m),
            "movd r8d, xmm1\ncvtsi2ss xmm0, r8d";
        |a, b, m| convert::cvtsi2ss(a, b as i64, m), "movq r8, xmm1\ncvtsi2ss xmm0, r8";
        |a, b, m| convert::cvtsi2ss(a, i64::from(b as i16), m),
            "movd r8d, xmm1\nmovsx r8d, r8w\ncvtsi2ss xmm0, r8d";
        |a, b, m| convert::cvtsi2sd(a, i64::from(b as i32), m),
            "movd r8d, xmm1\ncvtsi2sd xmm0, r8d";
        |a, b, m| convert::cvtsi2sd(a, b as i64, m), "movq r8, xmm1\ncvtsi2sd xmm0, r8";
    }
    check! { operands, doubles:
        |_, b, m| convert::cvtpd2ps(b, m), "cvtpd2ps xmm0, xmm1";
        |a, b, m| convert::cvtsd2ss(a, b as u64, m), "cvtsd2ss xmm0, xmm1";
        |_, b, m| convert::cvtpd2dq(b, m).map(u128::from), "cvtpd2dq xmm0, xmm1";
        |_, b, m| convert::cvttpd2dq(b, m).map(u128::from), "cvttpd2dq xmm0, xmm1";
        |_, b, m| convert::roundpd(b, 4, m), "roundpd xmm0, xmm1, 4";
        |_, b, m| convert::roundpd(b, 11, m), "roundpd xmm0, xmm1, 11";
        |a, b, m| convert::roundsd(a, b as u64, 1, m), "roundsd xmm0, xmm1, 1";
        |_, b, m| convert::cvtsd2si32(b as u64, m).map(u128::from),
            "cvtsd2si r8d, xmm1\nmovd xmm0, r8d";
        |_, b, m| convert::cvtsd2si64(b as u64, m).map(u128::from),
            "cvtsd2si r8, xmm1\nmovq xmm0, r8";
        |_, b, m| convert::cvttsd2si32(b as u64, m).map(u128::from),
            "cvttsd2si r8d, xmm1\nmovd xmm0, r8d";
        |_, b, m| convert::cvttsd2si64(b as u64, m).map(u128::from),
            "cvttsd2si r8, xmm1\nmovq xmm0, r8";
    }
}

#[test]
fn approximations_are_within_their_bound() {
    let mut operands = Operands(0x4242_1111_3333_5555);
    let bound = 1.5 / 4096.0;
    for _ in 0..ROUNDS {
        let bits = operands.f32();
        let x = f64::from(f32::from_bits(bits));
        let reciprocal = f64::from(f32::from_bits(approximate::rcpss(0, bits) as u32));
        let root = f64::from(f32::from_bits(approximate::rsqrtss(0, bits) as u32));
        if f32::from_bits(bits).is_normal() && x.abs() < 2f64.powi(125) && x.abs() > 2f64.powi(-126)
        {
            assert!(
                (reciprocal * x - 1.0).abs() <= bound,
                "rcp {x} {reciprocal}"
            );
            if x > 0.0 {
                assert!((root * x.sqrt() - 1.0).abs() <= bound, "rsqrt {x} {root}");
            }
        } else if !f32::from_bits(bits).is_normal() {
            let a = u128::from(bits);
            let (exact, _) = on_processor!("rcpss xmm0, xmm0", a, 0, 0x1f80);
            assert_eq!(approximate::rcpss(a, bits), exact, "rcpss {bits:#x}");
            let (exact, _) = on_processor!("rsqrtss xmm0, xmm0", a, 0, 0x1f80);
            assert_eq!(approximate::rsqrtss(a, bits), exact, "rsqrtss {bits:#x}");
        }
    }
}

#[test]
fn unmasked_exceptions_fault_and_filter_later_flags() {
    let one = 0x3f80_0000;
    // Divide by zero unmasked: ZE is set, nothing else.
    let mut mxcsr = Mxcsr::from_bits(0x1d80).unwrap();
    assert_eq!(float::divss(one, 0, &mut mxcsr), Err(SimdFault));
    assert_eq!(mxcsr.bits(), 0x1d84);
    // The same with an inexact quotient in another lane: PE is not reported.
    let mut mxcsr = Mxcsr::from_bits(0x1d80).unwrap();
    let (a, b) = (one << 32 | one, 0x4040_0000u128 << 32);
    assert_eq!(float::divps(a, b, &mut mxcsr), Err(SimdFault));
    assert_eq!(mxcsr.bits(), 0x1d85 & !1 | 1, "lanes 2 and 3 are 0/0");
    // Precision unmasked: the fast path must not be taken.
    let mut mxcsr = Mxcsr::from_bits(0x0f80).unwrap();
    assert_eq!(float::divss(one, 0x4040_0000, &mut mxcsr), Err(SimdFault));
    assert_eq!(mxcsr.bits(), 0x0fa0);
    // Underflow unmasked: an exact tiny result faults.
    let mut mxcsr = Mxcsr::from_bits(0x1780).unwrap();
    assert_eq!(
        float::mulss(0x0080_0000, 0x3f00_0000, &mut mxcsr),
        Err(SimdFault)
    );
    assert_eq!(mxcsr.bits(), 0x1790);
}
