//! Comparison, and the minimum and maximum of SSE.

use super::environment::{Exceptions, FloatEnv};
use super::format::Format;
use super::unpacked::{Class, Unpacked};

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The first is less.
    Less,
    /// They are equal (zeros of either sign are).
    Equal,
    /// The first is greater.
    Greater,
    /// One is not a number.
    Unordered,
}

/// Compares; a quiet NaN raises IE only if `signaling`. Flags: IE, DE.
#[inline]
pub fn compare(a: Unpacked, b: Unpacked, signaling: bool, env: &mut FloatEnv) -> Relation {
    if !a.is_number() || !b.is_number() {
        if signaling || a.is_signaling() || b.is_signaling() {
            env.raise(Exceptions::INVALID);
        }
        return Relation::Unordered;
    }
    env.note_denormal(a);
    env.note_denormal(b);
    order(a, b)
}

fn order(a: Unpacked, b: Unpacked) -> Relation {
    if a.class == Class::Zero && b.class == Class::Zero {
        return Relation::Equal;
    }
    match signed_rank(a).cmp(&signed_rank(b)) {
        std::cmp::Ordering::Less => Relation::Less,
        std::cmp::Ordering::Equal => Relation::Equal,
        std::cmp::Ordering::Greater => Relation::Greater,
    }
}

/// An integer that orders numbers as their values do.
fn signed_rank(value: Unpacked) -> i128 {
    // Exponents of all formats, denormals included, lie within 17000 of zero.
    let magnitude = match value.class {
        Class::Zero => 0,
        Class::Finite => i128::from(value.exponent + 17000) << 64 | i128::from(value.significand),
        _ => i128::MAX,
    };
    if value.sign { -magnitude } else { magnitude }
}

/// MINSS and kin: the second operand unless the first is less. Flags: IE (any NaN), DE.
#[inline]
pub fn minimum<F: Format>(a: F, b: F, env: &mut FloatEnv) -> F {
    select(a, b, Relation::Less, env)
}

/// MAXSS and kin: the second operand unless the first is greater. Flags: IE (any NaN), DE.
#[inline]
pub fn maximum<F: Format>(a: F, b: F, env: &mut FloatEnv) -> F {
    select(a, b, Relation::Greater, env)
}

fn select<F: Format>(a: F, b: F, wanted: Relation, env: &mut FloatEnv) -> F {
    let (x, y) = (env.unpack(a), env.unpack(b));
    let (chosen, unpacked) = if compare(x, y, true, env) == wanted {
        (a, x)
    } else {
        (b, y)
    };
    // A denormal taken as zero is also returned as zero.
    if unpacked.class == Class::Zero {
        F::zero(unpacked.sign)
    } else {
        chosen
    }
}
