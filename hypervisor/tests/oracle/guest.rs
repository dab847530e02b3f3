//! Runs code on a processor of a guest, the software processor or one of KVM's, in ring 3 of a
//! minimal 64-bit system.
//!
//! ```text
//! physical; linear in the upper half,       linear 2000_0000 on: physical 10_0000 on, ring 3
//! ring 0 only
//!  1000 page tables (4 levels)
//!  6000 IDT   7000 GDT   8000 TSS
//!  9000 handlers: HLT at 9000 + vector
//!  b000 ring-0 stack (downwards)
//!  c000 page tables of the upper half
//! ```

use std::sync::Arc;

use hypervisor::arch::x86_64::control::{cr0, cr4, efer};
use hypervisor::arch::x86_64::segment::{CS, SS, access};
use hypervisor::memory::{GuestAddress, GuestMemory};
use hypervisor::software::vcpu::SoftwareVcpu;
use hypervisor::state::{CpuState, DescriptorTable, FpuState, Segment, reset_state};
use hypervisor::{Exit, Hypervisor, Vcpu, VmSpec};

use crate::layout::{
    ARENA_SIZE, CODE, CODE_SIZE, DATA, DATA_SIZE, Ended, FLAGS, IMAGES, PAGE, READ_ONLY, STACK,
    STACK_SIZE, State,
};
use crate::random::Random;

const ARENA: u64 = CODE;
const ARENA_PHYSICAL: u64 = 0x10_0000;
const MEMORY_SIZE: u64 = ARENA_PHYSICAL + ARENA_SIZE;
/// Linear address of physical zero.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const ROOT: u64 = 0x1000;
const IDT: u64 = 0x6000;
const GDT: u64 = 0x7000;
const TSS: u64 = 0x8000;
const HANDLERS: u64 = 0x9000;
const KERNEL_STACK: u64 = 0xb000;
const USER_CODE: u16 = 0x33;
const USER_DATA: u16 = 0x2b;
const KERNEL_CODE: u16 = 0x10;
/// More instructions than any sequence executes.
const MOST_INSTRUCTIONS: u64 = 20_000;
/// More nanoseconds than any sequence takes, on a host that is emulated and busy, too.
const MOST_NS: u64 = 10_000_000_000;
/// Vectors that push an error code.
const WITH_ERROR: [u8; 7] = [8, 10, 11, 12, 13, 14, 17];

/// A processor and its memory.
pub struct Guest {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    /// What a run may take, in what its logical time counts.
    limit: u64,
}

impl Guest {
    /// The software processor that `make` makes, with its tables in place.
    pub fn of_software(make: impl FnOnce(Arc<GuestMemory>) -> SoftwareVcpu) -> Self {
        let memory = Arc::new(GuestMemory::new(MEMORY_SIZE).unwrap());
        let vcpu = Box::new(make(memory.clone()));
        Self::with(memory, vcpu, MOST_INSTRUCTIONS)
    }

    /// The processor of a VM of this backend, whose logical time counts nanoseconds.
    pub fn of(hypervisor: &dyn Hypervisor) -> Self {
        let memory = Arc::new(GuestMemory::new(MEMORY_SIZE).unwrap());
        let spec = VmSpec {
            vcpus: 1,
            tsc_khz: hypervisor.tsc_khz(),
        };
        let mut vm = hypervisor.create_vm(memory.clone(), spec).unwrap();
        let vcpu = vm.take_vcpus().pop().unwrap();
        Self::with(memory, vcpu, MOST_NS)
    }

    fn with(memory: Arc<GuestMemory>, vcpu: Box<dyn Vcpu>, limit: u64) -> Self {
        let guest = Self {
            memory,
            vcpu,
            limit,
        };
        guest.build_tables();
        guest
    }

    fn put(&self, address: u64, value: u64) {
        self.memory
            .write(GuestAddress(address), &value.to_le_bytes())
            .unwrap();
    }

