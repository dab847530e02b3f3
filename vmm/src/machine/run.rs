//! The run loop: between two stops of the processor, the board sees the time and the processor
//! its interrupts.

use devices::interrupt_controller::lapic::CpuSignal;
use devices::legacy::acpi_pm::PowerRequest;
use ft::event::Output;
use ft::machine::Stop;
use ft::time::LogicalTime;
use hypervisor::Exit;

use super::dma::Dma;
use super::{BuildError, DEBUG_CONSOLE, SERIAL, VirtualMachine};
use crate::loader;

impl VirtualMachine {
    /// Executes until logical time `until`, or until something else stops the machine.
    pub(super) fn run(&mut self, until: LogicalTime) -> Stop {
        let stopped = self.run_until(until.0).and_then(|stop| {
            if self.vcpu.is_inside_instruction() {
                // Logical time that is no count of instructions may be over inside one.
                self.finish_instruction()?;
                self.settle_board()?;
            }
            Ok(stop)
        });
        match stopped {
            Ok(stop) => stop,
            Err(error) => Stop::Failed(describe(&error)),
        }
    }

    fn run_until(&mut self, until: u64) -> Result<Stop, BuildError> {
        loop {
            if self.powered_off {
                return Ok(Stop::PoweredOff);
            }
            if let Some(text) = self.disks.failure() {
                return Ok(Stop::Failed(text.to_owned()));
            }
            if !self.outputs.is_empty() {
                return Ok(Stop::Output);
            }
            if !self.requests.is_empty() {
                // The host is to begin at once.
                return Ok(Stop::Kicked);
            }
            let time = self.vcpu.logical_time();
            if time >= until {
                return Ok(Stop::Reached);
            }
            self.offer_interrupt();
            if self.vcpu.is_halted() {
                let wake_ns = self.board.next_deadline().map(|deadline| deadline.0);
                return Ok(Stop::Idle { wake_ns });
            }
            let exit = self.run_vcpu(self.next_stop(until))?;
            self.handle(exit)?;
            // Before any return: the board's state at a logical time must not depend on why the
            // processor stopped there.
            self.settle_board()?;
            if exit == Exit::Kicked {
                return Ok(Stop::Kicked);
            }
        }
    }

    /// The board sees the time, and what left it is sorted.
    fn settle_board(&mut self) -> Result<(), BuildError> {
        let now = self.virtual_time();
        self.board.advance(now);
        self.sort_events()
    }

    /// Runs the processor, and tells the board of a task priority that it did not stop for: a
    /// processor of the host's lets a guest raise its own.
    fn run_vcpu(&mut self, until: u64) -> Result<Exit, BuildError> {
        let before = self.vcpu.cr8();
        let exit = self.vcpu.run(until)?;
        let priority = self.vcpu.cr8();
        if priority != before {
            self.board.set_cr8(priority);
        }
        Ok(exit)
    }

    /// Where the processor must stop at the latest: `until`, or the board's next deadline.
    fn next_stop(&self, until: u64) -> u64 {
        match self.board.next_deadline() {
            Some(deadline) => until.min(self.clock.reaches(deadline.0).0),
            None => until,
        }
    }

    fn offer_interrupt(&mut self) {
        let pending = self.board.pending_interrupt().is_some();
        if pending && self.vcpu.can_take_interrupt() {
            let vector = self.board.acknowledge_interrupt();
            self.vcpu.inject_interrupt(vector);
        }
        let more = self.board.pending_interrupt().is_some();
        self.vcpu.request_interrupt_window(more);
    }

    fn handle(&mut self, exit: Exit) -> Result<(), BuildError> {
        let now = self.virtual_time();
        match exit {
            Exit::PioRead { port, size } => {
                let value = self.board.pio_read(port, size, now);
                self.vcpu.complete_read(u64::from(value))?;
            }
            Exit::PioWrite { port, size, value } => {
                self.port_write(port, size, value);
                self.finish_after_events()?;
            }
            Exit::MmioRead { gpa, size } => {
                let value = self.board.mmio_read(gpa, size, now);
                self.vcpu.complete_read(value)?;
            }
            Exit::MmioWrite { gpa, size, value } => {
                self.memory_mapped_write(gpa, size, value);
                self.finish_after_events()?;
            }
            Exit::MsrRead { index } => {
                self.follow_tsc_offset();
                match self.board.msr_read(index, now) {
                    Some(value) => self.vcpu.complete_read(value)?,
                    None => self.vcpu.refuse_msr()?,
                }
            }
            Exit::MsrWrite { index, value } => {
                self.follow_tsc_offset();
                if self.board.msr_write(index, value, now).is_none() {
                    self.vcpu.refuse_msr()?;
                }
                self.finish_after_events()?;
            }
            Exit::Shutdown => self.reset()?,
            Exit::Reached
            | Exit::Kicked
            | Exit::Halted
            | Exit::InterruptWindow
            | Exit::TaskPriority
            | Exit::Debug => {}
        }
        Ok(())
    }

