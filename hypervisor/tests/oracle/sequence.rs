//! A sequence of instructions, built one by one, and what is undefined after each.
//!
//! An instruction that reads a flag which an earlier one left undefined would make processors
//! differ for no reason, so a comparison that defines all flags is put before it.

use iced_x86::RflagsBits as R;
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, Register};

use crate::layout::CODE;

/// Room for the instructions; the rest of the code pages is UD2.
pub const MOST_BYTES: usize = 7000;

/// Where an instruction lies, and the flags that may be undefined once it ran or faulted.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// Offset from the start of the code.
    pub offset: usize,
    /// Flags, as RFLAGS has them.
    pub undefined: u64,
}

/// Instructions with their bytes.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// One for each instruction.
    pub marks: Vec<Mark>,
    undefined: u64,
}

fn to_rflags(bits: u32) -> u64 {
    let pairs = [
        (R::CF, 1u64),
        (R::PF, 1 << 2),
        (R::AF, 1 << 4),
        (R::ZF, 1 << 6),
        (R::SF, 1 << 7),
        (R::OF, 1 << 11),
    ];
    pairs
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, flag)| flag)
        .sum()
}

impl Sequence {
    /// Address of the next instruction.
    pub fn here(&self) -> u64 {
        CODE + self.bytes.len() as u64
    }

    /// Appends an instruction; false when it cannot be encoded.
    pub fn push(&mut self, instruction: &Instruction) -> bool {
        let mut encoder = Encoder::new(64);
        if encoder.encode(instruction, self.here()).is_err() {
            return false;
        }
        // Its flags are those of what was encoded, not of what was asked for.
        let bytes = encoder.take_buffer();
        let Some(decoded) = decode(&bytes, self.here()) else {
            return false;
        };
        if self.reads_undefined(&decoded) {
            self.define_flags();
            encoder = Encoder::new(64);
            if encoder.encode(instruction, self.here()).is_err() {
                return false;
            }
            let bytes = encoder.take_buffer();
            return self.append(&bytes);
        }
        self.append(&bytes)
    }

    /// Appends an instruction given by its bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(decoded) = decode(bytes, self.here()) else {
            return false;
        };
        if self.reads_undefined(&decoded) {
            self.define_flags();
        }
        self.append(bytes)
    }

    /// Appends `cmp dl, al`, after which no flag is undefined.
    fn define_flags(&mut self) {
        self.append(&[0x38, 0xc2]);
    }

    fn reads_undefined(&self, i: &Instruction) -> bool {
        let all = matches!(
            i.mnemonic(),
            Mnemonic::Pushf | Mnemonic::Pushfq | Mnemonic::Lahf
        );
        // A shift by a count that may be zero hands on what it was given.
        self.undefined != 0 && (all || to_rflags(i.rflags_read()) & self.undefined != 0)
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(i) = decode(bytes, self.here()) else {
            return false;
        };
        let offset = self.bytes.len();
        let before = self.undefined;
        let after = (before & !to_rflags(i.rflags_modified())) | undefined_flags(&i);
        self.undefined = if may_leave_flags(&i) {
            before | after
        } else {
            after
        };
        self.marks.push(Mark {
            offset,
            undefined: before | self.undefined,
        });
        self.bytes.extend_from_slice(bytes);
        true
    }

    /// Starts with a jump to `offset`, which lets a later instruction cross into the second page.
    pub fn start_at(&mut self, offset: usize) {
        let distance = (offset - 5) as u32;
        self.append(&[&[0xe9], &distance.to_le_bytes()[..]].concat());
        while self.bytes.len() < offset {
            self.bytes.push(0xcc);
        }
    }

    /// Flags that may be undefined now.
    pub fn undefined(&self) -> u64 {
        self.undefined
    }

    /// Says that flags may be undefined after all: what defined them may have been skipped.
    pub fn also_undefined(&mut self, flags: u64) {
        self.undefined |= flags;
    }

    /// The encodings in it.
    pub fn codes(&self) -> impl Iterator<Item = Code> {
        self.marks.iter().map(|mark| {
            let address = CODE + mark.offset as u64;
            let bytes = &self.bytes[mark.offset..];
            Decoder::with_ip(64, bytes, address, DecoderOptions::NONE)
                .decode()
                .code()
        })
    }

    /// Flags that may be undefined when the sequence ended at `rip`.
    pub fn undefined_at(&self, rip: u64) -> u64 {
        let offset = rip.wrapping_sub(CODE) as usize;
        if offset >= MOST_BYTES {
            // A jump out of the code: any instruction may have been the last.
            return self.marks.iter().fold(0, |all, mark| all | mark.undefined);
        }
        if offset >= self.bytes.len() {
            return self.undefined | self.marks.last().map_or(0, |mark| mark.undefined);
        }
        // A trap is reported after its instruction, so the one before counts too.
        let until = self.marks.iter().take_while(|mark| mark.offset <= offset);
        until
            .fold((0, 0), |(_, last), mark| (last, last | mark.undefined))
            .1
    }

    /// Whether the instruction at `rip` converts from or to an MMX register.
    pub fn converts_mmx_at(&self, rip: u64) -> bool {
        use Mnemonic as N;
        let Some(bytes) = self.bytes.get(rip.wrapping_sub(CODE) as usize..) else {
            return false;
        };
        let i = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
        let to = matches!(
            i.mnemonic(),
            N::Cvtps2pi | N::Cvttps2pi | N::Cvtpd2pi | N::Cvttpd2pi
        );
        to || i.mnemonic() == N::Cvtpi2ps
    }

    /// Whether it may store into its own code.
    pub fn modifies_itself(&self) -> bool {
        self.marks.iter().any(|mark| {
            let bytes = &self.bytes[mark.offset..];
            let address = CODE + mark.offset as u64;
            let i = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
            i.is_ip_rel_memory_operand()
                && self.marks.iter().any(|other| {
                    let start = CODE + other.offset as u64;
                    (start..start + 16).contains(&i.ip_rel_memory_address())
                })
        })
    }

    /// The first `count` instructions, with UD2 in place of the rest.
    pub fn code(&self, count: usize) -> Vec<u8> {
        let end = self
            .marks
            .get(count)
            .map_or(self.bytes.len(), |mark| mark.offset);
        let mut code = self.bytes[..end].to_vec();
        while code.len() < MOST_BYTES {
            code.extend_from_slice(&[0x0f, 0x0b]);
        }
        code
    }
}

