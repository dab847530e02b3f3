//! Rights of pages, and the faults they raise.

use hypervisor::arch::x86_64::control::{cr0, cr4, rflags};
use hypervisor::state::CpuState;
use iced_x86::code_asm::{al, byte_ptr, rax};

use crate::guest::{CODE, DATA, Fault, Guest, NX, PRESENT, USER, USER_CODE, USER_DATA, WRITABLE};

fn fault(vector: u8, code: u64, rip: u64) -> Fault {
    Fault {
        vector,
        code: Some(code),
        rip,
    }
}

/// Reads or writes a byte at `address` and halts.
fn access(address: u64, write: bool) -> Guest {
    Guest::new(|a| {
        if write {
            a.mov(byte_ptr(address), al).unwrap();
        } else {
            a.mov(al, byte_ptr(address)).unwrap();
        }
        a.hlt().unwrap();
    })
}

/// Runs to the end, which must be the program's own HLT.
fn passes(guest: &mut Guest) -> CpuState {
    let state = guest.run_to_halt();
    assert!(state.rip > CODE, "a fault: halted at {:#x}", state.rip);
    state
}

#[test]
fn supervisor_access_to_a_user_page_faults_under_smap_unless_ac_is_set() {
    for (write, code) in [(false, 1), (true, 3)] {
        let mut guest = access(USER_DATA, write);
        guest.set_state(|state| state.cr4 |= cr4::SMAP);
        assert_eq!(guest.run_to_fault(), fault(14, code, CODE));
        assert_eq!(guest.vcpu_cr2(), USER_DATA);
        guest.set_state(|state| {
            state.cr4 |= cr4::SMAP;
            state.rflags |= rflags::AC;
        });
        passes(&mut guest);
        guest.set_state(|_| ());
        passes(&mut guest);
    }
}

#[test]
fn supervisor_fetch_from_a_user_page_faults_under_smep() {
    let mut guest = Guest::new(|a| {
        a.mov(rax, USER_CODE).unwrap();
        a.jmp(rax).unwrap();
    });
    guest.put_code(USER_CODE, |a| a.hlt().unwrap());
    guest.set_state(|state| state.cr4 |= cr4::SMEP);
    assert_eq!(guest.run_to_fault(), fault(14, 0x11, USER_CODE));
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_halt().rip, USER_CODE + 1);
}

#[test]
fn fetch_from_a_no_execute_page_faults_even_when_it_was_read_before() {
    let mut guest = Guest::new(|a| {
        a.mov(rax, DATA).unwrap();
        a.mov(al, byte_ptr(DATA)).unwrap();
        a.mov(rax, DATA).unwrap();
        a.jmp(rax).unwrap();
    });
    guest.put_code(DATA, |a| a.hlt().unwrap());
    guest.map(DATA, PRESENT | WRITABLE | NX);
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_fault(), fault(14, 0x11, DATA));
}

#[test]
fn supervisor_write_to_a_read_only_page_faults_when_wp_is_set() {
    let mut guest = access(DATA, true);
    guest.map(DATA, PRESENT);
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_fault(), fault(14, 3, CODE));
    guest.set_state(|state| state.cr0 &= !cr0::WP);
    passes(&mut guest);
}

#[test]
fn user_accesses_obey_the_user_and_the_write_bit() {
    // (rights, write, error code; None when it passes)
    let cases = [
        (PRESENT | WRITABLE | USER, true, None),
        (PRESENT | USER, false, None),
        (PRESENT | USER, true, Some(7)),
        (PRESENT | WRITABLE, false, Some(5)),
        (PRESENT | WRITABLE, true, Some(7)),
        (0, false, Some(4)),
        (0, true, Some(6)),
    ];
    for (rights, write, code) in cases {
        let mut guest = Guest::new(|_| ());
        guest.put_code(USER_CODE, |a| {
            if write {
                a.mov(byte_ptr(USER_DATA), al).unwrap();
            } else {
                a.mov(al, byte_ptr(USER_DATA)).unwrap();
            }
            a.ud2().unwrap();
        });
        guest.map(USER_DATA, rights);
        guest.set_user_state(|_| ());
        let found = guest.run_to_fault();
        match code {
            Some(code) => assert_eq!(found, fault(14, code, USER_CODE), "{rights:#x} {write}"),
            None => assert_eq!(found.vector, 6, "{rights:#x} {write}"),
        }
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_by_use() {
    const ACCESSED: u64 = 0x20;
    const DIRTY: u64 = 0x40;
    let mut guest = access(DATA, false);
    passes(&mut guest);
    assert_eq!(guest.entry(DATA) & (ACCESSED | DIRTY), ACCESSED);
    assert_eq!(guest.entry(CODE) & (ACCESSED | DIRTY), ACCESSED);
    let mut guest = access(DATA, true);
    passes(&mut guest);
    assert_eq!(guest.entry(DATA) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
}

#[test]
fn a_write_after_a_cached_read_still_sets_the_dirty_bit() {
    let mut guest = Guest::new(|a| {
        a.mov(al, byte_ptr(DATA)).unwrap();
        a.mov(byte_ptr(DATA), al).unwrap();
        a.hlt().unwrap();
    });
    passes(&mut guest);
    assert_eq!(guest.entry(DATA) & 0x40, 0x40);
}

#[test]
fn store_across_two_pages_writes_nothing_when_the_second_faults() {
    let mut guest = Guest::new(|a| {
        a.mov(rax, u64::MAX).unwrap();
        a.mov(iced_x86::code_asm::qword_ptr(DATA + 0xffc), rax)
            .unwrap();
        a.hlt().unwrap();
    });
    guest.map(DATA + 0x1000, PRESENT);
    guest.set_state(|_| ());
    assert_eq!(guest.run_to_fault().vector, 14);
    assert_eq!(guest.vcpu_cr2(), DATA + 0x1000);
    assert_eq!(guest.get(DATA + 0xff8), 0);
}
