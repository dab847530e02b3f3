//! Requests to KVM for which `kvm-ioctls` has no call on x86: an interrupt's vector, the counter's
//! offset, the clearing of a part of the dirty log, and the emptying of the dirty rings.
//!
//! UNSAFETY: system calls with pointers to structures of the layout that the request's number
//! tells of.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_interrupt,
};
use kvm_ioctls::{VcpuFd, VmFd};

/// A request that hands a `T` to the kernel, as `_IOW` of `asm-generic/ioctl.h` numbers it.
const fn write_request<T>(number: u32) -> libc::Ioctl {
    request::<T>(1, number)
}

const fn request<T>(direction: u32, number: u32) -> libc::Ioctl {
    let size = size_of::<T>() as u32;
    (direction << 30 | size << 16 | KVMIO << 8 | number) as libc::Ioctl
}

const KVM_INTERRUPT: libc::Ioctl = write_request::<kvm_interrupt>(0x86);
const KVM_CLEAR_DIRTY_LOG: libc::Ioctl = request::<kvm_clear_dirty_log>(3, 0xc0);
const KVM_RESET_DIRTY_RINGS: libc::Ioctl = (KVMIO << 8 | 0xc7) as libc::Ioctl;
const KVM_SET_DEVICE_ATTR: libc::Ioctl = write_request::<kvm_device_attr>(0xe1);
const KVM_GET_DEVICE_ATTR: libc::Ioctl = write_request::<kvm_device_attr>(0xe2);

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Queues the interrupt with this vector, whether the guest can take it or not. KVM API 4.16.
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = kvm_interrupt {
        irq: u32::from(vector),
    };
    // SAFETY: the descriptor is a vCPU's; the kernel reads one `kvm_interrupt` and keeps nothing.
    outcome(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const argument) })
}

fn offset_attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: value as u64,
    }
}

/// What KVM adds to the (scaled) host counter for the guest's. KVM API, vCPU attribute 4.1.
pub(super) fn tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut value = 0u64;
    let attribute = offset_attribute(&raw mut value);
    // SAFETY: the descriptor is a vCPU's; the kernel reads the attribute and writes the eight bytes
    // at its address, which outlive the call.
    outcome(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_DEVICE_ATTR, &raw const attribute) })?;
    Ok(value)
}

/// Sets what KVM adds to the (scaled) host counter for the guest's.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, mut value: u64) -> io::Result<()> {
    let attribute = offset_attribute(&raw mut value);
    // SAFETY: as in `tsc_offset`, and the kernel only reads the eight bytes.
    outcome(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) })
}

/// Clears the dirty log of `pages` pages of a slot from `first` on, where the bitmap has a one,
/// and protects these pages again. `first` and, but at the slot's end, `pages` are multiples of
/// 64. KVM API 4.117.
pub(super) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first: u64,
    pages: u32,
    bitmap: &mut [u64],
) -> io::Result<()> {
    assert!(
        bitmap.len() as u64 * 64 >= u64::from(pages),
        "a bit for each page"
    );
    let argument = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the descriptor is a VM's; the kernel reads the structure and as many bits at its
    // bitmap as it has pages, which the assertion holds there.
    outcome(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &raw const argument) })
}

/// Gives KVM the entries of the vCPUs' dirty rings back that were harvested, and tells how many. It
/// protects their pages again. From Linux 6.17 on it stops early when a signal waits for the
/// thread, and then forgets to protect the pages of the last entries that it took, up to 64: see
/// [`super::wake::Undisturbed`]. KVM API 8.29.
pub(super) fn reset_dirty_rings(vm: &VmFd) -> io::Result<u32> {
    // SAFETY: the descriptor is a VM's; the request has no argument.
    let given = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS, 0) };
    u32::try_from(given).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernels_header() {
        assert_eq!(KVM_INTERRUPT as u32, 0x4004_ae86);
        assert_eq!(KVM_SET_DEVICE_ATTR as u32, 0x4018_aee1);
        assert_eq!(KVM_GET_DEVICE_ATTR as u32, 0x4018_aee2);
        assert_eq!(KVM_CLEAR_DIRTY_LOG as u32, 0xc018_aec0);
        assert_eq!(KVM_RESET_DIRTY_RINGS as u32, 0xaec7);
    }
}