/// Decodes one instruction that must fill `bytes`.
fn decode(bytes: &[u8], ip: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let i = decoder.decode();
    (!i.is_invalid() && i.len() == bytes.len()).then_some(i)
}

/// Instructions that leave the flags alone when a count is zero or they do not run at all.
fn may_leave_flags(i: &Instruction) -> bool {
    use Mnemonic as N;
    matches!(
        i.mnemonic(),
        N::Shl | N::Shr | N::Sar | N::Sal | N::Rol | N::Ror | N::Rcl | N::Rcr | N::Shld | N::Shrd
    ) || i.has_rep_prefix()
        || i.has_repne_prefix()
}

/// Flags that an instruction leaves undefined; the manual's table, and what it says in prose.
fn undefined_flags(i: &Instruction) -> u64 {
    use Mnemonic as N;
    let listed = to_rflags(i.rflags_undefined());
    let (af, of, pf) = (1 << 4, 1 << 11, 1 << 2);
    let by_one = i.op_count() == 2
        && i.op1_kind() == iced_x86::OpKind::Immediate8
        && i.immediate8() & 31 == 1;
    listed
        | match i.mnemonic() {
            // OF is defined for shifts and rotates by one only, and CF only for counts below
            // the operand's width; AF never is.
            N::Shl | N::Sal | N::Shr | N::Sar if by_one => af,
            N::Shl | N::Sal | N::Shr => af | of | carry_of_long_shift(i),
            N::Sar => af | of,
            N::Rol | N::Ror | N::Rcl | N::Rcr if !by_one => of,
            N::Shld | N::Shrd => af | of,
            N::Bextr | N::Blsi | N::Blsmsk | N::Blsr | N::Bzhi | N::Andn => af | pf,
            _ => 0,
        }
}

/// CF, when an 8- or 16-bit operand may be shifted by its width or more.
fn carry_of_long_shift(i: &Instruction) -> u64 {
    let narrow = match i.op0_kind() {
        iced_x86::OpKind::Register => i.op0_register().size() <= 2,
        _ => i.memory_size().size() <= 2,
    };
    u64::from(narrow)
}

/// `mov register, value`.
pub fn load(register: Register, value: u64) -> Instruction {
    Instruction::with2(Code::Mov_r64_imm64, register, value).expect("a 64-bit register")
}
