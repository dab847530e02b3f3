//! Instructions on data: locked and repeated ones, bits, SSE2, x87 and their state.

use super::super::guest::Stop;
use super::super::program::{DATA, DONE, TICK, program};
use super::Case;

/// All but those that not every processor has.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![compare_and_exchange(), locked(), strings(), arithmetic()];
    cases.extend([sse2(), x87(), fxsave(), barriers(), flags(), identify()]);
    cases
}

fn compare_and_exchange() -> Case {
    // Zeros are there, so the exchange happens: 1 for that, and both halves of the new value.
    let code = program!("mov rdi, {data}", "xor eax, eax", "xor edx, edx", "mov ebx, 5",
        "mov ecx, 7", "lock cmpxchg16b xmmword ptr [rdi]", "setz al", "movzx eax, al",
        "add rax, [rdi]", "add rax, [rdi + 8]", "out {done}, al"; data = DATA, done = DONE);
    Case::computes("cmpxchg16b", code, 1 + 5 + 7)
}

fn locked() -> Case {
    // RAX and memory: 10, 15; 15, 10; 15, 11; 15, 27; 27, 27; 27, 100.
    let code = program!("mov rdi, {data}", "mov qword ptr [rdi], 10", "mov eax, 5",
        "lock xadd [rdi], rax", "xchg [rdi], rax", "lock inc qword ptr [rdi]",
        "lock bts dword ptr [rdi], 4", "mov edx, 100", "lock cmpxchg [rdi], rdx",
        "lock cmpxchg [rdi], rdx", "add rax, [rdi]", "out {done}, al"; data = DATA, done = DONE);
    Case::computes("locked instructions", code, 127)
}

fn strings() -> Case {
    // 64 bytes are filled and copied; the search for another byte looks at all of them.
    let code = program!("mov rdi, {data}", "mov ecx, 64", "mov al, 0x11", "rep stosb",
        "mov rsi, {data}", "mov ecx, 8", "rep movsq", "mov rdi, {data}", "mov ecx, 128",
        "mov al, 0x22", "repne scasb", "mov eax, ecx", "mov rsi, {data}", "add rsi, 120",
        "lodsq", "out {done}, al"; data = DATA, done = DONE);
    Case::computes("string instructions", code, 0x1111_1111_1111_1111)
}

fn arithmetic() -> Case {
    // 8 and 8 from the bit scans; 1000 = 142 * 7 + 6; 142 * 16 + 6; turned over and back.
    let code = program!("mov eax, 0x100", "bsf ecx, eax", "bsr edx, eax", "add ecx, edx",
        "mov eax, 1000", "xor edx, edx", "mov ebx, 7", "div rbx", "imul rax, rcx",
        "add rax, rdx", "bswap rax", "shld rbx, rax, 8", "bswap rax", "cmovz rbx, rax",
        "out {done}, al"; done = DONE);
    Case::computes("arithmetic", code, 142 * 16 + 6)
}

fn sse2() -> Case {
    // 7 doubled, through memory and a shuffle, as a float squared.
    let code = program!("mov rdi, {data}", "mov eax, 7", "movq xmm0, rax", "paddq xmm0, xmm0",
        "movdqa xmmword ptr [rdi], xmm0", "pshufd xmm1, xmmword ptr [rdi], 0x44",
        "psrldq xmm1, 8", "movq rax, xmm1", "cvtsi2sd xmm2, rax", "mulsd xmm2, xmm2",
        "cvttsd2si rax, xmm2", "out {done}, al"; data = DATA, done = DONE);
    Case::computes("SSE2", code, 196)
}

fn x87() -> Case {
    let code = program!("mov rdi, {data}", "fninit", "fld1", "fadd st(0), st(0)",
        "fistp qword ptr [rdi]", "fwait", "mov rax, [rdi]", "out {done}, al";
        data = DATA, done = DONE);
    Case::computes("x87", code, 2)
}

fn fxsave() -> Case {
    let code = program!("mov rdi, {data}", "mov eax, 77", "movq xmm0, rax", "fxsave64 [rdi]",
        "pxor xmm0, xmm0", "fxrstor64 [rdi]", "movq rax, xmm0", "out {done}, al";
        data = DATA, done = DONE);
    Case::computes("fxsave and fxrstor", code, 77)
}

/// State by XSAVE, after XCR0 is set to x87 and SSE, across exits.
pub(super) fn xsave() -> Case {
    let code = program!("xor ecx, ecx", "xor edx, edx", "mov eax, 3", "xsetbv",
        "mov rdi, {data}", "mov eax, 78", "movq xmm0, rax", "out {tick}, al", "mov eax, 3",
        "xsave64 [rdi]", "pxor xmm0, xmm0", "out {tick}, al", "mov eax, 3", "xrstor64 [rdi]",
        "movq rax, xmm0", "out {done}, al"; data = DATA, tick = TICK, done = DONE);
    Case {
        stops: vec![Stop::Port(u16::from(TICK)); 2],
        ..Case::computes("xsave and xrstor", code, 78)
    }
}

fn barriers() -> Case {
    let code = program!("mfence", "lfence", "sfence", "pause", "endbr64", "mov ax, ds",
        "verw ax", "setz al", "movzx eax, al", "out {done}, al"; done = DONE);
    Case::computes("barriers and verw", code, 1)
}

fn flags() -> Case {
    // Only the I/O privilege of the start is left of those that are looked at.
    let code = program!("std", "cld", "stc", "cli", "sti", "nop", "cli", "clc", "pushfq",
        "pop rax", "push rax", "popfq", "and eax, 0x3601", "out {done}, al"; done = DONE);
    Case::computes("flags", code, 0x3000)
}

fn identify() -> Case {
    let code = program!("xor eax, eax", "xor ecx, ecx", "cpuid", "test eax, eax", "setnz r8b",
        "rdtsc", "or eax, edx", "setnz al", "and al, r8b", "movzx eax, al", "out {done}, al";
        done = DONE);
    Case::computes("cpuid and rdtsc", code, 1)
}
