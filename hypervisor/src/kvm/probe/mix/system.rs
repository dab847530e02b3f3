//! Instructions of the system: registers, tables, paging, ways between the rings, exceptions, and
//! accesses to devices.

use super::super::guest::Stop;
use super::super::program::{ABSENT, DATA, DEVICE, DONE, IDT, PAGE_TABLE, TICK, program};
use super::{ANSWER, Case};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        msrs(),
        swapgs(),
        control_registers(),
        debug_registers(),
        tables(),
    ];
    cases.extend([far_return(), iretq(), syscall(), software_interrupt()]);
    cases.extend([page_fault(), invlpg(), device(), ports()]);
    cases.extend(exceptions());
    cases.push(Case::stops("hlt", program!("hlt"), Stop::Halted));
    cases
}

fn msrs() -> Case {
    // LSTAR keeps what is written.
    let code = program!("mov ecx, 0xc0000082", "mov eax, 0x1234", "xor edx, edx", "wrmsr",
        "xor eax, eax", "rdmsr", "out {done}, al"; done = DONE);
    Case::computes("rdmsr and wrmsr", code, 0x1234)
}

fn swapgs() -> Case {
    // 2 with the base swapped, 1 with it swapped back.
    let code = program!("mov edi, {data}", "mov qword ptr [rdi], 1", "mov qword ptr [rdi + 64], 2",
        "xor edx, edx", "mov ecx, 0xc0000101", "mov eax, edi", "wrmsr", "inc ecx",
        "add eax, 64", "wrmsr", "swapgs", "mov rax, qword ptr gs:[0]", "swapgs",
        "shl rax, 4", "add rax, qword ptr gs:[0]", "out {done}, al"; data = DATA, done = DONE);
    Case::computes("swapgs", code, 0x21)
}

fn control_registers() -> Case {
    // Global pages on and off, the address space loaded anew, the task flag set and cleared.
    let code = program!("mov rax, cr4", "mov rbx, rax", "or rbx, 0x80", "mov cr4, rbx",
        "mov cr4, rax", "mov rax, cr3", "mov cr3, rax", "mov rax, cr0", "mov rbx, rax",
        "or rbx, 8", "mov cr0, rbx", "clts", "mov rbx, cr0", "xor rax, rbx", "mov ebx, 5",
        "mov cr8, rbx", "mov rcx, cr8", "xor ebx, ebx", "mov cr8, rbx", "or rax, rcx",
        "wbinvd", "out {done}, al"; done = DONE);
    Case::computes("control registers", code, 5)
}

fn debug_registers() -> Case {
    let code = program!("xor eax, eax", "mov dr0, rax", "mov dr6, rax", "mov eax, 0x400",
        "mov dr7, rax", "mov rax, dr7", "out {done}, al"; done = DONE);
    Case::computes("debug registers", code, 0x400)
}

fn tables() -> Case {
    let code = program!("mov rdi, {data}", "sgdt [rdi]", "lgdt [rdi]", "sidt [rdi + 16]",
        "lidt [rdi + 16]", "mov eax, 0x10", "mov ds, eax", "mov es, eax", "mov ss, eax",
        "xor eax, eax", "lldt ax", "mov eax, 0x30", "ltr ax", "str eax", "out {done}, al";
        data = DATA, done = DONE);
    Case::computes("descriptor tables", code, 0x30)
}

fn far_return() -> Case {
    let code = program!("push 8", "lea rax, [rip + 2f]", "push rax", "retfq", "hlt", "2:",
        "mov eax, cs", "out {done}, al"; done = DONE);
    Case::computes("far return", code, 8)
}

fn iretq() -> Case {
    // To ring 3 with I/O privilege: the end is an exit from there.
    let code = program!("push 0x23", "push 0x28000", "push 0x3002", "push 0x2b",
        "lea rax, [rip + 2f]", "push rax", "iretq", "hlt", "2:", "mov eax, cs",
        "out {done}, al"; done = DONE);
    Case::computes("iretq to ring 3", code, 0x2b)
}

fn syscall() -> Case {
    // STAR: SYSRET counts from 0x1b, SYSCALL from 8. The code segment in ring 3, and back in 0.
    let code = program!("mov ecx, 0xc0000081", "xor eax, eax", "mov edx, 0x1b0008", "wrmsr",
        "inc ecx", "lea rax, [rip + 3f]", "xor edx, edx", "wrmsr", "mov ecx, 0xc0000084",
        "xor eax, eax", "wrmsr", "lea rcx, [rip + 2f]", "mov r11d, 0x3002", "sysretq", "hlt",
        "2:", "mov ebx, cs", "syscall", "hlt", "3:", "mov eax, cs", "shl ebx, 8",
        "or eax, ebx", "out {done}, al"; done = DONE);
    Case::computes("syscall and sysret", code, 0x2b08)
}

