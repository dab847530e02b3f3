//! The vCPU contract, kept by every backend: each test runs on the software processor and, where
//! the host has it, on KVM. None depends on where in the guest a logical time is.

use std::io::Write;
use std::time::Duration;

use hypervisor::arch::x86_64::control::rflags;
use hypervisor::arch::x86_64::msr;
use hypervisor::capabilities::LogicalClock;
use hypervisor::cpu_model;
use hypervisor::memory::GuestAddress;
use hypervisor::software::SoftwareHypervisor;
use hypervisor::state::CpuState;
use hypervisor::vcpu::{DebugPoint, TscClock};
use hypervisor::{Exit, Hypervisor, VcpuError};
use iced_x86::code_asm::{
    CodeAssembler, al, byte_ptr, dword_ptr, dx, eax, ecx, edx, qword_ptr, r8, r9, rax, rbx, rcx,
    rdi, rdx, rsi, xmm1,
};

use crate::guest::{CODE, DATA, DEVICE, DEVICE_PHYSICAL, Guest, HANDLERS, STACK};

/// Long enough for any of these guests.
const LONG: u64 = 20_000_000_000;

/// Tells why a backend is left out, as `scripts/test` counts it.
pub fn skip(reason: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nSKIP: {reason}");
}

/// The backends of this host.
fn backends() -> Vec<Box<dyn Hypervisor>> {
    let mut backends: Vec<Box<dyn Hypervisor>> = vec![Box::new(SoftwareHypervisor)];
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    match kvm() {
        Ok(kvm) => backends.push(Box::new(kvm)),
        Err(reason) => skip(&format!("conformance on KVM: {reason}")),
    }
    backends
}

/// Whether this is the KVM bench, where KVM has to work.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn is_bench() -> bool {
    std::env::var_os("CHFT_KVM").is_some()
}

/// This host's KVM, or why it cannot be used.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn kvm() -> Result<hypervisor::kvm::KvmHypervisor, String> {
    let opened = hypervisor::kvm::KvmHypervisor::open();
    opened.map_err(|error| {
        assert!(!is_bench(), "{error}");
        error.to_string()
    })
}

/// Runs a test on a guest of each backend, at [`CODE`] with what `assemble` makes.
fn each(assemble: impl Fn(&mut CodeAssembler), test: impl Fn(Guest)) {
    for backend in backends() {
        println!("on {}", backend.name());
        test(Guest::on(backend.as_ref(), &assemble));
    }
}

/// Runs to HLT.
pub fn halt(guest: &mut Guest) -> CpuState {
    let until = guest.vcpu.logical_time() + LONG;
    assert_eq!(guest.vcpu.run(until).unwrap(), Exit::Halted);
    guest.vcpu.save()
}

/// Runs to the next exit.
fn run(guest: &mut Guest) -> Exit {
    let until = guest.vcpu.logical_time() + LONG;
    guest.vcpu.run(until).unwrap()
}

/// Lets the instruction that made an access retire.
fn finish(guest: &mut Guest) {
    let until = guest.vcpu.logical_time() + 1;
    assert_eq!(guest.vcpu.run(until).unwrap(), Exit::Reached);
    assert!(!guest.vcpu.is_inside_instruction());
}

/// Whether it runs on the software processor, where a test may ask for exact places.
fn is_exact(guest: &Guest) -> bool {
    guest.vcpu.logical_clock() == LogicalClock::Instructions
}

#[test]
fn arithmetic_and_memory_are_seen_in_state_and_memory() {
    each(
        |a| {
            a.mov(rax, 0x1122_3344_5566_7788u64).unwrap();
            a.mov(qword_ptr(DATA), rax).unwrap();
            a.mov(ecx, 1000).unwrap();
            a.xor(edx, edx).unwrap();
            let mut again = a.create_label();
            a.set_label(&mut again).unwrap();
            a.add(edx, ecx).unwrap();
            a.dec(ecx).unwrap();
            a.jne(again).unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            let before = guest.vcpu.logical_time();
            let state = halt(&mut guest);
            assert_eq!(state.gpr[2], 500_500);
            assert_eq!(guest.get(DATA), 0x1122_3344_5566_7788);
            assert!(guest.vcpu.is_halted() && state.pending.halted);
            assert!(guest.vcpu.logical_time() > before);
            assert_eq!(run(&mut guest), Exit::Halted, "it stays halted");
        },
    );
}