    /// When something leaves the board, it stands at an instruction boundary first: outputs and
    /// saved states are taken only there.
    fn finish_after_events(&mut self) -> Result<(), BuildError> {
        if self.board.has_events() {
            self.finish_instruction()?;
        }
        Ok(())
    }

    /// Lets the instruction that made a device access retire, so that the machine stands at an
    /// instruction boundary again.
    fn finish_instruction(&mut self) -> Result<(), BuildError> {
        let boundary = self.vcpu.logical_time() + 1;
        loop {
            let exit = self.run_vcpu(boundary)?;
            let inside = matches!(
                exit,
                Exit::PioRead { .. }
                    | Exit::PioWrite { .. }
                    | Exit::MmioRead { .. }
                    | Exit::MmioWrite { .. }
            );
            if !inside {
                return Ok(());
            }
            self.handle_inside(exit)?;
        }
    }

    /// A further access of an instruction that is being finished.
    fn handle_inside(&mut self, exit: Exit) -> Result<(), BuildError> {
        let now = self.virtual_time();
        match exit {
            Exit::PioRead { port, size } => {
                let value = self.board.pio_read(port, size, now);
                self.vcpu.complete_read(u64::from(value))?;
            }
            Exit::PioWrite { port, size, value } => {
                self.port_write(port, size, value);
            }
            Exit::MmioRead { gpa, size } => {
                let value = self.board.mmio_read(gpa, size, now);
                self.vcpu.complete_read(value)?;
            }
            Exit::MmioWrite { gpa, size, value } => {
                self.memory_mapped_write(gpa, size, value);
            }
            _ => {}
        }
        Ok(())
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        let now = self.virtual_time();
        let mut dma = Dma::new(&self.memory);
        self.board.pio_write(port, size, value, now, &mut dma);
        dma.finish(self.vcpu.as_mut());
    }

    fn memory_mapped_write(&mut self, gpa: u64, size: u8, value: u64) {
        let now = self.virtual_time();
        let mut dma = Dma::new(&self.memory);
        self.board.mmio_write(gpa, size, value, now, &mut dma);
        dma.finish(self.vcpu.as_mut());
    }

    /// Tells the board when the guest moved its time-stamp counter.
    fn follow_tsc_offset(&mut self) {
        let offset = self.vcpu.tsc_offset();
        if offset != self.tsc_offset {
            self.tsc_offset = offset;
            let now = self.virtual_time();
            self.board.set_tsc_offset(offset, now);
        }
    }

    pub(super) fn sort_events(&mut self) -> Result<(), BuildError> {
        if !self.board.has_events() {
            return Ok(());
        }
        let events = self.board.take_events();
        for (device, payload) in [(SERIAL, events.serial), (DEBUG_CONSOLE, events.debug)] {
            if !payload.is_empty() {
                self.outputs.push(Output { device, payload });
            }
        }
        self.sort_virtio(events.virtio);
        for signal in events.signals {
            // With one processor, INIT and start-up messages to itself are what a guest sends
            // only by mistake; SMI has no handler. NMI is the one that is delivered.
            if signal == CpuSignal::Nmi {
                self.vcpu.inject_nmi();
            }
        }
        match events.power {
            Some(PowerRequest::PowerOff) => self.powered_off = true,
            Some(PowerRequest::Reset) => self.reset()?,
            None => {}
        }
        Ok(())
    }

    /// The machine starts again from its payload. Logical time and virtual time go on.
    pub(super) fn reset(&mut self) -> Result<(), BuildError> {
        let time = self.vcpu.logical_time();
        let tsc = self.vcpu.save().tsc;
        let now = self.virtual_time();
        self.board.reset(now);
        self.powered_off = false;
        self.resets += 1;
        self.tsc_offset = 0;
        self.clear_memory();
        let payload = self
            .boot
            .payload()
            .ok_or(BuildError::BootFiles("are not there"))?;
        let mut state = loader::load(&self.memory, &payload, self.platform())?;
        state.logical_time = time;
        state.tsc = tsc;
        self.vcpu.restore(&state)?;
        Ok(())
    }
}

/// An error and its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
