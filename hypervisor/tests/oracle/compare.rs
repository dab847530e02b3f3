//! What must be equal, and how a difference is told.
//!
//! Not compared, with the reason:
//! - FOP, FIP and FDP (bytes 6 to 23 of an FXSAVE image, and the pointers of an environment): AMD
//!   processors save them only while an exception is pending;
//! - MXCSR_MASK and the reserved bytes of an image: the model's own;
//! - the x87 after an unmasked exception of a conversion with an MMX register, which on AMD
//!   processors has entered MMX state by then;
//! - the error code of page faults in the upper half, which Linux does not tell;
//! - flags that the manual leaves undefined: see [`crate::sequence`].

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use crate::layout::{CODE, DATA, Ended, IMAGES, STACK, State};
use crate::sequence::Sequence;

/// Differences, one per line; empty when there are none.
pub fn differences(sequence: &Sequence, ours: &Ended, real: &Ended) -> String {
    let mut text = String::new();
    let mut line = |name: &str, ours: u64, real: u64| {
        if ours != real {
            let _ = writeln!(text, "  {name}: ours {ours:#x}, real {real:#x}");
        }
    };
    line("vector", u64::from(ours.vector), u64::from(real.vector));
    line("rip", ours.rip, real.rip);
    if real.address < 1 << 47 {
        line("error code", ours.error, real.error);
    }
    line("cr2", ours.address, real.address);
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    for (name, (ours, real)) in NAMES.iter().zip(ours.state.gpr.iter().zip(real.state.gpr)) {
        line(name, *ours, real);
    }
    let defined = !sequence.undefined_at(real.rip);
    line(
        "flags",
        ours.state.flags & defined,
        real.state.flags & defined,
    );
    let x87 = !(real.vector == 19 && sequence.converts_mmx_at(real.rip));
    text += &registers(&ours.state.fxsave, &real.state.fxsave, x87);
    text + &memory(&ours.state, &real.state)
}

fn registers(ours: &[u8; 416], real: &[u8; 416], x87: bool) -> String {
    let mut text = String::new();
    let mut compare = |name: String, from: usize, len: usize| {
        let range = from..from + len;
        if ours[range.clone()] != real[range.clone()] {
            let number = |image: &[u8; 416]| {
                let digits = image[range.clone()]
                    .iter()
                    .rev()
                    .map(|byte| format!("{byte:02x}"));
                digits.collect::<String>()
            };
            let (ours, real) = (number(ours), number(real));
            let _ = writeln!(text, "  {name}: ours {ours}, real {real}");
        }
    };
    compare("mxcsr".into(), 24, 4);
    if x87 {
        compare("fcw".into(), 0, 2);
        compare("fsw".into(), 2, 2);
        compare("tags".into(), 4, 1);
        for index in 0..8 {
            compare(format!("st{index}"), 32 + 16 * index, 10);
        }
    }
    for index in 0..16 {
        compare(format!("xmm{index}"), 160 + 16 * index, 16);
    }
    text
}

/// Whether byte `at` of the page of images is the processor's own affair.
fn is_private(at: usize) -> bool {
    match at / 1024 {
        // FXSAVE and XSAVE: pointers, MXCSR_MASK, reserved bytes, and which components are in
        // use, for a processor may call one so that holds its initial values.
        0 | 1 => {
            matches!(at % 1024, 5..=23 | 28..=31 | 416..)
                || (32..160).contains(&(at % 1024)) && at % 16 >= 10
        }
        // FNSTENV and FNSAVE: pointers.
        _ => matches!(at % 1024, 12..=27),
    }
}

fn memory(ours: &State, real: &State) -> String {
    let parts = [
        ("data", DATA, &ours.data, &real.data),
        ("stack", STACK, &ours.stack, &real.stack),
        ("images", IMAGES, &ours.images, &real.images),
    ];
    let mut text = String::new();
    for (name, start, ours, real) in parts {
        let differ = |at: &usize| ours[*at] != real[*at] && !(name == "images" && is_private(*at));
        let places: Vec<usize> = (0..ours.len()).filter(differ).collect();
        for &at in places.iter().take(8) {
            let address = start + at as u64;
            let _ = writeln!(
                text,
                "  {name} {address:#x}: ours {:02x}, real {:02x}",
                ours[at], real[at]
            );
        }
        if places.len() > 8 {
            let _ = writeln!(text, "  {name}: {} bytes in all", places.len());
        }
    }
    text
}

/// The sequence as text; `mark` is the instruction to point at.
pub fn listing(sequence: &Sequence, mark: Option<usize>) -> String {
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    for (index, place) in sequence.marks.iter().enumerate() {
        let end = sequence
            .marks
            .get(index + 1)
            .map_or(sequence.bytes.len(), |next| next.offset);
        let bytes = &sequence.bytes[place.offset..end];
        let address = CODE + place.offset as u64;
        let i = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        let mut name = String::new();
        formatter.format(&i, &mut name);
        let arrow = if mark == Some(index) { "->" } else { "  " };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{arrow} {address:x}  {hex:<30} {name}");
    }
    text
}
