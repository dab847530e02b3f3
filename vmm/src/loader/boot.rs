//! Boot structures and the state in which the kernel is entered.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst` (64-bit boot protocol) and `zero-page.rst`; Xen
//! `public/arch-x86/hvm/start_info.h` for PVH.

use devices::board::{ECAM_BASE, ECAM_SIZE};
use hypervisor::arch::x86_64::control::{cr0, cr4, efer, xcr0};
use hypervisor::arch::x86_64::paging;
use hypervisor::arch::x86_64::segment::{CS, access};
use hypervisor::memory::HIGH_START;
use hypervisor::state::{DescriptorTable, Segment, reset_state};
use hypervisor::{CpuState, GuestMemory};

use super::{LoadError, place};

/// Bytes a command line may have, its zero included.
pub const COMMAND_LINE_MOST: usize = 0x1_0000;

const GDT: u64 = 0x500;
const PVH_INFO: u64 = 0x6000;
const PVH_MODULES: u64 = 0x6040;
const ZERO_PAGE: u64 = 0x7000;
const PVH_MEMORY_MAP: u64 = 0x7000;
const STACK_TOP: u64 = 0x8ff0;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Conventional memory ends here; the ACPI tables follow.
const LOW_END: u64 = 0xa_0000;
const HIGH_MEMORY: u64 = 0x10_0000;

/// Descriptors: null, null, 64-bit code, data, task state. Selectors as the protocol wants them.
const DESCRIPTORS: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// What the kernel is told.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    /// Command line.
    pub cmdline: &'a str,
    /// Address and size of the initramfs.
    pub initramfs: Option<(u64, u64)>,
    /// Address of the ACPI root pointer.
    pub rsdp: u64,
    /// Whether there is a PCI bus, whose ECAM is not to be used for anything else.
    pub pci: bool,
}

/// A range of the memory map: start, size, type (1 RAM, 2 reserved, 3 ACPI).
type Range = (u64, u64, u32);

fn memory_map(memory: &GuestMemory, pci: bool) -> Vec<Range> {
    let mut map = vec![
        (0, LOW_END, 1),
        (LOW_END, HIGH_MEMORY - LOW_END, 2),
        (HIGH_MEMORY, memory.low_end().saturating_sub(HIGH_MEMORY), 1),
    ];
    if pci {
        map.push((ECAM_BASE, ECAM_SIZE, 2));
    }
    if memory.high_end() > HIGH_START {
        map.push((HIGH_START, memory.high_end() - HIGH_START, 1));
    }
    map
}

