//! Properties of the arithmetic that need no processor: the fast path equals the soft one, results
//! of the extended format obey exact identities, conversions invert each other.

use super::compare::{Relation, compare};
use super::convert::{convert, from_i64, round_to_integral, to_integer};
use super::{Exceptions, F80, FloatEnv, Format, Precision, RoundingMode, arithmetic, bcd, fast};

const ROUNDS: usize = 40_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A binary64 value: any bits, near the edges of the exponent range, or with few bits set.
    fn double(&mut self) -> u64 {
        let bits = self.next();
        match self.next() >> 40 & 7 {
            0 => bits,
            1 => bits & 0x802f_ffff_ffff_ffff,
            2 => bits & 0x801f_ffff_ffff_ffff | 0x7fd0_0000_0000_0000,
            3 => bits & 0x807f_ffff_e000_0000 | 0x3fc0_0000_0000_0000,
            4 => bits & 0x807f_f000_0000_0000 | 0x3fc0_0000_0000_0000,
            5 => bits & 0x8000_0000_0000_0000 | (bits >> 5 & 3) << 52,
            6 => bits & 0x81ff_ffff_ffff_ffff | 0x1e00_0000_0000_0000,
            _ => bits & 0x83ff_ffff_ffff_ffff | 0x3e00_0000_0000_0000,
        }
    }

    /// A binary32 value of the same kinds.
    fn single(&mut self) -> u32 {
        let bits = self.next() as u32;
        match self.next() >> 40 & 7 {
            0 => bits,
            1 => bits & 0x817f_ffff,
            2 => bits & 0x80ff_ffff | 0x7e80_0000,
            3 => bits & 0x83ff_f000 | 0x3e00_0000,
            4 => bits & 0x83ff_0000 | 0x3e00_0000,
            5 => bits & 0x8000_0000 | (bits >> 5 & 3) << 23,
            6 => bits & 0x8fff_ffff | 0x2000_0000,
            _ => bits & 0x8fff_ffff | 0x3800_0000,
        }
    }
}

/// Compares a fast operation with its soft form, and counts how often it answered.
macro_rules! check_fast {
    ($random:ident $source:ident $module:ident: $($operation:ident)*) => {$(
        let mut answered = 0;
        for _ in 0..ROUNDS {
            let (a, b) = ($random.$source(), $random.$source());
            let mut env = FloatEnv::default();
            let soft = arithmetic::$operation(a.unpack(), b.unpack(), &mut env);
            let value_only = fast::$module::$operation::<false>(a, b);
            if let Some((value, inexact)) = fast::$module::$operation::<true>(a, b) {
                let flags = if inexact { Exceptions::PRECISION } else { Exceptions::NONE };
                assert_eq!((value, flags), (soft, env.flags), "{a:#x} {b:#x}");
                assert_eq!(value_only, Some((value, false)));
                answered += 1;
            } else {
                assert_eq!(value_only, None);
            }
        }
        assert!(answered > ROUNDS / 4, "{} answered {answered}", stringify!($operation));
    )*};
}

#[test]
fn fast_operations_equal_the_soft_ones() {
    let mut random = Random(0x1357_9bdf_0246_8ace);
    check_fast!(random single single: add subtract multiply divide);
    check_fast!(random double double: add subtract multiply divide);
    for _ in 0..ROUNDS {
        let (a, b) = (
            random.double() & i64::MAX as u64,
            random.single() & i32::MAX as u32,
        );
        let mut env = FloatEnv::default();
        if let Some((root, inexact)) = fast::double::square_root::<true>(a) {
            assert_eq!(arithmetic::square_root::<u64>(a.unpack(), &mut env), root);
            assert_eq!(
                env.flags.intersects(Exceptions::PRECISION),
                inexact,
                "{a:#x}"
            );
        }
        let mut env = FloatEnv::default();
        if let Some((root, inexact)) = fast::single::square_root::<true>(b) {
            assert_eq!(arithmetic::square_root::<u32>(b.unpack(), &mut env), root);
            assert_eq!(
                env.flags.intersects(Exceptions::PRECISION),
                inexact,
                "{b:#x}"
            );
        }
    }
}

