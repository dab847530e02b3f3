//! A small guest: one vCPU in 64-bit mode, 2 MiB of memory, a program, and a stop when it is done.
//!
//! ```text
//! 0x01000 page tables: identity for 2 MiB in 4 KiB pages, all of them open to ring 3;
//!         the 2 MiB behind them are device registers
//! 0x05000 descriptor tables, task state        0x07000 a stub for each exception
//! 0x10000 program     0x20000 stacks below     0x30000 data
//! ```
//!
//! A stub writes to a port that tells the vector, so an exception that the program does not handle
//! itself is an exit too.
//!
//! UNSAFETY: maps the guest's memory and hands it to KVM. It is touched only while the vCPU is
//! stopped, with copies of bytes.
#![allow(unsafe_code)]

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
    kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::cell::RefCell;
use std::sync::Arc;

use super::ProbeError;
use super::program::{CODE, DATA, DATA_SIZE, DEVICE, DONE, GDT, IDT, PAGE_TABLE};
use super::watch::Watch;

/// Bytes of guest memory.
pub(super) const MEMORY_SIZE: usize = 2 << 20;
const PAGE: u64 = 4096;
const TOP_TABLE: u64 = 0x1000;
const TASK_STATE: u64 = 0x5800;
const STUBS: u64 = 0x7000;
/// Port of vector 0; the others follow.
const FAULT_PORT: u16 = 0x40;
const KERNEL_STACK: u64 = 0x20000;
const USER_STACK: u64 = 0x28000;
/// The stack that the processor takes on its way from ring 3.
const ENTRY_STACK: u64 = 0x2f000;
const ABSENT_PAGE: u64 = super::program::ABSENT / PAGE;

/// What all guests share, and a guest for all probes that leave it as it was.
pub(super) struct Host {
    pub(super) kvm: Kvm,
    watch: Arc<Watch>,
    cpuid: CpuId,
    spare: RefCell<Option<Guest>>,
}

impl Host {
    /// Asks KVM what its processors have.
    pub(super) fn new(kvm: Kvm, watch: Arc<Watch>) -> Result<Self, ProbeError> {
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(ProbeError::kvm("get the supported CPUID"))?;
        Ok(Self {
            kvm,
            watch,
            cpuid,
            spare: RefCell::new(None),
        })
    }

    /// Calls `probe` with a plain guest, which others had and will have, unless it fails. Making
    /// one takes tens of milliseconds on a slow host.
    pub(super) fn with_guest<T>(
        &self,
        probe: impl FnOnce(&mut Guest) -> Result<T, ProbeError>,
    ) -> Result<T, ProbeError> {
        let spare = self.spare.take();
        let mut guest = match spare {
            Some(guest) => guest,
            None => Guest::new(self)?,
        };
        let answer = probe(&mut guest)?;
        self.spare.replace(Some(guest));
        Ok(answer)
    }

    /// ECX of a CPUID leaf, as guests see it.
    fn cpuid_ecx(&self, leaf: u32) -> u32 {
        let entries = self.cpuid.as_slice();
        let entry = entries.iter().find(|entry| entry.function == leaf);
        entry.map_or(0, |entry| entry.ecx)
    }

    /// Whether guests have XSAVE.
    pub(super) fn has_xsave(&self) -> bool {
        self.cpuid_ecx(1) & 1 << 26 != 0
    }
}

/// The ring that a program runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    /// Ring 0.
    Kernel,
    /// Ring 3, with the right to use ports.
    User,
}

