//! Handlers of the integer instructions on MMX and XMM registers.

use iced_x86::{Instruction, Mnemonic};

use super::select::{in_memory, in_register};
use super::sse_move::{compute, is_mmx};
use crate::software::execute::operand::{M, R1};
use crate::software::execute::{mmx, sse};
use crate::software::op::Handler;
use crate::software::simd::{compare, integer, logic, shift, shuffle, string};

/// A function of destination and source that has an MMX and an SSE form.
macro_rules! both {
    ($i:expr, |$a:ident, $b:ident, $immediate:pat_param| $body:expr) => {{
        if is_mmx($i, 0) {
            struct Operation;
            impl mmx::Compute<u64> for Operation {
                #[inline(always)]
                fn apply($a: u64, $b: u64, $immediate: u8) -> u64 {
                    $body
                }
            }
            if in_memory($i, 1) {
                mmx::compute::<u64, Operation, mmx::Memory> as Handler
            } else {
                mmx::compute::<u64, Operation, mmx::Register>
            }
        } else {
            compute!($i, u128, |$a, $b, $immediate| $body)
        }
    }};
    ($i:expr, $function:path) => {
        both!($i, |a, b, _| $function(a, b))
    };
}

/// PUNPCKLxx: the MMX form reads 32 bits of memory.
macro_rules! unpack_low {
    ($i:expr, $function:path) => {{
        struct Operation;
        impl mmx::Compute<u32> for Operation {
            #[inline(always)]
            fn apply(a: u64, b: u32, _: u8) -> u64 {
                $function(a, u64::from(b))
            }
        }
        match (is_mmx($i, 0), in_memory($i, 1)) {
            (true, true) => mmx::compute::<u32, Operation, mmx::Memory> as Handler,
            (true, false) => mmx::compute::<u32, Operation, mmx::Register>,
            _ => compute!($i, u128, |a, b, _| $function(a, b)),
        }
    }};
}

/// A function of destination and source that has an SSE form only.
macro_rules! wide {
    ($i:expr, $function:path) => {
        compute!($i, u128, |a, b, _| $function(a, b))
    };
}

/// A function of the low part of the source.
macro_rules! widen {
    ($i:expr, $type:ty, $function:path) => {
        compute!($i, $type, |_, b, _| $function(u128::from(b)))
    };
}

/// A shift by the low quadword of an operand, or by an immediate.
macro_rules! shift {
    ($i:expr, $function:path) => {
        if in_register($i, 1) || in_memory($i, 1) {
            both!($i, |a, b, _| $function(a, b as u64))
        } else {
            struct Operation;
            impl mmx::Compute<u64> for Operation {
                #[inline(always)]
                fn apply(a: u64, _: u64, immediate: u8) -> u64 {
                    $function(a, u64::from(immediate))
                }
            }
            impl sse::Compute<u128> for Operation {
                #[inline(always)]
                fn apply(a: u128, _: u128, immediate: u8) -> u128 {
                    $function(a, u64::from(immediate))
                }
            }
            if is_mmx($i, 0) {
                mmx::compute_alone::<Operation> as Handler
            } else {
                sse::compute_alone::<Operation>
            }
        }
    };
}

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction) -> Option<Handler> {
    if i.op_count() == 0 {
        return (i.mnemonic() == Mnemonic::Emms).then_some(mmx::empty as Handler);
    }
    arithmetic(i)
        .or_else(|| multiplication(i))
        .or_else(|| comparison(i))
        .or_else(|| logic_and_shifts(i))
        .or_else(|| shuffles(i))
        .or_else(|| widening(i))
        .or_else(|| insertion(i))
        .or_else(|| extraction(i))
        .or_else(|| blends(i))
        .or_else(|| strings(i))
}

