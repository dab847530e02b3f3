//! The integer instructions against the processor that runs the tests, on random operands.
//!
//! Each line of a table names a function and the instruction it stands for; the instruction is
//! executed by inline assembly. SSE4.2 is assumed of the machine that runs these tests.

// UNSAFETY: inline assembly is the only way to ask the processor.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__m128i;
use std::mem::transmute;

use super::{compare, integer, logic, shift, shuffle, string};

const ROUNDS: usize = 2000;

/// A xorshift generator whose words are often at the edges of their ranges.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn word(&mut self) -> u64 {
        const EDGES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff];
        let random = self.next();
        if random & 3 == 0 {
            EDGES[(random >> 8) as usize % 8]
        } else {
            random >> 16 & 0xffff
        }
    }

    fn u64(&mut self) -> u64 {
        self.word() | self.word() << 16 | self.word() << 32 | self.word() << 48
    }

    fn u128(&mut self) -> u128 {
        u128::from(self.u64()) << 64 | u128::from(self.u64())
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

macro_rules! check_sse {
    ($values:ident: $($f:path = $mnemonic:literal,)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($values.u128(), $values.u128());
            let mut r = vector(a);
            // SAFETY: the instruction touches the two named registers only.
            unsafe {
                asm!(concat!($mnemonic, " {r}, {b}"), r = inout(xmm_reg) r,
                     b = in(xmm_reg) vector(b), options(pure, nomem, nostack));
            }
            assert_eq!($f(a, b), value(r), "{} {a:#034x} {b:#034x}", $mnemonic);
        }
    )*};
}

macro_rules! check_mmx {
    ($values:ident: $($f:path = $mnemonic:literal,)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($values.u64(), $values.u64());
            let mut r = a;
            // SAFETY: only MMX registers are touched, and they are given back by EMMS.
            unsafe {
                asm!("movq mm0, {r}", "movq mm1, {b}", concat!($mnemonic, " mm0, mm1"),
                     "movq {r}, mm0", "emms", r = inout(reg) r, b = in(reg) b,
                     out("mm0") _, out("mm1") _, options(nomem, nostack));
            }
            assert_eq!($f(a, b), r, "{} {a:#018x} {b:#018x}", $mnemonic);
        }
    )*};
}

macro_rules! check_immediate {
    ($values:ident: $f:path = $mnemonic:literal: $($imm:literal)*) => {$(
        for _ in 0..200 {
            let (a, b) = ($values.u128(), $values.u128());
            let mut r = vector(a);
            // SAFETY: the instruction touches the two named registers only.
            unsafe {
                asm!(concat!($mnemonic, " {r}, {b}, ", $imm), r = inout(xmm_reg) r,
                     b = in(xmm_reg) vector(b), options(pure, nomem, nostack));
            }
            assert_eq!($f(a, b, $imm), value(r), "{} {a:#034x} {b:#034x} {}", $mnemonic, $imm);
        }
    )*};
}

/// As `check_immediate`, for functions that do not read the destination.
macro_rules! check_move_immediate {
    ($values:ident: $f:path = $mnemonic:literal: $($imm:literal)*) => {$(
        for _ in 0..200 {
            let b = $values.u128();
            let r: __m128i;
            // SAFETY: the instruction touches the two named registers only.
            unsafe {
                asm!(concat!($mnemonic, " {r}, {b}, ", $imm), r = out(xmm_reg) r,
                     b = in(xmm_reg) vector(b), options(pure, nomem, nostack));
            }
            assert_eq!($f(b, $imm), value(r), "{} {b:#034x} {}", $mnemonic, $imm);
        }
    )*};
}

/// Sources only: the destination is overwritten.
macro_rules! check_unary {
    ($values:ident: $($f:expr, $mnemonic:literal;)*) => {$(
        for _ in 0..ROUNDS {
            let b = $values.u128();
            let r: __m128i;
            // SAFETY: the instruction touches the two named registers only.
            unsafe {
                asm!(concat!($mnemonic, " {r}, {b}"), r = out(xmm_reg) r,
                     b = in(xmm_reg) vector(b), options(pure, nomem, nostack));
            }
            assert_eq!($f(b), value(r), "{} {b:#034x}", $mnemonic);
        }
    )*};
}