/// Why a guest stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The program wrote to [`DONE`].
    Done,
    /// An exception that it does not handle itself.
    Fault(u8),
    /// Another port was written or read.
    Port(u16),
    /// HLT.
    Halted,
    /// A device register was read.
    DeviceRead(u64),
    /// A device register was written.
    DeviceWrite(u64, u64),
    /// A model-specific register was read, and the read has been answered.
    MsrRead(u32),
    /// A model-specific register was written.
    MsrWrite(u32, u64),
    /// A breakpoint or a step, before the instruction at this address.
    Debug(u64),
    /// A signal came: the guest is over its time, unless something else sends signals.
    Interrupted,
    /// KVM gave up on the guest.
    Broken(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => write!(out, "ended with another result"),
            Self::Fault(vector) => write!(out, "exception {vector}"),
            Self::Port(port) => write!(out, "an exit for port {port:#x}"),
            Self::Halted => write!(out, "a halt"),
            Self::DeviceRead(gpa) => write!(out, "an exit for a read at {gpa:#x}"),
            Self::DeviceWrite(gpa, _) => write!(out, "an exit for a write at {gpa:#x}"),
            Self::MsrRead(index) => write!(out, "an exit for a read of MSR {index:#x}"),
            Self::MsrWrite(index, _) => write!(out, "an exit for a write of MSR {index:#x}"),
            Self::Debug(rip) => write!(out, "a debug exit at {rip:#x}"),
            Self::Interrupted => write!(out, "not done in time"),
            Self::Broken(what) => write!(out, "{what}"),
        }
    }
}

/// Guest memory of our own process, unmapped when dropped.
struct Memory(*mut u8);

impl Memory {
    fn new() -> Result<Self, ProbeError> {
        // SAFETY: a fresh anonymous mapping that replaces none.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(ProbeError::host("map guest memory"));
        }
        Ok(Self(start.cast()))
    }

    fn write(&mut self, gpa: u64, bytes: &[u8]) {
        let end = gpa as usize + bytes.len();
        assert!(end <= MEMORY_SIZE, "{end:#x} is behind the guest's memory");
        // SAFETY: the range was just checked; the vCPU is stopped, as it runs only inside `run`,
        // which borrows the guest.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(gpa as usize), bytes.len());
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the VM that uses it is dropped before, by field order.
        unsafe { libc::munmap(self.0.cast(), MEMORY_SIZE) };
    }
}

/// The guest. Its fields are dropped in order: whoever uses the memory goes before it.
pub(super) struct Guest {
    pub(super) vcpu: VcpuFd,
    pub(super) vm: VmFd,
    memory: Memory,
    watch: Arc<Watch>,
    reset: kvm_sregs,
    has_xsave: bool,
    /// What reads of ports, device registers and MSRs are answered with.
    pub(super) answer: u64,
}

impl Guest {
    /// Makes a guest.
    pub(super) fn new(host: &Host) -> Result<Self, ProbeError> {
        Self::with(host, |_| Ok(()))
    }

    /// Makes a guest whose VM is set up before it has a vCPU.
    pub(super) fn with(
        host: &Host,
        set_up: impl FnOnce(&VmFd) -> Result<(), ProbeError>,
    ) -> Result<Self, ProbeError> {
        let vm = host
            .kvm
            .create_vm()
            .map_err(ProbeError::kvm("create a VM"))?;
        // Intel processors without unrestricted guests need these three pages; others ignore it.
        vm.set_tss_address(0xfffb_d000)
            .map_err(ProbeError::kvm("set the TSS address"))?;
        set_up(&vm)?;
        let memory = Memory::new()?;
        let vcpu = vm
            .create_vcpu(0)
            .map_err(ProbeError::kvm("create a vCPU"))?;
        vcpu.set_cpuid2(&host.cpuid)
            .map_err(ProbeError::kvm("set the CPUID"))?;
        if host.has_xsave() {
            enable_sse(&vcpu)?;
        }
        let reset = vcpu
            .get_sregs()
            .map_err(ProbeError::kvm("get the system registers"))?;
        let mut guest = Self {
            vcpu,
            vm,
            memory,
            watch: host.watch.clone(),
            reset,
            has_xsave: host.has_xsave(),
            answer: 0,
        };
        guest.set_slot_flags(0)?;
        guest.write_page_tables();
        Ok(guest)
    }