fn arithmetic(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Paddb => both!(i, integer::paddb),
        N::Paddw => both!(i, integer::paddw),
        N::Paddd => both!(i, integer::paddd),
        N::Paddq => both!(i, integer::paddq),
        N::Psubb => both!(i, integer::psubb),
        N::Psubw => both!(i, integer::psubw),
        N::Psubd => both!(i, integer::psubd),
        N::Psubq => both!(i, integer::psubq),
        N::Paddusb => both!(i, integer::paddusb),
        N::Paddusw => both!(i, integer::paddusw),
        N::Paddsb => both!(i, integer::paddsb),
        N::Paddsw => both!(i, integer::paddsw),
        N::Psubusb => both!(i, integer::psubusb),
        N::Psubusw => both!(i, integer::psubusw),
        N::Psubsb => both!(i, integer::psubsb),
        N::Psubsw => both!(i, integer::psubsw),
        N::Pavgb => both!(i, integer::pavgb),
        N::Pavgw => both!(i, integer::pavgw),
        N::Pminub => both!(i, integer::pminub),
        N::Pminsw => both!(i, integer::pminsw),
        N::Pmaxub => both!(i, integer::pmaxub),
        N::Pmaxsw => both!(i, integer::pmaxsw),
        N::Pminsb => wide!(i, integer::pminsb),
        N::Pminsd => wide!(i, integer::pminsd),
        N::Pminuw => wide!(i, integer::pminuw),
        N::Pminud => wide!(i, integer::pminud),
        N::Pmaxsb => wide!(i, integer::pmaxsb),
        N::Pmaxsd => wide!(i, integer::pmaxsd),
        N::Pmaxuw => wide!(i, integer::pmaxuw),
        N::Pmaxud => wide!(i, integer::pmaxud),
        N::Psignb => both!(i, integer::psignb),
        N::Psignw => both!(i, integer::psignw),
        N::Psignd => both!(i, integer::psignd),
        N::Pabsb => both!(i, |_a, b, _| integer::pabsb(b)),
        N::Pabsw => both!(i, |_a, b, _| integer::pabsw(b)),
        N::Pabsd => both!(i, |_a, b, _| integer::pabsd(b)),
        N::Phaddw => both!(i, integer::phaddw),
        N::Phaddd => both!(i, integer::phaddd),
        N::Phaddsw => both!(i, integer::phaddsw),
        N::Phsubw => both!(i, integer::phsubw),
        N::Phsubd => both!(i, integer::phsubd),
        N::Phsubsw => both!(i, integer::phsubsw),
        N::Psadbw => both!(i, integer::psadbw),
        N::Mpsadbw => compute!(i, u128, |a, b, control| integer::mpsadbw(a, b, control)),
        N::Phminposuw => compute!(i, u128, |_, b, _| integer::phminposuw(b)),
        _ => return None,
    })
}

fn multiplication(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pmullw => both!(i, integer::pmullw),
        N::Pmulhw => both!(i, integer::pmulhw),
        N::Pmulhuw => both!(i, integer::pmulhuw),
        N::Pmulhrsw => both!(i, integer::pmulhrsw),
        N::Pmuludq => both!(i, integer::pmuludq),
        N::Pmaddwd => both!(i, integer::pmaddwd),
        N::Pmaddubsw => both!(i, integer::pmaddubsw),
        N::Pmulld => wide!(i, integer::pmulld),
        N::Pmuldq => wide!(i, integer::pmuldq),
        _ => return None,
    })
}

fn comparison(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pcmpeqb => both!(i, compare::pcmpeqb),
        N::Pcmpeqw => both!(i, compare::pcmpeqw),
        N::Pcmpeqd => both!(i, compare::pcmpeqd),
        N::Pcmpgtb => both!(i, compare::pcmpgtb),
        N::Pcmpgtw => both!(i, compare::pcmpgtw),
        N::Pcmpgtd => both!(i, compare::pcmpgtd),
        N::Pcmpeqq => wide!(i, compare::pcmpeqq),
        N::Pcmpgtq => wide!(i, compare::pcmpgtq),
        _ => return None,
    })
}

fn logic_and_shifts(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pand => both!(i, logic::pand),
        N::Pandn => both!(i, logic::pandn),
        N::Por => both!(i, logic::por),
        N::Pxor => both!(i, logic::pxor),
        N::Andps | N::Andpd => wide!(i, logic::pand),
        N::Andnps | N::Andnpd => wide!(i, logic::pandn),
        N::Orps | N::Orpd => wide!(i, logic::por),
        N::Xorps | N::Xorpd => wide!(i, logic::pxor),
        N::Psllw => shift!(i, shift::psllw),
        N::Pslld => shift!(i, shift::pslld),
        N::Psllq => shift!(i, shift::psllq),
        N::Psrlw => shift!(i, shift::psrlw),
        N::Psrld => shift!(i, shift::psrld),
        N::Psrlq => shift!(i, shift::psrlq),
        N::Psraw => shift!(i, shift::psraw),
        N::Psrad => shift!(i, shift::psrad),
        N::Pslldq => alone::<LeftBytes>(),
        N::Psrldq => alone::<RightBytes>(),
        N::Ptest if in_memory(i, 1) => sse::test::<sse::Aligned>,
        N::Ptest => sse::test::<sse::Register>,
        _ => return None,
    })
}

fn alone<C: sse::Compute<u128>>() -> Handler {
    sse::compute_alone::<C>
}

/// PSLLDQ.
struct LeftBytes;
impl sse::Compute<u128> for LeftBytes {
    #[inline(always)]
    fn apply(a: u128, _: u128, count: u8) -> u128 {
        shift::pslldq(a, count)
    }
}

/// PSRLDQ.
struct RightBytes;
impl sse::Compute<u128> for RightBytes {
    #[inline(always)]
    fn apply(a: u128, _: u128, count: u8) -> u128 {
        shift::psrldq(a, count)
    }
}

