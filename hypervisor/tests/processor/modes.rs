//! Modes other than 64-bit ring 0: the way of a starting processor from real mode to 64-bit mode,
//! 32-bit protected mode, compatibility mode, and fast system calls between rings.

use hypervisor::arch::x86_64::control::{cr0, cr4, efer, rflags};
use hypervisor::arch::x86_64::segment::{CS, DS, SS, access};
use hypervisor::memory::GuestAddress;
use hypervisor::state::{CpuState, DescriptorTable, Segment, reset_state};
use iced_x86::code_asm::{
    CodeAssembler, al, ax, cr0 as asm_cr0, cr3, cr4 as asm_cr4, ds, dword_ptr, eax, ebx, ecx, edx,
    esp, qword_ptr, r11, rax, rcx, ss, word_ptr,
};

use crate::guest::{CODE, DATA, Guest, HANDLERS, KERNEL_CODE, KERNEL_DATA, STACK, USER_CODE};

/// Where the processor starts, below 1 MiB.
const TRAMPOLINE: u64 = 0x1_0000;
const CODE_32_AT: u64 = 0x1_1000;
/// The operand of LGDT.
const GDT_OPERAND: u64 = 0x1_2000;
/// Gates of 8 bytes, as they are outside of 64-bit mode.
const IDT_32: u64 = 0x1_3000;
const GDT: u64 = 0x7000;
/// Flat code of 32 bits in ring 0.
const CODE_32: u16 = 0x50;
/// Flat data in ring 3, where SYSEXIT looks for it.
const USER_DATA_2: u16 = 0x38;

fn put_code(guest: &Guest, bits: u32, at: u64, assemble: impl FnOnce(&mut CodeAssembler)) {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    assemble(&mut assembler);
    let bytes = assembler.assemble(at).unwrap();
    guest.memory.write(GuestAddress(at), &bytes).unwrap();
}

/// A far jump with a 32-bit offset; `prefix` is for code whose operands have 16 bits.
fn far_jump(a: &mut CodeAssembler, prefix: bool, selector: u16, offset: u32) {
    let mut bytes = if prefix { vec![0x66] } else { Vec::new() };
    bytes.push(0xea);
    bytes.extend(offset.to_le_bytes());
    bytes.extend(selector.to_le_bytes());
    a.db(&bytes).unwrap();
}

fn guest(assemble: impl FnOnce(&mut CodeAssembler)) -> Guest {
    let guest = Guest::new(assemble);
    guest.put(GDT + u64::from(CODE_32), 0x00cf_9b00_0000_ffff);
    guest.put(GDT + u64::from(USER_DATA_2), 0x00cf_f300_0000_ffff);
    guest
}