#[test]
fn ports_are_read_and_written_with_their_sizes() {
    each(
        |a| {
            a.mov(edx, 0x3f8).unwrap();
            a.in_(al, dx).unwrap();
            a.in_(eax, dx).unwrap();
            a.out(dx, al).unwrap();
            a.out(dx, eax).unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            let port = 0x3f8;
            assert_eq!(run(&mut guest), Exit::PioRead { port, size: 1 });
            assert!(guest.vcpu.is_inside_instruction());
            assert!(!guest.vcpu.can_take_interrupt());
            guest.vcpu.complete_read(0x5a).unwrap();
            finish(&mut guest);
            assert_eq!(guest.vcpu.save().gpr[0], 0x5a);
            assert_eq!(run(&mut guest), Exit::PioRead { port, size: 4 });
            guest.vcpu.complete_read(0xdead_beef).unwrap();
            assert!(guest.vcpu.complete_read(0).is_err());
            let (size, value) = (1, 0xef);
            assert_eq!(run(&mut guest), Exit::PioWrite { port, size, value });
            finish(&mut guest);
            let (size, value) = (4, 0xdead_beef);
            assert_eq!(run(&mut guest), Exit::PioWrite { port, size, value });
            halt(&mut guest);
        },
    );
}

#[test]
fn string_instructions_make_one_access_at_a_time() {
    each(
        |a| {
            a.mov(edx, 0x60).unwrap();
            a.mov(rdi, DATA).unwrap();
            a.mov(ecx, 3).unwrap();
            a.cld().unwrap();
            a.rep().insb().unwrap();
            a.mov(rsi, DATA).unwrap();
            a.mov(ecx, 3).unwrap();
            a.rep().outsb().unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            let (port, size) = (0x60, 1);
            for value in 1..=3 {
                assert_eq!(run(&mut guest), Exit::PioRead { port, size });
                guest.vcpu.complete_read(value).unwrap();
            }
            for value in 1..=3 {
                assert_eq!(run(&mut guest), Exit::PioWrite { port, size, value });
            }
            let state = halt(&mut guest);
            assert_eq!((state.gpr[1], state.gpr[7]), (0, DATA + 3));
            assert_eq!(guest.get(DATA) & 0xff_ffff, 0x03_0201);
        },
    );
}

#[test]
fn device_memory_is_read_and_written() {
    each(
        |a| {
            a.mov(rbx, DEVICE).unwrap();
            a.mov(eax, dword_ptr(rbx)).unwrap();
            a.mov(qword_ptr(rbx + 8), rax).unwrap();
            a.or(byte_ptr(rbx + 16), 1).unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            let at = |offset| DEVICE_PHYSICAL + offset;
            assert_eq!(
                run(&mut guest),
                Exit::MmioRead {
                    gpa: at(0),
                    size: 4
                }
            );
            guest.vcpu.complete_read(0x1234_5678).unwrap();
            let (gpa, size, value) = (at(8), 8, 0x1234_5678);
            assert_eq!(run(&mut guest), Exit::MmioWrite { gpa, size, value });
            assert_eq!(
                run(&mut guest),
                Exit::MmioRead {
                    gpa: at(16),
                    size: 1
                }
            );
            guest.vcpu.complete_read(0x40).unwrap();
            let (gpa, size, value) = (at(16), 1, 0x41);
            assert_eq!(run(&mut guest), Exit::MmioWrite { gpa, size, value });
            finish(&mut guest);
            halt(&mut guest);
        },
    );
}