#[test]
fn lanewise_sse_matches_the_processor() {
    let mut values = Values(0x1234_5678_9abc_def1);
    check_sse! { values:
        integer::paddb = "paddb", integer::paddw = "paddw", integer::paddd = "paddd",
        integer::paddq = "paddq", integer::psubb = "psubb", integer::psubw = "psubw",
        integer::psubd = "psubd", integer::psubq = "psubq", integer::paddusb = "paddusb",
        integer::paddusw = "paddusw", integer::psubusb = "psubusb",
        integer::psubusw = "psubusw", integer::paddsb = "paddsb", integer::paddsw = "paddsw",
        integer::psubsb = "psubsb", integer::psubsw = "psubsw", integer::pmullw = "pmullw",
        integer::pmulhw = "pmulhw", integer::pmulhuw = "pmulhuw",
        integer::pmulhrsw = "pmulhrsw", integer::pmulld = "pmulld",
        integer::pmuludq = "pmuludq", integer::pmuldq = "pmuldq", integer::pavgb = "pavgb",
        integer::pavgw = "pavgw", integer::pminub = "pminub", integer::pminuw = "pminuw",
        integer::pminud = "pminud", integer::pmaxub = "pmaxub", integer::pmaxuw = "pmaxuw",
        integer::pmaxud = "pmaxud", integer::pminsb = "pminsb", integer::pminsw = "pminsw",
        integer::pminsd = "pminsd", integer::pmaxsb = "pmaxsb", integer::pmaxsw = "pmaxsw",
        integer::pmaxsd = "pmaxsd", integer::psignb = "psignb", integer::psignw = "psignw",
        integer::psignd = "psignd", integer::pmaddwd = "pmaddwd",
        integer::pmaddubsw = "pmaddubsw", integer::phaddw = "phaddw",
        integer::phaddd = "phaddd", integer::phaddsw = "phaddsw", integer::phsubw = "phsubw",
        integer::phsubd = "phsubd", integer::phsubsw = "phsubsw", integer::psadbw = "psadbw",
        logic::pand = "pand", logic::pandn = "pandn", logic::por = "por", logic::pxor = "pxor",
        compare::pcmpeqb = "pcmpeqb", compare::pcmpeqw = "pcmpeqw",
        compare::pcmpeqd = "pcmpeqd", compare::pcmpeqq = "pcmpeqq",
        compare::pcmpgtb = "pcmpgtb", compare::pcmpgtw = "pcmpgtw",
        compare::pcmpgtd = "pcmpgtd", compare::pcmpgtq = "pcmpgtq",
        shuffle::packsswb = "packsswb", shuffle::packssdw = "packssdw",
        shuffle::packuswb = "packuswb", shuffle::packusdw = "packusdw",
        shuffle::punpcklbw = "punpcklbw", shuffle::punpckhbw = "punpckhbw",
        shuffle::punpcklwd = "punpcklwd", shuffle::punpckhwd = "punpckhwd",
        shuffle::punpckldq = "punpckldq", shuffle::punpckhdq = "punpckhdq",
        shuffle::punpcklqdq = "punpcklqdq", shuffle::punpckhqdq = "punpckhqdq",
        shuffle::movhlps = "movhlps", shuffle::pshufb = "pshufb",
    }
    check_unary! { values:
        integer::pabsb, "pabsb"; integer::pabsw, "pabsw"; integer::pabsd, "pabsd";
        integer::phminposuw, "phminposuw"; shuffle::movsldup, "movsldup";
        shuffle::movshdup, "movshdup"; |b: u128| shuffle::movddup(b as u64), "movddup";
        shuffle::pmovzxbw, "pmovzxbw"; shuffle::pmovzxbd, "pmovzxbd";
        shuffle::pmovzxbq, "pmovzxbq"; shuffle::pmovzxwd, "pmovzxwd";
        shuffle::pmovzxwq, "pmovzxwq"; shuffle::pmovzxdq, "pmovzxdq";
        shuffle::pmovsxbw, "pmovsxbw"; shuffle::pmovsxbd, "pmovsxbd";
        shuffle::pmovsxbq, "pmovsxbq"; shuffle::pmovsxwd, "pmovsxwd";
        shuffle::pmovsxwq, "pmovsxwq"; shuffle::pmovsxdq, "pmovsxdq";
    }
}