fn shuffles(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Packsswb => both!(i, shuffle::packsswb),
        N::Packuswb => both!(i, shuffle::packuswb),
        N::Packssdw => both!(i, shuffle::packssdw),
        N::Packusdw => wide!(i, shuffle::packusdw),
        N::Punpcklbw => unpack_low!(i, shuffle::punpcklbw),
        N::Punpcklwd => unpack_low!(i, shuffle::punpcklwd),
        N::Punpckldq => unpack_low!(i, shuffle::punpckldq),
        N::Punpckhbw => both!(i, shuffle::punpckhbw),
        N::Punpckhwd => both!(i, shuffle::punpckhwd),
        N::Punpckhdq => both!(i, shuffle::punpckhdq),
        N::Punpcklqdq | N::Unpcklpd => wide!(i, shuffle::punpcklqdq),
        N::Punpckhqdq | N::Unpckhpd => wide!(i, shuffle::punpckhqdq),
        N::Unpcklps => wide!(i, shuffle::punpckldq),
        N::Unpckhps => wide!(i, shuffle::punpckhdq),
        N::Pshufb => both!(i, shuffle::pshufb),
        N::Palignr => both!(i, |a, b, count| shuffle::palignr(a, b, count)),
        N::Pshufd => compute!(i, u128, |_, b, control| shuffle::pshufd(b, control)),
        N::Pshuflw => compute!(i, u128, |_, b, control| shuffle::pshuflw(b, control)),
        N::Pshufhw => compute!(i, u128, |_, b, control| shuffle::pshufhw(b, control)),
        N::Shufps => compute!(i, u128, |a, b, control| shuffle::shufps(a, b, control)),
        N::Shufpd => compute!(i, u128, |a, b, control| shuffle::shufpd(a, b, control)),
        N::Pshufw if in_memory(i, 1) => mmx::compute::<u64, ShuffleWords, mmx::Memory>,
        N::Pshufw => mmx::compute::<u64, ShuffleWords, mmx::Register>,
        N::Insertps if in_memory(i, 1) => {
            compute!(i, u32, |a, b, control| shuffle::insertps_memory(
                a, b, control
            ))
        }
        N::Insertps => compute!(i, u128, |a, b, control| shuffle::insertps_register(
            a, b, control
        )),
        _ => return None,
    })
}

/// PSHUFW.
struct ShuffleWords;
impl mmx::Compute<u64> for ShuffleWords {
    #[inline(always)]
    fn apply(_: u64, b: u64, control: u8) -> u64 {
        shuffle::pshufw(b, control)
    }
}

fn widening(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pmovzxbw => widen!(i, u64, shuffle::pmovzxbw),
        N::Pmovzxbd => widen!(i, u32, shuffle::pmovzxbd),
        N::Pmovzxbq => widen!(i, u16, shuffle::pmovzxbq),
        N::Pmovzxwd => widen!(i, u64, shuffle::pmovzxwd),
        N::Pmovzxwq => widen!(i, u32, shuffle::pmovzxwq),
        N::Pmovzxdq => widen!(i, u64, shuffle::pmovzxdq),
        N::Pmovsxbw => widen!(i, u64, shuffle::pmovsxbw),
        N::Pmovsxbd => widen!(i, u32, shuffle::pmovsxbd),
        N::Pmovsxbq => widen!(i, u16, shuffle::pmovsxbq),
        N::Pmovsxwd => widen!(i, u64, shuffle::pmovsxwd),
        N::Pmovsxwq => widen!(i, u32, shuffle::pmovsxwq),
        N::Pmovsxdq => widen!(i, u64, shuffle::pmovsxdq),
        _ => return None,
    })
}

/// PINSRx of `$width` bits into an XMM register.
macro_rules! insert {
    ($i:expr, $width:ty, $function:path) => {{
        struct Operation;
        impl sse::Compute<$width> for Operation {
            #[inline(always)]
            fn apply(a: u128, b: $width, index: u8) -> u128 {
                $function(a, b, index)
            }
        }
        if in_memory($i, 1) {
            sse::insert::<$width, Operation, M> as Handler
        } else {
            sse::insert::<$width, Operation, R1>
        }
    }};
}

fn insertion(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pinsrw if is_mmx(i, 0) && in_memory(i, 1) => mmx::insert::<InsertWord, M>,
        N::Pinsrw if is_mmx(i, 0) => mmx::insert::<InsertWord, R1>,
        N::Pinsrw => insert!(i, u16, shuffle::pinsrw),
        // The byte comes from the low part of a register that the decoder names whole.
        N::Pinsrb => insert!(i, u8, shuffle::pinsrb),
        N::Pinsrd => insert!(i, u32, shuffle::pinsrd),
        N::Pinsrq => insert!(i, u64, shuffle::pinsrq),
        _ => return None,
    })
}