#[test]
fn interrupts_controller_registers_leave_and_can_be_refused() {
    each(
        |a| {
            for index in [0x80b_u32, 0x1b] {
                a.mov(ecx, index as i32).unwrap();
                a.mov(eax, 7).unwrap();
                a.xor(edx, edx).unwrap();
                a.wrmsr().unwrap();
                a.rdmsr().unwrap();
            }
            a.mov(qword_ptr(DATA), rax).unwrap();
            a.mov(ecx, 0x6e0).unwrap();
            a.rdmsr().unwrap();
        },
        |mut guest| {
            for index in [0x80b, 0x1b] {
                assert_eq!(run(&mut guest), Exit::MsrWrite { index, value: 7 });
                finish(&mut guest);
                assert_eq!(run(&mut guest), Exit::MsrRead { index });
                guest.vcpu.complete_read(0x11_0000_0022).unwrap();
            }
            assert_eq!(run(&mut guest), Exit::MsrRead { index: 0x6e0 });
            guest.vcpu.refuse_msr().unwrap();
            let state = halt(&mut guest);
            assert_eq!(guest.get(DATA), 0x22);
            assert_eq!(state.rip, HANDLERS + 14, "#GP");
        },
    );
}

#[test]
fn other_registers_are_those_of_the_model() {
    let index = [
        msr::MISC_ENABLE,
        msr::MTRR_CAP,
        msr::MTRR_DEF_TYPE,
        msr::FEATURE_CONTROL,
        msr::MTRR_FIXED[2],
        msr::PAT,
        msr::KERNEL_GS_BASE,
        msr::LSTAR,
    ];
    each(
        |a| {
            a.mov(rbx, DATA).unwrap();
            for index in index {
                a.mov(ecx, index as i32).unwrap();
                a.rdmsr().unwrap();
                a.mov(dword_ptr(rbx), eax).unwrap();
                a.mov(dword_ptr(rbx + 4), edx).unwrap();
                a.add(rbx, 8).unwrap();
            }
            // One that a processor of the model does not have: speculation control.
            a.mov(ecx, 0x48).unwrap();
            a.rdmsr().unwrap();
        },
        |mut guest| {
            guest.set_state(|state| {
                state.msrs.misc_enable = 0x801;
                state.msrs.mtrr_def_type = 0xc06;
                state.msrs.mtrr_fixed[2] = 0x0606_0606_0606_0606;
                state.msrs.kernel_gs_base = 0x77_0000_0001;
                state.msrs.lstar = CODE;
            });
            let state = halt(&mut guest);
            assert_eq!(state.rip, HANDLERS + 14, "#GP");
            let expected = [
                0x801,
                0x508,
                0xc06,
                1,
                0x0606_0606_0606_0606,
                0x0007_0406_0007_0406,
                0x77_0000_0001,
                CODE,
            ];
            for (slot, value) in expected.into_iter().enumerate() {
                assert_eq!(
                    guest.get(DATA + slot as u64 * 8),
                    value,
                    "{:#x}",
                    index[slot]
                );
            }
        },
    );
}

#[test]
fn cpuid_answers_from_the_models_table() {
    for backend in backends() {
        let tsc_khz = backend.tsc_khz();
        for entry in cpu_model::table(tsc_khz) {
            let mut guest = Guest::on(backend.as_ref(), |a| {
                a.mov(eax, entry.leaf as i32).unwrap();
                a.mov(ecx, entry.subleaf.unwrap_or(0) as i32).unwrap();
                a.cpuid().unwrap();
                a.hlt().unwrap();
            });
            let state = halt(&mut guest);
            let answer = [0, 3, 1, 2].map(|register| state.gpr[register] as u32);
            let mut expected = entry.answer;
            if entry.leaf == 1 {
                // CR4.OSXSAVE is set in these guests.
                expected[2] |= 1 << 27;
            }
            assert_eq!(
                answer,
                expected,
                "{} leaf {:#x}",
                backend.name(),
                entry.leaf
            );
        }
    }
}

