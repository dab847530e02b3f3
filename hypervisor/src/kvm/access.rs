//! The access of the guest that an exit of KVM stands for.
//!
//! KVM stops inside an instruction, with what it wants to read or has to write in the page that it
//! shares with us, and goes on with that instruction at the next `KVM_RUN`. A string
//! instruction stops once for many port accesses; they are handed out one by one.
//! KVM API 5, `KVM_EXIT_IO`, `KVM_EXIT_MMIO`, `KVM_EXIT_X86_RDMSR`.
//!
//! UNSAFETY: fields of a union that the reason of the exit chooses, and the buffer of port
//! accesses at an offset that the kernel tells.
#![allow(unsafe_code)]

use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, kvm_run,
};

use crate::exit::Exit;
use crate::vcpu::VcpuError;

/// Port accesses that one exit stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    write: bool,
    port: u16,
    size: u8,
    /// Where the first access's bytes are in the shared pages.
    offset: u64,
    count: u32,
    done: u32,
}

/// How far the access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No instruction is under way.
    None,
    /// Everything was answered; the instruction has not retired.
    Answered,
    Ports(Ports),
    MmioRead,
    Msr {
        write: bool,
    },
}

/// The access of the instruction under way.
#[derive(Debug)]
pub(super) struct Access {
    stage: Stage,
    /// The exit that waits for its answer.
    waiting: Option<Exit>,
}

impl Access {
    pub fn none() -> Self {
        Self {
            stage: Stage::None,
            waiting: None,
        }
    }

    /// Whether an instruction is under way.
    pub fn is_inside(&self) -> bool {
        self.stage != Stage::None
    }

    /// The instruction retired, or its state was replaced.
    pub fn forget(&mut self) {
        *self = Self::none();
    }

    /// Whether a read waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Takes over the access that KVM stopped for; `None` if the exit is no access.
    pub fn begin(&mut self, run: &mut kvm_run) -> Option<Exit> {
        let (stage, exit) = match run.exit_reason {
            KVM_EXIT_IO => return self.begin_ports(run),
            KVM_EXIT_MMIO => {
                // SAFETY: the reason says that this field of the union is the one in use.
                let mmio = unsafe { run.__bindgen_anon_1.mmio };
                let size = mmio.len.min(8) as u8;
                let gpa = mmio.phys_addr;
                if mmio.is_write == 0 {
                    (Stage::MmioRead, Exit::MmioRead { gpa, size })
                } else {
                    let value = number(&mmio.data[..usize::from(size)]);
                    (Stage::Answered, Exit::MmioWrite { gpa, size, value })
                }
            }
            KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => {
                // SAFETY: as above.
                let msr = unsafe { &mut run.__bindgen_anon_1.msr };
                msr.error = 0;
                let (index, value) = (msr.index, msr.data);
                if run.exit_reason == KVM_EXIT_X86_RDMSR {
                    (Stage::Msr { write: false }, Exit::MsrRead { index })
                } else {
                    (Stage::Msr { write: true }, Exit::MsrWrite { index, value })
                }
            }
            _ => return None,
        };
        self.stage = stage;
        let reads = matches!(exit, Exit::MmioRead { .. } | Exit::MsrRead { .. });
        self.waiting = reads.then_some(exit);
        Some(exit)
    }

    fn begin_ports(&mut self, run: &mut kvm_run) -> Option<Exit> {
        // SAFETY: the reason, which is `KVM_EXIT_IO`, says that this field is the one in use.
        let io = unsafe { run.__bindgen_anon_1.io };
        self.stage = Stage::Ports(Ports {
            write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
            port: io.port,
            size: io.size,
            offset: io.data_offset,
            count: io.count,
            done: 0,
        });
        self.next(run)
    }

    /// The next port access that the exit stands for, or the read that waits; `None` when KVM has
    /// to go on first.
    pub fn next(&mut self, run: &mut kvm_run) -> Option<Exit> {
        if self.waiting.is_some() {
            return self.waiting;
        }
        let Stage::Ports(ports) = self.stage else {
            return None;
        };
        if ports.done >= ports.count {
            self.stage = Stage::Answered;
            return None;
        }
        let Ports { port, size, .. } = ports;
        if !ports.write {
            let exit = Exit::PioRead { port, size };
            self.waiting = Some(exit);
            return Some(exit);
        }
        let value = number(bytes(run, ports)) as u32;
        self.count_one(ports);
        Some(Exit::PioWrite { port, size, value })
    }

    /// Answers the read that waits.
    ///
    /// # Errors
    /// When none does.
    pub fn answer(&mut self, run: &mut kvm_run, value: u64) -> Result<(), VcpuError> {
        self.waiting.take().ok_or(VcpuError::NothingToComplete)?;
        match self.stage {
            Stage::Ports(ports) => {
                let into = bytes(run, ports);
                let size = into.len();
                into.copy_from_slice(&value.to_le_bytes()[..size]);
                self.count_one(ports);
            }
            Stage::MmioRead => {
                run.__bindgen_anon_1.mmio.data = value.to_le_bytes();
                self.stage = Stage::Answered;
            }
            Stage::Msr { .. } => {
                run.__bindgen_anon_1.msr.data = value;
                self.stage = Stage::Answered;
            }
            Stage::None | Stage::Answered => {}
        }
        Ok(())
    }

