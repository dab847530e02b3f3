//! What the KVM of this host can do, and the VMs that are made with it.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CAP_SYNC_REGS, KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_EVENTS, kvm_cpuid_entry2,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use super::counter::Counter;
use super::dirty_ring::DirtyTracking;
use super::vcpu::{KvmVcpu, Traits};
use super::vm::KvmVm;
use super::{NAME, ioctl, wake};
use crate::capabilities::Capabilities;
use crate::cpu_model::{CpuidLeaf, DEFAULT_TSC_KHZ, missing, table};
use crate::hypervisor_trait::{Hypervisor, HypervisorError, VmSpec};
use crate::memory::GuestMemory;
use crate::software::require_one_processor;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// The version of the interface, which has not changed since there is one.
const API_VERSION: i32 = 12;
/// Hosts of one kind measure their counters' frequencies apart by this part at most; nobody
/// notices. It is what KVM allows, too: 250 in a million.
const TOLERATED_PART: u32 = 4_000;
/// What this backend cannot do without, by the names of the interface.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
];

/// Makes virtual machines that run on the host's processor.
#[derive(Debug)]
pub struct KvmHypervisor {
    kvm: Kvm,
    supported: Vec<CpuidLeaf>,
    /// Frequency of the host's counter, in kHz.
    host_khz: u32,
    /// Whether a guest's counter can run at another frequency.
    scales: bool,
    /// How guests' writes are found out.
    tracking: DirtyTracking,
    traits: Traits,
}

pub(super) fn failed(request: &'static str) -> impl FnOnce(io::Error) -> HypervisorError {
    move |source| HypervisorError::Host {
        backend: NAME,
        request,
        source,
    }
}

pub(super) fn unavailable(reason: String) -> HypervisorError {
    HypervisorError::Unavailable {
        backend: NAME,
        reason,
    }
}

/// What a KVM offers that has all that the backend needs.
pub(super) struct Offer {
    supported: Vec<CpuidLeaf>,
    /// Frequency of the host's counter, in kHz.
    pub(super) host_khz: u32,
    /// Whether a guest's counter can run at another frequency.
    pub(super) scales: bool,
}

impl Offer {
    /// What `kvm` offers.
    ///
    /// # Errors
    /// When something is missing.
    pub(super) fn of(kvm: &Kvm) -> Result<Self, HypervisorError> {
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(unavailable(format!(
                "/dev/kvm has version {version} of the interface, {API_VERSION} is needed"
            )));
        }
        let absent = NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap));
        let absent: Vec<&str> = absent.map(|(_, name)| *name).collect();
        if !absent.is_empty() {
            return Err(unavailable(format!("it lacks {}", absent.join(", "))));
        }
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| failed("tell what processor it offers")(error.into()))?;
        let supported: Vec<CpuidLeaf> = supported.as_slice().iter().map(leaf_of).collect();
        let missing = missing(&table(DEFAULT_TSC_KHZ), &supported);
        if !missing.is_empty() {
            return Err(HypervisorError::Features { missing });
        }
        Ok(Self {
            supported,
            host_khz: host_frequency(kvm)?,
            scales: kvm.check_extension(Cap::TscControl),
        })
    }
}

impl KvmHypervisor {
    /// Opens the host's KVM and looks whether it has what a guest of the common processor model
    /// needs. Whether it runs a stock kernel at a useful speed is another question.
    ///
    /// # Errors
    /// When there is no KVM, this process may not use it, or something is missing.
    pub fn open() -> Result<Self, HypervisorError> {
        let kvm = Kvm::new().map_err(|error| {
            let error = io::Error::from(error);
            unavailable(format!("/dev/kvm cannot be opened: {error}"))
        })?;
        wake::install_handler().map_err(failed("install the handler of its signal"))?;
        let Offer {
            supported,
            host_khz,
            scales,
        } = Offer::of(&kvm)?;
        let tracking = DirtyTracking::offered(&kvm);
        let shown = kvm.check_extension_raw(u64::from(KVM_CAP_SYNC_REGS));
        let traits = Traits {
            switch_ns: 0,
            shows_events: shown & KVM_SYNC_X86_EVENTS as i32 != 0,
        };
        let mut opened = Self {
            kvm,
            supported,
            host_khz,
            scales,
            tracking,
            traits,
        };
        let tried = match opened.try_out() {
            Err(error) if opened.tracking != DirtyTracking::Log => {
                log::warn!("KVM's dirty log is used, not its dirty ring: {error}");
                opened.tracking = DirtyTracking::Log;
                opened.try_out()
            }
            tried => tried,
        };
        opened.traits = tried?;
        Ok(opened)
    }

    /// The same, but guests' writes are found out in this way.
    #[must_use]
    pub fn tracking_by(self, tracking: DirtyTracking) -> Self {
        Self { tracking, ..self }
    }

    /// How guests' writes are found out: by the ring, where KVM has one that works.
    pub fn dirty_tracking(&self) -> DirtyTracking {
        self.tracking
    }