#[test]
fn an_interrupt_is_taken_when_the_guest_lets_it() {
    each(
        |a| {
            a.mov(edx, 0x80).unwrap();
            a.out(dx, al).unwrap();
            a.sti().unwrap();
            let mut again = a.create_label();
            a.set_label(&mut again).unwrap();
            a.jmp(again).unwrap();
        },
        |mut guest| {
            assert!(matches!(run(&mut guest), Exit::PioWrite { .. }));
            finish(&mut guest);
            assert!(!guest.vcpu.can_take_interrupt());
            guest.vcpu.request_interrupt_window(true);
            assert_eq!(run(&mut guest), Exit::InterruptWindow);
            assert!(guest.vcpu.can_take_interrupt());
            guest.vcpu.inject_interrupt(0x51);
            assert!(!guest.vcpu.can_take_interrupt(), "one at a time");
            assert_eq!(guest.vcpu.save().pending.interrupt, Some(0x51));
            let state = halt(&mut guest);
            assert_eq!(state.rip, HANDLERS + 0x52);
            assert_eq!(guest.get(state.gpr[4] + 16) & rflags::IF, rflags::IF);
        },
    );
}

#[test]
fn an_interrupt_ends_a_halt() {
    each(
        |a| {
            a.sti().unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            halt(&mut guest);
            assert!(guest.vcpu.can_take_interrupt());
            guest.vcpu.inject_interrupt(0x52);
            assert!(!guest.vcpu.is_halted());
            let state = halt(&mut guest);
            assert_eq!(state.rip, HANDLERS + 0x53);
            assert_eq!(guest.get(state.gpr[4]), CODE + 2);
        },
    );
}

#[test]
fn an_nmi_comes_through_with_interrupts_off() {
    each(
        |a| a.hlt().unwrap(),
        |mut guest| {
            halt(&mut guest);
            guest.vcpu.inject_nmi();
            assert!(guest.vcpu.save().pending.nmi);
            let state = halt(&mut guest);
            assert_eq!(state.rip, HANDLERS + 3);
            assert!(state.pending.nmi_blocked && !state.pending.nmi);
        },
    );
}

#[test]
fn a_run_ends_at_its_time_and_at_a_kick() {
    each(
        |a| {
            let mut again = a.create_label();
            a.set_label(&mut again).unwrap();
            a.jmp(again).unwrap();
        },
        |mut guest| {
            let until = guest.vcpu.logical_time() + 1_000_000;
            assert_eq!(guest.vcpu.run(until).unwrap(), Exit::Reached);
            assert!(guest.vcpu.logical_time() >= until);
            assert!(!is_exact(&guest) || guest.vcpu.logical_time() == until);
            let kicker = guest.vcpu.kicker();
            for _ in 0..20 {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(2));
                        kicker.kick();
                    });
                    assert_eq!(run(&mut guest), Exit::Kicked);
                });
            }
            kicker.kick();
            assert_eq!(guest.vcpu.run(u64::MAX).unwrap(), Exit::Kicked);
            assert!(!kicker.is_kicked());
        },
    );
}

#[test]
fn the_counter_follows_virtual_time_and_keeps_what_the_guest_adds() {
    each(
        |a| {
            let read = |a: &mut CodeAssembler, at: u64| {
                a.rdtsc().unwrap();
                a.shl(rdx, 32).unwrap();
                a.or(rax, rdx).unwrap();
                a.mov(qword_ptr(at), rax).unwrap();
            };
            read(a, DATA);
            a.mov(ecx, msr::TSC_ADJUST as i32).unwrap();
            a.xor(eax, eax).unwrap();
            a.mov(edx, 1).unwrap();
            a.wrmsr().unwrap();
            read(a, DATA + 8);
            a.hlt().unwrap();
        },
        |mut guest| {
            guest.vcpu.set_tsc_clock(TscClock {
                base_time: guest.vcpu.logical_time(),
                base_ns: 1 << 40,
                rate: 1 << 32,
            });
            let state = halt(&mut guest);
            assert_eq!(state.msrs.tsc_adjust, 1 << 32);
            assert_eq!(guest.vcpu.tsc_offset(), 1 << 32);
            let (first, second) = (guest.get(DATA), guest.get(DATA + 8));
            let passed = second.wrapping_sub(first);
            if !is_exact(&guest) && first < 1 << 40 {
                skip("the counter on KVM: this one does not move its guests'");
                return;
            }
            assert!((1 << 40..1 << 42).contains(&first), "{first:#x}");
            assert!((1 << 32..1 << 34).contains(&passed), "{passed:#x}");
        },
    );
}

