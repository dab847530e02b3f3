//! The x87 against the processor that runs the tests: whole state and memory after one instruction
//! on random states, exceptions masked and unmasked, empty registers included.
//!
//! The state goes in by FXRSTOR and comes out by FXSAVE, which does not wait, so an unmasked
//! exception stays pending and never traps. Instructions are given as bytes; memory operands are
//! at [rax]. Opcode and pointers are not compared: processors differ in when they save them. Where
//! the manuals leave a bit open (C1 of FFREE, FCMOVcc and FCOMI; what an unmasked DE prevents), the
//! model does what AMD's Zen 4 does, on which these tests were first passed.

// UNSAFETY: inline assembly is the only way to ask the processor.
#![allow(unsafe_code)]

use std::arch::asm;

use super::{
    CompareFlags, Comparison, Constant, EnvironmentFormat, FXSAVE_SIZE, FxsaveFormat, Operand,
    Operation, X87State,
};
use crate::software::float::F80;
use crate::software::simd::Mxcsr;

const ROUNDS: usize = 3000;

#[repr(align(16))]
#[derive(Clone)]
struct Aligned<const N: usize>([u8; N]);

/// One instruction's world: the x87, and 128 bytes at [rax].
#[derive(Clone, Debug, PartialEq)]
struct World {
    x87: X87State,
    memory: [u8; 128],
}

impl World {
    fn field<const N: usize>(&self) -> [u8; N] {
        self.memory[..N].try_into().unwrap()
    }

    fn save<const N: usize>(&mut self, store: impl FnOnce(&mut X87State) -> Option<[u8; N]>) {
        if let Some(bytes) = store(&mut self.x87) {
            self.memory[..N].copy_from_slice(&bytes);
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() >> 20) as usize % choices.len()]
    }

    fn significand(&mut self) -> u64 {
        let random = self.next();
        match random >> 32 & 7 {
            0 => 1 << 63,
            1 => u64::MAX,
            2 => random << 40 | 1 << 63,
            3 => random & 0xffff | 1 << 63,
            4 => self.next() << 11 | 1 << 63,
            5 => !(random & 0xfff),
            _ => self.next() | 1 << 63,
        }
    }

    fn f80(&mut self) -> F80 {
        let significand = self.significand();
        let random = self.next();
        let sign = (random >> 63) as u16 * 0x8000;
        let r = (random >> 8) as u16;
        let (significand, exponent) = match random & 31 {
            0 => (0, 0),
            1 => (1 << 63, 0x3fff),
            2 => (significand >> 1 >> (r & 63), 0),
            3 => (significand, 0),
            4 => (1 << 63, 0x7fff),
            5 => (significand | 1 << 62, 0x7fff),
            6 => (significand & !(1 << 62) | 1, 0x7fff),
            7 => (significand & !(1 << 63), r & 0x7fff),
            8 => (significand, 0x7ffe),
            9 => (significand, 1 + (r & 63)),
            10 => (significand, 0x3c00 + (r & 127)),
            11 => (significand, 0x43f0 + (r & 15)),
            12..16 => (significand, 0x3ff0 + (r & 0x5f)),
            16 => (significand, 0x3f80 - 24 + (r & 31)),
            17 => (significand, 0x407e + (r & 3)),
            18 => (significand, r & 0x7fff),
            19 => (significand, 0x3c01 - 53 + (r & 63)),
            _ => (significand, 0x3ff8 + (r & 15)),
        };
        F80 {
            significand,
            sign_exponent: sign | exponent,
        }
    }

    fn state(&mut self) -> X87State {
        let mut state = X87State::default();
        for register in &mut state.registers {
            *register = self.f80();
        }
        let random = self.next();
        let rounding = (random >> 2 & 3) as u16 * 0x400;
        let precision = self.pick(&[0x300, 0x300, 0x200, 0x000, 0x300]);
        let masks = if random >> 5 & 3 != 0 {
            0x3f
        } else {
            (random >> 8) as u16 & 0x3f
        };
        state.set_control(rounding | precision | masks);
        let flags = (random >> 16) as u16 & 0x477f & (masks | 0x4740);
        state.set_status_word(flags | (random >> 32) as u16 & 0x3800);
        state.occupied = match random >> 40 & 3 {
            0 => 0xff,
            1 => (random >> 48) as u8,
            // ST(0) to ST(3) in use, the rest free.
            _ => 0x0fu8.rotate_left(u32::from(state.top)),
        };
        state
    }

    fn world(&mut self) -> World {
        let mut memory = [0; 128];
        let value = self.f80();
        memory[..10].copy_from_slice(&value.to_le_bytes());
        World {
            x87: self.state(),
            memory,
        }
    }

    /// A state of numbers suited to a function: `ST(0)` and `ST(1)` of these exponents.
    fn tame_world(&mut self, exponents: [(u16, u16); 2]) -> World {
        let mut world = self.world();
        for (i, (low, count)) in (0u8..).zip(exponents) {
            let random = self.next();
            let sign = (random >> 63) as u16 * 0x8000;
            let exponent = low + (random >> 8) as u16 % count;
            let value = F80 {
                significand: self.significand(),
                sign_exponent: sign | exponent,
            };
            let physical = world.x87.physical(i);
            world.x87.registers[physical] = value;
        }
        world
            .x87
            .set_control(self.pick(&[0x37f, 0x77f, 0xb7f, 0xf7f]));
        world.x87.set_status_word(u16::from(world.x87.top) << 11);
        world.x87.occupied = 0x0fu8.rotate_left(u32::from(world.x87.top));
        world
    }
}