/// PINSRW into an MMX register.
struct InsertWord;
impl mmx::Compute<u16> for InsertWord {
    #[inline(always)]
    fn apply(a: u64, b: u16, index: u8) -> u64 {
        shuffle::pinsrw(a, b, index)
    }
}

/// An extraction of `$width` bits from operand 1, an XMM register.
macro_rules! extract {
    ($i:expr, $width:ty, |$b:ident, $index:pat_param| $body:expr) => {{
        struct Operation;
        impl sse::Extract<$width> for Operation {
            #[inline(always)]
            fn apply($b: u128, $index: u8) -> $width {
                $body
            }
        }
        if in_memory($i, 0) {
            sse::extract_to_memory::<$width, Operation> as Handler
        } else {
            sse::extract::<$width, Operation>
        }
    }};
}

/// An extraction from operand 1, an MMX register.
macro_rules! extract_mmx {
    (|$b:ident, $index:pat_param| $body:expr) => {{
        struct Operation;
        impl mmx::Extract for Operation {
            #[inline(always)]
            fn apply($b: u64, $index: u8) -> u64 {
                u64::from($body)
            }
        }
        mmx::extract::<Operation> as Handler
    }};
}

fn extraction(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pextrw if is_mmx(i, 1) => extract_mmx!(|b, index| shuffle::pextrw(b, index)),
        N::Pmovmskb if is_mmx(i, 1) => extract_mmx!(|b, _| shuffle::pmovmskb(b)),
        N::Pextrb => extract!(i, u8, |b, index| shuffle::pextrb(b, index)),
        N::Pextrw => extract!(i, u16, |b, index| shuffle::pextrw(b, index)),
        N::Pextrd | N::Extractps => extract!(i, u32, |b, index| shuffle::pextrd(b, index)),
        N::Pextrq => extract!(i, u64, |b, index| shuffle::pextrq(b, index)),
        N::Pmovmskb => extract!(i, u32, |b, _| shuffle::pmovmskb(b)),
        N::Movmskps => extract!(i, u32, |b, _| shuffle::movmskps(b)),
        N::Movmskpd => extract!(i, u32, |b, _| shuffle::movmskpd(b)),
        _ => return None,
    })
}

/// A merge by the top bits of XMM0.
macro_rules! blend {
    ($i:expr, $function:path) => {{
        struct Operation;
        impl sse::Blend for Operation {
            #[inline(always)]
            fn apply(a: u128, b: u128, mask: u128) -> u128 {
                $function(a, b, mask)
            }
        }
        if in_memory($i, 1) {
            sse::blend::<Operation, sse::Aligned> as Handler
        } else {
            sse::blend::<Operation, sse::Register>
        }
    }};
}

fn blends(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Pblendw => compute!(i, u128, |a, b, control| logic::pblendw(a, b, control)),
        N::Blendps => compute!(i, u128, |a, b, control| logic::blendps(a, b, control)),
        N::Blendpd => compute!(i, u128, |a, b, control| logic::blendpd(a, b, control)),
        N::Pblendvb => blend!(i, logic::pblendvb),
        N::Blendvps => blend!(i, logic::blendvps),
        N::Blendvpd => blend!(i, logic::blendvpd),
        _ => return None,
    })
}

/// PCMPESTRx.
struct ExplicitLengths;
impl sse::CompareStrings for ExplicitLengths {
    fn apply(a: u128, b: u128, [a_len, b_len]: [i64; 2], control: u8) -> string::StringComparison {
        string::pcmpestr(a, a_len, b, b_len, control)
    }
}

/// PCMPISTRx.
struct ImplicitLengths;
impl sse::CompareStrings for ImplicitLengths {
    fn apply(a: u128, b: u128, _: [i64; 2], control: u8) -> string::StringComparison {
        string::pcmpistr(a, b, control)
    }
}

fn strings(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    macro_rules! compare {
        ($width:ty, $kind:ty, $mask:literal) => {
            if in_memory(i, 1) {
                sse::compare_strings::<$width, $kind, sse::Unaligned, $mask> as Handler
            } else {
                sse::compare_strings::<$width, $kind, sse::Register, $mask>
            }
        };
    }
    Some(match i.mnemonic() {
        N::Pcmpestri => compare!(u32, ExplicitLengths, false),
        N::Pcmpestri64 => compare!(u64, ExplicitLengths, false),
        N::Pcmpestrm => compare!(u32, ExplicitLengths, true),
        N::Pcmpestrm64 => compare!(u64, ExplicitLengths, true),
        N::Pcmpistri => compare!(u32, ImplicitLengths, false),
        N::Pcmpistrm => compare!(u32, ImplicitLengths, true),
        _ => return None,
    })
}