impl Boot<'_> {
    fn place_command_line(&self, memory: &GuestMemory) -> Result<(), LoadError> {
        let mut text = self.cmdline.as_bytes().to_vec();
        text.push(0);
        place(memory, "the command line", COMMAND_LINE, &text)
    }

    /// Writes the zero page; the vCPU starts in 64-bit mode at `entry`.
    ///
    /// # Errors
    /// When guest memory is too small.
    pub fn linux64(
        &self,
        memory: &GuestMemory,
        entry: u64,
        setup_header: &[u8],
    ) -> Result<CpuState, LoadError> {
        self.place_command_line(memory)?;
        let mut page = vec![0; 4096];
        page[0x1f1..0x1f1 + setup_header.len()].copy_from_slice(setup_header);
        put(&mut page, 0x70, &self.rsdp.to_le_bytes());
        // Boot loader of no assigned type; the command line's address.
        page[0x210] = 0xff;
        put(&mut page, 0x228, &(COMMAND_LINE as u32).to_le_bytes());
        if let Some((address, size)) = self.initramfs {
            put(&mut page, 0x218, &(address as u32).to_le_bytes());
            put(&mut page, 0x21c, &(size as u32).to_le_bytes());
        }
        let map = memory_map(memory, self.pci);
        page[0x1e8] = map.len() as u8;
        for (index, (start, size, kind)) in map.into_iter().enumerate() {
            let at = 0x2d0 + index * 20;
            put(&mut page, at, &start.to_le_bytes());
            put(&mut page, at + 8, &size.to_le_bytes());
            put(&mut page, at + 16, &kind.to_le_bytes());
        }
        place(memory, "the zero page", ZERO_PAGE, &page)?;
        place_identity_map(memory)?;
        place(memory, "the descriptor table", GDT, &words(&DESCRIPTORS))?;
        let mut state = protected_state(access::LONG);
        state.gpr[6] = ZERO_PAGE;
        state.rip = entry;
        state.cr3 = PAGE_TABLES;
        state.cr4 = cr4::PAE;
        state.cr0 |= cr0::PG;
        state.msrs.efer = efer::LME | efer::LMA;
        Ok(state)
    }

    /// Writes the PVH structures; the vCPU starts in 32-bit protected mode at `entry`.
    ///
    /// # Errors
    /// When guest memory is too small.
    pub fn pvh(&self, memory: &GuestMemory, entry: u64) -> Result<CpuState, LoadError> {
        const MAGIC: u32 = 0x336e_c578;
        self.place_command_line(memory)?;
        let map = memory_map(memory, self.pci);
        let mut info = Vec::new();
        let modules = u32::from(self.initramfs.is_some());
        for word in [MAGIC, 1, 0, modules] {
            info.extend(word.to_le_bytes());
        }
        let modules_at = if modules == 0 { 0 } else { PVH_MODULES };
        for word in [modules_at, COMMAND_LINE, self.rsdp, PVH_MEMORY_MAP] {
            info.extend(word.to_le_bytes());
        }
        info.extend((map.len() as u32).to_le_bytes());
        info.extend(0u32.to_le_bytes());
        place(memory, "the PVH information", PVH_INFO, &info)?;
        if let Some((address, size)) = self.initramfs {
            place(
                memory,
                "the PVH modules",
                PVH_MODULES,
                &words(&[address, size, 0, 0]),
            )?;
        }
        let mut entries = Vec::new();
        for (start, size, kind) in map {
            entries.extend(start.to_le_bytes());
            entries.extend(size.to_le_bytes());
            entries.extend(u64::from(kind).to_le_bytes());
        }
        place(memory, "the PVH memory map", PVH_MEMORY_MAP, &entries)?;
        let mut descriptors = DESCRIPTORS;
        descriptors[2] = CODE_32;
        place(memory, "the descriptor table", GDT, &words(&descriptors))?;
        let mut state = protected_state(access::DEFAULT_32);
        state.gpr[3] = PVH_INFO;
        state.rip = entry;
        Ok(state)
    }
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

fn words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Maps the first 4 GiB onto themselves in 2 MiB pages.
fn place_identity_map(memory: &GuestMemory) -> Result<(), LoadError> {
    const ENTRIES: u64 = 512;
    let table = paging::PRESENT | paging::WRITABLE;
    let what = "the page tables";
    place(
        memory,
        what,
        PAGE_TABLES,
        &words(&[(PAGE_TABLES + 0x1000) | table]),
    )?;
    let directories: Vec<u64> = (0..4)
        .map(|index| (PAGE_TABLES + 0x2000 + index * 0x1000) | table)
        .collect();
    place(memory, what, PAGE_TABLES + 0x1000, &words(&directories))?;
    let pages: Vec<u64> = (0..4 * ENTRIES)
        .map(|index| index << 21 | table | paging::LARGE)
        .collect();
    place(memory, what, PAGE_TABLES + 0x2000, &words(&pages))
}

/// Protected mode with flat segments, the code segment of the given kind.
fn protected_state(code_kind: u32) -> CpuState {
    let mut state = reset_state();
    // As firmware leaves it that uses SSE. A kernel sets it again before it looks; but under KVM in
    // a machine that does not stop for XSETBV (QEMU's emulated SVM, 7.2), nobody else would learn.
    state.fpu.xcr0 = xcr0::X87 | xcr0::SSE;
    state.segments = [Segment::flat(DATA_SELECTOR, access::DEFAULT_32, 0); 6];
    state.segments[CS] = Segment::flat(CODE_SELECTOR, access::CODE | code_kind, 0);
    state.tr = Segment {
        selector: TASK_SELECTOR,
        base: 0,
        limit: 0x67,
        access: access::PRESENT | 0xb,
    };
    let limit = (DESCRIPTORS.len() * 8 - 1) as u16;
    state.gdtr = DescriptorTable { base: GDT, limit };
    state.idtr = DescriptorTable::default();
    state.cr0 = cr0::PE | cr0::ET;
    state.gpr = [0; 16];
    state.gpr[4] = STACK_TOP;
    state
}