fn image(state: &X87State) -> Aligned<FXSAVE_SIZE> {
    let mut image = Aligned([0; FXSAVE_SIZE]);
    state.fxsave(
        FxsaveFormat::Long64,
        Mxcsr::default(),
        &[0; 16],
        &mut image.0,
    );
    image
}

macro_rules! on_processor {
    ($world:expr, $($byte:literal)*) => {{
        let before: &World = &$world;
        let input = image(&before.x87);
        let clean = image(&X87State::default());
        let mut output = Aligned([0u8; FXSAVE_SIZE]);
        let mut memory = Aligned(before.memory);
        // SAFETY: the x87 and XMM registers are declared clobbered and left in their clean state;
        // memory is written only within the two local buffers.
        unsafe {
            asm!("fxrstor64 [{input}]", concat!(".byte ", bytes!($($byte)*)), "fxsave64 [{output}]",
                 "fnclex", "fxrstor64 [{clean}]", input = in(reg) &input.0,
                 output = in(reg) &mut output.0, clean = in(reg) &clean.0,
                 in("rax") &mut memory.0,
                 out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                 out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                 out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                 out("xmm15") _, out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                 out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _, options(nostack));
        }
        let mut x87 = X87State::default();
        x87.fxrstor(FxsaveFormat::Long64, &output.0, &mut [0; 16]).unwrap();
        // What the processor says of ES and B, not what follows from flags and masks.
        x87.status = u16::from_le_bytes([output.0[2], output.0[3]]) & !0x3800;
        let (opcode, instruction, data) = (0, 0, 0);
        (x87.opcode, x87.instruction_pointer, x87.data_pointer) = (opcode, instruction, data);
        World { x87, memory: memory.0 }
    }};
}

macro_rules! bytes {
    ($first:literal $($byte:literal)*) => { concat!($first, $(",", $byte,)*) };
}

/// Runs both sides on random worlds and compares everything.
macro_rules! check {
    ($random:ident, $world:expr; $($name:literal [$($byte:literal)*] $f:expr;)*) => {$(
        for _ in 0..ROUNDS {
            let before: World = $world(&mut $random);
            let expected = on_processor!(before, $($byte)*);
            let mut after = before.clone();
            let run: fn(&mut World) = $f;
            run(&mut after);
            assert!(after == expected, "{}\n before {}\n got    {}\n cpu    {}",
                $name, show(&before), show(&after), show(&expected));
        }
    )*};
}

fn show(world: &World) -> String {
    let x = &world.x87;
    let stack: Vec<String> = (0..8)
        .map(|i| {
            let value = x.st(i);
            let empty = if x.is_empty(i) { "*" } else { "" };
            format!(
                "{empty}{:04x}:{:016x}",
                value.sign_exponent, value.significand
            )
        })
        .collect();
    format!(
        "cw {:04x} sw {:04x} top {} tags {:02x} {} mem {:02x?}",
        x.control,
        x.status,
        x.top,
        x.occupied,
        stack.join(" "),
        &world.memory
    )
}