#[test]
fn what_the_guest_writes_is_in_the_memorys_record() {
    each(
        |a| {
            a.mov(byte_ptr(DATA), 1).unwrap();
            a.mov(byte_ptr(DATA + 0x3000), 1).unwrap();
            a.hlt().unwrap();
            a.mov(byte_ptr(DATA + 0x1000), 1).unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            guest.vcpu.collect_written();
            guest.memory.take_dirty();
            halt(&mut guest);
            guest.vcpu.collect_written();
            let page = |address: u64| (DATA + address) >> 12;
            let dirty = guest.memory.take_dirty();
            assert!(dirty.contains(&page(0)) && dirty.contains(&page(0x3000)));
            assert!(!dirty.contains(&page(0x1000)) && !dirty.contains(&page(0x2000)));
            let mut state = guest.vcpu.save();
            state.pending.halted = false;
            guest.vcpu.restore(&state).unwrap();
            halt(&mut guest);
            guest.vcpu.collect_written();
            let dirty = guest.memory.take_dirty();
            assert!(dirty.contains(&page(0x1000)) && !dirty.contains(&page(0x3000)));
            assert!(guest.memory.touched().contains(&page(0x3000)));
        },
    );
}

#[test]
fn a_triple_fault_is_a_shutdown_and_a_new_state_goes_on() {
    each(
        |a| a.ud2().unwrap(),
        |mut guest| {
            guest.set_state(|state| state.idtr.limit = 0);
            assert_eq!(run(&mut guest), Exit::Shutdown);
            guest.put_code(CODE, |a| a.hlt().unwrap());
            guest.set_state(|_| ());
            assert_eq!(halt(&mut guest).rip, CODE + 1);
        },
    );
}

#[test]
fn states_that_cannot_be_are_refused_and_change_nothing() {
    each(
        |a| a.hlt().unwrap(),
        |mut guest| {
            let good = guest.vcpu.save();
            let with = |change: fn(&mut CpuState)| {
                let mut state = good.clone();
                change(&mut state);
                state
            };
            for bad in [
                with(|state| state.cr0 |= 1 << 40),
                with(|state| state.cr4 |= 1 << 12),
                with(|state| state.msrs.efer |= 1 << 12),
                with(|state| state.cr8 = 16),
                with(|state| state.fpu.xcr0 = 7),
                with(|state| state.fpu.fxsave.truncate(511)),
            ] {
                let refused = guest.vcpu.restore(&bad);
                assert!(matches!(refused, Err(VcpuError::State(_))), "{refused:?}");
            }
            assert_eq!(halt(&mut guest).rip, CODE + 1);
        },
    );
}

#[test]
fn state_components_that_the_guest_enables_are_in_its_state() {
    each(
        |a| {
            a.xor(ecx, ecx).unwrap();
            a.xor(edx, edx).unwrap();
            a.mov(eax, 3).unwrap();
            a.xsetbv().unwrap();
            a.out(0x80, al).unwrap();
            a.xgetbv().unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            guest.set_state(|state| state.fpu.xcr0 = 1);
            assert!(matches!(run(&mut guest), Exit::PioWrite { .. }));
            let state = halt(&mut guest);
            if !is_exact(&guest) && state.fpu.xcr0 == 1 {
                skip("XSETBV on KVM: this one is not told of it by its processor");
                return;
            }
            assert_eq!((state.fpu.xcr0, state.gpr[0]), (3, 3));
        },
    );
}