    /// Sets the flags of the memory slot: whether its dirty pages are logged.
    pub(super) fn set_slot_flags(&mut self, flags: u32) -> Result<(), ProbeError> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags,
            guest_phys_addr: 0,
            memory_size: MEMORY_SIZE as u64,
            userspace_addr: self.memory.0 as u64,
        };
        // SAFETY: the memory lives as long as the VM: see the order of the fields.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(ProbeError::kvm("set the memory slot"))
    }

    fn write_page_tables(&mut self) {
        const OPEN: u64 = 7;
        const LARGE: u64 = 1 << 7;
        let mut put = |gpa: u64, value: u64| self.memory.write(gpa, &value.to_le_bytes());
        put(TOP_TABLE, 0x2000 | OPEN);
        put(0x2000, 0x3000 | OPEN);
        put(0x3000, PAGE_TABLE | OPEN);
        put(0x3008, DEVICE | OPEN | LARGE);
        for page in (0..512).filter(|page| *page != ABSENT_PAGE) {
            put(PAGE_TABLE + page * 8, (page * PAGE) | OPEN);
        }
    }

    fn write_descriptor_tables(&mut self) {
        let mut put = |gpa: u64, value: u64| self.memory.write(gpa, &value.to_le_bytes());
        let descriptors = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            // An available 64-bit task state segment of 104 bytes, so that LTR can load it.
            0x0000_8900_0000_0067 | TASK_STATE << 16,
            0,
        ];
        for (index, descriptor) in descriptors.into_iter().enumerate() {
            put(GDT + index as u64 * 8, descriptor);
        }
        put(TASK_STATE + 4, ENTRY_STACK);
        for vector in 0..32 {
            let stub = STUBS + vector * 16;
            // Selector 8, present interrupt gate; the address fits into its low 16 bits.
            put(IDT + vector * 16, stub | 8 << 16 | 0x8e00 << 32);
            put(IDT + vector * 16 + 8, 0);
            // OUT port, AL; HLT; and back to it.
            let port = (u64::from(FAULT_PORT) + vector) as u8;
            put(
                stub,
                u64::from_le_bytes([0xe6, port, 0xf4, 0xeb, 0xfd, 0, 0, 0]),
            );
        }
    }

    /// Loads a program with zeros for data, `argument` in RDI, and the vCPU at its start.
    pub(super) fn load(
        &mut self,
        code: &[u8],
        ring: Ring,
        argument: u64,
    ) -> Result<(), ProbeError> {
        self.complete()?;
        self.write_descriptor_tables();
        self.memory.write(CODE, code);
        self.memory.write(DATA, &[0; DATA_SIZE as usize]);
        self.set_system_registers(ring)?;
        let rsp = if ring == Ring::Kernel {
            KERNEL_STACK
        } else {
            USER_STACK
        };
        self.vcpu
            .set_regs(&kvm_regs {
                rip: CODE,
                rsp,
                rdi: argument,
                // I/O privilege for ring 3, interrupts off.
                rflags: 0x3002,
                ..kvm_regs::default()
            })
            .map_err(ProbeError::kvm("set the registers"))
    }

    /// Has KVM complete the instruction of the last exit. It does so when the vCPU is entered next,
    /// by its address: at the same address it would skip an instruction of the next program.
    fn complete(&mut self) -> Result<(), ProbeError> {
        self.vcpu.set_kvm_immediate_exit(1);
        let stop = self.run_once();
        self.vcpu.set_kvm_immediate_exit(0);
        stop.map(|_| ())
    }

    /// Sets them if they are not as wanted: KVM forgets all its translations with each setting.
    fn set_system_registers(&self, ring: Ring) -> Result<(), ProbeError> {
        let wanted = start_state(&self.reset, ring, self.has_xsave);
        let current = self.vcpu.get_sregs();
        let current = current.map_err(ProbeError::kvm("get the system registers"))?;
        if current == wanted {
            return Ok(());
        }
        self.vcpu
            .set_sregs(&wanted)
            .map_err(ProbeError::kvm("set the system registers"))
    }

    /// Runs until the guest stops.
    pub(super) fn run(&mut self) -> Result<Stop, ProbeError> {
        loop {
            if let Some(stop) = self.run_once()? {
                return Ok(stop);
            }
        }
    }

    /// Runs until there is an exit; none if it is one that needs no answer.
    fn run_once(&mut self) -> Result<Option<Stop>, ProbeError> {
        self.watch.begin_run()?;
        let answer = self.answer.to_le_bytes();
        let fill = |data: &mut [u8]| {
            for (byte, value) in data.iter_mut().zip(answer) {
                *byte = value;
            }
        };
        let ended = self.vcpu.run();
        self.watch.end_run();
        let stop = match ended {
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(DONE) => Stop::Done,
            Ok(VcpuExit::IoOut(port, _)) if (FAULT_PORT..FAULT_PORT + 32).contains(&port) => {
                Stop::Fault((port - FAULT_PORT) as u8)
            }
            Ok(VcpuExit::IoOut(port, _)) => Stop::Port(port),
            Ok(VcpuExit::IoIn(port, data)) => {
                fill(data);
                Stop::Port(port)
            }
            Ok(VcpuExit::MmioRead(gpa, data)) => {
                fill(data);
                Stop::DeviceRead(gpa)
            }
            Ok(VcpuExit::MmioWrite(gpa, data)) => Stop::DeviceWrite(gpa, number(data)),
            Ok(VcpuExit::X86Rdmsr(exit)) => {
                *exit.data = self.answer;
                *exit.error = 0;
                Stop::MsrRead(exit.index)
            }
            Ok(VcpuExit::X86Wrmsr(exit)) => Stop::MsrWrite(exit.index, exit.data),
            Ok(VcpuExit::Hlt) => Stop::Halted,
            Ok(VcpuExit::Debug(debug)) => Stop::Debug(debug.pc),
            Ok(VcpuExit::Intr) => Stop::Interrupted,
            // The task priority was lowered: a matter for who has interrupts.
            Ok(VcpuExit::SetTpr) => return Ok(None),
            Ok(VcpuExit::InternalError) => Stop::Broken("an internal error of KVM".into()),
            Ok(VcpuExit::Shutdown) => Stop::Broken("a triple fault".into()),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Stop::Broken(format!("no entry, hardware reason {reason:#x}"))
            }
            Ok(other) => Stop::Broken(format!("an unknown exit: {other:?}")),
            Err(error) if error.errno() == libc::EINTR => Stop::Interrupted,
            Err(error) => return Err(ProbeError::kvm("run the vCPU")(error)),
        };
        Ok(Some(stop))
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it stops for another reason.
    pub(super) fn run_to_end(&mut self) -> Result<(), ProbeError> {
        match self.run()? {
            Stop::Done => Ok(()),
            other => Err(ProbeError::Stopped(other)),
        }
    }

    /// RAX.
    pub(super) fn rax(&self) -> Result<u64, ProbeError> {
        let regs = self.vcpu.get_regs();
        Ok(regs.map_err(ProbeError::kvm("get the registers"))?.rax)
    }
}

