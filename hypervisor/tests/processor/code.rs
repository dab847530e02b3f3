//! Decoded code: instructions that cross pages, code that changes, stops at every count.

use hypervisor::{CpuState, Exit, GuestAddress};
use iced_x86::code_asm::{
    CodeAssembler, byte_ptr, dword_ptr, eax, ecx, qword_ptr, rax, rcx, rdi, rdx, rsi, xmm0, xmm1,
};

use crate::guest::{CODE, DATA, Guest, PRESENT};

/// A bit of everything: loops, strings, stack, SSE, x87, and a trap whose handler returns.
fn program(a: &mut CodeAssembler) {
    let mut again = a.create_label();
    a.fninit().unwrap();
    a.mov(ecx, 7).unwrap();
    a.mov(rax, 0x1234_5678_9abc_def0u64).unwrap();
    a.set_label(&mut again).unwrap();
    a.mov(qword_ptr(DATA + 8), rax).unwrap();
    a.add(rax, rcx).unwrap();
    a.push(rax).unwrap();
    a.cvtsi2sd(xmm0, rax).unwrap();
    a.addsd(xmm1, xmm0).unwrap();
    a.fild(qword_ptr(DATA + 8)).unwrap();
    a.fstp(qword_ptr(DATA + 16)).unwrap();
    a.dec(ecx).unwrap();
    a.jne(again).unwrap();
    a.mov(rsi, DATA).unwrap();
    a.mov(rdi, DATA + 0x40).unwrap();
    a.mov(ecx, 9).unwrap();
    a.rep().movsq().unwrap();
    a.int3().unwrap();
    a.pop(rdx).unwrap();
    a.imul_3(rdx, rdx, 77).unwrap();
    a.hlt().unwrap();
}

fn ready() -> Guest {
    let mut guest = Guest::new(program);
    guest.put_code(0xa800, |a| {
        a.inc(qword_ptr(DATA + 0x100)).unwrap();
        a.iretq().unwrap();
    });
    guest.set_gate(3, 0xa800, 0);
    guest.set_state(|_| ());
    guest
}

fn memory_of(guest: &Guest) -> Vec<u64> {
    (0..0x40).map(|word| guest.get(DATA + word * 8)).collect()
}

#[test]
fn a_run_stopped_at_any_count_goes_through_the_same_states() {
    let mut stepped = ready();
    let mut states: Vec<(CpuState, Vec<u64>)> = Vec::new();
    loop {
        states.push((stepped.vcpu.save(), memory_of(&stepped)));
        let next = stepped.vcpu.logical_time() + 1;
        match stepped.vcpu.run(next).unwrap() {
            Exit::Reached => assert_eq!(stepped.vcpu.logical_time(), next),
            Exit::Halted => break,
            other => panic!("{other:?}"),
        }
    }
    let last = (stepped.vcpu.save(), memory_of(&stepped));
    assert_eq!(last.1[0x20], 1, "the handler ran once");
    assert!(
        states.len() > 70,
        "the program is worth slicing: {}",
        states.len()
    );
    for (count, expected) in states.iter().enumerate().skip(1) {
        let mut guest = ready();
        assert_eq!(guest.vcpu.run(count as u64).unwrap(), Exit::Reached);
        assert_eq!(guest.vcpu.save(), expected.0, "after {count}");
        assert_eq!(memory_of(&guest), expected.1, "after {count}");
        guest.run_to_halt();
        assert_eq!(
            (guest.vcpu.save(), memory_of(&guest)),
            last,
            "stopped at {count}"
        );
    }
}

#[test]
fn saved_state_goes_on_in_another_processor() {
    let mut first = ready();
    assert_eq!(first.vcpu.run(40).unwrap(), Exit::Reached);
    let mut second = ready();
    assert_eq!(second.vcpu.run(40).unwrap(), Exit::Reached);
    let state = second.vcpu.save();
    let memory = second.memory.clone();
    second.vcpu = Box::new(hypervisor::software::vcpu::SoftwareVcpu::new(memory));
    second.vcpu.restore(&state).unwrap();
    assert_eq!(first.run_to_halt(), second.run_to_halt());
    assert_eq!(memory_of(&first), memory_of(&second));
}