#[test]
fn fast_comparisons_and_conversions_equal_the_soft_ones() {
    let mut random = Random(0x7531_9bdf_0246_8ace);
    for _ in 0..ROUNDS {
        let (a, b) = (random.double(), random.double());
        let mut env = FloatEnv::default();
        if let Some(relation) = fast::double::compare(a, b) {
            assert_eq!(relation, compare(a.unpack(), b.unpack(), true, &mut env));
        }
        assert_eq!(
            fast::double::compare(a, a).unwrap_or(Relation::Equal),
            Relation::Equal
        );
        if let Some((narrow, inexact)) = fast::narrow(a) {
            assert_eq!(narrow, convert::<u32>(a.unpack(), &mut env));
            assert_eq!(env.flags.intersects(Exceptions::PRECISION), inexact);
        }
        let mut env = FloatEnv::default();
        if let Some((integer, inexact)) = fast::double::truncate(a) {
            assert_eq!(
                integer,
                to_integer(a.unpack(), 64, RoundingMode::Zero, &mut env)
            );
            assert_eq!(env.flags.intersects(Exceptions::PRECISION), inexact);
        }
        let c = random.single();
        if let Some(wide) = fast::widen(c) {
            assert_eq!(wide, convert::<u64>(c.unpack(), &mut FloatEnv::default()));
        }
    }
}

#[test]
fn binary64_survives_the_extended_format() {
    let mut random = Random(0x9731_9bdf_0246_8ace);
    for _ in 0..ROUNDS {
        let a = random.double();
        let mut env = FloatEnv::default();
        let wide: F80 = convert(a.unpack(), &mut env);
        let back: u64 = convert(wide.unpack(), &mut env);
        let quiet = if a.unpack().is_signaling() {
            1 << 51
        } else {
            0
        };
        assert_eq!(back, a | quiet);
        assert_eq!(F80::from_le_bytes(wide.to_le_bytes()), wide);
    }
}

#[test]
fn double_precision_control_gives_binary64_results() {
    let mut random = Random(0x1931_9bdf_0246_8ace);
    for mode in [
        RoundingMode::Nearest,
        RoundingMode::Down,
        RoundingMode::Up,
        RoundingMode::Zero,
    ] {
        for _ in 0..ROUNDS / 4 {
            let (a, b) = (random.double().unpack(), random.double().unpack());
            if !a.is_number() || !b.is_number() {
                continue;
            }
            let plain = FloatEnv {
                rounding: mode,
                ..FloatEnv::default()
            };
            let (mut env, mut narrow) = (plain, plain);
            env.precision = Precision::Double;
            let wide: F80 = arithmetic::divide(a, b, &mut env);
            let direct: u64 = arithmetic::divide(a, b, &mut narrow);
            let range = Exceptions::OVERFLOW | Exceptions::UNDERFLOW | Exceptions::DENORMAL;
            if !narrow.flags.intersects(range) && !env.flags.intersects(Exceptions::INVALID) {
                assert_eq!(convert::<u64>(wide.unpack(), &mut env), direct);
                assert_eq!(env.flags, narrow.flags);
            }
        }
    }
}

#[test]
fn integers_survive_conversion_and_rounding() {
    let mut random = Random(0x5931_9bdf_0246_8ace);
    for _ in 0..ROUNDS {
        let value = random.next() as i64 >> (random.next() & 63);
        let mut env = FloatEnv::default();
        let wide: F80 = from_i64(value, &mut env);
        assert_eq!(
            to_integer(wide.unpack(), 64, RoundingMode::Nearest, &mut env),
            value
        );
        assert_eq!(
            round_to_integral::<F80>(wide.unpack(), RoundingMode::Up, &mut env),
            wide
        );
        assert_eq!(env.flags, Exceptions::NONE);
        if value.unsigned_abs() < 1_000_000_000_000_000_000 {
            assert_eq!(bcd::load(bcd::store(wide, &mut env)), wide);
        } else {
            assert_eq!(bcd::store(wide, &mut env), bcd::INDEFINITE);
            assert_eq!(env.flags, Exceptions::INVALID);
        }
    }
}

#[test]
fn out_of_range_integers_are_indefinite() {
    let mut env = FloatEnv::default();
    let limit: u64 = from_i64(1 << 31, &mut env);
    assert_eq!(
        to_integer(limit.unpack(), 32, RoundingMode::Zero, &mut env),
        i64::from(i32::MIN)
    );
    assert_eq!(env.flags, Exceptions::INVALID);
    env.flags = Exceptions::NONE;
    let lowest: u64 = from_i64(-1 << 31, &mut env);
    assert_eq!(
        to_integer(lowest.unpack(), 32, RoundingMode::Zero, &mut env),
        i64::from(i32::MIN)
    );
    assert_eq!(env.flags, Exceptions::NONE);
}