/// Lets the guest begin with the x87 and SSE state enabled, as the backend's guests do: not every
/// processor stops for XSETBV (QEMU's emulated SVM, 7.2, does not), and where it does not, KVM goes
/// back to what it knows at the next exit.
fn enable_sse(vcpu: &VcpuFd) -> Result<(), ProbeError> {
    const X87_AND_SSE: u64 = 3;
    let mut control = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    control.xcrs[0].value = X87_AND_SSE;
    vcpu.set_xcrs(&control).map_err(ProbeError::kvm("set XCR0"))
}

fn number(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (byte, value) in bytes.iter_mut().zip(data) {
        *byte = *value;
    }
    u64::from_le_bytes(bytes)
}

/// System registers of a program's start: 64-bit mode with the tables above.
fn start_state(reset: &kvm_sregs, ring: Ring, has_xsave: bool) -> kvm_sregs {
    let dpl = if ring == Ring::Kernel { 0 } else { 3 };
    let segment = |selector: u16, type_: u8, long: bool| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    };
    let (code, data) = match ring {
        Ring::Kernel => (0x08, 0x10),
        Ring::User => (0x2b, 0x23),
    };
    let data = segment(data, 3, false);
    let mut sregs = *reset;
    sregs.cs = segment(code, 0xb, true);
    for register in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *register = data;
    }
    sregs.tr = kvm_segment {
        base: TASK_STATE,
        limit: 0x67,
        selector: 0x30,
        type_: 0xb,
        present: 1,
        ..kvm_segment::default()
    };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x3f);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
    // Protection, coprocessor present and native errors, write protection, paging.
    sregs.cr0 = 0x8001_0033;
    sregs.cr3 = TOP_TABLE;
    // PAE, FXSAVE, SIMD exceptions, and XSAVE where it is.
    sregs.cr4 = 0x620 | u64::from(has_xsave) << 18;
    // SYSCALL, long mode enabled and active, no-execute.
    sregs.efer = 0xd01;
    sregs
}