#[test]
fn a_processor_that_starts_in_real_mode_gets_to_64_bit_mode() {
    let mut guest = guest(|a| {
        a.mov(rcx, 0x1122_3344_5566_7788u64).unwrap();
        a.mov(qword_ptr(DATA), rcx).unwrap();
        a.hlt().unwrap();
    });
    guest.put(GDT_OPERAND, 0x7f | GDT << 16);
    put_code(&guest, 16, TRAMPOLINE, |a| {
        // DS:0 is 0x12000 here.
        a.mov(ax, 0x1200).unwrap();
        a.mov(ds, ax).unwrap();
        a.mov(word_ptr(0x100), 0xbeef).unwrap();
        a.db(&[0x66, 0x0f, 0x01, 0x16, 0x00, 0x00]).unwrap(); // lgdt [0], base of 32 bits
        a.mov(eax, asm_cr0).unwrap();
        a.or(al, 1).unwrap();
        a.mov(asm_cr0, eax).unwrap();
        far_jump(a, true, CODE_32, CODE_32_AT as u32);
    });
    put_code(&guest, 32, CODE_32_AT, |a| {
        a.mov(ax, i32::from(KERNEL_DATA)).unwrap();
        a.mov(ds, ax).unwrap();
        a.mov(ss, ax).unwrap();
        a.mov(esp, STACK as i32).unwrap();
        a.push(0x1234_5678).unwrap();
        a.pop(ebx).unwrap();
        a.mov(eax, (cr4::PAE | cr4::OSFXSR) as i32).unwrap();
        a.mov(asm_cr4, eax).unwrap();
        a.mov(eax, 0x1000).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(ecx, 0xc000_0080u32 as i32).unwrap();
        a.rdmsr().unwrap();
        a.or(eax, efer::LME as i32).unwrap();
        a.wrmsr().unwrap();
        a.mov(eax, asm_cr0).unwrap();
        a.or(eax, (cr0::PG as u32) as i32).unwrap();
        a.mov(asm_cr0, eax).unwrap();
        far_jump(a, false, KERNEL_CODE, CODE as u32);
    });
    let mut state = reset_state();
    state.segments[CS].selector = (TRAMPOLINE >> 4) as u16;
    state.segments[CS].base = TRAMPOLINE;
    state.rip = 0;
    guest.vcpu.restore(&state).unwrap();
    let state = guest.run_to_halt();
    assert_eq!(guest.get(DATA), 0x1122_3344_5566_7788);
    assert_eq!(guest.get(0x1_2100) & 0xffff, 0xbeef);
    assert_eq!(state.gpr[3], 0x1234_5678);
    assert_eq!(state.gpr[4], STACK);
    assert_ne!(state.msrs.efer & efer::LMA, 0);
    assert_eq!(state.segments[CS].selector, KERNEL_CODE);
    assert_ne!(state.segments[CS].access & access::LONG, 0);
}

/// 32-bit protected mode without paging, at [`CODE_32_AT`].
fn protected_32(state: &mut CpuState) {
    state.cr0 &= !cr0::PG;
    state.cr4 &= !cr4::PAE;
    state.msrs.efer &= !(efer::LME | efer::LMA);
    in_code_32(state);
    state.idtr = DescriptorTable {
        base: IDT_32,
        limit: 0x7ff,
    };
}

/// In the flat 32-bit code segment, at [`CODE_32_AT`].
fn in_code_32(state: &mut CpuState) {
    let code = &mut state.segments[CS];
    code.selector = CODE_32;
    code.access = code.access & !access::LONG | access::DEFAULT_32;
    state.rip = CODE_32_AT;
}

#[test]
fn a_segments_limit_holds_in_32_bit_protected_mode() {
    let mut guest = guest(|_| ());
    put_code(&guest, 32, CODE_32_AT, |a| {
        a.mov(dword_ptr(0xffc), 7).unwrap();
        a.mov(dword_ptr(0xffd), 8).unwrap();
    });
    let handler = HANDLERS + 13;
    let gate = handler & 0xffff | u64::from(CODE_32) << 16 | 0x8e00 << 32;
    guest.put(IDT_32 + 13 * 8, gate);
    guest.set_state(|state| {
        protected_32(state);
        state.segments[DS] = Segment {
            selector: 0x60,
            base: DATA,
            limit: 0xfff,
            access: state.segments[SS].access & !access::GRANULAR,
        };
    });
    let state = guest.run_to_halt();
    assert_eq!(state.rip, handler + 1);
    assert_eq!(guest.get(DATA + 0xffc) as u32, 7);
    // Error code, EIP, CS, EFLAGS: four bytes each.
    assert_eq!(state.gpr[4], STACK - 16);
    let frame = [guest.get(STACK - 16), guest.get(STACK - 8)];
    assert_eq!(frame[0] as u32, 0);
    assert_eq!(frame[0] >> 32, CODE_32_AT + 10);
    assert_eq!(frame[1] as u32, u32::from(CODE_32));
}

