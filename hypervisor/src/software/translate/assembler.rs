//! The few forms of host instructions that the translator writes. Spec: Intel SDM vol. 2, ch. 2
//! and 3.

/// A host register, by its number in the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(u8);

/// RAX, scratch.
pub const RAX: Reg = Reg(0);
/// RCX, scratch.
pub const RCX: Reg = Reg(1);
/// RDX, scratch.
pub const RDX: Reg = Reg(2);
/// RBX, the processor.
pub const RBX: Reg = Reg(3);
/// RSP.
pub const RSP: Reg = Reg(4);
/// RBP, saved.
pub const RBP: Reg = Reg(5);
/// RSI, scratch.
pub const RSI: Reg = Reg(6);
/// RDI, scratch.
pub const RDI: Reg = Reg(7);
/// R12, saved.
pub const R12: Reg = Reg(12);
/// R13, saved.
pub const R13: Reg = Reg(13);

/// Operand size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// One byte; only the first four registers.
    Byte,
    /// Four bytes, the upper half of a register cleared.
    Double,
    /// Eight bytes.
    Quad,
}

/// A two-operand operation, by its number in the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alu {
    /// ADD.
    Add = 0,
    /// OR.
    Or = 1,
    /// AND.
    And = 4,
    /// SUB.
    Sub = 5,
    /// XOR.
    Xor = 6,
    /// CMP.
    Cmp = 7,
}

/// A memory operand: a base and a displacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mem(pub Reg, pub i32);

/// A place in the code whose distance to a target is still to be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Hole(usize);

/// Code that will lie at a known address.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Where the first byte will lie.
    pub base: u64,
    /// The code so far.
    pub code: Vec<u8>,
}

impl Assembler {
    /// Starts again, at `base`.
    pub fn start(&mut self, base: u64) {
        self.base = base;
        self.code.clear();
    }

    /// Address of the next byte.
    pub fn here(&self) -> u64 {
        self.base + self.code.len() as u64
    }

    fn byte(&mut self, byte: u8) {
        self.code.push(byte);
    }

    fn dword(&mut self, value: i32) {
        self.code.extend_from_slice(&value.to_le_bytes());
    }

    fn rex(&mut self, size: Size, reg: Reg, base: Reg) {
        let wide = u8::from(size == Size::Quad) << 3;
        let rex = wide | (reg.0 >> 3) << 2 | base.0 >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
    }

    fn register_form(&mut self, size: Size, opcode: &[u8], reg: Reg, rm: Reg) {
        self.rex(size, reg, rm);
        self.code.extend_from_slice(opcode);
        self.byte(0xc0 | (reg.0 & 7) << 3 | rm.0 & 7);
    }

