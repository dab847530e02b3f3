//! A minimal 64-bit system for tests: ring 0 and ring 3, every vector's handler is a HLT.
//!
//! ```text
//! linear = physical, 4 KiB pages, 2 MiB
//!   1000 page tables     6000 IDT   7000 GDT   8000 TSS   9000 handlers (9000 + vector)
//!   b000 ring-0 stack    d000 stack of IST 1   f000 stack for faults from ring 3 (all downwards)
//! 100000 code            120000 data           140000 user code   160000 user data
//! 1ff000 a page of device memory (physical e000_0000)
//! ```

use std::sync::Arc;

use hypervisor::arch::x86_64::control::{cr0, cr4, efer};
use hypervisor::arch::x86_64::segment::{CS, SS, access};
use hypervisor::memory::{GuestAddress, GuestMemory};
use hypervisor::software::SoftwareHypervisor;
use hypervisor::state::{CpuState, DescriptorTable, Segment, reset_state};
use hypervisor::{Exit, Hypervisor, Vcpu, VmSpec};
use iced_x86::code_asm::CodeAssembler;

pub const CODE: u64 = 0x10_0000;
pub const DATA: u64 = 0x12_0000;
pub const USER_CODE: u64 = 0x14_0000;
pub const USER_DATA: u64 = 0x16_0000;
pub const DEVICE: u64 = 0x1f_f000;
pub const DEVICE_PHYSICAL: u64 = 0xe000_0000;
pub const STACK: u64 = 0xb000;
pub const IST_STACK: u64 = 0xd000;
pub const HANDLERS: u64 = 0x9000;
pub const IDT: u64 = 0x6000;
pub const NX: u64 = 1 << 63;
pub const PRESENT: u64 = 1;
pub const WRITABLE: u64 = 2;
pub const USER: u64 = 4;
pub const KERNEL_CODE: u16 = 0x10;
pub const KERNEL_DATA: u16 = 0x18;

const DIRECTORY: u64 = 0x3000;
const TABLES: u64 = 0x4000;
const GDT: u64 = 0x7000;
const TSS: u64 = 0x8000;
const FAULT_STACK: u64 = 0xf000;
const MEMORY_SIZE: u64 = 4 << 20;

/// What a fault left.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: u8,
    pub code: Option<u64>,
    pub rip: u64,
}

/// The system and its processor.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub vcpu: Box<dyn Vcpu>,
}

impl Guest {
    /// In ring 0, at [`CODE`], which holds what `assemble` makes.
    pub fn new(assemble: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::on(&SoftwareHypervisor, assemble)
    }

    /// The same on this backend.
    pub fn on(hypervisor: &dyn Hypervisor, assemble: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::of_size(hypervisor, MEMORY_SIZE, assemble)
    }

    /// The same with so much memory, of which the first 2 MiB are mapped.
    pub fn of_size(
        hypervisor: &dyn Hypervisor,
        size: u64,
        assemble: impl FnOnce(&mut CodeAssembler),
    ) -> Self {
        let memory = Arc::new(GuestMemory::new(size).unwrap());
        let spec = VmSpec {
            vcpus: 1,
            tsc_khz: hypervisor.tsc_khz(),
        };
        let mut vm = hypervisor.create_vm(memory.clone(), spec).unwrap();
        let mut guest = Self {
            vcpu: vm.take_vcpus().pop().unwrap(),
            memory,
        };
        guest.build_tables();
        guest.put_code(CODE, assemble);
        guest.set_state(|_| ());
        guest
    }