#[test]
fn compatibility_mode_is_interrupted_into_64_bit_mode_and_gone_back_to() {
    let mut guest = guest(|_| ());
    put_code(&guest, 32, CODE_32_AT, |a| {
        a.mov(eax, -1).unwrap();
        a.inc(eax).unwrap(); // 40: a prefix in 64-bit code
        a.push(0x55).unwrap();
        a.int3().unwrap();
        a.pop(edx).unwrap();
        a.mov(dword_ptr(DATA + 8), edx).unwrap();
        a.hlt().unwrap();
    });
    guest.put_code(0xa800, |a| {
        a.mov(rax, 0x1_0000_0001u64).unwrap();
        a.add(qword_ptr(DATA), rax).unwrap();
        a.iretq().unwrap();
    });
    guest.set_gate(3, 0xa800, 0);
    guest.put(DATA + 8, u64::MAX);
    guest.set_state(in_code_32);
    let state = guest.run_to_halt();
    assert_eq!(guest.get(DATA), 0x1_0000_0001);
    assert_eq!(guest.get(DATA + 8), 0xffff_ffff_0000_0055);
    assert_eq!(state.gpr[4], STACK);
    assert_eq!(state.segments[CS].selector, CODE_32);
}

#[test]
fn syscall_enters_ring_0_and_sysret_goes_back_behind_it() {
    let mut guest = guest(|a| {
        a.mov(qword_ptr(DATA), rcx).unwrap();
        a.mov(qword_ptr(DATA + 8), r11).unwrap();
        a.sysretq().unwrap();
    });
    guest.put_code(USER_CODE, |a| {
        a.syscall().unwrap();
        a.int(0x41).unwrap();
    });
    guest.set_user_state(|state| {
        // SYSCALL: 0x10 and 0x18; SYSRET: 0x20 + 16 and 0x20 + 8.
        state.msrs.star = 0x20 << 48 | u64::from(KERNEL_CODE) << 32;
        state.msrs.lstar = CODE;
        state.msrs.fmask = rflags::IF;
        state.rflags |= rflags::IF;
    });
    let state = guest.run_to_halt();
    assert_eq!(state.rip, HANDLERS + 0x42);
    assert_eq!(guest.get(DATA), USER_CODE + 2);
    assert_eq!(guest.get(DATA + 8), 2 | rflags::IF);
    let frame: Vec<u64> = (0..5)
        .map(|word| guest.get(state.gpr[4] + word * 8))
        .collect();
    assert_eq!(frame[..3], [USER_CODE + 4, 0x33, 2 | rflags::IF]);
    assert_eq!(frame[4], 0x2b);
}

#[test]
fn sysenter_enters_ring_0_and_sysexit_leaves_it() {
    let mut guest = guest(|a| {
        a.mov(qword_ptr(DATA), rax).unwrap();
        a.sysexitq().unwrap();
    });
    guest.put_code(USER_CODE, |a| {
        a.mov(rax, 5u64).unwrap();
        a.sysenter().unwrap();
        a.nop().unwrap();
        a.int(0x41).unwrap();
    });
    guest.set_user_state(|state| {
        state.msrs.sysenter_cs = u64::from(KERNEL_CODE);
        state.msrs.sysenter_esp = STACK;
        state.msrs.sysenter_eip = CODE;
        // SYSEXIT takes both from registers; the code goes on behind SYSENTER and the NOP.
        state.gpr[2] = USER_CODE + 13;
        state.gpr[1] = state.gpr[4];
    });
    let state = guest.run_to_halt();
    assert_eq!(state.rip, HANDLERS + 0x42);
    assert_eq!(guest.get(DATA), 5);
    let frame: Vec<u64> = (0..5)
        .map(|word| guest.get(state.gpr[4] + word * 8))
        .collect();
    assert_eq!((frame[1], frame[4]), (0x33, u64::from(USER_DATA_2) | 3));
}

#[test]
fn a_privileged_instruction_in_ring_3_faults() {
    let mut guest = guest(|_| ());
    guest.put_code(USER_CODE, |a| a.hlt().unwrap());
    guest.set_user_state(|_| ());
    let fault = guest.run_to_fault();
    assert_eq!((fault.vector, fault.rip), (13, USER_CODE));
}