    fn memory_form(&mut self, size: Size, opcode: &[u8], reg: Reg, Mem(base, disp): Mem) {
        self.rex(size, reg, base);
        self.code.extend_from_slice(opcode);
        let (field, low) = ((reg.0 & 7) << 3, base.0 & 7);
        let short = i8::try_from(disp);
        let mode = match short {
            Ok(0) if low != 5 => 0,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        self.byte(mode | field | low);
        if low == 4 {
            self.byte(0x24);
        }
        match (mode, short) {
            (0, _) => {}
            (0x40, Ok(short)) => self.byte(short as u8),
            _ => self.dword(disp),
        }
    }

    /// `reg = [mem]`.
    pub fn load(&mut self, size: Size, reg: Reg, mem: Mem) {
        let opcode = if size == Size::Byte { 0x8a } else { 0x8b };
        self.memory_form(size, &[opcode], reg, mem);
    }

    /// `reg = [mem]`, one byte, zero-extended.
    pub fn load_byte_extended(&mut self, reg: Reg, mem: Mem) {
        self.memory_form(Size::Double, &[0x0f, 0xb6], reg, mem);
    }

    /// `reg = [mem]`, two bytes, zero-extended.
    pub fn load_word_extended(&mut self, reg: Reg, mem: Mem) {
        self.memory_form(Size::Double, &[0x0f, 0xb7], reg, mem);
    }

    /// `[mem] = reg`.
    pub fn store(&mut self, size: Size, mem: Mem, reg: Reg) {
        let opcode = if size == Size::Byte { 0x88 } else { 0x89 };
        self.memory_form(size, &[opcode], reg, mem);
    }

    /// `[mem] = value`, sign-extended.
    pub fn store_immediate(&mut self, size: Size, mem: Mem, value: i32) {
        if size == Size::Byte {
            self.memory_form(size, &[0xc6], Reg(0), mem);
            self.byte(value as u8);
        } else {
            self.memory_form(size, &[0xc7], Reg(0), mem);
            self.dword(value);
        }
    }

    /// `to = from`.
    pub fn copy(&mut self, size: Size, to: Reg, from: Reg) {
        self.register_form(size, &[0x89], from, to);
    }

    /// `reg = value`.
    pub fn set(&mut self, reg: Reg, value: u64) {
        if let Ok(low) = u32::try_from(value) {
            self.rex(Size::Double, Reg(0), reg);
            self.byte(0xb8 | reg.0 & 7);
            self.dword(low as i32);
        } else if let Ok(short) = i32::try_from(value as i64) {
            self.register_form(Size::Quad, &[0xc7], Reg(0), reg);
            self.dword(short);
        } else {
            self.rex(Size::Quad, Reg(0), reg);
            self.byte(0xb8 | reg.0 & 7);
            self.code.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// `[mem] = value`, by way of `scratch` where an immediate is too short.
    pub fn store_value(&mut self, mem: Mem, value: u64, scratch: Reg) {
        if let Ok(short) = i32::try_from(value as i64) {
            self.store_immediate(Size::Quad, mem, short);
        } else {
            self.set(scratch, value);
            self.store(Size::Quad, mem, scratch);
        }
    }

    /// `to = to OP from`, or the flags of it.
    pub fn alu(&mut self, size: Size, operation: Alu, to: Reg, from: Reg) {
        let opcode = (operation as u8) << 3 | u8::from(size != Size::Byte);
        self.register_form(size, &[opcode], from, to);
    }

    /// `to = to OP [mem]`, or the flags of it.
    pub fn alu_memory(&mut self, size: Size, operation: Alu, to: Reg, mem: Mem) {
        let opcode = (operation as u8) << 3 | 2 | u8::from(size != Size::Byte);
        self.memory_form(size, &[opcode], to, mem);
    }

    /// `to = to OP value`, or the flags of it; not for bytes.
    pub fn alu_immediate(&mut self, size: Size, operation: Alu, to: Reg, value: i32) {
        let field = Reg(operation as u8);
        if let Ok(short) = i8::try_from(value) {
            self.register_form(size, &[0x83], field, to);
            self.byte(short as u8);
        } else {
            self.register_form(size, &[0x81], field, to);
            self.dword(value);
        }
    }

    /// `[mem] = [mem] OP value`, or the flags of it.
    pub fn alu_memory_immediate(&mut self, size: Size, operation: Alu, mem: Mem, value: i8) {
        let opcode = if size == Size::Byte { 0x80 } else { 0x83 };
        self.memory_form(size, &[opcode], Reg(operation as u8), mem);
        self.byte(value as u8);
    }

    /// Flags of the low byte of `reg`, one of the first four, less `value`.
    pub fn compare_byte(&mut self, reg: Reg, value: u8) {
        self.register_form(Size::Byte, &[0x80], Reg(7), reg);
        self.byte(value);
    }

    /// Flags of `reg AND reg`.
    pub fn test(&mut self, size: Size, reg: Reg) {
        let opcode = if size == Size::Byte { 0x84 } else { 0x85 };
        self.register_form(size, &[opcode], reg, reg);
    }

    /// Flags of `[mem] AND value`, one byte.
    pub fn test_memory(&mut self, mem: Mem, value: u8) {
        self.memory_form(Size::Byte, &[0xf6], Reg(0), mem);
        self.byte(value);
    }

    /// `reg = address of mem`.
    pub fn address(&mut self, reg: Reg, mem: Mem) {
        self.memory_form(Size::Quad, &[0x8d], reg, mem);
    }

    /// `reg <<= count`.
    pub fn shift_left(&mut self, size: Size, reg: Reg, count: u8) {
        self.register_form(size, &[0xc1], Reg(4), reg);
        self.byte(count);
    }

    /// `reg >>= count`, zeroes coming in.
    pub fn shift_right(&mut self, size: Size, reg: Reg, count: u8) {
        self.register_form(size, &[0xc1], Reg(5), reg);
        self.byte(count);
    }

    /// `to` is the low half of `from`, sign-extended.
    pub fn extend_double(&mut self, to: Reg, from: Reg) {
        self.register_form(Size::Quad, &[0x63], to, from);
    }

    /// `to` is the low byte of `from`, sign-extended.
    pub fn extend_byte(&mut self, to: Reg, from: Reg) {
        self.register_form(Size::Quad, &[0x0f, 0xbe], to, from);
    }

    /// `to` is the low byte of `from`, zero-extended; only the first four registers.
    pub fn zero_extend_byte(&mut self, to: Reg, from: Reg) {
        self.register_form(Size::Double, &[0x0f, 0xb6], to, from);
    }

    /// `[mem]`, a byte, says whether the condition holds.
    pub fn store_condition(&mut self, code: u8, mem: Mem) {
        self.memory_form(Size::Double, &[0x0f, 0x90 | code], Reg(0), mem);
    }

    /// The low byte of `reg`, one of the first four, says whether the condition holds.
    pub fn set_condition(&mut self, code: u8, reg: Reg) {
        self.register_form(Size::Double, &[0x0f, 0x90 | code], Reg(0), reg);
    }

    /// Pushes a register.
    pub fn push(&mut self, reg: Reg) {
        self.rex(Size::Double, Reg(0), reg);
        self.byte(0x50 | reg.0 & 7);
    }

    /// Pops a register.
    pub fn pop(&mut self, reg: Reg) {
        self.rex(Size::Double, Reg(0), reg);
        self.byte(0x58 | reg.0 & 7);
    }

    /// Returns.
    pub fn ret(&mut self) {
        self.byte(0xc3);
    }

    /// Jumps when the condition holds.
    pub fn jump_if(&mut self, code: u8) -> Hole {
        self.byte(0x0f);
        self.byte(0x80 | code);
        self.hole()
    }

    /// Jumps.
    pub fn jump(&mut self) -> Hole {
        self.byte(0xe9);
        self.hole()
    }

    /// Jumps to the address in memory.
    pub fn jump_memory(&mut self, mem: Mem) {
        self.memory_form(Size::Double, &[0xff], Reg(4), mem);
    }

    /// Jumps to the address in `reg`.
    pub fn jump_register(&mut self, reg: Reg) {
        self.register_form(Size::Double, &[0xff], Reg(4), reg);
    }

    /// Calls `target`, wherever it is; spoils RAX where it is far away.
    pub fn call(&mut self, target: u64) {
        let distance = target.wrapping_sub(self.here() + 5) as i64;
        if let Ok(near) = i32::try_from(distance) {
            self.byte(0xe8);
            self.dword(near);
        } else {
            self.set(RAX, target);
            self.register_form(Size::Double, &[0xff], Reg(2), RAX);
        }
    }

    fn hole(&mut self) -> Hole {
        self.dword(0);
        Hole(self.code.len())
    }

    /// The hole's place: an address that [`distance`] and a patch understand.
    pub fn place_of(&self, hole: Hole) -> u64 {
        self.base + hole.0 as u64
    }

    /// Lets a jump land here.
    pub fn land(&mut self, hole: Hole) {
        let here = self.here();
        self.land_at(hole, here);
    }

    /// Lets a jump land at `target`, an address less than 2 GiB away.
    pub fn land_at(&mut self, hole: Hole, target: u64) {
        let bytes = distance(self.place_of(hole), target);
        self.code[hole.0 - 4..hole.0].copy_from_slice(&bytes);
    }
}

/// What a jump whose last byte lies before `place` must hold to land at `target`.
///
/// # Panics
/// When they are 2 GiB or more apart, which one code buffer never is.
pub fn distance(place: u64, target: u64) -> [u8; 4] {
    let distance = target.wrapping_sub(place) as i64;
    i32::try_from(distance)
        .expect("one code buffer is smaller than 2 GiB")
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    fn listing(write: impl FnOnce(&mut Assembler)) -> Vec<String> {
        let mut assembler = Assembler::default();
        assembler.start(0x1000);
        write(&mut assembler);
        let mut decoder = Decoder::with_ip(64, &assembler.code, 0x1000, DecoderOptions::NONE);
        let mut formatter = IntelFormatter::new();
        let mut lines = Vec::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            lines.push(line);
        }
        lines
    }

    #[test]
    fn moves_read_as_written() {
        let lines = listing(|a| {
            a.load(Size::Quad, RAX, Mem(RBX, 8));
            a.load(Size::Double, R12, Mem(RSP, 0x1234));
            a.load(Size::Byte, RCX, Mem(R13, 0));
            a.load_byte_extended(RDX, Mem(RBP, 0));
            a.store(Size::Byte, Mem(RDI, -1), RDX);
            a.store_immediate(Size::Quad, Mem(R12, 0), -5);
            a.store_immediate(Size::Byte, Mem(RBX, 300), 1);
            a.set(RSI, 0x1_0000_0000);
            a.set(RSI, u64::MAX);
            a.set(R13, 7);
            a.copy(Size::Quad, RDI, RBX);
            a.address(RDX, Mem(RAX, 7));
        });
        let wanted = [
            "mov rax,[rbx+8]",
            "mov r12d,[rsp+1234h]",
            "mov cl,[r13]",
            "movzx edx,byte ptr [rbp]",
            "mov [rdi-1],dl",
            "mov qword ptr [r12],0FFFFFFFFFFFFFFFBh",
            "mov byte ptr [rbx+12Ch],1",
            "mov rsi,100000000h",
            "mov rsi,0FFFFFFFFFFFFFFFFh",
            "mov r13d,7",
            "mov rdi,rbx",
            "lea rdx,[rax+7]",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn arithmetic_reads_as_written() {
        let lines = listing(|a| {
            a.alu(Size::Quad, Alu::Add, RAX, RCX);
            a.alu(Size::Byte, Alu::Cmp, RAX, RCX);
            a.alu_memory(Size::Double, Alu::Xor, RDX, Mem(RBX, 0x90));
            a.alu_immediate(Size::Quad, Alu::And, RDX, -4096);
            a.alu_immediate(Size::Double, Alu::Sub, RCX, 1);
            a.alu_memory_immediate(Size::Quad, Alu::Add, Mem(RBX, 8), 64);
            a.alu_memory_immediate(Size::Byte, Alu::Cmp, Mem(RBX, 8), 0);
            a.test(Size::Double, RAX);
            a.test_memory(Mem(RBX, 16), 1);
            a.shift_left(Size::Quad, RSI, 4);
            a.shift_right(Size::Quad, RCX, 12);
            a.extend_double(RDX, RAX);
            a.extend_byte(RDX, RAX);
            a.zero_extend_byte(RCX, RDX);
            a.load_word_extended(RCX, Mem(RDX, 0));
            a.compare_byte(RCX, 6);
            a.store_condition(2, Mem(RBX, 32));
        });
        let wanted = [
            "add rax,rcx",
            "cmp al,cl",
            "xor edx,[rbx+90h]",
            "and rdx,0FFFFFFFFFFFFF000h",
            "sub ecx,1",
            "add qword ptr [rbx+8],40h",
            "cmp byte ptr [rbx+8],0",
            "test eax,eax",
            "test byte ptr [rbx+10h],1",
            "shl rsi,4",
            "shr rcx,0Ch",
            "movsxd rdx,eax",
            "movsx rdx,al",
            "movzx ecx,dl",
            "movzx ecx,word ptr [rdx]",
            "cmp cl,6",
            "setb [rbx+20h]",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn jumps_land_where_they_are_told() {
        let lines = listing(|a| {
            let forward = a.jump_if(5);
            a.call(0x2000);
            a.call(0x7000_0000_0000);
            a.land(forward);
            let back = a.jump();
            a.land_at(back, 0x1000);
            a.jump_memory(Mem(RCX, 16));
            a.jump_register(RSI);
            a.push(R12);
            a.pop(RBP);
            a.ret();
        });
        let wanted = [
            "jne 0000000000001017h",
            "call 0000000000002000h",
            "mov rax,700000000000h",
            "call rax",
            "jmp 0000000000001000h",
            "jmp qword ptr [rcx+10h]",
            "jmp rsi",
            "push r12",
            "pop rbp",
            "ret",
        ];
        assert_eq!(lines, wanted);
    }
}
