//! What a migration or a snapshot says of its VM before anything is made of it.
//!
//! ```text
//!   { "vm_config": the VM as its operator described it,
//!     "common_cpuid": what the guest's CPUID tells,
//!     "memory_manager_data": where its memory is,
//!     "format_version": 1, "machine": what the machine consists of }
//! ```
//!
//! The first three are Cloud Hypervisor's; the destination needs the others to make the very same
//! machine, and refuses a description without them.

use api_client::types::VmConfig;
use devices::virtio::any::VirtioConfig;
use devices::virtio::block::SECTOR_SIZE;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::processor::{self, CpuidEntry};
use super::wire::MemoryRange;
use crate::machine::{MachineConfig, MachineConfigError};

/// Version of what is beside Cloud Hypervisor's own.
pub const FORMAT_VERSION: u32 = 1;

/// What is said of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// As the operator described it.
    pub vm_config: VmConfig,
    /// What the guest's CPUID tells.
    #[serde(default)]
    pub common_cpuid: Vec<CpuidEntry>,
    /// Where its memory is.
    #[serde(default)]
    pub memory_manager_data: MemoryData,
    /// Version of the rest; none from a peer that is not of our kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format_version: Option<u32>,
    /// What the machine consists of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineConfig>,
}

/// Where the memory of a VM is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryData {
    /// Its ranges.
    #[serde(default)]
    pub memory_ranges: RangeTable,
    /// The same, as mappings of the host.
    #[serde(default)]
    pub guest_ram_mappings: Vec<RamMapping>,
    /// Bytes at boot.
    #[serde(default)]
    pub boot_ram: u64,
    /// Bytes now.
    #[serde(default)]
    pub current_ram: u64,
}

/// Ranges of guest physical memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeTable {
    /// The ranges, ascending.
    #[serde(default)]
    pub data: Vec<RamRange>,
}

/// A range of guest physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamRange {
    /// First address.
    pub gpa: u64,
    /// Bytes.
    pub length: u64,
}

/// A mapping of guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamMapping {
    /// Number of the mapping.
    pub slot: u32,
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Zone of memory that it belongs to.
    pub zone_id: String,
    /// Whether it can grow and shrink.
    pub virtio_mem: bool,
    /// Where it begins in the file behind it.
    pub file_offset: u64,
}