    /// Answers the access of a model-specific register with #GP(0).
    ///
    /// # Errors
    /// When there is none.
    pub fn refuse(&mut self, run: &mut kvm_run) -> Result<(), VcpuError> {
        let Stage::Msr { .. } = self.stage else {
            return Err(VcpuError::NothingToComplete);
        };
        self.waiting = None;
        self.stage = Stage::Answered;
        run.__bindgen_anon_1.msr.error = 1;
        Ok(())
    }

    fn count_one(&mut self, ports: Ports) {
        self.stage = Stage::Ports(Ports {
            done: ports.done + 1,
            ..ports
        });
        if ports.done + 1 >= ports.count {
            self.stage = Stage::Answered;
        }
    }
}

/// The bytes of the port access whose turn it is.
fn bytes(run: &mut kvm_run, ports: Ports) -> &mut [u8] {
    let size = usize::from(ports.size).min(8);
    let at = ports.offset as usize + ports.done as usize * size;
    // SAFETY: the kernel put `count` accesses of `size` bytes at `offset` from the start of the
    // shared pages, which are all mapped and which nobody touches while KVM is stopped.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(at), size) }
}

/// Little-endian bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::KVM_EXIT_IO_IN;

    /// Shared pages with room for a string instruction's bytes behind the first.
    #[repr(C)]
    struct Pages {
        run: kvm_run,
        data: [u8; 64],
    }

    fn pages(write: bool, size: u8, count: u32) -> Box<Pages> {
        let mut pages = Box::new(Pages {
            run: kvm_run::default(),
            data: [0; 64],
        });
        pages.run.exit_reason = KVM_EXIT_IO;
        let io = kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_4 {
            direction: if write {
                KVM_EXIT_IO_OUT
            } else {
                KVM_EXIT_IO_IN
            } as u8,
            size,
            port: 0x3f8,
            count,
            data_offset: std::mem::offset_of!(Pages, data) as u64,
        };
        pages.run.__bindgen_anon_1.io = io;
        pages
    }

    /// The pages as the kernel's mapping is seen: by the pointer to their start.
    fn run(pages: &mut Pages) -> &mut kvm_run {
        // SAFETY: the start of the pages, which outlive the reference.
        unsafe { &mut *std::ptr::from_mut(pages).cast::<kvm_run>() }
    }

    #[test]
    fn a_string_write_is_handed_out_access_by_access() {
        let mut pages = pages(true, 2, 3);
        pages.data[..6].copy_from_slice(&[1, 0, 2, 0, 3, 0]);
        let mut access = Access::none();
        let run = run(&mut pages);
        let mut exit = access.begin(run);
        for value in 1..=3 {
            let (port, size) = (0x3f8, 2);
            assert_eq!(exit, Some(Exit::PioWrite { port, size, value }));
            assert!(access.is_inside());
            exit = access.next(run);
        }
        assert_eq!(exit, None);
        assert!(access.is_inside(), "until KVM has gone on");
    }

    #[test]
    fn a_string_read_waits_for_each_answer() {
        let mut pages = pages(false, 4, 2);
        let mut access = Access::none();
        {
            let run = run(&mut pages);
            let exit = access.begin(run);
            let (port, size) = (0x3f8, 4);
            assert_eq!(exit, Some(Exit::PioRead { port, size }));
            assert_eq!(access.next(run), exit, "asked again while it waits");
            assert!(access.refuse(run).is_err(), "no register");
            access.answer(run, 0x1_1122_3344).unwrap();
            assert_eq!(access.next(run), exit);
            access.answer(run, 0x5566_7788).unwrap();
            assert_eq!(access.next(run), None);
            assert!(access.answer(run, 0).is_err());
        }
        let expected = [0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55];
        assert_eq!(pages.data[..8], expected);
    }

    #[test]
    fn a_refused_register_is_an_error_to_the_kernel() {
        let mut run = kvm_run {
            exit_reason: KVM_EXIT_X86_WRMSR,
            ..kvm_run::default()
        };
        run.__bindgen_anon_1.msr.index = 0x1b;
        run.__bindgen_anon_1.msr.data = 77;
        let mut access = Access::none();
        let (index, value) = (0x1b, 77);
        assert_eq!(
            access.begin(&mut run),
            Some(Exit::MsrWrite { index, value })
        );
        assert!(!access.is_waiting());
        access.refuse(&mut run).unwrap();
        // SAFETY: the reason says that it is a register's exit.
        assert_eq!(unsafe { run.__bindgen_anon_1.msr.error }, 1);
        run.exit_reason = kvm_bindings::KVM_EXIT_HLT;
        assert_eq!(Access::none().begin(&mut run), None);
    }
}