    /// Puts code at `address`.
    pub fn put_code(&mut self, address: u64, assemble: impl FnOnce(&mut CodeAssembler)) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        assemble(&mut assembler);
        let bytes = assembler.assemble(address).unwrap();
        self.memory.write(GuestAddress(address), &bytes).unwrap();
    }

    pub fn put(&self, address: u64, value: u64) {
        self.memory
            .write(GuestAddress(address), &value.to_le_bytes())
            .unwrap();
    }

    pub fn get(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(GuestAddress(address), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Maps the page at `linear` to itself with `rights`.
    pub fn map(&self, linear: u64, rights: u64) {
        self.put(TABLES + (linear >> 12) * 8, linear | rights);
    }

    /// Maps the 2 MiB at `linear` to themselves, for ring 0.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub fn map_large(&self, linear: u64) {
        const LARGE: u64 = 1 << 7;
        let entry = linear | PRESENT | WRITABLE | LARGE;
        self.put(DIRECTORY + (linear >> 21) * 8, entry);
    }

    /// The paging entry of the page at `linear`.
    pub fn entry(&self, linear: u64) -> u64 {
        self.get(TABLES + (linear >> 12) * 8)
    }

    fn build_tables(&self) {
        let all = PRESENT | WRITABLE | USER;
        self.put(0x1000, 0x2000 | all);
        self.put(0x2000, DIRECTORY | all);
        self.put(DIRECTORY, TABLES | all);
        for page in 0..512 {
            let user = if page << 12 >= USER_CODE { USER } else { 0 };
            self.map(page << 12, PRESENT | WRITABLE | user);
        }
        self.put(
            TABLES + (DEVICE >> 12) * 8,
            DEVICE_PHYSICAL | PRESENT | WRITABLE,
        );
        for vector in 0..256 {
            self.set_gate(vector, HANDLERS + vector, 0);
            self.memory
                .write(GuestAddress(HANDLERS + vector), &[0xf4])
                .unwrap();
        }
        self.put(GDT + u64::from(KERNEL_CODE), 0x00af_9b00_0000_ffff);
        self.put(GDT + u64::from(KERNEL_DATA), 0x00cf_9300_0000_ffff);
        self.put(GDT + 0x28, 0x00cf_f300_0000_ffff);
        self.put(GDT + 0x30, 0x00af_fb00_0000_ffff);
        self.put(TSS + 4, FAULT_STACK);
        self.put(TSS + 0x24, IST_STACK);
    }

    /// An interrupt gate on interrupt stack `ist` (0: none).
    pub fn set_gate(&self, vector: u64, handler: u64, ist: u64) {
        let low = handler & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | ist << 32
            | 0xee00 << 32
            | (handler & 0xffff_0000) << 32;
        self.put(IDT + vector * 16, low);
        self.put(IDT + vector * 16 + 8, handler >> 32);
    }

    /// Puts the processor into its first state, changed by `change`.
    pub fn set_state(&mut self, change: impl FnOnce(&mut CpuState)) {
        let mut state = first_state();
        change(&mut state);
        self.vcpu.restore(&state).unwrap();
    }

    /// Puts the processor into ring 3 at [`USER_CODE`].
    pub fn set_user_state(&mut self, change: impl FnOnce(&mut CpuState)) {
        self.set_state(|state| {
            for (segment, selector) in [(CS, 0x33), (SS, 0x2b)] {
                state.segments[segment].selector = selector;
                state.segments[segment].access |= 3 << access::DPL_SHIFT;
            }
            state.rip = USER_CODE;
            state.gpr[4] = USER_DATA + 0x1000;
            change(state);
        });
    }

    /// CR2.
    pub fn vcpu_cr2(&self) -> u64 {
        self.vcpu.save().cr2
    }

    /// Runs until HLT retires.
    pub fn run_to_halt(&mut self) -> CpuState {
        assert_eq!(self.vcpu.run(1_000_000).unwrap(), Exit::Halted);
        self.vcpu.save()
    }

    /// Runs until a fault's handler halts.
    pub fn run_to_fault(&mut self) -> Fault {
        let state = self.run_to_halt();
        let vector = (state.rip - 1).wrapping_sub(HANDLERS);
        assert!(vector < 256, "halted at {:#x}, not in a handler", state.rip);
        let frame = state.gpr[4];
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let code = has_code.then(|| self.get(frame));
        let rip = self.get(frame + if has_code { 8 } else { 0 });
        Fault {
            vector: vector as u8,
            code,
            rip,
        }
    }
}

/// 64-bit mode, ring 0, interrupts off, the FPU ready.
fn first_state() -> CpuState {
    let mut state = reset_state();
    let common = access::PRESENT | access::NOT_SYSTEM | access::ACCESSED | access::WRITABLE;
    let flat = |selector, more| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        access: common | access::GRANULAR | more,
    };
    state.segments = [flat(KERNEL_DATA, access::DEFAULT_32); 6];
    state.segments[CS] = flat(KERNEL_CODE, access::CODE | access::LONG);
    state.tr = Segment {
        selector: 0x40,
        base: TSS,
        limit: 0x67,
        access: access::PRESENT | 0xb,
    };
    state.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x7f,
    };
    state.idtr = DescriptorTable {
        base: IDT,
        limit: 0xfff,
    };
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    state.cr3 = 0x1000;
    state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.fpu.xcr0 = 3;
    state.gpr = [0; 16];
    state.gpr[4] = STACK;
    state.rip = CODE;
    state.rflags = 2;
    state
}