    fn get(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(GuestAddress(address), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn build_tables(&self) {
        const USER: u64 = 7;
        const NX: u64 = 1 << 63;
        self.put(ROOT, 0x2000 | USER);
        self.put(0x2000, 0x3000 | USER);
        self.put(ROOT + 0x800, 0xc000 | USER);
        self.put(0xc000, 0xd000 | USER);
        self.put(0xd000, 0x4000 | USER);
        self.put(0x3000 + (ARENA >> 21) * 8, 0x5000 | USER);
        for page in 0..0x10 {
            self.put(0x4000 + page * 8, (page * PAGE) | 3);
        }
        let map = |start: u64, size: u64, rights: u64| {
            for linear in (start..start + size).step_by(PAGE as usize) {
                let physical = linear - ARENA + ARENA_PHYSICAL;
                self.put(0x5000 + (linear - ARENA) / PAGE * 8, physical | rights);
            }
        };
        map(CODE, CODE_SIZE, USER);
        map(DATA, DATA_SIZE, USER | NX);
        map(READ_ONLY, PAGE, 5 | NX);
        map(STACK, STACK_SIZE, USER | NX);
        map(IMAGES, PAGE, USER | NX);
        for vector in 0..256 {
            let handler = KERNEL + HANDLERS + vector;
            // A 64-bit interrupt gate, present, for ring 0; INT3 and INTO are for ring 3.
            let dpl = if vector == 3 || vector == 4 { 3 } else { 0 };
            let rights = 0x8e00 | dpl << 13;
            let low = handler & 0xffff
                | u64::from(KERNEL_CODE) << 16
                | rights << 32
                | (handler & 0xffff_0000) << 32;
            self.put(IDT + vector * 16, low);
            self.put(IDT + vector * 16 + 8, handler >> 32);
            self.memory
                .write(GuestAddress(HANDLERS + vector), &[0xf4])
                .unwrap();
        }
        self.put(GDT + u64::from(KERNEL_CODE), 0x00af_9b00_0000_ffff);
        self.put(GDT + u64::from(USER_DATA & !7), 0x00cf_f300_0000_ffff);
        self.put(GDT + u64::from(USER_CODE & !7), 0x00af_fb00_0000_ffff);
        self.put(TSS + 4, KERNEL + KERNEL_STACK);
        // The map of permitted ports starts behind the segment: there is none.
        self.put(TSS + 0x60, 0x68 << 48);
    }

    fn physical(linear: u64) -> GuestAddress {
        GuestAddress(linear - ARENA + ARENA_PHYSICAL)
    }

    fn read(&self, linear: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.memory
            .read(Self::physical(linear), &mut bytes)
            .unwrap();
        bytes
    }

    /// Runs `code` from `start` until a fault. `slices` cuts the run at random places.
    ///
    /// # Errors
    /// What happened instead of a fault.
    pub fn run(
        &mut self,
        code: &[u8],
        start: &State,
        mut slices: Option<Random>,
    ) -> Result<Ended, String> {
        self.memory.write(Self::physical(CODE), code).unwrap();
        self.memory
            .write(Self::physical(DATA), &start.data)
            .unwrap();
        self.memory
            .write(Self::physical(STACK), &start.stack)
            .unwrap();
        self.memory
            .write(Self::physical(IMAGES), &start.images)
            .unwrap();
        self.vcpu
            .restore(&cpu_state(start))
            .map_err(|error| error.to_string())?;
        loop {
            let until = match &mut slices {
                Some(random) => self.vcpu.logical_time() + 1 + random.below(4),
                None => self.limit,
            };
            match self.vcpu.run(until) {
                Ok(Exit::Halted) => return Ok(self.ended()),
                Ok(Exit::Reached) if until < self.limit => {}
                other => return Err(format!("{other:?}")),
            }
        }
    }

    fn ended(&self) -> Ended {
        let cpu = self.vcpu.save();
        let vector = (cpu.rip - 1 - HANDLERS - KERNEL) as u8;
        let mut frame = cpu.gpr[4] - KERNEL;
        let mut error = 0;
        if WITH_ERROR.contains(&vector) {
            error = self.get(frame);
            frame += 8;
        }
        let mut gpr = cpu.gpr;
        gpr[4] = self.get(frame + 24);
        let mut fxsave = [0; 416];
        fxsave.copy_from_slice(&cpu.fpu.fxsave[..416]);
        Ended {
            vector,
            error,
            rip: self.get(frame),
            address: if vector == 14 { cpu.cr2 } else { 0 },
            state: State {
                gpr,
                flags: self.get(frame + 16) & FLAGS,
                fxsave,
                data: self.read(DATA, DATA_SIZE),
                stack: self.read(STACK, STACK_SIZE),
                images: self.read(IMAGES, PAGE),
            },
        }
    }
}

fn cpu_state(start: &State) -> CpuState {
    let mut state = reset_state();
    let common = access::PRESENT | access::NOT_SYSTEM | access::ACCESSED | access::WRITABLE;
    let ring_3 = 3 << access::DPL_SHIFT;
    let unusable = Segment {
        access: access::UNUSABLE,
        ..Segment::default()
    };
    state.segments = [unusable; 6];
    state.segments[CS] = Segment {
        selector: USER_CODE,
        base: 0,
        limit: u32::MAX,
        access: common | access::CODE | access::LONG | access::GRANULAR | ring_3,
    };
    state.segments[SS] = Segment {
        selector: USER_DATA,
        base: 0,
        limit: u32::MAX,
        access: common | access::DEFAULT_32 | access::GRANULAR | ring_3,
    };
    state.tr = Segment {
        selector: 0x40,
        base: KERNEL + TSS,
        limit: 0x67,
        access: access::PRESENT | 0xb,
    };
    state.gdtr = DescriptorTable {
        base: KERNEL + GDT,
        limit: 0x7f,
    };
    state.idtr = DescriptorTable {
        base: KERNEL + IDT,
        limit: 0xfff,
    };
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    state.cr3 = ROOT;
    state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.gpr = start.gpr;
    state.rip = CODE;
    state.rflags = 0x202 | start.flags;
    let mut fxsave = start.fxsave.to_vec();
    fxsave.resize(512, 0);
    state.fpu = FpuState { fxsave, xcr0: 3 };
    state
}