#[test]
fn lanewise_mmx_matches_the_processor() {
    let mut values = Values(0xfeed_5678_9abc_def1);
    check_mmx! { values:
        integer::paddb = "paddb", integer::paddw = "paddw", integer::paddd = "paddd",
        integer::paddq = "paddq", integer::psubb = "psubb", integer::psubw = "psubw",
        integer::psubd = "psubd", integer::psubq = "psubq", integer::paddusb = "paddusb",
        integer::paddusw = "paddusw", integer::psubusb = "psubusb",
        integer::psubusw = "psubusw", integer::paddsb = "paddsb", integer::paddsw = "paddsw",
        integer::psubsb = "psubsb", integer::psubsw = "psubsw", integer::pmullw = "pmullw",
        integer::pmulhw = "pmulhw", integer::pmulhuw = "pmulhuw",
        integer::pmulhrsw = "pmulhrsw", integer::pmuludq = "pmuludq",
        integer::pavgb = "pavgb", integer::pavgw = "pavgw", integer::pminub = "pminub",
        integer::pmaxub = "pmaxub", integer::pminsw = "pminsw", integer::pmaxsw = "pmaxsw",
        integer::psignb = "psignb", integer::psignw = "psignw", integer::psignd = "psignd",
        integer::pmaddwd = "pmaddwd", integer::pmaddubsw = "pmaddubsw",
        integer::phaddw = "phaddw", integer::phaddd = "phaddd", integer::phaddsw = "phaddsw",
        integer::phsubw = "phsubw", integer::phsubd = "phsubd", integer::phsubsw = "phsubsw",
        integer::psadbw = "psadbw", logic::pandn = "pandn", logic::pxor = "pxor",
        compare::pcmpeqb = "pcmpeqb", compare::pcmpeqw = "pcmpeqw",
        compare::pcmpeqd = "pcmpeqd", compare::pcmpgtb = "pcmpgtb",
        compare::pcmpgtw = "pcmpgtw", compare::pcmpgtd = "pcmpgtd",
        shuffle::packsswb = "packsswb", shuffle::packssdw = "packssdw",
        shuffle::packuswb = "packuswb", shuffle::punpcklbw = "punpcklbw",
        shuffle::punpckhbw = "punpckhbw", shuffle::punpcklwd = "punpcklwd",
        shuffle::punpckhwd = "punpckhwd", shuffle::punpckldq = "punpckldq",
        shuffle::punpckhdq = "punpckhdq", shuffle::pshufb = "pshufb",
    }
}

#[test]
fn shifts_match_the_processor() {
    let mut values = Values(77);
    macro_rules! check_shift {
        ($($f:path = $mnemonic:literal,)*) => {$(
            for count in (0..70).chain([128, 0xff, 1 << 32, u64::MAX]) {
                let a = values.u128();
                let b = u128::from(count) | values.u128() << 64;
                let mut r = vector(a);
                // SAFETY: the instruction touches the two named registers only.
                unsafe {
                    asm!(concat!($mnemonic, " {r}, {b}"), r = inout(xmm_reg) r,
                         b = in(xmm_reg) vector(b), options(pure, nomem, nostack));
                }
                assert_eq!($f(a, count), value(r), "{} {a:#034x} {count}", $mnemonic);
            }
        )*};
    }
    check_shift! {
        shift::psllw = "psllw", shift::pslld = "pslld", shift::psllq = "psllq",
        shift::psrlw = "psrlw", shift::psrld = "psrld", shift::psrlq = "psrlq",
        shift::psraw = "psraw", shift::psrad = "psrad",
    }
    macro_rules! check_bytes {
        ($($f:path = $mnemonic:literal: $($imm:literal)*,)*) => {$($(
            let a = values.u128();
            let mut r = vector(a);
            // SAFETY: the instruction touches the named register only.
            unsafe {
                asm!(concat!($mnemonic, " {r}, ", $imm), r = inout(xmm_reg) r,
                     options(pure, nomem, nostack));
            }
            assert_eq!($f(a, $imm), value(r), "{} {a:#034x} {}", $mnemonic, $imm);
        )*)*};
    }
    check_bytes! {
        shift::pslldq = "pslldq": 0 1 2 7 8 9 15 16 17 32 255,
        shift::psrldq = "psrldq": 0 1 2 7 8 9 15 16 17 32 255,
    }
}

#[test]
fn controlled_moves_match_the_processor() {
    let mut values = Values(99);
    check_immediate!(values: shuffle::palignr = "palignr":
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 24 31 32 33 255);
    check_immediate!(values: shuffle::shufps = "shufps": 0 0x1b 0xe4 0x4e 0x93 0x72 0xff);
    check_immediate!(values: shuffle::shufpd = "shufpd": 0 1 2 3 0xfc);
    check_immediate!(values: shuffle::insertps_register = "insertps":
        0 0x10 0x4f 0x95 0xe2 0xff 0xa8 0x71);
    check_immediate!(values: integer::mpsadbw = "mpsadbw": 0 1 2 3 4 5 6 7 0xf8);
    check_immediate!(values: logic::pblendw = "pblendw": 0 1 0x5a 0xa5 0xff 0x80);
    check_immediate!(values: logic::blendps = "blendps": 0 1 2 4 8 15 6 9);
    check_immediate!(values: logic::blendpd = "blendpd": 0 1 2 3);
    check_move_immediate!(values: shuffle::pshufd = "pshufd": 0 0x1b 0xe4 0x4e 0x93 0x72 0xff);
    check_move_immediate!(values: shuffle::pshuflw = "pshuflw": 0 0x1b 0xe4 0x4e 0x93 0xff);
    check_move_immediate!(values: shuffle::pshufhw = "pshufhw": 0 0x1b 0xe4 0x4e 0x93 0xff);
}