#[test]
fn an_instruction_across_two_pages_runs_and_faults_on_its_second_page() {
    let at = CODE + 0x1000 - 3;
    let mut guest = Guest::new(|a| a.jmp(at).unwrap());
    guest.put_code(at, |a| {
        a.mov(eax, 0x1122_3344).unwrap();
        a.hlt().unwrap();
    });
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_halt().gpr[0], 0x1122_3344);
    guest.map(CODE + 0x1000, 0);
    guest.set_state(|_| ());
    let fault = guest.run_to_fault();
    assert_eq!((fault.vector, fault.code, fault.rip), (14, Some(0x10), at));
    assert_eq!(guest.vcpu_cr2(), CODE + 0x1000);
    guest.map(CODE + 0x1000, PRESENT);
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_halt().gpr[0], 0x1122_3344);
}

#[test]
fn code_written_by_the_guest_is_what_runs_next() {
    // Each turn changes the immediate of the first instruction of the loop, which is decoded.
    let mut guest = Guest::new(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 5).unwrap();
        a.set_label(&mut again).unwrap();
        a.mov(eax, 1).unwrap();
        a.add(dword_ptr(CODE + 6), 3).unwrap();
        a.add(rdx, rax).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    });
    let state = guest.run_to_halt();
    assert_eq!(state.gpr[2], 1 + 4 + 7 + 10 + 13);
}

#[test]
fn an_instruction_may_overwrite_its_own_block_ahead_of_itself() {
    // The byte written turns the NOP right behind into HLT.
    let mut guest = Guest::new(|a| {
        a.mov(byte_ptr(CODE + 8), 0xf4).unwrap();
        a.nop().unwrap();
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
    });
    let state = guest.run_to_halt();
    assert_eq!((state.rip, state.gpr[0]), (CODE + 9, 0));
}

#[test]
fn code_in_the_second_page_of_an_instruction_can_change() {
    let at = CODE + 0x1000 - 3;
    let mut guest = Guest::new(|a| {
        a.mov(ecx, 2).unwrap();
        a.jmp(at).unwrap();
    });
    guest.put_code(at, |a| {
        let mut end = a.create_label();
        a.mov(eax, 0x1111_1111).unwrap();
        a.add(rdx, rax).unwrap();
        a.mov(byte_ptr(at + 4), 0x22).unwrap();
        a.dec(ecx).unwrap();
        a.je(end).unwrap();
        a.jmp(at).unwrap();
        a.set_label(&mut end).unwrap();
        a.hlt().unwrap();
    });
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_halt().gpr[2], 0x1111_1111 + 0x2211_1111);
}

#[test]
fn code_that_a_device_overwrites_between_two_instructions_is_decoded_anew() {
    // Hot enough to be translated before it changes.
    let mut guest = Guest::new(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.mov(eax, 1).unwrap();
        a.add(rcx, rax).unwrap();
        a.jmp(again).unwrap();
    });
    guest.set_state(|state| state.gpr[1] = 0);
    assert_eq!(guest.vcpu.run(30_000).unwrap(), Exit::Reached);
    assert_eq!(guest.vcpu.save().gpr[1], 10_000);
    // The operand of the first instruction, behind its opcode.
    let operand = CODE + 1;
    let written = guest
        .memory
        .write(GuestAddress(operand), &7u32.to_le_bytes());
    written.unwrap();
    guest.vcpu.memory_written(operand, 4);
    assert_eq!(guest.vcpu.run(60_000).unwrap(), Exit::Reached);
    assert_eq!(guest.vcpu.save().gpr[1], 10_000 + 70_000);
}