#[test]
fn loads_and_stores_match_the_processor() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    check! { random, Random::world;
        "fld m32" [0xd9 0x00] |w| w.x87.fld_f32(u32::from_le_bytes(w.field()));
        "fld m64" [0xdd 0x00] |w| w.x87.fld_f64(u64::from_le_bytes(w.field()));
        "fld m80" [0xdb 0x28] |w| w.x87.fld_f80(F80::from_le_bytes(w.field()));
        "fild m16" [0xdf 0x00] |w| w.x87.fild(i16::from_le_bytes(w.field()).into());
        "fild m32" [0xdb 0x00] |w| w.x87.fild(i32::from_le_bytes(w.field()).into());
        "fild m64" [0xdf 0x28] |w| w.x87.fild(i64::from_le_bytes(w.field()));
        "fst m32" [0xd9 0x10] |w| w.save(|x| x.fst_f32(false).map(u32::to_le_bytes));
        "fstp m32" [0xd9 0x18] |w| w.save(|x| x.fst_f32(true).map(u32::to_le_bytes));
        "fst m64" [0xdd 0x10] |w| w.save(|x| x.fst_f64(false).map(u64::to_le_bytes));
        "fstp m64" [0xdd 0x18] |w| w.save(|x| x.fst_f64(true).map(u64::to_le_bytes));
        "fstp m80" [0xdb 0x38] |w| w.save(|x| x.fstp_f80().map(F80::to_le_bytes));
        "fist m16" [0xdf 0x10] |w| w.save(|x| x.fist_i16(false).map(i16::to_le_bytes));
        "fistp m16" [0xdf 0x18] |w| w.save(|x| x.fist_i16(true).map(i16::to_le_bytes));
        "fist m32" [0xdb 0x10] |w| w.save(|x| x.fist_i32(false).map(i32::to_le_bytes));
        "fistp m32" [0xdb 0x18] |w| w.save(|x| x.fist_i32(true).map(i32::to_le_bytes));
        "fistp m64" [0xdf 0x38] |w| w.save(|x| x.fistp_i64().map(i64::to_le_bytes));
        "fisttp m16" [0xdf 0x08] |w| w.save(|x| x.fisttp_i16().map(i16::to_le_bytes));
        "fisttp m32" [0xdb 0x08] |w| w.save(|x| x.fisttp_i32().map(i32::to_le_bytes));
        "fisttp m64" [0xdd 0x08] |w| w.save(|x| x.fisttp_i64().map(i64::to_le_bytes));
        "fbstp" [0xdf 0x30] |w| w.save(X87State::fbstp);
    }
    let decimal = |random: &mut Random| {
        let mut world = random.world();
        for byte in &mut world.memory[..9] {
            let pair = random.next() % 100;
            *byte = (((pair / 10) << 4) | (pair % 10)) as u8;
        }
        world.memory[9] = random.pick(&[0x00, 0x80]);
        world
    };
    check! { random, decimal; "fbld" [0xdf 0x20] |w| w.x87.fbld(w.field()); }
}