#[test]
fn blends_by_register_match_the_processor() {
    let mut values = Values(0xabcd);
    macro_rules! check_blend {
        ($($f:path = $mnemonic:literal,)*) => {$(
            for _ in 0..ROUNDS {
                let (a, b, mask) = (values.u128(), values.u128(), values.u128());
                let mut r = vector(a);
                // SAFETY: the instruction touches the named registers only.
                unsafe {
                    asm!("movdqa xmm0, {m}", concat!($mnemonic, " {r}, {b}, xmm0"),
                         r = inout(xmm_reg) r, b = in(xmm_reg) vector(b),
                         m = in(xmm_reg) vector(mask), out("xmm0") _,
                         options(pure, nomem, nostack));
                }
                assert_eq!($f(a, b, mask), value(r), "{}", $mnemonic);
            }
        )*};
    }
    check_blend! {
        logic::pblendvb = "pblendvb", logic::blendvps = "blendvps",
        logic::blendvpd = "blendvpd",
    }
}

#[test]
fn masks_and_lane_access_match_the_processor() {
    let mut values = Values(0x55aa);
    for _ in 0..ROUNDS {
        let (a, b) = (values.u128(), values.u128());
        let (bytes, singles, doubles): (u32, u32, u32);
        let (zero, carry): (u8, u8);
        // SAFETY: only the named registers and the flags change.
        unsafe {
            asm!("pmovmskb {0:e}, {3}", "movmskps {1:e}, {3}", "movmskpd {2:e}, {3}",
                 out(reg) bytes, out(reg) singles, out(reg) doubles, in(xmm_reg) vector(a));
            asm!("ptest {2}, {3}", "setz {0}", "setc {1}", out(reg_byte) zero,
                 out(reg_byte) carry, in(xmm_reg) vector(a), in(xmm_reg) vector(b & a));
        }
        assert_eq!(shuffle::pmovmskb(a), bytes);
        assert_eq!(shuffle::movmskps(a), singles);
        assert_eq!(shuffle::movmskpd(a), doubles);
        let flags = logic::ptest(a, b & a);
        assert_eq!((u8::from(flags.zero), u8::from(flags.carry)), (zero, carry));
        for index in 0..32 {
            let lane = usize::from(index);
            let byte = b as u8;
            assert_eq!(shuffle::pextrb(a, index), a.to_le_bytes()[lane % 16]);
            let mut bytes = a.to_le_bytes();
            bytes[lane % 16] = byte;
            assert_eq!(shuffle::pinsrb(a, byte, index), u128::from_le_bytes(bytes));
            let word = b as u16;
            let inserted = shuffle::pinsrw(a, word, index);
            assert_eq!(shuffle::pextrw(inserted, index), word);
            assert_eq!(
                shuffle::pinsrw(inserted, shuffle::pextrw(a, index), index),
                a
            );
            let quad = b as u64;
            let inserted = shuffle::pinsrq(a, quad, index);
            assert_eq!(shuffle::pextrq(inserted, index), quad);
            assert_eq!(
                shuffle::pinsrq(inserted, shuffle::pextrq(a, index), index),
                a
            );
        }
    }
    assert_eq!(shuffle::pinsrq(0, 7, 1), 7 << 64);
    assert_eq!(shuffle::pinsrw(0u128, 7, 2), 7 << 32);
    assert_eq!(shuffle::pinsrw(0u64, 7, 7), 7 << 48);
}

/// ECX and the flags CF, PF.., as LAHF and SETO give them: `(index, carry, zero, sign, overflow)`.
type Indexed = (u32, u8, u8, u8, u8);

