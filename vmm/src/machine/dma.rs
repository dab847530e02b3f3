//! The guest's memory as devices see it. What they write is noted, so that the processor decodes
//! instructions there anew.

use std::sync::Arc;

use devices::dma::{GuestRam, RamError};
use hypervisor::{GuestAddress, GuestMemory, Vcpu};

/// Guest memory for one access of the board.
pub struct Dma {
    memory: Arc<GuestMemory>,
    written: Vec<(u64, u64)>,
}

impl Dma {
    /// A view of `memory` through which nothing was written yet.
    pub fn new(memory: &Arc<GuestMemory>) -> Self {
        Self {
            memory: memory.clone(),
            written: Vec::new(),
        }
    }

    /// Tells the processor what was written.
    pub fn finish(self, vcpu: &mut dyn Vcpu) {
        for (gpa, len) in self.written {
            vcpu.memory_written(gpa, len);
        }
    }
}

impl GuestRam for Dma {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), RamError> {
        let len = into.len() as u64;
        if len == 0 {
            return Ok(());
        }
        let read = self.memory.read(GuestAddress(gpa), into);
        read.map_err(|_| RamError { gpa, len })
    }

    fn append(&self, gpa: u64, len: usize, into: &mut Vec<u8>) -> Result<(), RamError> {
        if len == 0 {
            return Ok(());
        }
        let read = self.memory.append(GuestAddress(gpa), len, into);
        let len = len as u64;
        read.map_err(|_| RamError { gpa, len })
    }

    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamError> {
        let len = from.len() as u64;
        if len == 0 {
            return Ok(());
        }
        let written = self.memory.write(GuestAddress(gpa), from);
        written.map_err(|_| RamError { gpa, len })?;
        self.written.push((gpa, len));
        Ok(())
    }

    fn is_ram(&self, gpa: u64, len: u64) -> bool {
        self.memory.is_memory(GuestAddress(gpa), len)
    }
}
