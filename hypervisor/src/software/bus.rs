//! Accesses that leave the processor: ports, devices in memory space, interrupt-controller MSRs.
//!
//! An instruction that needs one stops before it has changed anything; the caller answers, and
//! the instruction starts again, finding the answers of its earlier accesses in order. So an
//! instruction may make several accesses (a read-modify-write, a device-to-device move, one that
//! crosses a page) and still each is made exactly once.

use super::cpu::Cpu;
use super::op::Stop;
use crate::exit::Exit;

/// Accesses one instruction can make before it retires or commits an iteration. XSAVE makes the
/// most: it reads and writes 520 bytes, eight at a time, and may cross a page.
const MOST_ACCESSES: usize = 160;

/// The accesses of the instruction under way.
#[derive(Debug, Default)]
pub struct Bus {
    answers: Vec<u64>,
    next: usize,
    waiting: Option<Exit>,
    refused: bool,
}

impl Bus {
    /// The access that waits for its answer.
    pub fn waiting(&self) -> Option<Exit> {
        self.waiting
    }

    /// Answers the waiting access; false when none waits.
    #[must_use]
    pub fn answer(&mut self, value: u64) -> bool {
        let waits = self.waiting.take().is_some();
        if waits {
            self.answers.push(value);
        }
        waits
    }

    /// Answers a waiting MSR access with a refusal; false when none waits.
    #[must_use]
    pub fn refuse(&mut self) -> bool {
        let waits = matches!(
            self.waiting.take(),
            Some(Exit::MsrRead { .. } | Exit::MsrWrite { .. })
        );
        self.refused |= waits;
        waits
    }

    /// Whether the instruction under way has answers, so that it must run alone.
    #[inline(always)]
    pub fn in_progress(&self) -> bool {
        !self.answers.is_empty() || self.refused
    }

    /// The instruction starts (again).
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The instruction retired, faulted or committed an iteration.
    pub fn clear(&mut self) {
        self.answers.clear();
        self.next = 0;
        self.refused = false;
    }

    /// Forgets everything, a waiting access too: another state was loaded.
    pub fn abandon(&mut self) {
        self.clear();
        self.waiting = None;
    }

    fn access(&mut self, exit: Exit) -> Result<u64, Stop> {
        if let Some(&value) = self.answers.get(self.next) {
            self.next += 1;
            return Ok(value);
        }
        assert!(
            self.answers.len() < MOST_ACCESSES,
            "an instruction makes few accesses"
        );
        self.waiting = Some(exit);
        Err(Stop::Bus)
    }
}

impl Cpu {
    /// Reads from a device in memory space.
    ///
    /// # Errors
    /// [`Stop::Bus`] until the access is answered; likewise for all below.
    pub fn bus_read(&mut self, gpa: u64, size: u8) -> Result<u64, Stop> {
        self.bus.access(Exit::MmioRead { gpa, size })
    }

    /// Writes to a device in memory space.
    pub fn bus_write(&mut self, gpa: u64, size: u8, value: u64) -> Result<(), Stop> {
        self.bus
            .access(Exit::MmioWrite { gpa, size, value })
            .map(|_| ())
    }

    /// Reads a port.
    pub fn port_read(&mut self, port: u16, size: u8) -> Result<u32, Stop> {
        self.bus
            .access(Exit::PioRead { port, size })
            .map(|value| value as u32)
    }

    /// Writes a port.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) -> Result<(), Stop> {
        self.bus
            .access(Exit::PioWrite { port, size, value })
            .map(|_| ())
    }

    /// Reads an MSR of the interrupt controller; #GP when it is refused.
    pub fn outer_msr_read(&mut self, index: u32) -> Result<u64, Stop> {
        if self.bus.refused {
            return Err(self.general_protection(0));
        }
        self.bus.access(Exit::MsrRead { index })
    }

    /// Writes an MSR of the interrupt controller; #GP when it is refused.
    pub fn outer_msr_write(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        if self.bus.refused {
            return Err(self.general_protection(0));
        }
        self.bus.access(Exit::MsrWrite { index, value }).map(|_| ())
    }
}
