//! A migration to another process on this host: the memory stays where it is, and its descriptor
//! goes instead of its pages.

use std::os::fd::AsFd;
use std::time::Instant;

use ft::precopy::Precopy;
use ft::time::PageNumber;

use super::{SendError, Sending, failed};
use crate::migration::channel::Channel;
use crate::migration::layout::Layout;
use crate::migration::outlet::Outlet;
use crate::migration::wire::{Command, MEMORY_SLOT, Request};
use crate::vm::departure::Outline;

impl Sending<'_> {
    /// MemoryFd.
    pub(super) fn hand_over(&self, main: &mut Channel, outline: &Outline) -> Result<(), SendError> {
        let memory = outline.memory.as_ref().ok_or(SendError::NotShared)?;
        let slot = MEMORY_SLOT.to_le_bytes();
        let request = Request::with(Command::MemoryFd, slot.len() as u64);
        let sent = main
            .send(&request, &[])
            .and_then(|()| main.write_with(&slot, memory.as_fd()))
            .and_then(|()| main.answer(Command::MemoryFd));
        sent.map(drop).map_err(failed("MemoryFd"))
    }

    /// The boot files, which no guest changes; then the guest stands still. Nothing is left.
    pub(super) fn copy_boot_files(
        &self,
        outlet: &mut Outlet,
        mut pages: Vec<PageNumber>,
        layout: &Layout,
    ) -> Result<(Precopy, Instant), SendError> {
        pages.retain(|page| page.0 >= layout.memory_pages());
        let count = pages.len();
        self.progress.round(0, count);
        let mut precopy = Precopy::begin(pages, count, self.now());
        self.round(outlet, &mut precopy)?;
        let stopped = self.stop()?;
        Ok((precopy, stopped))
    }
}
