//! Interrupts, shadows, traps, and the debugger's stops.

use hypervisor::Exit;
use hypervisor::arch::x86_64::control::rflags;
use hypervisor::vcpu::DebugPoint;
use iced_x86::code_asm::{byte_ptr, eax, ecx, qword_ptr, rax, rsp, ss};

use crate::guest::{
    CODE, DATA, Guest, HANDLERS, IST_STACK, KERNEL_CODE, KERNEL_DATA, STACK, USER_CODE,
};

#[test]
fn interrupt_on_an_interrupt_stack_pushes_an_aligned_frame_there() {
    let mut guest = Guest::new(|a| {
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    guest.set_gate(0x40, HANDLERS + 0x40, 1);
    guest.set_state(|state| {
        state.rflags |= rflags::IF;
        state.gpr[4] = STACK - 5;
    });
    guest.vcpu.run(1).unwrap();
    guest.vcpu.inject_interrupt(0x40);
    let state = guest.run_to_halt();
    assert_eq!(state.rip, HANDLERS + 0x41);
    assert_eq!(state.gpr[4], IST_STACK - 40);
    let frame: Vec<u64> = (0..5)
        .map(|word| guest.get(state.gpr[4] + word * 8))
        .collect();
    let flags = 0x202;
    let expected = [
        CODE + 1,
        u64::from(KERNEL_CODE),
        flags,
        STACK - 5,
        u64::from(KERNEL_DATA),
    ];
    assert_eq!(frame, expected);
    assert_eq!(state.rflags & rflags::IF, 0);
}

#[test]
fn interrupt_in_ring_3_switches_to_the_ring_0_stack() {
    let mut guest = Guest::new(|_| ());
    guest.put_code(USER_CODE, |a| {
        a.nop().unwrap();
        a.nop().unwrap();
    });
    guest.set_user_state(|state| state.rflags |= rflags::IF);
    guest.vcpu.run(1).unwrap();
    guest.vcpu.inject_interrupt(0x41);
    let state = guest.run_to_halt();
    assert_eq!(state.rip, HANDLERS + 0x42);
    assert_eq!(state.segments[1].selector, KERNEL_CODE);
    assert_eq!(state.gpr[4], 0xf000 - 40);
    assert_eq!(guest.get(state.gpr[4]), USER_CODE + 1);
}

#[test]
fn sti_and_mov_ss_hold_interrupts_back_for_one_instruction() {
    for load_stack in [false, true] {
        let mut guest = Guest::new(|a| {
            if load_stack {
                a.mov(ss, eax).unwrap();
            } else {
                a.sti().unwrap();
            }
            a.nop().unwrap();
            a.nop().unwrap();
            a.hlt().unwrap();
        });
        guest.set_state(|state| {
            state.gpr[0] = u64::from(KERNEL_DATA);
            if load_stack {
                state.rflags |= rflags::IF;
            }
        });
        assert_eq!(guest.vcpu.run(1).unwrap(), Exit::Reached);
        assert!(
            !guest.vcpu.can_take_interrupt(),
            "in the shadow, load_stack {load_stack}"
        );
        assert!(guest.vcpu.save().pending.interrupt_shadow);
        guest.vcpu.request_interrupt_window(true);
        assert_eq!(guest.vcpu.run(100).unwrap(), Exit::InterruptWindow);
        assert_eq!(guest.vcpu.logical_time(), 2, "load_stack {load_stack}");
        guest.vcpu.inject_interrupt(0x50);
        let state = guest.run_to_halt();
        assert_eq!(guest.get(state.gpr[4]), guest_second_nop(load_stack));
    }
}

/// Address of the second NOP: STI has one byte, MOV SS two.
fn guest_second_nop(load_stack: bool) -> u64 {
    CODE + if load_stack { 3 } else { 2 }
}

#[test]
fn nmi_waits_for_the_shadow_and_for_iret() {
    let mut guest = Guest::new(|a| {
        a.sti().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    guest.vcpu.run(1).unwrap();
    guest.vcpu.inject_nmi();
    let state = guest.run_to_halt();
    assert_eq!(state.rip, HANDLERS + 3);
    assert_eq!(guest.get(state.gpr[4]), CODE + 2);
    assert!(state.pending.nmi_blocked);
    guest.vcpu.inject_nmi();
    // A second one does not interrupt the handler of the first.
    let limit = guest.vcpu.logical_time();
    assert_eq!(guest.vcpu.run(limit).unwrap(), Exit::Reached);
    assert!(guest.vcpu.save().pending.nmi);
}

#[test]
fn trap_flag_stops_after_each_instruction_that_started_with_it() {
    let mut guest = Guest::new(|a| {
        a.pushfq().unwrap();
        a.or(qword_ptr(rsp), 0x100).unwrap();
        a.popfq().unwrap();
        a.mov(eax, 1).unwrap();
        a.mov(ecx, 2).unwrap();
        a.hlt().unwrap();
    });
    let fault = guest.run_to_fault();
    // POPFQ itself started without the flag; the MOV behind it is what traps.
    let behind = CODE + 1 + 8 + 1 + 5;
    assert_eq!((fault.vector, fault.rip), (1, behind));
    let state = guest.vcpu.save();
    assert_eq!((state.gpr[0], state.gpr[1]), (1, 0));
    assert_eq!(state.debug[4] & 1 << 14, 1 << 14, "DR6.BS");
    assert_eq!(
        state.rflags & rflags::TF,
        0,
        "the handler runs without the flag"
    );
}

#[test]
fn breakpoint_stops_before_its_instruction_once_each_time() {
    let mut guest = Guest::new(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 3).unwrap();
        a.set_label(&mut again).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    });
    guest
        .vcpu
        .set_debug_points(&[DebugPoint::Execute(CODE + 5)])
        .unwrap();
    for left in [3, 2, 1] {
        assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Debug);
        let state = guest.vcpu.save();
        assert_eq!((state.rip, state.gpr[1]), (CODE + 5, left));
    }
    assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Halted);
}

#[test]
fn watchpoint_stops_after_the_write_and_not_after_a_read() {
    let mut guest = Guest::new(|a| {
        a.mov(rax, qword_ptr(DATA)).unwrap();
        a.mov(byte_ptr(DATA + 9), 1).unwrap();
        a.mov(byte_ptr(DATA + 3), 7).unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    let watched = DebugPoint::Write {
        address: DATA,
        len: 8,
    };
    guest.vcpu.set_debug_points(&[watched]).unwrap();
    assert!(guest.vcpu.set_debug_points(&[watched; 65]).is_err());
    assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Debug);
    assert_eq!(guest.vcpu.logical_time(), 3);
    assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Halted);
}

#[test]
fn fault_inside_the_delivery_of_a_fault_becomes_a_double_fault_then_a_shutdown() {
    let mut guest = Guest::new(|a| a.ud2().unwrap());
    // The gate of #UD is not present: #NP during a benign fault is delivered as it is.
    guest.put(crate::guest::IDT + 6 * 16, 0);
    guest.set_state(|_| ());
    let fault = guest.run_to_fault();
    assert_eq!((fault.vector, fault.rip), (13, CODE));
    // Without a handler for #GP either, #GP upon #GP is a double fault.
    guest.put(crate::guest::IDT + 13 * 16, 0);
    guest.set_state(|_| ());
    let fault = guest.run_to_fault();
    assert_eq!((fault.vector, fault.code), (8, Some(0)));
    guest.put(crate::guest::IDT + 8 * 16, 0);
    guest.set_state(|_| ());
    assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Shutdown);
}
