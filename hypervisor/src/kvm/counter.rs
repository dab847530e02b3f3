//! The host's time-stamp counter and how the guest's is kept where it should be.
//!
//! UNSAFETY: an instruction that reads the counter.
#![allow(unsafe_code)]

use std::io;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::clock::Scale;
use super::ioctl;
use crate::arch::x86_64::msr;

/// How often the counter is read to find out how it is scaled; the narrowest reading counts.
const READINGS: usize = 8;

/// The host's counter now.
#[inline]
pub(super) fn host_counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The guest's counter, seen from the host.
#[derive(Debug)]
pub(super) struct Counter {
    scale: Scale,
    /// Whether KVM takes an offset; otherwise the counter itself is written.
    has_offset: bool,
    /// The offset that the guest has.
    applied: Option<u64>,
}

impl Counter {
    /// One that is the host's, by the name of `khz`.
    pub fn plain(khz: u32, has_offset: bool) -> Self {
        Self {
            scale: Scale::none(khz),
            has_offset,
            applied: None,
        }
    }

    /// One that KVM scales from `host_khz` to `guest_khz`.
    ///
    /// # Errors
    /// When KVM does not tell the counter.
    pub fn scaled(vcpu: &VcpuFd, host_khz: u32, guest_khz: u32) -> io::Result<Self> {
        let offset = ioctl::tsc_offset(vcpu);
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..READINGS {
            let before = host_counter();
            let guest = read_guest(vcpu)?;
            let took = host_counter().saturating_sub(before);
            if took < best.0 {
                best = (took, before + took / 2, guest);
            }
        }
        let (_, host, guest) = best;
        let has_offset = offset.is_ok();
        Ok(Self {
            scale: Scale {
                host_khz,
                guest_khz,
                host,
                scaled: guest.wrapping_sub(offset.unwrap_or(0)),
            },
            has_offset,
            applied: None,
        })
    }

    /// How it follows the host's.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Has the guest's counter be the scaled host counter plus `offset`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn apply(&mut self, vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
        if self.applied == Some(offset) {
            return Ok(());
        }
        if self.has_offset {
            ioctl::set_tsc_offset(vcpu, offset)?;
        } else {
            write_guest(vcpu, self.scale.at(host_counter()).wrapping_add(offset))?;
        }
        self.applied = Some(offset);
        Ok(())
    }
}

fn one_register(data: u64) -> io::Result<Msrs> {
    let entry = kvm_msr_entry {
        index: msr::TSC,
        data,
        ..kvm_msr_entry::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
}

fn read_guest(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut registers = one_register(0)?;
    vcpu.get_msrs(&mut registers)?;
    Ok(registers.as_slice()[0].data)
}

fn write_guest(vcpu: &VcpuFd, value: u64) -> io::Result<()> {
    vcpu.set_msrs(&one_register(value)?)?;
    Ok(())
}