#[test]
fn arithmetic_matches_the_processor() {
    let mut random = Random(0x2123_4567_89ab_cdef);
    check! { random, Random::world;
        "fadd st, st3" [0xd8 0xc3] |w| w.x87.arithmetic_register(Operation::Add, 0, 3, false);
        "fmul st, st1" [0xd8 0xc9] |w| w.x87.arithmetic_register(Operation::Multiply, 0, 1, false);
        "fsub st, st1" [0xd8 0xe1] |w| w.x87.arithmetic_register(Operation::Subtract, 0, 1, false);
        "fsubr st, st2" [0xd8 0xea] |w|
            w.x87.arithmetic_register(Operation::SubtractReversed, 0, 2, false);
        "fdiv st, st1" [0xd8 0xf1] |w| w.x87.arithmetic_register(Operation::Divide, 0, 1, false);
        "fdivr st, st1" [0xd8 0xf9] |w|
            w.x87.arithmetic_register(Operation::DivideReversed, 0, 1, false);
        "fadd st1, st" [0xdc 0xc1] |w| w.x87.arithmetic_register(Operation::Add, 1, 0, false);
        "dc e1" [0xdc 0xe1] |w|
            w.x87.arithmetic_register(Operation::SubtractReversed, 1, 0, false);
        "dc e9" [0xdc 0xe9] |w| w.x87.arithmetic_register(Operation::Subtract, 1, 0, false);
        "dc f1" [0xdc 0xf1] |w|
            w.x87.arithmetic_register(Operation::DivideReversed, 1, 0, false);
        "dc f9" [0xdc 0xf9] |w| w.x87.arithmetic_register(Operation::Divide, 1, 0, false);
        "faddp" [0xde 0xc1] |w| w.x87.arithmetic_register(Operation::Add, 1, 0, true);
        "fmulp" [0xde 0xca] |w| w.x87.arithmetic_register(Operation::Multiply, 2, 0, true);
        "de e1" [0xde 0xe1] |w|
            w.x87.arithmetic_register(Operation::SubtractReversed, 1, 0, true);
        "de e9" [0xde 0xe9] |w| w.x87.arithmetic_register(Operation::Subtract, 1, 0, true);
        "de f1" [0xde 0xf1] |w| w.x87.arithmetic_register(Operation::DivideReversed, 1, 0, true);
        "de f9" [0xde 0xf9] |w| w.x87.arithmetic_register(Operation::Divide, 1, 0, true);
        "fadd m32" [0xd8 0x00] |w| {
            let operand = Operand::Single(u32::from_le_bytes(w.field()));
            w.x87.arithmetic_memory(Operation::Add, operand) };
        "fsubr m64" [0xdc 0x28] |w| {
            let operand = Operand::Double(u64::from_le_bytes(w.field()));
            w.x87.arithmetic_memory(Operation::SubtractReversed, operand) };
        "fidiv m16" [0xde 0x30] |w| {
            let operand = Operand::Word(i16::from_le_bytes(w.field()));
            w.x87.arithmetic_memory(Operation::Divide, operand) };
        "fidivr m32" [0xda 0x38] |w| {
            let operand = Operand::Doubleword(i32::from_le_bytes(w.field()));
            w.x87.arithmetic_memory(Operation::DivideReversed, operand) };
        "fimul m32" [0xda 0x08] |w| {
            let operand = Operand::Doubleword(i32::from_le_bytes(w.field()));
            w.x87.arithmetic_memory(Operation::Multiply, operand) };
        "fsqrt" [0xd9 0xfa] |w| w.x87.fsqrt();
        "frndint" [0xd9 0xfc] |w| w.x87.frndint();
        "fscale" [0xd9 0xfd] |w| w.x87.fscale();
        "fxtract" [0xd9 0xf4] |w| w.x87.fxtract();
        "fprem" [0xd9 0xf8] |w| w.x87.fprem();
        "fprem1" [0xd9 0xf5] |w| w.x87.fprem1();
    }
}

fn store_flags(world: &mut World, flags: CompareFlags) {
    world.memory[0x40] = u8::from(flags.carry);
    world.memory[0x41] = u8::from(flags.zero);
    assert_eq!(flags.parity, flags.carry && flags.zero);
}

#[test]
fn comparisons_match_the_processor() {
    let mut random = Random(0x5123_4567_89ab_cdef);
    check! { random, Random::world;
        "fcom st1" [0xd8 0xd1] |w| w.x87.fcom_register(Comparison::Ordered, 1, 0);
        "fcomp st2" [0xd8 0xda] |w| w.x87.fcom_register(Comparison::Ordered, 2, 1);
        "fcompp" [0xde 0xd9] |w| w.x87.fcom_register(Comparison::Ordered, 1, 2);
        "fucom st1" [0xdd 0xe1] |w| w.x87.fcom_register(Comparison::Unordered, 1, 0);
        "fucomp st0" [0xdd 0xe8] |w| w.x87.fcom_register(Comparison::Unordered, 0, 1);
        "fucompp" [0xda 0xe9] |w| w.x87.fcom_register(Comparison::Unordered, 1, 2);
        "fcom m32" [0xd8 0x10] |w|
            w.x87.fcom_memory(Operand::Single(u32::from_le_bytes(w.field())), false);
        "fcomp m64" [0xdc 0x18] |w|
            w.x87.fcom_memory(Operand::Double(u64::from_le_bytes(w.field())), true);
        "ficom m16" [0xde 0x10] |w|
            w.x87.fcom_memory(Operand::Word(i16::from_le_bytes(w.field())), false);
        "ftst" [0xd9 0xe4] |w| w.x87.ftst();
        "fxam" [0xd9 0xe5] |w| w.x87.fxam();
        // ZF and CF are cleared by a test before, and stored by SETC and SETZ after.
        "fcomi st1" [0x48 0x85 0xe4 0xdb 0xf1 0x0f 0x92 0x40 0x40 0x0f 0x94 0x40 0x41] |w| {
            let flags = w.x87.fcomi(Comparison::Ordered, 1, false);
            store_flags(w, flags) };
        "fucomip st1" [0x48 0x85 0xe4 0xdf 0xe9 0x0f 0x92 0x40 0x40 0x0f 0x94 0x40 0x41] |w| {
            let flags = w.x87.fcomi(Comparison::Unordered, 1, true);
            store_flags(w, flags) };
    }
}