/// Why a description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It does not read.
    #[error("the configuration is malformed")]
    Malformed(#[from] serde_json::Error),
    /// It says nothing of the machine.
    #[error("the sender does not describe its machine: it is not Cloud Hypervisor FT")]
    Foreign,
    /// It is of another version.
    #[error("the configuration has version {0}, this program reads {FORMAT_VERSION}")]
    Version(u32),
    /// There can be no such machine.
    #[error(transparent)]
    Machine(#[from] MachineConfigError),
    /// The guest uses what this host's processor does not have.
    #[error("this host's processor has not what the guest was promised: {0}")]
    Processor(String),
    /// The devices do not fit the configuration.
    #[error("the machine's devices are not those of the VM's configuration")]
    Devices,
    /// A disk has another size than the machine's.
    #[error("disk {id}: the image has {found} bytes here, the guest's disk {expected}")]
    DiskSize {
        /// The device's name.
        id: String,
        /// Bytes that the guest knows.
        expected: u64,
        /// Bytes of the image.
        found: u64,
    },
}

impl Description {
    /// What there is to say of a machine and its VM.
    pub fn new(vm_config: VmConfig, machine: MachineConfig) -> Self {
        Self {
            common_cpuid: processor::table(machine.tsc_khz),
            memory_manager_data: MemoryData::of(&machine),
            format_version: Some(FORMAT_VERSION),
            machine: Some(machine),
            vm_config,
        }
    }

    /// Reads a description: the machine, and the VM.
    ///
    /// # Errors
    /// When it does not read, is not of our kind and version, or asks for another processor.
    pub fn read(bytes: &[u8]) -> Result<(MachineConfig, VmConfig), DescriptionError> {
        let described: Self = serde_json::from_slice(bytes)?;
        described.accept()
    }

    /// The machine and the VM, if they can be had by this program.
    ///
    /// # Errors
    /// When it is not of our kind and version, or asks for another processor.
    pub fn accept(self) -> Result<(MachineConfig, VmConfig), DescriptionError> {
        let version = self.format_version.ok_or(DescriptionError::Foreign)?;
        if version != FORMAT_VERSION {
            return Err(DescriptionError::Version(version));
        }
        let machine = self.machine.ok_or(DescriptionError::Foreign)?;
        machine.check()?;
        let missing = processor::missing(&self.common_cpuid, machine.tsc_khz);
        if !missing.is_empty() {
            return Err(DescriptionError::Processor(missing.join(", ")));
        }
        Ok((machine, self.vm_config))
    }
}

impl MemoryData {
    fn of(machine: &MachineConfig) -> Self {
        let memory = Layout::of(&MachineConfig {
            boot_pages: 0,
            ..machine.clone()
        });
        let regions = memory.regions();
        let range = |region: &MemoryRange| RamRange {
            gpa: region.address,
            length: region.length,
        };
        let mut file_offset = 0;
        let mapping = |(slot, region): (usize, &MemoryRange)| {
            let start = file_offset;
            file_offset += region.length;
            RamMapping {
                slot: slot as u32,
                gpa: region.address,
                size: region.length,
                zone_id: "mem0".to_owned(),
                virtio_mem: false,
                file_offset: start,
            }
        };
        Self {
            memory_ranges: RangeTable {
                data: regions.iter().map(range).collect(),
            },
            guest_ram_mappings: regions.iter().enumerate().map(mapping).collect(),
            boot_ram: machine.memory_size,
            current_ram: machine.memory_size,
        }
    }
}

/// Bytes that the guest knows of a disk, for each device that is one.
pub fn disk_bytes(machine: &MachineConfig) -> impl Iterator<Item = (usize, u64)> {
    let devices = machine.virtio.iter().enumerate();
    devices.filter_map(|(index, spec)| match spec.config {
        VirtioConfig::Block(block) => Some((index, block.sectors.saturating_mul(SECTOR_SIZE))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypervisor::{HIGH_START, LOW_LIMIT};
    use serde_json::{Value, json};

    fn machine() -> MachineConfig {
        MachineConfig {
            memory_size: LOW_LIMIT + 8192,
            serial: true,
            start_seconds: 7,
            boot_pages: 3,
            tsc_khz: 1_000_000,
            virtio: Vec::new(),
        }
    }

    fn described() -> Value {
        serde_json::to_value(Description::new(VmConfig::default(), machine())).unwrap()
    }

    fn read(value: &Value) -> Result<(MachineConfig, VmConfig), String> {
        let text = serde_json::to_vec(value).unwrap();
        Description::read(&text).map_err(|error| crate::control::causes(&error).join(": "))
    }

    #[test]
    fn a_description_reads_as_it_was_written() {
        let value = described();
        assert_eq!(read(&value), Ok((machine(), VmConfig::default())));
        let memory = &value["memory_manager_data"];
        let ranges = json!([
            {"gpa": 0, "length": LOW_LIMIT},
            {"gpa": HIGH_START, "length": 8192},
        ]);
        assert_eq!(memory["memory_ranges"]["data"], ranges);
        assert_eq!(memory["guest_ram_mappings"][1]["file_offset"], LOW_LIMIT);
        assert_eq!(memory["current_ram"], LOW_LIMIT + 8192);
    }

    #[test]
    fn what_is_not_ours_or_cannot_be_had_is_named() {
        type Change = Box<dyn Fn(&mut Value)>;
        let remove = |name: &'static str| -> Change {
            Box::new(move |value| drop(value.as_object_mut().unwrap().remove(name)))
        };
        let set = |path: &'static str, new: Value| -> Change {
            Box::new(move |value| *value.pointer_mut(path).unwrap() = new.clone())
        };
        let table: [(Change, &str); 7] = [
            (remove("format_version"), "not Cloud Hypervisor FT"),
            (remove("machine"), "not Cloud Hypervisor FT"),
            (remove("vm_config"), "missing field `vm_config`"),
            (set("/format_version", json!(9)), "has version 9"),
            (set("/machine/memory_size", json!(5)), "5 bytes of memory"),
            (set("/machine/boot_pages", json!(u64::MAX)), "boot files"),
            (set("/common_cpuid/1/ecx", json!(u32::MAX)), "promised: "),
        ];
        for (change, text) in table {
            let mut value = described();
            change(&mut value);
            let error = read(&value).unwrap_err();
            assert!(error.contains(text), "{text}: {error}");
        }
        assert!(Description::read(b"{").is_err());
    }
}
