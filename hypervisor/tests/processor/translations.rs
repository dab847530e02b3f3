//! What a changed mapping, or a changed byte, does to code and translations that are cached. Each
//! test runs interpreted and translated.

use std::sync::Arc;

use hypervisor::Exit;
use hypervisor::memory::{GuestAddress, GuestMemory};
use hypervisor::software::vcpu::SoftwareVcpu;
use iced_x86::code_asm::*;

use crate::guest::{CODE, DATA, Fault, Guest, PRESENT, WRITABLE};

/// Three bytes before the end of a page.
const CROSSING: u64 = CODE + 0x1ffd;
const SECOND_PAGE: u64 = CODE + 0x2000;
const TABLES: u64 = 0x4000;
const PAGE_DIRECTORY: u64 = 0x3000;

/// Address of the paging entry of the page at `linear`.
fn entry_of(linear: u64) -> u64 {
    TABLES + (linear >> 12) * 8
}

/// Runs `check` on a guest that `make` makes, both ways.
fn both_ways(make: impl Fn() -> Guest, check: impl Fn(&mut Guest)) {
    let translating = |memory| SoftwareVcpu::translating_after(memory, 0);
    let ways: [fn(Arc<GuestMemory>) -> SoftwareVcpu; 2] = [SoftwareVcpu::interpreting, translating];
    for way in ways {
        let mut guest = make();
        let state = guest.vcpu.save();
        guest.vcpu = Box::new(way(guest.memory.clone()));
        guest.vcpu.restore(&state).unwrap();
        check(&mut guest);
    }
}

/// Calls MOV EAX, 1111_1111h that crosses a page, gives the second page the entry `value`, and
/// calls it again.
fn remaps(value: u64) -> Guest {
    let guest = Guest::new(|a| {
        a.call(CROSSING).unwrap();
        a.mov(rcx, entry_of(SECOND_PAGE)).unwrap();
        a.mov(rdx, value).unwrap();
        a.mov(qword_ptr(rcx), rdx).unwrap();
        a.invlpg(byte_ptr(SECOND_PAGE)).unwrap();
        a.call(CROSSING).unwrap();
        a.hlt().unwrap();
    });
    let first = [0xb8, 0x11, 0x11, 0x11, 0x11, 0xc3];
    guest.memory.write(GuestAddress(CROSSING), &first).unwrap();
    let other = [0x22, 0x22, 0xc3];
    guest
        .memory
        .write(GuestAddress(CODE + 0x3000), &other)
        .unwrap();
    guest
}

#[test]
fn an_instruction_whose_second_page_was_remapped_has_its_new_bytes() {
    let make = || remaps((CODE + 0x3000) | PRESENT | WRITABLE);
    both_ways(make, |guest| {
        assert_eq!(guest.run_to_halt().gpr[0], 0x2222_1111);
    });
}

#[test]
fn an_instruction_whose_second_page_is_gone_faults_where_it_starts() {
    both_ways(
        || remaps(0),
        |guest| {
            let fault = guest.run_to_fault();
            assert_eq!((fault.vector, fault.rip), (14, CROSSING));
            assert_eq!(guest.vcpu_cr2(), SECOND_PAGE);
        },
    );
}

/// Jumps through a jump that crosses a page, clears the accessed bit of the second page, runs a
/// long sled, and jumps through it again.
fn clears_accessed() -> Guest {
    const SLED: usize = 20_000;
    let mut guest = Guest::new(|a| {
        a.mov(rsi, CODE + 0x500).unwrap();
        a.jmp(CROSSING).unwrap();
    });
    guest.put_code(CODE + 0x500, |a| {
        a.mov(rcx, entry_of(SECOND_PAGE)).unwrap();
        a.mov(rdx, SECOND_PAGE | PRESENT | WRITABLE).unwrap();
        a.mov(qword_ptr(rcx), rdx).unwrap();
        a.invlpg(byte_ptr(SECOND_PAGE)).unwrap();
        a.mov(rsi, CODE + 0x600).unwrap();
        a.jmp(DATA).unwrap();
    });
    guest
        .memory
        .write(GuestAddress(DATA), &[0x90; SLED])
        .unwrap();
    guest.put_code(DATA + SLED as u64, |a| a.jmp(CROSSING).unwrap());
    guest.put_code(CODE + 0x600, |a| a.hlt().unwrap());
    // JMP RSI behind three prefixes.
    let jump = [0x2e, 0x2e, 0x2e, 0xff, 0xe6];
    guest.memory.write(GuestAddress(CROSSING), &jump).unwrap();
    guest.set_state(|_| ());
    guest
}

