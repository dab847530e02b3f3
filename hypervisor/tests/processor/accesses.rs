//! Device accesses are made once each; writes to memory are recorded.

use hypervisor::Exit;
use iced_x86::code_asm::{
    byte_ptr, dword_ptr, eax, ecx, edx, qword_ptr, rax, rcx, rdi, rsi, xmm0, xmmword_ptr,
};

use crate::guest::{DATA, DEVICE, DEVICE_PHYSICAL, Guest};

/// Runs to HLT with a device whose reads give 7, 8, 9 and so on; all its accesses.
fn accesses(guest: &mut Guest) -> Vec<Exit> {
    let mut all = Vec::new();
    let mut next = 7;
    loop {
        match guest.vcpu.run(1_000_000).unwrap() {
            Exit::Halted => return all,
            exit @ Exit::MmioRead { .. } => {
                all.push(exit);
                guest.vcpu.complete_read(next).unwrap();
                next += 1;
            }
            exit @ Exit::MmioWrite { .. } => all.push(exit),
            other => panic!("{other:?}"),
        }
    }
}

fn read(offset: u64, size: u8) -> Exit {
    Exit::MmioRead {
        gpa: DEVICE_PHYSICAL + offset,
        size,
    }
}

fn write(offset: u64, size: u8, value: u64) -> Exit {
    Exit::MmioWrite {
        gpa: DEVICE_PHYSICAL + offset,
        size,
        value,
    }
}

#[test]
fn read_modify_write_reads_once_and_writes_once() {
    let mut guest = Guest::new(|a| {
        a.add(dword_ptr(DEVICE + 0x10), 5).unwrap();
        a.setc(iced_x86::code_asm::cl).unwrap();
        a.lock().xadd(dword_ptr(DEVICE + 0x20), eax).unwrap();
        a.hlt().unwrap();
    });
    let expected = [
        read(0x10, 4),
        write(0x10, 4, 12),
        read(0x20, 4),
        write(0x20, 4, 8),
    ];
    assert_eq!(accesses(&mut guest), expected);
    let state = guest.vcpu.save();
    assert_eq!((state.gpr[0], state.gpr[1]), (8, 0));
    assert_eq!(state.logical_time, 4);
}

#[test]
fn device_accesses_do_not_depend_on_slices() {
    let build = || {
        Guest::new(|a| {
            a.mov(rsi, DEVICE).unwrap();
            a.mov(rdi, DEVICE + 0x100).unwrap();
            a.mov(ecx, 3).unwrap();
            a.rep().movsd().unwrap();
            a.xchg(dword_ptr(DEVICE + 0x40), edx).unwrap();
            a.hlt().unwrap();
        })
    };
    let mut whole = build();
    let expected = [
        read(0, 4),
        write(0x100, 4, 7),
        read(4, 4),
        write(0x104, 4, 8),
        read(8, 4),
        write(0x108, 4, 9),
        read(0x40, 4),
        write(0x40, 4, 0),
    ];
    assert_eq!(accesses(&mut whole), expected);

    let mut sliced = build();
    let mut all = Vec::new();
    let mut next = 7;
    loop {
        let until = sliced.vcpu.logical_time() + 1;
        match sliced.vcpu.run(until).unwrap() {
            Exit::Halted => break,
            Exit::Reached => {}
            exit @ Exit::MmioRead { .. } => {
                all.push(exit);
                // Asked again before it is answered, it is still the same access.
                assert_eq!(sliced.vcpu.run(until).unwrap(), exit);
                sliced.vcpu.complete_read(next).unwrap();
                next += 1;
            }
            exit => all.push(exit),
        }
    }
    assert_eq!(all, expected);
    assert_eq!(sliced.vcpu.save(), whole.vcpu.save());
}

#[test]
fn wide_accesses_are_split_into_eight_bytes() {
    let mut guest = Guest::new(|a| {
        a.movups(xmm0, xmmword_ptr(DEVICE + 8)).unwrap();
        a.movups(xmmword_ptr(DEVICE + 0x80), xmm0).unwrap();
        a.hlt().unwrap();
    });
    let expected = [
        read(8, 8),
        read(16, 8),
        write(0x80, 8, 7),
        write(0x88, 8, 8),
    ];
    assert_eq!(accesses(&mut guest), expected);
}

#[test]
fn access_from_memory_into_a_device_page_is_split_at_the_boundary() {
    // The page before the device is memory; the store's last two bytes go to the device.
    let mut guest = Guest::new(|a| {
        a.mov(rax, 0x8877_6655_4433_2211u64).unwrap();
        a.mov(qword_ptr(DEVICE - 6), rax).unwrap();
        a.mov(rcx, qword_ptr(DEVICE - 6)).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(accesses(&mut guest), [write(0, 2, 0x8877), read(0, 2)]);
    assert_eq!(guest.vcpu.save().gpr[1], 0x0007_6655_4433_2211);
    assert_eq!(guest.get(DEVICE - 8) >> 16, 0x6655_4433_2211);
}

#[test]
fn state_images_may_go_to_a_device() {
    // The most accesses that one instruction makes; nothing must overflow.
    let mut guest = Guest::new(|a| {
        a.mov(eax, 3).unwrap();
        a.xor(edx, edx).unwrap();
        a.xsave(qword_ptr(DEVICE + 64)).unwrap();
        a.fxsave(qword_ptr(DEVICE)).unwrap();
        a.hlt().unwrap();
    });
    let all = accesses(&mut guest);
    let reads = all
        .iter()
        .filter(|exit| matches!(exit, Exit::MmioRead { .. }))
        .count();
    assert_eq!((reads, all.len() - reads), (520 / 8, 520 / 8 + 416 / 8));
}

#[test]
fn written_pages_are_recorded_again_after_the_record_was_taken() {
    let mut guest = Guest::new(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.mov(eax, dword_ptr(DATA + 0x1000)).unwrap();
        a.inc(byte_ptr(DATA)).unwrap();
        a.jmp(again).unwrap();
    });
    guest.memory.take_dirty();
    let page = DATA >> 12;
    guest.vcpu.run(3).unwrap();
    let dirty = guest.memory.take_dirty();
    assert!(dirty.contains(&page), "{dirty:?}");
    assert!(
        !dirty.contains(&(page + 1)),
        "a read is no write: {dirty:?}"
    );
    for turn in 2..5 {
        guest.vcpu.run(turn * 3).unwrap();
        assert_eq!(guest.memory.take_dirty(), [page], "turn {turn}");
    }
}
