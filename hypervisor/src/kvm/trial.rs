//! A short guest that tries out, whenever KVM is opened, what the backend cannot do without and
//! what KVM may do otherwise than it says; and what exits cost here.

use std::sync::Arc;

use super::NAME;
use super::clock::Scale;
use super::counter::host_counter;
use super::host::{KvmHypervisor, failed, unavailable};
use super::vcpu::{KvmVcpu, Traits};
use crate::arch::x86_64::msr;
use crate::arch::x86_64::segment::CS;
use crate::exit::Exit;
use crate::hypervisor_trait::{Hypervisor, HypervisorError};
use crate::memory::{GuestAddress, GuestMemory, PAGE_SIZE};
use crate::state::reset_state;
use crate::vcpu::{Vcpu, VcpuError};

/// A guest in real mode that writes its timer's deadline, and then a byte of its second page and to
/// a port for ever: MOV ECX, 6E0H; XOR EAX, EAX; XOR EDX, EDX; WRMSR; again: `MOV [1000H], AL`;
/// OUT 80H, AL; JMP again.
const TRIAL: [u8; 21] = [
    0x66, 0xb9, 0xe0, 0x06, 0, 0, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0xa2, 0x00, 0x10,
    0xe6, 0x80, 0xeb, 0xf9,
];
/// Pages that it has, the one that it writes, and one that it does not touch. What is only read may
/// be told as written, the first time: KVM makes it writable, too.
const PAGES: u64 = 3;
const WRITTEN: u64 = 1;
const UNTOUCHED: u64 = 2;
/// How long each of its runs may take, in nanoseconds.
const TRIAL_NS: u64 = 2_000_000_000;
/// Exits of it that are timed. The one in the middle counts: a host does other things, too.
const TIMED_EXITS: usize = 9;

impl KvmHypervisor {
    /// Whether a guest's write of its timer's deadline leaves KVM: the timer is a device here; and
    /// whether KVM tells which pages were written. The result is what exits cost, and whether KVM
    /// really shows what waits.
    pub(super) fn try_out(&self) -> Result<Traits, HypervisorError> {
        let memory = GuestMemory::new(PAGES * PAGE_SIZE)
            .map_err(|error| unavailable(format!("a probe has no memory: {error}")))?;
        let written = memory.write(GuestAddress(0), &TRIAL);
        assert!(written.is_ok(), "the probe fits into a page");
        memory.take_dirty();
        let memory = Arc::new(memory);
        let (_vm, mut vcpu) = self.create_pair(memory.clone(), self.tsc_khz())?;
        let mut state = reset_state();
        state.segments[CS].selector = 0;
        state.segments[CS].base = 0;
        state.rip = 0;
        vcpu.restore(&state).map_err(failed_run)?;
        let index = msr::TSC_DEADLINE;
        match vcpu.run(TRIAL_NS).map_err(failed_run)? {
            Exit::MsrWrite { index: left, .. } if left == index => {}
            exit => {
                return Err(unavailable(format!(
                    "it keeps a guest's writes of register {index:#x}, its timer's deadline, to \
                     itself ({exit:?})"
                )));
            }
        }
        let mut took = Vec::new();
        for _ in 0..TIMED_EXITS {
            let before = host_counter();
            run_to_port(&mut vcpu)?;
            took.push(host_counter().saturating_sub(before));
        }
        // Twice, as a page that was told of must be told of again.
        for _ in 0..2 {
            run_to_port(&mut vcpu)?;
            // That write is to be completed, and nothing more.
            let until = vcpu.logical_time() + 1;
            vcpu.run(until).map_err(failed_run)?;
            let collected = vcpu.try_collect_written();
            collected.map_err(failed("tell which pages were written"))?;
            let told = memory.take_dirty();
            if !told.contains(&WRITTEN) || told.contains(&UNTOUCHED) {
                return Err(unavailable(format!(
                    "a guest has written page {WRITTEN}, and it tells of {told:?}"
                )));
            }
        }
        took.sort_unstable();
        Ok(Traits {
            switch_ns: Scale::none(self.host_khz()).ns(took[TIMED_EXITS / 2]),
            shows_events: vcpu.shows_waiting().map_err(failed_run)?,
        })
    }
}

fn failed_run(source: VcpuError) -> HypervisorError {
    HypervisorError::Vcpu {
        backend: NAME,
        source: Box::new(source),
    }
}

/// Lets the guest run until it writes to its port.
fn run_to_port(vcpu: &mut KvmVcpu) -> Result<(), HypervisorError> {
    let until = vcpu.logical_time() + TRIAL_NS;
    match vcpu.run(until).map_err(failed_run)? {
        Exit::PioWrite { .. } => Ok(()),
        exit => Err(unavailable(format!("a write to a port ends in {exit:?}"))),
    }
}