fn software_interrupt() -> Case {
    // A gate for vector 80: its handler adds 5.
    let code = program!("mov rdi, {gate}", "lea rax, [rip + 2f]", "mov [rdi], ax",
        "mov word ptr [rdi + 2], 8", "mov word ptr [rdi + 4], 0x8e00", "shr rax, 16",
        "mov [rdi + 6], ax", "mov qword ptr [rdi + 8], 0", "mov eax, 37", "int 80",
        "out {done}, al", "hlt", "2:", "add eax, 5", "iretq"; gate = IDT + 80 * 16, done = DONE);
    Case::computes("int and iretq", code, 42)
}

fn page_fault() -> Case {
    // The handler maps the page of CR2 to itself and counts: 99 through the page, and one fault.
    let code = program!("mov rdi, {gate}", "lea rax, [rip + 2f]", "mov [rdi], ax", "shr rax, 16",
        "mov [rdi + 6], ax", "xor esi, esi", "mov edi, {absent}", "mov qword ptr [rdi], 99",
        "mov rax, [rdi]", "add rax, rsi", "out {done}, al", "hlt", "2:", "mov rbx, cr2",
        "and rbx, -4096", "mov rcx, rbx", "shr rcx, 12", "or rbx, 7",
        "mov [rcx * 8 + {table}], rbx", "and rbx, -4096", "invlpg [rbx]", "inc esi",
        "add rsp, 8", "iretq";
        gate = IDT + 14 * 16, absent = ABSENT, table = PAGE_TABLE, done = DONE);
    Case::computes("page fault", code, 100)
}

fn invlpg() -> Case {
    // A page is read, mapped to the next one, read again, and mapped back.
    let code = program!("mov edi, 0x1e0000", "mov qword ptr [rdi], 1",
        "mov qword ptr [rdi + 4096], 2", "mov rax, [rdi]", "mov ebx, {entry}",
        "mov qword ptr [rbx], 0x1e1007", "invlpg [rdi]", "mov rax, [rdi]",
        "mov qword ptr [rbx], 0x1e0007", "invlpg [rdi]", "shl rax, 4", "or rax, [rdi]",
        "out {done}, al"; entry = PAGE_TABLE + 0x1e0 * 8, done = DONE);
    Case::computes("invlpg", code, 0x21)
}

fn device() -> Case {
    let code = program!("mov edi, {device}", "mov rax, [rdi]", "inc rax", "mov [rdi + 8], rax",
        "movzx ebx, byte ptr [rdi + 16]", "shl rbx, 56", "xor rax, rbx", "out {done}, al";
        device = DEVICE, done = DONE);
    Case {
        name: "device registers",
        code,
        stops: vec![
            Stop::DeviceRead(DEVICE),
            Stop::DeviceWrite(DEVICE + 8, ANSWER + 1),
            Stop::DeviceRead(DEVICE + 16),
        ],
        result: Some((ANSWER + 1) ^ (ANSWER & 0xff) << 56),
    }
}

fn ports() -> Case {
    let code = program!("mov edx, {tick}", "in eax, dx", "inc eax", "out dx, eax",
        "in al, {tick}", "out {done}, al"; tick = TICK, done = DONE);
    let stop = || Stop::Port(u16::from(TICK));
    Case {
        name: "ports",
        code,
        stops: vec![stop(), stop(), stop()],
        result: Some(ANSWER & 0xffff_ffff),
    }
}

fn exceptions() -> Vec<Case> {
    let divide = program!("xor ecx, ecx", "mov eax, 1", "cdq", "div ecx");
    let no_segment = program!("mov eax, 0xfff8", "mov ds, eax");
    let not_canonical = program!("mov rdi, 0x800000000000", "mov rax, [rdi]");
    let no_fpu = program!(
        "mov rax, cr0",
        "or rax, 8",
        "mov cr0, rax",
        "movq xmm0, rax"
    );
    vec![
        Case::stops("division by zero", divide, Stop::Fault(0)),
        Case::stops("int3", program!("int3"), Stop::Fault(3)),
        Case::stops("ud2", program!("ud2"), Stop::Fault(6)),
        Case::stops("SSE with CR0.TS", no_fpu, Stop::Fault(7)),
        Case::stops("a segment behind the table", no_segment, Stop::Fault(13)),
        Case::stops(
            "an address that is not canonical",
            not_canonical,
            Stop::Fault(13),
        ),
    ]
}