#[test]
fn the_accessed_bit_of_a_second_page_does_not_depend_on_slices() {
    for slice in [u64::MAX, 1, 7] {
        both_ways(clears_accessed, |guest| {
            loop {
                let until = guest.vcpu.logical_time().saturating_add(slice);
                if guest.vcpu.run(until).unwrap() == Exit::Halted {
                    break;
                }
            }
            let accessed = guest.entry(SECOND_PAGE) >> 5 & 1;
            assert_eq!(accessed, 1, "in slices of {slice}");
        });
    }
}

#[test]
fn dropping_a_large_page_drops_all_of_it() {
    let make = || {
        let mut guest = Guest::new(|a| {
            a.mov(rbx, qword_ptr(0x20_0000_u64)).unwrap();
            a.mov(rbx, qword_ptr(0x20_1000_u64)).unwrap();
            a.mov(rcx, PAGE_DIRECTORY + 8).unwrap();
            // The first two megabytes there as well.
            a.mov(rdx, 0x83_u64).unwrap();
            a.mov(qword_ptr(rcx), rdx).unwrap();
            a.invlpg(byte_ptr(0x20_0000_u64)).unwrap();
            a.mov(rax, qword_ptr(0x20_1000_u64)).unwrap();
            a.hlt().unwrap();
        });
        guest.put(PAGE_DIRECTORY + 8, 0x20_0083);
        guest.put(0x20_1000, 0xdead);
        guest.set_state(|_| ());
        guest
    };
    both_ways(make, |guest| {
        // The entry of the topmost table, less its accessed bit.
        assert_eq!(guest.run_to_halt().gpr[0] & !0x20, 0x2007);
    });
}

#[test]
fn an_invalid_instruction_across_pages_is_undefined() {
    let make = || {
        let mut guest = Guest::new(|a| a.jmp(CODE + 0x1ffe).unwrap());
        let invalid = [0x0f, 0x38, 0xff];
        let at = GuestAddress(CODE + 0x1ffe);
        guest.memory.write(at, &invalid).unwrap();
        guest.set_state(|_| ());
        guest
    };
    both_ways(make, |guest| {
        let wanted = Fault {
            vector: 6,
            code: None,
            rip: CODE + 0x1ffe,
        };
        assert_eq!(guest.run_to_fault(), wanted);
    });
}

#[test]
fn an_invalid_instruction_that_is_mended_in_its_second_byte_runs() {
    // The last byte of 64, so that the second is in another piece of the record of code.
    const AT: u64 = CODE + 0x1000 + 63;
    let make = || {
        let mut guest = Guest::new(|a| a.jmp(AT).unwrap());
        let invalid = [0x0f, 0x04, 0xf4];
        guest.memory.write(GuestAddress(AT), &invalid).unwrap();
        // Makes it RDTSC.
        guest.put_code(CODE + 0x4000, |a| {
            a.mov(byte_ptr(AT + 1), 0x31).unwrap();
            a.iretq().unwrap();
        });
        guest.set_gate(6, CODE + 0x4000, 0);
        guest.set_state(|_| ());
        guest
    };
    both_ways(make, |guest| {
        assert_eq!(guest.vcpu.run(1000).unwrap(), Exit::Halted);
        assert_eq!(guest.vcpu.save().rip, AT + 3);
    });
}