#[test]
fn string_comparison_matches_the_processor() {
    let mut values = Values(0x5151);
    macro_rules! check_string {
        ($($imm:literal)*) => {$(
            for _ in 0..300 {
                // Few distinct elements, so that matches and terminators happen.
                let small = 0x0303_0303_0303_0303_0303_0303_0303_0303;
                let odd = values.next() & 1 == 0;
                let keep = if odd { small } else { 0x8381_0383_8103_8182_0083_8103_0181_0383 };
                let (a, b) = (values.u128() & keep, values.u128() & keep);
                let (a_length, b_length) =
                    (values.next() as i64 % 20, values.next() as i64 % 20);
                let got = string::pcmpestr(a, a_length, b, b_length, $imm);
                let (index, c, z, s, o): Indexed;
                let mask: __m128i;
                // SAFETY: only the named registers and the flags change.
                unsafe {
                    asm!(concat!("pcmpestri {a}, {b}, ", $imm), "setc {c}", "setz {z}",
                         "sets {s}", "seto {o}", a = in(xmm_reg) vector(a),
                         b = in(xmm_reg) vector(b), in("eax") a_length as i32,
                         in("edx") b_length as i32, out("ecx") index, c = out(reg_byte) c,
                         z = out(reg_byte) z, s = out(reg_byte) s, o = out(reg_byte) o);
                    asm!(concat!("pcmpestrm {a}, {b}, ", $imm), a = in(xmm_reg) vector(a),
                         b = in(xmm_reg) vector(b), in("eax") a_length as i32,
                         in("edx") b_length as i32, out("xmm0") mask);
                }
                let flags = [got.carry, got.zero, got.sign, got.overflow].map(u8::from);
                let case = format!("{a:x} {a_length} {b:x} {b_length} {}", $imm);
                assert_eq!(flags, [c, z, s, o], "pcmpestri {case}");
                assert_eq!(got.index(), index, "pcmpestri {case}");
                assert_eq!(got.mask(), value(mask), "pcmpestrm {case}");
                let got = string::pcmpistr(a, b, $imm);
                let (index, c, z, s, o): Indexed;
                let mask: __m128i;
                // SAFETY: only the named registers and the flags change.
                unsafe {
                    asm!(concat!("pcmpistri {a}, {b}, ", $imm), "setc {c}", "setz {z}",
                         "sets {s}", "seto {o}", a = in(xmm_reg) vector(a),
                         b = in(xmm_reg) vector(b), out("ecx") index, c = out(reg_byte) c,
                         z = out(reg_byte) z, s = out(reg_byte) s, o = out(reg_byte) o);
                    asm!(concat!("pcmpistrm {a}, {b}, ", $imm), a = in(xmm_reg) vector(a),
                         b = in(xmm_reg) vector(b), out("xmm0") mask);
                }
                let flags = [got.carry, got.zero, got.sign, got.overflow].map(u8::from);
                assert_eq!(flags, [c, z, s, o], "pcmpistri {a:x} {b:x} {}", $imm);
                assert_eq!(got.index(), index, "pcmpistri {a:x} {b:x} {}", $imm);
                assert_eq!(got.mask(), value(mask), "pcmpistrm {a:x} {b:x} {}", $imm);
            }
        )*};
    }
    check_string!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    check_string!(0x10 0x11 0x14 0x15 0x18 0x19 0x1a 0x1c 0x1d 0x30 0x31 0x34 0x35 0x36 0x37);
    check_string!(0x38 0x39 0x3a 0x3c 0x3d 0x40 0x41 0x44 0x45 0x48 0x49 0x4c 0x4d 0x5a 0x5c);
    check_string!(0x70 0x71 0x74 0x77 0x78 0x7a 0x7c 0x7d 0x7f 0x2c 0x28 0x20 0x24 0x50 0x55);
}

#[test]
fn crc32_matches_the_processor() {
    let mut values = Values(3);
    for _ in 0..ROUNDS {
        let (start, data) = (values.u64() as u32, values.u64());
        let (mut one, mut two) = (start, start);
        let (mut four, mut eight) = (start, u64::from(start));
        // SAFETY: only the named registers change.
        unsafe {
            asm!("crc32 {0:e}, {2:l}", "crc32 {1:e}, {2:x}", inout(reg) one, inout(reg) two,
                 in(reg) data);
            asm!("crc32 {0:e}, {2:e}", "crc32 {1}, {2}", inout(reg) four, inout(reg) eight,
                 in(reg) data);
        }
        let bytes = data.to_le_bytes();
        assert_eq!(string::crc32(start, &bytes[..1]), one);
        assert_eq!(string::crc32(start, &bytes[..2]), two);
        assert_eq!(string::crc32(start, &bytes[..4]), four);
        assert_eq!(u64::from(string::crc32(start, &bytes)), eight);
    }
}