#[test]
fn stack_and_control_match_the_processor() {
    let mut random = Random(0x7123_4567_89ab_cdef);
    check! { random, Random::world;
        "fld st3" [0xd9 0xc3] |w| w.x87.fld_register(3);
        "fst st3" [0xdd 0xd3] |w| w.x87.fst_register(3, false);
        "fstp st1" [0xdd 0xd9] |w| w.x87.fst_register(1, true);
        "fxch st2" [0xd9 0xca] |w| w.x87.fxch(2);
        "ffree st1" [0xdd 0xc1] |w| w.x87.ffree(1, false);
        "ffreep st1" [0xdf 0xc1] |w| w.x87.ffree(1, true);
        "fincstp" [0xd9 0xf7] |w| w.x87.fincstp();
        "fdecstp" [0xd9 0xf6] |w| w.x87.fdecstp();
        "fchs" [0xd9 0xe0] |w| w.x87.fchs();
        "fabs" [0xd9 0xe1] |w| w.x87.fabs();
        "fld1" [0xd9 0xe8] |w| w.x87.fld_constant(Constant::One);
        "fldl2t" [0xd9 0xe9] |w| w.x87.fld_constant(Constant::Log2Of10);
        "fldl2e" [0xd9 0xea] |w| w.x87.fld_constant(Constant::Log2OfE);
        "fldpi" [0xd9 0xeb] |w| w.x87.fld_constant(Constant::Pi);
        "fldlg2" [0xd9 0xec] |w| w.x87.fld_constant(Constant::Log10Of2);
        "fldln2" [0xd9 0xed] |w| w.x87.fld_constant(Constant::LnOf2);
        "fldz" [0xd9 0xee] |w| w.x87.fld_constant(Constant::Zero);
        "fcmovb, taken" [0xf9 0xda 0xc1] |w| w.x87.fcmov(1, true);
        "fcmovb, not taken" [0xf8 0xda 0xc1] |w| w.x87.fcmov(1, false);
        "fnop" [0xd9 0xd0] |_| {};
        "fninit" [0xdb 0xe3] |w| w.x87.fninit();
        "fnclex" [0xdb 0xe2] |w| w.x87.fnclex();
        "fldcw" [0xd9 0x28] |w| w.x87.fldcw(u16::from_le_bytes(w.field()));
        "fnstcw" [0xd9 0x38] |w| w.save(|x| Some(x.fnstcw().to_le_bytes()));
        "fnstsw" [0xdd 0x38] |w| w.save(|x| Some(x.fnstsw().to_le_bytes()));
        "emms" [0x0f 0x77] |w| w.x87.emms();
        "movd mm3, [rax]" [0x0f 0x6e 0x18] |w| {
            w.x87.set_mmx(3, u32::from_le_bytes(w.field()).into()); w.x87.enter_mmx() };
        "movq [rax], mm5" [0x0f 0x7f 0x28] |w| {
            w.save(|x| Some(x.mmx(5).to_le_bytes()));
            w.x87.enter_mmx() };
    }
}

#[test]
fn environments_match_the_processor() {
    let mut random = Random(0x9123_4567_89ab_cdef);
    let wide = EnvironmentFormat::Protected32;
    let narrow = EnvironmentFormat::Protected16;
    for _ in 0..ROUNDS {
        let before = random.world();
        let with_image = |image: &[u8], pointers: std::ops::Range<usize>, x87: &X87State| {
            let mut memory = [0; 128];
            memory[..image.len()].copy_from_slice(image);
            memory[pointers].fill(0);
            World {
                x87: x87.clone(),
                memory,
            }
        };
        let mut cpu = on_processor!(before, 0xd9 0x30);
        cpu.memory[12..28].fill(0);
        cpu.memory[28..].fill(0);
        let mut x87 = before.x87.clone();
        let image = x87.fnstenv(wide);
        assert_eq!(
            with_image(&image[..28], 12..28, &x87),
            cpu,
            "fnstenv {}",
            show(&before)
        );
        let mut cpu = on_processor!(before, 0xdd 0x30);
        cpu.memory[12..28].fill(0);
        let mut x87 = before.x87.clone();
        let image = x87.fnsave(wide);
        let saved = with_image(&image, 12..28, &x87);
        assert_eq!(saved, cpu, "fnsave {}", show(&before));
        let mut cpu = on_processor!(before, 0x66 0xdd 0x30);
        cpu.memory[6..14].fill(0);
        cpu.memory[94..].fill(0);
        let mut x87 = before.x87.clone();
        let image = x87.fnsave(narrow);
        assert_eq!(
            with_image(&image[..94], 6..14, &x87),
            cpu,
            "fnsave16 {}",
            show(&before)
        );
        // Back again, into another state and with arbitrary status bits.
        let mut other = World {
            x87: random.state(),
            memory: saved.memory,
        };
        other.memory[4..6].copy_from_slice(&(random.next() as u16).to_le_bytes());
        other.memory[8..10].copy_from_slice(&(random.next() as u16).to_le_bytes());
        let cpu = on_processor!(other, 0xdd 0x20);
        let image = other.memory[..108].try_into().unwrap();
        other.x87.frstor(wide, &image);
        assert_eq!(other, cpu, "frstor {}", show(&other));
        let mut other = World {
            x87: random.state(),
            memory: saved.memory,
        };
        other.memory[4..6].copy_from_slice(&(random.next() as u16).to_le_bytes());
        let cpu = on_processor!(other, 0xd9 0x20);
        let image = other.memory[..108].try_into().unwrap();
        other.x87.fldenv(wide, &image);
        assert_eq!(other, cpu, "fldenv {}", show(&other));
    }
}