    /// Frequency of the host's counter, in kHz.
    pub(super) fn host_khz(&self) -> u32 {
        self.host_khz
    }

    /// What CPUID could answer at most, as KVM tells.
    pub fn supported_cpuid(&self) -> &[CpuidLeaf] {
        &self.supported
    }

    /// Makes a VM and its processor.
    pub(super) fn create_pair(
        &self,
        memory: Arc<GuestMemory>,
        tsc_khz: u32,
    ) -> Result<(Arc<KvmVm>, KvmVcpu), HypervisorError> {
        let vm = KvmVm::new(&self.kvm, memory, self.tracking).map_err(failed("make a VM"))?;
        let made = vm.fd().create_vcpu(0);
        let fd = made.map_err(|error| failed("make a processor")(error.into()))?;
        let entries: Vec<_> = table(tsc_khz).iter().map(entry_of).collect();
        let table = CpuId::from_entries(&entries)
            .map_err(|_| unavailable("its CPUID table has no room".to_owned()))?;
        fd.set_cpuid2(&table)
            .map_err(|error| failed("take the processor's CPUID table")(error.into()))?;
        let counter = self.set_frequency(&fd, tsc_khz)?;
        let vm = Arc::new(vm);
        let vcpu = KvmVcpu::new(fd, vm.clone(), counter, self.traits);
        let vcpu = vcpu.map_err(|source| HypervisorError::Vcpu {
            backend: NAME,
            source: Box::new(source),
        })?;
        Ok((vm, vcpu))
    }

    /// Brings the counter of `vcpu` to the machine's frequency.
    fn set_frequency(&self, vcpu: &VcpuFd, wanted: u32) -> Result<Counter, HypervisorError> {
        let failed_tsc = failed("set the frequency of the time-stamp counter");
        let near = wanted.abs_diff(self.host_khz) <= self.host_khz / TOLERATED_PART;
        if !near && !self.scales {
            return Err(HypervisorError::TscFrequency {
                backend: NAME,
                offered: self.host_khz,
                wanted,
            });
        }
        if near {
            // Within the tolerance the counter is the host's, by whatever name.
            return Ok(Counter::plain(wanted, ioctl::tsc_offset(vcpu).is_ok()));
        }
        vcpu.set_tsc_khz(wanted)
            .map_err(|error| failed_tsc(error.into()))?;
        Counter::scaled(vcpu, self.host_khz, wanted).map_err(failed("tell the time-stamp counter"))
    }
}

/// Frequency of the host's counter in kHz, which only a vCPU tells everywhere.
fn host_frequency(kvm: &Kvm) -> Result<u32, HypervisorError> {
    let made = kvm.create_vm().and_then(|vm| vm.create_vcpu(0));
    let vcpu = made.map_err(|error| failed("make a VM")(error.into()))?;
    match vcpu.get_tsc_khz() {
        Ok(khz) if khz > 0 => Ok(khz),
        _ => Err(unavailable(
            "the host's time-stamp counter has no constant frequency".to_owned(),
        )),
    }
}

fn leaf_of(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    let indexed = entry.flags & kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
    CpuidLeaf {
        leaf: entry.function,
        subleaf: indexed.then_some(entry.index),
        answer: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    }
}

fn entry_of(leaf: &CpuidLeaf) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = leaf.answer;
    kvm_cpuid_entry2 {
        function: leaf.leaf,
        index: leaf.subleaf.unwrap_or(0),
        flags: leaf
            .subleaf
            .map_or(0, |_| kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
        eax,
        ebx,
        ecx,
        edx,
        padding: [0; 3],
    }
}

impl Hypervisor for KvmHypervisor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities::kvm()
    }

    fn tsc_khz(&self) -> u32 {
        if self.scales {
            DEFAULT_TSC_KHZ
        } else {
            self.host_khz
        }
    }

    fn create_vm(
        &self,
        memory: Arc<GuestMemory>,
        spec: VmSpec,
    ) -> Result<Box<dyn Vm>, HypervisorError> {
        require_one_processor(NAME, spec.vcpus)?;
        let (vm, vcpu) = self.create_pair(memory, spec.tsc_khz)?;
        Ok(Box::new(OneVcpu {
            vm,
            vcpus: vec![Box::new(vcpu)],
        }))
    }
}

/// A VM and its processor, until somebody takes it.
struct OneVcpu {
    vm: Arc<KvmVm>,
    vcpus: Vec<Box<dyn Vcpu>>,
}

impl Vm for OneVcpu {
    fn memory(&self) -> &Arc<GuestMemory> {
        self.vm.memory()
    }

    fn take_vcpus(&mut self) -> Vec<Box<dyn Vcpu>> {
        std::mem::take(&mut self.vcpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_table_survives_kvms_form() {
        let leaves = table(DEFAULT_TSC_KHZ);
        let back: Vec<_> = leaves.iter().map(|leaf| leaf_of(&entry_of(leaf))).collect();
        assert_eq!(back, leaves);
        assert!(leaves.len() < KVM_MAX_CPUID_ENTRIES);
    }
}