#[test]
fn a_breakpoint_stops_before_its_instruction_each_time() {
    each(
        |a| {
            let mut again = a.create_label();
            a.mov(ecx, 3).unwrap();
            a.set_label(&mut again).unwrap();
            a.dec(ecx).unwrap();
            a.jne(again).unwrap();
            a.hlt().unwrap();
        },
        |mut guest| {
            let places = [DebugPoint::Execute(CODE + 5)];
            guest.vcpu.set_debug_points(&places).unwrap();
            for left in [3, 2, 1] {
                let exit = run(&mut guest);
                if !is_exact(&guest) && exit == Exit::Halted {
                    skip("breakpoints on KVM: this one has none that stop a guest");
                    return;
                }
                assert_eq!(exit, Exit::Debug);
                let state = guest.vcpu.save();
                assert_eq!((state.rip, state.gpr[1]), (CODE + 5, left));
            }
            guest.vcpu.set_debug_points(&[]).unwrap();
            halt(&mut guest);
            let many = [places[0]; 65];
            assert!(guest.vcpu.set_debug_points(&many).is_err());
        },
    );
}

/// A guest that uses what a state has to carry over: registers of all kinds, and a loop that ends
/// with a sum.
fn travelling(a: &mut CodeAssembler) {
    let mut again = a.create_label();
    a.mov(rax, 0x0102_0304_0506_0708u64).unwrap();
    a.movq(xmm1, rax).unwrap();
    a.fninit().unwrap();
    a.fldpi().unwrap();
    a.mov(r8, 77u64).unwrap();
    a.xor(edx, edx).unwrap();
    a.mov(ecx, 5).unwrap();
    a.set_label(&mut again).unwrap();
    a.add(edx, ecx).unwrap();
    a.out(0x80, al).unwrap();
    a.dec(ecx).unwrap();
    a.jne(again).unwrap();
    a.movq(r9, xmm1).unwrap();
    a.fstp(qword_ptr(DATA)).unwrap();
    a.mov(rcx, qword_ptr(DATA)).unwrap();
    a.hlt().unwrap();
}

#[test]
fn a_state_goes_from_each_backend_to_each_other_and_back() {
    let backends = backends();
    for first in &backends {
        for second in &backends {
            let mut here = Guest::on(first.as_ref(), travelling);
            let mut there = Guest::on(second.as_ref(), |a| a.ud2().unwrap());
            let mut turns = 0;
            while matches!(run(&mut here), Exit::PioWrite { .. }) {
                finish(&mut here);
                let state = here.vcpu.save();
                copy_memory(&mut here, &there);
                there.vcpu.restore(&state).unwrap();
                let again = there.vcpu.save();
                assert_eq!(again.gpr, state.gpr);
                assert_eq!(again, state, "{} to {}", first.name(), second.name());
                std::mem::swap(&mut here, &mut there);
                turns += 1;
            }
            let state = here.vcpu.save();
            assert_eq!((turns, state.gpr[2], state.gpr[8]), (5, 15, 77));
            assert_eq!(state.gpr[9], 0x0102_0304_0506_0708);
            assert_eq!(state.gpr[1], std::f64::consts::PI.to_bits());
        }
    }
}

fn copy_memory(from: &mut Guest, to: &Guest) {
    from.vcpu.collect_written();
    for page in from.memory.touched() {
        let at: GuestAddress = from.memory.page_address(page);
        let bytes = from.memory.with_page(page, |bytes| *bytes);
        to.memory.write(at, &bytes).unwrap();
    }
}

#[test]
fn a_fault_has_its_code_and_address() {
    each(
        |a| {
            a.mov(rbx, 0x20_0000u64).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
        },
        |mut guest| {
            let state = halt(&mut guest);
            assert_eq!((state.rip, state.cr2), (HANDLERS + 15, 0x20_0000));
            assert_eq!(guest.get(state.gpr[4]), 0, "not present, read, ring 0");
            assert!(state.gpr[4] < STACK);
        },
    );
}