/// Distance in units of the last place; huge if signs or classes differ.
fn ulps(a: F80, b: F80) -> u128 {
    let rank = |value: F80| {
        i128::from(value.sign_exponent & 0x7fff) << 63 | i128::from(value.significand << 1 >> 1)
    };
    if a.sign() != b.sign() {
        u128::MAX
    } else {
        rank(a).abs_diff(rank(b))
    }
}

/// Compares the outcome of a function whose last bit processors may choose.
macro_rules! check_close {
    ($random:ident, $exponents:expr; $($name:literal [$($byte:literal)*] $f:expr;)*) => {$(
        let mut worst = 0;
        for _ in 0..ROUNDS {
            let before = $random.tame_world($exponents);
            let mut expected = on_processor!(before, $($byte)*);
            let mut after = before.clone();
            let run: fn(&mut World) = $f;
            run(&mut after);
            for i in 0..8 {
                let distance = ulps(after.x87.registers[i], expected.x87.registers[i]);
                worst = worst.max(distance);
                if distance <= 2 {
                    expected.x87.registers[i] = after.x87.registers[i];
                }
            }
            // The direction of rounding may differ where the last bit does.
            (after.x87.status, expected.x87.status) =
                (after.x87.status & !0x200, expected.x87.status & !0x200);
            assert!(after == expected, "{}\n before {}\n got    {}\n cpu    {}",
                $name, show(&before), show(&after), show(&expected));
        }
        println!("{}: {worst} ulp", $name);
    )*};
}

#[test]
fn elementary_functions_are_close_to_the_processor() {
    let mut random = Random(0xb123_4567_89ab_cdef);
    check_close! { random, [(0x3fc0, 0x3f), (0x3ff0, 16)];
        "f2xm1" [0xd9 0xf0] |w| w.x87.f2xm1();
    }
    check_close! { random, [(0x3fc0, 0x3d), (0x3ff0, 32)];
        "fyl2xp1" [0xd9 0xf9] |w| w.x87.fyl2xp1();
    }
    let positive = |w: &mut World| {
        let physical = w.x87.physical(0);
        w.x87.registers[physical].sign_exponent &= 0x7fff;
    };
    for exponents in [
        [(0x3ffe, 2), (0x3ff0, 32)],
        [(0x3000, 0x2000), (0x3ff0, 32)],
    ] {
        let mut worst = 0;
        for _ in 0..ROUNDS {
            let mut before = random.tame_world(exponents);
            positive(&mut before);
            let expected = on_processor!(before, 0xd9 0xf1);
            before.x87.fyl2x();
            worst = worst.max(ulps(before.x87.st(0), expected.x87.st(0)));
        }
        assert!(worst <= 2, "fyl2x: {worst} ulp");
    }
    check_close! { random, [(0x3ff0, 32), (0x3ff0, 32)];
        "fpatan" [0xd9 0xf3] |w| w.x87.fpatan();
    }
    check_close! { random, [(0x3fc0, 0x3f), (0x3ff0, 32)];
        "fsin" [0xd9 0xfe] |w| w.x87.fsin();
        "fcos" [0xd9 0xff] |w| w.x87.fcos();
        "fptan" [0xd9 0xf2] |w| w.x87.fptan();
        "fsincos" [0xd9 0xfb] |w| w.x87.fsincos();
    }
}
